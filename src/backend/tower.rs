//! A backend from any `tower::Service` (feature `tower`).

use std::error::Error;
use std::fmt;
use std::future::poll_fn;

use bytes::Bytes;
use http::uri::{Authority, InvalidUri, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use tokio::time::timeout;
use tower_service::Service;

use super::{Backend, SendError, SendErrorKind, Timeouts};
use crate::body::{Body, BodyError, BoxError};
use crate::clock::InvalidDuration;

/// Sends requests with a clone of a `tower::Service`, such as a client of hyper-util or reqwest.
///
/// The service must meet the contract of [`Backend`]: no redirects, no decompression, no cookie
/// store and no retries.
///
/// ```
/// use http::{Request, Response};
/// use kylin_lb::backend::SendErrorKind;
/// use kylin_lb::backend::tower::TowerBackend;
/// use kylin_lb::{Body, Endpoint};
///
/// # fn endpoint<S>(client: S) -> Result<(), Box<dyn std::error::Error>>
/// # where
/// #     S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = std::io::Error> + Clone + Send + Sync + 'static,
/// #     S::Future: Send,
/// # {
/// // `client` is a `Service<Request<Body>>` whose error is a `std::io::Error`.
/// let backend = TowerBackend::new(client).origin("http://10.0.0.1:7070")?.classify(|error| match error.kind() {
///     std::io::ErrorKind::ConnectionRefused => SendErrorKind::Connect,
///     _ => SendErrorKind::Broken,
/// });
/// let endpoint = Endpoint::new("q1", backend)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - An error of the service's `poll_ready` is [`Connect`](SendErrorKind::Connect), and the request
///   is returned with it.
/// - An error of a call is [`RequestBody`](SendErrorKind::RequestBody) if a [`BodyError`] of the
///   request is among its sources.
/// - Otherwise the function given to [`classify`](Self::classify) decides. Without that function,
///   the error is [`Broken`](SendErrorKind::Broken), because the node may have received the
///   request.
///
/// # Timeouts
/// The service makes the connections, so it applies the connect timeout. [`Timeouts::head`] starts
/// at the call, because a service does not report when the request is written. [`Timeouts::body`]
/// applies between pieces of the response's body.
pub struct TowerBackend<S: Service<Request<Body>>> {
    service: S,
    origin: Option<(Scheme, Authority)>,
    timeouts: Timeouts,
    classify: fn(&S::Error) -> SendErrorKind,
}

impl<S: Service<Request<Body>>> TowerBackend<S> {
    /// Creates a backend that sends requests in origin form with `service`.
    pub fn new(service: S) -> Self {
        TowerBackend { service, origin: None, timeouts: Timeouts::default(), classify: |_| SendErrorKind::Broken }
    }

    /// Sets the scheme and authority of the node, such as `http://10.0.0.1:7070`. The target of
    /// each request then becomes an absolute URI, as most clients require. The `Host` header stays.
    ///
    /// # Errors
    /// [`InvalidOrigin`] if `origin` is not a scheme and an authority.
    pub fn origin(mut self, origin: &str) -> Result<Self, InvalidOrigin> {
        let parts = origin.parse::<Uri>().map_err(|error| InvalidOrigin(origin.to_owned(), Some(error)))?.into_parts();
        match (parts.scheme, parts.authority, parts.path_and_query.as_ref().map(PathAndQuery::as_str)) {
            (Some(scheme), Some(authority), None | Some("/")) => self.origin = Some((scheme, authority)),
            _ => return Err(InvalidOrigin(origin.to_owned(), None)),
        }
        Ok(self)
    }

    /// Sets how long the backend waits for the service.
    ///
    /// # Errors
    /// [`InvalidDuration`] if one of the timeouts is below 1 ms.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Result<Self, InvalidDuration> {
        timeouts.check()?;
        self.timeouts = timeouts;
        Ok(self)
    }

    /// Sets the function that maps an error of the service to a kind. It may return a kind that
    /// [is unsent](SendErrorKind::is_unsent) only if the request certainly did not reach the node.
    pub fn classify(mut self, classify: fn(&S::Error) -> SendErrorKind) -> Self {
        self.classify = classify;
        self
    }
}

impl<S, R> Backend for TowerBackend<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, SendError> {
        let timeouts = request.extensions().get().copied().unwrap_or(self.timeouts);
        let mut service = self.service.clone();
        if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
            return Err(SendError::new(SendErrorKind::Connect, error).with_request(request));
        }
        if let Some((scheme, authority)) = &self.origin {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            (parts.scheme, parts.authority) = (Some(scheme.clone()), Some(authority.clone()));
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
            *request.uri_mut() =
                Uri::from_parts(parts).map_err(|error| SendError::new(SendErrorKind::RequestBody, error))?;
        }
        match timeout(timeouts.head, service.call(request)).await {
            Ok(Ok(response)) => Ok(response.map(|body| Body::new(body).stall_after(timeouts.body))),
            Ok(Err(error)) => {
                let kind = (self.classify)(&error);
                let error = error.into();
                Err(SendError::new(if is_body_error(&*error) { SendErrorKind::RequestBody } else { kind }, error))
            }
            Err(elapsed) => Err(SendError::new(SendErrorKind::HeadTimeout, elapsed)),
        }
    }

    /// Returns the authority of the [origin](Self::origin).
    fn host(&self) -> Option<HeaderValue> {
        let (_, authority) = self.origin.as_ref()?;
        // Without a user, which is not part of the header.
        HeaderValue::try_from(authority.as_str().rsplit('@').next()?).ok()
    }
}

/// Returns true if the error is, or was caused by, a failed body.
fn is_body_error(error: &(dyn Error + 'static)) -> bool {
    error.is::<BodyError>() || error.source().is_some_and(is_body_error)
}

impl<S: Service<Request<Body>>> fmt::Debug for TowerBackend<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TowerBackend { origin, timeouts, .. } = self;
        f.debug_struct("TowerBackend").field("origin", origin).field("timeouts", timeouts).finish_non_exhaustive()
    }
}

/// The error for a text that is not the origin of a node.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an origin: expected a scheme and an authority, such as http://10.0.0.1:7070")]
pub struct InvalidOrigin(String, #[source] Option<InvalidUri>);

impl InvalidOrigin {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}
