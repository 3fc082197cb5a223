//! The health of one endpoint beyond nginx's rule: its probes, its ejection as an outlier, its membership, its slow start.
//!
//! It is part of the endpoint's live state and survives changes of membership. A pick reads atomics only. The lock is taken by
//! what changes the health, and by a status.

use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::impaired::ImpairedCount;
use super::membership::{CheckerId, Membership};
use super::outlier::OutcomeCounts;
use super::passive::PassiveState;
use super::rise_fall::{RiseFall, Thresholds, Transition};
use super::slow_start::Ramp;
use super::{HealthState, ProbeFailure, Reason};

/// Gets each outcome that counts, to compare the endpoint with the others of its cluster.
pub(crate) trait OutcomeListener: Send + Sync {
    /// `failures_in_a_row` is the endpoint's present number.
    fn outcome_counted(&self, failures_in_a_row: u32);
}

/// Times are milliseconds since the endpoint's origin. Fields that picks read come first.
#[repr(C)]
pub(crate) struct EndpointHealth {
    /// Until when no request may come; 0 while nothing prevents one. [`DOWN`] and [`QUARANTINED`] have no end.
    unavailable_until: AtomicU64,
    pub(crate) ramp: Ramp,
    pub(crate) outcomes: OutcomeCounts,
    /// 0 when it never failed.
    last_failure: AtomicU64,
    /// When the first request timed out after the last success; 0 when none has.
    slow_since: AtomicU64,
    slow: AtomicU64,
    record: Mutex<HealthRecord>,
    /// Has the endpoint probed soon.
    pub(crate) wake: Notify,
    listener: Option<Arc<dyn OutcomeListener>>,
    impaired: ImpairedCount,
}

/// Probes report the endpoint as down, or none has succeeded yet.
const DOWN: u64 = u64::MAX - 1;
/// The endpoint is foreign, or not verified yet.
const QUARANTINED: u64 = u64::MAX;

/// What changes rarely.
#[derive(Debug, Default)]
struct HealthRecord {
    /// The checker whose results count.
    checker: Option<CheckerId>,
    probes: RiseFall,
    /// The verifier that decides the membership.
    verifier: Option<CheckerId>,
    membership: Membership,
    membership_since: u64,
    /// How often verification was required: a verifier's decision counts only for the node that it checked.
    generation: u64,
    ejection: Option<Ejection>,
    /// Past ejections that still lengthen the next one, and the start of the interval after which one is forgotten.
    ejections: u32,
    forgiven_until: u64,
    ejected_by_rule: u64,
    healthy_since: u64,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    at: u64,
    until: u64,
    reason: Reason,
}

impl EndpointHealth {
    /// The bytes, from the beginning, that a pick reads of an impaired endpoint that is in no slow start.
    pub(crate) const READ_IN_PICKS: usize = offset_of!(EndpointHealth, ramp);

    pub(crate) fn new(listener: Option<Arc<dyn OutcomeListener>>, impaired: ImpairedCount) -> Self {
        EndpointHealth {
            unavailable_until: AtomicU64::new(0),
            ramp: Ramp::default(),
            outcomes: OutcomeCounts::default(),
            last_failure: AtomicU64::new(0),
            slow_since: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            record: Mutex::default(),
            wake: Notify::new(),
            listener,
            impaired,
        }
    }

    /// Returns whether no request may come now. An endpoint that is `alone` is never ejected, but may be down or quarantined.
    /// `now` is called only for an endpoint that is or was ejected.
    pub(crate) fn is_unavailable(&self, alone: bool, now: impl FnOnce() -> u64) -> bool {
        match self.unavailable_until.load(Ordering::Relaxed) {
            0 => false,
            DOWN | QUARANTINED => true,
            until => !alone && now() < until,
        }
    }

    /// Returns whether something may make the endpoint unavailable. Reads no clock.
    #[inline]
    pub(crate) fn is_impaired(&self) -> bool {
        self.unavailable_until.load(Ordering::Relaxed) != 0
    }

