//! The health of one endpoint beyond nginx's rule: its probes, its withdrawal, its membership and
//! its slow start.
//!
//! It is part of the endpoint's live state and survives changes of membership. A pick reads only
//! atomics. The lock is for code that changes the health, and for the status.

mod asked;
mod failing;
mod pace;
mod probes;
mod requests;
mod shutdown_indications;
mod slowed;

use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::asked::ProbeCount;
pub(crate) use self::asked::ProbeEvidence;
use self::failing::{Failing, LastError};
pub(crate) use self::pace::ProbePace;
pub(crate) use self::shutdown_indications::ShutdownIndication;
use self::shutdown_indications::ShutdownIndications;
use self::slowed::Slowed;
use super::impaired::ImpairedCount;
use super::membership::{CheckerId, Membership};
use super::outcomes::OutcomeCounts;
use super::passive::PassiveState;
use super::reduced_share::ReducedShare;
use super::rise_fall::RiseFall;
use super::slow_start::{Ramp, SlowStart, WHOLE};
use super::withdrawal::{Withdrawal, WithdrawalKind, Withholding, WithholdingState};
use super::{HealthState, Reason};

/// Compares an endpoint with the others of its cluster.
pub(crate) trait OutcomeListener: Send + Sync {
    /// Called for each failure that counts. `failures_in_a_row` is the endpoint's current number; 0
    /// while the failures may be a burst.
    fn failure_counted(&self, failures_in_a_row: u32, on_probation: bool);

    /// Requests that the endpoint with this uid is drained, unless no other endpoint can replace
    /// it.
    fn drain(&self, uid: u64, reason: Reason);

    /// Called for each success while the listener has the cluster [watched](ImpairedCount::watch).
    fn success_counted(&self);
}

/// Times are milliseconds since the endpoint's origin. Fields that picks read come first.
#[repr(C)]
pub(crate) struct EndpointHealth {
    withholding: Withholding,
    ramp: Ramp,
    pub(super) reduced_share: ReducedShare,
    pub(crate) slowed: Slowed,
    pub(crate) outcomes: OutcomeCounts,
    /// The time of the last failure; 0 means none.
    last_failure: AtomicU64,
    /// The time at which the endpoint was last readmitted, or will be.
    returned: AtomicU64,
    /// The time of the first request after the last success that timed out; 0 means none.
    slow_since: AtomicU64,
    slow: AtomicU64,
    failing: Failing,
    last_error: LastError,
    shutdown_indications: ShutdownIndications,
    /// The last failure that could not be compared. The upper half identifies its request. The
    /// lower half holds its time, and whether it still waits.
    uncompared: AtomicU64,
    record: Mutex<HealthRecord>,
    /// The [`ProbePace`] that requests have asked for since the last probe began.
    wanted_pace: AtomicU8,
    probe_count: ProbeCount,
    /// Wakes the checker, so that it probes the endpoint soon.
    pub(crate) wake: Notify,
    listener: Option<Arc<dyn OutcomeListener>>,
    impaired: ImpairedCount,
}

/// The state that changes rarely.
#[derive(Debug, Default)]
struct HealthRecord {
    /// The checker whose results count.
    checker: Option<CheckerId>,
    probes: RiseFall,
    /// The verifier that decides the membership.
    verifier: Option<CheckerId>,
    membership: Membership,
    membership_since: u64,
    /// The number of times that verification was required. A verifier's decision counts only for
    /// the node that it checked.
    generation: u64,
    withdrawal: Option<Withdrawal>,
    /// The past ejections that still lengthen the next one, and the start of the interval after
    /// which one is forgotten.
    ejections: u32,
    decayed_until: u64,
    /// How many times in a row the endpoint could not be reached after it was readmitted.
    failed_returns: u32,
    ejected_by_rule: u64,
    healthy_since: u64,
    /// The requests that had succeeded at the last probe.
    successes: u64,
    /// The time at which a probe last succeeded; 0 means never.
    good_probe: u64,
}

