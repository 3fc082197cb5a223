//! HTTP/1.1 to a node, over TCP or a unix socket.
//!
//! Built on hyper's connection-level client: this room decides which connection a request takes. Idle connections are kept
//! per core, the most recently used first, so that a request finds one whose task runs on its own core, and surplus
//! connections grow old and are closed. A Kylin node's Tomcat closes connections that are idle for 20 s; here they are
//! dropped before, at 15 s, because a request that meets the closing cannot always be sent again.

mod address;
mod dial;
mod pool;
mod socket;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio::time::timeout;

pub use address::{Address, InvalidAddress};

use self::dial::{dial, knock};
use self::pool::{Owned, Pool, Reuse};
use super::{Backend, Phase, SendError};
use crate::body::{Body, BodyError};
use crate::clock::{Clock, SystemClock};
use crate::endpoint::{Endpoint, InvalidId};
use crate::wire::HYPERS_MAX_HEADERS;

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
/// Connections are driven by tasks on the runtime in which they were made, so requests must be sent from within a tokio
/// runtime.
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

/// Limits on what is accepted from a node.
#[derive(Debug, Clone, Copy)]
struct Wire {
    max_headers: usize,
    max_head_bytes: usize,
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
            wire: Wire { max_headers: HYPERS_MAX_HEADERS, max_head_bytes: 64 * 1024 },
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
    #[allow(clippy::manual_async_fn, reason = "an `async fn` would keep its arguments twice")]
    fn send(&self, mut request: Request<Body>) -> impl Future<Output = Result<Response<Body>, SendError>> + Send {
        async move {
            let Inner { timeouts, pool, wire, clock, .. } = &*self.inner;
            let timeouts = request.extensions().get::<Timeouts>().copied().unwrap_or(*timeouts);
            frame(&mut request);
            if !request.method().is_idempotent() {
                // A turn of the runtime, in which idle connections learn that the node has closed them. Nobody can repeat this
                // request if it is written to one of those.
                tokio::task::yield_now().await;
            }
            // A request that a dying idle connection gives back unsent goes on to the next one. Each of those is used up by
            // it, so this ends with a fresh connection at the latest.
            loop {
                let idle = pool.take(clock.now());
                let reused = idle.is_some();
                let mut connection = match idle {
                    Some(connection) => connection,
                    // Boxed, because it is rare and its state is large: a request's future is moved about.
                    None => match Box::pin(self.connect(timeouts.connect)).await {
                        Ok(connection) => connection,
                        Err(error) => return Err(error.with_request(request)),
                    },
                };
                let upload = request.body_mut().watch();
                let head = pin!(connection.send(request));
                match connection.wait(head, timeouts.head, upload).await {
                    Some(Ok(answer)) => {
                        check(&answer, wire.max_head_bytes)?;
                        let reusable = connection.share();
                        return Ok(
                            answer.map(|incoming| Body::from(incoming).stall_after(timeouts.body).on_end(reusable))
                        );
                    }
                    Some(Err(mut error)) => match error.take_message() {
                        Some(unsent) if reused => request = unsent,
                        Some(unsent) => {
                            return Err(SendError::new(Phase::Refused, error.into_error()).with_request(unsent));
                        }
                        None => {
                            let error = failure(error.into_error());
                            if error.phase() != Phase::Broken || !reused {
                                return Err(error);
                            }
                            // The others that idle here are as old or older.
                            pool.clear();
                            return Err(error.in_phase(Phase::Stale));
                        }
                    },
                    None => {
                        let why = format!("no head of an answer within {:?}", timeouts.head);
                        return Err(SendError::new(Phase::HeadTimeout, why));
                    }
                }
            }
        }
    }

    /// Makes a connection and closes it.
    async fn reach(&self) -> Result<(), SendError> {
        let Inner { address, timeouts, .. } = &*self.inner;
        match timeout(timeouts.connect, knock(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SendError::new(Phase::Connect, error)),
            Err(elapsed) => Err(SendError::new(Phase::ConnectTimeout, elapsed)),
        }
    }
}

impl HttpBackend {
    async fn connect(&self, limit: Duration) -> Result<Owned, SendError> {
        let Inner { address, wire, pool, clock, .. } = &*self.inner;
        let Some(slot) = pool.open_slot() else {
            // One that idles on another core serves as well.
            let elsewhere = pool.take_anywhere(clock.now());
            return elsewhere.ok_or_else(|| SendError::new(Phase::Limit, "every allowed connection is in use"));
        };
        match timeout(limit, dial(address, *wire, slot)).await {
            Ok(Ok(sender)) => Ok(Owned::new(sender, pool, clock)),
            Ok(Err(error)) => Err(SendError::new(Phase::Connect, error)),
            Err(elapsed) => Err(SendError::new(Phase::ConnectTimeout, elapsed)),
        }
    }
}

