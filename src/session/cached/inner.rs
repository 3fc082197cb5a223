//! A store with what stands before it: every call of it goes through here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Write};
use super::breaker::{Breaker, PAUSE};
use super::in_use::Register;
use super::near::{Near, NearCache};
use super::probe;
use super::{Lookup, known};
use crate::clock::Clock;
use crate::session::secret::Tagger;
use crate::session::store::cache::{Limits, Tenths};
use crate::session::{
    Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

pub(super) struct Inner {
    /// For the tasks, which must not keep it.
    pub(super) own: Weak<Inner>,
    pub(super) store: Arc<dyn SessionStore>,
    /// None where the store itself is in this process.
    pub(super) near: Option<NearCache>,
    /// Makes keys of ids: the first is the current one.
    pub(super) taggers: Arc<[Tagger]>,
    pub(super) settings: Settings,
    pub(super) breaker: Breaker,
    pub(super) backlog: Backlog,
    pub(super) register: Register,
    /// How many operations failed so far.
    pub(super) failures: AtomicU32,
    pub(super) origin: Instant,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) deadline: Duration,
    pub(super) staleness: Duration,
    pub(super) near: Limits,
    pub(super) clock: Arc<dyn Clock>,
}

/// The store is away, or was too slow.
pub(super) struct Away;

impl Inner {
    pub(super) fn tenths(&self) -> Tenths {
        match &self.near {
            Some(near) => near.tenths(self.settings.clock.now()),
            None => 0,
        }
    }

    pub(super) fn millis(&self) -> u64 {
        // While the store works nobody has to know the time.
        if !self.breaker.is_open() {
            return 0;
        }
        self.now_millis()
    }

    pub(super) fn now_millis(&self) -> u64 {
        let now = self.settings.clock.now();
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_fresh(&self, near: &Near, now: Tenths) -> bool {
        u128::from(now.saturating_sub(near.seen)) * 100 < self.settings.staleness.as_millis()
    }

    /// Changes whenever the store may have lost records: after an operation failed, or a connection was lost.
    pub(super) fn era(&self) -> u32 {
        // It wraps around, and only whether it is the same matters.
        self.failures.load(Ordering::Relaxed).wrapping_add(self.store.connection_epoch() as u32)
    }

    /// Has the store, in which `near` is missing now, lost it? Otherwise it was removed. Only bindings are spoken of: the worst
    /// that comes of one too many is that an id which nobody uses any more stays where it was; but who is logged out stays out.
    pub(super) fn has_lost(&self, near: &Near) -> bool {
        is_binding(&near.record) && near.version.is_some() && near.era != self.era()
    }

    /// What `future` comes to within the deadline. Success and failure are counted.
    pub(super) async fn in_time<T: Unpin>(&self, future: StoreFuture<'_, T>) -> Result<T, StoreError> {
        self.within(self.settings.deadline, future).await
    }

    /// The same where nobody waits for it. A store that has just been started is slow; that must not keep from it what it lacks.
    pub(super) async fn in_its_time<T: Unpin>(&self, future: StoreFuture<'_, T>) -> Result<T, StoreError> {
        self.within(self.settings.deadline.max(PAUSE / 2), future).await
    }

    async fn within<T: Unpin>(&self, deadline: Duration, future: StoreFuture<'_, T>) -> Result<T, StoreError> {
        let result = tokio::time::timeout(deadline, future).await;
        let result = result.unwrap_or(Err(StoreError::Timeout(deadline)));
        match &result {
            Ok(_) => self.succeeded(),
            Err(error) => _ = self.failed(error),
        }
        result
    }

    pub(super) fn succeeded(&self) {
        if self.breaker.succeed() {
            tracing::info!("the session store is back");
        }
    }

    pub(super) fn failed(&self, error: &StoreError) -> Away {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !matches!(error, StoreError::TooLong(_)) && self.breaker.fail(self.now_millis()) {
            tracing::warn!(%error, "the session store fails; going on without it");
            probe::start(self);
        }
        Away
    }

    pub(super) fn loaded(
        &self,
        key: &SessionKey,
        loaded: Result<Option<Stored>, StoreError>,
        near: Option<Near>,
        era: u32,
    ) -> Lookup {
        match loaded {
            Ok(Some(Stored { record, version })) => {
                let known = Lookup::Found(record, Some(version));
                self.remember(key, &known, era);
                known
            }
            Ok(None) => {
                if let Some(cache) = &self.near {
                    cache.forget(key);
                }
                Lookup::Absent
            }
            Err(_) => {
                if let Some(cache) = &self.near {
                    cache.put_off(key, self.tenths());
                }
                near.map_or(Lookup::Unknown, known)
            }
        }
    }

    /// Notes what the store had in this era, which is asked for before the store is.
    pub(super) fn remember(&self, key: &SessionKey, known: &Lookup, era: u32) {
        if let (Some(near), Lookup::Found(record, version)) = (&self.near, known) {
            near.learn(key, record, *version, era, self.tenths());
        }
    }

    /// Tells the store that the session is in use: at most once per eighth of its time to live, and nobody waits for it.
    pub(super) fn touch(self: &Arc<Self>, key: &SessionKey, ttl: Duration) {
        let Some(near) = &self.near else {
            let _ = self.store.touch(key, ttl).now();
            return;
        };
        let interval = Tenths::try_from(ttl.as_millis() / 800).unwrap_or(Tenths::MAX);
        if !near.wants_touch(key, interval.max(1), self.tenths()) || !self.breaker.allows(self.millis()) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (inner, key) = (Arc::clone(self), *key);
            runtime.spawn(async move { _ = inner.in_time(inner.store.touch(&key, ttl)).await });
        }
    }

    /// Does a write that had to wait. The version that is there now, if any.
    pub(super) async fn write_through(&self, key: &SessionKey, write: &Write) -> Result<Option<u64>, Away> {
        if !self.breaker.allows(self.millis()) {
            return Err(Away);
        }
        let (record, expect, ttl) = match write {
            Write::Remove => {
                self.in_its_time(self.store.remove(key)).await.map_err(|_| Away)?;
                return Ok(None);
            }
            Write::Save { record, expect, ttl } => (record, *expect, *ttl),
        };
        let era = self.era();
        let mut saved = self.in_its_time(self.store.save(key, record, expect, ttl)).await;
        // A binding may come back after its record has expired; a sealed session that is gone was logged out.
        if matches!(saved, Ok(SaveOutcome::Conflict(None))) && record.sealed().is_empty() {
            saved = self.in_its_time(self.store.save(key, record, Precondition::Absent, ttl)).await;
        }
        let known = match saved {
            Ok(SaveOutcome::Stored(version)) => Lookup::Found(record.clone(), Some(version)),
            // Another front end has written meanwhile: all follow it.
            Ok(SaveOutcome::Conflict(Some(Stored { record, version }))) => Lookup::Found(record, Some(version)),
            Ok(SaveOutcome::Conflict(None)) | Err(StoreError::TooLong(_)) => return Ok(None),
            Err(_) => return Err(Away),
        };
        self.remember(key, &known, era);
        match known {
            Lookup::Found(_, version) => Ok(version),
            _ => Ok(None),
        }
    }
}

/// Says the record where a session is, and nothing that is secret?
pub(super) fn is_binding(record: &SessionRecord) -> bool {
    record.sealed().is_empty() && record.endpoint().is_some()
}
