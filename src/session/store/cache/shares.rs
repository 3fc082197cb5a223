use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ahash::RandomState;

use crate::client_key::ClientKey;

/// The part of a cache that each client uses, in relation to the fraction 1 / [`MIN_FRACTION`] that
/// a client may always take.
///
/// A client that fills the cache must not evict the sessions of others. When a client exceeds that
/// fraction, the entries of all clients that use less than half as much are protected. So only the
/// largest clients lose entries.
///
/// Clients whose hashes fall into the same slot count as one. Concurrent changes may make the
/// counts inexact for a moment, which protects a few entries too many or too few.
pub(super) struct Shares {
    /// In units of the minimum weight of an entry.
    used: Box<[AtomicU32]>,
    /// The slot that uses the most units, in the upper half, and its units in the lower.
    largest: AtomicU64,
    /// No entry is protected unless a slot uses more units than this.
    floor: u32,
    /// Seeded, so that a client cannot choose the slot of another one.
    hasher: RandomState,
}

/// One client may take up to 1 / 64 of the cache at the expense of all others.
const MIN_FRACTION: usize = 64;

/// The clients whose hashes are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u16);

impl Slot {
    pub(super) fn from_bits(bits: u16) -> Self {
        Slot(bits)
    }

    pub(super) fn bits(self) -> u16 {
        self.0
    }
}

impl Shares {
    pub(super) fn new(max_units: usize) -> Self {
        let slots = max_units.next_power_of_two().clamp(1 << 10, 1 << 16);
        Shares {
            used: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            largest: AtomicU64::new(0),
            floor: u32::try_from(max_units / MIN_FRACTION).unwrap_or(u32::MAX),
            hasher: RandomState::new(),
        }
    }

    /// Returns the slot of a client. Clients without an address share one.
    pub(super) fn slot(&self, client: Option<ClientKey>) -> Slot {
        Slot((self.hasher.hash_one(client) as usize & (self.used.len() - 1)) as u16)
    }

    pub(super) fn add(&self, slot: Slot, units: u32) {
        self.change(slot, |used| used.saturating_add(units));
    }

    pub(super) fn subtract(&self, slot: Slot, units: u32) {
        self.change(slot, |used| used.saturating_sub(units));
    }

    /// Returns whether an entry of the slot must not be evicted.
    pub(super) fn is_protected(&self, slot: Slot) -> bool {
        let largest = self.largest.load(Ordering::Relaxed) as u32;
        largest > self.floor && self.used[usize::from(slot.0)].load(Ordering::Relaxed) < largest / 2
    }

    #[cfg(test)]
    pub(super) fn used(&self, slot: Slot) -> u32 {
        self.used.get(usize::from(slot.0)).map_or(0, |used| used.load(Ordering::Relaxed))
    }

    fn change(&self, slot: Slot, change: impl Fn(u32) -> u32) {
        let before = self.used[usize::from(slot.0)]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(change(used)));
        let used = change(before.unwrap_or_else(|used| used));
        let this = u64::from(slot.0) << 32 | u64::from(used);
        _ = self.largest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |largest| {
            let is_this = largest >> 32 == u64::from(slot.0);
            (is_this || used > largest as u32).then_some(this)
        });
    }
}
