//! Sessions in a store, as the strategies use them.
//!
//! [`Sessions`] is the handle. Behind it, a [`CachedStore`] wraps a [`SessionStore`]. It adds a
//! deadline for every operation, a near cache, a circuit breaker, and writes that wait while the
//! store is unavailable. Callers never receive an error; the worst result is [`Lookup::Unknown`].

mod breaker;
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay ends sessions"))]
mod ended;
mod generation;
mod in_use;
mod loss;
mod near;
mod pending;
mod recent_keys;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::breaker::{CircuitBreaker, OPEN_TIME};
use self::ended::EndedSessions;
use self::generation::{Generation, LossEpoch};
use self::in_use::InUseRegistry;
pub use self::loss::RestoreAfterLoss;
use self::near::{NearCache, NearEntry};
use self::pending::{PendingWrites, Write, Written};
pub(super) use self::recent_keys::RecentKeys;
use self::recent_keys::derive_key;
pub use self::sessions::{Sessions, SessionsBuilder};
use crate::background::{self, BackgroundTask};
use crate::clock::Epoch;
use crate::error_chain::error_chain;
use crate::request::ClientAddr;
use crate::session::secret::{SecretUse, Tagger};
use crate::session::store::is_of_connecting;
use crate::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};
use crate::shortage;

/// The result of a session lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The session has this record. The version is the precondition for replacing the record;
    /// `None` while the store does not have the record yet.
    Found(SessionRecord, Option<u64>),
    /// The session has this record under the key of a previous secret. The caller saves it under
    /// the current key.
    UnderOldKey(SessionRecord),
    /// There is no such session.
    Absent,
    /// The store is unavailable, and the near cache does not have the session.
    Unknown,
}

impl Lookup {
    /// Makes the lookup from the near cache alone.
    fn without_store(near: Option<NearEntry>) -> Self {
        near.map_or(Lookup::Unknown, |near| Lookup::Found(near.record, near.version))
    }

    /// Returns whether the session was found.
    pub(crate) fn is_bound(&self) -> bool {
        match self {
            Lookup::Found(..) | Lookup::UnderOldKey(_) => true,
            Lookup::Absent | Lookup::Unknown => false,
        }
    }
}

/// A store, behind the cache, the breaker and the queue.
struct CachedStore {
    store: Arc<dyn SessionStore>,
    /// `None` for a store in this process.
    near: Option<NearCache>,
    /// The store, if it is in this process.
    local: Option<MemoryStore>,
    /// Derive keys from session ids. The first one uses the current secret.
    taggers: Arc<[Tagger]>,
    /// The sessions under an earlier secret, which these sessions continue. Their near cache is
    /// used while the store is unavailable, and they still perform their pending writes. The next
    /// change of the secret drops them unless they have pending writes.
    previous: Option<Mutex<Option<Sessions>>>,
    recent_keys: RecentKeys,
    deadline: Duration,
    epoch: Epoch,
    breaker: CircuitBreaker,
    probe: BackgroundTask,
    pending: PendingWrites,
    in_use: InUseRegistry,
    failures: AtomicU32,
    /// The last failure. It is set before the breaker opens.
    last_failure: Mutex<Option<StoreFailure>>,
    /// Notified when the breaker opens or closes.
    availability: Notify,
    /// `None` if the secrets decide.
    restore: Option<RestoreAfterLoss>,
    /// Identifies these sessions within the process; not 0.
    #[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only the login relay asks who uses a secret"))]
    number: u64,
    /// The secrets of the login relays that use this store.
    secrets: Mutex<Vec<SecretUse>>,
    /// Shared with the sessions that these continue, because relayed sessions keep their keys when
    /// the secret changes.
    ended: Arc<EndedSessions>,
    generation: Generation,
}

/// The store is unavailable, or was too slow.
struct Unavailable;

/// A failure of the store, for logs.
#[derive(Debug, Clone)]
pub(crate) struct StoreFailure {
    /// The error and its causes.
    pub(crate) error: Box<str>,
    /// Whether a new connection failed, and not a request on one; `None` if that is unknown.
    pub(crate) is_of_connecting: Option<bool>,
}

impl StoreFailure {
    fn of(error: &StoreError) -> Self {
        StoreFailure { error: error_chain(error).into(), is_of_connecting: is_of_connecting(error) }
    }
}

impl CachedStore {
    /// Returns whether an operation may call the store now.
    fn is_allowed(&self) -> bool {
        self.breaker.allows(|| self.epoch.millis(), self.probe.is_running())
    }