/// Makes the fields that frame the body say what the body is. hyper believes them, and takes a GET of unknown length for one
/// without a body.
fn frame(request: &mut Request<Body>) {
    let length = http_body::Body::size_hint(request.body()).exact();
    let headers = request.headers();
    match (length, headers.get(header::CONTENT_LENGTH)) {
        (Some(length), Some(said)) if said.to_str().ok().and_then(|said| said.parse().ok()) != Some(length) => {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        (None, None) => {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
}

/// Did the request's own body fail? hyper's `is_user` says so too when the runtime that drove the connection has ended.
fn is_of_body(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.into_iter().any(|cause| cause.is::<BodyError>())
}

fn failure(error: hyper::Error) -> SendError {
    let phase = if is_of_body(&error) {
        Phase::RequestBody
    } else if error.is_parse() {
        Phase::Invalid
    } else {
        Phase::Broken
    };
    SendError::new(phase, error)
}

/// Refuses answers that another HTTP parser might read otherwise (RFC 9112, 6.1 and 6.3), and heads that are too long. hyper
/// itself rejects conflicting lengths; it takes unknown transfer codings for a body that ends with the connection, lets a
/// length stand beside a coding, and looks at the size of a head only while that is not complete.
fn check<B>(response: &Response<B>, max_head_bytes: usize) -> Result<(), SendError> {
    let invalid = |why| Err(SendError::new(Phase::Invalid, why));
    let headers = response.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let coding = codings.next();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return invalid("transfer-encoding is not exactly \"chunked\"");
    }
    if let Some(length) = lengths.next()
        && (coding.is_some() || lengths.next().is_some() || !is_number(length.as_bytes()))
    {
        return invalid("content-length is not one number alone");
    }
    // A colon, a space and the end of the line go with each.
    let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head_bytes > max_head_bytes {
        return invalid("the head is too long");
    }
    // No request of ours asks for an upgrade.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return invalid("status 101 without a request to upgrade");
    }
    Ok(())
}

fn is_number(length: &[u8]) -> bool {
    !length.is_empty() && length.iter().all(u8::is_ascii_digit)
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
    /// with [`Phase::Limit`]; [`Endpoint::max_in_flight`] is the gentler limit, since policies know of it.
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
        let pool = Pool::new(self.reuse, self.max_connections);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)]) -> Response<()> {
        let mut response = Response::new(());
        for (name, value) in fields {
            response
                .headers_mut()
                .append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        response
    }

    #[test]
    fn refuses_transfer_codings_that_parsers_disagree_on() {
        assert!(check(&answer(&[]), 8192).is_ok());
        assert!(check(&answer(&[("transfer-encoding", "Chunked")]), 8192).is_ok());
        for bad in ["chunked, chunked", "gzip, chunked", "xchunked", "identity", ",chunked", "chunked;q=1", ""] {
            let error = check(&answer(&[("transfer-encoding", bad)]), 8192).unwrap_err();
            assert_eq!(error.phase(), Phase::Invalid, "{bad}");
        }
        assert!(check(&answer(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), 8192).is_err());
    }

    #[test]
    fn refuses_lengths_that_are_not_one_number_alone() {
        assert!(check(&answer(&[("content-length", "12")]), 8192).is_ok());
        for bad in ["", "+1", "1, 1", "0x1"] {
            assert!(check(&answer(&[("content-length", bad)]), 8192).is_err(), "{bad}");
        }
        assert!(check(&answer(&[("content-length", "1"), ("content-length", "1")]), 8192).is_err());
        assert!(check(&answer(&[("content-length", "1"), ("transfer-encoding", "chunked")]), 8192).is_err());
    }

    #[test]
    fn refuses_heads_that_are_too_long() {
        let long = "x".repeat(8192);
        assert!(check(&answer(&[("x", &long[7..])]), 8192).is_ok());
        assert!(check(&answer(&[("x", &long)]), 8192).is_err());
    }

    #[test]
    fn refuses_an_upgrade_that_nobody_asked_for() {
        let mut response = answer(&[("upgrade", "websocket")]);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        assert_eq!(check(&response, 8192).unwrap_err().phase(), Phase::Invalid);
    }
}
