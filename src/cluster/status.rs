use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::balance::Balancer;
use crate::endpoint::{AdminState, EndpointId, Member, Roles};
use crate::health::slow_start::WHOLE;
use crate::health::{HealthState, Reason};
use crate::view::View;

/// A cluster at one moment, as plain values for a host's status page or metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The policy, as its `Debug` shows it.
    pub balancer: String,
    /// In configuration order, primaries first.
    pub endpoints: Vec<EndpointStatus>,
    /// Is it in [panic mode](super::ClusterBuilder::panic_mode): does health keep requests from every endpoint that is ready,
    /// or from every one with some role?
    /// Always false where that mode is off.
    pub panicking: bool,
}

/// One endpoint at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its id.
    pub id: EndpointId,
    /// Its weight.
    pub weight: u32,
    /// Is it a backup?
    pub backup: bool,
    /// What the operator wants of it.
    pub admin_state: AdminState,
    /// What the node does.
    pub roles: Roles,
    /// How it is doing.
    pub operational: HealthState,
    /// Why it is not simply up.
    pub reason: Option<Reason>,
    /// When it came into its operational state, on the cluster's clock.
    pub since: Instant,
    /// Is it ejected for its failures?
    pub ejected: bool,
    /// The percentage of its weight that it has at present: below 100 during its slow start.
    pub ramp: u32,
    /// Failures counted towards an ejection at present.
    pub fails: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// The most requests that may be in flight; `None` is no limit.
    pub max_in_flight: Option<NonZeroU32>,
    /// Requests that have ended, whatever came of them, since the endpoint was first added.
    pub served: u64,
    /// Of those, the ones whose outcome was a failure.
    pub failed: u64,
    /// Of those, the ones that timed out.
    pub slow: u64,
}

impl ClusterStatus {
    /// Requests in flight on all endpoints.
    pub fn in_flight(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight)).sum()
    }

    pub(super) fn of<B>(view: &View<B>, balancer: &dyn Balancer, may_panic: bool) -> Self {
        let groups = [&view.primary.layout, &view.backup.layout];
        let endpoints = groups
            .iter()
            .flat_map(|group| group.members.iter().map(|listed| EndpointStatus::of(&listed.member, group.alone)));
        ClusterStatus {
            balancer: format!("{balancer:?}"),
            endpoints: endpoints.collect(),
            panicking: may_panic && view.is_partly_left_by_health(),
        }
    }
}

impl EndpointStatus {
    fn of(member: &Member, alone: bool) -> Self {
        let Member { settings, live, .. } = member;
        let (operational, reason, since) = live.health.describe(member.rule(alone), live.now_ms());
        EndpointStatus {
            id: settings.id.clone(),
            weight: settings.weight.get(),
            backup: settings.backup,
            admin_state: settings.admin_state,
            roles: settings.roles,
            operational,
            reason,
            since: live.instant(since),
            ejected: operational == HealthState::Ejected,
            ramp: (member.share() * 100 + WHOLE / 2) / WHOLE,
            fails: live.passive.fails(),
            in_flight: member.load().in_flight(),
            max_in_flight: settings.max_in_flight,
            served: live.served(),
            failed: live.failed.load(Ordering::Relaxed),
            slow: live.health.slow(),
        }
    }
}
