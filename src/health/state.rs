//! What is known of one endpoint's fitness beyond nginx's rule: the word of probes, its ejection as an outlier, its ramp.
//!
//! One of these is part of an endpoint's live state and survives changes of membership. What a pick reads is atomic; the lock
//! is taken only by what changes a verdict and by a status.

use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::impaired::ImpairedCount;
use super::outlier::{Cause, Tally};
use super::slow_start::Ramp;
use super::verdict::{Change, Thresholds, Verdict};
use super::{HealthState, Mismatch, ProbeFailure, Reason};

/// Compares an endpoint with the others of its cluster; told after each counted outcome.
pub(crate) trait Peers: Send + Sync {
    /// `run` is how many failures in a row the endpoint has now.
    fn counted(&self, run: u32);
}

/// Times are milliseconds since the endpoint's origin. What picks read comes first.
#[repr(C)]
pub(crate) struct State {
    /// Until when no request may come: 0 is not at all, `u64::MAX` while the word of probes is that it is down, or it is not
    /// known to be one of the cluster.
    barred_until: AtomicU64,
    pub(crate) ramp: Ramp,
    pub(crate) tally: Tally,
    /// 0 when it never failed.
    last_failure: AtomicU64,
    /// Since when a request that timed out has not been followed by a success; 0 when none.
    slow_since: AtomicU64,
    slow: AtomicU64,
    /// Is it not known to be one of the cluster?
    outsider: AtomicBool,
    record: Mutex<Record>,
    /// Rouses whoever probes the endpoint.
    pub(crate) wake: Notify,
    peers: Option<Arc<dyn Peers>>,
    impaired: ImpairedCount,
}

/// What changes rarely.
#[derive(Debug, Default)]
struct Record {
    verdict: Verdict,
    /// Who probes; the words of others are not listened to. 0 is nobody.
    checker: u64,
    belonging: Belonging,
    /// Who says so; 0 is nobody.
    judge: u64,
    belonging_since: u64,
    ejection: Option<Ejection>,
    /// How many past ejections are remembered, and since when it is in service without that being counted.
    ejections: u32,
    calm_since: u64,
    ejected_by_rule: u64,
    up_since: u64,
}

/// Is the endpoint one of the cluster?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Belonging {
    /// Nothing says otherwise.
    #[default]
    Assumed,
    /// Nobody has looked yet.
    Unchecked,
    No(Mismatch),
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    at: u64,
    until: u64,
    cause: Cause,
}

/// What nginx's rule says at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Fine,
    Ejected,
    /// The ejection is over and the next request decides.
    OnTrial,
}

impl State {
    /// How many bytes a pick reads, from the beginning, where something is said against an endpoint that is in no slow start.
    pub(crate) const READ_IN_PICKS: usize = offset_of!(State, ramp);

    pub(crate) fn new(peers: Option<Arc<dyn Peers>>, impaired: ImpairedCount) -> Self {
        State {
            barred_until: AtomicU64::new(0),
            ramp: Ramp::default(),
            tally: Tally::default(),
            last_failure: AtomicU64::new(0),
            slow_since: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            outsider: AtomicBool::new(false),
            record: Mutex::default(),
            wake: Notify::new(),
            peers,
            impaired,
        }
    }

    /// True while no request may come. An endpoint that is `alone` is never ejected, but probes may have it down. `now` is
    /// asked only when there is something to judge.
    pub(crate) fn is_barred(&self, alone: bool, now: impl FnOnce() -> u64) -> bool {
        match self.barred_until.load(Ordering::Relaxed) {
            0 => false,
            u64::MAX => true,
            until => !alone && now() < until,
        }
    }

    /// Is nothing said against it, so that no clock need be asked?
    #[inline]
    pub(crate) fn is_unbarred(&self) -> bool {
        self.barred_until.load(Ordering::Relaxed) == 0
    }

    /// When it failed last, a failed probe included; 0 is never.
    pub(crate) fn last_failure(&self) -> u64 {
        self.last_failure.load(Ordering::Relaxed)
    }

    /// How many requests have timed out.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// A request was answered.
    pub(crate) fn succeed(&self, now: impl FnOnce() -> u64) {
        if self.slow_since.load(Ordering::Relaxed) != 0 && self.slow_since.swap(0, Ordering::Relaxed) != 0 {
            self.record.lock().up_since = now();
        }
        if let Some(peers) = &self.peers {
            self.tally.succeed();
            peers.counted(0);
        }
    }

