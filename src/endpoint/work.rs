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
