//! Records the results of probes and of the metastore check.

use std::sync::atomic::Ordering;

use super::{EndpointHealth, HealthRecord};
use crate::health::membership::{CheckerId, Membership};
use crate::health::passive::Passive;
use crate::health::rise_fall::{RiseFall, Thresholds, Transition};
use crate::health::withdrawal::{DRAIN_MS, Withdrawal, WithdrawalKind, probes_after};
use crate::health::{ProbeFailure, ProbePace, Reason};

impl EndpointHealth {
    /// Returns how soon the next probe should come.
    pub(crate) fn probe_pace(&self, passive: &Passive, now: u64) -> ProbePace {
        let record = self.record.lock();
        let ends_by_success = record.withdrawal.is_some_and(|withdrawal| withdrawal.kind.ends_by_success());
        let known = if ends_by_success || passive.is_unreachable() || record.probes.is_starting(now) {
            ProbePace::Reconnect
        } else if record.probes.is_undecided() || self.slow_since.load(Ordering::Relaxed) != 0 {
            ProbePace::Fast
        } else {
            ProbePace::Normal
        };
        known.max(ProbePace::from_u8(self.wanted_pace.load(Ordering::Relaxed)))
    }

    /// Records that a probe begins. It satisfies all earlier requests for a probe.
    pub(crate) fn probe_begins(&self) {
        self.probe_count.begin();
        self.wanted_pace.store(ProbePace::Normal as u8, Ordering::Relaxed);
    }

    /// Makes `checker` the one whose results count. With `wait`, the endpoint must not serve before
    /// its first success.
    pub(crate) fn attach_checker(&self, checker: CheckerId, wait: bool, now: u64) {
        let mut record = self.record.lock();
        if wait {
            record.probes = RiseFall::unproven(now);
        } else if record.checker != Some(checker) {
            record.probes = RiseFall::default();
        }
        record.checker = Some(checker);
        self.publish_probes(&record);
    }

    /// Forgets the reports of `checker`, because no later report would replace them.
    pub(crate) fn detach_checker(&self, checker: CheckerId, now: u64) {
        let mut record = self.record.lock();
        if record.checker == Some(checker) {
            (record.checker, record.probes, record.healthy_since) = (None, RiseFall::default(), now);
            self.publish_probes(&record);
        }
    }

    /// Records the result of a probe by `checker`. A success also ends an ejection for failed
    /// connections, including one by nginx's rule (`passive`). `successes` is the number of
    /// requests that have succeeded.
    pub(crate) fn record_probe(
        &self,
        checker: CheckerId,
        thresholds: Thresholds,
        result: Result<(), ProbeFailure>,
        passive: &Passive,
        successes: u64,
        now: u64,
    ) -> Transition {
        let mut record = self.record.lock();
        if record.checker != Some(checker) {
            return Transition::None;
        }
        let was_suspect = result.is_ok() && (self.slow_since.swap(0, Ordering::Relaxed) != 0) | self.failing.end();
        if result.is_err() {
            self.last_failure.store(now.max(1), Ordering::Relaxed);
        } else {
            record.good_probe = now.max(1);
        }
        // A node that refuses a connection and completes requests is at its limit of connections or
        // is stopping. Neither is an outage.
        let serves = std::mem::replace(&mut record.successes, successes) < successes;
        let transition = record.probes.record(thresholds, result, serves, now);
        let returned = match result {
            Ok(()) => self.reach(&mut record, passive, now),
            Err(failure) => {
                if failure == ProbeFailure::Unreachable {
                    match &mut record.withdrawal {
                        // The process that responded before has ended, so a later response comes
                        // from another process.
                        Some(withdrawal @ Withdrawal { kind: WithdrawalKind::Responses, .. }) => {
                            withdrawal.kind = WithdrawalKind::Connections;
                        }
                        Some(withdrawal @ Withdrawal { kind: WithdrawalKind::Draining, .. }) => {
                            withdrawal.reason = Reason::Refusing;
                        }
                        Some(Withdrawal { kind: WithdrawalKind::Connections, .. }) | None => {}
                    }
                }
                false
            }
        };
        if was_suspect || matches!(transition, Transition::Cleared | Transition::Rose) {
            record.healthy_since = now;
        }
        if transition == Transition::Rose {
            self.begin_ramp(now);
        }
        self.publish_probes(&record);
        if returned && transition != Transition::Rose { Transition::Readmitted } else { transition }
    }

    /// Requests a drain of the endpoint `uid` if probes show that its node is stopping. Either the
    /// node refuses a probe and no request has succeeded since one failed, or it refuses a second
    /// time.
    pub(crate) fn drain_if_refusing(&self, uid: u64) {
        let refuses = {
            let record = self.record.lock();
            let is_refused = record.probes.is_up() && record.probes.failure() == Some(ProbeFailure::Unreachable);
            is_refused && (record.probes.streak() > 1 || self.outcomes.is_in_row())
        };
        if refuses && let Some(listener) = &self.listener {
            listener.drain(uid, Reason::Refusing);
        }
    }

    /// Readmits the endpoint if it was ejected because it could not be reached, unless its last
    /// returns failed not long ago.
    fn reach(&self, record: &mut HealthRecord, passive: &Passive, now: u64) -> bool {
        let withdrawal = record.withdrawal.filter(|withdrawal| withdrawal.kind.ends_by_success());
        let ejected = withdrawal.map(|withdrawal| withdrawal.at).into_iter();
        let at = ejected.chain(passive.is_unreachable().then_some(record.ejected_by_rule)).max();
        let is_draining = withdrawal.is_some_and(|withdrawal| withdrawal.kind == WithdrawalKind::Draining);
        let wait = probes_after(record.failed_returns).max(if is_draining { DRAIN_MS } else { 0 });
        if at.is_none_or(|at| now < at.saturating_add(wait)) {
            return false;
        }
        let returned = passive.readmit_reachable() | withdrawal.is_some();
        if withdrawal.is_some() {
            self.end_withdrawal(record, now);
        }
        record.healthy_since = now;
        self.outcomes.put_on_probation();
        self.begin_ramp(now);
        returned
    }

    /// Sets the verifier that decides whether the endpoint is a member. Until then the endpoint
    /// must not serve.
    pub(crate) fn set_verifier(&self, verifier: Option<CheckerId>, now: u64) {
        let mut record = self.record.lock();
        if record.verifier != verifier {
            record.verifier = verifier;
            let membership = if verifier.is_some() { Membership::Unverified } else { Membership::Assumed };
            self.change_membership(&mut record, membership, now);
        }
    }

    /// Revokes the membership until the verifier, if there is one, has checked the node again. The
    /// node may be another one now.
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

    /// Records the decision of `verifier`, unless it is outdated. Returns whether the membership
    /// changed.
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
                self.begin_ramp(now);
            }
            self.change_membership(&mut record, membership, now);
        }
        changes
    }

    fn change_membership(&self, record: &mut HealthRecord, membership: Membership, now: u64) {
        (record.membership, record.membership_since, record.healthy_since) = (membership, now, now);
        self.publish_probes(record);
    }
}
