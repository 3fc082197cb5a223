//! What answers a request for one node.

use std::fmt;

use http::{Request, Response};

use crate::body::{Body, BoxError};

#[cfg(not(feature = "client"))]
mod absent;
#[cfg(feature = "client")]
pub mod http1;

#[cfg(not(feature = "client"))]
pub use absent::HttpBackend;
#[cfg(feature = "client")]
pub use http1::HttpBackend;

/// A node that answers requests.
///
/// The crate's own is [`HttpBackend`]; a host implements the trait to send with a client of its own, or to answer in
/// process. Implementations must be cancel-safe: when the returned future, or the body of the answer, is dropped, the
/// request is to be given up and nothing may leak.
///
/// ```
/// use http::{Request, Response};
/// use kylin_lb::{Backend, Body, SendError};
///
/// struct Hello;
///
/// impl Backend for Hello {
///     async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
///         Ok(Response::new(Body::from("hello")))
///     }
/// }
/// ```
pub trait Backend: Send + Sync + 'static {
    /// Sends `request` and returns the head of the answer with its body still streaming.
    ///
    /// # Errors
    /// A [`SendError`] says how far the request got, because only that decides whether it may be sent again. An answer
    /// of any status, 500 included, is not an error.
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send;

    /// Finds out whether anybody is there, without a request: [`Probe::tcp`](crate::probe::Probe::tcp). A backend without
    /// connections has nothing to find out, which is what happens unless this is implemented.
    ///
    /// # Errors
    /// A [`SendError`] of a phase in which nothing was sent.
    fn check_connect(&self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }
}

impl<B: Backend> Backend for std::sync::Arc<B> {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        B::send(self, request)
    }

    fn check_connect(&self) -> impl Future<Output = Result<(), SendError>> + Send {
        B::check_connect(self)
    }
}

/// How far a request got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No connection could be made: nothing was sent.
    Connect,
    /// No connection was made within the connect timeout: nothing was sent.
    ConnectTimeout,
    /// The backend's own limit of connections is reached: nothing was sent.
    Limit,
    /// Provably not processed by the node: its kept-alive connection had ended before a byte of the request was written.
    Refused,
    /// The connection ended after at least a part of the request was sent, before the head of an answer.
    Broken,
    /// The same on a connection that had been used before: most likely the node closed it for its age while the request was
    /// on its way. The request may have been processed all the same.
    Stale,
    /// No head of an answer came within the time for it. The node may well be working on the request still.
    HeadTimeout,
    /// What came back is not an HTTP answer.
    Invalid,
    /// The body of the request failed: its sender went away or broke its framing. Says nothing about the node.
    RequestBody,
}

impl SendErrorKind {
    /// True when the node has certainly not begun to process the request, whatever its method.
    pub fn is_unsent(self) -> bool {
        matches!(
            self,
            SendErrorKind::Connect | SendErrorKind::ConnectTimeout | SendErrorKind::Limit | SendErrorKind::Refused
        )
    }

    /// True when the failure counts against the node's health.
    pub fn blames_node(self) -> bool {
        !matches!(self, SendErrorKind::RequestBody | SendErrorKind::Limit | SendErrorKind::Stale)
    }
}

/// Why no answer came from a backend.
pub struct SendError {
    phase: SendErrorKind,
    source: Option<BoxError>,
    request: Option<Box<Request<Body>>>,
}

impl SendError {
    /// An error in `phase`, caused by `source`.
    pub fn new(phase: SendErrorKind, source: impl Into<BoxError>) -> Self {
        SendError { phase, source: Some(source.into()), request: None }
    }

    /// Hands the request back with the error, so that its caller may send it elsewhere. Only for a request of which no
    /// part was consumed.
    #[must_use]
    pub fn with_request(mut self, request: Request<Body>) -> Self {
        self.request = Some(Box::new(request));
        self
    }

    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only transports know better"))]
    pub(crate) fn with_kind(mut self, phase: SendErrorKind) -> Self {
        self.phase = phase;
        self
    }

    /// How far the request got.
    pub fn kind(&self) -> SendErrorKind {
        self.phase
    }

    /// The request, when it came back untouched.
    pub fn take_request(&mut self) -> Option<Request<Body>> {
        self.request.take().map(|request| *request)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.phase {
            SendErrorKind::Connect => "no connection to the node",
            SendErrorKind::ConnectTimeout => "no connection to the node in time",
            SendErrorKind::Limit => "the limit of connections to the node is reached",
            SendErrorKind::Refused => "the node closed the connection before the request was sent",
            SendErrorKind::Broken => "the connection to the node ended before an answer",
            SendErrorKind::Stale => "the kept connection to the node ended before an answer",
            SendErrorKind::HeadTimeout => "no answer from the node in time",
            SendErrorKind::Invalid => "the node's answer is not valid HTTP",
            SendErrorKind::RequestBody => "the body of the request ended early",
        })
    }
}

impl fmt::Debug for SendError {
    /// Leaves the request out: its headers hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("phase", &self.phase).field("source", &self.source).finish_non_exhaustive()
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
