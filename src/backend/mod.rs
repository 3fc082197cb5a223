//! Sends requests to one node.
//!
//! [`Backend`] is the trait, and its documentation is the contract for implementers.
//! [`HttpBackend`] speaks HTTP/1.1 over TCP or a unix socket. [`TowerBackend`](tower::TowerBackend)
//! turns any `tower::Service` into a backend, for example a client of hyper-util or reqwest.

#[cfg(not(feature = "client"))]
mod absent;
mod error;
#[cfg(feature = "client")]
pub mod http1;
pub(crate) mod node_client;
mod timeouts;
#[cfg(feature = "tower")]
pub mod tower;

use std::time::Duration;

use http::{HeaderValue, Request, Response, header};

#[cfg(not(feature = "client"))]
pub use absent::HttpBackend;
pub use error::{SendError, SendErrorKind};
#[cfg(feature = "client")]
pub use http1::HttpBackend;
pub use timeouts::Timeouts;

use crate::body::{Body, BodyError};

/// Sends requests to one node and returns its responses.
///
/// The crate's own implementation is [`HttpBackend`]. An application implements the trait to send
/// requests with its own client, or to respond in process. `testing::backend::conformance` (feature
/// `test-util`) checks an implementation.
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
///
/// # The request
/// - The target is in origin form (`/kylin/api/query?x=1`, or `*` for `OPTIONS`), without scheme
///   and authority. The backend knows the node. `Host` is the name that the client asked for, or
///   [`host`](Self::host) if it named none; the backend sends it unchanged.
/// - The version is HTTP/1.1. A backend that uses another version with its node sets that version
///   itself.
/// - The proxy has removed the hop-by-hop headers (RFC 9110, 7.6.1) and added the forwarding
///   headers. `Content-Length` remains if the client sent it, but the body's own size takes
///   precedence.
/// - The extensions are those of the request that the application gave to the proxy, such as axum's
///   `ConnectInfo`. They contain [`Timeouts`] if this request waits longer or shorter than the
///   backend's default. A backend with timeouts honours them.
/// - Probes and the other requests of the crate itself arrive through the same method, so that they
///   test the same path that clients use. Their extensions contain [`OwnRequest`].
///
/// # The response
/// - A response of any status is a success, even 500. The proxy decides what the status means.
/// - Redirects are not followed and cookies are not stored, because both belong to the client.
/// - The body is not decompressed, and no `Accept-Encoding` is added, because the headers must
///   describe the bytes that follow.
/// - The future is ready with the head; the body streams. A body that the node truncates ends with
///   an error.
/// - The backend does not retry. The proxy retries within its budget, based on the guarantees of
///   [`SendErrorKind`].
///
/// # Cancellation
/// When the caller drops the future or the response's body, the backend abandons the request and
/// releases its resources. A backend with connections closes the one that carries the request,
/// because the node notices only that.
pub trait Backend: Send + Sync + 'static {
    /// Sends `request` and returns the head of the response, whose body may still be streaming.
    ///
    /// # Errors
    /// [`SendError`] says how far the request got, which decides whether it may be sent again.
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send;

    /// Sends a copy of `request`, which the caller may have to send again. A streamed body cannot
    /// be copied, so the copy fails. The default implementation [sends](Self::send) a copy; a
    /// backend that encodes requests itself can avoid the copy.
    ///
    /// # Errors
    /// [`SendError`] as for [`send`](Self::send), except that it need not return the request.
    fn send_copy(&self, request: &Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        self.send(copy(request))
    }

    /// Checks that the node accepts connections, without sending a request; used by
    /// [`Probe::tcp`](crate::probe::Probe::tcp). The default implementation always succeeds, for
    /// backends without connections.
    ///
    /// # Errors
    /// [`SendError`] of a kind that [is unsent](SendErrorKind::is_unsent).
    fn check_connect(&self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Returns the address of the node as a value of `Host`. Requests that name no host get it, and
    /// so do the crate's own requests. Default: `None`; the name that
    /// [`Endpoint::placement`](crate::Endpoint::placement) sets is then used.
    fn host(&self) -> Option<HeaderValue> {
        None
    }

    /// Returns the timeout from the last byte of a request to the head of its response. A query
    /// does not [wait](crate::admission::QueueRules) for a slot any longer than this. Default: the
    /// value of [`Timeouts`].
    fn head_timeout(&self) -> Duration {
        Timeouts::default().head
    }
}

/// Returns a copy of a request. The copy of a streamed body fails.
pub(crate) fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(copy_of_body(request.body()));
    copy.body_mut().set_connect_timer(request.body().connect_timer().cloned());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// Ends a request that was kept. Its header map is reused for the next head that is parsed.
pub(crate) fn recycle(request: &mut Request<Body>) {
    let headers = std::mem::take(request.headers_mut());
    #[cfg(any(feature = "client", feature = "server"))]
    crate::http1::headers::recycle(headers);
    #[cfg(not(any(feature = "client", feature = "server")))]
    drop(headers);
}

fn copy_of_body(body: &Body) -> Body {
    body.replay().unwrap_or_else(|| Body::failed(BodyError::Source("a stream cannot be copied".into())))
}

/// Marks a request of the crate itself, such as a probe or a relayed login. It is in the request's
/// extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnRequest;

/// In the extensions of a request that is sent again after a kept connection had ended.
/// [`HttpBackend`] makes a new connection for it, because the other kept connections, to any node,
/// may have ended too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewConnection;

impl<B: Backend> Backend for std::sync::Arc<B> {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        B::send(self, request)
    }

    fn send_copy(&self, request: &Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        B::send_copy(self, request)
    }

    fn check_connect(&self) -> impl Future<Output = Result<(), SendError>> + Send {
        B::check_connect(self)
    }

    fn host(&self) -> Option<HeaderValue> {
        B::host(self)
    }

    fn head_timeout(&self) -> Duration {
        B::head_timeout(self)
    }
}

/// In the extensions of a response whose node closes the connection, which has carried `uses`
/// requests; 0 means unknown. A backend whose response has `Connection: close` need not add it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosesConnection {
    pub(crate) uses: u32,
}

impl ClosesConnection {
    /// Removes the value from a response and returns it.
    pub(crate) fn take(response: &mut Response<Body>) -> Option<Self> {
        response.extensions_mut().remove().or_else(|| {
            let options = response.headers().get_all(header::CONNECTION).iter();
            let mut options = options.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            let closes = options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            closes.then_some(ClosesConnection { uses: 0 })
        })
    }
}
