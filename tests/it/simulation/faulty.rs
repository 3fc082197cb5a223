//! A node that fails as the run requires.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::testing::kylin::KylinNode;
use kylin_lb::{Backend, Body, SendError};
use tokio::sync::watch;

/// The header with which a hostile client makes every node fail in the same way.
pub(crate) const POISON: &str = "x-poison";
/// The backend's timeout for the head of a response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A node that can die, and that a request can make fail.
#[derive(Debug, Clone)]
pub(crate) struct FaultyNode {
    pub(crate) node: KylinNode,
    is_down: Arc<watch::Sender<bool>>,
}

impl FaultyNode {
    pub(crate) fn new(node: KylinNode) -> Self {
        FaultyNode { node, is_down: Arc::new(watch::Sender::new(false)) }
    }

    /// Ends the requests in flight and every session, and refuses connections from now on.
    pub(crate) fn kill(&self) {
        self.is_down.send_replace(true);
        self.node.forget_sessions();
    }

    pub(crate) fn boot(&self) {
        self.is_down.send_replace(false);
    }

    async fn respond(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let poison = request.headers().get(POISON).map(|value| value.as_bytes().to_vec());
        let failed = |kind| Err(SendError::new(kind, "as the request wants"));
        match poison.as_deref() {
            Some(b"page") => {
                let mut response = Response::new(Body::from("<html>Proxy Error</html>"));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok(response)
            }
            Some(b"reset") => failed(SendErrorKind::Broken),
            Some(b"garbage") => failed(SendErrorKind::Invalid),
            _ => self.node.send(request).await,
        }
    }
}

impl Backend for FaultyNode {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let mut is_down = self.is_down.subscribe();
        if *is_down.borrow_and_update() {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(SendError::new(SendErrorKind::Connect, refused).with_request(request));
        }
        // A request takes a moment, so that others arrive in between.
        tokio::time::sleep(Duration::from_millis(2)).await;
        tokio::select! {
            biased;
            _ = is_down.wait_for(|is_down| *is_down) => Err(SendError::new(SendErrorKind::Broken, "the node died")),
            response = self.respond(request) => response,
            () = tokio::time::sleep(HEAD_TIMEOUT) => Err(SendError::new(SendErrorKind::HeadTimeout, "no head")),
        }
    }

    async fn check_connect(&self) -> Result<(), SendError> {
        match *self.is_down.borrow() {
            true => Err(SendError::new(SendErrorKind::Connect, io::Error::from(io::ErrorKind::ConnectionRefused))),
            false => Ok(()),
        }
    }
}