    /// Returns whether the endpoint is down, quarantined or not verified yet.
    pub(crate) fn is_down(&self) -> bool {
        self.unavailable_until.load(Ordering::Relaxed) >= DOWN
    }

    /// Returns whether the endpoint is foreign or not verified yet. Then it must not serve, in panic mode either.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.unavailable_until.load(Ordering::Relaxed) == QUARANTINED
    }

    /// Returns when a request or a probe failed last; 0 is never.
    pub(crate) fn last_failure(&self) -> u64 {
        self.last_failure.load(Ordering::Relaxed)
    }

    /// Returns how many requests have timed out.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// Returns when the endpoint was ejected as an outlier, if it is.
    pub(crate) fn ejected_at(&self) -> Option<u64> {
        self.record.lock().ejection.map(|ejection| ejection.at)
    }

    /// Returns whether the next probe should come soon.
    pub(crate) fn is_undecided(&self) -> bool {
        self.record.lock().probes.is_undecided() || self.slow_since.load(Ordering::Relaxed) != 0
    }

    /// Records a request that succeeded.
    pub(crate) fn succeed(&self, now: impl FnOnce() -> u64) {
        if self.slow_since.load(Ordering::Relaxed) != 0 && self.slow_since.swap(0, Ordering::Relaxed) != 0 {
            self.record.lock().healthy_since = now();
        }
        if let Some(listener) = &self.listener {
            self.outcomes.succeed();
            listener.outcome_counted(0);
        }
    }

    /// Records a request that failed.
    pub(crate) fn fail(&self, now: u64) {
        self.last_failure.store(now.max(1), Ordering::Relaxed);
        self.wake.notify_one();
        let Some(listener) = &self.listener else { return };
        // A failure while probes report the endpoint as down continues the row.
        let until = self.unavailable_until.load(Ordering::Relaxed);
        if until < DOWN && now < until {
            self.outcomes.fail_late();
        } else {
            listener.outcome_counted(self.outcomes.fail());
        }
    }

    /// Records a request that timed out. That is no failure, but a reason for a probe.
    pub(crate) fn time_out(&self, now: u64) {
        self.slow.fetch_add(1, Ordering::Relaxed);
        let _ = self.slow_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Records that nginx's rule ejected the endpoint.
    pub(crate) fn eject_by_rule(&self, now: u64) {
        self.record.lock().ejected_by_rule = now;
    }

    /// Records that nginx's rule or the operator readmitted the endpoint.
    pub(crate) fn readmit(&self, now: u64) {
        self.record.lock().healthy_since = now;
        self.ramp.begin(now);
    }

    /// Ejects the endpoint as an outlier. `duration` gives the time for the number of the ejection, which is returned.
    pub(crate) fn eject(&self, reason: Reason, now: u64, duration: impl FnOnce(u32) -> u64) -> u32 {
        let mut record = self.record.lock();
        record.ejections = record.ejections.saturating_add(1);
        let until = now.saturating_add(duration(record.ejections)).clamp(1, DOWN - 1);
        record.ejection = Some(Ejection { at: now, until, reason });
        self.outcomes.end_row();
        self.ramp.begin(until);
        self.publish(&record);
        record.ejections
    }

    /// Ends an ejection as an outlier before its time, and does not count it.
    pub(crate) fn pardon(&self, now: u64) {
        let mut record = self.record.lock();
        record.ejections = record.ejections.saturating_sub(1);
        self.end_ejection(&mut record, now);
        self.ramp.begin(now);
    }

    /// Ends an ejection whose time is over. True when there was one.
    pub(crate) fn expire_ejection(&self, now: u64) -> bool {
        let mut record = self.record.lock();
        let Some(Ejection { until, .. }) = record.ejection.filter(|ejection| ejection.until <= now) else {
            return false;
        };
        self.end_ejection(&mut record, until);
        true
    }

    fn end_ejection(&self, record: &mut HealthRecord, at: u64) {
        record.ejection = None;
        record.healthy_since = record.healthy_since.max(at);
        record.forgiven_until = at;
        self.publish(record);
    }

    /// Forgets one past ejection per `interval` in service.
    pub(crate) fn forgive_ejections(&self, interval: u64, now: u64) {
        let mut record = self.record.lock();
        if record.ejection.is_none() && record.ejections > 0 {
            let intervals = now.saturating_sub(record.forgiven_until) / interval;
            record.ejections = record.ejections.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
            record.forgiven_until += intervals * interval;
        }
    }

    /// Makes `checker` the one whose results count. With `wait` the endpoint must not serve before its first success.
    pub(crate) fn attach_checker(&self, checker: CheckerId, wait: bool, now: u64) {
        let mut record = self.record.lock();
        if wait {
            record.probes = RiseFall::unproven(now);
        } else if record.checker != Some(checker) {
            record.probes = RiseFall::default();
        }
        record.checker = Some(checker);
        self.publish(&record);
    }

    /// Forgets what `checker` reported, because nothing would ever withdraw it.
    pub(crate) fn detach_checker(&self, checker: CheckerId, now: u64) {
        let mut record = self.record.lock();
        if record.checker == Some(checker) {
            (record.checker, record.probes, record.healthy_since) = (None, RiseFall::default(), now);
            self.publish(&record);
        }
    }

    /// Records the result of a probe by `checker`.
    pub(crate) fn record_probe(
        &self,
        checker: CheckerId,
        thresholds: Thresholds,
        result: Result<(), ProbeFailure>,
        now: u64,
    ) -> Transition {
        let mut record = self.record.lock();
        if record.checker != Some(checker) {
            return Transition::None;
        }
        let was_slow = result.is_ok() && self.slow_since.swap(0, Ordering::Relaxed) != 0;
        if result.is_err() {
            self.last_failure.store(now.max(1), Ordering::Relaxed);
        }
        let transition = record.probes.record(thresholds, result, now);
        if was_slow || matches!(transition, Transition::Cleared | Transition::Rose) {
            record.healthy_since = now;
        }
        if transition == Transition::Rose {
            self.ramp.begin(now);
        }
        self.publish(&record);
        transition
    }

    /// Sets the verifier that decides whether the endpoint is a member. Until it does, the endpoint must not serve.
    pub(crate) fn set_verifier(&self, verifier: Option<CheckerId>, now: u64) {
        let mut record = self.record.lock();
        if record.verifier != verifier {
            record.verifier = verifier;
            let membership = if verifier.is_some() { Membership::Unverified } else { Membership::Assumed };
            self.change_membership(&mut record, membership, now);
        }
    }

    /// Withdraws the membership until the verifier, if there is one, has checked the node again: it may be another node now.
    pub(crate) fn require_verification(&self, now: u64) {
        let mut record = self.record.lock();
        record.generation += 1;
        if record.verifier.is_some() {
            self.change_membership(&mut record, Membership::Unverified, now);
        }
    }

    /// Returns the present membership, and the generation for which a verifier decides it.
    pub(crate) fn membership(&self) -> (Membership, u64) {
        let record = self.record.lock();
        (record.membership, record.generation)
    }

    /// Records the decision of `verifier`, unless it is outdated. True when it is a change.
    pub(crate) fn set_membership(
        &self,
        verifier: CheckerId,
        generation: u64,
        membership: Membership,
        now: u64,
    ) -> bool {
        let mut record = self.record.lock();
        let counts = record.verifier == Some(verifier) && record.generation == generation;
        let changes = counts && record.membership != membership;
        if changes {
            if matches!(record.membership, Membership::Foreign(_)) {
                self.ramp.begin(now);
            }
            self.change_membership(&mut record, membership, now);
        }
        changes
    }

    fn change_membership(&self, record: &mut HealthRecord, membership: Membership, now: u64) {
        (record.membership, record.membership_since, record.healthy_since) = (membership, now, now);
        self.publish(record);
    }

    /// Writes what picks read.
    fn publish(&self, record: &HealthRecord) {
        let until = match record.ejection {
            _ if record.membership != Membership::Assumed => QUARANTINED,
            _ if !record.probes.is_up() => DOWN,
            Some(ejection) => ejection.until,
            None => 0,
        };
        let before = self.unavailable_until.swap(until, Ordering::Relaxed);
        self.impaired.change(before > 0, until > 0);
    }

    /// Returns the health, its reason, and since when. Of several reasons the gravest counts.
    pub(crate) fn describe(&self, passive: PassiveState, now: u64) -> (HealthState, Option<Reason>, u64) {
        let record = self.record.lock();
        let HealthRecord { probes, ejection, membership, membership_since, ejected_by_rule, .. } = &*record;
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
        if let Some(Ejection { at, reason, .. }) = ejection.filter(|ejection| now < ejection.until) {
            return (HealthState::Ejected, Some(reason), at);
        }
        if passive == PassiveState::Ejected {
            return (HealthState::Ejected, Some(Reason::MaxFails), *ejected_by_rule);
        }
        if failure.is_some() {
            return (HealthState::Suspect, failure, probes.since());
        }
        if passive == PassiveState::OnTrial {
            return (HealthState::Suspect, Some(Reason::MaxFails), *ejected_by_rule);
        }
        match self.slow_since.load(Ordering::Relaxed) {
            0 => (HealthState::Healthy, None, record.healthy_since.max(ejection.map_or(0, |ejection| ejection.until))),
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
    use crate::health::Mismatch;

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
        health.record_probe(checker, thresholds, result, now)
    }

    #[test]
    fn probes_and_an_ejection_are_independent() {
        let (health, checker) = (health(), CheckerId::next());
        health.attach_checker(checker, false, 0);
        health.eject(Reason::Consecutive, 10, |times| u64::from(times) * 100);
        assert!(health.is_unavailable(false, || 109));
        assert!(!health.is_unavailable(true, || 109), "an endpoint that is alone is never ejected");
        assert_eq!(probe(&health, checker, BAD, 20), Transition::Suspected);
        assert_eq!(probe(&health, checker, BAD, 30), Transition::Fell);
        assert!(health.is_unavailable(true, || 500), "probes take out an endpoint that is alone, too");
        assert_eq!(describe(&health, 40), (HealthState::Unhealthy, Some(Reason::Probe(ProbeFailure::Unreachable)), 30));
        assert_eq!(probe(&health, checker, Ok(()), 50), Transition::Rose);
        assert_eq!(describe(&health, 60), (HealthState::Ejected, Some(Reason::Consecutive), 10));
        assert!(!health.is_unavailable(false, || 110), "the time of the ejection is over");
        assert_eq!(describe(&health, 110), (HealthState::Healthy, None, 110));
        assert!(health.expire_ejection(110) && !health.expire_ejection(110));
        assert_eq!(describe(&health, 200), (HealthState::Healthy, None, 110));
    }

    #[test]
    fn only_the_attached_checker_counts_and_its_end_frees_the_endpoint() {
        let (health, checker, other) = (health(), CheckerId::next(), CheckerId::next());
        health.attach_checker(checker, true, 5);
        assert_eq!(describe(&health, 6), (HealthState::Unhealthy, Some(Reason::Unproven), 5));
        assert_eq!(probe(&health, other, Ok(()), 7), Transition::None);
        assert!(health.is_unavailable(true, || 7));
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
        assert!(health.is_quarantined() && health.is_unavailable(true, || 10));
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
        assert!(health.is_undecided() && !health.is_unavailable(false, || 21));
        health.succeed(|| 30);
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
            health.eject(Reason::Consecutive, now.get(), |times| {
                lasted = u64::from(times);
                lasted
            });
            now.set(now.get() + lasted);
            assert!(health.expire_ejection(now.get()));
            lasted
        };
        assert_eq!([eject(), eject(), eject()], [1, 2, 3]);
        let over = now.get();
        health.forgive_ejections(100, over + 199);
        health.forgive_ejections(100, over + 200);
        assert_eq!([eject(), eject()], [2, 3]);
        health.forgive_ejections(1, u64::MAX);
        assert_eq!(eject(), 1);
    }
}
