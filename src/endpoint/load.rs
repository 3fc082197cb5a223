//! What endpoints have to do at present. It changes with each request, and policies compare it: so it lies apart from all else
//! that is known of an endpoint.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One endpoint's.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(super) count: Count,
}

impl Load {
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.count.in_flight()
    }

    /// Returns whether fewer requests are in flight than `limit` allows.
    #[inline]
    pub(crate) fn is_below(&self, limit: Option<NonZeroU32>) -> bool {
        limit.is_none_or(|limit| self.in_flight() < limit.get())
    }
}

/// The loads of many endpoints.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Block([Load; BLOCK]);

const BLOCK: usize = 1024;

/// How far apart they lie where each has cache lines of its own.
const APART: usize = 128 / size_of::<Load>();

impl Block {
    fn new() -> Arc<Self> {
        Arc::new(Block(std::array::from_fn(|_| Load::default())))
    }

    #[inline]
    pub(super) fn at(&self, index: u16) -> &Load {
        &self.0[usize::from(index) % BLOCK]
    }
}

/// A reference to an endpoint's load.
#[derive(Debug, Clone)]
pub(crate) struct LoadRef {
    pub(super) block: Arc<Block>,
    pub(super) index: u16,
}

impl Deref for LoadRef {
    type Target = Load;

    #[inline]
    fn deref(&self) -> &Load {
        self.block.at(self.index)
    }
}

/// Gives endpoints their loads. Cores that send to different endpoints shall not meet, so where there are few, each has cache
/// lines of its own; where there are many, cores seldom meet, and what counts is that their loads fit into the cache.
#[derive(Debug)]
pub(crate) struct Loads {
    few: Source,
    /// Until there are many, none.
    many: Option<Source>,
}

/// The most endpoints that are few.
const FEW: usize = BLOCK / APART;

#[derive(Debug)]
struct Source {
    block: Arc<Block>,
    next: usize,
    step: usize,
}

impl Loads {
    pub(crate) fn new() -> Self {
        Loads { few: Source::new(APART), many: None }
    }

    /// A load for an endpoint that comes to `others`.
    pub(crate) fn next(&mut self, others: usize) -> LoadRef {
        let source = if others < FEW { &mut self.few } else { self.many.get_or_insert_with(|| Source::new(1)) };
        source.next()
    }
}

impl Source {
    fn new(step: usize) -> Self {
        Source { block: Block::new(), next: 0, step }
    }

    fn next(&mut self) -> LoadRef {
        if self.next >= BLOCK {
            (self.block, self.next) = (Block::new(), 0);
        }
        let load = LoadRef { block: Arc::clone(&self.block), index: self.next as u16 };
        self.next += self.step;
        load
    }
}

/// How many requests are in flight on an endpoint, and how many have ended, in one word: a request costs two atomic additions,
/// and what is in flight is known from one read.
///
/// The lower half is what is in flight (2^32 at once would not fit into memory), the upper half what has ended, as far as
/// that goes.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// How often the upper half has begun anew: once every 2^32 requests.
#[derive(Debug, Default)]
pub(super) struct Wraps(AtomicU64);

const ENDED: u64 = 1 << 32;

impl Count {
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        // The lower half.
        self.0.load(Ordering::Acquire) as u32
    }

    /// Counts a request in; returns false when `limit` is reached.
    #[inline]
    pub(super) fn begin(&self, limit: Option<NonZeroU32>) -> bool {
        let Some(limit) = limit else {
            self.0.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let below = |word: u64| ((word as u32) < limit.get()).then_some(word + 1);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, below).is_ok()
    }

    /// Takes back a `begin` of which no use was made.
    pub(super) fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request out.
    #[inline]
    pub(super) fn end(&self, wraps: &Wraps) {
        // One less in flight, one more ended.
        let before = self.0.fetch_add(ENDED - 1, Ordering::Release);
        if before >> 32 == u64::from(u32::MAX) {
            wraps.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many have ended. For a moment wrong by 2^32 when the upper half begins anew.
    pub(super) fn ended(&self, wraps: &Wraps) -> u64 {
        (wraps.0.load(Ordering::Relaxed) << 32) + (self.0.load(Ordering::Relaxed) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_loads_lie_apart_many_side_by_side_and_no_two_in_one_place() {
        let mut loads = Loads::new();
        let all: Vec<_> = (0..2_000).map(|others| loads.next(others)).collect();
        let addresses: Vec<usize> = all.iter().map(|load| std::ptr::from_ref::<Load>(load).addr()).collect();
        assert!(addresses[..FEW].windows(2).all(|pair| pair[1] - pair[0] == 128 && pair[0] % 128 == 0));
        assert!(addresses[FEW..FEW + BLOCK].windows(2).all(|pair| pair[1] - pair[0] == size_of::<Load>()));
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 2_000);
    }

    #[test]
    fn what_ends_is_counted_beyond_32_bits() {
        let (count, wraps) = (Count(AtomicU64::new((u64::from(u32::MAX) << 32) + 2)), Wraps::default());
        assert_eq!((count.in_flight(), count.ended(&wraps)), (2, u64::from(u32::MAX)));
        count.end(&wraps);
        assert_eq!((count.in_flight(), count.ended(&wraps)), (1, 1 << 32));
        count.end(&wraps);
        assert_eq!((count.in_flight(), count.ended(&wraps)), (0, (1 << 32) + 1));
    }

    #[test]
    fn threads_keep_to_the_limit_and_leave_nothing_behind() {
        const LIMIT: u32 = 2;
        let (count, wraps) = (Count::default(), Wraps::default());
        let served: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let begun = || count.begin(NonZeroU32::new(LIMIT));
                        (0..20_000)
                            .filter(|_| begun())
                            .inspect(|_| {
                                assert!(count.in_flight() <= LIMIT);
                                count.end(&wraps);
                            })
                            .count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((count.in_flight(), count.ended(&wraps)), (0, served));
    }
}
