//! A bounded map from session keys to values that expire: what the store in memory and the near cache are made of.
//!
//! Sharded, so that cores rarely meet; bounded in entries and in bytes. What has to go when it is full is chosen as S3-FIFO does
//! (Yang et al., SOSP 2023): whoever is new waits in a small part, and only who is asked for again there enters the main one.
//! So a flood of ids that nobody will ever use again washes through the small part, and sessions in use stay. In place of its two
//! queues a hand goes round, as in CLOCK, so that a lookup finds all that it needs in one place.

mod shard;
mod table;

use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

pub(super) use self::shard::Shard;
use super::SessionKey;

/// What a shelf may hold.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Limits {
    pub(in crate::session) entries: usize,
    pub(in crate::session) bytes: usize,
}

/// How many bytes a value takes apart from its own size.
pub(in crate::session) trait Weigh {
    fn extra_bytes(&self) -> usize;
}

pub(in crate::session) struct Shelf<V> {
    shards: Box<[Lane<V>]>,
    seed: ahash::RandomState,
    origin: Instant,
}

/// On cache lines of its own.
#[repr(align(128))]
struct Lane<V>(Mutex<Shard<V>>);

/// A moment in tenths of a second since the shelf was made: 13 years fit into 32 bits.
pub(in crate::session) type Tenths = u32;

impl<V: Weigh> Shelf<V> {
    /// What a place in a table takes, in bytes.
    #[cfg(test)]
    pub(in crate::session) const SLOT: usize = Shard::<V>::SLOT;

    pub(in crate::session) fn new(limits: Limits, origin: Instant) -> Self {
        // Shards so small that they fill up unevenly would bound less than was asked for.
        let shards = (limits.entries / 64).clamp(1, 128).next_power_of_two();
        let share = Limits { entries: (limits.entries / shards).max(1), bytes: limits.bytes / shards };
        let shards = (0..shards).map(|_| Lane(Mutex::new(Shard::new(share)))).collect();
        Shelf { shards, seed: ahash::RandomState::new(), origin }
    }

    /// The shard where `key` is, and the key's hash within it.
    pub(in crate::session) fn shard(&self, key: &SessionKey) -> (MutexGuard<'_, Shard<V>>, u32) {
        // Seeded, so that nobody can choose keys that meet, whatever the keys are made of.
        let hash = self.seed.hash_one(key.as_bytes());
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        (self.shards[shard].0.lock(), hash as u32)
    }

    pub(in crate::session) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    /// How many entries went because others needed the room.
    pub(in crate::session) fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.lock().evicted()).sum()
    }

    pub(in crate::session) fn tenths(&self, now: Instant) -> Tenths {
        Tenths::try_from(now.saturating_duration_since(self.origin).as_millis() / 100).unwrap_or(Tenths::MAX)
    }
}

/// When what lives for `ttl` from `now` is over: never too early.
pub(in crate::session) fn after(now: Tenths, ttl: Duration) -> Tenths {
    let ttl = Tenths::try_from(ttl.as_millis().div_ceil(100)).unwrap_or(Tenths::MAX);
    now.saturating_add(ttl).saturating_add(1)
}
