//! Finds the endpoints that fail more than the others: settings, counts, and a decision that is a
//! pure function of all endpoints.
//!
//! It is made for clusters of two to eight nodes. Envoy compares each node with the mean and the
//! standard deviation of all, which is not meaningful for three values. Here an endpoint is
//! compared with the *pooled* success rate of the others. A failure that all endpoints share is no
//! reason to eject any of them, for example if the metastore is down or LDAP does not respond.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Reason;
use super::outcomes::Window;
use crate::clock::as_millis;
use crate::setting::InvalidSetting;

/// Ejects endpoints that fail more than the others.
///
/// Every cluster has this rule unless the application [turns it
/// off](crate::cluster::ClusterBuilder::outlier). An endpoint with
/// [`max_fails`](crate::Endpoint::max_fails) or [`fail_timeout`](crate::Endpoint::fail_timeout)
/// follows nginx's rule instead.
///
/// An endpoint is ejected in two cases. It has failed a number of times in a row, the last of them
/// within the interval. Or its success rate over an interval is lower, by a margin, than the rate
/// of all other endpoints together. [`Outcome::Failure`](crate::Outcome::Failure) and
/// [`Outcome::Unreachable`](crate::Outcome::Unreachable) are failures. A query that takes long is
/// no failure. The length of an ejection depends on the failures:
///
/// | failures | the endpoint returns |
/// |---|---|
/// | responses: gateway errors, invalid or truncated responses | after the [time of the ejection](Self::ejection) |
/// | connections: at least one of the failures in a row did not reach the node | when a probe succeeds, or a request on trial: the first 250 ms after the ejection; each failed one doubles the time until the next, up to 30 s |
///
/// While the endpoint works on more requests than have failed in a row, the failures are a burst
/// and eject nothing, for at most one second. A node at its limit of connections refuses some and
/// completes others.
///
/// These limits protect the cluster:
///
/// - The last endpoint that can serve, and the last one with some role, are never ejected. An
///   endpoint whose trial is due does not count as able to serve until the trial has succeeded.
/// - At most [`max_share`](Self::max_share) of the endpoints are ejected at once.
/// - When more than [`common_share`](Self::common_share) of the endpoints fail within an interval,
///   none is ejected, and endpoints that were ejected within the interval for their responses
///   return.
///
/// The last two limits do not apply to an endpoint that cannot be reached while requests to another
/// endpoint succeed.
///
/// [`ClusterBuilder::build`](crate::cluster::ClusterBuilder::build) returns an error if a setting
/// is invalid.
///
/// ```
/// use kylin_lb::health::Outlier;
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// let outlier = Outlier::new()
///     .consecutive(NonZeroU32::new(3))
///     .ejection(Duration::from_secs(10), Duration::from_secs(60));
/// # let _ = outlier;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Outlier {
    pub(crate) consecutive: Option<NonZeroU32>,
    pub(crate) interval_ms: u64,
    min_requests: u32,
    margin: f64,
    base_ms: u64,
    max_ms: u64,
    max_share: f64,
    common_share: f64,
    pub(crate) drain: bool,
}

impl Default for Outlier {
    fn default() -> Self {
        Outlier {
            consecutive: NonZeroU32::new(5),
            interval_ms: 10_000,
            min_requests: 20,
            margin: 0.3,
            base_ms: 30_000,
            max_ms: 300_000,
            max_share: 0.5,
            common_share: 0.5,
            drain: true,
        }
    }
}

impl Outlier {
    /// Returns the defaults. The number of failures in a row, the interval and the ejection times
    /// are Envoy's; the other numbers suit small clusters.
    pub fn new() -> Self {
        Outlier::default()
    }

    /// Sets how many failures in a row eject. `None` turns this off. Default: 5, as in Envoy.
    pub fn consecutive(mut self, failures: Option<NonZeroU32>) -> Self {
        self.consecutive = failures;
        self
    }

