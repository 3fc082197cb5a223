//! Failures that may be the fault of the request.
//!
//! When several nodes give the same failure to one request, the request is the cause, and it counts against none of them. So a
//! failure of a node that has got the request waits until the request has ended: it counts if another node did better. A failure
//! that could not be compared, as that of a write, counts only once a request of another client fails at that endpoint too. Another
//! request of the same client also does: one application may send all queries. A client that sends various requests which fail at
//! every node ejects none by that, because failures of most endpoints have a common cause.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Member;
use crate::client_key::ClientKey;
use crate::hash;
use crate::health::state::Failure;

/// Identifies a request of a client where failures are compared. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestKey(u32);

/// Tells the body of a request from others: by its length and its first bytes, or by its length alone if it streams. Bodies of unknown
/// length that stream are all alike, so that only another URL or client shows that a node fails more than one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyKey(u64);

impl BodyKey {
    /// Of an empty body.
    pub(crate) const NONE: BodyKey = BodyKey(0);

    /// The number of bytes of a body that count.
    const MAX: usize = 4096;

    /// `whole` is `None` for a body that streams.
    pub(crate) fn of(whole: Option<&[u8]>, length: Option<u64>) -> Self {
        let length = length.unwrap_or(u64::MAX);
        BodyKey(match whole {
            Some([]) => return BodyKey::NONE,
            Some(bytes) => hash::mix(hash::key64(&bytes[..bytes.len().min(Self::MAX)]), length),
            None => hash::mix(1, length),
        })
    }
}

impl RequestKey {
    /// A failure counts whatever the request is.
    pub(super) const NONE: RequestKey = RequestKey(0);

    /// Peers of unix sockets count as one client.
    pub(crate) fn of(client: Option<ClientKey>, url: &str, body: BodyKey) -> Self {
        let client = match client {
            Some(ClientKey::V4(bits)) => hash::mix(u64::from(bits), 4),
            Some(ClientKey::V6(bits)) => hash::mix(bits, 6),
            None => 0,
        };
        let request = hash::mix(hash::key64(url.as_bytes()), body.0);
        // The lower half.
        RequestKey((hash::mix(client, request) as u32).max(1))
    }

    pub(crate) fn word(self) -> u64 {
        self.0.into()
    }
}

/// A failed attempt that does not count against its endpoint yet. It is no longer in flight.
pub(crate) struct Suspect {
    member: Arc<Member>,
    alone: bool,
    on_trial: bool,
    unreached: bool,
    key: RequestKey,
    failed: FailedAt,
}

/// The time at which a request failed that counts later: perhaps after minutes, when a query that was sent again has its response.
#[derive(Clone, Copy)]
struct FailedAt {
    ms: u64,
    /// The requests that had succeeded at the endpoint by then.
    succeeded: u64,
}

impl Suspect {
    pub(super) fn new(member: &Arc<Member>, alone: bool, on_trial: bool, unreached: bool, key: RequestKey) -> Self {
        let live = &member.live;
        let failed = FailedAt { ms: live.now_ms(), succeeded: live.succeeded() };
        // At once, so that it is never among those that have succeeded.
        live.failed.fetch_add(1, Ordering::Relaxed);
        Suspect { member: Arc::clone(member), alone, on_trial, unreached, key, failed }
    }

    /// Counts the failure: another endpoint did better.
    pub(crate) fn convict(self) {
        self.member.count_failure(self.alone, self.on_trial, self.unreached, Some(self.failed));
    }

    /// Counts the failure against no endpoint.
    fn acquit(self) {
        self.member.acquit(self.unreached);
    }

    /// Counts the failure if one of another client came before. Without a comparison, nginx's rule counts every failure.
    fn leave(self) {
        let Member { settings, live, .. } = &*self.member;
        let has_max_fails = settings.rule.max_fails > 0;
        let count = if has_max_fails { 1 } else { live.health.accuse(self.key.word(), live.now_ms()) };
        match count {
            0 => self.acquit(),
            1 => self.convict(),
            _ => {
                self.member.count_failure(self.alone, false, self.unreached, Some(self.failed));
                self.convict();
            }
        }
    }
}