/// A request that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Whether the endpoint was not reached.
    pub(crate) unreached: bool,
    /// Whether the request was sent although the endpoint was withdrawn when it was picked.
    pub(crate) on_trial: bool,
    /// Whether the outlier rule governs the endpoint.
    pub(crate) governed: bool,
    /// Whether no other endpoint could get the request.
    pub(crate) alone: bool,
    /// Whether nginx's rule has ejected the endpoint.
    pub(crate) is_ejected: bool,
    /// The requests in flight, including this one.
    pub(crate) in_flight: u32,
    /// Whether, before the failure was counted, the endpoint was ejected or readmitted, or a
    /// request has succeeded there.
    pub(crate) is_late: bool,
}

impl EndpointHealth {
    /// The leading bytes that a pick reads of an impaired endpoint if it does not need the share.
    pub(crate) const READ_IN_PICKS: usize = offset_of!(EndpointHealth, ramp);

    pub(crate) fn new(listener: Option<Arc<dyn OutcomeListener>>, impaired: ImpairedCount) -> Self {
        EndpointHealth {
            withholding: Withholding::default(),
            ramp: Ramp::default(),
            reduced_share: ReducedShare::new(impaired.clone()),
            slowed: Slowed::new(impaired.clone()),
            outcomes: OutcomeCounts::default(),
            last_failure: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            slow_since: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            failing: Failing::default(),
            last_error: LastError::default(),
            shutdown_indications: ShutdownIndications::default(),
            uncompared: AtomicU64::new(0),
            record: Mutex::default(),
            wanted_pace: AtomicU8::new(0),
            probe_count: ProbeCount::default(),
            wake: Notify::new(),
            listener,
            impaired,
        }
    }

    /// Returns whether the endpoint may get no request now. An endpoint that is `alone` is never
    /// withdrawn, but may be down or quarantined. `now` is called only for an endpoint that is or
    /// was withdrawn.
    pub(crate) fn is_unavailable(&self, alone: bool, bound: bool, now: impl FnOnce() -> u64) -> bool {
        self.withholding.withholds(alone, bound, now)
    }

    /// Records that the endpoint is chosen. Returns false if another request has just become the
    /// one that tries it.
    #[inline]
    pub(crate) fn choose(&self, bound: bool, now: impl FnOnce() -> u64) -> bool {
        self.withholding.is_none() || self.withholding.choose(bound, now)
    }