    /// Sets the interval over which success rates are compared and failures count as simultaneous,
    /// at least 1 ms. Default: 10 s, as in Envoy.
    ///
    /// Results from before a pause of an interval are not compared. One past ejection is forgotten
    /// per interval in service.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval_ms = as_millis(interval);
        self
    }

    /// Sets when a success rate is too low. It must be below that of the others by `margin`, over 0
    /// and up to 1. Both sides must have had `min_requests` within the interval. A margin of 1
    /// never ejects. Default: 0.3 and 20. Over 20 requests, chance alone moves a rate by 0.11 at
    /// most (one standard deviation), so 0.3 is nearly three standard deviations.
    pub fn success_rate(mut self, margin: f64, min_requests: NonZeroU32) -> Self {
        (self.margin, self.min_requests) = (margin, min_requests.get());
        self
    }

    /// Sets how long the first ejection lasts, at least 1 ms. Ejection `n` lasts `n` times as long,
    /// up to `max`. Default: 30 s and 300 s, as in Envoy.
    pub fn ejection(mut self, base: Duration, max: Duration) -> Self {
        (self.base_ms, self.max_ms) = (as_millis(base), as_millis(max));
        self
    }

    /// Sets the share of the endpoints that may be ejected at once, 0 to 1, rounded down. If there
    /// are two or more endpoints, one may always be ejected. Default: 0.5, because half of the
    /// nodes can carry the load for a while.
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    /// Sets the share of the endpoints, 0 to 1, above which failures within an interval are common
    /// to all. No endpoint is ejected for a common failure. If there are at least two endpoints and
    /// all of them fail, the failure is common regardless of the share. Default: 0.5.
    pub fn common_share(mut self, share: f64) -> Self {
        self.common_share = share;
        self
    }

    /// Sets whether an endpoint whose node shows that it is stopping is
    /// [draining](super::HealthState::Draining): it keeps the sessions that are bound to it and
    /// gets no new ones. Default: true. If this is off, only failures take the endpoint out.
    pub fn drain(mut self, on: bool) -> Self {
        self.drain = on;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidSetting> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        InvalidSetting::unless(self.interval_ms > 0, "interval", "at least 1 ms")?;
        InvalidSetting::unless(self.margin > 0.0 && is_share(self.margin), "success_rate", "a margin over 0, up to 1")?;
        let ordered = (1..=self.max_ms).contains(&self.base_ms);
        InvalidSetting::unless(ordered, "ejection", "at least 1 ms, and a maximum that is no less")?;
        InvalidSetting::unless(is_share(self.max_share), "max_share", "0 to 1")?;
        InvalidSetting::unless(is_share(self.common_share), "common_share", "0 to 1")
    }

    /// Returns how long ejection number `times` lasts. Numbers start at 1.
    pub(crate) fn ejection_ms(&self, times: u32) -> u64 {
        self.base_ms.saturating_mul(u64::from(times)).min(self.max_ms)
    }

    /// Decides over all endpoints of a cluster.
    pub(crate) fn decide(&self, endpoints: &[Snapshot]) -> Decision {
        let reached_elsewhere = endpoints.iter().any(|endpoint| endpoint.eligible && endpoint.succeeds);
        let is_own = |endpoint: &Snapshot| reached_elsewhere && endpoint.is_unreachable;
        let common = self.is_common_failure(endpoints, is_own);
        let recent = |endpoint: &Snapshot| endpoint.ejected_for.is_some_and(|age| age <= self.interval_ms);
        let is_common = |endpoint: &Snapshot| common && !is_own(endpoint);
        // An endpoint that could not be reached may still be dead, so only a probe or a request on
        // trial readmits it.
        let returns = |endpoint: &Snapshot| is_common(endpoint) && recent(endpoint) && !endpoint.is_unreachable;
        let readmit = (0..).zip(endpoints).filter(|(_, endpoint)| returns(endpoint));
        let readmit = readmit.map(|(index, _)| index).collect();
        let mut outliers: Vec<(usize, Reason)> = (0..)
            .zip(endpoints)
            .filter(|(_, endpoint)| endpoint.ready && endpoint.ejected_for.is_none() && !is_common(endpoint))
            .filter_map(|(index, _)| Some((index, self.reason_to_eject(endpoints, index)?)))
            .collect();
        // The worst come first, because the limit may not allow all.
        outliers.sort_by_key(|(index, _)| std::cmp::Reverse(endpoints[*index].failures_in_a_row));

        let limit = self.max_ejected(endpoints.iter().filter(|endpoint| endpoint.ready).count());
        let mut ejected = endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.ejected_for.is_some()).count();
        let mut eligible: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.eligible).collect();
        let mut eject = Vec::new();
        for (index, reason) in outliers {
            let within_limit = ejected < limit || is_own(&endpoints[index]);
            if within_limit && is_replaceable_by(endpoints, &eligible, index) {
                eligible[index] = false;
                ejected += 1;
                eject.push((index, reason));
            }
        }
        Decision { eject, readmit }
    }

    fn reason_to_eject(&self, endpoints: &[Snapshot], index: usize) -> Option<Reason> {
        let endpoint = &endpoints[index];
        if !endpoint.governed {
            return None;
        }
        let is_full = |limit: NonZeroU32| endpoint.failures_in_a_row >= limit.get();
        let returned_in_vain = endpoint.on_probation && endpoint.is_unreachable;
        // If the last endpoint could not be ejected, its row may have ended although no request has
        // succeeded since.
        let is_current = !endpoint.probed_since && endpoint.failed_ago.is_some_and(|age| age <= self.interval_ms);
        if is_current && (returned_in_vain || self.consecutive.is_some_and(is_full)) {
            return Some(if endpoint.is_unreachable { Reason::Unreachable } else { Reason::Consecutive });
        }
        let others = (0..)
            .zip(endpoints)
            .filter(|(other, endpoint)| *other != index && endpoint.ready && endpoint.ejected_for.is_none())
            .fold(Window::default(), |sum, (_, endpoint)| sum.plus(endpoint.window));
        let enough = u64::from(self.min_requests);
        let comparable = endpoint.window.requests >= enough && others.requests >= enough;
        let lower = comparable && endpoint.window.success_rate() + self.margin < others.success_rate();
        lower.then_some(Reason::SuccessRate)
    }

    /// Returns whether so many endpoints fail within an interval that they must share the cause.
    /// Endpoints whose failures are their own are not included.
    fn is_common_failure(&self, endpoints: &[Snapshot], is_own: impl Fn(&Snapshot) -> bool) -> bool {
        let recent = |age: Option<u64>| age.is_some_and(|age| age <= self.interval_ms);
        // Half of the failures that eject: endpoints that fail at the same time do not reach the
        // full number together.
        let failing = self.consecutive.map_or(1, |limit| limit.get().div_ceil(2));
        let (mut all, mut affected) = (0_usize, 0_usize);
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.ready && !is_own(endpoint)) {
            let ejected_recently = recent(endpoint.ejected_for);
            if endpoint.ejected_for.is_some() && !ejected_recently {
                continue; // It was ejected before the others began to fail.
            }
            all += 1;
            if ejected_recently || (endpoint.failures_in_a_row >= failing && recent(endpoint.failed_ago)) {
                affected += 1;
            }
        }
        affected >= 2 && (affected == all || affected as f64 > all as f64 * self.common_share)
    }

    /// Returns how many of `endpoints` may be ejected at once.
    pub(crate) fn max_ejected(&self, endpoints: usize) -> usize {
        if endpoints < 2 { 0 } else { ((endpoints as f64 * self.max_share) as usize).max(1) }
    }
}

