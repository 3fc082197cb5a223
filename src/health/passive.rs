//! Ejection by nginx's rule, `max_fails` and `fail_timeout` (ngx_http_upstream_round_robin.c).
//!
//! The rule is not a sliding window:
//!
//! - An endpoint is *ejected* while `fails >= max_fails` and no more than `fail_timeout` has passed
//!   since `checked`.
//! - Choosing an endpoint whose `checked` is older than `fail_timeout` sets `checked` to now. So
//!   after an ejection, one request per `fail_timeout` tries the endpoint, and all others use other
//!   endpoints.
//! - A failure adds one to `fails` and sets `checked` and `accessed` to now.
//! - A success clears `fails` only if `checked` is later than the last failure.
//!
//! It differs from nginx in four points. Time is in milliseconds instead of whole seconds. If
//! several workers find at once that an ejection is over, exactly one tries the endpoint. A request
//! that its client abandoned has no outcome (nginx counts it as a success). A successful probe
//! readmits an endpoint that could not be reached.

use std::time::Duration;

use super::impaired::ImpairedCount;
use crate::clock::as_millis;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};

/// The settings of nginx's rule for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PassiveRule {
    /// Failures until ejection; with 0 the rule is off, and no failure counts.
    pub(crate) max_fails: u32,
    /// Both the time over which failures count and the duration of an ejection, in milliseconds.
    pub(crate) fail_timeout_ms: u64,
}

impl PassiveRule {
    pub(crate) fn new(max_fails: u32, fail_timeout: Duration) -> Self {
        PassiveRule { max_fails, fail_timeout_ms: as_millis(fail_timeout) }
    }
}

/// The state of an endpoint by nginx's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassiveState {
    Available,
    Ejected,
    /// The ejection is over, and the next request decides.
    OnTrial,
}

/// The failures of one endpoint. Reading takes no lock; only an outcome that changes something
/// does. Fields that picks read come first.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Passive {
    fails: AtomicU32,
    /// Whether the endpoint is ejected, and was not reached in any of the failures.
    is_unreachable: AtomicBool,
    /// Milliseconds since the endpoint's origin, as `accessed`.
    checked: AtomicU64,
    last: Mutex<LastFailures>,
    impaired: ImpairedCount,
}

#[derive(Debug, Default)]
struct LastFailures {
    accessed: u64,
    /// The failures among `fails` for which the endpoint was not reached.
    unreached: u32,
}

impl Passive {
    pub(crate) fn new(impaired: ImpairedCount) -> Self {
        let (fails, is_unreachable, checked) = Default::default();
        Passive { fails, is_unreachable, checked, last: Mutex::default(), impaired }
    }

    /// Returns whether the endpoint must not be chosen. `now` is called only if there are failures.
    pub(crate) fn is_ejected(&self, rule: PassiveRule, now: impl FnOnce() -> u64) -> bool {
        self.has_max_fails(rule) && now().saturating_sub(self.checked.load(Ordering::Relaxed)) <= rule.fail_timeout_ms
    }

    /// Returns the state of the endpoint. The only endpoint of a cluster is never ejected.
    pub(crate) fn state(&self, rule: PassiveRule, alone: bool, now: impl FnOnce() -> u64) -> PassiveState {
        match (alone || !self.has_max_fails(rule), self.is_ejected(rule, now)) {
            (true, _) => PassiveState::Available,
            (false, true) => PassiveState::Ejected,
            (false, false) => PassiveState::OnTrial,
        }
    }

    /// Records that the endpoint is chosen. Returns false if another request has just become the
    /// one that tries it.
    pub(crate) fn choose(&self, rule: PassiveRule, now: impl FnOnce() -> u64) -> bool {
        self.fails() == 0 || self.choose_after_failure(rule, now())
    }

    fn choose_after_failure(&self, rule: PassiveRule, now: u64) -> bool {
        let checked = self.checked.load(Ordering::Relaxed);
        if now.saturating_sub(checked) <= rule.fail_timeout_ms {
            return !self.has_max_fails(rule);
        }
        let first = self.checked.compare_exchange(checked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        first || !self.has_max_fails(rule)
    }

    /// Records a failure. `unreached` says that the endpoint was not reached. Returns whether the
    /// failure ejected the endpoint.
    pub(crate) fn fail(&self, rule: PassiveRule, unreached: bool, now: u64) -> bool {
        if rule.max_fails == 0 {
            return false;
        }
        let mut last = self.last.lock();
        last.accessed = now;
        self.checked.store(now, Ordering::Relaxed);
        let before = self.fails.load(Ordering::Relaxed);
        let fails = before.saturating_add(1);
        last.unreached = if before == 0 { 0 } else { last.unreached } + u32::from(unreached);
        self.is_unreachable.store(fails >= rule.max_fails && last.unreached == fails, Ordering::Relaxed);
        self.fails.store(fails, Ordering::Relaxed);
        self.impaired.change(before > 0, true);
        fails == rule.max_fails
    }

    /// Returns whether the endpoint was ejected only because it was not reached.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.is_unreachable.load(Ordering::Relaxed)
    }

