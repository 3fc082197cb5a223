use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The number of failures in a row that open the breaker.
const MAX_FAILURES: u32 = 5;
/// The time for which the breaker stays open before one operation or probe may call the store.
pub(super) const OPEN_TIME: Duration = Duration::from_secs(1);

/// Prevents a failing store from costing every request a deadline.
///
/// The breaker opens after several failures in a row. While it is open, only the background probe
/// calls the store, or one operation per [`OPEN_TIME`] if no probe runs. A success closes it.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: AtomicU32,
    /// In milliseconds of the caller's clock; 0 while closed.
    open_until: AtomicU64,
}

impl CircuitBreaker {
    /// Returns whether an operation may call the store at `now`. Does not read the clock while the
    /// breaker is closed.
    pub(super) fn allows(&self, now: impl FnOnce() -> u64, is_probed: bool) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = now();
        now >= until
            && !is_probed
            && self.open_until.compare_exchange(until, end(now), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_until.load(Ordering::Relaxed) != 0
    }

    /// Returns whether this success closed the breaker.
    pub(super) fn record_success(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.is_open() && self.open_until.swap(0, Ordering::Relaxed) != 0
    }

    /// Returns whether this failure opened the breaker.
    pub(super) fn record_failure(&self, now: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= MAX_FAILURES && self.open_until.swap(end(now), Ordering::Relaxed) == 0
    }
}

fn end(now: u64) -> u64 {
    now.saturating_add(OPEN_TIME.as_millis() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_allows_one_operation_per_open_time() {
        let breaker = CircuitBreaker::default();
        let allows = |now| breaker.allows(|| now, false);
        for _ in 0..MAX_FAILURES - 1 {
            assert!(!breaker.record_failure(0) && allows(0));
        }
        assert!(!breaker.record_success(), "it was not open");
        for _ in 0..MAX_FAILURES - 1 {
            assert!(!breaker.record_failure(0), "a success in between resets the count");
        }
        assert!(breaker.record_failure(0));
        assert!(!allows(0) && !allows(999));
        assert!(allows(1000), "one operation");
        assert!(!allows(1000), "only one");
        assert!(!breaker.record_failure(1000), "it was open already");
        assert!(!allows(1999) && allows(2000));
        assert!(!breaker.allows(|| 3000, true), "a probe runs");
        assert!(breaker.record_success());
        assert!(allows(2000) && allows(2000) && !breaker.is_open());
    }
}
