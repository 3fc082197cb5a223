//! Which endpoints stand out by their failures? Settings, counts, and the ruling: a pure function of how all endpoints stand.
//!
//! Sized for clusters of two to eight nodes. Envoy compares each host with the mean and the standard deviation of all, which
//! says nothing over three values; here an endpoint is compared with the *pooled* success rate of the others. What all
//! endpoints suffer alike (the metastore is gone, LDAP does not answer) is no reason to eject any of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// When an endpoint that fails more than the others is ejected. Goes beside nginx's rule
/// ([`Endpoint::max_fails`](crate::Endpoint::max_fails)), which it neither needs nor replaces: set `max_fails(None)` to have
/// only this.
///
/// An endpoint is ejected after a number of failures in a row, or when over an interval its success rate is lower than that
/// of all others together by a margin. Only [`Outcome::Failure`](crate::Outcome::Failure) counts as a failure: no connection,
/// no answer, a broken one, a gateway error. A query that takes long never does.
///
/// What is never done: the last endpoint that can serve, or the last with some role, is not ejected, nor more than a share of the endpoints at once; and
/// when more than a share of them fail alike within an interval, none is, and those ejected within it come back.
///
/// ```
/// use kylin_lb::health::Outlier;
/// use std::time::Duration;
///
/// let rule = Outlier::new().consecutive(3).ejection(Duration::from_secs(10), Duration::from_secs(60));
/// # let _ = rule;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Outlier {
    pub(crate) consecutive: u32,
    pub(crate) interval_ms: u64,
    min_requests: u32,
    margin: f64,
    base_ms: u64,
    most_ms: u64,
    max_share: f64,
    common_share: f64,
}

impl Default for Outlier {
    fn default() -> Self {
        Outlier {
            consecutive: 5,
            interval_ms: 10_000,
            min_requests: 20,
            margin: 0.3,
            base_ms: 30_000,
            most_ms: 300_000,
            max_share: 0.5,
            common_share: 0.5,
        }
    }
}

impl Outlier {
    /// Envoy's numbers where they fit: 5 failures in a row, an interval of 10 s, ejections of 30 s times their count up to
    /// 300 s; and ours: at least 20 requests, a margin of 0.3, at most half of the endpoints.
    pub fn new() -> Self {
        Outlier::default()
    }

    /// How many failures in a row eject; 0 never does. Default 5.
    pub fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// Over what time success rates are taken, failures count as simultaneous, and past ejections fade: one is forgotten per
    /// interval spent in service. Default 10 s, at least 1 ms.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval_ms = millis(interval).max(1);
        self
    }

    /// By how much the success rate must be lower than the others', 0 to 1, and how many requests both sides must have had
    /// within the interval. Over 20 requests chance alone moves a rate by 0.11 at most (one standard deviation), so the
    /// defaults, 0.3 and 20, are nearly three of those away. A margin of 1 switches the comparison off.
    pub fn success_rate(mut self, margin: f64, min_requests: u32) -> Self {
        self.margin = if margin.is_nan() { 1.0 } else { margin.clamp(0.01, 1.0) };
        self.min_requests = min_requests.max(1);
        self
    }

    /// How long the first ejection lasts; the second lasts twice as long, and so on up to `most`. Default 30 s and 300 s.
    pub fn ejection(mut self, base: Duration, most: Duration) -> Self {
        (self.base_ms, self.most_ms) = (millis(base).max(1), millis(most.max(base)).max(1));
        self
    }

    /// The share of the endpoints that may be ejected at once, rounded down, but one where there are two or more. Default
    /// 0.5.
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = fraction(share);
        self
    }

    /// When more than this share of the endpoints fail within an interval, what fails is something that they share, and
    /// nobody is ejected. Default 0.5.
    pub fn common_share(mut self, share: f64) -> Self {
        self.common_share = fraction(share);
        self
    }

    /// How long the ejection lasts that is number `times`, counted from 1.
    pub(crate) fn ejection_ms(&self, times: u32) -> u64 {
        self.base_ms.saturating_mul(u64::from(times)).min(self.most_ms)
    }

    /// How many of `endpoints` may be ejected at once.
    fn limit(&self, endpoints: usize) -> usize {
        if endpoints < 2 { 0 } else { ((endpoints as f64 * self.max_share) as usize).max(1) }
    }

    /// The failures in a row that make an endpoint one of those that fail alike. Half of what ejects: endpoints that take
    /// turns do not reach the full number in the same moment.
    fn ailing_run(&self) -> u32 {
        self.consecutive.div_ceil(2).max(1)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn fraction(share: f64) -> f64 {
    if share.is_nan() { 0.5 } else { share.clamp(0.0, 1.0) }
}

/// Why an endpoint stood out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Consecutive,
    SuccessRate,
}

