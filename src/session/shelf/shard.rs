use hashbrown::HashTable;

use super::{Limits, Tenths, Weigh};
use crate::session::SessionKey;

/// No slot.
const NONE: u32 = u32::MAX;
/// Slots are allocated in pieces of this many, so that growing neither copies nor doubles.
const CHUNK: usize = 128;
/// What an entry costs in the index: a hash and a number, a byte of control, and the room that a growing table has to spare.
const INDEX_BYTES: usize = 20;
/// How often an entry that was asked for is spared.
const MOST_SPARED: u8 = 3;
/// How many slots an insertion looks at for what has expired.
const SWEPT: usize = 2;

/// One part of a shelf. Entries are slots in a slab, each linked into one of two queues, oldest first.
pub(in crate::session) struct Shard<V> {
    index: HashTable<(u32, u32)>,
    chunks: Vec<Vec<Slot<V>>>,
    free: u32,
    small: Queue,
    main: Queue,
    bytes: usize,
    limits: Limits,
    swept: u32,
    evicted: u64,
}

struct Slot<V> {
    key: SessionKey,
    expires: Tenths,
    hash: u32,
    prev: u32,
    next: u32,
    asked: u8,
    in_main: bool,
    value: Option<V>,
}

#[derive(Clone, Copy)]
struct Queue {
    first: u32,
    last: u32,
    len: usize,
}

impl<V: Weigh> Shard<V> {
    pub(super) fn new(limits: Limits) -> Self {
        let empty = Queue { first: NONE, last: NONE, len: 0 };
        Shard {
            index: HashTable::new(),
            chunks: Vec::new(),
            free: NONE,
            small: empty,
            main: empty,
            bytes: 0,
            limits,
            swept: 0,
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The value under `key`, unless it has expired. Counts as having been asked for.
    pub(in crate::session) fn get(&mut self, key: &SessionKey, hash: u32, now: Tenths) -> Option<&mut V> {
        let at = self.find(key, hash)?;
        if self.slot(at).expires <= now {
            self.take(at);
            return None;
        }
        let slot = self.slot_mut(at);
        slot.asked = MOST_SPARED.min(slot.asked + 1);
        slot.value.as_mut()
    }

    /// Lets what is under `key` live until `expires`.
    pub(in crate::session) fn keep(&mut self, key: &SessionKey, hash: u32, expires: Tenths) {
        if let Some(at) = self.find(key, hash) {
            self.slot_mut(at).expires = expires;
        }
    }

    /// Puts `value` under `key`, in place of what is there.
    pub(in crate::session) fn put(&mut self, key: &SessionKey, hash: u32, value: V, expires: Tenths, now: Tenths) {
        let bytes = Self::bytes_of(&value);
        match self.find(key, hash) {
            Some(at) => {
                let slot = self.slot_mut(at);
                slot.expires = expires;
                if let Some(old) = slot.value.replace(value) {
                    self.bytes = self.bytes + bytes - Self::bytes_of(&old);
                }
            }
            None => {
                self.sweep(now);
                let slot = Slot {
                    key: *key,
                    expires,
                    hash,
                    prev: NONE,
                    next: NONE,
                    asked: 0,
                    in_main: false,
                    value: Some(value),
                };
                let at = self.allocate(slot);
                self.index.insert_unique(spread(hash), (hash, at), |(hash, _)| spread(*hash));
                self.bytes += bytes;
                self.push(at, false);
            }
        }
        self.make_room(now);
    }

    pub(in crate::session) fn remove(&mut self, key: &SessionKey, hash: u32) -> Option<V> {
        let at = self.find(key, hash)?;
        self.take(at)
    }

    fn bytes_of(value: &V) -> usize {
        size_of::<Slot<V>>() + INDEX_BYTES + value.extra_bytes()
    }

    fn find(&self, key: &SessionKey, hash: u32) -> Option<u32> {
        let same = |(other, at): &(u32, u32)| *other == hash && self.slot(*at).key == *key;
        self.index.find(spread(hash), same).map(|(_, at)| *at)
    }

    fn make_room(&mut self, now: Tenths) {
        while self.len() > self.limits.entries || (self.bytes > self.limits.bytes && self.len() > 1) {
            let from_small = self.small.len > self.limits.entries / 10 || self.main.len == 0;
            let at = if from_small { self.small.first } else { self.main.first };
            let Slot { expires, asked, .. } = *self.slot(at);
            if expires <= now {
                self.take(at);
            } else if asked == 0 {
                self.take(at);
                self.evicted += 1;
            } else {
                // From the small queue into the main one, or to the main one's end with one chance less.
                self.slot_mut(at).asked = if from_small { 0 } else { asked - 1 };
                self.unlink(at);
                self.push(at, true);
            }
        }
    }

    /// Looks for what has expired, a few slots further with every call.
    fn sweep(&mut self, now: Tenths) {
        let slots = self.slots();
        for _ in 0..SWEPT.min(slots) {
            self.swept = if self.swept as usize + 1 >= slots { 0 } else { self.swept + 1 };
            let slot = self.slot(self.swept);
            if slot.value.is_some() && slot.expires <= now {
                self.take(self.swept);
            }
        }
    }

    fn take(&mut self, at: u32) -> Option<V> {
        self.unlink(at);
        let hash = self.slot(at).hash;
        if let Ok(entry) = self.index.find_entry(spread(hash), |(_, other)| *other == at) {
            entry.remove();
        }
        let free = self.free;
        let slot = self.slot_mut(at);
        slot.next = free;
        let value = slot.value.take();
        self.free = at;
        self.bytes -= value.as_ref().map_or(0, Self::bytes_of);
        value
    }

    fn push(&mut self, at: u32, in_main: bool) {
        let last = self.queue(in_main).last;
        let slot = self.slot_mut(at);
        (slot.prev, slot.next, slot.in_main) = (last, NONE, in_main);
        match last {
            NONE => self.queue(in_main).first = at,
            last => self.slot_mut(last).next = at,
        }
        let queue = self.queue(in_main);
        queue.last = at;
        queue.len += 1;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { prev, next, in_main, .. } = *self.slot(at);
        match prev {
            NONE => self.queue(in_main).first = next,
            prev => self.slot_mut(prev).next = next,
        }
        match next {
            NONE => self.queue(in_main).last = prev,
            next => self.slot_mut(next).prev = prev,
        }
        self.queue(in_main).len -= 1;
    }

    fn queue(&mut self, main: bool) -> &mut Queue {
        if main { &mut self.main } else { &mut self.small }
    }

    fn allocate(&mut self, slot: Slot<V>) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = self.slot(at).next;
            *self.slot_mut(at) = slot;
            return at;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // A shard that never holds much should not take much either.
            self.chunks.push(Vec::with_capacity(CHUNK.min(self.limits.entries.saturating_add(1))));
        }
        let at = self.slots() as u32;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(slot);
        }
        at
    }

    fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    fn slot(&self, at: u32) -> &Slot<V> {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot<V> {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

/// The index wants 64 bits, and looks at the highest and the lowest of them.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
        assert!(shard.len() <= 1000 && shard.slots() <= 1001);
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
        assert!(shard.slots() < 15_100, "{}", shard.slots());
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
                proptest::prop_assert_eq!(shard.index.len(), shard.len());
                let bytes: usize =
                    shard.chunks.iter().flatten().filter_map(|slot| slot.value.as_ref()).map(Shard::bytes_of).sum();
                proptest::prop_assert_eq!(bytes, shard.bytes);
                if entries >= 40 {
                    proptest::prop_assert_eq!(shard.len(), map.len());
                }
            }
        }
    }
}
