//! A budget for retries: a ratio of the traffic, with a minimum per second.
//!
//! A limit of attempts per request does not stop a retry storm. When all nodes fail, every request
//! is retried on all of them, and the load multiplies when the cluster can bear it least. A budget
//! bounds the total, as in Finagle and tower.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::client_key::ClientKey;
use crate::clock::{Clock, Epoch};
use crate::setting::InvalidSetting;

/// Limits how many requests that a node may have received a proxy may repeat.
///
/// A request that certainly reached no node is outside the budget: its attempts are bounded by the
/// number of endpoints.
///
/// | setting | default | unit |
/// |---|---|---|
/// | [`ratio`](Self::ratio) | 0.2 | retries for each request |
/// | [`min_per_second`](Self::min_per_second) | 3 | retries a second, whatever the traffic |
///
/// A request that a node did not execute because it does not know the session is outside the budget
/// too. Up to 300 such requests a second, and 3000 at once, search for the node that knows the
/// session, unless the budget allows no retry. The additional requests of a logout that goes to all
/// nodes count among them.
///
/// Unused retries add up to 10 s of `min_per_second`, and at least to 100, because a failing node
/// breaks all its requests in flight at once. A reserve of half as many again is for clients that
/// have made few retries (IPv4 addresses, or the first 64 bits of IPv6 addresses). Each may take a
/// tenth of the reserve within 10 s. So one client cannot use up the budget of all others.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct RetryBudget {
    ratio: f64,
    min_per_second: u32,
}

impl Default for RetryBudget {
    /// Returns a budget of a fifth of the traffic, and at least three retries a second.
    fn default() -> Self {
        RetryBudget { ratio: 0.2, min_per_second: 3 }
    }
}

impl RetryBudget {
    /// Sets how many retries each request allows, from 0 to 1. Default: 0.2.
    ///
    /// # Errors
    /// [`InvalidSetting`] if `ratio` is not within 0 to 1.
    pub fn ratio(mut self, ratio: f64) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless((0.0..=1.0).contains(&ratio), "ratio", "0 to 1")?;
        self.ratio = ratio;
        Ok(self)
    }

    /// Sets how many retries a second are allowed whatever the traffic, so that a quiet cluster can
    /// retry too. Default: 3.
    pub fn min_per_second(mut self, retries: u32) -> Self {
        self.min_per_second = retries;
        self
    }
}

/// The number of retries a second that search for the node of a session, unless the budget allows
/// no retry.
const SEARCHES_PER_SECOND: u32 = 300;

/// The unit of a balance: thousandths of a retry.
const ONE: i64 = 1000;

/// The number of counters. Clients with the same counter share it.
const CLIENTS: usize = 1024;
/// The interval over which a client has one share of the reserve, and the number of shares.
const SHARE_INTERVAL_MS: u64 = 10_000;
const SHARES: i64 = 10;

/// The state of a budget: requests deposit, retries withdraw.
#[derive(Debug)]
pub(crate) struct RetryAccount {
    per_request: i64,
    per_second: i64,
    capacity: i64,
    balance: AtomicI64,
    /// The maximum of the reserve, and what is left of it.
    reserve_capacity: i64,
    reserve: AtomicI64,
    /// The recent retries of clients: the interval in the upper half, the number in the lower.
    /// Clients whose keys have the same hash share a counter.
    taken: Box<[AtomicU64]>,
    seed: ahash::RandomState,
    /// The time until which `per_second` was deposited, in milliseconds of the epoch.
    deposited_until: AtomicU64,
    epoch: Epoch,
}

impl RetryAccount {
    /// Returns an account that is full.
    pub(crate) fn new(budget: RetryBudget, clock: Arc<dyn Clock>) -> Self {
        let per_second = i64::from(budget.min_per_second) * ONE;
        let is_empty = budget.ratio == 0.0 && budget.min_per_second == 0;
        let capacity = if is_empty { 0 } else { (10 * per_second).max(100 * ONE) };
        RetryAccount {
            per_request: (budget.ratio * ONE as f64) as i64,
            per_second,
            capacity,
            balance: AtomicI64::new(capacity),
            reserve_capacity: capacity / 2,
            reserve: AtomicI64::new(capacity / 2),
            taken: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
            seed: ahash::RandomState::new(),
            deposited_until: AtomicU64::new(0),
            epoch: Epoch::new(clock),
        }
    }