    fn loss_epoch(&self) -> LossEpoch {
        // The counter may wrap around, because it is compared only for equality.
        let possible = self.failures.load(Ordering::Relaxed).wrapping_add(self.store.connection_epoch() as u32);
        LossEpoch { possible, proven: self.generation.losses() }
    }

    /// Waits for an operation until the deadline.
    async fn call<T>(self: &Arc<Self>, operation: StoreFuture<'_, T>) -> Result<T, StoreError> {
        self.call_within(self.deadline, operation).await
    }

    /// Waits for an operation of a background task. The deadline is longer, because a store that
    /// has just started is slow and must still receive the pending writes.
    async fn call_in_background<T>(self: &Arc<Self>, operation: StoreFuture<'_, T>) -> Result<T, StoreError> {
        self.call_within(self.deadline.max(OPEN_TIME / 2), operation).await
    }

    async fn call_within<T>(
        self: &Arc<Self>,
        deadline: Duration,
        operation: StoreFuture<'_, T>,
    ) -> Result<T, StoreError> {
        let result = tokio::time::timeout(deadline, operation).await;
        let result = result.unwrap_or(Err(StoreError::Timeout(deadline)));
        match &result {
            Ok(_) => {
                if self.breaker.record_success() {
                    self.availability.notify_waiters();
                    tracing::info!(target: "kylin_lb::state", "session store is available again");
                }
            }
            Err(error) => self.record_failure(error),
        }
        result
    }

    fn record_failure(self: &Arc<Self>, error: &StoreError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let shortage = match error {
            StoreError::TooLong(_) => return,
            StoreError::Shortage(_) => Some(error.to_string()),
            // Drivers may drop the cause, so the number of open files is checked too.
            _ => shortage::of_descriptors().map(|error| error.to_string()),
        };
        // This process is at fault, not the store.
        if let Some(error) = shortage {
            shortage::report("reaching the session store", &error);
            return;
        }
        let failure = StoreFailure::of(error);
        *self.last_failure.lock() = Some(failure.clone());
        if !self.breaker.record_failure(self.epoch.millis()) {
            return;
        }
        self.availability.notify_waiters();
        let address = self.store.address();
        tracing::warn!(target: "kylin_lb::state", address, error = %failure.error, "session store is unavailable");
        background::ensure_running(
            self,
            |store| &store.probe,
            |_| OPEN_TIME,
            |store: Arc<Self>| async move {
                // A random key, because if a part of the store is down, some keys still work.
                let key = SessionKey::from_bytes(fastrand::u128(..).to_ne_bytes());
                _ = store.call_in_background(store.store.load(&key)).await;
            },
            |store| store.breaker.is_open(),
        );
    }

    fn recall(&self, key: &SessionKey) -> Option<NearEntry> {
        let near = self.near.as_ref()?.get(key)?;
        Some(near).filter(|near| !self.is_ended(key, &near.record))
    }

    /// Returns the keys of the session with this id under the previous secrets.
    fn old_keys<'a>(&'a self, id: &'a [u8]) -> impl Iterator<Item = SessionKey> + 'a {
        self.taggers[1..].iter().map(move |tagger| derive_key(tagger, id))
    }

    /// Returns the session with this id and key that the near cache has under an earlier secret. A
    /// session of the login relay keeps its key when the secret changes; a binding does not.
    fn recall_previous(&self, key: &SessionKey, id: &[u8]) -> Option<NearEntry> {
        let previous = self.previous.as_ref()?.lock().clone()?;
        let binding = || previous.store.recall(&previous.key(id)).filter(|near| near.record.sealed().is_empty());
        let mut near = previous.store.recall(key).or_else(binding)?;
        (near.version, near.is_current) = (None, false);
        Some(near)
    }

    /// Returns whether this is the record of a session that was logged out here. Only the login
    /// relay ends sessions, and only it seals records.
    fn is_ended(&self, key: &SessionKey, record: &SessionRecord) -> bool {
        !record.sealed().is_empty() && self.ended.contains(key)
    }

    fn forget(&self, key: &SessionKey) {
        if let Some(near) = &self.near {
            near.forget(key);
        }
    }

    /// Updates the near cache with the lookup if it found a record. `epoch` is the loss epoch from
    /// before the call to the store.
    fn remember(&self, client: ClientAddr, key: &SessionKey, lookup: &Lookup, epoch: LossEpoch, is_written: bool) {
        if let (Some(near), Lookup::Found(record, version)) = (&self.near, lookup)
            && !self.is_ended(key, record)
        {
            near.learn(client, key, record, *version, epoch, is_written);
        }
    }

