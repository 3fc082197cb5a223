//! The loads of endpoints: how many requests are in flight, and how many have ended. They change
//! with each request and policies compare them, so they lie apart from the other data of an
//! endpoint.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// The number of an endpoint's requests in flight or waiting for a slot, and the number of ended
/// requests, in one word. A request costs two atomic additions, and one read yields the requests in
/// flight.
///
/// The lower half counts the requests in flight (2^32 at once would not fit into memory). The upper
/// half counts the ended requests, modulo 2^32.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

/// The number of times that the upper half of a [`Load`] has wrapped around.
#[derive(Debug, Default)]
pub(super) struct WrapCount(AtomicU64);

const ONE_ENDED: u64 = 1 << 32;

impl Load {
    /// Returns how many requests are in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        // The lower half.
        self.0.load(Ordering::Acquire) as u32
    }

    /// Returns whether fewer requests are in flight than `limit` allows.
    #[inline]
    pub(crate) fn is_below(&self, limit: Option<NonZeroU32>) -> bool {
        limit.is_none_or(|limit| self.in_flight() < limit.get())
    }

    /// Counts a request as in flight. Returns false if `limit` is reached.
    #[inline]
    pub(super) fn begin(&self, limit: Option<NonZeroU32>) -> bool {
        let Some(limit) = limit else {
            self.0.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let below = |word: u64| ((word as u32) < limit.get()).then_some(word + 1);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, below).is_ok()
    }

    /// Undoes a `begin` whose request is not sent.
    pub(super) fn undo_begin(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request as ended.
    #[inline]
    pub(super) fn end(&self, wraps: &WrapCount) {
        // One less in flight, one more ended.
        let before = self.0.fetch_add(ONE_ENDED - 1, Ordering::Release);
        if before >> 32 == u64::from(u32::MAX) {
            wraps.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many requests have ended. Off by 2^32 for a moment when the upper half wraps
    /// around.
    pub(super) fn ended(&self, wraps: &WrapCount) -> u64 {
        (wraps.0.load(Ordering::Relaxed) << 32) + (self.0.load(Ordering::Relaxed) >> 32)
    }
}

/// The loads of many endpoints.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct LoadBlock([Load; BLOCK_SIZE]);

const BLOCK_SIZE: usize = 1024;

impl LoadBlock {
    fn new() -> Arc<Self> {
        Arc::new(LoadBlock(std::array::from_fn(|_| Load::default())))
    }

    #[inline]
    pub(super) fn at(&self, index: u16) -> &Load {
        &self.0[usize::from(index) % BLOCK_SIZE]
    }
}

/// A reference to an endpoint's load.
#[derive(Debug, Clone)]
pub(crate) struct LoadRef {
    pub(super) block: Arc<LoadBlock>,
    pub(super) index: u16,
}

impl LoadRef {
    #[inline]
    pub(super) fn get(&self) -> &Load {
        self.block.at(self.index)
    }
}

/// Assigns loads to endpoints.
///
/// The first 64 endpoints get their own cache lines, so that cores that send to different endpoints
/// do not contend. With more endpoints, cores seldom contend, and dense loads fit into the cache.
#[derive(Debug)]
pub(crate) struct Loads {
    spread: LoadSource,
    /// Made when there are more endpoints than may be spread.
    dense: Option<LoadSource>,
}

/// The distance between two loads that have their own cache lines.
const SPREAD_STEP: usize = 128 / size_of::<Load>();

/// The maximum number of endpoints whose loads have their own cache lines.
const MAX_SPREAD: usize = BLOCK_SIZE / SPREAD_STEP;

#[derive(Debug)]
struct LoadSource {
    block: Arc<LoadBlock>,
    next: usize,
    step: usize,
}

impl Loads {
    pub(crate) fn new() -> Self {
        Loads { spread: LoadSource::new(SPREAD_STEP), dense: None }
    }

    /// Returns a load for an endpoint that joins `others`.
    pub(crate) fn next(&mut self, others: usize) -> LoadRef {
        match others < MAX_SPREAD {
            true => self.spread.next(),
            false => self.dense.get_or_insert_with(|| LoadSource::new(1)).next(),
        }
    }
}

impl LoadSource {
    fn new(step: usize) -> Self {
        LoadSource { block: LoadBlock::new(), next: 0, step }
    }

    fn next(&mut self) -> LoadRef {
        if self.next >= BLOCK_SIZE {
            (self.block, self.next) = (LoadBlock::new(), 0);
        }
        let load = LoadRef { block: Arc::clone(&self.block), index: self.next as u16 };
        self.next += self.step;
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_loads_are_spread_many_are_dense_and_all_are_distinct() {
        let mut loads = Loads::new();
        let all: Vec<_> = (0..2_000).map(|others| loads.next(others)).collect();
        let addresses: Vec<usize> = all.iter().map(|load| std::ptr::from_ref(load.get()).addr()).collect();
        assert!(addresses[..MAX_SPREAD].windows(2).all(|pair| pair[1] - pair[0] == 128 && pair[0] % 128 == 0));
        assert!(
            addresses[MAX_SPREAD..MAX_SPREAD + BLOCK_SIZE]
                .windows(2)
                .all(|pair| pair[1] - pair[0] == size_of::<Load>())
        );
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 2_000);
    }

    #[test]
    fn requests_that_ended_are_counted_beyond_32_bits() {
        let (load, wraps) = (Load(AtomicU64::new((u64::from(u32::MAX) << 32) + 2)), WrapCount::default());
        assert_eq!((load.in_flight(), load.ended(&wraps)), (2, u64::from(u32::MAX)));
        load.end(&wraps);
        assert_eq!((load.in_flight(), load.ended(&wraps)), (1, 1 << 32));
        load.end(&wraps);
        assert_eq!((load.in_flight(), load.ended(&wraps)), (0, (1 << 32) + 1));
    }

    #[test]
    fn threads_keep_to_the_limit_and_all_requests_end() {
        const LIMIT: u32 = 2;
        let (load, wraps) = (Load::default(), WrapCount::default());
        let served: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let begun = || load.begin(NonZeroU32::new(LIMIT));
                        (0..20_000)
                            .filter(|_| begun())
                            .inspect(|_| {
                                assert!(load.in_flight() <= LIMIT);
                                load.end(&wraps);
                            })
                            .count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((load.in_flight(), load.ended(&wraps)), (0, served));
    }
}