    /// Returns whether the node shows that it is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.withholding.withdrawal() == Some(WithdrawalKind::Draining)
    }

    /// Returns whether the endpoint is withdrawn until a probe or a request succeeds, even if a
    /// request may try it now.
    pub(crate) fn needs_trial(&self) -> bool {
        self.withholding.withdrawal().is_some_and(WithdrawalKind::ends_by_success)
    }

    /// Returns whether the endpoint may be unavailable. Reads no clock.
    #[inline]
    pub(crate) fn is_impaired(&self) -> bool {
        !self.withholding.is_none()
    }

    /// Returns the current share of the endpoint's weight, out of [`WHOLE`]; never 0. It is reduced
    /// during a slow start, while the node refuses connections, and while the node is slower than
    /// the others.
    pub(crate) fn share(&self, settings: Option<SlowStart>, now: impl Fn() -> u64) -> u32 {
        let (ramp, reduced) = (self.ramp.share(settings, &now), self.reduced_share.share(&now));
        (ramp * reduced / WHOLE * self.slowed.share() / WHOLE).max(1)
    }

    /// Returns whether the endpoint serves when it is next in rotation. Over many calls, exactly
    /// its share returns true, evenly spread.
    pub(crate) fn takes_pick(&self, settings: Option<SlowStart>, now: impl Fn() -> u64) -> bool {
        self.ramp.takes_pick(self.share(settings, now))
    }

    /// Begins the slow start of a node that is new or back.
    fn begin_ramp(&self, at: u64) {
        self.returned.store(at, Ordering::Relaxed);
        self.ramp.begin(at);
        self.reduced_share.restore();
    }

    /// Returns whether the endpoint is down, quarantined or not verified yet.
    pub(crate) fn is_down(&self) -> bool {
        self.withholding.is_down()
    }

    /// Returns whether the endpoint is foreign, is not verified yet, or waits for its first
    /// successful probe. In these cases it must not serve, even in panic mode.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.withholding.is_quarantined()
    }

    /// Returns whether the endpoint was ejected or readmitted after `at`. A drain does not count,
    /// because the node's process stays the same.
    pub(crate) fn has_changed_since(&self, at: u64) -> bool {
        if self.returned.load(Ordering::Relaxed) > at {
            return true;
        }
        let record = self.record.lock();
        let is_ejection = |of: Withdrawal| of.kind != WithdrawalKind::Draining && of.at > at;
        record.ejected_by_rule > at || record.withdrawal.is_some_and(is_ejection)
    }

    /// Returns when a request or a probe last failed; 0 means never.
    pub(crate) fn last_failure(&self) -> u64 {
        self.last_failure.load(Ordering::Relaxed)
    }

    /// Returns when a probe last succeeded; 0 means never.
    pub(crate) fn last_good_probe(&self) -> u64 {
        self.record.lock().good_probe
    }

    /// Returns how many requests have timed out.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// Returns when the endpoint was ejected as an outlier, and whether it could not be reached;
    /// `None` if it is not ejected.
    pub(crate) fn ejection(&self) -> Option<(u64, bool)> {
        let ejection =
            self.record.lock().withdrawal.filter(|withdrawal| withdrawal.kind != WithdrawalKind::Draining)?;
        Some((ejection.at, ejection.kind == WithdrawalKind::Connections))
    }

    /// Updates the word that picks read.
    fn publish(&self, record: &HealthRecord) {
        self.write_withholding(record, false);
    }

    /// Updates the word that picks read after a change that does not concern the withdrawal. The
    /// time of a request on trial is kept.
    fn publish_probes(&self, record: &HealthRecord) {
        self.write_withholding(record, true);
    }

    fn write_withholding(&self, record: &HealthRecord, keeps_trial: bool) {
        let state = match record.withdrawal {
            _ if record.membership != Membership::Assumed || record.probes.is_unproven() => {
                WithholdingState::Quarantined
            }
            _ if !record.probes.is_up() => WithholdingState::Down,
            Some(withdrawal) => WithholdingState::Withdrawn(withdrawal),
            None => WithholdingState::None,
        };
        let (before, now) = self.withholding.set(state, keeps_trial);
        self.impaired.change(before, now);
    }

    /// Returns the health, its reason, and the time since which it holds. If there are several
    /// reasons, the most serious one counts.
    pub(crate) fn describe(&self, passive: PassiveState, now: u64) -> (HealthState, Option<Reason>, u64) {
        let record = self.record.lock();
        let HealthRecord { probes, membership, membership_since, ejected_by_rule, .. } = &*record;
        let ended = self.end_of_withdrawal(&record).filter(|end| *end <= now);
        let withdrawal = record.withdrawal.filter(|_| ended.is_none());
        if let Membership::Foreign(mismatch) = membership {
            return (HealthState::Unhealthy, Some(Reason::Quarantined(*mismatch)), *membership_since);
        }
        let failure = probes.failure().map(Reason::Probe);
        if !probes.is_up() {
            return (HealthState::Unhealthy, failure.or(Some(Reason::Unproven)), probes.since());
        }
        if *membership == Membership::Unverified {
            return (HealthState::Unhealthy, Some(Reason::Unverified), *membership_since);
        }
        let is_ejection = |of: &Withdrawal| of.kind != WithdrawalKind::Draining && now < of.until;
        if let Some(Withdrawal { at, reason, .. }) = withdrawal.filter(is_ejection) {
            return (HealthState::Ejected, Some(reason), at);
        }
        if passive == PassiveState::Ejected {
            return (HealthState::Ejected, Some(Reason::MaxFails), *ejected_by_rule);
        }
        if let Some(Withdrawal { at, reason, .. }) = withdrawal.filter(|of| of.kind == WithdrawalKind::Draining) {
            return (HealthState::Draining, Some(reason), at);
        }
        // On trial, the endpoint gets one request at a time, which a failed probe does not change.
        if let Some(Withdrawal { at, reason, .. }) = withdrawal.filter(|of| of.kind.ends_by_success()) {
            return (HealthState::Suspect, Some(reason), at);
        }
        if passive == PassiveState::OnTrial {
            return (HealthState::Suspect, Some(Reason::MaxFails), *ejected_by_rule);
        }
        if failure.is_some() {
            return (HealthState::Suspect, failure, probes.since());
        }
        let healthy_since = record.healthy_since.max(ended.unwrap_or(0));
        match self.failing.since() {
            since if since > 0 && since >= healthy_since => {
                return (HealthState::Suspect, Some(Reason::Failing), since);
            }
            _ => {}
        }
        match self.slow_since.load(Ordering::Relaxed) {
            0 => (HealthState::Healthy, None, healthy_since),
            since => (HealthState::Suspect, Some(Reason::Slow), since),
        }
    }
}

