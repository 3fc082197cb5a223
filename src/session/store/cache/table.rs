//! The slots of a shard: one array, in the order of their hashes, with gaps.
//!
//! A lookup goes to where the hash says and reads on from there, so that it costs one miss of the caches, not one for an index, one
//! for what the index names, and one for what that refers to. The order is what ends a search in vain as soon as one that finds. It
//! is linear probing, kept sorted (a Robin Hood table), so a slot that leaves needs no mark in its place: the next ones move up.

use super::Tenths;
use crate::session::SessionKey;

pub(super) struct Table<V> {
    /// A slot stands where its hash says, or behind that, with no gap in between.
    slots: Vec<Option<Slot<V>>>,
    /// To how many places the hashes are spread; what the last of them push out stands behind.
    homes: usize,
    len: usize,
}

/// On one cache line, where the value leaves it room enough.
#[repr(align(64))]
pub(super) struct Slot<V> {
    pub(super) key: SessionKey,
    pub(super) hash: u32,
    pub(super) expires: Tenths,
    pub(super) asked: u8,
    pub(super) standing: Standing,
    pub(super) value: V,
}

/// How an entry stands with those that choose who has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The hand has not passed it yet.
    New,
    /// The hand has passed it once.
    Waiting,
    /// It was asked for while it waited.
    Main,
}

/// The fewest places.
const FEWEST: usize = 16;

impl<V> Table<V> {
    pub(super) const fn new() -> Self {
        Table { slots: Vec::new(), homes: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many places there are, taken or not.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    /// What stands at a place, if anything.
    pub(super) fn at(&mut self, at: usize) -> Option<&mut Slot<V>> {
        self.slots.get_mut(at)?.as_mut()
    }

    pub(super) fn find(&self, key: &SessionKey, hash: u32) -> Option<usize> {
        let mut at = self.home(hash);
        while let Some(Some(slot)) = self.slots.get(at)
            && slot.hash <= hash
        {
            if slot.hash == hash && slot.key == *key {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    /// Adds a slot, whose key is not there.
    pub(super) fn insert(&mut self, slot: Slot<V>) {
        // Three quarters full, a search reads on by two and a half slots, which lie side by side.
        if self.len >= self.homes / 4 * 3 {
            self.grow();
        }
        let mut at = self.home(slot.hash);
        while let Some(Some(there)) = self.slots.get(at)
            && there.hash <= slot.hash
        {
            at += 1;
        }
        let gap = (at..self.slots.len()).find(|&gap| self.slots[gap].is_none()).unwrap_or_else(|| {
            push(&mut self.slots, None);
            self.slots.len() - 1
        });
        self.slots[at..=gap].rotate_right(1);
        self.slots[at] = Some(slot);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Slot<V>> {
        let slot = self.slots.get_mut(at)?.take()?;
        let mut end = at + 1;
        while let Some(Some(next)) = self.slots.get(end)
            && self.home(next.hash) < end
        {
            end += 1;
        }
        self.slots[at..end].rotate_left(1);
        self.len -= 1;
        Some(slot)
    }

    /// The place where a slot of this hash should stand: the order of places is that of hashes.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.homes as u64) >> 32) as usize
    }

    /// By a third: what a session takes never doubles.
    fn grow(&mut self) {
        self.homes = (self.homes / 3 * 4).max(FEWEST);
        let old = std::mem::take(&mut self.slots);
        self.slots.reserve_exact(self.homes + self.homes / 64 + SPARE);
        for slot in old.into_iter().flatten() {
            let home = self.home(slot.hash);
            while self.slots.len() < home {
                self.slots.push(None);
            }
            push(&mut self.slots, Some(slot));
        }
        while self.slots.len() < self.homes {
            self.slots.push(None);
        }
    }
}

/// How many places behind the last are made at once.
const SPARE: usize = 8;

fn push<T>(slots: &mut Vec<T>, slot: T) {
    if slots.len() == slots.capacity() {
        // Not twice as many.
        slots.reserve_exact(SPARE);
    }
    slots.push(slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(n: u64, hash: u32) -> Slot<u64> {
        let key = SessionKey::from_bytes(u128::from(n).to_be_bytes());
        Slot { key, hash, expires: 0, asked: 0, standing: Standing::New, value: n }
    }

    impl<V> Table<V> {
        pub(in super::super) fn iter(&self) -> impl Iterator<Item = &Slot<V>> {
            self.slots.iter().flatten()
        }

        /// Every slot is in order, at its place or behind it with no gap in between.
        fn check(&self) {
            let mut last = 0;
            for (at, slot) in self.slots.iter().enumerate() {
                let Some(slot) = slot else { continue };
                assert!(last <= slot.hash, "in order");
                last = slot.hash;
                let home = self.home(slot.hash);
                assert!(home <= at && self.slots[home..at].iter().all(Option::is_some), "{home} {at}");
            }
            assert_eq!(self.slots.iter().flatten().count(), self.len);
        }
    }

    #[test]
    fn takes_at_most_twice_what_its_slots_take() {
        let mut table = Table::new();
        for n in 0..100_000_u64 {
            table.insert(slot(n, hash(n)));
            assert!(table.slots.capacity() <= 2 * table.len() + FEWEST + SPARE);
        }
        table.check();
    }

    /// In steps; the time of a step is that of memory, which is longer where no cache holds it.
    #[test]
    fn a_lookup_is_flat_from_ten_thousand_to_a_million() {
        let mut table = Table::new();
        let mut inserted = 0..1_000_000_u64;
        for size in [10_000, 100_000, 1_000_000] {
            inserted.by_ref().take(size - table.len()).for_each(|n| table.insert(slot(n, hash(n))));
            let read_on =
                |(at, slot): (usize, &Option<Slot<u64>>)| slot.as_ref().map(|slot| at - table.home(slot.hash));
            let steps: Vec<usize> = table.slots.iter().enumerate().filter_map(read_on).collect();
            assert_eq!(steps.len(), size);
            assert!(
                steps.iter().sum::<usize>() < 2 * size,
                "{} steps to find each of {size}",
                steps.iter().sum::<usize>()
            );
            // Side by side: seven slots are seven cache lines in a row, which the processor fetches ahead.
            let far = steps.iter().filter(|steps| **steps > 7).count();
            assert!(far < size / 20, "{far} of {size} are far from home");
        }
    }

    fn hash(n: u64) -> u32 {
        crate::hash::key64(&n.to_be_bytes()) as u32
    }

    proptest::proptest! {
        /// Few hashes, so that many meet, also at the end.
        #[test]
        fn keeps_its_order(steps in proptest::collection::vec((0_u64..200, 0_u32..12, proptest::bool::ANY), 0..300)) {
            let mut table = Table::new();
            let mut there = std::collections::HashMap::new();
            for (n, hash, inserts) in steps {
                let hash = if hash < 6 { hash } else { u32::MAX - hash };
                let key = slot(n, hash).key;
                let found = table.find(&key, hash);
                proptest::prop_assert_eq!(found.is_some(), there.contains_key(&(n, hash)));
                match found {
                    None if inserts => {
                        table.insert(slot(n, hash));
                        there.insert((n, hash), ());
                    }
                    Some(at) if !inserts => {
                        proptest::prop_assert_eq!(table.remove(at).map(|slot| slot.value), Some(n));
                        there.remove(&(n, hash));
                    }
                    _ => {}
                }
                table.check();
                for (n, hash) in there.keys() {
                    let at = table.find(&slot(*n, *hash).key, *hash);
                    proptest::prop_assert_eq!(at.and_then(|at| table.at(at)).map(|slot| slot.value), Some(*n));
                }
            }
        }
    }
}
