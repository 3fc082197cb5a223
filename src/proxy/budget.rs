//! How many requests may be repeated: a share of the traffic, with a floor.
//!
//! A limit of tries per request does not stop a storm: when all nodes fail, every request is tried everywhere, and the load
//! is multiplied just when the cluster can bear it least. A budget bounds the sum (as Finagle's and tower's do).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::clock::Clock;

/// How much of the traffic may be repeated requests. Only repetitions of what a node has received count: a request that could
/// not be sent costs no node anything.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct RetryBudget {
    share: f64,
    floor: u32,
}

impl Default for RetryBudget {
    /// A fifth of the traffic, and three a second in any case.
    fn default() -> Self {
        RetryBudget { share: 0.2, floor: 3 }
    }
}

impl RetryBudget {
    /// The share of the traffic, from 0 to 1. Default 0.2.
    pub fn share(mut self, share: f64) -> Self {
        self.share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }

    /// How many a second are allowed whatever the traffic, so that a quiet cluster has retries too. Default 3.
    pub fn floor(mut self, per_second: u32) -> Self {
        self.floor = per_second;
        self
    }
}

/// Thousandths of a repetition.
const ONE: i64 = 1000;

/// The account: requests pay in, repetitions draw out.
#[derive(Debug)]
pub(super) struct Account {
    per_request: i64,
    per_second: i64,
    most: i64,
    balance: AtomicI64,
    /// Up to when the floor was paid in, in milliseconds since the origin.
    paid_until: AtomicU64,
    origin: Instant,
    clock: Arc<dyn Clock>,
}

impl Account {
    /// An account that is full.
    pub(super) fn new(budget: RetryBudget, clock: Arc<dyn Clock>) -> Self {
        let per_second = i64::from(budget.floor) * ONE;
        // Ten seconds of the floor, or a hundred, may come at once: a node that falls takes what is in flight with it.
        let most = if budget.share > 0.0 || budget.floor > 0 { (10 * per_second).max(100 * ONE) } else { 0 };
        Account {
            per_request: (budget.share * ONE as f64) as i64,
            per_second,
            most,
            balance: AtomicI64::new(most),
            paid_until: AtomicU64::new(0),
            origin: clock.now(),
            clock,
        }
    }

    /// A request has come. Writes nothing while the account is full, which is nearly always.
    pub(super) fn pay_in(&self) {
        if self.balance.load(Ordering::Relaxed) < self.most {
            self.balance.fetch_add(self.per_request, Ordering::Relaxed);
        }
    }

    /// May a request be repeated now?
    pub(super) fn draw(&self) -> bool {
        self.pay_floor();
        let most = self.most;
        let less = |balance: i64| (balance >= ONE).then(|| balance.min(most) - ONE);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn pay_floor(&self) {
        let since = self.clock.now().saturating_duration_since(self.origin);
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let until = self.paid_until.load(Ordering::Relaxed);
        let passed = i64::try_from(now.saturating_sub(until)).unwrap_or(i64::MAX);
        let due = (passed.saturating_mul(self.per_second) / 1000).min(self.most);
        // Of several that pay in at once one does.
        if due > 0 && self.paid_until.compare_exchange(until, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.balance.fetch_add(due, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    fn drawn(account: &Account) -> usize {
        (0..100_000).take_while(|_| account.draw()).count()
    }

    #[test]
    fn a_storm_ends_at_the_share_of_the_traffic() {
        let clock = ManualClock::new();
        let account = Account::new(RetryBudget::default(), Arc::new(clock.clone()));
        assert_eq!(drawn(&account), 100, "what may come at once");
        for _ in 0..1000 {
            account.pay_in();
        }
        assert_eq!(drawn(&account), 100, "the account never holds more");
        let mut repeated = 0;
        for _ in 0..1000 {
            account.pay_in();
            repeated += drawn(&account);
        }
        assert_eq!(repeated, 200);
    }

    #[test]
    fn the_floor_is_there_without_traffic() {
        let clock = ManualClock::new();
        let account = Account::new(RetryBudget::default(), Arc::new(clock.clone()));
        drawn(&account);
        clock.advance(Duration::from_secs(2));
        assert_eq!(drawn(&account), 6);
        clock.advance(Duration::from_millis(10));
        assert_eq!(drawn(&account), 0);
        clock.advance(Duration::from_millis(990));
        assert_eq!(drawn(&account), 3, "short steps lose nothing");
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(drawn(&account), 100, "the account never holds more");
    }

    #[test]
    fn no_share_and_no_floor_is_no_repetition() {
        let clock = ManualClock::new();
        let account = Account::new(RetryBudget::default().share(0.0).floor(0), Arc::new(clock.clone()));
        account.pay_in();
        clock.advance(Duration::from_secs(60));
        assert!(!account.draw());
    }
}
