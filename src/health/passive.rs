//! Passive ejection by nginx's rule, `max_fails` and `fail_timeout` (ngx_http_upstream_round_robin.c).
//!
//! The rule, which is not a sliding window:
//! - an endpoint is *ejected* while `fails >= max_fails` and no more than `fail_timeout` has passed since `checked`;
//! - choosing an endpoint whose `checked` is older than `fail_timeout` sets `checked` to now, so after an ejection one
//!   request per `fail_timeout` probes the endpoint and all others go elsewhere;
//! - a failure counts one and sets `checked` and `accessed` to now;
//! - a success clears the count only if `checked` has moved on since the last failure.
//!
//! Where this differs from nginx: time is in milliseconds instead of whole seconds; of several workers that meet the end of
//! an ejection at once exactly one gets the probe; a request that its client gave up says nothing (nginx takes it for a
//! success).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::impaired::ImpairedCount;

/// The two numbers that an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Failures until ejection; 0 never ejects.
    pub(crate) max_fails: u32,
    /// Both the counting time and the time of an ejection, in milliseconds.
    pub(crate) fail_timeout_ms: u64,
}

impl Rule {
    pub(crate) fn new(max_fails: u32, fail_timeout: Duration) -> Self {
        Rule { max_fails, fail_timeout_ms: u64::try_from(fail_timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// One endpoint's failure record. Reading it takes no lock; only reports of outcomes that change something do. What picks read
/// comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Passive {
    fails: AtomicU32,
    /// Milliseconds since the endpoint's origin, as `accessed`.
    checked: AtomicU64,
    accessed: Mutex<u64>,
    impaired: ImpairedCount,
}

impl Passive {
    pub(crate) fn new(impaired: ImpairedCount) -> Self {
        Passive { fails: AtomicU32::new(0), checked: AtomicU64::new(0), accessed: Mutex::new(0), impaired }
    }

    /// True while the endpoint must not be chosen. `now` is asked only when there are failures to judge.
    pub(crate) fn is_ejected(&self, rule: Rule, now: impl FnOnce() -> u64) -> bool {
        self.over(rule) && now().saturating_sub(self.checked.load(Ordering::Relaxed)) <= rule.fail_timeout_ms
    }

    /// Notes that the endpoint is chosen. False when another request has just taken the only probe.
    pub(crate) fn choose(&self, rule: Rule, now: impl FnOnce() -> u64) -> bool {
        self.fails() == 0 || self.choose_failed(rule, now())
    }

    fn choose_failed(&self, rule: Rule, now: u64) -> bool {
        let checked = self.checked.load(Ordering::Relaxed);
        if now.saturating_sub(checked) <= rule.fail_timeout_ms {
            return !self.over(rule);
        }
        let first = self.checked.compare_exchange(checked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        first || !self.over(rule)
    }

    /// Notes a failure. True when this one ejected the endpoint.
    pub(crate) fn fail(&self, rule: Rule, now: u64) -> bool {
        let mut accessed = self.accessed.lock();
        *accessed = now;
        self.checked.store(now, Ordering::Relaxed);
        let before = self.fails.load(Ordering::Relaxed);
        let fails = before.saturating_add(1);
        self.fails.store(fails, Ordering::Relaxed);
        self.impaired.change(before > 0, true);
        rule.max_fails > 0 && fails == rule.max_fails
    }

    /// Notes a success. True when this one readmitted the endpoint.
    pub(crate) fn succeed(&self, rule: Rule) -> bool {
        if self.fails.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let accessed = self.accessed.lock();
        if *accessed >= self.checked.load(Ordering::Relaxed) {
            return false;
        }
        let fails = self.fails.swap(0, Ordering::Relaxed);
        self.impaired.change(fails > 0, false);
        fails >= rule.max_fails && rule.max_fails > 0
    }

    #[inline]
    pub(crate) fn fails(&self) -> u32 {
        self.fails.load(Ordering::Relaxed)
    }

    fn over(&self, rule: Rule) -> bool {
        rule.max_fails > 0 && self.fails.load(Ordering::Relaxed) >= rule.max_fails
    }
}

impl Drop for Passive {
    fn drop(&mut self) {
        self.impaired.change(self.fails() > 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { max_fails: 3, fail_timeout_ms: 8_000 };

    #[test]
    fn ejects_after_max_fails_and_lets_one_probe_through_per_fail_timeout() {
        let state = Passive::default();
        assert!(!state.fail(RULE, 1_000));
        assert!(!state.fail(RULE, 1_000));
        assert!(!state.is_ejected(RULE, || 1_000));
        assert!(state.fail(RULE, 1_000));
        assert!(state.is_ejected(RULE, || 9_000));
        assert!(!state.is_ejected(RULE, || 9_001));
        assert!(state.choose(RULE, || 9_001), "the first request after fail_timeout is the probe");
        assert!(!state.choose(RULE, || 9_001), "there is one probe");
        assert!(state.is_ejected(RULE, || 17_001));
        assert!(state.succeed(RULE), "the probe's success readmits");
        assert!(!state.is_ejected(RULE, || 9_002));
    }

    #[test]
    fn failures_spread_wider_than_one_window_still_eject() {
        // nginx ticket 599: errors every 5 s with fail_timeout=8s and max_fails=3 do eject, successes between or not.
        let state = Passive::default();
        for (at, ejected) in [(5_000, false), (10_000, false), (15_000, true)] {
            assert!(state.choose(RULE, || at - 1));
            assert!(!state.succeed(RULE), "a success inside the window clears nothing");
            assert_eq!(state.fail(RULE, at), ejected);
        }
    }

    #[test]
    fn a_success_after_a_new_epoch_clears_the_count() {
        let state = Passive::default();
        state.fail(RULE, 1_000);
        state.fail(RULE, 1_000);
        assert!(state.choose(RULE, || 9_001), "a new epoch begins");
        assert!(!state.succeed(RULE), "nothing was ejected");
        assert_eq!(state.fails(), 0);
    }

    #[test]
    fn of_many_that_meet_the_end_of_an_ejection_at_once_one_gets_the_probe() {
        const THREADS: usize = 4;
        for _ in 0..500 {
            let state = Passive::default();
            for _ in 0..RULE.max_fails {
                state.fail(RULE, 1_000);
            }
            let start = std::sync::Barrier::new(THREADS);
            let probes = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            state.choose(RULE, || 9_001)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).filter(|probe| *probe).count()
            });
            assert_eq!(probes, 1);
        }
    }

    #[test]
    fn max_fails_zero_never_ejects() {
        let rule = Rule { max_fails: 0, ..RULE };
        let state = Passive::default();
        for _ in 0..100 {
            assert!(!state.fail(rule, 1_000));
            assert!(state.choose(rule, || 1_000));
        }
        assert!(!state.is_ejected(rule, || 1_000));
    }
}
