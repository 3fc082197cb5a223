//! The crate's own requests to a node: probes, logins, logouts, cancelled queries, lists of nodes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Uri};
use tokio::time::{timeout, timeout_at};

use super::{Backend, NewConnection, OwnRequest, SendError, SendErrorKind};
use crate::body::{Body, BodyError, CollectError};
use crate::buffer::BufferBudget;
use crate::client_key::ClientKey;
use crate::clock::timer_in;
use crate::cookie::CookieJar;
use crate::error_chain::error_chain;
use crate::maybe_ready::BoxFuture;

/// Kylin 5 rejects requests without `User-Agent`.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kylin-lb/", env!("CARGO_PKG_VERSION")));

/// The `Host` of a request to a node without a usable address, such as a unix socket.
const NO_HOST: HeaderValue = HeaderValue::from_static("localhost");

/// The default maximum length of a body. A list of projects has a few hundred KiB.
const MAX_BODY: u64 = 1024 * 1024;

/// Returns the value of `Host` for a node at `authority`, which an operator wrote.
pub(crate) fn host_of_node(authority: &str) -> HeaderValue {
    let host = authority.parse::<Authority>().ok().and_then(|host| HeaderValue::try_from(host.as_str()).ok());
    host.unwrap_or(NO_HOST)
}

/// Sends the crate's own requests to one node.
///
/// Such a request goes through the node's [`Backend`] like a client's. `NodeClient` adds `Host`,
/// `User-Agent` and `Accept` if the request lacks them, and bounds the time and the size of the
/// whole response. If a kept connection ended, which says nothing about the node, it sends the
/// request once more.
#[derive(Clone)]
pub(crate) struct NodeClient {
    backend: Arc<dyn ErasedBackend>,
    host: HeaderValue,
    timeout: Duration,
    max_body: u64,
    /// The budget for bodies, and the client whose share they count against.
    buffers: Option<(BufferBudget, Option<ClientKey>)>,
    retries_stale: bool,
}

impl NodeClient {
    /// Returns a client for the node behind `backend`, whose address is `authority` as the operator
    /// wrote it.
    pub(crate) fn new<B: Backend>(backend: Arc<B>, authority: &str, timeout: Duration) -> Self {
        let host = backend.host().unwrap_or_else(|| host_of_node(authority));
        NodeClient { backend, host, timeout, max_body: MAX_BODY, buffers: None, retries_stale: true }
    }

    /// Returns a client for requests that already have a `Host`. Allocates nothing.
    pub(crate) fn with_given_host<B: Backend>(backend: Arc<B>, timeout: Duration) -> Self {
        NodeClient { backend, host: NO_HOST, timeout, max_body: MAX_BODY, buffers: None, retries_stale: true }
    }

    /// Sets the maximum length of a body that is read. Default: 1 MiB.
    pub(crate) fn max_body(self, max_body: u64) -> Self {
        NodeClient { max_body, ..self }
    }

    /// Reserves each body in a budget, in the share of `client`.
    pub(crate) fn within(self, buffers: BufferBudget, client: Option<ClientKey>) -> Self {
        NodeClient { buffers: Some((buffers, client)), ..self }
    }

    /// Sets the time for a whole response.
    #[cfg_attr(
        not(feature = "login-relay"),
        allow(dead_code, reason = "only the login relay has a timeout for each kind of request")
    )]
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        NodeClient { timeout, ..self }
    }

    /// Sends each request only once. Meant for requests that a node must not see twice, such as a
    /// login.
    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only logins are sent once"))]
    pub(crate) fn without_retry(self) -> Self {
        NodeClient { retries_stale: false, ..self }
    }

    /// Checks that the node accepts connections, without sending a request.
    pub(crate) async fn check_connect(&self) -> Result<(), NodeError> {
        let connected = timeout(self.timeout, self.backend.check_connect_boxed()).await;
        Ok(connected.map_err(|_| NodeError::Timeout)??)
    }

    /// Sends a GET, with or without credentials. The cookies that the node sets are kept in
    /// `cookies` and sent the next time. Otherwise Kylin would create a session that lasts for
    /// hours at each request that has only a password.
    pub(crate) async fn get(
        &self,
        path: &'static str,
        authorization: Option<&HeaderValue>,
        cookies: &mut CookieJar,
    ) -> Result<NodeResponse, NodeError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = Uri::from_static(path);
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(cookie) = cookies.header() {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let response = self.send(request).await?;
        cookies.store(&response.headers);
        Ok(response)
    }

    /// Sends `request` and reads the response. The body is read even if only the status is needed,
    /// so that the connection can be reused.
    pub(crate) async fn send(&self, mut request: Request<Bytes>) -> Result<NodeResponse, NodeError> {
        request.extensions_mut().insert(OwnRequest);
        let headers = request.headers_mut();
        headers.entry(header::HOST).or_insert_with(|| self.host.clone());
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));

        let deadline = timer_in(self.timeout);
        let response = timeout_at(deadline, self.send_head(request)).await.map_err(|_| NodeError::Timeout)??;
        let (head, body) = response.into_parts();
        let body = timeout_at(deadline, self.collect(body)).await.unwrap_or(Err(NodeError::Timeout));
        Ok(NodeResponse { status: head.status, headers: head.headers, body })
    }

    async fn collect(&self, body: Body) -> Result<Bytes, NodeError> {
        let collected = match &self.buffers {
            None => body.collect_up_to(self.max_body).await.map_err(CollectError::Body),
            Some((buffers, client)) => body.collect_reserved(self.max_body, buffers.reservation(*client)).await,
        };
        collected.map_err(|error| match error {
            CollectError::Body(BodyError::TooLarge) => NodeError::TooLong(self.max_body),
            CollectError::Body(error) => NodeError::Body(error),
            CollectError::NoMemory => NodeError::NoMemory,
        })
    }

    async fn send_head(&self, request: Request<Bytes>) -> Result<Response<Body>, SendError> {
        match self.backend.send_boxed(request.clone().map(Body::from)).await {
            Err(error) if self.retries_stale && error.kind() == SendErrorKind::Stale => {
                let mut request = request.map(Body::from);
                request.extensions_mut().insert(NewConnection);
                self.backend.send_boxed(request).await
            }
            response => response,
        }
    }
}

/// The response of a node to one of the crate's own requests.
#[derive(Debug)]
pub(crate) struct NodeResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The whole body, or why it was not read. The status is valid in both cases.
    pub(crate) body: Result<Bytes, NodeError>,
}

/// The error when a node's response, or its body, was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The message of the [`SendError`] and its causes. The error itself may contain the request
    /// with its credentials.
    #[error("{1}")]
    Send(SendErrorKind, String),
    #[error("no complete response in time")]
    Timeout,
    #[error("the connection ended within the response")]
    Body(#[source] BodyError),
    #[error("the body of the response has more than {0} bytes")]
    TooLong(u64),
    #[error("the front end has no memory for the body of the response")]
    NoMemory,
}

impl From<SendError> for NodeError {
    fn from(error: SendError) -> Self {
        NodeError::Send(error.kind(), error_chain(&error))
    }
}

/// A [`Backend`] of any type.
trait ErasedBackend: Send + Sync {
    fn send_boxed(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, SendError>>;
    fn check_connect_boxed(&self) -> BoxFuture<'_, Result<(), SendError>>;
}

impl<B: Backend> ErasedBackend for B {
    fn send_boxed(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, SendError>> {
        Box::pin(self.send(request))
    }

    fn check_connect_boxed(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(self.check_connect())
    }
}
