//! Failures in a row for which no rule ejects the endpoint, because it is the only one or all
//! endpoints fail. They are kept for the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::EndpointHealth;
use crate::health::outcomes::Row;

/// The failures in a row that make an endpoint suspect: the number that ejects by default.
const MIN_FAILURES: u32 = 5;

/// The time for which the text of an error is not replaced, in milliseconds.
const KEEP_TEXT_MS: u64 = 1_000;

/// The failures since the last success. They keep no request from the endpoint.
#[derive(Debug, Default)]
pub(super) struct Failing {
    failures: AtomicU32,
    began: AtomicU64,
    /// The time since which the endpoint has been suspect; 0 while it is not.
    since: AtomicU64,
}

/// A failure as [`Failing`] counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountedFailure {
    /// Whether no other endpoint could get the request, and this one was not reached.
    pub(super) is_certain: bool,
    /// Whether nginx's rule has ejected the endpoint.
    pub(super) is_ejected: bool,
    /// The requests in flight, including this one.
    pub(super) in_flight: u32,
}

impl Failing {
    #[inline]
    pub(super) fn is_in_row(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    /// Returns the time since which the endpoint has been suspect; 0 if it is not.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Ends the row. Returns whether it had made the endpoint suspect.
    pub(super) fn end(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.since.swap(0, Ordering::Relaxed) != 0
    }

    /// Counts a failure. Returns whether it makes the endpoint suspect.
    fn count(&self, failure: CountedFailure, now: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures == 1 {
            self.began.store(now, Ordering::Relaxed);
        }
        let row = Row { failures, began: self.began.load(Ordering::Relaxed), ..Row::default() };
        (failure.is_certain || failures >= MIN_FAILURES)
            && !row.is_burst(failure.in_flight, now)
            && self.since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The text of the last error of a request or a probe.
#[derive(Debug, Default)]
pub(super) struct LastError {
    /// The time of the text; 0 means none.
    at: AtomicU64,
    text: Mutex<Option<Arc<str>>>,
}

impl EndpointHealth {
    /// Counts a failure for the status, after the rules have decided. A withdrawn endpoint already
    /// has a more serious state. Returns whether the endpoint becomes suspect.
    pub(super) fn count_for_status(&self, failure: CountedFailure, now: u64) -> bool {
        if failure.is_ejected || self.is_impaired() {
            self.failing.end();
            return false;
        }
        let is_suspect = self.failing.count(failure, now);
        if is_suspect {
            self.impaired.notify();
        }
        is_suspect
    }

    /// Records the error text of a failed request. Calls `text` once a second at most.
    pub(crate) fn note_error(&self, text: impl FnOnce() -> String, now: u64) {
        let at = self.last_error.at.load(Ordering::Relaxed);
        if at == 0 || now.saturating_sub(at) >= KEEP_TEXT_MS {
            self.set_error(Some(text().into()), now);
        }
    }

    /// Records the error text of a failed probe; `None` if the kind of failure says all.
    pub(crate) fn set_error(&self, text: Option<Arc<str>>, now: u64) {
        let at = if text.is_some() { now.max(1) } else { 0 };
        self.last_error.at.store(at, Ordering::Relaxed);
        *self.last_error.text.lock() = text;
    }

    /// Returns the text of the last error.
    pub(crate) fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.text.lock().clone()
    }

    /// Ends the suspicion at a success: the endpoint is no longer suspect for requests that timed
    /// out or failed.
    #[cold]
    pub(super) fn end_suspicion(&self, now: u64) {
        let was_slow = self.slow_since.swap(0, Ordering::Relaxed) != 0;
        if self.failing.end() | was_slow {
            self.set_error(None, now);
            self.record.lock().healthy_since = now;
            self.impaired.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::impaired::ImpairedCount;
    use crate::health::passive::{Passive, PassiveState};
    use crate::health::state::Failure;
    use crate::health::{CheckerId, HealthState, Reason, Thresholds};

    const REFUSED: Failure = Failure {
        unreached: true,
        on_trial: false,
        governed: false,
        alone: true,
        is_ejected: false,
        in_flight: 1,
        is_late: false,
    };

    fn health() -> EndpointHealth {
        EndpointHealth::new(None, ImpairedCount::default())
    }

    fn describe(health: &EndpointHealth, now: u64) -> (HealthState, Option<Reason>, u64) {
        health.describe(PassiveState::Available, now)
    }

    #[test]
    fn the_only_endpoint_is_suspect_from_a_refused_connection_until_a_success() {
        let health = health();
        health.note_error(|| "refused".to_owned(), 10);
        health.fail(REFUSED, 10);
        health.fail(REFUSED, 20);
        assert_eq!(describe(&health, 21), (HealthState::Suspect, Some(Reason::Failing), 10));
        assert_eq!(health.last_error().as_deref(), Some("refused"));
        assert!(!health.is_impaired(), "it serves");
        health.succeed(false, || 30);
        assert_eq!((describe(&health, 31), health.last_error()), ((HealthState::Healthy, None, 30), None));
        health.fail(REFUSED, 40);
        assert_eq!(describe(&health, 41), (HealthState::Suspect, Some(Reason::Failing), 40));
        let (checker, once) =
            (CheckerId::next(), Thresholds { fall: 1.try_into().unwrap(), rise: 1.try_into().unwrap() });
        health.attach_checker(checker, false, 0);
        health.record_probe(checker, once, Ok(()), &Passive::default(), 0, 50);
        assert_eq!(describe(&health, 51), (HealthState::Healthy, None, 50));
    }

    #[test]
    fn other_failures_make_an_endpoint_suspect_when_there_are_five_in_a_row() {
        let response = Failure { unreached: false, ..REFUSED };
        let one_of_many = Failure { alone: false, ..REFUSED };
        for failure in [response, one_of_many] {
            let health = health();
            for now in 1..=4 {
                health.fail(failure, now);
            }
            health.succeed(false, || 5);
            for now in 6..=9 {
                health.fail(failure, now);
            }
            assert_eq!(describe(&health, 9).0, HealthState::Healthy, "a success ends the row");
            health.fail(failure, 10);
            assert_eq!(describe(&health, 11), (HealthState::Suspect, Some(Reason::Failing), 10));
        }
    }

    #[test]
    fn a_burst_of_refusals_beside_other_requests_makes_no_endpoint_suspect() {
        let health = health();
        for now in 1..=9 {
            health.fail(Failure { in_flight: 10, ..REFUSED }, now);
        }
        assert_eq!(describe(&health, 10).0, HealthState::Healthy);
        health.fail(Failure { in_flight: 10, ..REFUSED }, 1_001);
        assert_eq!(describe(&health, 1_002).0, HealthState::Suspect, "a second is no burst");
    }

    #[test]
    fn an_endpoint_that_returns_is_not_suspect_for_failures_before_it_was_ejected() {
        let health = health();
        health.fail(REFUSED, 10);
        health.eject_unreachable(20);
        health.fail(REFUSED, 30);
        health.cancel_ejection(40);
        assert_eq!(describe(&health, 41), (HealthState::Healthy, None, 40));
    }

    #[test]
    fn the_text_of_an_error_is_made_once_a_second() {
        let health = health();
        for (now, text) in [(5, "a"), (1_004, "b"), (1_005, "c")] {
            health.note_error(|| text.to_owned(), now);
            assert_eq!(health.last_error().as_deref(), Some(if now < 1_005 { "a" } else { "c" }));
        }
    }
}
