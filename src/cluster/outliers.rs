//! Ejects and readmits endpoints as [`Outlier`] decides.
//!
//! There is no background task. When a request ends with a failure that exceeds the limit, it
//! triggers a decision at once. The first request that ends after an interval with failures
//! triggers a comparison of the success rates. No pick does any of this, and while no request
//! fails, nothing runs here at all.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::clock::{Clock, Epoch};
use crate::endpoint::{AdminState, EndpointSettings, Live, Member};
use crate::health::impaired::ImpairedCount;
use crate::health::outcomes::Window;
use crate::health::outlier::{Decision, Snapshot, is_replaceable};
use crate::health::passive::PassiveState;
use crate::health::state::OutcomeListener;
use crate::health::{Outlier, Reason};

/// Compares the endpoints of one cluster.
pub(super) struct Outliers {
    settings: Outlier,
    epoch: Epoch,
    /// The time at which the current interval ends, in milliseconds of the epoch.
    interval_ends: AtomicU64,
    endpoints: Mutex<Vec<Endpoint>>,
    impaired: ImpairedCount,
}

/// Holds the live state weakly, because the live state holds [`Outliers`].
struct Endpoint {
    settings: Arc<EndpointSettings>,
    live: Weak<Live>,
}

impl Outliers {
    pub(super) fn new(settings: Outlier, clock: Arc<dyn Clock>, impaired: ImpairedCount) -> Self {
        let interval_ends = AtomicU64::new(settings.interval_ms);
        Outliers { settings, epoch: Epoch::new(clock), interval_ends, endpoints: Mutex::default(), impaired }
    }

    /// Sets the members of the cluster.
    pub(super) fn set_members<'m>(&self, members: impl Iterator<Item = &'m Arc<Member>>) {
        let endpoints = members
            .map(|member| Endpoint { settings: Arc::clone(&member.settings), live: Arc::downgrade(&member.live) });
        *self.endpoints.lock() = endpoints.collect();
    }

    /// Returns whether an interval has ended since the last call. Exactly one of several concurrent
    /// callers gets true.
    fn interval_is_over(&self) -> bool {
        let now = self.epoch.millis();
        let ends = self.interval_ends.load(Ordering::Relaxed);
        let next = now.saturating_add(self.settings.interval_ms);
        let is_over = now >= ends
            && self.interval_ends.compare_exchange(ends, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_over && now >= ends.saturating_add(self.settings.interval_ms) {
            // The counts collected since then cover too long a time to be compared.
            for (_, live) in present(&self.endpoints.lock()) {
                live.health.outcomes.take_window(live.served());
            }
        }
        is_over
    }

    /// Decides about all endpoints, and applies the decision.
    fn decide(&self, interval_over: bool) {
        let guard = self.endpoints.lock();
        let endpoints = present(&guard);
        let alone = endpoints.len() == 1;
        let snapshots: Vec<_> = endpoints
            .iter()
            .map(|(settings, live)| {
                let now = live.now_ms();
                if live.health.expire(now) {
                    tracing::info!(target: "kylin_lb::state", endpoint = %settings.id, "endpoint readmitted");
                }
                snapshot(settings, live, alone, now, interval_over)
            })
            .collect();
        if interval_over && snapshots.iter().all(|endpoint| endpoint.window.failures == 0) {
            self.impaired.unwatch();
            if endpoints.iter().any(|(_, live)| live.health.expires()) {
                self.impaired.watch();
            }
        }
        let Decision { eject, readmit } = self.settings.decide(&snapshots);
        for (index, reason) in eject {
            let (settings, live) = &endpoints[index];
            let now = live.now_ms();
            if reason == Reason::Unreachable {
                let millis = live.health.eject_unreachable(now);
                tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, %reason, millis, "endpoint ejected");
                continue;
            }
            let Outlier { interval_ms, .. } = self.settings;
            let times = live.health.eject(reason, now, interval_ms, |times| self.settings.ejection_ms(times));
            let millis = self.settings.ejection_ms(times);
            tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, %reason, times, millis, "endpoint ejected");
        }
        for index in readmit {
            let (settings, live) = &endpoints[index];
            live.health.cancel_ejection(live.now_ms());
            tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, cause = "most endpoints fail", "endpoint readmitted");
        }
    }
}

fn present(endpoints: &[Endpoint]) -> Vec<(&EndpointSettings, Arc<Live>)> {
    endpoints.iter().filter_map(|endpoint| Some((&*endpoint.settings, endpoint.live.upgrade()?))).collect()
}

