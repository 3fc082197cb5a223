//! The accept loop of one core.

mod replace;
mod serving;

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{sleep, timeout};

pub use self::replace::Replaced;
pub(super) use self::replace::RunningListener;
pub(super) use self::serving::{CurrentHandler, Serving, SharedServing};
use super::Handler;
use super::handshake::accepted;
use super::limits::ClientShares;
use super::listen::Acceptor;
use super::socket::ClientSocket;
use super::stop::{IdleList, StopSignal, StopStage};
use crate::request::{ClientAddr, LimitReached};
use crate::shortage::{self, is_shortage};

/// The number of connections that are taken from the kernel's backlog when the server stops.
const MAX_DRAINED: usize = 4096;

/// The time that connections have for writing their last responses when the grace time is over.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the loop waits after a resource such as file descriptors ran out: the first and the
/// maximum time.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a new connection waits for the permit of an idle one before another idle one is closed.
const CLOSE_INTERVAL: Duration = Duration::from_millis(100);

/// The limits on the connections that the accept loops of a server admit.
#[derive(Clone)]
pub(super) struct Admission {
    /// One permit for each connection of the server.
    pub(super) permits: Arc<Semaphore>,
    /// `None` is no limit.
    pub(super) shares: Option<ClientShares>,
    pub(super) idle: Arc<IdleList>,
}

impl Admission {
    /// Waits for the permit of another connection. The server first closes idle ones. Returns
    /// `None` when the server stops; the connection is then served without a permit.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let Admission { permits, idle, .. } = self;
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(permit);
        }
        let mut permit = pin!(Arc::clone(permits).acquire_owned());
        loop {
            idle.close_idlest();
            tokio::select! {
                biased;
                permit = permit.as_mut() => return permit.ok(),
                // The idle connection may have received a request at the same time, or there was
                // none.
                () = sleep(CLOSE_INTERVAL) => {}
            }
        }
    }
}

/// A change of the listeners of an accept loop.
pub(super) enum ListenerChange {
    /// Accepts from one socket of the listener with this number.
    Add { number: u64, start: StartListener },
    /// Closes the sockets of a listener. Its requests in flight finish.
    Remove(u64),
}

type AcceptFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Registers a socket with the runtime of the loop, and returns the future that accepts from it.
pub(super) type StartListener =
    Box<dyn FnOnce(Admission, StopSignal, mpsc::Sender<()>) -> io::Result<AcceptFuture> + Send>;

/// Accepts connections from the listeners that `changes` adds, until the server stops. Then waits
/// for the connections of all loops to end. Returns how many of its own connections were cut.
///
/// Every loop holds a sender of `serving` as long as it has connections. The loop drives its
/// runtime until all loops have dropped theirs. Idle connections to nodes and background tasks are
/// shared, so a request of another loop may depend on a socket or a task of this runtime.
pub(super) async fn accept(
    mut changes: mpsc::UnboundedReceiver<ListenerChange>,
    admission: Admission,
    mut stop: watch::Receiver<Option<Duration>>,
    serving: watch::Sender<()>,
) -> usize {
    let mut all_served = serving.subscribe();
    // Every connection holds a sender. The channel closes when the last connection ends.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    // The listeners by number. Removed ones stay as long as they have connections.
    let mut stages: Vec<(u64, watch::Sender<StopStage>)> = Vec::new();
    let mut acceptors = JoinSet::new();
    let grace = loop {
        tokio::select! {
            // Changes are handled first, because the listeners of a server that stops at once may
            // have connections in their backlog.
            biased;
            Some(change) = changes.recv() => match change {
                ListenerChange::Add { number, start } => {
                    let (stage, signal) = StopSignal::channel(Arc::clone(&admission.idle));
                    match start(admission.clone(), signal, alive.clone()) {
                        Ok(acceptor) => _ = acceptors.spawn(acceptor),
                        Err(error) => tracing::error!(%error, "cannot register a listening socket"),
                    }
                    stages.push((number, stage));
                }
                ListenerChange::Remove(number) => {
                    stages.retain(|(_, stage)| !stage.is_closed());
                    for (_, stage) in stages.iter().filter(|(of, _)| *of == number) {
                        stage.send_replace(StopStage::Draining);
                    }
                }
            },
            Some(_) = acceptors.join_next() => {}
            // A dropped server has no grace time.
            grace = stop.wait_for(Option::is_some) => break grace.map_or(None, |grace| *grace).unwrap_or_default(),
        }
    };
    drop(alive);
    // Connections that wait for a permit are served without one.
    admission.permits.close();
    let advance = |to| stages.iter().for_each(|(_, stage)| _ = stage.send_replace(to));
    advance(StopStage::Draining);
    acceptors.join_all().await;
    let connections = all_gone.sender_strong_count();
    let is_drained = tokio::select! {
        biased;
        _ = all_gone.recv() => true,
        () = sleep(grace) => false,
        // The grace time ends early, or the server is dropped.
        _ = stop.wait_for(|grace| *grace == Some(Duration::ZERO)) => false,
    };
    let mut cut = 0;
    if !is_drained {
        cut = connections.min(all_gone.sender_strong_count());
        advance(StopStage::Cutting);
        _ = timeout(LAST_RESPONSE_TIMEOUT, all_gone.recv()).await;
    }
    drop(serving);
    // Returns an error, because no value is sent: every loop has dropped its sender.
    _ = all_served.changed().await;
    cut
}

