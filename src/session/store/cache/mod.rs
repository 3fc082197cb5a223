//! A bounded map from session keys to values that expire: the base of [`MemoryStore`] and of the
//! near cache.
//!
//! The map is sharded, so that cores rarely contend. Each shard is a `quick_cache` (a CLOCK-Pro
//! cache). A new key enters a small cold part and moves on to the hot part only when it is looked
//! up again. So a flood of keys that are used once does not evict sessions in use. [`Shares`]
//! counts the entries of each client, so that a flood from one client evicts its own entries.
//! `benches/README.md` has the comparison on which this choice is based.
//!
//! [`MemoryStore`]: super::MemoryStore

mod shares;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};
use quick_cache::unsync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use self::shares::{Shares, Slot};
use super::{SessionKey, SessionRecord};
use crate::clock::as_millis;
use crate::request::ClientAddr;

/// The bounds of a cache.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct CacheLimits {
    pub(in crate::session) entries: NonZeroUsize,
    pub(in crate::session) bytes: NonZeroUsize,
}

/// A value whose memory use counts.
pub(in crate::session) trait Weighted {
    /// Returns the heap memory of the value, in bytes.
    fn heap_bytes(&self) -> usize;
}

/// A cache whose shards have their own locks.
pub(in crate::session) struct ShardedCache<V> {
    shards: Box<[PaddedShard<V>]>,
    shares: Arc<Shares>,
    /// Seeded, so that a client cannot choose keys that collide.
    hasher: RandomState,
}

/// Keeps the locks of two shards off the same cache line.
#[repr(align(128))]
struct PaddedShard<V>(Mutex<Shard<V>>);

struct Shard<V> {
    entries: Cache<SessionKey, Expiring<V>, EntryWeight, RandomState, Protection>,
    protection: Protection,
    inserted_since_sweep: usize,
    evicted: u64,
}

struct Expiring<V> {
    value: V,
    /// The [`Slot`] of the client in the lower 16 bits, and above it the expiry in milliseconds of
    /// the caller's clock.
    expires_and_slot: u64,
}

const SLOT_BITS: u32 = u16::BITS;

impl<V> Expiring<V> {
    fn new(value: V, expires: u64, slot: Slot) -> Self {
        Expiring { value, expires_and_slot: expires.min(u64::MAX >> SLOT_BITS) << SLOT_BITS | u64::from(slot.bits()) }
    }

    fn expires(&self) -> u64 {
        self.expires_and_slot >> SLOT_BITS
    }

    fn slot(&self) -> Slot {
        Slot::from_bits(self.expires_and_slot as u16)
    }
}

/// Decides which entries of a shard are not evicted.
#[derive(Clone)]
struct Protection {
    shares: Arc<Shares>,
    weight: EntryWeight,
    is_off: Arc<AtomicBool>,
}

impl Protection {
    fn units<V: Weighted>(&self, entry: &Expiring<V>) -> u32 {
        u32::try_from(self.weight.of(&entry.value) / self.weight.minimum).unwrap_or(u32::MAX)
    }

    fn add<V: Weighted>(&self, entry: &Expiring<V>) {
        self.shares.add(entry.slot(), self.units(entry));
    }

    fn subtract<V: Weighted>(&self, entry: &Expiring<V>) {
        self.shares.subtract(entry.slot(), self.units(entry));
    }
}

impl<V: Weighted> Lifecycle<SessionKey, Expiring<V>> for Protection {
    type RequestState = ();

    fn is_pinned(&self, _: &SessionKey, entry: &Expiring<V>) -> bool {
        !self.is_off.load(Ordering::Relaxed) && self.shares.is_protected(entry.slot())
    }

    fn begin_request(&self) {}

    fn on_evict(&self, (): &mut (), _: SessionKey, entry: Expiring<V>) {
        self.subtract(&entry);
    }
}

/// The target of a lookup, an insertion or a removal: one key in its locked shard.
pub(in crate::session) struct CacheEntry<'a, V> {
    shard: MutexGuard<'a, Shard<V>>,
    shares: &'a Shares,
    key: SessionKey,
    now: u64,
}

impl<V: Weighted> ShardedCache<V> {
    pub(in crate::session) fn new(limits: CacheLimits) -> Self {
        // Very small shards fill unevenly, and then hold less than the limits allow.
        let shards = (limits.entries.get() / 64).min(limits.bytes.get() / (4 * SessionRecord::MAX_LEN));
        Self::with_shards(shards.clamp(1, 128).next_power_of_two(), limits)
    }

