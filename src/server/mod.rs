//! An HTTP server for hosts that have none of their own.
//!
//! One accept loop and one single-threaded runtime per core. The kernel spreads connections over the loops (`SO_REUSEPORT`),
//! and everything that a request touches, its connections to the nodes included, stays on the core where it came in. Speaks
//! HTTP/1.1 with keep-alive, and HTTP/2 without TLS to clients that open with its preface.
//!
//! TLS is left to the host or to a balancer in front.

mod accept;
mod builder;
mod connection;
mod http1;
mod http2;
mod limits;
mod listen;
mod sniff;
mod stop;

use std::fmt;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;

pub use builder::{DEFAULT_BACKLOG, ServerBuilder};
pub use listen::{InvalidListen, Listen};

use crate::backend::Backend;
use crate::body::Body;
use crate::proxy::Proxy;
use crate::request::ClientAddr;

/// What answers the requests of a server: a [`Proxy`], or a closure of the host's.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, which came from `peer`.
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

impl<B: Backend> Handler for Proxy<B> {
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self.forward_body(peer, request)
    }
}

impl<F, A> Handler for F
where
    F: Fn(ClientAddr, Request<Body>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send,
{
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self(peer, request)
    }
}

/// A server that runs, in threads of its own, until it is stopped or dropped.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use kylin_lb::{Body, ClientAddr};
/// use kylin_lb::server::Server;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let hello = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("hello")) };
/// let server = Server::builder().listen("127.0.0.1:0".parse()?, hello).threads(1).start()?;
/// println!("listening on {}", server.addresses()[0]);
/// let stopped = server.stop(Duration::from_secs(10)).await;
/// assert_eq!(stopped.cut, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[must_use = "a server that is dropped stops at once"]
pub struct Server {
    addresses: Vec<SocketAddr>,
    /// Turned to true when the server is to stop; the loops also end when it is dropped.
    stop: watch::Sender<Option<Duration>>,
    loops: Vec<Loop>,
}

/// One accept loop's thread.
struct Loop {
    /// Tells how many connections were cut, when the loop has ended.
    done: tokio::sync::oneshot::Receiver<usize>,
    thread: JoinHandle<()>,
}

/// How a server came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Connections that still had a request in flight when the time was up.
    pub cut: usize,
}

impl Server {
    /// A builder without listeners.
    pub fn builder<H: Handler>() -> ServerBuilder<H> {
        ServerBuilder::new()
    }

    /// The addresses of the TCP listeners, in the order in which they were added.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops: no new connections are taken, idle ones are closed, requests in flight are finished and their connections
    /// closed after the answer. What is not finished after `grace` is cut.
    pub async fn stop(mut self, grace: Duration) -> Stopped {
        self.stop.send_replace(Some(grace));
        let mut cut = 0;
        for Loop { done, thread } in self.loops.drain(..) {
            cut += done.await.unwrap_or(0);
            // The loop has sent its last word: its thread is at its end.
            if thread.join().is_err() {
                tracing::error!("an accept loop panicked");
            }
        }
        Stopped { cut }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).field("threads", &self.loops.len()).finish()
    }
}
