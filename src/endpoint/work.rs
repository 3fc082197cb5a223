//! Expected work: what a policy that weighs requests by their cost knows of an endpoint, beyond how many there are.
//!
//! It is kept with the endpoint's live state and so survives every change of membership, and it is counted by leases: what
//! a pick adds, the end of its lease takes away again, to the microsecond.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Live, Outcome};

/// Who is told how long requests took.
pub trait Learner: Debug + Send + Sync + 'static {
    /// A request of this shape was answered well, `took` after it was picked. Called at the end of the answer's body, on
    /// whatever thread that happens: it must not block.
    fn learn(&self, shape: u64, took: Duration);
}

/// What one request is expected to cost: see [`Balancer::work`](crate::balance::Balancer::work).
#[derive(Debug)]
#[must_use]
pub struct Work {
    expected_micros: u32,
    shape: u64,
    learner: Arc<dyn Learner>,
}

impl Work {
    /// A request that is expected to take `expected`, counted in microseconds and at most 71 minutes. When it ends well,
    /// `learner` is told how long a request of `shape` took.
    pub fn new(expected: Duration, shape: u64, learner: Arc<dyn Learner>) -> Self {
        Work { expected_micros: u32::try_from(expected.as_micros()).unwrap_or(u32::MAX), shape, learner }
    }
}

/// The work of a request in flight, in its lease.
#[derive(Debug)]
pub(super) struct Carried {
    work: Work,
    began: Duration,
}

impl Carried {
    pub(super) fn begin(work: Work, live: &Live) -> Self {
        let began = live.since_origin(live.now());
        live.work.add(work.expected_micros, began);
        Carried { work, began }
    }

    pub(super) fn end(self, live: &Live, outcome: Outcome) {
        let Carried { work, began } = self;
        live.work.subtract(work.expected_micros, began);
        // A failure says nothing about the query, and neither does a client that went away.
        if outcome == Outcome::Success {
            work.learner.learn(work.shape, live.since_origin(live.now()).saturating_sub(began));
        }
    }
}

/// The expected work of the requests in flight on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Outstanding {
    /// How many requests in flight carry work.
    pub requests: u32,
    /// What they were expected to take when they were picked, in all.
    pub expected: Duration,
    /// How long ago they were picked, in all.
    pub elapsed: Duration,
}

/// Where an endpoint's outstanding work is added up. Two atomic additions at either end of a request, no lock.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    expected_micros: AtomicU64,
    /// How many requests, and the sum of their beginnings in milliseconds: together in one word, because the sum is of use
    /// only with the very count that belongs to it. The sum stands in the upper bits and overflows without harm, for what
    /// is asked of it are differences.
    begun: AtomicU64,
}

/// Bits of the count, for a million requests in flight.
const COUNT_BITS: u32 = 20;

impl Ledger {
    fn add(&self, expected_micros: u32, began: Duration) {
        self.expected_micros.fetch_add(u64::from(expected_micros), Ordering::Relaxed);
        self.begun.fetch_add(one_begun(began), Ordering::Relaxed);
    }

    fn subtract(&self, expected_micros: u32, began: Duration) {
        self.expected_micros.fetch_sub(u64::from(expected_micros), Ordering::Relaxed);
        self.begun.fetch_sub(one_begun(began), Ordering::Relaxed);
    }

    pub(crate) fn outstanding(&self, now: Duration) -> Outstanding {
        let begun = self.begun.load(Ordering::Relaxed);
        let requests = begun & ((1 << COUNT_BITS) - 1);
        // Modulo 2^44; a request that began after `now` was read makes it negative by a little.
        let elapsed = (requests.wrapping_mul(millis(now)) << COUNT_BITS).wrapping_sub(begun - requests) as i64;
        Outstanding {
            requests: requests as u32,
            expected: Duration::from_micros(self.expected_micros.load(Ordering::Relaxed)),
            elapsed: Duration::from_millis((elapsed >> COUNT_BITS).max(0) as u64),
        }
    }
}

fn one_begun(began: Duration) -> u64 {
    (millis(began) << COUNT_BITS).wrapping_add(1)
}

fn millis(since_origin: Duration) -> u64 {
    since_origin.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn outstanding_work_is_the_sum_over_the_requests_in_flight() {
        let ledger = Ledger::default();
        ledger.add(2_000_000, seconds(10));
        ledger.add(500_000, seconds(13));
        let expected = Outstanding { requests: 2, expected: Duration::from_millis(2500), elapsed: seconds(10 + 7) };
        assert_eq!(ledger.outstanding(seconds(20)), expected);
        ledger.subtract(2_000_000, seconds(10));
        let expected = Outstanding { requests: 1, expected: Duration::from_millis(500), elapsed: seconds(8) };
        assert_eq!(ledger.outstanding(seconds(21)), expected);
        ledger.subtract(500_000, seconds(13));
        assert_eq!(ledger.outstanding(seconds(22)), Outstanding::default());
    }

    #[test]
    fn a_request_that_began_after_the_look_at_the_clock_has_run_for_no_time() {
        let ledger = Ledger::default();
        ledger.add(1, seconds(10));
        assert_eq!(ledger.outstanding(Duration::from_millis(9_998)).elapsed, Duration::ZERO);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_left_whatever_came_and_went(
            // Some of them beyond what the sum of beginnings can hold.
            requests in proptest::collection::vec((proptest::num::u32::ANY, 0_u64..1 << 40), 1..60),
        ) {
            let ledger = Ledger::default();
            let now = Duration::from_millis(1 << 40);
            requests.iter().for_each(|(expected, began)| ledger.add(*expected, Duration::from_millis(*began)));
            let outstanding = ledger.outstanding(now);
            proptest::prop_assert_eq!(outstanding.requests as usize, requests.len());
            let micros: u64 = requests.iter().map(|(expected, _)| u64::from(*expected)).sum();
            proptest::prop_assert_eq!(outstanding.expected, Duration::from_micros(micros));
            for (done, (expected, began)) in requests.iter().enumerate() {
                ledger.subtract(*expected, Duration::from_millis(*began));
                let left = requests[done + 1..].iter();
                let elapsed: u64 = left.map(|(_, began)| (1 << 40) - began).sum();
                // The sum is modulo 2^44 milliseconds, half of them negative.
                if elapsed < 1 << 43 {
                    proptest::prop_assert_eq!(ledger.outstanding(now).elapsed, Duration::from_millis(elapsed));
                }
            }
            proptest::prop_assert_eq!(ledger.outstanding(now), Outstanding::default());
        }
    }

    #[test]
    fn threads_leave_nothing_behind() {
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for n in 0..50_000 {
                        let began = 400 * DAY + Duration::from_millis(n * u64::from(thread));
                        ledger.add(n as u32 + thread, began);
                        assert!(ledger.outstanding(401 * DAY).requests <= 4);
                        ledger.subtract(n as u32 + thread, began);
                    }
                });
            }
        });
        assert_eq!(ledger.outstanding(402 * DAY), Outstanding::default());
    }
}