impl Drop for EndpointHealth {
    fn drop(&mut self) {
        self.impaired.change(self.is_impaired(), false);
    }
}

impl fmt::Debug for EndpointHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointHealth").field("record", &*self.record.lock()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::health::passive::{Passive, PassiveRule};
    use crate::health::rise_fall::{Thresholds, Transition};
    use crate::health::{Mismatch, ProbeFailure, ProbePace};

    const BAD: Result<(), ProbeFailure> = Err(ProbeFailure::Unreachable);

    fn health() -> EndpointHealth {
        EndpointHealth::new(None, ImpairedCount::default())
    }

    fn describe(health: &EndpointHealth, now: u64) -> (HealthState, Option<Reason>, u64) {
        health.describe(PassiveState::Available, now)
    }

    /// Records a probe with `fall` 2 and `rise` 1.
    fn probe(health: &EndpointHealth, checker: CheckerId, result: Result<(), ProbeFailure>, now: u64) -> Transition {
        let thresholds = Thresholds { fall: NonZeroU32::new(2).unwrap(), rise: NonZeroU32::MIN };
        health.record_probe(checker, thresholds, result, &Passive::default(), 0, now)
    }

    #[test]
    fn probes_and_an_ejection_for_responses_are_independent() {
        let (health, checker) = (health(), CheckerId::next());
        const BAD: Result<(), ProbeFailure> = Err(ProbeFailure::Timeout);
        health.attach_checker(checker, false, 0);
        health.eject(Reason::Consecutive, 10, 1_000, |times| u64::from(times) * 100);
        assert!(health.is_unavailable(false, false, || 109));
        assert!(!health.is_unavailable(true, false, || 109), "an endpoint that is alone is never ejected");
        assert_eq!(probe(&health, checker, Ok(()), 15), Transition::None);
        assert_eq!(probe(&health, checker, BAD, 20), Transition::Suspected);
        assert_eq!(probe(&health, checker, BAD, 30), Transition::Fell);
        assert!(health.is_unavailable(true, false, || 500), "probes take out an endpoint that is alone, too");
        assert_eq!(describe(&health, 40), (HealthState::Unhealthy, Some(Reason::Probe(ProbeFailure::Timeout)), 30));
        assert_eq!(probe(&health, checker, Ok(()), 50), Transition::Rose);
        assert_eq!(describe(&health, 60), (HealthState::Ejected, Some(Reason::Consecutive), 10));
        assert!(!health.is_unavailable(false, false, || 110), "the time of the ejection is over");
        assert_eq!(describe(&health, 110), (HealthState::Healthy, None, 110));
        assert!(health.expire(110) && !health.expire(110));
        assert_eq!(describe(&health, 200), (HealthState::Healthy, None, 110));
    }

    #[test]
    fn a_probe_readmits_an_endpoint_that_was_not_reached_and_later_ones_wait_while_returns_fail() {
        let (health, checker) = (health(), CheckerId::next());
        health.attach_checker(checker, false, 0);
        let mut now = 10;
        // The first return needs no wait; each later one waits twice as long.
        for wait in [0, 250, 500, 1_000] {
            health.eject_unreachable(now);
            assert_eq!(describe(&health, now), (HealthState::Ejected, Some(Reason::Unreachable), now));
            if wait > 0 {
                assert_eq!(probe(&health, checker, Ok(()), now + wait - 1), Transition::None);
            }
            now += wait;
            assert_eq!(probe(&health, checker, Ok(()), now), Transition::Readmitted);
            assert_eq!(describe(&health, now), (HealthState::Healthy, None, now));
            assert_eq!(probe(&health, checker, Ok(()), now), Transition::None);
        }
        assert!(!health.succeed(false, || now), "it was readmitted before");
        health.eject_unreachable(now);
        assert_eq!(
            probe(&health, checker, Ok(()), now),
            Transition::Readmitted,
            "a success ends the row of failed returns"
        );
    }

    #[test]
    fn one_request_at_a_time_tries_an_endpoint_that_was_not_reached() {
        let (health, passive) = (health(), Passive::default());
        assert_eq!(health.eject_unreachable(1_000), 250);
        assert!(health.is_unavailable(false, false, || 1_249) && !health.is_unavailable(false, false, || 1_250));
        assert_eq!(describe(&health, 1_250), (HealthState::Suspect, Some(Reason::Unreachable), 1_000));
        assert!(
            health.choose(false, || 1_250)
                && !health.choose(false, || 1_250)
                && health.is_unavailable(false, false, || 1_250)
        );
        assert!(!health.succeed(false, || 1_260), "a request from before says nothing");
        assert!(health.choose(false, || 2_250), "the first on trial has not ended in a second");
        assert_eq!(health.probe_pace(&passive, 2_250), ProbePace::Reconnect);
        assert!(health.succeed(true, || 2_300) && !health.is_impaired());
        assert_eq!(describe(&health, 2_300), (HealthState::Healthy, None, 2_300));
        assert_eq!(health.probe_pace(&passive, 2_300), ProbePace::Normal);
    }

    #[test]
    fn a_request_on_trial_stays_the_only_one_whatever_probes_find_meanwhile() {
        let thresholds = Thresholds { fall: NonZeroU32::new(9).unwrap(), rise: NonZeroU32::MIN };
        for result in [BAD, Err(ProbeFailure::Timeout), Ok(())] {
            for drains in [false, true] {
                let (health, checker) = (health(), CheckerId::next());
                health.attach_checker(checker, false, 0);
                match drains {
                    true => assert!(health.drain(Reason::Refusing, 1_000)),
                    false => _ = health.eject_unreachable(1_000),
                }
                // A success readmits an endpoint that could not be reached. It also readmits a
                // draining one after the minimum time of a drain.
                let at = if drains { 2_000 } else { 1_250 };
                assert!(health.choose(false, || at));
                health.record_probe(checker, thresholds, result, &Passive::default(), 0, at + 1);
                let is_withheld = health.is_unavailable(false, false, || at + 2);
                assert_eq!(
                    (is_withheld, health.is_impaired()),
                    (result.is_err(), result.is_err()),
                    "{result:?}, {drains}"
                );
                assert!(
                    result.is_ok() || health.choose(false, || at + 1_000),
                    "after its time, another one is on trial"
                );
            }
        }
    }

    #[test]
    fn a_probe_that_is_refused_makes_an_ejection_for_responses_one_for_connections() {
        let (health, checker) = (health(), CheckerId::next());
        health.attach_checker(checker, false, 0);
        health.eject(Reason::SuccessRate, 10, 1_000, |_| 30_000);
        probe(&health, checker, BAD, 20);
        assert_eq!(probe(&health, checker, Ok(()), 30), Transition::Readmitted);
    }

    #[test]
    fn a_probe_readmits_an_endpoint_that_nginxs_rule_ejected_unreached() {
        const RULE: PassiveRule = PassiveRule { max_fails: 1, fail_timeout_ms: 10_000 };
        let (health, checker) = (health(), CheckerId::next());
        health.attach_checker(checker, false, 0);
        for (unreached, expected) in [(true, Transition::Readmitted), (false, Transition::None)] {
            let passive = Passive::default();
            assert!(passive.fail(RULE, unreached, 10));
            health.eject_by_rule(10);
            assert_eq!(health.probe_pace(&passive, 10) == ProbePace::Reconnect, unreached);
            let thresholds = Thresholds { fall: NonZeroU32::MIN, rise: NonZeroU32::MIN };
            assert_eq!(health.record_probe(checker, thresholds, Ok(()), &passive, 0, 20), expected);
            assert_eq!(passive.is_ejected(RULE, || 20), !unreached);
        }
    }

    #[test]
    fn only_the_attached_checker_counts_and_its_end_frees_the_endpoint() {
        let (health, checker, other) = (health(), CheckerId::next(), CheckerId::next());
        health.attach_checker(checker, true, 5);
        assert_eq!(describe(&health, 6), (HealthState::Unhealthy, Some(Reason::Unproven), 5));
        assert_eq!(probe(&health, other, Ok(()), 7), Transition::None);
        assert!(health.is_unavailable(true, false, || 7));
        health.detach_checker(other, 8);
        assert!(health.is_down());
        health.detach_checker(checker, 9);
        assert_eq!(describe(&health, 10), (HealthState::Healthy, None, 9));
        assert_eq!(probe(&health, checker, BAD, 11), Transition::None, "too late");
    }

    #[test]
    fn only_the_verifier_decides_the_membership_and_only_of_the_node_that_it_checked() {
        let (health, verifier, other) = (health(), CheckerId::next(), CheckerId::next());
        health.require_verification(1);
        assert_eq!(health.membership().0, Membership::Assumed, "there is no verifier");
        health.set_verifier(Some(verifier), 5);
        assert_eq!(describe(&health, 6), (HealthState::Unhealthy, Some(Reason::Unverified), 5));
        let (_, generation) = health.membership();
        assert!(!health.set_membership(other, generation, Membership::Assumed, 7));
        assert!(health.set_membership(verifier, generation, Membership::Assumed, 8));
        health.require_verification(9);
        assert!(!health.set_membership(verifier, generation, Membership::Assumed, 10), "of the node before");
        assert!(health.is_quarantined() && health.is_unavailable(true, false, || 10));
        let foreign = Membership::Foreign(Mismatch::Project);
        assert!(health.set_membership(verifier, generation + 1, foreign, 11));
        assert_eq!(describe(&health, 12), (HealthState::Unhealthy, Some(Reason::Quarantined(Mismatch::Project)), 11));
        health.set_verifier(None, 13);
        assert_eq!((describe(&health, 14), health.is_impaired()), ((HealthState::Healthy, None, 13), false));
    }

    #[test]
    fn an_endpoint_is_suspect_from_a_timeout_until_a_success() {
        let (health, checker) = (health(), CheckerId::next());
        health.time_out(10);
        health.time_out(20);
        assert_eq!(describe(&health, 21), (HealthState::Suspect, Some(Reason::Slow), 10));
        assert_eq!(health.probe_pace(&Passive::default(), 21), ProbePace::Fast);
        assert!(!health.is_unavailable(false, false, || 21));
        health.succeed(false, || 30);
        assert_eq!((describe(&health, 31), health.slow()), ((HealthState::Healthy, None, 30), 2));
        health.time_out(40);
        health.attach_checker(checker, false, 0);
        probe(&health, checker, Ok(()), 50);
        assert_eq!(describe(&health, 51), (HealthState::Healthy, None, 50));
    }

    #[test]
    fn ejections_grow_and_are_forgiven_one_per_interval_in_service() {
        let health = health();
        let now = std::cell::Cell::new(0);
        let eject = || {
            let mut lasted = 0;
            health.eject(Reason::Consecutive, now.get(), 100, |times| {
                lasted = u64::from(times);
                lasted
            });
            now.set(now.get() + lasted);
            assert!(health.expire(now.get()));
            lasted
        };
        assert_eq!([eject(), eject(), eject()], [1, 2, 3]);
        now.set(now.get() + 200);
        assert_eq!([eject(), eject()], [2, 3]);
        now.set(now.get() + 1_000);
        assert_eq!(eject(), 1);
    }
}