/// What requests have come to on one endpoint. Written by every request that ends; no count is lost between two readings.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Failures since the last success.
    run: AtomicU32,
    /// Requests in the upper half, failures among them in the lower, since they were last taken.
    window: AtomicU64,
}

impl Tally {
    pub(crate) fn succeed(&self) {
        if self.run.load(Ordering::Relaxed) != 0 {
            self.run.store(0, Ordering::Relaxed);
        }
        self.window.fetch_add(1 << 32, Ordering::Relaxed);
    }

    /// Counts a failure of a request that was in flight when the endpoint was ejected: it says nothing of how it is now.
    pub(crate) fn fail_late(&self) {
        self.window.fetch_add((1 << 32) + 1, Ordering::Relaxed);
    }

    /// Returns how many failures in a row there are now.
    pub(crate) fn fail(&self) -> u32 {
        self.window.fetch_add((1 << 32) + 1, Ordering::Relaxed);
        self.run.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(crate) fn run(&self) -> u32 {
        self.run.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_run(&self) {
        self.run.store(0, Ordering::Relaxed);
    }

    /// Takes what was counted since the last taking.
    pub(crate) fn take(&self) -> Window {
        let window = self.window.swap(0, Ordering::Relaxed);
        Window { requests: window >> 32, failures: window & u64::from(u32::MAX) }
    }
}

/// Requests and failures over one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
}

impl Window {
    fn success_rate(self) -> f64 {
        1.0 - self.failures as f64 / self.requests as f64
    }

    fn plus(self, other: Window) -> Window {
        Window { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }
}

/// How an endpoint stands when the ruling is made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    /// The operator wants it to serve, and probes do not speak against it.
    pub(crate) ready: bool,
    /// Besides, nothing and nobody else has ejected it: it could serve a request now.
    pub(crate) fit: bool,
    /// What it does, a bit per role. Only an endpoint with the same roles can stand in for it.
    pub(crate) roles: u8,
    /// For how many milliseconds it has been ejected as an outlier.
    pub(crate) ejected_for: Option<u64>,
    pub(crate) run: u32,
    /// How many milliseconds ago it failed last.
    pub(crate) failed_ago: Option<u64>,
    /// Its last interval; nothing when none has just ended.
    pub(crate) window: Window,
}

/// What is to be done, by index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) eject: Vec<(usize, Cause)>,
    pub(crate) readmit: Vec<usize>,
    /// So many fail alike that the fault must be something they share.
    pub(crate) common: bool,
}

impl Outlier {
    /// Rules over all endpoints of a cluster.
    pub(crate) fn rule(&self, standings: &[Standing]) -> Ruling {
        if self.fail_alike(standings) {
            let recent = |standing: &Standing| standing.ejected_for.is_some_and(|age| age <= self.interval_ms);
            let readmit = (0..).zip(standings).filter(|(_, standing)| recent(standing)).map(|(index, _)| index);
            return Ruling { eject: Vec::new(), readmit: readmit.collect(), common: true };
        }
        let mut suspects: Vec<(usize, Cause)> = (0..)
            .zip(standings)
            .filter(|(_, standing)| standing.ready && standing.ejected_for.is_none())
            .filter_map(|(index, _)| Some((index, self.suspicion(standings, index)?)))
            .collect();
        // The worst first: there may not be room for all.
        suspects.sort_by_key(|(index, _)| std::cmp::Reverse(standings[*index].run));

        let limit = self.limit(standings.iter().filter(|standing| standing.ready).count());
        let mut ejected = standings.iter().filter(|standing| standing.ready && standing.ejected_for.is_some()).count();
        let mut fit: Vec<bool> = standings.iter().map(|standing| standing.fit).collect();
        let mut eject = Vec::new();
        for (index, cause) in suspects {
            if ejected < limit && is_replaceable(standings, &fit, index) {
                fit[index] = false;
                ejected += 1;
                eject.push((index, cause));
            }
        }
        Ruling { eject, ..Ruling::default() }
    }