fn snapshot(settings: &EndpointSettings, live: &Live, alone: bool, now: u64, interval_over: bool) -> Snapshot {
    let health = &live.health;
    let ready = settings.admin_state == AdminState::Ready && !health.is_down();
    // An endpoint whose trial is due may be dead, so it cannot replace another.
    let needs_trial =
        health.needs_trial() || live.passive.state(settings.rule, alone, || now) != PassiveState::Available;
    let ejection = health.ejection();
    let (row, ended) = (health.outcomes.row(), live.served());
    let succeeds = row.failures == 0 && health.outcomes.has_succeeded(ended);
    let is_burst = row.is_burst(live.in_flight(), now);
    let last_failure = health.last_failure();
    Snapshot {
        ready,
        eligible: ready && (alone || !needs_trial) && !health.is_unavailable(alone, false, || now),
        roles: settings.roles.bits(),
        governed: settings.has_outlier_rule(),
        ejected_for: ejection.map(|(at, _)| now.saturating_sub(at)),
        failures_in_a_row: if is_burst { 0 } else { row.failures },
        is_unreachable: ejection.map_or(row.unreached > 0, |(_, is_unreachable)| is_unreachable),
        on_probation: row.on_probation,
        succeeds,
        failed_ago: (last_failure > 0).then(|| now.saturating_sub(last_failure)),
        probed_since: health.last_good_probe() > last_failure,
        window: if interval_over { health.outcomes.take_window(ended) } else { Window::default() },
    }
}

impl OutcomeListener for Outliers {
    fn failure_counted(&self, failures_in_a_row: u32, on_probation: bool) {
        let interval_over = self.interval_is_over();
        let is_full = self.settings.consecutive.is_some_and(|limit| failures_in_a_row >= limit.get());
        if interval_over || is_full || on_probation {
            self.decide(interval_over);
        }
    }

    fn drain(&self, uid: u64, reason: Reason) {
        if !self.settings.drain {
            return;
        }
        let guard = self.endpoints.lock();
        let endpoints = present(&guard);
        let Some(index) = endpoints.iter().position(|(_, live)| live.uid == uid) else { return };
        let alone = endpoints.len() == 1;
        let snapshot =
            |(settings, live): &(&EndpointSettings, Arc<Live>)| snapshot(settings, live, alone, live.now_ms(), false);
        let snapshots: Vec<_> = endpoints.iter().map(snapshot).collect();
        let (settings, live) = &endpoints[index];
        // A few clients may cause shutdown indications in responses. So these drain no more
        // endpoints than may be ejected.
        let is_within_limit = reason == Reason::Refusing || {
            let ready = || snapshots.iter().filter(|endpoint| endpoint.ready);
            ready().filter(|endpoint| !endpoint.eligible).count() < self.settings.max_ejected(ready().count())
        };
        let may_drain = snapshots[index].governed && is_within_limit && is_replaceable(&snapshots, index);
        if may_drain && live.health.drain(reason, live.now_ms()) {
            tracing::warn!(target: "kylin_lb::state", endpoint = %settings.id, %reason, "endpoint drained: its node stops");
        }
    }

    fn success_counted(&self) {
        if self.interval_is_over() {
            self.decide(true);
        }
    }
}

impl fmt::Debug for Outliers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outliers").field(&self.settings).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use http::Request;

    use crate::balance::{Attempted, IpHash};
    use crate::clock::ManualClock;
    use crate::cluster::Cluster;
    use crate::endpoint::{Endpoint, Outcome};
    use crate::request::RequestView;

    #[test]
    fn a_share_that_no_pick_reads_is_whole_again_in_time() {
        let clock = ManualClock::new();
        let endpoints = ["a", "b"].map(|id| Endpoint::new(id, ()).unwrap());
        let cluster =
            Cluster::builder().endpoints(endpoints).balancer(IpHash::new()).clock(clock.clone()).build().unwrap();
        let request = Request::new(());
        let end = |id: &str, outcome: Outcome| {
            let view = RequestView::of(&request, IpAddr::from([192, 0, 2, 7]));
            cluster.pick_bound(&view, &Attempted::none(), id).unwrap().lease.set_outcome(outcome);
        };
        let impaired = cluster.health_changes();
        end("a", Outcome::Unreachable);
        assert!(!impaired.is_zero());
        for _ in 0..30 {
            clock.advance(Duration::from_secs(1));
            end("b", Outcome::Success);
        }
        assert!(impaired.is_zero() && !impaired.is_watched());
    }
}