/// Returns whether for each role of the endpoint at `index` another endpoint is eligible.
pub(crate) fn is_replaceable(endpoints: &[Snapshot], index: usize) -> bool {
    let eligible: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.eligible).collect();
    is_replaceable_by(endpoints, &eligible, index)
}

fn is_replaceable_by(endpoints: &[Snapshot], eligible: &[bool], index: usize) -> bool {
    let others =
        || (0..).zip(endpoints.iter().zip(eligible)).filter(|(other, (_, eligible))| *other != index && **eligible);
    let roles = others().fold(0, |roles, (_, (endpoint, _))| roles | endpoint.roles);
    others().next().is_some() && roles & endpoints[index].roles == endpoints[index].roles
}

/// One endpoint at the time of a decision.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    /// Whether the operator has not taken the endpoint out, and probes do not report it as
    /// unhealthy.
    pub(crate) ready: bool,
    /// Whether the endpoint is ready and not ejected, so that it could serve a request now.
    pub(crate) eligible: bool,
    /// Its roles, one bit each. Only endpoints with the same roles can replace it.
    pub(crate) roles: u8,
    /// Whether this rule may eject the endpoint.
    pub(crate) governed: bool,
    /// The milliseconds since it was ejected as an outlier.
    pub(crate) ejected_for: Option<u64>,
    /// The failures in a row; 0 while they may be a burst.
    pub(crate) failures_in_a_row: u32,
    /// Whether the endpoint was not reached in some of the failures in a row, or of the failures
    /// that ejected it.
    pub(crate) is_unreachable: bool,
    /// Whether the endpoint was readmitted after it could not be reached, and no request has
    /// succeeded since.
    pub(crate) on_probation: bool,
    /// Whether its last request succeeded not long ago.
    pub(crate) succeeds: bool,
    /// The milliseconds since its last failure.
    pub(crate) failed_ago: Option<u64>,
    /// Whether a probe has succeeded since its last failure.
    pub(crate) probed_since: bool,
    /// The counts of its last interval; empty unless an interval has just ended.
    pub(crate) window: Window,
}

