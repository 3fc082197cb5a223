use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Keeps a store that fails from costing its deadline on every request.
///
/// After some failures in a row it opens: nobody asks the store but the [task](super::probe) that finds out whether it is back, or,
/// where there is none, one operation in a while. Any success closes the breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: AtomicU32,
    /// Milliseconds on the sessions' clock until which nobody asks; 0 while closed.
    open_until: AtomicU64,
    /// There is a task that asks.
    pub(super) probed: AtomicBool,
}

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// How long it stays open.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

impl Breaker {
    /// May the store be asked at `now`? While open, yes once per pause where no task asks.
    pub(super) fn allows(&self, now: u64) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        until == 0
            || now >= until
                && !self.probed.load(Ordering::Relaxed)
                && self.open_until.compare_exchange(until, Self::end(now), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_until.load(Ordering::Relaxed) != 0
    }

    /// True when this has closed the breaker.
    pub(super) fn succeed(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.is_open() && self.open_until.swap(0, Ordering::Relaxed) != 0
    }

    /// True when this has opened the breaker.
    pub(super) fn fail(&self, now: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= FAILURES && self.open_until.swap(Self::end(now), Ordering::Relaxed) == 0
    }

    fn end(now: u64) -> u64 {
        now.saturating_add(PAUSE.as_millis() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_probe_through_per_pause() {
        let breaker = Breaker::default();
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.fail(0) && breaker.allows(0));
        }
        assert!(!breaker.succeed(), "it was not open");
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.fail(0), "a success in between starts the count anew");
        }
        assert!(breaker.fail(0));
        assert!(!breaker.allows(0) && !breaker.allows(999));
        assert!(breaker.allows(1000), "the probe");
        assert!(!breaker.allows(1000), "only one");
        assert!(!breaker.fail(1000), "it was open already");
        assert!(!breaker.allows(1999) && breaker.allows(2000));
        breaker.probed.store(true, Ordering::Relaxed);
        assert!(!breaker.allows(3000), "a task asks");
        assert!(breaker.succeed());
        assert!(breaker.allows(2000) && breaker.allows(2000) && !breaker.is_open());
    }
}
