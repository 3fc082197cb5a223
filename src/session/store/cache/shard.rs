use super::table::{Slot, Standing, Table};
use super::{Limits, Tenths, Weigh};
use crate::session::SessionKey;

/// How often an entry that was asked for is spared.
const MOST_SPARED: u8 = 3;
/// How many places an insertion looks at for what has expired.
const SWEPT: usize = 4;

/// One part of a shelf. Its entries stand in one table, over which a hand goes round when room is needed.
///
/// No entry is in a list, so that looking one up touches nothing but the entry. What a list would say, who is the oldest, the hand
/// says nearly as well: whoever it meets for the second time has been there for a round at least.
pub(in crate::session) struct Shard<V> {
    table: Table<V>,
    /// How many entries are not in the main part.
    small: usize,
    bytes: usize,
    limits: Limits,
    hand: usize,
    swept: usize,
    evicted: u64,
}

impl<V: Weigh> Shard<V> {
    /// What a place in the table takes, in bytes.
    pub(super) const SLOT: usize = size_of::<Option<Slot<V>>>();

    pub(super) const fn new(limits: Limits) -> Self {
        Shard { table: Table::new(), small: 0, bytes: 0, limits, hand: 0, swept: 0, evicted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The value under `key`, unless it has expired. Counts as having been asked for.
    pub(in crate::session) fn get(&mut self, key: &SessionKey, hash: u32, now: Tenths) -> Option<&mut V> {
        let at = self.table.find(key, hash)?;
        if self.table.at(at)?.expires <= now {
            self.take(at);
            return None;
        }
        let slot = self.table.at(at)?;
        // What is busy is only read.
        if slot.asked < MOST_SPARED {
            slot.asked += 1;
        }
        Some(&mut slot.value)
    }

    /// Lets what is under `key` live until `expires`.
    pub(in crate::session) fn keep(&mut self, key: &SessionKey, hash: u32, expires: Tenths) {
        if let Some(slot) = self.table.find(key, hash).and_then(|at| self.table.at(at))
            && slot.expires != expires
        {
            slot.expires = expires;
        }
    }

    /// Puts `value` under `key`, in place of what is there.
    pub(in crate::session) fn put(&mut self, key: &SessionKey, hash: u32, value: V, expires: Tenths, now: Tenths) {
        let bytes = Self::bytes_of(&value);
        let there = self.table.find(key, hash);
        if let Some(slot) = there.and_then(|at| self.table.at(at)) {
            slot.expires = expires;
            let old = std::mem::replace(&mut slot.value, value);
            self.bytes = self.bytes + bytes - Self::bytes_of(&old);
        } else {
            self.sweep(now);
            self.table.insert(Slot { key: *key, hash, expires, asked: 0, standing: Standing::New, value });
            self.small += 1;
            self.bytes += bytes;
        }
        self.make_room(now);
    }

    pub(in crate::session) fn remove(&mut self, key: &SessionKey, hash: u32) -> Option<V> {
        let at = self.table.find(key, hash)?;
        self.take(at)
    }

    /// With its share of the places that are not taken.
    fn bytes_of(value: &V) -> usize {
        Self::SLOT * 3 / 2 + value.extra_bytes()
    }

    fn make_room(&mut self, now: Tenths) {
        while self.len() > self.limits.entries || (self.bytes > self.limits.bytes && self.len() > 1) {
            let from_small = self.small > self.len() / 10 || self.small == self.len();
            if self.hand >= self.table.places() {
                self.hand = 0;
            }
            let at = self.hand;
            let Some(slot) = self.table.at(at) else {
                self.hand += 1;
                continue;
            };
            match (slot.standing, slot.asked) {
                _ if slot.expires <= now => _ = self.take(at),
                // Who has just come is not judged yet.
                (Standing::New, _) if from_small => {
                    slot.standing = Standing::Waiting;
                    self.hand += 1;
                }
                (Standing::Waiting, 0) if from_small => self.evict(at),
                (Standing::Waiting, _) if from_small => {
                    (slot.standing, slot.asked) = (Standing::Main, 0);
                    self.small -= 1;
                    self.hand += 1;
                }
                (Standing::Main, 0) if !from_small => self.evict(at),
                (Standing::Main, _) if !from_small => {
                    slot.asked -= 1;
                    self.hand += 1;
                }
                _ => self.hand += 1,
            }
        }
    }

    fn evict(&mut self, at: usize) {
        self.take(at);
        self.evicted += 1;
    }

    /// Looks for what has expired, a few places further with every call.
    fn sweep(&mut self, now: Tenths) {
        for _ in 0..SWEPT {
            if self.swept >= self.table.places() {
                self.swept = 0;
            }
            match self.table.at(self.swept) {
                // The next one moves up.
                Some(slot) if slot.expires <= now => _ = self.take(self.swept),
                _ => self.swept += 1,
            }
        }
    }

    fn take(&mut self, at: usize) -> Option<V> {
        let slot = self.table.remove(at)?;
        self.bytes -= Self::bytes_of(&slot.value);
        self.small -= usize::from(slot.standing != Standing::Main);
        Some(slot.value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    impl Weigh for u64 {
        fn extra_bytes(&self) -> usize {
            (*self % 7) as usize
        }
    }

    fn shard(entries: usize) -> Shard<u64> {
        Shard::new(Limits { entries, bytes: usize::MAX })
    }

    fn key(n: u64) -> (SessionKey, u32) {
        (SessionKey::from_bytes(u128::from(n).to_be_bytes()), crate::hash::key64(&n.to_be_bytes()) as u32)
    }

    fn put(shard: &mut Shard<u64>, n: u64) {
        let (key, hash) = key(n);
        shard.put(&key, hash, n, 100, 0);
    }

    fn has(shard: &mut Shard<u64>, n: u64) -> bool {
        let (key, hash) = key(n);
        shard.get(&key, hash, 0).is_some()
    }

    #[test]
    fn a_flood_of_ids_that_nobody_uses_again_leaves_the_sessions_in_use() {
        let mut shard = shard(1000);
        for n in 0..900 {
            put(&mut shard, n);
            assert!(has(&mut shard, n), "used once more");
        }
        for n in 0..1_000_000 {
            put(&mut shard, 1_000_000 + n);
        }
        assert!(shard.len() <= 1000 && shard.table.places() <= 2000);
        let kept = (0..900).filter(|n| has(&mut shard, *n)).count();
        assert_eq!(kept, 900, "sessions in use");
    }

    #[test]
    fn who_is_asked_for_most_goes_last() {
        let mut shard = shard(100);
        for n in 0..200 {
            put(&mut shard, n);
            for busy in 0..5 {
                assert!(has(&mut shard, busy) || busy > n, "{busy} after {n}");
            }
        }
    }

    #[test]
    fn bytes_bound_too() {
        let mut shard = Shard::<u64>::new(Limits { entries: usize::MAX, bytes: 10_000 });
        for n in 0..10_000 {
            put(&mut shard, n);
            assert!(shard.bytes <= 10_000);
        }
        assert!(shard.len() > 50);
    }

    #[test]
    fn what_has_expired_is_swept_by_those_who_come() {
        let mut shard = shard(1_000_000);
        for n in 0..10_000 {
            put(&mut shard, n);
        }
        for n in 10_000..20_000 {
            let (key, hash) = key(n);
            shard.put(&key, hash, n, 300, 200);
        }
        assert_eq!(shard.len(), 10_000);
        assert!(shard.table.places() < 20_000, "{}", shard.table.places());
    }

    proptest::proptest! {
        /// Against a plain map without a limit: what is there is what was put there last, and the books are right.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0_u64..40, 0_u8..4), 0..400), entries in 1_usize..50) {
            let mut shard = shard(entries);
            let mut map = HashMap::new();
            for (step, (n, what)) in steps.into_iter().enumerate() {
                let (key, hash) = key(n);
                match what {
                    0 | 1 => {
                        shard.put(&key, hash, step as u64, 100, 0);
                        map.insert(n, step as u64);
                    }
                    2 => {
                        let removed = shard.remove(&key, hash);
                        let expected = map.remove(&n);
                        proptest::prop_assert!(removed.is_none() || removed == expected);
                    }
                    _ => {
                        let found = shard.get(&key, hash, 0).copied();
                        proptest::prop_assert!(found.is_none() || found == map.get(&n).copied());
                    }
                }
                proptest::prop_assert!(shard.len() <= entries);
                let slots = || shard.table.iter();
                proptest::prop_assert_eq!(slots().count(), shard.len());
                let bytes: usize = slots().map(|slot| Shard::bytes_of(&slot.value)).sum();
                proptest::prop_assert_eq!(bytes, shard.bytes);
                proptest::prop_assert_eq!(slots().filter(|slot| slot.standing != Standing::Main).count(), shard.small);
                if entries >= 40 {
                    proptest::prop_assert_eq!(shard.len(), map.len());
                }
            }
        }
    }
}
