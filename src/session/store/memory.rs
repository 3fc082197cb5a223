use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::cache::{CacheLimits, ShardedCache, Weighted};
use super::{Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored};
use crate::clock::{Clock, Epoch, SystemClock};
use crate::endpoint::EndpointId;
use crate::request::ClientAddr;

/// A store in the memory of this process: the default, and enough for a single front end.
///
/// The sessions end with the process. Clones share them. The store is bounded, by default to
/// 1,000,000 sessions and 256 MiB; a bound session takes about 90 to 150 bytes. Expired sessions
/// are removed as new ones arrive.
///
/// When the store is full, sessions that were never looked up are evicted first, so that a flood of
/// made-up ids does not evict sessions in use. A client (an IPv4 address or an IPv6 /64) that uses
/// more than a 64th of the store evicts its own sessions. It evicts no session of a client that
/// uses less than half as much.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    cache: ShardedCache<Entry>,
    /// The next version. No two writes share one, not even under different keys.
    next_version: AtomicU64,
    epoch: Epoch,
}

/// A record and its version, in a compact form.
struct Entry {
    endpoint: Option<EndpointId>,
    /// `None` for an empty sealed part.
    sealed: Option<Box<Bytes>>,
    version: u64,
}

impl MemoryStore {
    /// The default limit of sessions.
    const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(1_000_000).expect("not zero");
    /// The default limit of bytes.
    const MAX_BYTES: NonZeroUsize = NonZeroUsize::new(256 << 20).expect("not zero");

    /// Returns a store with the default limits.
    pub fn new() -> Self {
        Self::bounded(Self::MAX_ENTRIES, Self::MAX_BYTES)
    }

    /// Returns a store of at most `entries` sessions, which together take at most about `bytes`.
    pub fn bounded(entries: NonZeroUsize, bytes: NonZeroUsize) -> Self {
        Self::with_clock(entries, bytes, SystemClock)
    }

    /// Returns a store of at most `entries` sessions and about `bytes`, whose sessions expire by
    /// `clock`.
    pub fn with_clock(entries: NonZeroUsize, bytes: NonZeroUsize, clock: impl Clock) -> Self {
        let cache = ShardedCache::new(CacheLimits { entries, bytes });
        let epoch = Epoch::new(Arc::new(clock));
        MemoryStore { shared: Arc::new(Shared { cache, next_version: AtomicU64::new(1), epoch }) }
    }

    /// Returns the number of sessions, including expired ones that were not removed yet.
    pub fn len(&self) -> usize {
        self.shared.cache.len()
    }

    /// Calls `see` with the endpoint of each session that is bound.
    #[cfg(feature = "admin")]
    pub(in crate::session) fn for_each_binding(&self, mut see: impl FnMut(&EndpointId)) {
        self.shared.cache.for_each(self.shared.epoch.millis(), |entry| {
            entry.endpoint.iter().for_each(&mut see);
        });
    }

    /// Returns whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many sessions were evicted because the store was full.
    pub fn evicted(&self) -> u64 {
        self.shared.cache.evicted()
    }
}

impl Shared {
    fn load(&self, key: &SessionKey) -> Option<Stored> {
        self.cache.entry(key, self.epoch.millis()).get().map(Entry::stored)
    }

    fn save(
        &self,
        client: ClientAddr,
        key: &SessionKey,
        record: &SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> Result<SaveOutcome, StoreError> {
        let length = record.encoded_len();
        if length > SessionRecord::MAX_LEN {
            return Err(StoreError::TooLong(length));
        }
        let mut entry = self.cache.entry(key, self.epoch.millis());
        let holds = match (entry.get(), precondition) {
            (None, Precondition::Absent) => true,
            (Some(entry), Precondition::Version(version)) => entry.version == version,
            (None, Precondition::Version(_)) | (Some(_), Precondition::Absent) => false,
        };
        if !holds {
            return Ok(SaveOutcome::Conflict(entry.get().map(Entry::stored)));
        }
        let version = self.next_version.fetch_add(1, Ordering::Relaxed);
        entry.insert(client, Entry::new(record, version), ttl);
        Ok(SaveOutcome::Stored(version))
    }
}

impl SessionStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::Ready(Ok(self.shared.load(key)))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.save_for(ClientAddr::Unix, key, record, precondition, ttl)
    }

    fn save_for<'a>(
        &'a self,
        client: ClientAddr,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::Ready(self.shared.save(client, key, record, precondition, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.shared.cache.entry(key, self.shared.epoch.millis()).touch(ttl);
        StoreFuture::Ready(Ok(()))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.shared.cache.entry(key, self.shared.epoch.millis()).remove();
        StoreFuture::Ready(Ok(()))
    }
}

impl Entry {
    fn new(record: &SessionRecord, version: u64) -> Self {
        // The sealed part may be a slice of a much larger buffer.
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

impl Weighted for Entry {
    fn heap_bytes(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(0, |sealed| size_of::<Bytes>() + sealed.len());
        // All records that were bound to an endpoint here share its id.
        sealed + self.endpoint.as_ref().map_or(0, |id| id.as_str().len())
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

    fn store(entries: usize, bytes: usize, clock: impl Clock) -> MemoryStore {
        MemoryStore::with_clock(NonZeroUsize::new(entries).unwrap(), NonZeroUsize::new(bytes).unwrap(), clock)
    }

    #[test]
    fn an_entry_is_half_a_cache_line() {
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn sessions_live_for_their_ttl_and_not_much_longer() {
        let clock = ManualClock::new();
        let store = store(100, 1 << 20, clock.clone()).shared;
        let ttl = Duration::from_secs(600);
        store.save(ClientAddr::Unix, &key(1), &bound(), Precondition::Absent, ttl).unwrap();
        clock.advance(ttl);
        assert!(store.load(&key(1)).is_some());
        clock.advance(Duration::from_millis(200));
        assert!(store.load(&key(1)).is_none());
    }

    #[tokio::test]
    async fn a_touch_extends_a_session_and_does_not_revive_an_expired_one() {
        let clock = ManualClock::new();
        let store = store(100, 1 << 20, clock.clone());
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
    fn ten_times_as_many_made_up_ids_as_fit_evict_no_session_in_use_and_stay_within_the_bound() {
        let store = store(10_000, 2 << 20, SystemClock).shared;
        let live = |n: u128| key(n << 64 | n);
        for n in 0..5000 {
            store.save(ClientAddr::Unix, &live(n), &bound(), Precondition::Absent, Duration::from_secs(60)).unwrap();
            assert!(store.load(&live(n)).is_some());
        }
        for n in 0..100_000 {
            store
                .save(ClientAddr::Unix, &key(1 << 100 | n), &bound(), Precondition::Absent, Duration::from_secs(60))
                .unwrap();
        }
        assert!(store.cache.len() <= 10_000);
        assert_eq!((0..5000).filter(|n| store.load(&live(*n)).is_some()).count(), 5000);
    }
}
