//! HTTP/1.1 to a node, over TCP or a unix socket.
//!
//! A request takes a connection to itself and drives it (`connection`); when the answer has been read to its end, the
//! connection goes back to the pool. Idle connections are kept per core, the most recently used first, so that a request
//! finds one that its own core's runtime watches, and surplus connections grow old and are closed. A Kylin node's Tomcat closes connections that
//! are idle for 20 s; here they are dropped before, at 15 s, because a request that meets the closing cannot always be sent
//! again.

mod address;
mod answer;
mod connection;
mod dial;
mod encode;
mod parse;
mod pool;
#[cfg(test)]
mod property;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::timeout;

pub use address::{Address, InvalidAddress};

use self::connection::Connection;
use self::dial::dial;
use self::parse::Wire;
use self::pool::{Pool, Reuse};
use super::{Backend, SendError, SendErrorKind};
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::endpoint::{Endpoint, InvalidId};

/// How long to wait for a node. A request may carry other values than its backend's in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a connection to be made. Default 5 s: within one data centre a connection takes milliseconds or never comes, and
    /// another node is waiting.
    pub connect: Duration,
    /// From the last byte of the request until the head of the answer. Default 310 s, because a Kylin 5 query may take
    /// 300 s (`kylin.query.timeout-seconds`).
    pub head: Duration,
    /// Between two pieces of the answer's body. Default 60 s: a node begins to answer when the result is complete.
    pub body: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: Duration::from_secs(5), head: Duration::from_secs(310), body: Duration::from_secs(60) }
    }
}

/// A node reached over HTTP/1.1. Clones share the connections.
///
/// Requests must be sent from within a tokio runtime, and a connection lives no longer than the runtime in which it was made.
/// Trailers of answers are passed over, and so is a `Connection` field that says no more than `close` or `keep-alive`: both end with
/// the connection that they came on.
#[derive(Clone)]
pub struct HttpBackend {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    timeouts: Timeouts,
    wire: Wire,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
}

impl HttpBackend {
    /// A node at `address`, with the defaults of [`HttpBackend::builder`].
    ///
    /// # Errors
    /// [`InvalidAddress`] says what was expected.
    pub fn new(address: &str) -> Result<Self, InvalidAddress> {
        Ok(Self::builder(address)?.build())
    }

    /// A builder for a node at `address`: `host:port`, `1.2.3.4:port`, `[v6]:port` or `unix:/path`. A host name is looked
    /// up for every new connection.
    ///
    /// # Errors
    /// [`InvalidAddress`] says what was expected.
    pub fn builder(address: &str) -> Result<HttpBackendBuilder, InvalidAddress> {
        Ok(Self::to(address.parse()?))
    }

    /// A builder for a node at an address that was read already.
    pub fn to(address: Address) -> HttpBackendBuilder {
        HttpBackendBuilder {
            address,
            timeouts: Timeouts::default(),
            reuse: Reuse { max_idle: 64, idle_timeout: Duration::from_secs(15), max_uses: 0, max_age: None },
            max_connections: 0,
            wire: Wire { max_headers: 100, max_head_bytes: 64 * 1024 },
            clock: Arc::new(SystemClock),
        }
    }

    /// Where the node is.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Connections open to the node now, idle ones included.
    pub fn connections(&self) -> usize {
        self.inner.pool.open()
    }
}

impl Backend for HttpBackend {
    /// A kept connection takes the request up at once: a future that has no room for a request is moved about for less.
    fn send(&self, mut request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        let Inner { timeouts, pool, wire, .. } = &*self.inner;
        let timeouts = request.extensions().get::<Timeouts>().copied().unwrap_or(*timeouts);
        let taken = match pool.take() {
            Some(mut connection) => {
                let method = connection.begin(&mut request);
                Ok((connection, method))
            }
            None => Err(Box::new(request)),
        };
        async move {
            let (mut connection, method, reused) = match taken {
                Ok((connection, method)) => (connection, method, true),
                // Boxed, because it is rare and its state is large.
                Err(mut request) => match Box::pin(self.connect(timeouts.connect)).await {
                    Ok((mut connection, reused)) => {
                        let method = connection.begin(&mut request);
                        (connection, method, reused)
                    }
                    Err(error) => return Err(error.with_request(*request)),
                },
            };
            match connection.answer(method, timeouts.head, *wire).await {
                Ok(head) => {
                    let body = answer::body(connection, head.framing, head.keeps, pool);
                    Ok(head.response.map(|()| body.stall_after(timeouts.body)))
                }
                Err(error) if error.kind() == SendErrorKind::Broken && reused && connection.read.is_empty() => {
                    // The others that idle here are as old or older.
                    pool.clear();
                    Err(error.with_kind(SendErrorKind::Stale))
                }
                Err(error) => Err(error),
            }
        }
    }