/// The endpoints to eject and to readmit, by index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) eject: Vec<(usize, Reason)>,
    /// Non-empty only if a common failure is found.
    pub(crate) readmit: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Snapshot {
        Snapshot { ready: true, eligible: true, governed: true, roles: 0b11, ..Snapshot::default() }
    }

    fn failing(failures_in_a_row: u32) -> Snapshot {
        Snapshot { failures_in_a_row, failed_ago: Some(0), ..healthy() }
    }

    fn ejected(ago: u64) -> Snapshot {
        Snapshot { eligible: false, ejected_for: Some(ago), ..healthy() }
    }

    fn rate(requests: u64, failures: u64) -> Snapshot {
        Snapshot { window: Window { requests, failures }, ..healthy() }
    }

    fn ejects(endpoints: &[Snapshot]) -> Vec<usize> {
        Outlier::new().decide(endpoints).eject.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn five_failures_in_a_row_eject_one_of_two_and_never_the_last() {
        assert!(ejects(&[failing(4), healthy()]).is_empty());
        assert_eq!(ejects(&[failing(5), healthy()]), [0]);
        assert!(ejects(&[failing(5)]).is_empty(), "it is the only one");
        assert!(ejects(&[failing(5), Snapshot { eligible: false, ..healthy() }]).is_empty(), "the other is ejected");
        assert!(ejects(&[failing(5), Snapshot::default()]).is_empty(), "the other is out of service");
    }

    #[test]
    fn failures_that_are_old_or_before_a_probe_that_succeeded_do_not_eject() {
        let serving = Snapshot { succeeds: true, ..healthy() };
        for failed in [failing(9), Snapshot { is_unreachable: true, on_probation: true, ..failing(9) }] {
            assert_eq!(ejects(&[failed, serving]), [0]);
            assert!(ejects(&[Snapshot { failed_ago: Some(10_001), ..failed }, serving]).is_empty());
            assert!(ejects(&[Snapshot { probed_since: true, ..failed }, serving]).is_empty());
        }
    }

    #[test]
    fn the_last_with_a_role_is_not_ejected() {
        let (query, job) = (Snapshot { roles: 0b01, ..failing(5) }, Snapshot { roles: 0b10, ..healthy() });
        assert!(ejects(&[query, job, job]).is_empty());
        assert_eq!(ejects(&[query, job, healthy()]), [0]);
        assert_eq!(ejects(&[failing(5), job, Snapshot { roles: 0b01, ..healthy() }]), [0], "two replace one");
    }

    #[test]
    fn at_most_half_are_ejected_at_once_the_worst_first() {
        let mut eight = [healthy(); 8];
        eight[1..4].copy_from_slice(&[failing(5), failing(9), failing(7)]);
        (eight[6], eight[7]) = (ejected(20_000), ejected(20_000));
        assert_eq!(ejects(&eight), [2, 3], "two are out already");
        assert!(ejects(&[failing(5), ejected(60_000), healthy()]).is_empty(), "one of three is half, rounded down");
    }

    #[test]
    fn a_common_failure_ejects_no_endpoint_and_readmits_those_ejected_first() {
        let outlier = Outlier::new();
        let common = [failing(5), failing(4), failing(4)];
        assert!(outlier.is_common_failure(&common, |_| false));
        assert_eq!(outlier.decide(&common), Decision::default());
        let decision = outlier.decide(&[ejected(9_000), failing(5), healthy()]);
        assert_eq!(decision, Decision { readmit: vec![0], eject: vec![] });
        let gone = Snapshot { is_unreachable: true, ..ejected(9_000) };
        assert_eq!(outlier.decide(&[gone, failing(5), healthy()]), Decision::default(), "it may be dead");
        assert_eq!(
            ejects(&[failing(5), Snapshot { failed_ago: Some(10_001), ..failing(4) }, healthy()]),
            [0],
            "the other failure is too old"
        );
        // Half of the endpoints are not more than half. A failure of all is common regardless of
        // the share.
        let half = [failing(5), failing(5), healthy(), healthy()];
        assert!(!outlier.is_common_failure(&half, |_| false));
        assert!(Outlier::new().common_share(0.4).is_common_failure(&half, |_| false));
        for share in [0.0, 1.0] {
            let outlier = Outlier::new().common_share(share);
            assert!(outlier.is_common_failure(&common, |_| false));
            assert!(!outlier.is_common_failure(&[failing(5), healthy(), healthy()], |_| false), "one endpoint");
        }
        assert!(!Outlier::new().common_share(1.0).is_common_failure(&[failing(5), failing(5), healthy()], |_| false));
    }

    #[test]
    fn endpoints_that_are_not_reached_while_another_is_are_ejected_without_a_share_but_for_the_last() {
        let unreached = |failures_in_a_row| Snapshot { is_unreachable: true, ..failing(failures_in_a_row) };
        let serving = Snapshot { succeeds: true, ..healthy() };
        assert_eq!(ejects(&[unreached(5), unreached(6), unreached(5), serving]), [1, 0, 2]);
        assert!(
            ejects(&[unreached(5), unreached(6), unreached(5), healthy()]).is_empty(),
            "perhaps nothing can be reached"
        );
        assert_eq!(ejects(&[unreached(4), unreached(9), serving]), [1]);
        let returned = Snapshot { on_probation: true, ..unreached(1) };
        assert_eq!(ejects(&[returned, serving]), [0], "its return failed");
        assert!(ejects(&[Snapshot { governed: false, ..unreached(5) }, serving]).is_empty(), "another rule governs it");
        let gone = Snapshot { is_unreachable: true, ..ejected(100) };
        assert_eq!(Outlier::new().decide(&[gone, failing(5), serving]), Decision::default(), "one of three is out");
        assert_eq!(ejects(&[gone, failing(5), serving, serving]), [1]);
    }

    #[test]
    fn a_success_rate_is_compared_with_that_of_the_others_together() {
        assert_eq!(ejects(&[rate(20, 8), rate(20, 0), rate(20, 1)]), [0]);
        assert!(ejects(&[rate(20, 5), rate(20, 0), rate(20, 0)]).is_empty(), "within the margin");
        assert!(ejects(&[rate(19, 19), rate(20, 0)]).is_empty(), "too few requests");
        assert!(ejects(&[rate(20, 20), rate(19, 0)]).is_empty(), "too few requests of the others");
        assert!(ejects(&[rate(20, 8), rate(20, 8), rate(20, 9)]).is_empty(), "no worse than the others");
    }

    #[test]
    fn ejections_grow_up_to_a_maximum() {
        let outlier = Outlier::new();
        assert_eq!([1, 2, 10, 11, u32::MAX].map(|times| outlier.ejection_ms(times) / 1_000), [30, 60, 300, 300, 300]);
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let (one, ten, few) = (Duration::from_secs(1), Duration::from_secs(10), NonZeroU32::MIN);
        for (outlier, name) in [
            (Outlier::new().interval(Duration::ZERO), "interval"),
            (Outlier::new().success_rate(0.0, few), "success_rate"),
            (Outlier::new().success_rate(f64::NAN, few), "success_rate"),
            (Outlier::new().ejection(ten, one), "ejection"),
            (Outlier::new().ejection(Duration::ZERO, one), "ejection"),
            (Outlier::new().max_share(1.1), "max_share"),
            (Outlier::new().common_share(-0.1), "common_share"),
        ] {
            assert_eq!(outlier.validate().unwrap_err().name, name);
        }
        assert_eq!(Outlier::new().validate(), Ok(()));
        assert_eq!(Outlier::new().max_share(0.0).success_rate(1.0, few).ejection(one, one).validate(), Ok(()));
    }

    fn any_snapshot() -> impl proptest::strategy::Strategy<Value = Snapshot> {
        use proptest::prelude::*;
        let ejected = proptest::option::of(0_u64..30_000);
        let numbers = (0_u32..8, proptest::option::of(0_u64..30_000), 0_u64..40, 0.0_f64..=1.0);
        let flags = any::<(bool, bool, bool)>();
        (any::<bool>(), any::<bool>(), ejected, numbers, flags).prop_map(
            |(ready, eligible, ejected_for, numbers, flags)| {
                let (is_unreachable, on_probation, governed) = flags;
                let (failures_in_a_row, failed_ago, requests, failing) = numbers;
                let window = Window { requests, failures: (requests as f64 * failing) as u64 };
                let eligible = ready && eligible && ejected_for.is_none();
                let roles = failures_in_a_row as u8 % 4;
                let succeeds = failures_in_a_row == 0 && requests > 0;
                Snapshot {
                    ready,
                    eligible,
                    roles,
                    governed,
                    ejected_for,
                    failures_in_a_row,
                    probed_since: false,
                    is_unreachable,
                    on_probation,
                    succeeds,
                    failed_ago,
                    window,
                }
            },
        )
    }

    proptest::proptest! {
        #[test]
        fn an_endpoint_is_always_left_and_the_share_is_kept(
            endpoints in proptest::collection::vec(any_snapshot(), 0..9),
            max_share in 0.0_f64..=1.0,
            common_share in 0.0_f64..=1.0,
        ) {
            let outlier = Outlier::new().max_share(max_share).common_share(common_share);
            let decision = outlier.decide(&endpoints);
            let ready = endpoints.iter().filter(|endpoint| endpoint.ready).count();
            let before = endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.ejected_for.is_some()).count();
            let ejected: Vec<usize> = decision.eject.iter().map(|(index, _)| *index).collect();
            let max = ((ready as f64 * max_share) as usize).max(usize::from(ready > 1));
            let reached_elsewhere = endpoints.iter().any(|endpoint| endpoint.eligible && endpoint.succeeds);
            let is_own = |endpoint: &Snapshot| reached_elsewhere && endpoint.is_unreachable;
            let limited = ejected.iter().filter(|index| !is_own(&endpoints[**index])).count();
            proptest::prop_assert!(limited == 0 || before + limited <= max);
            if !ejected.is_empty() {
                let left = (0..).zip(&endpoints).any(|(index, endpoint)| endpoint.eligible && !ejected.contains(&index));
                proptest::prop_assert!(left, "an endpoint can serve");
            }
            proptest::prop_assert!(ejected.iter().all(|index| endpoints[*index].ready && endpoints[*index].governed));
            proptest::prop_assert!(decision.readmit.iter().all(|index| endpoints[*index].ejected_for.is_some()));
            proptest::prop_assert!(!outlier.is_common_failure(&endpoints, is_own) || limited == 0);
        }
    }
}
