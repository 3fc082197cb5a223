use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::modulus::Modulus;
use super::smooth_order::smooth_order;
use crate::shard;

/// Smooth weighted round robin over the ready members of a group: one precomputed round, and
/// counters that advance through it.
pub(crate) struct Rotation {
    /// One round, as indices of members.
    order: Vec<u32>,
    length: Modulus,
    counters: Arc<RotationCounters>,
}

/// The number of picks that rotation has made. The counters survive changes of the view, so that a
/// change causes no burst.
#[derive(Debug)]
pub(crate) struct RotationCounters {
    shared: Counter,
    /// One per core. Where only the order among equals matters, the cores need not agree on the
    /// next endpoint; nginx's workers do not either. Each core completes its rounds, so the shares
    /// are kept, and the cores do not contend for the shared counter.
    per_core: Vec<Counter>,
}

/// A counter on its own cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn advance(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Default for RotationCounters {
    fn default() -> Self {
        let per_core = std::iter::repeat_with(Counter::default).take(shard::count()).collect();
        RotationCounters { shared: Counter::default(), per_core }
    }
}

/// A position in a core's rotation that was read but not yet used.
pub(crate) struct RotationCursor<'r>(&'r Counter);

impl RotationCursor<'_> {
    #[inline]
    pub(crate) fn advance(self) {
        self.0.advance();
    }
}

impl Rotation {
    /// Returns the rotation of `ready`, which holds the index and the weight of each ready member.
    pub(super) fn new(ready: &[(u32, u32)], counters: Arc<RotationCounters>) -> Self {
        let order = smooth_order(ready);
        Rotation { length: Modulus::new(order.len() as u64), order, counters }
    }

    /// Returns one round, as indices of members. It is empty if no member is ready.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Advances the rotation that all cores share, and returns the next member, eligible or not.
    #[inline]
    pub(crate) fn next(&self) -> Option<usize> {
        self.at(|| self.advance())
    }

    /// Advances the current core's rotation, and returns the next member, eligible or not.
    #[inline]
    pub(crate) fn next_of_core(&self) -> Option<usize> {
        self.at(|| self.core_counter().advance())
    }

    /// Returns the next member of the current core's rotation, and the cursor that advances it.
    #[inline]
    pub(crate) fn peek_of_core(&self) -> Option<(usize, RotationCursor<'_>)> {
        let counter = self.core_counter();
        Some((self.at(|| counter.get())?, RotationCursor(counter)))
    }

    /// Advances the current core's rotation by one, and returns up to `count` members from there
    /// on, each position of the order at most once. Cores start in different parts of the order,
    /// because otherwise cores that pick at the same rate would compare the same members.
    pub(crate) fn window_of_core(&self, count: usize) -> impl Iterator<Item = usize> + use<'_> {
        let cores = self.counters.per_core.len();
        let core = shard::of_thread(cores);
        // The number of cores is a power of two, so a shift divides.
        let start = (self.order.len() * core) >> cores.trailing_zeros();
        let counter = || self.counters.per_core[core].advance().wrapping_add(start as u64);
        let (before, after) = self.order.split_at(self.position(counter).unwrap_or(0));
        after.iter().chain(before).take(count).map(|index| *index as usize)
    }

    /// Advances the shared rotation, and returns the previous count.
    pub(crate) fn advance(&self) -> u64 {
        self.counters.shared.advance()
    }

    #[inline]
    fn core_counter(&self) -> &Counter {
        &self.counters.per_core[shard::of_thread(self.counters.per_core.len())]
    }

    #[inline]
    fn at(&self, counter: impl FnOnce() -> u64) -> Option<usize> {
        Some(self.order[self.position(counter)?] as usize)
    }

    /// Returns the position in the order for a count. The count is read only if there is a choice.
    #[inline]
    fn position(&self, counter: impl FnOnce() -> u64) -> Option<usize> {
        match self.order.len() {
            0 => None,
            1 => Some(0),
            _ => Some(self.length.remainder(counter()) as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(weights: &[u32]) -> Rotation {
        let ready: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
        let per_core = vec![Counter::default(), Counter::default()];
        Rotation::new(&ready, Arc::new(RotationCounters { shared: Counter::default(), per_core }))
    }

    /// Runs `act` on new threads, one after another, until each of two cores has four results.
    fn on_two_cores<T: Send>(act: impl Fn() -> T + Sync) -> [Vec<T>; 2] {
        let mut done = [Vec::new(), Vec::new()];
        while done.iter().any(|done| done.len() < 4) {
            let (shard, result) =
                std::thread::scope(|scope| scope.spawn(|| (shard::of_thread(2), act())).join().unwrap());
            done[shard].push(result);
        }
        done.map(|done| done.into_iter().take(4).collect())
    }

    #[test]
    fn each_core_has_its_own_position_in_the_order() {
        let rotation = rotation(&[2, 1, 1]);
        let taken = on_two_cores(|| {
            let (next, cursor) = rotation.peek_of_core().unwrap();
            cursor.advance();
            (next, rotation.next_of_core())
        });
        assert_eq!(taken, [0, 1].map(|_| [(0, Some(1)), (2, Some(0)), (0, Some(1)), (2, Some(0))].to_vec()));
        assert_eq!(rotation.next(), Some(0), "the shared rotation has not advanced");
    }

    #[test]
    fn windows_of_different_cores_start_apart() {
        let rotation = rotation(&[1; 100]);
        let seen = on_two_cores(|| rotation.window_of_core(3).collect::<Vec<_>>());
        let from = |start: usize| (0..4).map(|n| (start + n..start + n + 3).collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(seen, [from(0), from(50)]);
        assert_eq!(rotation.window_of_core(1_000).count(), 100, "each position once");
    }
}