    /// Readmits an endpoint that was ejected only because it was not reached, now that it is
    /// reached. Returns whether it was ejected for that.
    pub(crate) fn readmit_reachable(&self) -> bool {
        if !self.is_unreachable() {
            return false;
        }
        let _last = self.last.lock();
        let was_unreachable = self.is_unreachable.swap(false, Ordering::Relaxed);
        if was_unreachable {
            self.impaired.change(self.fails.swap(0, Ordering::Relaxed) > 0, false);
        }
        was_unreachable
    }

    /// Records a success. Returns whether it readmitted the endpoint.
    pub(crate) fn succeed(&self, rule: PassiveRule) -> bool {
        if self.fails.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let last = self.last.lock();
        if last.accessed >= self.checked.load(Ordering::Relaxed) {
            return false;
        }
        self.is_unreachable.store(false, Ordering::Relaxed);
        let fails = self.fails.swap(0, Ordering::Relaxed);
        self.impaired.change(fails > 0, false);
        fails >= rule.max_fails && rule.max_fails > 0
    }

    #[inline]
    pub(crate) fn fails(&self) -> u32 {
        self.fails.load(Ordering::Relaxed)
    }

    fn has_max_fails(&self, rule: PassiveRule) -> bool {
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

    const RULE: PassiveRule = PassiveRule { max_fails: 3, fail_timeout_ms: 8_000 };

    #[test]
    fn ejects_after_max_fails_and_lets_one_request_through_per_fail_timeout() {
        let passive = Passive::default();
        assert!(!passive.fail(RULE, false, 1_000));
        assert!(!passive.fail(RULE, false, 1_000));
        assert!(!passive.is_ejected(RULE, || 1_000));
        assert!(passive.fail(RULE, false, 1_000));
        assert!(passive.is_ejected(RULE, || 9_000));
        assert!(!passive.is_ejected(RULE, || 9_001));
        assert!(passive.choose(RULE, || 9_001), "the first request after fail_timeout tries the endpoint");
        assert!(!passive.choose(RULE, || 9_001), "only one does");
        assert!(passive.is_ejected(RULE, || 17_001));
        assert!(passive.succeed(RULE), "its success readmits");
        assert!(!passive.is_ejected(RULE, || 9_002));
    }

    #[test]
    fn failures_spread_wider_than_one_window_still_eject() {
        // nginx ticket 599: errors every 5 s with fail_timeout=8s and max_fails=3 do eject, whether
        // or not there are successes in between.
        let passive = Passive::default();
        for (at, ejected) in [(5_000, false), (10_000, false), (15_000, true)] {
            assert!(passive.choose(RULE, || at - 1));
            assert!(!passive.succeed(RULE), "a success inside the window clears nothing");
            assert_eq!(passive.fail(RULE, false, at), ejected);
        }
    }

    #[test]
    fn a_success_after_fail_timeout_clears_the_count() {
        let passive = Passive::default();
        passive.fail(RULE, false, 1_000);
        passive.fail(RULE, false, 1_000);
        assert!(passive.choose(RULE, || 9_001), "fail_timeout is over");
        assert!(!passive.succeed(RULE), "the endpoint was not ejected");
        assert_eq!(passive.fails(), 0);
    }

    #[test]
    fn one_of_many_concurrent_requests_tries_the_endpoint_after_an_ejection() {
        const THREADS: usize = 4;
        for _ in 0..500 {
            let passive = Passive::default();
            for _ in 0..RULE.max_fails {
                passive.fail(RULE, false, 1_000);
            }
            let start = std::sync::Barrier::new(THREADS);
            let chosen = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            passive.choose(RULE, || 9_001)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).filter(|chosen| *chosen).count()
            });
            assert_eq!(chosen, 1);
        }
    }

    #[test]
    fn only_an_endpoint_that_was_never_reached_is_readmitted_by_reaching_it() {
        for (failures, readmits) in [([true, true, true], true), ([true, false, true], false)] {
            let passive = Passive::default();
            assert!(!passive.readmit_reachable());
            for unreached in failures {
                assert!(!passive.is_unreachable());
                passive.fail(RULE, unreached, 1_000);
            }
            assert_eq!((passive.is_unreachable(), passive.readmit_reachable()), (readmits, readmits));
            assert_eq!((passive.is_ejected(RULE, || 1_000), passive.fails() == 0), (!readmits, readmits));
        }
        let passive = Passive::default();
        passive.fail(RULE, false, 1_000);
        assert!(passive.choose(RULE, || 9_001) && !passive.succeed(RULE));
        (0..3).for_each(|_| _ = passive.fail(RULE, true, 9_001));
        assert!(passive.is_unreachable(), "the failure before the success is forgotten");
    }

    #[test]
    fn max_fails_zero_never_ejects() {
        let rule = PassiveRule { max_fails: 0, ..RULE };
        let passive = Passive::default();
        for _ in 0..100 {
            assert!(!passive.fail(rule, false, 1_000));
            assert!(passive.choose(rule, || 1_000));
        }
        assert!(!passive.is_ejected(rule, || 1_000));
    }
}