    /// Returns an account for searches for the node that knows a session. A search begins when a
    /// node has not executed a request because it does not know its session. Such a response costs
    /// a node little, and after a restart of the front end each session must be found once. So the
    /// account holds 3000 retries and gains 300 a second, whatever the traffic.
    pub(crate) fn for_searches(budget: RetryBudget, clock: Arc<dyn Clock>) -> Self {
        let is_empty = budget.ratio == 0.0 && budget.min_per_second == 0;
        let min_per_second = if is_empty { 0 } else { SEARCHES_PER_SECOND };
        Self::new(RetryBudget { ratio: 0.0, min_per_second }, clock)
    }

    /// Adds the share of one request. Writes nothing while the account is full, which is nearly
    /// always.
    pub(crate) fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < self.capacity {
            let is_full = self.reserve.load(Ordering::Relaxed) >= self.reserve_capacity;
            if is_full {
                self.balance.fetch_add(self.per_request, Ordering::Relaxed);
            } else {
                // The reserve is filled first. Otherwise one client could keep it empty.
                self.reserve.fetch_add(self.per_request / 2, Ordering::Relaxed);
                self.balance.fetch_add(self.per_request - self.per_request / 2, Ordering::Relaxed);
            }
        }
    }

    /// Takes one retry for `client`. Returns `None` when none is left, or none in the share of the
    /// client.
    pub(crate) fn withdraw(&self, client: Option<ClientKey>) -> Option<Withdrawn<'_>> {
        self.deposit_for_time_passed();
        let (taken, count) = self.count(client);
        let within_share = count & u64::from(u32::MAX) <= (self.reserve_capacity / ONE / SHARES).max(1) as u64;
        let from = if take_one(&self.balance, self.capacity) {
            &self.balance
        } else if within_share && take_one(&self.reserve, self.reserve_capacity) {
            &self.reserve
        } else {
            return None;
        };
        Some(Withdrawn { from, taken, interval: count >> 32, is_spent: false })
    }

    /// Returns how many retries are left.
    pub(crate) fn left(&self) -> u32 {
        u32::try_from(self.balance.load(Ordering::Relaxed).clamp(0, self.capacity) / ONE).unwrap_or(u32::MAX)
    }

    /// Counts a retry of the client. Returns its counter, and the new value.
    fn count(&self, client: Option<ClientKey>) -> (&AtomicU64, u64) {
        let taken = &self.taken[self.seed.hash_one(client) as usize % CLIENTS];
        let interval = self.epoch.millis() / SHARE_INTERVAL_MS;
        let before = taken.load(Ordering::Relaxed);
        // If two retries come at the same time, one may be lost.
        let count = if before >> 32 == interval { (before & u64::from(u32::MAX)) + 1 } else { 1 };
        let count = interval << 32 | count.min(u64::from(u32::MAX));
        taken.store(count, Ordering::Relaxed);
        (taken, count)
    }

    fn deposit_for_time_passed(&self) {
        let now = self.epoch.millis();
        let until = self.deposited_until.load(Ordering::Relaxed);
        let passed = i64::try_from(now.saturating_sub(until)).unwrap_or(i64::MAX);
        let due = (passed.saturating_mul(self.per_second) / 1000).min(self.capacity);
        // If several threads see the same time, only one deposits.
        if due > 0 && self.deposited_until.compare_exchange(until, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // The reserve is filled first. Otherwise one client could keep it empty.
            let missing = (self.reserve_capacity - self.reserve.load(Ordering::Relaxed)).clamp(0, due / 2);
            self.reserve.fetch_add(missing, Ordering::Relaxed);
            self.balance.fetch_add(due - missing, Ordering::Relaxed);
        }
    }
}

/// A retry that was taken from an account. Dropping it gives it back, unless the retry was made.
#[must_use]
pub(crate) struct Withdrawn<'a> {
    from: &'a AtomicI64,
    /// The counter of the client, and the interval in which it has counted the retry.
    taken: &'a AtomicU64,
    interval: u64,
    is_spent: bool,
}

