//! A pool of connections that carry one request at a time, for protocols without request ids.
//!
//! A caller can be dropped at any point when its deadline passes. The next request on the
//! connection would then read the response that the caller left behind, which concerns another
//! session. So a separate task does the work, until it ends or reaches a limit. The task returns
//! the connection to the pool even if the caller no longer waits. For the same reason, a connection
//! that is ready after its caller has gone serves the next caller.

use std::future::Future;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::Failure;
use super::backoff::ReconnectBackoff;
use crate::maybe_ready::BoxFuture;
use crate::session::StoreError;

/// The time limit for a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit for a whole request. It exceeds every sensible deadline of a caller.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to one server.
pub(crate) trait Connect: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;
    /// The name of the system, for messages.
    const SYSTEM: &'static str;

    /// Opens a connection that is ready for requests.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Called when a connection was lost, before another one is opened.
    fn on_connection_lost(&self, _failure: &Failure) {}
}

/// The reason why a request failed.
pub(crate) enum RequestError {
    /// The connection cannot be used again. If it was a kept one, the pool repeats the request on a
    /// new connection, so a request must be safe to repeat.
    ConnectionLost(Failure),
    /// The connection stays usable.
    Refused(Failure),
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> Self {
        RequestError::ConnectionLost(failure)
    }
}

/// Sends a request made of `R` and reads the response. May be called twice.
pub(crate) type Exchange<C, R, T, E> =
    for<'a> fn(&'a mut <C as Connect>::Connection, &'a R) -> BoxFuture<'a, Result<T, E>>;

/// A bounded number of connections to one server, opened on demand.
pub(crate) struct Pool<C: Connect>(Arc<Shared<C>>);

struct Shared<C: Connect> {
    connector: C,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<C::Connection>>,
    backoff: ReconnectBackoff,
    lost: AtomicU64,
}

impl<C: Connect> Pool<C> {
    /// Makes a pool without a connection.
    pub(crate) fn new(connector: C, max_connections: NonZeroU16) -> Self {
        Pool(Arc::new(Shared {
            connector,
            permits: Arc::new(Semaphore::new(usize::from(max_connections.get()))),
            idle: Mutex::default(),
            backoff: ReconnectBackoff::default(),
            lost: AtomicU64::default(),
        }))
    }

    /// Returns the connector.
    pub(crate) fn connector(&self) -> &C {
        &self.0.connector
    }

    /// Returns the number of connections that were lost so far.
    pub(crate) fn lost_connections(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Performs the `exchange` of `request` on its own connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no connection can be opened, otherwise the error of
    /// `exchange`.
    pub(crate) async fn run<R, T, E>(&self, request: R, exchange: Exchange<C, R, T, E>) -> Result<T, StoreError>
    where
        R: Send + Sync + 'static,
        T: Send + 'static,
        E: Into<RequestError> + 'static,
    {
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| runtime_ended::<C>())?;
        if self.0.idle.lock().is_empty() {
            self.0.backoff.check()?;
        }
        let (mut sender, response) = oneshot::channel();
        let shared = self.0.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let result = timeout(REQUEST_TIMEOUT, shared.send(&request, exchange, &mut sender)).await;
            let timed_out = || Err(Failure::unavailable(C::SYSTEM, "no response").into());
            let _ = sender.send(result.unwrap_or_else(|_| timed_out()));
        });
        // The task is dropped unfinished only with its runtime.
        response.await.unwrap_or_else(|_| Err(runtime_ended::<C>().into()))
    }
}

impl<C: Connect> Shared<C> {
    async fn send<R, T, E: Into<RequestError>>(
        &self,
        request: &R,
        exchange: Exchange<C, R, T, E>,
        caller: &mut oneshot::Sender<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        loop {
            let kept = self.idle.lock().pop();
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.backoff.attempt(C::SYSTEM, CONNECT_TIMEOUT, self.connector.connect()).await?,
            };
            if caller.is_closed() {
                self.idle.lock().push(connection);
                return Err(Failure::unavailable(C::SYSTEM, "the caller has gone").into());
            }
            let result = match exchange(&mut connection, request).await.map_err(E::into) {
                Ok(value) => Ok(value),
                Err(RequestError::Refused(failure)) => Err(failure.into()),
                Err(RequestError::ConnectionLost(failure)) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    self.connector.on_connection_lost(&failure);
                    // The cause that ended this connection has probably ended the idle ones too.
                    drop(connection);
                    drop(std::mem::take(&mut *self.idle.lock()));
                    if is_new {
                        return Err(failure.into());
                    }
                    continue;
                }
            };
            self.idle.lock().push(connection);
            return result;
        }
    }
}

fn runtime_ended<C: Connect>() -> Failure {
    Failure::unavailable(C::SYSTEM, "the runtime has ended")
}
