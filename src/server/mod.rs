//! An HTTP server for applications without one.
//!
//! Each core has one accept loop and one single-threaded runtime. The kernel spreads connections
//! over the loops (`SO_REUSEPORT`). A request and its connection to the node stay on the core that
//! accepted the client. The server speaks HTTP/1.1 with keep-alive, and HTTP/2 to clients that
//! begin with its preface, with or without TLS ([`ListenOptions`]).

mod accept;
mod builder;
mod client;
mod connection;
mod handshake;
mod http1;
mod http2;
mod limits;
mod listen;
mod sniff;
mod socket;
mod stop;

#[cfg(fuzzing)]
pub(crate) use handshake::parse_proxy_protocol;
#[cfg(fuzzing)]
pub(crate) use http1::fuzz_request_head;

use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc, watch};

pub use accept::Replaced;
use accept::{ListenerChange, RunningListener};
use builder::FixedSettings;
pub use builder::{DEFAULT_BACKLOG, ServerBuilder};
pub use handshake::ListenOptions;
pub use limits::raise_open_files_limit;
pub use listen::{InvalidListen, Listen};

use crate::backend::Backend;
use crate::body::Body;
use crate::observe::Cut;
use crate::proxy::{ErrorResponse, Proxy};
use crate::request::ClientAddr;

/// How long the bytes of a client that keeps sending are read and dropped after the last response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// The grace time of a stop is over, and the handler has not responded.
const STOPPED: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the front end stops; the request may have been executed");

/// How a request ends that gets [`STOPPED`].
const CUT: Cut = Cut::Responds(StatusCode::BAD_GATEWAY);

/// The message of a response to a request whose head is not within the memory budget.
const NO_MEMORY_FOR_HEAD: &str = "the front end has no memory for the head of the request at present";

/// Responds to the requests of a [`Server`]. A [`Proxy`] is a handler, and so is a closure that
/// returns a future of a response.
pub trait Handler: Send + Sync + 'static {
    /// Responds to `request`, which `peer` sent.
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;

    /// Returns whether `peer` is a proxy that connects on behalf of many clients, and so has no
    /// [limit of connections](ServerBuilder::max_connections_per_client). Default: no.
    fn trusts(&self, peer: ClientAddr) -> bool {
        _ = peer;
        false
    }
}

impl<B: Backend> Handler for Proxy<B> {
    /// Returns whether the peer is one of the [trusted
    /// proxies](crate::proxy::ProxyBuilder::trusted_proxies).
    fn trusts(&self, peer: ClientAddr) -> bool {
        self.trusted_proxies().trusts(peer)
    }

    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self.forward_body(peer, request)
    }
}

impl<F, R> Handler for F
where
    F: Fn(ClientAddr, Request<Body>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send,
{
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self(peer, request)
    }
}

/// A running server. It has its own threads and runs until it is stopped or dropped.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::time::Duration;
/// use http::{Request, Response};
/// use kylin_lb::{Body, ClientAddr};
/// use kylin_lb::server::Server;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let hello = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("hello")) };
/// let server = Server::builder().listen("127.0.0.1:0".parse()?, hello).threads(NonZeroUsize::MIN).start()?;
/// println!("listening on {}", server.addresses()[0]);
/// let stopped = server.stop(Duration::from_secs(10)).await;
/// assert_eq!(stopped.cut, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[must_use = "a server that is dropped stops at once"]
pub struct Server {
    addresses: Vec<SocketAddr>,
    listeners: Vec<RunningListener>,
    next_listener: u64,
    settings: FixedSettings,
    /// Receives the grace time when the server stops. The loops also end when it is dropped.
    stop: watch::Sender<Option<Duration>>,
    loops: Vec<AcceptLoop>,
    /// One permit for each connection that may be open, and the number of permits.
    permits: (Arc<Semaphore>, usize),
}

struct AcceptLoop {
    /// Receives how many connections were cut, when the loop has ended.
    done: tokio::sync::oneshot::Receiver<usize>,
    changes: mpsc::UnboundedSender<ListenerChange>,
    thread: JoinHandle<()>,
}

/// The result of [`Server::stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// The number of connections that still had a request in flight when the grace time was over.
    pub cut: usize,
}

impl Server {
    /// Returns a builder without listeners.
    pub fn builder<H: Handler>() -> ServerBuilder<H> {
        ServerBuilder::new()
    }

    /// Returns the addresses of the TCP listeners. Those that have run for the longest come first,
    /// then the order in which they were added.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns a function that counts the open client connections. It remains valid after the
    /// server has stopped.
    pub fn connection_count(&self) -> impl Fn() -> usize + Send + Sync + 'static + use<> {
        let (permits, all) = self.permits.clone();
        move || all.saturating_sub(permits.available_permits())
    }

    /// Stops the server. It accepts no new connections, closes idle ones, and closes the others
    /// after the response to the request in flight. After `grace`, requests without a response get
    /// a 502, and connections that are still open are cut. The 502 is needed because clients repeat
    /// a request whose connection closes without a byte. Dropping the server, or the future of this
    /// method, does the same at once.
    pub async fn stop(self, grace: Duration) -> Stopped {
        self.stop_or_cut(grace, pending()).await
    }

    /// Stops the server like [`stop`](Self::stop). The grace time ends early when `cut` is ready,
    /// for example at a second signal.
    pub async fn stop_or_cut(mut self, grace: Duration, cut: impl Future<Output = ()>) -> Stopped {
        self.stop.send_replace(Some(grace));
        let loops = std::mem::take(&mut self.loops);
        let mut ended = pin!(ended(loops));
        tokio::select! {
            biased;
            stopped = ended.as_mut() => return stopped,
            () = cut => {}
        }
        self.stop.send_replace(Some(Duration::ZERO));
        ended.await
    }
}

/// Waits for the accept loops to end.
async fn ended(loops: Vec<AcceptLoop>) -> Stopped {
    let mut cut = 0;
    for AcceptLoop { done, thread, .. } in loops {
        cut += done.await.unwrap_or(0);
        // The loop has ended, so the join does not block.
        if thread.join().is_err() {
            tracing::error!("an accept loop panicked");
        }
    }
    Stopped { cut }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).field("threads", &self.loops.len()).finish()
    }
}
