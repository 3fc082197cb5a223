//! The node behind a socket, which a test can kill and restart like a process.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::backend::Backend;
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::data::metastore::Metastore;
use crate::testing::kylin::faults::ResetSwitch;

/// How long [`KylinNode::serve`] waits for an address that is still in use by a [`Served`] that was
/// just dropped.
const BIND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle: `connectionTimeout` in Kylin's `server.xml`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

impl KylinNode {
    /// Listens on `addr` (port 0 means any free port) and serves HTTP/1.1 there until the result is
    /// killed or dropped.
    ///
    /// The node may listen on several addresses, and on the same one again right after a kill.
    ///
    /// # Errors
    /// An I/O error if the address cannot be bound.
    pub async fn serve(&self, addr: SocketAddr) -> io::Result<Served> {
        let listener = listen(addr).await?;
        let addr = listener.local_addr()?;
        let settings = self.settings();
        settings.metastore.register(addr, Arc::downgrade(&self.inner));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(self.clone(), listener, stopped));
        Ok(Served { addr, stop: Some(stop), task, metastore: settings.metastore.clone() })
    }
}

/// A listening node. Dropping it kills it.
pub struct Served {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    metastore: Metastore,
}

impl Served {
    /// Returns the address on which the node listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills the node like `kill -9`: closes the listener and drops every connection at once.
    /// Returns when that is done.
    ///
    /// The node's sessions are still there when it is served again. A process would have lost them:
    /// see [`KylinNode::forget_sessions`].
    pub async fn kill(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the task has ended already.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        self.metastore.unregister(self.addr);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Binds the address. tokio sets SO_REUSEADDR, so connections of an earlier listener that linger in
/// the kernel do not matter.
async fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let begun = SystemClock.now();
    loop {
        match TcpListener::bind(addr).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && SystemClock.now() - begun < BIND_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => return bound,
        }
    }
}

async fn accept(node: KylinNode, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(node.clone(), stream));
                }
                // Usually the process is out of descriptors until others are closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(node: KylinNode, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let _open = OpenConnection::new(&node);
    let switch = ResetSwitch::default();
    let service = {
        let switch = switch.clone();
        service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(switch.clone());
            let node = node.clone();
            Box::pin(async move { node.send(request.map(Body::from)).await })
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // The client, or an injected fault, causes the failure of a connection.
    let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    if switch.0.load(Ordering::SeqCst) {
        let stream = connection.into_parts().io.into_inner();
        // With a linger time of zero nothing blocks. Blocking is the reason for the deprecation,
        // and the replacement is newer than the oldest tokio that this crate supports.
        #[allow(deprecated, reason = "see above")]
        let _ = stream.set_linger(Some(Duration::ZERO));
    }
}

/// Counts a connection while it is open.
struct OpenConnection(KylinNode);

impl OpenConnection {
    fn new(node: &KylinNode) -> Self {
        node.inner.counts.add(|stats| {
            stats.connections += 1;
            stats.open_connections += 1;
        });
        OpenConnection(node.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.inner.counts.add(|stats| stats.open_connections -= 1);
    }
}