    /// Makes a connection and closes it.
    async fn check_connect(&self) -> Result<(), SendError> {
        let Inner { address, timeouts, .. } = &*self.inner;
        match timeout(timeouts.connect, dial(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(SendError::new(SendErrorKind::Connect, error)),
            Err(elapsed) => Err(SendError::new(SendErrorKind::ConnectTimeout, elapsed)),
        }
    }
}

impl HttpBackend {
    /// A new connection, or one that idles on another core where no more may be open; whether it has been used before.
    async fn connect(&self, limit: Duration) -> Result<(Box<Connection>, bool), SendError> {
        let Inner { address, pool, clock, .. } = &*self.inner;
        let Some(slot) = pool.open_slot() else {
            let elsewhere = pool.take_anywhere().map(|connection| (connection, true));
            return elsewhere.ok_or_else(|| SendError::new(SendErrorKind::Limit, "every allowed connection is in use"));
        };
        match timeout(limit, dial(address)).await {
            Ok(Ok(stream)) => Ok((Box::new(Connection::new(stream, slot, clock.now())), false)),
            Ok(Err(error)) => Err(SendError::new(SendErrorKind::Connect, error)),
            Err(elapsed) => Err(SendError::new(SendErrorKind::ConnectTimeout, elapsed)),
        }
    }
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { address, timeouts, .. } = &*self.inner;
        f.debug_struct("HttpBackend").field("address", address).field("timeouts", timeouts).finish_non_exhaustive()
    }
}

/// Collects what an [`HttpBackend`] may be tuned by.
#[derive(Debug)]
#[must_use]
pub struct HttpBackendBuilder {
    address: Address,
    timeouts: Timeouts,
    reuse: Reuse,
    max_connections: usize,
    wire: Wire,
    clock: Arc<dyn Clock>,
}

impl HttpBackendBuilder {
    /// Sets all three timeouts.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// See [`Timeouts::connect`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// See [`Timeouts::head`].
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.head = timeout;
        self
    }

    /// See [`Timeouts::body`].
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.body = timeout;
        self
    }

    /// For how long an idle connection may be used again. Default 15 s; Kylin's Tomcat closes at 20 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.reuse.idle_timeout = timeout;
        self
    }

    /// How many idle connections are kept per core (nginx: `keepalive`, per worker); 0 makes a new connection for every
    /// request. Default 64.
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.reuse.max_idle = connections;
        self
    }

    /// How many requests a connection carries before it is closed; 0, the default, is no limit (nginx:
    /// `keepalive_requests`).
    pub fn max_uses(mut self, requests: u32) -> Self {
        self.reuse.max_uses = requests;
        self
    }

    /// How old a connection may become (nginx: `keepalive_time`). Default: no limit.
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.reuse.max_age = age;
        self
    }

    /// How many connections may be open at once, idle ones included; 0, the default, is no limit. Requests beyond it fail
    /// with [`SendErrorKind::Limit`]; [`Endpoint::max_in_flight`] is the gentler limit, since policies know of it.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The most header fields that an answer may have. Default 100.
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.wire.max_headers = fields;
        self
    }

    /// The most bytes that the head of an answer may have, at least 8 KiB. Default 64 KiB.
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.wire.max_head_bytes = bytes.max(8192);
        self
    }

    /// Sets where time comes from, for the age of idle connections.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the backend. No connection is made yet.
    pub fn build(self) -> HttpBackend {
        let HttpBackendBuilder { address, timeouts, wire, clock, .. } = self;
        let pool = Pool::new(self.reuse, self.max_connections, Arc::clone(&clock));
        HttpBackend { inner: Arc::new(Inner { address, timeouts, wire, pool: Arc::new(pool), clock }) }
    }
}

impl Endpoint<HttpBackend> {
    /// An endpoint called `id` at `address` (see [`HttpBackend::builder`]), which is also its placement name.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] when the id or the address is not valid.
    pub fn http(id: impl AsRef<str>, address: &str) -> Result<Self, InvalidEndpoint> {
        Ok(Endpoint::new(id, HttpBackend::new(address)?)?.placement(address))
    }
}

/// Why an endpoint was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEndpoint {
    /// The id is not valid.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The address is not valid.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}