    fn with_shards(shards: usize, limits: CacheLimits) -> Self {
        let (entries, bytes) = ((limits.entries.get() / shards).max(1), (limits.bytes.get() / shards).max(1));
        // The cache bounds a single weight. An entry weighs its bytes, and at least its share of
        // the limit, so that neither limit is exceeded.
        let weight = EntryWeight { minimum: bytes.div_ceil(entries) as u64 };
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(bytes as u64)
            // The cold part of a very small shard could not hold a single entry.
            .hot_allocation(if entries < 32 { 1.0 } else { 0.95 })
            // A remembered key would take as much memory as an entry.
            .ghost_allocation(0.0)
            .build()
            .expect("both capacities are set");
        let hasher = RandomState::new();
        let shares = Arc::new(Shares::new(shards * entries));
        let shard = |_| {
            let protection = Protection { shares: Arc::clone(&shares), weight: weight.clone(), is_off: Arc::default() };
            let entries = Cache::with_options(options.clone(), weight.clone(), hasher.clone(), protection.clone());
            PaddedShard(Mutex::new(Shard { entries, protection, inserted_since_sweep: 0, evicted: 0 }))
        };
        ShardedCache { shards: (0..shards).map(shard).collect(), shares, hasher }
    }

    /// Locks the shard of `key`. Entries count as expired by `now`, in milliseconds.
    pub(in crate::session) fn entry(&self, key: &SessionKey, now: u64) -> CacheEntry<'_, V> {
        let shard = self.hasher.hash_one(key) as usize & (self.shards.len() - 1);
        CacheEntry { shard: self.shards[shard].0.lock(), shares: &self.shares, key: *key, now }
    }

    /// Returns the number of entries, including expired ones that were not removed yet.
    pub(in crate::session) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().entries.len()).sum()
    }

    /// Calls `see` with each value that has not expired. One shard is locked at a time.
    #[cfg(feature = "admin")]
    pub(in crate::session) fn for_each(&self, now: u64, mut see: impl FnMut(&V)) {
        for shard in &self.shards {
            let shard = shard.0.lock();
            shard.entries.iter().filter(|(_, entry)| entry.expires() > now).for_each(|(_, entry)| see(&entry.value));
        }
    }

    /// Returns how many entries were removed to make space for others.
    pub(in crate::session) fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.lock().evicted).sum()
    }
}

impl<V: Weighted> CacheEntry<'_, V> {
    /// Returns the value, unless it has expired. Counts as a use.
    pub(in crate::session) fn get(&self) -> Option<&V> {
        let entry = self.shard.entries.get(&self.key)?;
        (entry.expires() > self.now).then_some(&entry.value)
    }

    /// Changes the value with `change`, unless it has expired. Counts as a use.
    pub(in crate::session) fn update<T>(&mut self, change: impl FnOnce(&mut V) -> T) -> Option<T> {
        let mut entry = self.shard.entries.get_mut(&self.key).filter(|entry| entry.expires() > self.now)?;
        Some(change(&mut entry.value))
    }

    /// Sets the expiry of the value to `ttl` from now, unless it has expired already.
    pub(in crate::session) fn touch(&mut self, ttl: Duration) {
        let expires = after(self.now, ttl);
        if let Some(mut entry) = self.shard.entries.get_mut(&self.key)
            && entry.expires() > self.now
        {
            entry.expires_and_slot = Expiring::new((), expires, entry.slot()).expires_and_slot;
        }
    }

    /// Sets the value, which expires `ttl` from now. It counts for the client that set the first
    /// value of the key.
    pub(in crate::session) fn insert(&mut self, client: ClientAddr, value: V, ttl: Duration) {
        let shard = &mut *self.shard;
        shard.sweep(self.now);
        let old = shard.entries.peek(&self.key);
        let slot = old.map_or_else(|| self.shares.slot(client.key()), Expiring::slot);
        let expected = shard.entries.len() + usize::from(old.is_none());
        let entry = Expiring::new(value, after(self.now, ttl), slot);
        // A replaced entry counts as evicted, which subtracts it.
        shard.protection.add(&entry);
        shard.insert(self.key, entry);
        shard.evicted += (expected - shard.entries.len()) as u64;
    }

    /// Removes the value.
    pub(in crate::session) fn remove(&mut self) {
        if let Some((_, entry)) = self.shard.entries.remove(&self.key) {
            self.shard.protection.subtract(&entry);
        }
    }
}

