//! Connections that carry one request at a time, for protocols whose answers belong to the request before them.
//!
//! Callers are dropped at their deadline, in the middle of anything. An answer that nobody read would then be taken for that of
//! the next request, another session's. So the work is not the caller's: a task does it, to the end or to a limit of its
//! own, and gives the connection back whether or not somebody still waits. For the same reason a connection that is being made
//! when its caller goes is there for the next one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::{Fault, Gate};
use crate::session::StoreError;

/// How long making a connection may take.
const DIAL: Duration = Duration::from_secs(1);
/// How long one piece of work may take in all: above every sensible deadline of a caller.
const LIMIT: Duration = Duration::from_secs(3);

/// Makes connections to one server.
pub(crate) trait Dial: Send + Sync + 'static {
    /// What is made.
    type Connection: Send + 'static;
    /// The server's kind, for messages.
    const SYSTEM: &'static str;

    /// A connection that is ready for work.
    fn dial(&self) -> impl Future<Output = Result<Self::Connection, Fault>> + Send;

    /// Told why a connection was lost, before another one is made.
    fn lost(&self, _why: &Fault) {}
}

/// Why work was not done.
pub(crate) enum Failed {
    /// The connection is of no further use. If it was kept from earlier, the work is done again on a fresh one; so work has
    /// to be such that this does no harm.
    Lost(Fault),
    /// The connection is good; the server's answer was not.
    Answered(StoreError),
}

impl<E: Into<StoreError>> From<E> for Failed {
    fn from(answer: E) -> Self {
        Failed::Answered(answer.into())
    }
}

/// One piece of work under way.
pub(crate) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, Failed>> + Send + 'c>>;

/// At most so many connections to one server, made when they are needed.
pub(crate) struct Pool<D: Dial>(Arc<Shared<D>>);

impl<D: Dial> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Pool(self.0.clone())
    }
}

struct Shared<D: Dial> {
    dialer: D,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<D::Connection>>,
    gate: Gate,
    lost: AtomicU64,
}

impl<D: Dial> Pool<D> {
    /// No connection yet; later at most `most`.
    pub(crate) fn new(dialer: D, most: usize) -> Self {
        let turns = Arc::new(Semaphore::new(most));
        let (idle, gate, lost) = (Mutex::default(), Gate::default(), AtomicU64::default());
        Pool(Arc::new(Shared { dialer, turns, idle, gate, lost }))
    }

    /// What makes the connections.
    pub(crate) fn dialer(&self) -> &D {
        &self.0.dialer
    }

    /// How many connections were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Does `work` on a connection of its own.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no connection to be had, otherwise what `work` fails with.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut D::Connection) -> Work<'c, T> + Send + Sync + 'static,
    {
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| ended::<D>())?;
        if self.0.idle.lock().is_empty() {
            self.0.gate.check()?;
        }
        let (mut done, result) = oneshot::channel();
        let shared = self.0.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let outcome = timeout(LIMIT, shared.attempt(work, &mut done)).await;
            let slow = || Err(Fault::unavailable(D::SYSTEM, "no answer").into());
            let _ = done.send(outcome.unwrap_or_else(|_| slow()));
        });
        // A task is dropped unfinished only with its runtime.
        result.await.unwrap_or_else(|_| Err(ended::<D>().into()))
    }
}

impl<D: Dial> Shared<D> {
    async fn attempt<T>(
        &self,
        work: impl for<'c> Fn(&'c mut D::Connection) -> Work<'c, T>,
        caller: &mut oneshot::Sender<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        loop {
            let kept = self.idle.lock().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.dial().await?,
            };
            if caller.is_closed() {
                self.idle.lock().push(connection);
                return Err(Fault::unavailable(D::SYSTEM, "given up by its caller").into());
            }
            let failed = match work(&mut connection).await {
                Ok(value) => {
                    self.idle.lock().push(connection);
                    return Ok(value);
                }
                Err(failed) => failed,
            };
            match failed {
                Failed::Answered(error) => {
                    self.idle.lock().push(connection);
                    return Err(error);
                }
                Failed::Lost(fault) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    self.dialer.lost(&fault);
                    // What ended this one has most likely ended all that were kept.
                    drop(connection);
                    let stale = std::mem::take(&mut *self.idle.lock());
                    drop(stale);
                    if fresh {
                        return Err(fault.into());
                    }
                }
            }
        }
    }

    async fn dial(&self) -> Result<D::Connection, Fault> {
        self.gate.check()?;
        let dialed = timeout(DIAL, self.dialer.dial()).await;
        match dialed.unwrap_or_else(|_| Err(Fault::unavailable(D::SYSTEM, "no connection in time"))) {
            Ok(connection) => {
                self.gate.open();
                Ok(connection)
            }
            Err(fault) => {
                self.gate.close(fault.clone());
                Err(fault)
            }
        }
    }
}

fn ended<D: Dial>() -> Fault {
    Fault::unavailable(D::SYSTEM, "the runtime has ended")
}

impl<D: Dial> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.0.idle.lock().len()).finish_non_exhaustive()
    }
}
