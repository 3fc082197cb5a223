//! Expected work: what a policy that weighs requests by their cost knows of an endpoint, beyond how many there are.
//!
//! It is kept with the endpoint's live state and so survives every change of membership, and it is counted by leases: what
//! a pick adds, the end of its lease takes away again, to the microsecond.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Member, Outcome};

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
    began: Instant,
}

impl Carried {
    pub(super) fn begin(work: Work, member: &Member) -> Self {
        member.load().work.add(work.expected_micros);
        Carried { work, began: member.live.now() }
    }

    pub(super) fn end(self, member: &Member, outcome: Outcome) {
        let Carried { work, began } = self;
        member.load().work.subtract(work.expected_micros);
        // A failure says nothing about the query, and neither does a client that went away.
        if outcome == Outcome::Success {
            work.learner.learn(work.shape, member.live.now().saturating_duration_since(began));
        }
    }
}

/// Where an endpoint's outstanding work is added up: what its requests in flight were expected to take, in microseconds.
/// One atomic addition at either end of a request.
#[derive(Debug, Default)]
pub(crate) struct Ledger(AtomicU64);

impl Ledger {
    fn add(&self, expected_micros: u32) {
        self.0.fetch_add(expected_micros.into(), Ordering::Relaxed);
    }

    fn subtract(&self, expected_micros: u32) {
        self.0.fetch_sub(expected_micros.into(), Ordering::Relaxed);
    }

    pub(crate) fn outstanding(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn outstanding_work_is_the_sum_over_what_is_in_flight_and_nothing_is_left(
            requests in proptest::collection::vec(proptest::num::u32::ANY, 1..60),
        ) {
            let ledger = Ledger::default();
            requests.iter().for_each(|expected| ledger.add(*expected));
            for done in 0..requests.len() {
                let left: u64 = requests[done..].iter().copied().map(u64::from).sum();
                proptest::prop_assert_eq!(ledger.outstanding(), Duration::from_micros(left));
                ledger.subtract(requests[done]);
            }
            proptest::prop_assert_eq!(ledger.outstanding(), Duration::ZERO);
        }
    }

    #[test]
    fn threads_leave_nothing_behind() {
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for thread in 1..=4_u32 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for n in 0..50_000 {
                        ledger.add(n + thread);
                        assert!(ledger.outstanding() <= 4 * Duration::from_micros(50_004));
                        ledger.subtract(n + thread);
                    }
                });
            }
        });
        assert_eq!(ledger.outstanding(), Duration::ZERO);
    }
}