    /// What speaks against the endpoint at `index`.
    fn suspicion(&self, standings: &[Standing], index: usize) -> Option<Cause> {
        let standing = &standings[index];
        if self.consecutive > 0 && standing.run >= self.consecutive {
            return Some(Cause::Consecutive);
        }
        let others = (0..)
            .zip(standings)
            .filter(|(other, standing)| *other != index && standing.ready && standing.ejected_for.is_none())
            .fold(Window::default(), |sum, (_, standing)| sum.plus(standing.window));
        let enough = u64::from(self.min_requests);
        let comparable = standing.window.requests >= enough && others.requests >= enough;
        let lower = comparable && standing.window.success_rate() + self.margin < others.success_rate();
        lower.then_some(Cause::SuccessRate)
    }

    /// Do so many fail within an interval that it must be something they share?
    fn fail_alike(&self, standings: &[Standing]) -> bool {
        let lately = |age: Option<u64>| age.is_some_and(|age| age <= self.interval_ms);
        let (mut all, mut ailing) = (0_usize, 0_usize);
        for standing in standings.iter().filter(|standing| standing.ready) {
            let ejected_lately = lately(standing.ejected_for);
            if standing.ejected_for.is_some() && !ejected_lately {
                continue; // Its fault is its own: it has been out since before.
            }
            all += 1;
            if ejected_lately || (standing.run >= self.ailing_run() && lately(standing.failed_ago)) {
                ailing += 1;
            }
        }
        ailing >= 2 && ailing as f64 > all as f64 * self.common_share.min(0.999)
    }
}