impl Withdrawn<'_> {
    /// Records that the retry is made.
    pub(crate) fn spend(mut self) {
        self.is_spent = true;
    }
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        if !self.is_spent {
            self.from.fetch_add(ONE, Ordering::Relaxed);
            let less =
                |taken: u64| (taken >> 32 == self.interval && taken & u64::from(u32::MAX) > 0).then(|| taken - 1);
            _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Takes one retry from `balance`, which counts up to `capacity`.
fn take_one(balance: &AtomicI64, capacity: i64) -> bool {
    let less = |balance: i64| (balance >= ONE).then(|| balance.min(capacity) - ONE);
    balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    /// Takes what one client gets, without the reserve.
    fn withdrawn(account: &RetryAccount) -> usize {
        account.deposit_for_time_passed();
        (0..100_000).take_while(|_| take_one(&account.balance, account.capacity)).count()
    }

    fn client(n: u8) -> Option<ClientKey> {
        Some(ClientKey::of([192, 0, 2, n].into()))
    }

    #[test]
    fn one_client_cannot_use_up_the_budget_for_others() {
        let clock = ManualClock::new();
        let account = RetryAccount::new(RetryBudget::default(), Arc::new(clock.clone()));
        let taken = |n: u8| (0..10_000).filter(|_| account.withdraw(client(n)).map(Withdrawn::spend).is_some()).count();
        assert_eq!(taken(1), 100, "all that is not reserved");
        assert_eq!([2, 3, 4].map(taken), [5; 3]);
        assert_eq!((5..30).map(taken).sum::<usize>(), 35, "the reserve of 50 has an end");
        // The client asks all the time, and the reserve fills all the same.
        for _ in 0..100 {
            clock.advance(Duration::from_secs(1));
            account.deposit();
            taken(1);
        }
        assert_eq!([2, 3, 4].map(taken), [5; 3]);
    }

    #[test]
    fn a_retry_that_is_not_made_returns_to_where_it_was_taken_from() {
        let account = RetryAccount::new(RetryBudget::default(), Arc::new(ManualClock::new()));
        for (balance, reserve) in [(100, 50), (0, 50)] {
            account.balance.store(balance * ONE, Ordering::Relaxed);
            for _ in 0..100 {
                drop(account.withdraw(client(1)).unwrap());
            }
            let left = [&account.balance, &account.reserve].map(|of| of.load(Ordering::Relaxed) / ONE);
            assert_eq!(left, [balance, reserve]);
        }
    }

    #[test]
    fn retries_are_bounded_by_the_ratio() {
        let clock = ManualClock::new();
        let account = RetryAccount::new(RetryBudget::default(), Arc::new(clock.clone()));
        assert_eq!(withdrawn(&account), 100, "the capacity of the account");
        for _ in 0..1000 {
            account.deposit();
        }
        assert_eq!(withdrawn(&account), 100, "the account never holds more");
        let mut retried = 0;
        for _ in 0..1000 {
            account.deposit();
            retried += withdrawn(&account);
        }
        assert_eq!(retried, 200);
    }

    #[test]
    fn the_minimum_per_second_needs_no_traffic() {
        let clock = ManualClock::new();
        let account = RetryAccount::new(RetryBudget::default(), Arc::new(clock.clone()));
        withdrawn(&account);
        clock.advance(Duration::from_secs(2));
        assert_eq!(withdrawn(&account), 6);
        clock.advance(Duration::from_millis(10));
        assert_eq!(withdrawn(&account), 0);
        clock.advance(Duration::from_millis(990));
        assert_eq!(withdrawn(&account), 3, "short steps lose nothing");
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(withdrawn(&account), 100, "the account never holds more");
    }

    #[test]
    fn an_empty_budget_allows_no_retry() {
        let clock = ManualClock::new();
        let account =
            RetryAccount::new(RetryBudget::default().ratio(0.0).unwrap().min_per_second(0), Arc::new(clock.clone()));
        account.deposit();
        clock.advance(Duration::from_secs(60));
        assert!(account.withdraw(None).is_none());
    }

    #[test]
    fn a_ratio_outside_of_0_to_1_is_an_error() {
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(RetryBudget::default().ratio(ratio).is_err(), "{ratio}");
        }
        assert!(RetryBudget::default().ratio(1.0).is_ok());
    }
}
