use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::cache::{self, Limits, Shelf, Tenths, Weigh};
use super::{Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored};
use crate::clock::{Clock, SystemClock};
use crate::endpoint::EndpointId;

/// Sessions in the memory of this process: the default, and all that one front end needs. They end with the process; clones
/// share them.
///
/// Bounded: by default to 1,000,000 sessions and 256 MiB, of which a session that is just bound takes some 95 bytes. When it is
/// full, expired sessions go first, then those that were never asked for again; the busiest go last, so that a flood of made-up
/// ids does not drive out sessions in use.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    shelf: Shelf<Entry>,
    /// No version is ever given twice, not even for another key.
    versions: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// A record and its version, so small that a slot of the shelf with it takes one cache line.
struct Entry {
    endpoint: Option<EndpointId>,
    /// None where it is empty.
    sealed: Option<Box<Bytes>>,
    version: u64,
}

impl Entry {
    fn new(record: &SessionRecord, version: u64) -> Self {
        // The bytes may be a part of something much larger.
        let sealed = Some(record.sealed()).filter(|sealed| !sealed.is_empty());
        let sealed = sealed.map(|sealed| Box::new(Bytes::copy_from_slice(sealed)));
        Entry { endpoint: record.endpoint().cloned(), sealed, version }
    }

    fn stored(&self) -> Stored {
        let record = self.endpoint.clone().map_or_else(SessionRecord::default, SessionRecord::bound);
        let record = match &self.sealed {
            Some(sealed) => record.with_sealed(Bytes::clone(sealed)),
            None => record,
        };
        Stored { record, version: self.version }
    }
}

impl Weigh for Entry {
    fn extra_bytes(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(0, |sealed| size_of::<Bytes>() + sealed.len());
        // An endpoint's id is the same one in all records that were bound to it here.
        sealed + self.endpoint.as_ref().map_or(0, |id| id.as_str().len())
    }
}

impl MemoryStore {
    /// A store with the default bounds.
    pub fn new() -> Self {
        Self::bounded(1_000_000, 256 << 20)
    }

    /// A store of at most `entries` sessions, which take at most about `bytes`.
    pub fn bounded(entries: usize, bytes: usize) -> Self {
        Self::with_clock(entries, bytes, SystemClock)
    }

    /// The same, where sessions expire by `clock`.
    pub fn with_clock(entries: usize, bytes: usize, clock: impl Clock) -> Self {
        let clock = Arc::new(clock);
        let shelf = Shelf::new(Limits { entries, bytes }, clock.now());
        MemoryStore { inner: Arc::new(Inner { shelf, versions: AtomicU64::new(1), clock }) }
    }

    /// How many sessions there are, some of which may have expired.
    pub fn len(&self) -> usize {
        self.inner.shelf.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions had to go because the store was full.
    pub fn evicted(&self) -> u64 {
        self.inner.shelf.evicted()
    }
}

impl Inner {
    fn now(&self) -> Tenths {
        self.shelf.tenths(self.clock.now())
    }

    fn load(&self, key: &SessionKey) -> Option<Stored> {
        let now = self.now();
        let (mut shard, hash) = self.shelf.shard(key);
        shard.get(key, hash, now).map(|entry| entry.stored())
    }

    fn save(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> Result<SaveOutcome, StoreError> {
        let length = record.encoded_len();
        if length > SessionRecord::MAX_LEN {
            return Err(StoreError::TooLong(length));
        }
        let now = self.now();
        let (mut shard, hash) = self.shelf.shard(key);
        let there = shard.get(key, hash, now);
        let as_expected = match (&there, expect) {
            (None, Precondition::Absent) => true,
            (Some(entry), Precondition::Version(version)) => entry.version == version,
            _ => false,
        };
        if !as_expected {
            return Ok(SaveOutcome::Conflict(there.map(|entry| entry.stored())));
        }
        let version = self.versions.fetch_add(1, Ordering::Relaxed);
        shard.put(key, hash, Entry::new(record, version), cache::after(now, ttl), now);
        Ok(SaveOutcome::Stored(version))
    }
}

impl SessionStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::ready(Ok(self.inner.load(key)))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::ready(self.inner.save(key, record, expect, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        let now = self.inner.now();
        let (mut shard, hash) = self.inner.shelf.shard(key);
        // What has expired does not come to life again.
        if shard.get(key, hash, now).is_some() {
            shard.keep(key, hash, cache::after(now, ttl));
        }
        StoreFuture::ready(Ok(()))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        let (mut shard, hash) = self.inner.shelf.shard(key);
        shard.remove(key, hash);
        StoreFuture::ready(Ok(()))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("sessions", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn bound() -> SessionRecord {
        SessionRecord::bound(EndpointId::new("q1").unwrap())
    }

    fn key(n: u128) -> SessionKey {
        SessionKey::from_bytes(n.to_be_bytes())
    }

    #[test]
    fn a_session_takes_one_cache_line() {
        assert_eq!(Shelf::<Entry>::SLOT, 64);
    }

    #[test]
    fn sessions_live_as_long_as_they_should_and_not_much_longer() {
        let clock = ManualClock::new();
        let store = MemoryStore::with_clock(100, 1 << 20, clock.clone()).inner;
        let ttl = Duration::from_secs(600);
        store.save(&key(1), &bound(), Precondition::Absent, ttl).unwrap();
        clock.advance(ttl);
        assert!(store.load(&key(1)).is_some());
        clock.advance(Duration::from_millis(200));
        assert!(store.load(&key(1)).is_none());
    }

    #[tokio::test]
    async fn touching_keeps_a_session_and_wakes_no_dead_one() {
        let clock = ManualClock::new();
        let store = MemoryStore::with_clock(100, 1 << 20, clock.clone());
        let ttl = Duration::from_secs(10);
        let saved = store.save(&key(1), &bound(), Precondition::Absent, ttl).await.unwrap();
        assert!(matches!(saved, SaveOutcome::Stored(_)));
        for _ in 0..10 {
            clock.advance(Duration::from_secs(9));
            store.touch(&key(1), ttl).await.unwrap();
        }
        assert!(store.load(&key(1)).await.unwrap().is_some());
        clock.advance(Duration::from_secs(11));
        store.touch(&key(1), ttl).await.unwrap();
        assert!(store.load(&key(1)).await.unwrap().is_none());
    }

    #[test]
    fn made_up_ids_by_the_million_leave_a_session_in_use_and_take_bounded_room() {
        let store = MemoryStore::bounded(10_000, 2 << 20).inner;
        let live = |n: u128| key(n << 64 | n);
        for n in 0..5000 {
            store.save(&live(n), &bound(), Precondition::Absent, Duration::from_secs(60)).unwrap();
            assert!(store.load(&live(n)).is_some());
        }
        for n in 0..1_000_000 {
            store.save(&key(1 << 100 | n), &bound(), Precondition::Absent, Duration::from_secs(60)).unwrap();
        }
        assert!(store.shelf.len() <= 10_000);
        assert_eq!((0..5000).filter(|n| store.load(&live(*n)).is_some()).count(), 5000);
    }
}
