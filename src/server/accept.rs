//! The accept loop of one core.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::handshake::{ListenOptions, accepted};
use super::limits::Limits;
use super::listen::Acceptor;
use super::socket::ClientSocket;
use super::stop::{IdleList, StopSignal, StopStage};
use crate::request::{ClientAddr, ClientLimit, LimitReached};
use crate::shortage::{self, is_shortage};

/// How many connections are taken from the kernel's backlog when the server stops.
const MAX_DRAINED: usize = 4096;

/// How long connections have to write their last responses when the time of requests in flight is over.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the loop waits after a resource such as file descriptors ran out, at first and at most.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a new connection waits for the place of one that is idle, before another one is closed.
const CLOSE_INTERVAL: Duration = Duration::from_millis(100);

/// Which connections the accept loops of a server admit.
#[derive(Clone)]
pub(super) struct Admission {
    /// One for each connection of the server.
    pub(super) permits: Arc<Semaphore>,
    pub(super) client_limit: Option<Arc<ClientLimit>>,
    pub(super) idle: Arc<IdleList>,
}

/// Accepts connections until the server stops, and then waits for the connections to end. Returns
/// how many were cut.
pub(super) async fn accept<H: Handler>(
    sockets: Vec<(Socket, Arc<ListenOptions>, Arc<H>)>,
    limits: Limits,
    admission: Admission,
    mut stop: watch::Receiver<Option<Duration>>,
) -> usize {
    let (stage, signal) = StopSignal::channel(Arc::clone(&admission.idle));
    // Every connection holds a sender. The channel closes when the last connection ends.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut acceptors = JoinSet::new();
    for (socket, options, handler) in sockets {
        let acceptor = match Acceptor::register(socket) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(%error, "cannot register a listening socket");
                continue;
            }
        };
        let (admission, stop, alive) = (admission.clone(), signal.clone(), alive.clone());
        acceptors.spawn(
            AcceptTask { options, handler, limits: limits.clone(), admission, stop, alive, pause: ACCEPT_ERROR_PAUSE }
                .run(acceptor),
        );
    }
    drop(alive);
    // A server that was dropped gives no time.
    let grace = stop.wait_for(Option::is_some).await.map_or(None, |grace| *grace).unwrap_or_default();
    stage.send_replace(StopStage::Draining);
    acceptors.join_all().await;
    let connections = all_gone.sender_strong_count();
    if timeout(grace, all_gone.recv()).await.is_ok() {
        return 0;
    }
    let cut = connections.min(all_gone.sender_strong_count());
    stage.send_replace(StopStage::Cutting);
    _ = timeout(LAST_RESPONSE_TIMEOUT, all_gone.recv()).await;
    cut
}

/// Accepts from one socket.
struct AcceptTask<H> {
    options: Arc<ListenOptions>,
    handler: Arc<H>,
    limits: Limits,
    admission: Admission,
    stop: StopSignal,
    alive: mpsc::Sender<()>,
    /// The wait after the next error of the listening socket.
    pause: Duration,
}

impl<H: Handler> AcceptTask<H> {
    async fn run(mut self, acceptor: Acceptor) {
        loop {
            let mut stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                () = self.accept_one(&acceptor) => {}
            }
        }
        // Closing the socket would reset the connections that the kernel has already accepted. The
        // timeout of zero still lets the runtime poll the socket once.
        for _ in 0..MAX_DRAINED {
            // Unconstrained, because the cooperative budget would interrupt a long drain.
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
                    Err(error) => self.recover(error).await,
                }
            }
            #[cfg(unix)]
            Acceptor::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, ClientAddr::Unix).await,
                Err(error) => self.recover(error).await,
            },
        }
    }

    /// Serves a connection when a permit is free.
    ///
    /// The permit is taken after the connection: a loop that waits for a connection must not hold a
    /// permit that another loop needs.
    async fn spawn<S: ClientSocket>(&mut self, stream: S, peer: ClientAddr) {
        self.pause = ACCEPT_ERROR_PAUSE;
        // A peer that names clients by the PROXY protocol has no limit itself.
        let names_client = self.options.takes_client_from(peer);
        let client_limit = self.admission.client_limit.clone();
        let share = match &client_limit {
            Some(limit) if !names_client && !self.handler.trusts(peer) => match limit.acquire(peer) {
                Ok(share) => share,
                // Closes the connection.
                Err(LimitReached) => return,
            },
            _ => None,
        };
        let Some(permit) = self.permit().await else { return };
        let (options, handler, limits) = (Arc::clone(&self.options), Arc::clone(&self.handler), self.limits.clone());
        let (stop, alive) = (self.stop.clone(), self.alive.clone());
        tokio::spawn(async move {
            if let Err(error) = accepted(stream, peer, options, handler, limits, client_limit, stop).await {
                tracing::debug!(%error, "client connection failed");
            }
            drop((alive, permit, share));
        });
    }

    /// Waits for the place of another connection. The server first closes those that are idle.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let Admission { permits, idle, .. } = &self.admission;
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(permit);
        }
        let mut permit = pin!(Arc::clone(permits).acquire_owned());
        loop {
            idle.close_idlest();
            // The connection may have received a request at the same time, or none was idle.
            if let Ok(permit) = timeout(CLOSE_INTERVAL, permit.as_mut()).await {
                return permit.ok();
            }
        }
    }

    /// Waits a moment after an error of the listening socket. An error of a single connection needs no
    /// wait. Where descriptors are short, the wait is longer each time, and an idle connection is closed.
    async fn recover(&mut self, error: io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
        {
            return;
        }
        if is_shortage(&error) {
            shortage::report("accepting connections", &error);
            self.admission.idle.close_idlest();
        } else {
            tracing::error!(%error, "cannot accept connections");
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_ACCEPT_PAUSE);
    }
}
