use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::Request;

use crate::body::Body;

/// Receives a copy of a request's body, so that the application can send the request to another
/// proxy if this one cannot serve it. The application adds it to the request's extensions.
///
/// The proxy fills it if it reads the whole body before sending it: within
/// [`body_timeout`](crate::proxy::ProxyBuilder::body_timeout) and
/// [`body_min_rate`](crate::proxy::ProxyBuilder::body_min_rate), up to
/// [`replay_limit`](crate::proxy::ProxyBuilder::replay_limit), and within the
/// [budget](crate::proxy::ProxyBuilder::buffers). The copy shares the bytes. A body that streams is
/// not copied.
///
/// ```
/// use kylin_lb::proxy::BodyCopy;
///
/// let copy = BodyCopy::new();
/// let mut request = http::Request::post("/kylin/api/query").body(())?;
/// request.extensions_mut().insert(copy.clone());
/// // `Proxy::forward` takes the request, and may return an error of its own.
/// assert!(copy.body().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct BodyCopy(Arc<OnceLock<Bytes>>);

impl BodyCopy {
    /// Returns an empty `BodyCopy`. Clones share the copy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the body; `None` if the proxy did not read it, or not all of it.
    pub fn body(&self) -> Option<Body> {
        self.0.get().map(|bytes| bytes.clone().into())
    }
}

impl fmt::Debug for BodyCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyCopy").field("length", &self.0.get().map(Bytes::len)).finish()
    }
}

/// Fills the [`BodyCopy`] of a request whose body was read.
pub(in crate::proxy) fn copy_body(request: &Request<Body>) {
    if let Some(copy) = request.extensions().get::<BodyCopy>()
        && let Some(bytes) = request.body().whole()
    {
        _ = copy.0.set(bytes.clone());
    }
}
