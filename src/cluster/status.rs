use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Published;
use crate::endpoint::{AdminState, EndpointId, Member, Roles};
use crate::health::slow_start::WHOLE;
use crate::health::{HealthState, ProbeLevel, Reason};
use crate::shortage;

/// The state of a cluster at one moment, as plain values for a status page or metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The policy, as formatted by its `Debug`.
    pub balancer: String,
    /// The endpoints in configuration order, primaries first.
    pub endpoints: Vec<EndpointStatus>,
    /// Whether [panic mode](super::ClusterBuilder::panic_mode) is active: health keeps all
    /// requests, or those that need some role, from every ready endpoint. Always false if that mode
    /// is off.
    pub panicking: bool,
    /// How many times this process was short of descriptors, ports or memory for a connection since
    /// it started. The number covers the whole process, because nodes, stores and clients share the
    /// descriptors.
    pub shortages: u64,
    /// The time since which the user source (LDAP) of Kylin 5 has been unreachable, on the
    /// cluster's clock, so that no node can check a login. It begins with a response that says so
    /// (KE-010021006), which is no failure of its node. It ends with a login that a node has
    /// checked. Earlier versions respond as to a wrong password, which shows nothing.
    pub user_source_down_since: Option<Instant>,
    /// The largest difference between the clocks of two nodes, in seconds, by the `Date` of
    /// responses to probes. Kylin 5 requires synchronised clocks. Values up to
    /// [`MAX_CLOCK_SKEW`](Self::MAX_CLOCK_SKEW) may come from rounding. `None` until two nodes are
    /// known.
    pub clock_skew: Option<u64>,
}

/// The state of one endpoint at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// The id.
    pub id: EndpointId,
    /// The weight.
    pub weight: u32,
    /// Whether the endpoint is a backup.
    pub backup: bool,
    /// The administrative state.
    pub admin_state: AdminState,
    /// Whether that state was set by [`Cluster::set_admin_state`](super::Cluster::set_admin_state),
    /// and not by the source of the endpoint.
    pub admin_state_is_set: bool,
    /// The roles of the node.
    pub roles: Roles,
    /// The state of health.
    pub health: HealthState,
    /// The reason why the endpoint is not healthy.
    pub reason: Option<Reason>,
    /// The text of the last error of a request or a probe, if such failures are the reason. It
    /// contains no credentials.
    pub error: Option<Arc<str>>,
    /// The time at which the endpoint entered its state of health, on the cluster's clock.
    pub since: Instant,
    /// The request with which [`Probe::kylin`](crate::probe::Probe::kylin) found the endpoint
    /// healthy; `None` before its first success, and with other probes.
    pub probe_level: Option<ProbeLevel>,
    /// Whether the endpoint is ejected for its failures.
    pub ejected: bool,
    /// The current percentage of its weight. It is below 100 during a slow start, while the node
    /// refuses connections, and while it is slow.
    pub ramp: u32,
    /// Whether the node is slower than the others, so that the endpoint's weight is reduced: see
    /// [`QueueRules::slow_weights`](crate::admission::QueueRules::slow_weights).
    pub slow: bool,
    /// The failures that count towards an ejection: those in a row, or those within `fail_timeout`.
    pub fails: u32,
    /// The requests in flight, without those that wait.
    pub in_flight: u32,
    /// The queries that [wait](crate::admission::QueueRules) for a slot of the endpoint.
    pub waiting: u32,
    /// The maximum number of requests in flight; `None` is no limit.
    pub max_in_flight: Option<NonZeroU32>,
    /// The requests that have ended, with any outcome, since the endpoint was first added.
    pub served: u64,
    /// The requests that have ended with a failure.
    pub failed: u64,
    /// The requests that timed out.
    pub timed_out: u64,
    /// The seconds by which the node's clock is ahead of the front end's; negative if it is behind.
    /// Taken from the `Date` of the last response to a probe.
    pub clock_ahead: Option<i64>,
}

impl ClusterStatus {
    /// Returns the number of requests in flight on all endpoints.
    pub fn in_flight(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight)).sum()
    }

    /// Returns the number of queries that [wait](crate::admission::QueueRules) for an endpoint.
    pub fn waiting(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| u64::from(endpoint.waiting)).sum()
    }

    /// The difference up to which two clocks count as equal, in seconds. A date has whole seconds,
    /// and Tomcat updates it once a second.
    pub const MAX_CLOCK_SKEW: u64 = 2;

    pub(super) fn of<B>(published: &Published<B>) -> Self {
        let Published { view, balancer, may_panic } = published;
        let groups = [&view.primary.layout, &view.backup.layout];
        let endpoints = groups
            .iter()
            .flat_map(|group| group.slots.iter().map(|slot| EndpointStatus::of(&slot.member, group.alone)));
        let endpoints: Vec<EndpointStatus> = endpoints.collect();
        ClusterStatus {
            balancer: format!("{balancer:?}"),
            user_source_down_since: None,
            clock_skew: skew(endpoints.iter().filter_map(|endpoint| endpoint.clock_ahead)),
            endpoints,
            panicking: *may_panic && view.lacks_healthy_endpoints(),
            shortages: shortage::count(),
        }
    }
}

impl EndpointStatus {
    /// Returns whether any request may be sent to the endpoint: it is ready, and healthy or
    /// suspect.
    pub fn is_up(&self) -> bool {
        self.admin_state == AdminState::Ready && matches!(self.health, HealthState::Healthy | HealthState::Suspect)
    }

    fn of(member: &Member, alone: bool) -> Self {
        let Member { settings, live, .. } = member;
        let (health, reason, since) = live.health.describe(member.passive_state(alone), live.now_ms());
        EndpointStatus {
            id: settings.id.clone(),
            weight: settings.weight.get(),
            backup: settings.backup,
            admin_state: settings.admin_state,
            admin_state_is_set: settings.admin_state_is_set,
            roles: settings.roles,
            health,
            reason,
            error: reason.filter(|reason| reason.has_error()).and_then(|_| live.health.last_error()),
            since: live.instant(since),
            probe_level: live.probe_level.get(),
            ejected: health == HealthState::Ejected,
            ramp: (member.share() * 100 + WHOLE / 2) / WHOLE,
            slow: live.health.slowed.share() < WHOLE,
            fails: live.passive.fails().max(live.health.outcomes.row().failures),
            in_flight: live.in_flight(),
            waiting: live.waiting(),
            max_in_flight: settings.max_in_flight,
            served: live.served(),
            failed: live.failed.load(Ordering::Relaxed),
            timed_out: live.health.slow(),
            clock_ahead: live.clock.ahead(),
        }
    }
}

/// Returns the difference between the first and the last of the clocks; `None` if there are fewer
/// than two.
pub(crate) fn skew(ahead: impl Iterator<Item = i64>) -> Option<u64> {
    let (mut count, mut min, mut max) = (0, i64::MAX, i64::MIN);
    for ahead in ahead {
        (count, min, max) = (count + 1, min.min(ahead), max.max(ahead));
    }
    (count > 1).then(|| max.abs_diff(min))
}
