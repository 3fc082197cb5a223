use std::error::Error;
use std::{fmt, io, iter};

use http::Request;

use crate::body::{Body, BoxError};
use crate::endpoint::Outcome;

/// The kind of a failure, which says how far the request got.
///
/// The kind decides whether the proxy sends the request again, so a backend must guarantee what the
/// kind says. If it cannot tell whether the node has seen the request, the kind is
/// [`Broken`](Self::Broken).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No connection was made. Nothing was sent.
    #[error("no connection to the node")]
    Connect,
    /// No connection was made within the connect timeout. Nothing was sent.
    #[error("no connection to the node in time")]
    ConnectTimeout,
    /// The backend's own limit of connections is reached. Nothing was sent.
    #[error("the limit of connections to the node is reached")]
    Limit,
    /// This process has no descriptors, ports or memory left for a connection. Nothing was sent,
    /// and the node is not at fault.
    #[error("the front end is short of descriptors, ports or memory")]
    Shortage,
    /// A kept connection had ended before the first byte of the request was written. The node has
    /// not processed the request.
    #[error("the node closed the connection before the request was sent")]
    Refused,
    /// The connection ended before the head of a response, after at least a part of the request was
    /// sent. The node may have processed the request.
    #[error("the connection to the node ended before a response")]
    Broken,
    /// A connection that had carried other requests ended within a second, before the head of a
    /// response. The node probably closed the idle connection while the request was on its way, but
    /// it may have processed the request.
    #[error("the kept-alive connection to the node ended before a response")]
    Stale,
    /// The head of a response did not arrive in time. The node may still be working on the request.
    #[error("no response from the node in time")]
    HeadTimeout,
    /// The node sent something that is not valid HTTP. The node may have processed the request.
    #[error("the node's response is not valid HTTP")]
    Invalid,
    /// The head of the response exceeds the limits of the backend, or there were too many interim
    /// responses. The node is not at fault, and may have processed the request.
    #[error("the head of the node's response is over the limits of the front end")]
    HeadTooLarge,
    /// The body of the request failed: the client left or broke its framing. The node is not at
    /// fault.
    #[error("the body of the request ended early")]
    RequestBody,
}

impl SendErrorKind {
    /// Returns true if the node has certainly not begun to process the request, regardless of its
    /// method.
    pub fn is_unsent(self) -> bool {
        match self {
            SendErrorKind::Connect
            | SendErrorKind::ConnectTimeout
            | SendErrorKind::Limit
            | SendErrorKind::Shortage
            | SendErrorKind::Refused => true,
            SendErrorKind::Broken
            | SendErrorKind::Stale
            | SendErrorKind::HeadTimeout
            | SendErrorKind::Invalid
            | SendErrorKind::HeadTooLarge
            | SendErrorKind::RequestBody => false,
        }
    }

    /// Returns whether a kept connection had ended, so that a retry should use a new one.
    pub(crate) fn is_of_kept_connection(self) -> bool {
        matches!(self, SendErrorKind::Stale | SendErrorKind::Refused)
    }

    /// Returns the outcome of the failure for the node's health.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            SendErrorKind::RequestBody
            | SendErrorKind::Limit
            | SendErrorKind::Shortage
            | SendErrorKind::HeadTooLarge
            | SendErrorKind::Stale => Outcome::Unknown,
            SendErrorKind::Connect | SendErrorKind::ConnectTimeout | SendErrorKind::Refused | SendErrorKind::Broken => {
                Outcome::Unreachable
            }
            SendErrorKind::HeadTimeout | SendErrorKind::Invalid => Outcome::Failure,
        }
    }

    /// Returns true if the failure counts against the node's health.
    #[cfg(feature = "admin")]
    pub(crate) fn blames_node(self) -> bool {
        self.outcome() != Outcome::Unknown
    }
}

/// The error of a backend that got no response to a request.
#[derive(thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    kind: SendErrorKind,
    source: BoxError,
    request: Option<Box<Request<Body>>>,
}

impl SendError {
    /// Creates an error of `kind`, caused by `source`.
    pub fn new(kind: SendErrorKind, source: impl Into<BoxError>) -> Self {
        SendError { kind, source: source.into(), request: None }
    }

    /// Attaches the request, so that the caller can send it to another node. Allowed only if no
    /// part of the request was consumed.
    #[must_use]
    pub fn with_request(mut self, request: Request<Body>) -> Self {
        self.request = Some(Box::new(request));
        self
    }

    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only `HttpBackend` refines a kind"))]
    pub(crate) fn with_kind(mut self, kind: SendErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns the kind, which says how far the request got.
    pub fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// Returns whether the node's machine refused the connection, so that no process listens there.
    /// Any other failure to connect may be caused by the network.
    pub(crate) fn is_connection_refused(&self) -> bool {
        let is_refusal = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        let mut causes = iter::successors(self.source(), |&error| error.source());
        self.kind == SendErrorKind::Connect && causes.any(|error| error.downcast_ref().is_some_and(is_refusal))
    }

    /// Takes the request, if the backend returned it unconsumed.
    pub fn take_request(&mut self) -> Option<Request<Body>> {
        self.request.take().map(|request| *request)
    }
}

impl fmt::Debug for SendError {
    /// Leaves the request out, because its headers contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).field("source", &self.source).finish_non_exhaustive()
    }
}