    /// A request failed.
    pub(crate) fn fail(&self, now: u64) {
        self.last_failure.store(now.max(1), Ordering::Relaxed);
        self.wake.notify_one();
        let Some(peers) = &self.peers else { return };
        // Not `is_down`: what probes say is no end of the row.
        let until = self.barred_until.load(Ordering::Relaxed);
        if until != u64::MAX && now < until {
            self.tally.fail_late();
        } else {
            peers.counted(self.tally.fail());
        }
    }

    /// A request timed out: no failure, but a reason to look.
    pub(crate) fn slow_down(&self, now: u64) {
        self.slow.fetch_add(1, Ordering::Relaxed);
        let _ = self.slow_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// nginx's rule ejected the endpoint.
    pub(crate) fn eject_by_rule(&self, now: u64) {
        self.record.lock().ejected_by_rule = now;
    }

    /// nginx's rule readmitted the endpoint, or the operator did.
    pub(crate) fn readmit(&self, now: u64) {
        self.record.lock().up_since = now;
        self.ramp.begin(now);
    }

    /// Ejects the endpoint as an outlier, for a time that `lasting` gives for the number of the ejection, which is returned.
    pub(crate) fn eject(&self, cause: Cause, now: u64, lasting: impl FnOnce(u32) -> u64) -> u32 {
        let mut record = self.record.lock();
        record.ejections = record.ejections.saturating_add(1);
        // One below the mark of probes, where a time overflows.
        let until = now.saturating_add(lasting(record.ejections)).clamp(1, u64::MAX - 1);
        record.ejection = Some(Ejection { at: now, until, cause });
        self.tally.forget_run();
        self.ramp.begin(until);
        self.bar(&record);
        record.ejections
    }

    /// Ends an ejection as an outlier before its time.
    pub(crate) fn pardon(&self, now: u64) {
        let mut record = self.record.lock();
        record.ejections = record.ejections.saturating_sub(1);
        self.end_ejection(&mut record, now);
        self.ramp.begin(now);
    }

    /// Ends an ejection whose time is over. True when there was one.
    pub(crate) fn expire(&self, now: u64) -> bool {
        let mut record = self.record.lock();
        let Some(Ejection { until, .. }) = record.ejection.filter(|ejection| ejection.until <= now) else {
            return false;
        };
        self.end_ejection(&mut record, until);
        true
    }

    fn end_ejection(&self, record: &mut Record, at: u64) {
        record.ejection = None;
        record.up_since = record.up_since.max(at);
        record.calm_since = at;
        self.bar(record);
    }

    /// Forgets one past ejection per `interval` in service.
    pub(crate) fn forgive(&self, interval: u64, now: u64) {
        let mut record = self.record.lock();
        if record.ejection.is_none() && record.ejections > 0 {
            let intervals = now.saturating_sub(record.calm_since) / interval;
            record.ejections = record.ejections.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
            record.calm_since += intervals * interval;
        }
    }

    /// Since when it is ejected as an outlier.
    pub(crate) fn ejected_at(&self) -> Option<u64> {
        self.record.lock().ejection.map(|ejection| ejection.at)
    }

    /// Is the word of probes that it is down, or not proven, or is it not one of the cluster?
    pub(crate) fn is_down(&self) -> bool {
        self.barred_until.load(Ordering::Relaxed) == u64::MAX
    }

    /// From now on `checker` has the word. With `wait` the endpoint may not serve before its first success.
    pub(crate) fn attach(&self, checker: u64, wait: bool, now: u64) {
        let mut record = self.record.lock();
        if wait {
            record.verdict = Verdict::unproven(now);
        } else if record.checker != checker {
            record.verdict = Verdict::default();
        }
        record.checker = checker;
        self.bar(&record);
    }

    /// `checker` ends: what it said is forgotten, because nobody would ever take it back.
    pub(crate) fn detach(&self, checker: u64, now: u64) {
        let mut record = self.record.lock();
        if record.checker == checker {
            (record.checker, record.verdict, record.up_since) = (0, Verdict::default(), now);
            self.bar(&record);
        }
    }

    /// From now on `judge` says whether the endpoint is one of the cluster, and until it does it may not serve; 0 is nobody.
    pub(crate) fn join(&self, judge: u64, now: u64) {
        let mut record = self.record.lock();
        if record.judge != judge {
            record.judge = judge;
            let belonging = if judge == 0 { Belonging::Assumed } else { Belonging::Unchecked };
            self.set_belonging(&mut record, belonging, now);
        }
    }

    /// It is another node now than the one that was looked at, if any was.
    pub(crate) fn doubt_belonging(&self, now: u64) {
        let mut record = self.record.lock();
        if record.judge != 0 {
            self.set_belonging(&mut record, Belonging::Unchecked, now);
        }
    }

    /// `judge` says whether the endpoint is one of the cluster. True when that is news.
    pub(crate) fn belong(&self, judge: u64, belonging: Belonging, now: u64) -> bool {
        let mut record = self.record.lock();
        let news = record.judge == judge && record.belonging != belonging;
        if news {
            if matches!(record.belonging, Belonging::No(_)) {
                self.ramp.begin(now);
            }
            self.set_belonging(&mut record, belonging, now);
        }
        news
    }

    fn set_belonging(&self, record: &mut Record, belonging: Belonging, now: u64) {
        (record.belonging, record.belonging_since, record.up_since) = (belonging, now, now);
        self.outsider.store(belonging != Belonging::Assumed, Ordering::Relaxed);
        self.bar(record);
    }

    /// Is it not known to be one of the cluster? Then it must serve nobody, whatever else there is.
    pub(crate) fn is_outsider(&self) -> bool {
        self.outsider.load(Ordering::Relaxed)
    }

    /// Takes the result of a probe by `checker` into account.
    pub(crate) fn observe(
        &self,
        checker: u64,
        needed: Thresholds,
        result: Result<(), ProbeFailure>,
        now: u64,
    ) -> Change {
        let mut record = self.record.lock();
        if record.checker != checker {
            return Change::Nothing;
        }
        let was_slow = result.is_ok() && self.slow_since.swap(0, Ordering::Relaxed) != 0;
        if result.is_err() {
            self.last_failure.store(now.max(1), Ordering::Relaxed);
        }
        let change = record.verdict.observe(needed, result, now);
        if was_slow || matches!(change, Change::Cleared | Change::Rose) {
            record.up_since = now;
        }
        if change == Change::Rose {
            self.ramp.begin(now);
        }
        self.bar(&record);
        change
    }

    /// Should the next probe come soon?
    pub(crate) fn is_open(&self) -> bool {
        self.record.lock().verdict.is_open() || self.slow_since.load(Ordering::Relaxed) != 0
    }

    /// Writes down what picks read.
    fn bar(&self, record: &Record) {
        let until = match record.ejection {
            _ if !record.verdict.is_up() || record.belonging != Belonging::Assumed => u64::MAX,
            Some(ejection) => ejection.until,
            None => 0,
        };
        let before = self.barred_until.swap(until, Ordering::Relaxed);
        self.impaired.change(before > 0, until > 0);
    }

    /// How the endpoint stands: the state, its reason, and since when.
    pub(crate) fn describe(&self, rule: Rule, now: u64) -> (HealthState, Option<Reason>, u64) {
        let record = self.record.lock();
        let Record { verdict, ejection, belonging, .. } = &*record;
        if let Belonging::No(sign) = belonging {
            return (HealthState::Unhealthy, Some(Reason::OtherMetastore(*sign)), record.belonging_since);
        }
        if !verdict.is_up() {
            let reason = verdict.failure().map_or(Reason::Unproven, Reason::Probe);
            return (HealthState::Unhealthy, Some(reason), verdict.since());
        }
        if *belonging == Belonging::Unchecked {
            return (HealthState::Unhealthy, Some(Reason::Unchecked), record.belonging_since);
        }
        if let Some(Ejection { at, cause, .. }) = ejection.filter(|ejection| now < ejection.until) {
            let reason = match cause {
                Cause::Consecutive => Reason::Consecutive,
                Cause::SuccessRate => Reason::SuccessRate,
            };
            return (HealthState::Ejected, Some(reason), at);
        }
        if rule == Rule::Ejected {
            return (HealthState::Ejected, Some(Reason::MaxFails), record.ejected_by_rule);
        }
        if let Some(failure) = verdict.failure() {
            return (HealthState::Suspect, Some(Reason::Probe(failure)), verdict.since());
        }
        if rule == Rule::OnTrial {
            return (HealthState::Suspect, Some(Reason::MaxFails), record.ejected_by_rule);
        }
        match self.slow_since.load(Ordering::Relaxed) {
            0 => (HealthState::Healthy, None, record.up_since.max(ejection.map_or(0, |ejection| ejection.until))),
            since => (HealthState::Suspect, Some(Reason::Slow), since),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.impaired.change(!self.is_unbarred(), false);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("record", &*self.record.lock()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: Thresholds = Thresholds { fall: 2, rise: 1 };
    const BAD: Result<(), ProbeFailure> = Err(ProbeFailure::Unreachable);

    fn operational(state: &State, now: u64) -> (HealthState, Option<Reason>, u64) {
        state.describe(Rule::Fine, now)
    }

    #[test]
    fn probes_and_an_ejection_bar_independently() {
        let state = State::new(None, ImpairedCount::default());
        state.attach(1, false, 0);
        state.eject(Cause::Consecutive, 10, |times| u64::from(times) * 100);
        assert!(state.is_barred(false, || 109) && !state.is_barred(true, || 109), "one that is alone is never ejected");
        assert_eq!(state.observe(1, NEEDED, BAD, 20), Change::Doubted);
        assert_eq!(state.observe(1, NEEDED, BAD, 30), Change::Fell);
        assert!(state.is_barred(true, || 500), "probes have the word where it is alone, too");
        assert_eq!(
            operational(&state, 40),
            (HealthState::Unhealthy, Some(Reason::Probe(ProbeFailure::Unreachable)), 30)
        );
        assert_eq!(state.observe(1, NEEDED, Ok(()), 50), Change::Rose);
        assert_eq!(operational(&state, 60), (HealthState::Ejected, Some(Reason::Consecutive), 10));
        assert!(!state.is_barred(false, || 110), "the time of the ejection is over");
        assert_eq!(operational(&state, 110), (HealthState::Healthy, None, 110));
        assert!(state.expire(110) && !state.expire(110));
        assert_eq!(operational(&state, 200), (HealthState::Healthy, None, 110));
    }

    #[test]
    fn only_the_checker_in_charge_is_heard_and_its_end_frees_the_endpoint() {
        let state = State::new(None, ImpairedCount::default());
        state.attach(1, true, 5);
        assert_eq!(operational(&state, 6), (HealthState::Unhealthy, Some(Reason::Unproven), 5));
        assert_eq!(state.observe(2, NEEDED, Ok(()), 7), Change::Nothing);
        assert!(state.is_barred(true, || 7));
        state.detach(2, 8);
        assert!(state.is_down());
        state.detach(1, 9);
        assert_eq!(operational(&state, 10), (HealthState::Healthy, None, 9));
        assert_eq!(state.observe(1, NEEDED, BAD, 11), Change::Nothing, "too late");
    }

    #[test]
    fn a_timeout_puts_in_doubt_until_a_success() {
        let state = State::new(None, ImpairedCount::default());
        state.slow_down(10);
        state.slow_down(20);
        assert_eq!(operational(&state, 21), (HealthState::Suspect, Some(Reason::Slow), 10));
        assert!(state.is_open() && !state.is_barred(false, || 21));
        state.succeed(|| 30);
        assert_eq!((operational(&state, 31), state.slow()), ((HealthState::Healthy, None, 30), 2));
        state.slow_down(40);
        state.attach(1, false, 0);
        state.observe(1, NEEDED, Ok(()), 50);
        assert_eq!(operational(&state, 51), (HealthState::Healthy, None, 50));
    }

    #[test]
    fn ejections_grow_and_are_forgiven_one_per_interval_in_service() {
        let state = State::new(None, ImpairedCount::default());
        let now = std::cell::Cell::new(0);
        let eject = || {
            let mut lasted = 0;
            state.eject(Cause::Consecutive, now.get(), |times| {
                lasted = u64::from(times);
                lasted
            });
            now.set(now.get() + lasted);
            assert!(state.expire(now.get()));
            lasted
        };
        assert_eq!([eject(), eject(), eject()], [1, 2, 3]);
        let over = now.get();
        state.forgive(100, over + 199);
        state.forgive(100, over + 200);
        assert_eq!([eject(), eject()], [2, 3]);
        state.forgive(1, u64::MAX);
        assert_eq!(eject(), 1);
    }
}