impl<V: Weighted> Shard<V> {
    fn insert(&mut self, key: SessionKey, entry: Expiring<V>) {
        self.entries.insert(key, entry);
        if self.entries.weight() <= self.entries.capacity() {
            return;
        }
        // All other entries of the shard are protected.
        self.protection.is_off.store(true, Ordering::Relaxed);
        if let Some((key, entry)) = self.entries.remove(&key) {
            self.entries.insert(key, entry);
        }
        self.protection.is_off.store(false, Ordering::Relaxed);
    }

    /// Removes expired entries once the number of entries may have doubled since the last sweep. So
    /// an insertion pays for checking two entries on average.
    fn sweep(&mut self, now: u64) {
        self.inserted_since_sweep += 1;
        if self.inserted_since_sweep > self.entries.len() / 2 + 16 {
            self.inserted_since_sweep = 0;
            self.entries.retain(|_, entry| {
                let is_alive = entry.expires() > now;
                if !is_alive {
                    self.protection.subtract(entry);
                }
                is_alive
            });
        }
    }
}

#[derive(Clone)]
struct EntryWeight {
    minimum: u64,
}

impl<V: Weighted> Weighter<SessionKey, Expiring<V>> for EntryWeight {
    fn weight(&self, _: &SessionKey, entry: &Expiring<V>) -> u64 {
        self.of(&entry.value)
    }
}

impl EntryWeight {
    fn of<V: Weighted>(&self, value: &V) -> u64 {
        // The entry with its list links, in a vector that may just have doubled, and its part of
        // the hash index.
        let slot = 2 * (size_of::<SessionKey>() + size_of::<Expiring<V>>() + 16) + 12;
        self.minimum.max((slot + value.heap_bytes()) as u64)
    }
}