/// Accepts from one socket.
struct AcceptTask<H> {
    serving: SharedServing<H>,
    admission: Admission,
    stop: StopSignal,
    alive: mpsc::Sender<()>,
    /// How long to wait after the next error of the listening socket.
    pause: Duration,
}

impl<H: Handler> AcceptTask<H> {
    fn start(
        socket: Socket,
        serving: SharedServing<H>,
        admission: Admission,
        stop: StopSignal,
        alive: mpsc::Sender<()>,
    ) -> io::Result<AcceptFuture> {
        let acceptor = Acceptor::register(socket)?;
        Ok(Box::pin(AcceptTask { serving, admission, stop, alive, pause: ACCEPT_ERROR_PAUSE }.run(acceptor)))
    }

    async fn run(mut self, acceptor: Acceptor) {
        loop {
            let mut stop = self.stop.clone();
            let mut accepted = pin!(self.accept_one(&acceptor));
            tokio::select! {
                biased;
                () = stop.stopped() => {
                    // A connection that waits for a permit continues to wait in its own task.
                    _ = timeout(Duration::ZERO, unconstrained(accepted)).await;
                    break;
                }
                () = accepted.as_mut() => {}
            }
        }
        // Closing the socket would reset the connections that the kernel has already accepted. The
        // zero timeout still lets the runtime poll the socket once.
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
            Acceptor::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, ClientAddr::Unix).await,
                Err(error) => self.recover(error).await,
            },
        }
    }

    /// Serves a connection when a permit is free.
    ///
    /// The permit is taken after the connection, because a loop that waits for a connection must
    /// not hold a permit that another loop needs.
    async fn spawn<S: ClientSocket>(&mut self, stream: S, peer: ClientAddr) {
        self.pause = ACCEPT_ERROR_PAUSE;
        // A peer that names clients by the PROXY protocol has no limit of its own.
        let serving = self.serving.load_full();
        let names_client = serving.options.takes_client_from(peer);
        let shares = self.admission.shares.clone();
        let share = match &shares {
            Some(shares) if !names_client && !serving.handler.trusts(peer) => match shares.acquire(peer) {
                Ok(share) => share,
                // Closes the connection.
                Err(LimitReached) => return,
            },
            _ => None,
        };
        let mut is_closing = self.stop.clone();
        let permit = tokio::select! {
            biased;
            permit = self.admission.permit() => Ok(permit),
            // Boxed, because it is rare and the task of each connection would otherwise hold it.
            () = is_closing.stopped() => Err(Box::new(self.admission.clone())),
        };
        let (stop, alive) = (self.stop.clone(), self.alive.clone());
        let handler = Arc::clone(&self.serving);
        tokio::spawn(async move {
            let permit = match permit {
                Ok(permit) => permit,
                Err(admission) => Box::pin(async move { admission.permit().await }).await,
            };
            if let Err(error) = accepted(stream, peer, serving, handler, shares, stop).await {
                tracing::debug!(%error, "client connection failed");
            }
            drop((alive, permit, share));
        });
    }

    /// Waits a moment after an error of the listening socket. An error of a single connection needs
    /// no wait. If descriptors are short, the wait grows each time, and an idle connection is
    /// closed.
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
