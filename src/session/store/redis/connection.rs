//! The connection that all callers share.
//!
//! Callers come and go at their deadlines, so the connection depends on none of them. A task opens
//! it and continues even if the caller that needed it first has gone. Callers wait for its result.
//! A caller that is dropped without a response starts a health check of the connection. Otherwise
//! the store would keep using a connection whose server vanished silently.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::connector::{Connector, RedisConnection, Topology};
use super::failure::{RequestFailure, SYSTEM};
use crate::session::store::remote::{Failure, ReconnectBackoff};

/// The time limit for opening a connection, including logins and Sentinels.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time that a connection may take to respond to a health check.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a request is sent, including the first time.
const MAX_ATTEMPTS: u32 = 4;
/// The delay before a request is sent again to a busy server. It doubles each time: 35 ms in total.
const RETRY_DELAY: Duration = Duration::from_millis(5);

pub(super) struct SharedConnection(Arc<Shared>);

struct Shared {
    connector: Connector,
    backoff: ReconnectBackoff,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    /// A connection that is being opened: the first one, or the successor of the live one.
    connecting: Option<Connecting>,
    /// The number of connections that were opened so far.
    opened: u64,
    health_check: Option<AbortHandle>,
}

#[derive(Clone)]
struct Live {
    connection: RedisConnection,
    number: u64,
}

struct Connecting {
    result: ConnectResult,
    task: AbortHandle,
}

/// Receives `None` until the attempt to connect has ended.
type ConnectResult = watch::Receiver<Option<Result<(), Failure>>>;

impl SharedConnection {
    pub(super) fn new(connector: Connector) -> Self {
        let (backoff, slot) = (ReconnectBackoff::default(), Mutex::default());
        SharedConnection(Arc::new(Shared { connector, backoff, slot }))
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.connector.topology
    }

    /// Returns how many connections were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.0.slot.lock().opened
    }

    /// Sends `command`, which concerns `key`, and returns the response. May send it several times.
    pub(super) async fn request(&self, command: &Cmd, key: &[u8]) -> Result<Value, RequestFailure> {
        let mut attempt = 1;
        loop {
            let mut live = self.connection().await.map_err(RequestFailure::ConnectionLost)?;
            let pending = PendingRequest { shared: &self.0, number: live.number, key };
            let response = live.connection.send(command).await;
            pending.completed();
            let failure = match response {
                Ok(value) => return Ok(value),
                Err(error) => RequestFailure::from(&error),
            };
            let delay = match &failure {
                RequestFailure::ConnectionLost(_) => {
                    self.0.replace(live.number);
                    // The driver of a cluster finds lost nodes again by itself, with its own
                    // timing.
                    if self.topology().is_cluster() {
                        return Err(failure);
                    }
                    None
                }
                RequestFailure::Busy(_) => Some(RETRY_DELAY * 2_u32.pow(attempt - 1)),
                RequestFailure::NoScript | RequestFailure::WrongType | RequestFailure::Refused(_) => {
                    return Err(failure);
                }
            };
            if attempt == MAX_ATTEMPTS {
                return Err(failure);
            }
            if let Some(delay) = delay {
                sleep(delay).await;
            }
            attempt += 1;
        }
    }

    /// Returns the live connection. Opens one if there is none.
    async fn connection(&self) -> Result<Live, Failure> {
        loop {
            let mut result = {
                let mut slot = self.0.slot.lock();
                if let Some(live) = &slot.live {
                    return Ok(live.clone());
                }
                match &slot.connecting {
                    Some(connecting) => connecting.result.clone(),
                    None => {
                        self.0.backoff.check()?;
                        self.0.start_connecting(&mut slot)
                    }
                }
            };
            match result.wait_for(Option::is_some).await.map(|result| result.clone()) {
                Ok(Some(Err(failure))) => return Err(failure),
                Ok(_) => {}
                // The task ended with its runtime. This caller runs in another one.
                Err(_) => {
                    let connecting = &mut self.0.slot.lock().connecting;
                    drop(connecting.take_if(|connecting| connecting.result.same_channel(&result)));
                }
            }
        }
    }
}

impl Shared {
    /// Replaces connection `number`, unless that has been done or is in progress. The connection to
    /// a single server is no longer used. The connection to a cluster stays until its successor is
    /// ready, because it repairs itself and most nodes still respond.
    fn replace(self: &Arc<Self>, number: u64) {
        let mut slot = self.slot.lock();
        if slot.live.as_ref().is_none_or(|live| live.number != number) {
            return;
        }
        if !self.connector.topology.is_cluster() {
            slot.live = None;
        }
        if slot.connecting.is_none() && self.backoff.check().is_ok() && tokio::runtime::Handle::try_current().is_ok() {
            self.start_connecting(&mut slot);
        }
    }

    fn start_connecting(self: &Arc<Self>, slot: &mut Slot) -> ConnectResult {
        let (sender, result) = watch::channel(None);
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let connected = shared.backoff.attempt(SYSTEM, CONNECT_TIMEOUT, shared.connector.connect()).await;
            let mut slot = shared.slot.lock();
            slot.connecting = None;
            let result = connected.map(|connection| {
                slot.opened += 1;
                slot.live = Some(Live { connection, number: slot.opened });
            });
            drop(slot);
            let _ = sender.send(Some(result));
        });
        slot.connecting = Some(Connecting { result: result.clone(), task: task.abort_handle() });
        result
    }

    /// Checks whether connection `number` still responds, and replaces it if not.
    fn check_health(self: &Arc<Self>, number: u64, key: Vec<u8>) {
        let mut slot = self.slot.lock();
        let is_checked = slot.health_check.as_ref().is_some_and(|task| !task.is_finished());
        let Some(mut live) = slot.live.clone().filter(|live| live.number == number && !is_checked) else { return };
        // Without a runtime, the check is left to the next caller, which runs in one.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shared = self.clone();
        let task = runtime.spawn(async move {
            let read = super::script::get_range(&key);
            match timeout(HEALTH_CHECK_TIMEOUT, live.connection.send(&read)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if !matches!(RequestFailure::from(&error), RequestFailure::ConnectionLost(_)) => {}
                Ok(Err(_)) | Err(_) => shared.replace(number),
            }
        });
        slot.health_check = Some(task.abort_handle());
    }
}

/// A request without a response. Starts a health check if its caller drops it.
struct PendingRequest<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
    key: &'a [u8],
}

impl PendingRequest<'_> {
    fn completed(self) {
        std::mem::forget(self);
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.shared.check_health(self.number, self.key.to_vec());
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        let slot = self.0.slot.lock();
        let tasks = slot.connecting.iter().map(|connecting| &connecting.task).chain(&slot.health_check);
        tasks.for_each(AbortHandle::abort);
    }
}