/// Returns the millisecond at which an entry that lives for `ttl` expires; never too early.
fn after(now: u64, ttl: Duration) -> u64 {
    now.saturating_add(as_millis(ttl)).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const TTL: Duration = Duration::from_millis(100);

    impl Weighted for u64 {
        fn heap_bytes(&self) -> usize {
            (*self % 7) as usize
        }
    }

    fn limits(entries: usize, bytes: usize) -> CacheLimits {
        CacheLimits { entries: NonZeroUsize::new(entries).unwrap(), bytes: NonZeroUsize::new(bytes).unwrap() }
    }

    /// Makes a cache of one shard.
    fn shard(entries: usize) -> ShardedCache<u64> {
        ShardedCache::with_shards(1, limits(entries, entries * 512))
    }

    fn key(n: u64) -> SessionKey {
        SessionKey::from_bytes(u128::from(n).to_be_bytes())
    }

    fn insert(cache: &ShardedCache<u64>, n: u64) {
        cache.entry(&key(n), 0).insert(ClientAddr::Unix, n, TTL);
    }

    fn contains(cache: &ShardedCache<u64>, n: u64) -> bool {
        cache.entry(&key(n), 0).get().is_some()
    }

    #[test]
    fn a_flood_of_keys_that_are_used_once_leaves_the_sessions_in_use() {
        let cache = shard(1000);
        for n in 0..900 {
            insert(&cache, n);
            assert!(contains(&cache, n), "used once more");
        }
        for n in 0..1_000_000 {
            insert(&cache, 1_000_000 + n);
        }
        assert!(cache.len() <= 1000);
        assert_eq!(cache.evicted(), 1_000_900 - cache.len() as u64);
        let kept = (0..900).filter(|n| contains(&cache, *n)).count();
        assert_eq!(kept, 900, "sessions in use");
    }

    fn client(n: u32) -> ClientAddr {
        std::net::IpAddr::from(n.to_be_bytes()).into()
    }

    /// Each session is looked up again at once, so that all count as used.
    fn flood(cache: &ShardedCache<u64>, clients: impl Iterator<Item = ClientAddr>) {
        for (n, client) in clients.enumerate() {
            let key = key(1 << 40 | n as u64);
            cache.entry(&key, 0).insert(client, 0, TTL);
            assert!(cache.entry(&key, 0).get().is_some() || n > 0);
        }
    }

    #[test]
    fn a_client_that_makes_a_million_sessions_evicts_its_own() {
        for (entries, sessions) in [(100_000, 1_000_000), (16_000, 50_000), (10_000, 50_000)] {
            let cache = ShardedCache::new(limits(entries, entries * 512));
            // None of them is used again.
            for n in 0..10_000 {
                cache.entry(&key(n), 0).insert(client(n as u32), n, TTL);
            }
            let before = (0..10_000).filter(|n| contains(&cache, *n)).count();
            flood(&cache, std::iter::repeat_n(client(1 << 24), sessions));
            let kept = (0..10_000).filter(|n| contains(&cache, *n)).count();
            // A full cache has space for a 64th from each client.
            let room = if entries == 10_000 { entries / 64 } else { 0 };
            assert!(kept + room >= before * 99 / 100, "{entries}: {kept} of {before}");
            assert!(cache.len() <= entries);
            // Clients that come later have space too.
            for n in 10_000..10_100 {
                cache.entry(&key(n), 0).insert(client(n as u32), n, TTL);
            }
            flood(&cache, std::iter::repeat_n(client(1 << 24), 10_000));
            let kept = (10_000..10_100).filter(|n| contains(&cache, *n)).count();
            assert!(kept >= 99 || entries == 10_000, "{entries}: {kept}");
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let cache = ShardedCache::new(limits(16_000, 16_000 * 512));
        for n in 0..10_000 {
            cache.entry(&key(n), 0).insert(client(n as u32), n, TTL);
        }
        let network =
            (0..300_000_u128).map(|n| ClientAddr::from(std::net::IpAddr::from((0x2001_0db8 << 96 | n).to_be_bytes())));
        flood(&cache, network);
        assert!((0..10_000).filter(|n| contains(&cache, *n)).count() >= 9_900);
    }

    #[test]
    fn a_single_client_has_the_whole_cache() {
        let cache = shard(1000);
        for n in 0..2000 {
            insert(&cache, n);
        }
        assert_eq!(cache.len(), 1000);
    }

    #[test]
    fn the_most_used_entries_are_evicted_last() {
        let cache = shard(100);
        for n in 0..200 {
            insert(&cache, n);
            for busy in 0..5 {
                assert!(contains(&cache, busy) || busy > n, "{busy} after {n}");
            }
        }
    }

    #[test]
    fn bytes_are_bounded_too() {
        let cache = ShardedCache::with_shards(1, limits(1_000_000, 60_000));
        for n in 0..10_000 {
            insert(&cache, n);
            let shard = cache.shards[0].0.lock();
            assert!(shard.entries.weight() <= 60_000 && shard.entries.memory_used().total() <= 60_000);
        }
        assert!(cache.len() > 300, "{}", cache.len());
    }

    #[test]
    fn insertions_remove_expired_entries() {
        let cache = ShardedCache::new(limits(1_000_000, 1 << 30));
        for n in 0..10_000 {
            insert(&cache, n);
        }
        for n in 10_000..50_000 {
            cache.entry(&key(n), 200).insert(ClientAddr::Unix, n, TTL);
        }
        assert_eq!(cache.evicted(), 0);
        assert_eq!(cache.len(), 40_000);
    }

    proptest::proptest! {
        /// The counts of each client equal the sum of the weights of its entries.
        #[test]
        fn shares_are_counted_exactly(steps in proptest::collection::vec((0_u64..60, 0_u8..5, 0_u32..4), 0..600), entries in 1_usize..50) {
            let cache = ShardedCache::<u64>::with_shards(1, limits(entries, entries * 512));
            for (step, (n, action, owner)) in steps.into_iter().enumerate() {
                let mut entry = cache.entry(&key(n), step as u64);
                match action {
                    0..=2 => entry.insert(client(owner), step as u64, TTL),
                    3 => entry.remove(),
                    _ => _ = entry.get(),
                }
            }
            let shard = cache.shards[0].0.lock();
            let units: u32 = shard.entries.iter().map(|(_, entry)| shard.protection.units(entry)).sum();
            let counted: u32 = (0..=u16::MAX).map(|bits| cache.shares.used(Slot::from_bits(bits))).sum();
            proptest::prop_assert_eq!(units, counted);
            proptest::prop_assert!(shard.entries.weight() <= shard.entries.capacity());
        }

        /// Compares with a map without a limit: a value that is found is the last one inserted.
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0_u64..40, 0_u8..4), 0..400), entries in 1_usize..50) {
            let cache = shard(entries);
            let mut map = HashMap::new();
            for (step, (n, action)) in steps.into_iter().enumerate() {
                let mut entry = cache.entry(&key(n), 0);
                match action {
                    0 | 1 => {
                        entry.insert(ClientAddr::Unix, step as u64, TTL);
                        map.insert(n, step as u64);
                    }
                    2 => {
                        entry.remove();
                        proptest::prop_assert!(entry.get().is_none());
                        map.remove(&n);
                    }
                    _ => {
                        let found = entry.get().copied();
                        proptest::prop_assert!(found.is_none() || found == map.get(&n).copied());
                    }
                }
                drop(entry);
                proptest::prop_assert!(cache.len() <= entries);
                if entries >= 40 {
                    proptest::prop_assert_eq!(cache.len(), map.len());
                }
            }
        }
    }
}
