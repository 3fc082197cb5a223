//! A node and a store that fail as the run says.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};
use kylin_lb::testing::kylin::KylinNode;
use kylin_lb::{Backend, Body, SendError};
use tokio::sync::watch;

/// The header by which a hostile client has every node fail in the same way.
pub(crate) const POISON: &str = "x-poison";
/// What a backend waits for the head of a response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A node that dies, and that a request can make fail.
#[derive(Debug, Clone)]
pub(crate) struct FaultyNode {
    pub(crate) node: KylinNode,
    is_down: Arc<watch::Sender<bool>>,
}

impl FaultyNode {
    pub(crate) fn new(node: KylinNode) -> Self {
        FaultyNode { node, is_down: Arc::new(watch::Sender::new(false)) }
    }

    /// Ends what is in flight and every session, and refuses connections from now on.
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
        // A request takes a moment, so that others come in between.
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

/// A store that works, is slow, fails, or does not respond.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    store: MemoryStore,
    mode: Arc<AtomicU8>,
}

impl FaultyStore {
    pub(crate) const WORKS: u8 = 0;
    pub(crate) const SLOW: u8 = 1;
    pub(crate) const FAILS: u8 = 2;
    pub(crate) const HANGS: u8 = 3;

    pub(crate) fn new() -> Self {
        FaultyStore { store: MemoryStore::new(), mode: Arc::default() }
    }

    pub(crate) fn set_mode(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn in_mode<'a, T: Send + 'a>(
        &'a self,
        operation: impl FnOnce(&'a MemoryStore) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        StoreFuture::boxed(async move {
            match self.mode.load(Ordering::SeqCst) {
                Self::WORKS => {}
                Self::SLOW => tokio::time::sleep(Duration::from_millis(30)).await,
                Self::FAILS => return Err(StoreError::Unavailable("it is down".into())),
                _ => std::future::pending().await,
            }
            operation(&self.store).await
        })
    }
}

impl SessionStore for FaultyStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.in_mode(move |store| store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.in_mode(move |store| store.save(key, record, precondition, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.in_mode(move |store| store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.in_mode(move |store| store.remove(key))
    }
}