/// The failures of one request that wait for its end. Dropping them leaves them without a comparison.
#[derive(Default)]
pub(crate) struct Suspects(Vec<Suspect>);

impl Suspects {
    pub(super) fn of(suspect: Suspect) -> Self {
        Suspects(vec![suspect])
    }

    /// Adds the failure of an attempt, if it failed.
    pub(crate) fn add(&mut self, failure: Option<Suspect>) {
        self.0.extend(failure);
    }

    /// Counts the failures: an endpoint responded well to the request.
    pub(crate) fn convict(&mut self) {
        take(&mut self.0).into_iter().for_each(Suspect::convict);
    }

    /// Adds the failures at another endpoint.
    pub(crate) fn append(&mut self, mut other: Suspects) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the failures against no endpoint: the last attempt failed too.
    pub(crate) fn acquit(&mut self) {
        take(&mut self.0).into_iter().for_each(Suspect::acquit);
    }

    /// Ends the request without a better response. Two or more failures have the request as their cause.
    pub(crate) fn end(&mut self) {
        let end = if self.0.len() > 1 { Suspect::acquit } else { Suspect::leave };
        take(&mut self.0).into_iter().for_each(end);
    }
}

impl Drop for Suspects {
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

    /// `failed` is given for a failure that counts after its request has ended. If the endpoint was ejected or readmitted since, it
    /// says nothing about the endpoint as it is now. If a request has succeeded since, it is part of no row; nginx's rule lets a
    /// success clear failures only after `fail_timeout`.
    fn count_failure(&self, alone: bool, on_trial: bool, unreached: bool, failed: Option<FailedAt>) {
        let Member { settings, live, .. } = self;
        let now = live.now_ms();
        let is_outdated = failed.is_some_and(|failed| live.health.has_changed_since(failed.ms));
        let succeeded = failed.filter(|failed| live.succeeded() > failed.succeeded);
        let is_forgiven = is_outdated
            || succeeded.is_some_and(|failed| now.saturating_sub(failed.ms) > settings.rule.fail_timeout_ms);
        if !alone && !is_forgiven && live.passive.fail(settings.rule, unreached, now) {
            live.health.eject_by_rule(now);
            tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, "endpoint ejected");
        }
        let (governed, in_flight) = (settings.has_outlier_rule() && !alone, live.in_flight());
        let is_late = is_outdated || succeeded.is_some();
        live.health.fail(Failure { unreached, on_trial, governed, in_flight, is_late }, now);
    }

    /// Ends a failed request that counts against no endpoint.
    fn acquit(&self, unreached: bool) {
        let live = &self.live;
        live.health.outcomes.skip();
        live.acquitted.fetch_add(1, Ordering::Relaxed);
        live.health.want_probe_after(unreached);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::endpoint::{Endpoint, Lease, Live, Loads, Outcome};
    use crate::health::Reason;
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
        let fails: fn(&Arc<Member>, u64) = |member, _| _ = lease(member, Outcome::Failure).suspend(RequestKey(2));
        let is_ejected: fn(&Arc<Member>, u64) = |member, now| _ = member.live.health.eject_unreachable(now);
        let returns: fn(&Arc<Member>, u64) = |member, now| {
            member.live.health.eject_unreachable(now);
            member.live.health.pardon(now);
        };
        for (meanwhile, failures) in [(nothing, 1), (fails, 1), (succeeds, 0), (is_ejected, 0), (returns, 0)] {
            let clock = ManualClock::new();
            let (mut loads, listener) = (Loads::new(), Arc::new(Ignores));
            let live = Live::new(loads.next(0), Arc::new(clock.clone()), Some(listener), ImpairedCount::default());
            let settings = Endpoint::new("a", ()).unwrap().settings;
            let member = Arc::new(Member::new(Arc::new(settings), Arc::new(live)));
            let suspect = lease(&member, Outcome::Unreachable).suspend(RequestKey(1)).unwrap();
            assert_eq!(member.live.succeeded(), 0);
            clock.advance(Duration::from_secs(60));
            meanwhile(&member, member.live.now_ms());
            suspect.convict();
            assert_eq!(member.live.health.outcomes.row().failures, failures);
        }
    }
}
