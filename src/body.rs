//! The one body type of requests and answers.
//!
//! A body is empty, a single buffer, or a stream. hyper's own body is a variant of its own, so that the common path from
//! a node's socket to a client's socket neither boxes nor copies. What must happen when a body is over (a connection goes
//! back to its pool, an endpoint's count in flight goes down) rides inside the body and happens exactly once: at its end,
//! at its failure, or when it is dropped.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use crate::endpoint::Lease;

/// Any error, boxed: what a streamed body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or an answer's body: empty, one buffer, or a stream.
///
/// ```
/// use kylin_lb::Body;
///
/// let body = Body::from("{\"sql\":\"select 1\"}");
/// assert_eq!(http_body::Body::size_hint(&body).exact(), Some(18));
/// ```
#[must_use]
pub struct Body {
    kind: Kind,
    on_end: Option<Arc<dyn OnEnd>>,
    lease: Option<Lease>,
}

enum Kind {
    Empty,
    Full(Bytes),
    #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
    Incoming(hyper::body::Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

/// What is told, once, that a body is over.
pub(crate) trait OnEnd: Send + Sync {
    /// `whole` is true when the last byte was read, false when the body failed or was dropped before that.
    fn on_end(self: Arc<Self>, whole: bool);
}

impl Body {
    /// A body of no bytes.
    pub const fn empty() -> Self {
        Body { kind: Kind::Empty, on_end: None, lease: None }
    }

    /// Wraps any body. A [`Body`] or hyper's `Incoming` passes as it is; anything else is boxed.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = match downcast::<Body, B>(body) {
            Ok(body) => return body,
            Err(body) => body,
        };
        #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
        let body = match downcast::<hyper::body::Incoming, B>(body) {
            Ok(incoming) => return incoming.into(),
            Err(body) => body,
        };
        if body.is_end_stream() {
            return Body::empty();
        }
        Kind::Boxed(body.map_err(Into::into).boxed_unsync()).into()
    }

    /// True when the whole body is known and empty.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            _ => self.is_end_stream(),
        }
    }

    /// A second body with the same bytes, when the bytes are all here.
    pub(crate) fn replay(&self) -> Option<Body> {
        match &self.kind {
            Kind::Empty => Some(Body::empty()),
            Kind::Full(bytes) => Some(bytes.clone().into()),
            _ => None,
        }
    }

    /// Has `hook` told when this body is over. There is one hook: an earlier one is told at once.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only transports hook into a body's end"))]
    pub(crate) fn on_end(mut self, hook: Arc<dyn OnEnd>) -> Self {
        self.on_end = Some(hook);
        if self.is_end_stream() {
            self.finish(true);
        }
        self
    }

    /// Keeps `lease` until this body is over.
    pub(crate) fn hold(mut self, lease: Lease) -> Self {
        self.lease = (!self.is_end_stream()).then_some(lease);
        self
    }

    fn finish(&mut self, whole: bool) {
        if let Some(hook) = self.on_end.take() {
            hook.on_end(whole);
        }
        self.lease = None;
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match &mut this.kind {
            Kind::Empty => None,
            Kind::Full(bytes) => match std::mem::take(bytes) {
                bytes if bytes.is_empty() => None,
                bytes => Some(Ok(Frame::data(bytes))),
            },
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Kind::Boxed(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        match &frame {
            None => this.finish(true),
            Some(Err(_)) => this.finish(false),
            Some(Ok(_)) if this.is_end_stream() => this.finish(true),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Body { kind, on_end: None, lease: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Body::empty() } else { Kind::Full(bytes).into() }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
impl From<hyper::body::Incoming> for Body {
    fn from(incoming: hyper::body::Incoming) -> Self {
        if incoming.is_end_stream() { Body::empty() } else { Kind::Incoming(incoming).into() }
    }
}

impl fmt::Debug for Body {
    /// Shows the kind and size, never the content: a body may hold SQL or a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            #[cfg(any(feature = "client", feature = "server", feature = "test-util"))]
            Kind::Incoming(_) => "incoming",
            Kind::Boxed(_) => "streamed",
        };
        f.debug_struct("Body").field("kind", &kind).field("size", &self.size_hint()).finish()
    }
}

/// `value` as a `T` when that is what it is.
fn downcast<T: 'static, U: 'static>(value: U) -> Result<T, U> {
    let mut value = Some(value);
    let slot: &mut dyn Any = &mut value;
    match slot.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(value.expect("taken only when it is a T")),
    }
}
