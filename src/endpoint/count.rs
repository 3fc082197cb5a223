use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests are in flight on an endpoint, and how many have ended, in one word: a request costs two atomic additions,
/// and what is in flight is known from one read.
///
/// The lower half is what is in flight (2^32 at once would not fit into memory), the upper half what has ended, as far as
/// that goes.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// Once every 2^32 requests the upper half begins anew.
#[derive(Debug, Default)]
pub(super) struct Rounds(AtomicU64);

const ENDED: u64 = 1 << 32;

impl Count {
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        // The lower half.
        self.0.load(Ordering::Acquire) as u32
    }

    /// Counts a request in; false when `limit`, if it is not 0, is reached.
    #[inline]
    pub(super) fn begin(&self, limit: u32) -> bool {
        if limit == 0 {
            self.0.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let below = |word: u64| ((word as u32) < limit).then_some(word + 1);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, below).is_ok()
    }

    /// Takes back a `begin` of which no use was made.
    pub(super) fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request out.
    #[inline]
    pub(super) fn end(&self, rounds: &Rounds) {
        // One less in flight, one more ended.
        let before = self.0.fetch_add(ENDED - 1, Ordering::Release);
        if before >> 32 == u64::from(u32::MAX) {
            rounds.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many have ended. For a moment too few by a whole round, when one is just over.
    pub(super) fn ended(&self, rounds: &Rounds) -> u64 {
        (rounds.0.load(Ordering::Relaxed) << 32) + (self.0.load(Ordering::Relaxed) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_counted_beyond_32_bits() {
        let (count, rounds) = (Count(AtomicU64::new((u64::from(u32::MAX) << 32) + 2)), Rounds::default());
        assert_eq!((count.in_flight(), count.ended(&rounds)), (2, u64::from(u32::MAX)));
        count.end(&rounds);
        assert_eq!((count.in_flight(), count.ended(&rounds)), (1, 1 << 32));
        count.end(&rounds);
        assert_eq!((count.in_flight(), count.ended(&rounds)), (0, (1 << 32) + 1));
    }

    #[test]
    fn threads_keep_to_the_limit_and_leave_nothing_behind() {
        const LIMIT: u32 = 2;
        let (count, rounds) = (Count::default(), Rounds::default());
        let served: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let begun = || count.begin(LIMIT);
                        (0..20_000)
                            .filter(|_| begun())
                            .inspect(|_| {
                                assert!(count.in_flight() <= LIMIT);
                                count.end(&rounds);
                            })
                            .count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((count.in_flight(), count.ended(&rounds)), (0, served));
    }
}