    /// Turns the result of a load into a lookup, and updates the near cache.
    fn loaded(
        &self,
        client: ClientAddr,
        key: &SessionKey,
        loaded: Result<Option<Stored>, StoreError>,
        near: Option<NearEntry>,
        epoch: LossEpoch,
    ) -> Lookup {
        match loaded {
            // The store has not received the logout yet, or has lost it.
            Ok(Some(_)) if self.near.is_some() && self.ended.contains(key) => Lookup::Absent,
            Ok(Some(Stored { record, version })) => {
                let lookup = Lookup::Found(record, Some(version));
                self.remember(client, key, &lookup, epoch, false);
                lookup
            }
            Ok(None) => {
                self.forget(key);
                Lookup::Absent
            }
            Err(_) => {
                if let Some(near) = &self.near {
                    near.postpone(key);
                }
                Lookup::without_store(near)
            }
        }
    }

    /// Extends the life of the session in the store, in the background and at most once per eighth
    /// of its time to live.
    fn touch(self: &Arc<Self>, key: &SessionKey, ttl: Duration) {
        let Some(near) = &self.near else {
            let _ = self.store.touch(key, ttl).into_ready();
            return;
        };
        if !near.is_touch_due(key, ttl / 8) || !self.is_allowed() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, key) = (Arc::clone(self), *key);
            runtime.spawn(async move { _ = store.call(store.store.touch(&key, ttl)).await });
        }
    }

    /// Performs `write` once the store is available again.
    fn write_later(self: &Arc<Self>, key: SessionKey, write: Write) {
        self.pending.push(key, write);
        background::ensure_running(
            self,
            |store| &store.pending.task,
            |_| OPEN_TIME / 4,
            |store: Arc<Self>| async move { store.write_pending().await },
            |store| store.pending.len() > 0,
        );
    }

    async fn write_pending(self: &Arc<Self>) {
        for key in self.pending.keys() {
            let Some((write, number)) = self.pending.get(&key) else { continue };
            match self.write(&key, &write).await {
                Ok(written) if self.pending.complete(&key, number, written) => self.forget(&key),
                Ok(_) => {}
                Err(Unavailable) if self.breaker.is_open() => return,
                Err(Unavailable) => {}
            }
        }
    }

    /// Performs a pending write. Returns the state of the key in the store afterwards.
    async fn write(self: &Arc<Self>, key: &SessionKey, write: &Write) -> Result<Written, Unavailable> {
        if !self.is_allowed() {
            return Err(Unavailable);
        }
        let (client, record, precondition, ttl) = match write {
            Write::Remove => {
                self.call_in_background(self.store.remove(key)).await.map_err(|_| Unavailable)?;
                return Ok(Written::Gone);
            }
            Write::End { ttl } => {
                self.write_tombstone(key, *ttl).await?;
                return Ok(Written::Gone);
            }
            Write::Save { record, .. } if self.is_ended(key, record) => return Ok(Written::Gone),
            Write::Save { client, record, precondition, ttl } => (*client, record, *precondition, *ttl),
        };
        let mut epoch = self.loss_epoch();
        let mut saved = self.call_in_background(self.store.save_for(client, key, record, precondition, ttl)).await;
        if matches!(saved, Ok(SaveOutcome::Conflict(None))) {
            // A binding may come back after its record has expired.
            let is_restored = record.sealed().is_empty()
                || match self.recall(key) {
                    Some(near) => self.restores(key, &near, ttl).await?,
                    None => false,
                };
            if is_restored {
                epoch = self.loss_epoch();
                saved =
                    self.call_in_background(self.store.save_for(client, key, record, Precondition::Absent, ttl)).await;
            }
        }
        let (record, version, is_written) = match saved {
            Ok(SaveOutcome::Stored(version)) => (record.clone(), version, true),
            // Another front end has written meanwhile. All front ends use its record.
            Ok(SaveOutcome::Conflict(Some(Stored { record, version }))) => (record, version, false),
            Ok(SaveOutcome::Conflict(None)) => {
                // The session was logged out meanwhile.
                self.forget(key);
                return Ok(Written::Gone);
            }
            Err(StoreError::TooLong(_)) => return Ok(Written::Refused),
            Err(_) => return Err(Unavailable),
        };
        self.remember(client, key, &Lookup::Found(record, Some(version)), epoch, is_written);
        Ok(Written::Version(version))
    }
}

/// Returns whether the record names an endpoint and holds nothing secret.
fn is_binding(record: &SessionRecord) -> bool {
    record.sealed().is_empty() && record.endpoint().is_some()
}
