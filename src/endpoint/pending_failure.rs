//! Failures that may be the fault of the request. They are pending until the request has ended.
//!
//! When several nodes fail in the same way on one request, the request is the cause, and the
//! failure counts against none of them. So the failure of a node that has received the request is
//! pending until the request has ended. It counts if another node did better. Some failures cannot
//! be compared, such as that of a write, or of a session that only one node knows. Such a failure
//! counts only once a request of another client also fails at that endpoint. So no client can take
//! a healthy node, and the sessions in its memory, away from the others.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Member;
use crate::client_key::ClientKey;
use crate::hash;
use crate::health::Reason;
use crate::health::state::Failure;

/// The client of a failed request, for the comparison with failures of other clients. 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailedClient(u32);

impl FailedClient {
    /// No client: a failure counts at once.
    pub(super) const NONE: FailedClient = FailedClient(0);

    /// All peers of unix sockets count as one client.
    pub(crate) fn of(client: Option<ClientKey>) -> Self {
        let client = match client {
            Some(ClientKey::V4(bits)) => hash::mix(u64::from(bits), 4),
            Some(ClientKey::V6(bits)) => hash::mix(bits, 6),
            None => 0,
        };
        // The lower half.
        FailedClient((client as u32).max(1))
    }

    pub(crate) fn word(self) -> u64 {
        self.0.into()
    }
}

/// A failed attempt that does not count against its endpoint yet. The attempt is no longer in
/// flight.
pub(crate) struct PendingFailure {
    member: Arc<Member>,
    alone: bool,
    on_trial: bool,
    unreached: bool,
    client: FailedClient,
    failed: FailedAt,
}

/// The time of a failure that may count minutes later, when the response to a retried query has
/// arrived.
#[derive(Clone, Copy)]
struct FailedAt {
    ms: u64,
    /// The number of requests that had succeeded at the endpoint by then.
    succeeded: u64,
}

impl PendingFailure {
    pub(super) fn new(
        member: &Arc<Member>,
        alone: bool,
        on_trial: bool,
        unreached: bool,
        client: FailedClient,
    ) -> Self {
        let live = &member.live;
        let failed = FailedAt { ms: live.now_ms(), succeeded: live.succeeded() };
        // Counted at once, so that the request is never among those that have succeeded.
        live.failed.fetch_add(1, Ordering::Relaxed);
        PendingFailure { member: Arc::clone(member), alone, on_trial, unreached, client, failed }
    }

    /// Counts the failure, because another endpoint did better.
    pub(crate) fn confirm(self) {
        self.member.count_failure(self.alone, self.on_trial, self.unreached, Some(self.failed));
    }

    /// Counts the failure against no endpoint.
    fn discard(self) {
        self.member.discard(self.unreached);
    }

    /// Ends the failure without a comparison. It counts if a request of another client failed at
    /// the endpoint before. nginx's rule counts every failure.
    fn end_uncompared(self) {
        let Member { settings, live, .. } = &*self.member;
        let has_max_fails = settings.rule.max_fails > 0;
        let count =
            if has_max_fails { 1 } else { live.health.note_uncompared_failure(self.client.word(), live.now_ms()) };
        match count {
            0 => self.discard(),
            1 => self.confirm(),
            _ => {
                self.member.count_failure(self.alone, false, self.unreached, Some(self.failed));
                self.confirm();
            }
        }
    }
}

/// The failures of one request, which are pending until its end. Dropping them ends them without a
/// comparison.
#[derive(Default)]
pub(crate) struct PendingFailures(Vec<PendingFailure>);

impl PendingFailures {
    pub(super) fn of(failure: PendingFailure) -> Self {
        PendingFailures(vec![failure])
    }

    /// Adds the failure of an attempt, if it failed.
    pub(crate) fn add(&mut self, failure: Option<PendingFailure>) {
        self.0.extend(failure);
    }

    /// Counts the failures, because an endpoint responded well to the request.
    pub(crate) fn confirm(&mut self) {
        take(&mut self.0).into_iter().for_each(PendingFailure::confirm);
    }

    /// Adds the failures at another endpoint.
    pub(crate) fn append(&mut self, mut other: PendingFailures) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the failures against no endpoint, because the last attempt failed too.
    pub(crate) fn discard(&mut self) {
        take(&mut self.0).into_iter().for_each(PendingFailure::discard);
    }

    /// Ends the request without a better response. If two or more endpoints failed, the request is
    /// the cause.
    pub(crate) fn end(&mut self) {
        let end = if self.0.len() > 1 { PendingFailure::discard } else { PendingFailure::end_uncompared };
        take(&mut self.0).into_iter().for_each(end);
    }
}

