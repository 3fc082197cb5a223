//! The node behind a socket, to be killed and started again as a process is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::data::metastore::Metastore;
use crate::testing::kylin::faults::ResetSwitch;

/// How long [`KylinNode::serve`] waits for an address that is still taken, by a [`Served`] that was dropped a moment ago.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

impl KylinNode {
    /// Listens on `addr` (port 0: any free one) and answers HTTP/1.1 there until the result is killed or dropped.
    ///
    /// The node may listen on several addresses, and on the same one again right after a kill.
    ///
    /// # Errors
    /// When the address cannot be bound.
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

/// A node that listens. Dropping it kills it.
pub struct Served {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    metastore: Metastore,
}

impl Served {
    /// The address that the node listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills the node as `kill -9` does: the listener is closed and every connection dropped in the middle of whatever
    /// it does. When this returns, all of that has happened.
    ///
    /// The node's sessions are still there when it is served again; a process would have lost them, see
    /// [`KylinNode::forget_sessions`].
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

/// tokio sets SO_REUSEADDR, so that connections of an earlier listener that linger in the kernel are in nobody's way.
async fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let begun = SystemClock.now();
    loop {
        match TcpListener::bind(addr).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && SystemClock.now() - begun < ADDRESS_PATIENCE => {
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
                // Out of descriptors, as a rule: others have to be closed first.
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
    let switch = ResetSwitch::default();
    let wire = Wire::new(&node, stream, switch.clone());
    let keep_alive = node.settings().keep_alive;
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(switch.clone());
        let node = node.clone();
        async move { node.answer(request.map(Body::from)).await.map_err(|_| io::Error::from(io::ErrorKind::Other)) }
    });
    // A failed connection is the other side's business, or a fault that was asked for.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        .serve_connection(TokioIo::new(wire), service)
        .await;
}

/// A connection that can end with a reset and is counted while it is open.
struct Wire {
    stream: TcpStream,
    switch: ResetSwitch,
    node: KylinNode,
}

impl Wire {
    fn new(node: &KylinNode, stream: TcpStream, switch: ResetSwitch) -> Self {
        node.inner.counts.add(|stats| {
            stats.connections += 1;
            stats.open_connections += 1;
        });
        Wire { stream, switch, node: node.clone() }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.switch.0.load(Ordering::SeqCst) {
            // With no time to linger nothing blocks, which is the reason for the deprecation; its replacement is younger
            // than the oldest tokio that this crate works with.
            #[allow(deprecated, reason = "see above")]
            let _ = self.stream.set_linger(Some(Duration::ZERO));
        }
        self.node.inner.counts.add(|stats| stats.open_connections -= 1);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