/// Is there, for each role of the endpoint at `index`, another that is fit?
fn is_replaceable(standings: &[Standing], fit: &[bool], index: usize) -> bool {
    let others = || (0..).zip(standings.iter().zip(fit)).filter(|(other, (_, fit))| *other != index && **fit);
    let roles = others().fold(0, |roles, (_, (standing, _))| roles | standing.roles);
    others().next().is_some() && roles & standings[index].roles == standings[index].roles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Standing {
        Standing { ready: true, fit: true, roles: 0b11, ..Standing::default() }
    }

    fn failing(run: u32) -> Standing {
        Standing { run, failed_ago: Some(0), ..well() }
    }

    fn ejected(ago: u64) -> Standing {
        Standing { fit: false, ejected_for: Some(ago), ..well() }
    }

    fn rate(requests: u64, failures: u64) -> Standing {
        Standing { window: Window { requests, failures }, ..well() }
    }

    fn ejects(standings: &[Standing]) -> Vec<usize> {
        Outlier::new().rule(standings).eject.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn five_failures_in_a_row_eject_one_of_two_and_never_the_last() {
        assert!(ejects(&[failing(4), well()]).is_empty());
        assert_eq!(ejects(&[failing(5), well()]), [0]);
        assert!(ejects(&[failing(5)]).is_empty(), "it is alone");
        assert!(ejects(&[failing(5), Standing { fit: false, ..well() }]).is_empty(), "the other cannot serve");
        assert!(ejects(&[failing(5), Standing::default()]).is_empty(), "the other is out of service");
    }

    #[test]
    fn the_last_with_a_role_is_not_ejected() {
        let (query, job) = (Standing { roles: 0b01, ..failing(5) }, Standing { roles: 0b10, ..well() });
        assert!(ejects(&[query, job, job]).is_empty());
        assert_eq!(ejects(&[query, job, well()]), [0]);
        assert_eq!(ejects(&[failing(5), job, Standing { roles: 0b01, ..well() }]), [0], "two stand in for one");
    }

    #[test]
    fn at_most_half_are_ejected_at_once_the_worst_first() {
        let mut eight = [well(); 8];
        eight[1..4].copy_from_slice(&[failing(5), failing(9), failing(7)]);
        (eight[6], eight[7]) = (ejected(20_000), ejected(20_000));
        assert_eq!(ejects(&eight), [2, 3], "two are out already");
        assert!(ejects(&[failing(5), ejected(60_000), well()]).is_empty(), "one of three is half, rounded down");
    }

    #[test]
    fn what_all_suffer_alike_ejects_nobody_and_brings_back_who_was_first() {
        let ruling = Outlier::new().rule(&[failing(5), failing(4), failing(4)]);
        assert_eq!(ruling, Ruling { common: true, ..Ruling::default() });
        let ruling = Outlier::new().rule(&[ejected(9_000), failing(5), well()]);
        assert_eq!(ruling, Ruling { common: true, readmit: vec![0], eject: vec![] });
        assert_eq!(ejects(&[failing(5), Standing { failed_ago: Some(10_001), ..failing(4) }, well()]), [0], "long ago");
    }

    #[test]
    fn a_success_rate_is_compared_with_that_of_the_others_together() {
        assert_eq!(ejects(&[rate(20, 8), rate(20, 0), rate(20, 1)]), [0]);
        assert!(ejects(&[rate(20, 5), rate(20, 0), rate(20, 0)]).is_empty(), "within the margin");
        assert!(ejects(&[rate(19, 19), rate(20, 0)]).is_empty(), "too few to say");
        assert!(ejects(&[rate(20, 20), rate(19, 0)]).is_empty(), "too few to compare with");
        assert!(ejects(&[rate(20, 8), rate(20, 8), rate(20, 9)]).is_empty(), "no worse than the others");
    }

    #[test]
    fn ejections_grow_up_to_a_maximum() {
        let rule = Outlier::new();
        assert_eq!([1, 2, 10, 11, u32::MAX].map(|times| rule.ejection_ms(times) / 1_000), [30, 60, 300, 300, 300]);
    }

    #[test]
    fn no_count_is_lost_while_windows_are_taken() {
        const EACH: u64 = 50_000;
        let tally = Tally::default();
        let taken = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for turn in 0..EACH {
                            if turn % 5 == 0 {
                                tally.fail();
                            } else {
                                tally.succeed();
                            }
                        }
                    })
                })
                .collect();
            let mut sum = Window::default();
            while writers.iter().any(|writer| !writer.is_finished()) {
                sum = sum.plus(tally.take());
            }
            sum.plus(tally.take())
        });
        assert_eq!(taken, Window { requests: 4 * EACH, failures: 4 * EACH / 5 });
    }

    fn any_standing() -> impl proptest::strategy::Strategy<Value = Standing> {
        use proptest::prelude::*;
        let ejected = proptest::option::of(0_u64..30_000);
        let numbers = (0_u32..8, proptest::option::of(0_u64..30_000), 0_u64..40, 0.0_f64..=1.0);
        (any::<bool>(), any::<bool>(), ejected, numbers).prop_map(|(ready, fit, ejected_for, numbers)| {
            let (run, failed_ago, requests, failing) = numbers;
            let window = Window { requests, failures: (requests as f64 * failing) as u64 };
            let fit = ready && fit && ejected_for.is_none();
            Standing { ready, fit, roles: run as u8 % 4, ejected_for, run, failed_ago, window }
        })
    }

    proptest::proptest! {
        #[test]
        fn whatever_happens_someone_is_left_and_the_share_is_kept(
            standings in proptest::collection::vec(any_standing(), 0..9),
            max_share in 0.0_f64..=1.0,
            common_share in 0.0_f64..=1.0,
        ) {
            let rule = Outlier::new().max_share(max_share).common_share(common_share);
            let ruling = rule.rule(&standings);
            let ready = standings.iter().filter(|standing| standing.ready).count();
            let before = standings.iter().filter(|standing| standing.ready && standing.ejected_for.is_some()).count();
            let ejected: Vec<usize> = ruling.eject.iter().map(|(index, _)| *index).collect();
            let most = ((ready as f64 * max_share) as usize).max(usize::from(ready > 1));
            proptest::prop_assert!(ejected.is_empty() || before + ejected.len() <= most);
            if !ejected.is_empty() {
                let left = (0..).zip(&standings).any(|(index, standing)| standing.fit && !ejected.contains(&index));
                proptest::prop_assert!(left, "somebody can serve");
            }
            proptest::prop_assert!(ejected.iter().all(|index| standings[*index].ready));
            proptest::prop_assert!(ruling.readmit.iter().all(|index| standings[*index].ejected_for.is_some()));
            proptest::prop_assert!(!ruling.common || ejected.is_empty());
        }
    }
}
