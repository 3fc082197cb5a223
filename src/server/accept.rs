//! One core's accept loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::connection::serve;
use super::limits::Limits;
use super::listen::{Acceptor, Shared};
use super::stop::Stop;
use crate::request::ClientAddr;

/// The most connections that are taken from the kernel's backlog when the server stops.
const DRAINED: usize = 4096;

/// How long to wait after accepting failed for want of a resource, such as file descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Accepts until told to stop, and then waits for the connections. Returns how many had to be cut.
pub(super) async fn accept<H: Handler>(
    sockets: Vec<(Shared, Arc<H>)>,
    limits: Limits,
    slots: Arc<Semaphore>,
    mut stop: Stop,
) -> usize {
    // Every connection holds a sender; when all are gone, so are the connections.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut acceptors = JoinSet::new();
    for (socket, handler) in sockets {
        let acceptor = match socket.register() {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(%error, "cannot watch a listening socket");
                continue;
            }
        };
        let shared =
            Connections { handler, limits, slots: Arc::clone(&slots), stop: stop.clone(), alive: alive.clone() };
        acceptors.spawn(shared.accept_from(acceptor));
    }
    drop(alive);
    let grace = stop.grace().await;
    acceptors.join_all().await;
    let connections = all_gone.sender_strong_count();
    match timeout(grace, all_gone.recv()).await {
        Ok(_) => 0,
        Err(_) => connections.min(all_gone.sender_strong_count()),
    }
}

struct Connections<H> {
    handler: Arc<H>,
    limits: Limits,
    slots: Arc<Semaphore>,
    stop: Stop,
    alive: mpsc::Sender<()>,
}

impl<H: Handler> Connections<H> {
    async fn accept_from(mut self, acceptor: Acceptor) {
        loop {
            let mut stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                () = self.accept_one(&acceptor) => {}
            }
        }
        // What the kernel has already accepted for us would be reset with the socket. The timeout, short as it is, leaves the
        // runtime a turn to hear of it.
        for _ in 0..DRAINED {
            // Unconstrained, or the runtime would interrupt a long drain.
            if timeout(Duration::ZERO, unconstrained(self.accept_one(&acceptor))).await.is_err() {
                return;
            }
        }
    }

    async fn accept_one(&mut self, acceptor: &Acceptor) {
        match acceptor {
            Acceptor::Tcp(listener) => {
                let accepted = listener.accept().await;
                match accepted.and_then(|(stream, peer)| stream.set_nodelay(true).map(|()| (stream, peer))) {
                    Ok((stream, peer)) => self.spawn(stream, peer.into()).await,
                    Err(error) => recover(error).await,
                }
            }
            #[cfg(unix)]
            Acceptor::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, ClientAddr::Unix).await,
                Err(error) => recover(error).await,
            },
        }
    }

    /// Serves a connection as soon as there is a slot for it.
    ///
    /// First the connection, then its slot: a loop that waits for a connection must keep no slot from the others.
    async fn spawn<S>(&self, stream: S, peer: ClientAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
        let (handler, limits, stop, alive) =
            (Arc::clone(&self.handler), self.limits, self.stop.clone(), self.alive.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(stream, peer, handler, limits, stop).await {
                tracing::debug!(%error, "a client's connection ended");
            }
            drop((alive, slot));
        });
    }
}

/// After accepting failed: lets a while pass, unless only that one connection was to blame.
async fn recover(error: io::Error) {
    if !is_of_one_connection(&error) {
        tracing::error!(%error, "cannot accept connections");
        sleep(BREATH).await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}
