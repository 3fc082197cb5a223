//! Records the outcomes of requests, and the decisions of the rules that compare them.

use std::sync::atomic::Ordering;

use super::failing::CountedFailure;
use super::{EndpointHealth, Failure, HealthRecord, ShutdownIndication};
use crate::health::withdrawal::{DRAIN_MS, Withdrawal, WithdrawalKind, trial_after};
use crate::health::{ProbePace, Reason};

/// The time for which a failure that could not be compared waits for a failure of another client,
/// in seconds.
const MAX_WAIT_SECONDS: u64 = 60;

impl EndpointHealth {
    pub(super) fn want_probe(&self, pace: ProbePace) {
        self.wanted_pace.fetch_max(pace as u8, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Requests a probe after a request that failed.
    pub(crate) fn want_probe_after(&self, unreached: bool) {
        self.want_probe(if unreached { ProbePace::Reconnect } else { ProbePace::Fast });
    }

    /// Records a failure of a request of `client` that could not be compared with other endpoints.
    /// Returns how many failures count now. If no request of another client failed before, none
    /// count. Otherwise this one counts, and the earlier one if it still waited.
    pub(crate) fn note_uncompared_failure(&self, client: u64, now: u64) -> u32 {
        let seconds = now / 1_000;
        let before = self.uncompared.load(Ordering::Relaxed);
        let (earlier, waits, at) = (before >> 32, before & 1 == 1, (before & u64::from(u32::MAX)) >> 1);
        let is_fresh = before != 0 && seconds.saturating_sub(at) <= MAX_WAIT_SECONDS;
        let is_other = is_fresh && earlier != client;
        let still_waits = !is_other && (waits || !is_fresh);
        let word = client << 32 | (seconds << 1 & 0xffff_fffe) | u64::from(still_waits);
        // If two failures come at the same time, one may be lost.
        self.uncompared.store(word, Ordering::Relaxed);
        if is_other { 1 + u32::from(waits) } else { 0 }
    }

    /// Records a request that succeeded. Returns whether it readmitted the endpoint.
    #[inline]
    pub(crate) fn succeed(&self, on_trial: bool, now: impl Fn() -> u64) -> bool {
        if (self.slow_since.load(Ordering::Relaxed) != 0) | self.failing.is_in_row() {
            self.end_suspicion(now());
        }
        let readmitted = (on_trial || self.outcomes.is_in_row()) && self.succeed_after_failures(on_trial, now());
        if self.impaired.is_watched()
            && let Some(listener) = &self.listener
        {
            listener.success_counted();
        }
        readmitted
    }

    #[cold]
    fn succeed_after_failures(&self, on_trial: bool, now: u64) -> bool {
        let mut record = self.record.lock();
        match record.withdrawal {
            None => {
                self.outcomes.end_row();
                record.failed_returns = 0;
                false
            }
            Some(withdrawal) if withdrawal.kind.ends_by_success() => {
                // A stopping node completes requests that it received before.
                if on_trial {
                    self.end_withdrawal(&mut record, now);
                    self.begin_ramp(now);
                    self.outcomes.end_row();
                    record.failed_returns = 0;
                }
                on_trial
            }
            Some(_) => self.expire_withdrawal(&mut record, now),
        }
    }

    /// Records a request that failed. Returns whether the endpoint becomes suspect, because no rule
    /// takes it out.
    pub(crate) fn fail(&self, failure: Failure, now: u64) -> bool {
        self.apply_rules(failure, now);
        let Failure { unreached, alone, is_ejected, in_flight, is_late, .. } = failure;
        let counted = CountedFailure { is_certain: unreached && alone, is_ejected, in_flight };
        !is_late && self.count_for_status(counted, now)
    }

    fn apply_rules(&self, failure: Failure, now: u64) {
        if !failure.is_late {
            self.last_failure.store(now.max(1), Ordering::Relaxed);
        }
        self.want_probe_after(failure.unreached);
        let Some(listener) = self.listener.as_ref().filter(|_| failure.governed) else { return };
        self.impaired.watch();
        // While probes report the endpoint as down, a failure continues the row.
        if failure.is_late || (self.is_impaired() && !self.is_down() && self.fail_withdrawn(failure, now)) {
            self.outcomes.fail_late();
            return;
        }
        if failure.unreached {
            self.reduced_share.halve(now);
        }
        self.outcomes.fail(failure.unreached, now);
        let row = self.outcomes.row();
        let failures = if row.is_burst(failure.in_flight, now) { 0 } else { row.failures };
        listener.failure_counted(failures, row.on_probation);
    }

    /// Returns whether a failure changes nothing more because the endpoint is withdrawn.
    fn fail_withdrawn(&self, failure: Failure, now: u64) -> bool {
        let mut record = self.record.lock();
        self.expire_withdrawal(&mut record, now);
        let Some(withdrawal) = &mut record.withdrawal else { return false };
        if failure.unreached && withdrawal.kind == WithdrawalKind::Draining {
            withdrawal.reason = Reason::Refusing;
        }
        let withdrawal = *withdrawal;
        match withdrawal.kind {
            // In panic mode and for bound sessions, a request may also come when no trial is due.
            WithdrawalKind::Connections | WithdrawalKind::Draining if failure.on_trial && now >= withdrawal.until => {
                self.withdraw_again(&mut record, withdrawal, now);
                true
            }
            WithdrawalKind::Connections => true,
            // Requests of bound sessions decide whether the endpoint is ejected.
            WithdrawalKind::Draining => false,
            WithdrawalKind::Responses => true,
        }
    }

    /// Prolongs a withdrawal that a request on trial did not end.
    fn withdraw_again(&self, record: &mut HealthRecord, withdrawal: Withdrawal, now: u64) {
        record.failed_returns = record.failed_returns.saturating_add(1);
        let until = now.saturating_add(trial_after(record.failed_returns));
        record.withdrawal = Some(Withdrawal { until, ..withdrawal });
        self.publish(record);
    }

    /// Records a request that timed out. A time-out is no failure, but a reason for a probe.
    pub(crate) fn time_out(&self, now: u64) {
        self.outcomes.skip();
        self.slow.fetch_add(1, Ordering::Relaxed);
        let _ = self.slow_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.want_probe(ProbePace::Fast);
    }

    /// Records that nginx's rule ejected the endpoint.
    pub(crate) fn eject_by_rule(&self, now: u64) {
        let mut record = self.record.lock();
        record.ejected_by_rule = now;
        self.count_return(&mut record);
        self.impaired.notify();
    }

    /// Counts a failed return, if the endpoint has returned and no request has succeeded since.
    fn count_return(&self, record: &mut HealthRecord) {
        if self.outcomes.row().on_probation {
            record.failed_returns = record.failed_returns.saturating_add(1);
        }
    }

    /// Records an indication in a response. The listener may then drain the endpoint `uid`. Returns
    /// whether the node is most likely stopping.
    #[inline]
    pub(crate) fn show(&self, indication: ShutdownIndication, uid: u64) -> bool {
        let stops = self.shutdown_indications.show(indication);
        if stops
            && !self.is_draining()
            && let Some(listener) = &self.listener
        {
            let is_retry_after = matches!(indication, ShutdownIndication::RetryAfter { .. });
            let reason = if is_retry_after { Reason::RetryAfter } else { Reason::Closing };
            listener.drain(uid, reason);
        }
        stops
    }

    /// Drains the endpoint, because its node shows that it is stopping. An existing withdrawal
    /// stays.
    pub(crate) fn drain(&self, reason: Reason, now: u64) -> bool {
        let mut record = self.record.lock();
        if record.withdrawal.is_some() {
            return false;
        }
        let until = now.saturating_add(DRAIN_MS);
        record.withdrawal = Some(Withdrawal { at: now, until, reason, kind: WithdrawalKind::Draining });
        self.publish(&record);
        self.impaired.watch();
        self.want_probe(ProbePace::Reconnect);
        true
    }

    /// Records that nginx's rule or the operator readmitted the endpoint.
    pub(crate) fn readmit(&self, now: u64) {
        self.record.lock().healthy_since = now;
        self.begin_ramp(now);
        self.impaired.notify();
    }

    /// Ejects the endpoint as an outlier for its responses. `duration` computes the length of the
    /// ejection from its number, which is returned. One past ejection is forgotten for each
    /// `decay_interval` in service.
    pub(crate) fn eject(
        &self,
        reason: Reason,
        now: u64,
        decay_interval: u64,
        duration: impl FnOnce(u32) -> u64,
    ) -> u32 {
        let mut record = self.record.lock();
        let intervals = now.saturating_sub(record.decayed_until) / decay_interval;
        let left = record.ejections.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
        record.ejections = left.saturating_add(1);
        let until = now.saturating_add(duration(record.ejections));
        record.withdrawal = Some(Withdrawal { at: now, until, reason, kind: WithdrawalKind::Responses });
        // Ejections are forgotten only for time in service, which begins at the end of this
        // ejection.
        record.decayed_until = until;
        self.outcomes.end_row();
        self.begin_ramp(until);
        self.publish(&record);
        record.ejections
    }

    /// Ejects the endpoint because it could not be reached. Returns the milliseconds until a
    /// request may try it.
    pub(crate) fn eject_unreachable(&self, now: u64) -> u64 {
        let mut record = self.record.lock();
        self.count_return(&mut record);
        let millis = trial_after(record.failed_returns);
        let until = now.saturating_add(millis);
        let kind = WithdrawalKind::Connections;
        record.withdrawal = Some(Withdrawal { at: now, until, reason: Reason::Unreachable, kind });
        self.publish(&record);
        millis
    }

    /// Ends an outlier ejection before its time, and does not count it.
    pub(crate) fn cancel_ejection(&self, now: u64) {
        let mut record = self.record.lock();
        if record.withdrawal.is_some_and(|ejection| ejection.kind == WithdrawalKind::Responses) {
            record.ejections = record.ejections.saturating_sub(1);
        }
        self.end_withdrawal(&mut record, now);
        record.decayed_until = now;
        self.outcomes.end_row();
        self.begin_ramp(now);
    }

    /// Ends an expired ejection, and an expired drain of an endpoint that no request tries. Also
    /// ends an expired reduced share that no pick has read since, as with hash policies. Returns
    /// whether the endpoint returned.
    pub(crate) fn expire(&self, now: u64) -> bool {
        self.reduced_share.share(|| now);
        self.expire_withdrawal(&mut self.record.lock(), now)
    }

    /// Returns whether there is anything for [`expire`](Self::expire) to end.
    pub(crate) fn expires(&self) -> bool {
        !self.reduced_share.is_whole() || self.end_of_withdrawal(&self.record.lock()).is_some()
    }

    fn expire_withdrawal(&self, record: &mut HealthRecord, now: u64) -> bool {
        let Some(end) = self.end_of_withdrawal(record).filter(|end| *end <= now) else { return false };
        if record.withdrawal.is_some_and(|withdrawal| withdrawal.kind == WithdrawalKind::Draining) {
            self.outcomes.put_on_probation();
            self.begin_ramp(end);
        }
        self.end_withdrawal(record, end);
        true
    }

    /// Returns when the withdrawal ends by itself, if it does. A request on trial postpones the end
    /// of a drain.
    pub(super) fn end_of_withdrawal(&self, record: &HealthRecord) -> Option<u64> {
        let Withdrawal { until, kind, .. } = record.withdrawal?;
        Some(self.withholding.until().unwrap_or(0).max(until).saturating_add(kind.ends_after()?))
    }

    pub(super) fn end_withdrawal(&self, record: &mut HealthRecord, at: u64) {
        if let Some(Withdrawal { kind: WithdrawalKind::Draining, reason, .. }) = record.withdrawal.take() {
            self.shutdown_indications.end_drain(reason == Reason::Refusing);
        }
        record.healthy_since = record.healthy_since.max(at);
        self.publish(record);
    }
}