impl Drop for PendingFailures {
    fn drop(&mut self) {
        self.end();
    }
}

impl Member {
    /// Counts a failed request.
    pub(super) fn fail(&self, alone: bool, on_trial: bool, unreached: bool) {
        self.live.failed.fetch_add(1, Ordering::Relaxed);
        self.count_failure(alone, on_trial, unreached, None);
    }

    /// Counts a failure. `failed` is `Some` for a deferred failure. If the endpoint was ejected or
    /// readmitted since, the failure says nothing about its present state. If a request has
    /// succeeded since, the failure does not count as one of several in a row. By nginx's rule, a
    /// success clears failures only after `fail_timeout`.
    fn count_failure(&self, alone: bool, on_trial: bool, unreached: bool, failed: Option<FailedAt>) {
        let Member { settings, live, .. } = self;
        let now = live.now_ms();
        let is_outdated = failed.is_some_and(|failed| live.health.has_changed_since(failed.ms));
        let succeeded = failed.filter(|failed| live.succeeded() > failed.succeeded);
        let is_obsolete = is_outdated
            || succeeded.is_some_and(|failed| now.saturating_sub(failed.ms) > settings.rule.fail_timeout_ms);
        if !alone && !is_obsolete && live.passive.fail(settings.rule, unreached, now) {
            live.health.eject_by_rule(now);
            tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, "endpoint ejected");
        }
        let (governed, in_flight) = (settings.has_outlier_rule() && !alone, live.in_flight());
        let is_late = is_outdated || succeeded.is_some();
        let is_ejected = live.passive.is_ejected(settings.rule, || now);
        if live.health.fail(Failure { unreached, on_trial, governed, alone, is_ejected, in_flight, is_late }, now) {
            self.log_suspect();
        }
    }

    /// Ends a failed request that counts against no endpoint.
    fn discard(&self, unreached: bool) {
        let live = &self.live;
        live.health.outcomes.skip();
        live.discarded.fetch_add(1, Ordering::Relaxed);
        live.health.want_probe_after(unreached);
    }

    fn log_suspect(&self) {
        let (endpoint, error) = (&self.settings.id, self.live.health.last_error());
        let (reason, error) = (Reason::Failing, error.as_deref());
        tracing::warn!(target: "kylin_lb::state", %endpoint, %reason, error, "endpoint is suspect");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::endpoint::{Endpoint, Lease, Live, Loads, Outcome};
    use crate::health::impaired::ImpairedCount;
    use crate::health::state::OutcomeListener;

    struct Ignores;

    impl OutcomeListener for Ignores {
        fn failure_counted(&self, _failures_in_a_row: u32, _on_probation: bool) {}
        fn drain(&self, _uid: u64, _reason: Reason) {}
        fn success_counted(&self) {}
    }

    fn lease(member: &Arc<Member>, outcome: Outcome) -> Lease {
        assert!(member.acquire(true, false, false));
        let mut lease = Lease::new(member, false, false);
        lease.set_outcome(outcome);
        lease
    }

    #[test]
    fn a_failure_that_counts_late_is_in_no_row_after_a_success_an_ejection_or_a_readmission() {
        let nothing: fn(&Arc<Member>, u64) = |_, _| {};
        let succeeds: fn(&Arc<Member>, u64) = |member, _| drop(lease(member, Outcome::Success));
        let fails: fn(&Arc<Member>, u64) =
            |member, _| _ = lease(member, Outcome::Failure).defer_failure(FailedClient(2));
        let is_ejected: fn(&Arc<Member>, u64) = |member, now| _ = member.live.health.eject_unreachable(now);
        let returns: fn(&Arc<Member>, u64) = |member, now| {
            member.live.health.eject_unreachable(now);
            member.live.health.cancel_ejection(now);
        };
        for (meanwhile, failures) in [(nothing, 1), (fails, 1), (succeeds, 0), (is_ejected, 0), (returns, 0)] {
            let clock = ManualClock::new();
            let (mut loads, listener) = (Loads::new(), Arc::new(Ignores));
            let live = Live::new(loads.next(0), Arc::new(clock.clone()), Some(listener), ImpairedCount::default());
            let settings = Endpoint::new("a", ()).unwrap().settings;
            let member = Arc::new(Member::new(Arc::new(settings), Arc::new(live)));
            let failure = lease(&member, Outcome::Unreachable).defer_failure(FailedClient(1)).unwrap();
            assert_eq!(member.live.succeeded(), 0);
            clock.advance(Duration::from_secs(60));
            meanwhile(&member, member.live.now_ms());
            failure.confirm();
            assert_eq!(member.live.health.outcomes.row().failures, failures);
        }
    }
}
