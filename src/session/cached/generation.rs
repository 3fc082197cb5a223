//! Detects that the store has lost all its records. A record with a random number marks the
//! generation of the store. If that record is absent or has another number, the earlier records are
//! lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::ended::tombstone;
use super::{CachedStore, Unavailable};
use crate::background::{self, BackgroundTask};
use crate::clock::timer_in;
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord};

/// The interval at which each front end checks for a loss.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The time that front ends have for writing their tombstones after a loss.
const TOMBSTONE_TIME: Duration = Duration::from_secs(3);
/// The time to live of the record, which each check extends.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// The number of tombstones that are written concurrently.
const CONCURRENCY: usize = 64;

/// The generation of the store, as this front end knows it.
pub(super) struct Generation {
    key: SessionKey,
    known: Mutex<GenerationState>,
    /// Serialises checks.
    checking: tokio::sync::Mutex<()>,
    task: BackgroundTask,
}

/// The losses of the store that this front end knows about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LossEpoch {
    /// Changes whenever the store may have lost records: after a failed operation, or after a lost
    /// connection.
    pub(super) possible: u32,
    /// Changes when the store has lost all records. Used only with
    /// [`Shared`](super::RestoreAfterLoss::Shared).
    pub(super) proven: u32,
}

#[derive(Default)]
struct GenerationState {
    /// The content of the record; `None` before the first check.
    id: Option<Bytes>,
    /// The number of times that it has changed.
    losses: u32,
    /// The possible losses up to which all tombstones were written.
    written: u32,
    /// The earliest time at which sessions may be restored.
    restore_from: Option<Instant>,
}

impl Generation {
    pub(super) fn new(key: SessionKey) -> Self {
        Generation {
            key,
            known: Mutex::default(),
            checking: tokio::sync::Mutex::default(),
            task: BackgroundTask::default(),
        }
    }

    pub(super) fn losses(&self) -> u32 {
        self.known.lock().losses
    }

    pub(super) async fn wait_for_tombstones(&self) {
        let from = self.known.lock().restore_from;
        if let Some(from) = from {
            sleep_until(from).await;
        }
    }
}

impl CachedStore {
    /// Starts to watch the store for losses, if the setting requires it. The first call waits until
    /// the generation is known, so that no session is learned earlier.
    pub(super) async fn watch_generation(self: &Arc<Self>) {
        if !self.is_shared() {
            return;
        }
        background::ensure_running(
            self,
            |store| &store.generation.task,
            |_| CHECK_INTERVAL,
            |store: Arc<Self>| async move { _ = store.check_generation().await },
            |_| true,
        );
        if self.generation.known.lock().id.is_none() {
            _ = self.check_generation().await;
        }
    }

    /// Checks whether the store has lost its records. If so, writes the tombstones of this front
    /// end.
    pub(super) async fn check_generation(self: &Arc<Self>) -> Result<(), Unavailable> {
        let _checking = self.generation.checking.lock().await;
        if !self.is_allowed() {
            return Err(Unavailable);
        }
        let possible = self.loss_epoch().possible;
        let id = self.load_generation().await?;
        let is_lost = {
            let mut known = self.generation.known.lock();
            let is_other = known.id.as_ref().is_some_and(|known| *known != id);
            if is_other {
                known.losses = known.losses.wrapping_add(1);
                known.restore_from = Some(timer_in(TOMBSTONE_TIME));
                tracing::warn!(
                    "session store has lost its records; the sessions of this front end are restored when they are used"
                );
            }
            // A server that took over may lack the latest records. Before the first check, nothing
            // can be lost.
            let is_behind = known.id.is_some() && known.written != possible;
            known.id = Some(id);
            known.written = possible;
            is_other || is_behind
        };
        if is_lost && !self.write_tombstones().await {
            // The next check tries again.
            self.generation.known.lock().written = possible.wrapping_sub(1);
        }
        Ok(())
    }

    /// Returns the number in the store. If there is none, this front end chooses one.
    async fn load_generation(self: &Arc<Self>) -> Result<Bytes, Unavailable> {
        let key = &self.generation.key;
        let loaded = self.call_in_background(self.store.load(key)).await.map_err(|_| Unavailable)?;
        if let Some(stored) = loaded {
            _ = self.call_in_background(self.store.touch(key, TTL)).await;
            return Ok(stored.record.sealed().clone());
        }
        let id = Bytes::copy_from_slice(&fastrand::u128(..).to_ne_bytes());
        let record = SessionRecord::default().with_sealed(id.clone());
        match self.call_in_background(self.store.save(key, &record, Precondition::Absent, TTL)).await {
            Ok(SaveOutcome::Stored(_)) => Ok(id),
            Ok(SaveOutcome::Conflict(Some(winner))) => Ok(winner.record.sealed().clone()),
            Ok(SaveOutcome::Conflict(None)) | Err(_) => Err(Unavailable),
        }
    }

    /// Writes the tombstones of all sessions that were logged out here. Returns false if the store
    /// became unavailable.
    async fn write_tombstones(self: &Arc<Self>) -> bool {
        let mut writes = JoinSet::new();
        let mut all_written = true;
        for (key, ttl) in self.ended.all() {
            if writes.len() >= CONCURRENCY {
                all_written &= matches!(writes.join_next().await, Some(Ok(true)));
            }
            let store = Arc::clone(self);
            let ttl = ttl.max(Duration::from_secs(1));
            writes.spawn(async move { store.write_tombstone(&key, ttl).await.is_ok() });
        }
        while let Some(written) = writes.join_next().await {
            all_written &= matches!(written, Ok(true));
        }
        all_written
    }

    /// Replaces the session's record in the store, if any, with its tombstone.
    pub(super) async fn write_tombstone(self: &Arc<Self>, key: &SessionKey, ttl: Duration) -> Result<(), Unavailable> {
        let tombstone = tombstone();
        let mut precondition = Precondition::Absent;
        loop {
            let saved = self.call_in_background(self.store.save(key, &tombstone, precondition, ttl)).await;
            precondition = match saved {
                Ok(SaveOutcome::Stored(_)) => return Ok(()),
                Ok(SaveOutcome::Conflict(Some(stored))) if stored.record == tombstone => return Ok(()),
                // Another front end has just written. That is rare, because one session has few
                // concurrent requests.
                Ok(SaveOutcome::Conflict(Some(stored))) => Precondition::Version(stored.version),
                Ok(SaveOutcome::Conflict(None)) => Precondition::Absent,
                Err(_) => return Err(Unavailable),
            };
        }
    }
}
