use crate::health::HealthState;

/// The administrative state of an endpoint, which the operator sets. It is independent of health.
/// Stricter states are greater.
///
/// | state | new requests | requests of bound sessions | probes |
/// |---|---|---|---|
/// | `Ready` | yes | yes | yes |
/// | `Drain` | no | yes | yes |
/// | `Maintenance` | no | no | no |
///
/// A request for all nodes goes to every endpoint that is not in maintenance. An example is the
/// logout of a session that no node is known to have. Sessions at an endpoint in maintenance stay
/// there until they expire or the endpoint is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum AdminState {
    /// Serves everything.
    #[default]
    Ready,
    /// Serves the sessions that are bound to it and gets no new ones. Requests in flight continue.
    Drain,
    /// Serves nothing (nginx: `down`). The endpoint keeps its part of the mapping of the hash
    /// policies.
    Maintenance,
}

impl AdminState {
    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Maintenance => "maintenance",
        }
    }
}

/// The kinds of traffic that an endpoint may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrafficKind {
    /// A request that any endpoint may serve.
    New,
    /// A request of a session that is bound to the endpoint.
    Bound,
    /// A probe.
    Probe,
}

impl AdminState {
    /// Returns whether an endpoint in this administrative state and in state `health` may get
    /// `traffic` (the table is in [`health`](crate::health)). Limits of requests in flight apply in
    /// addition. There are two exceptions. An endpoint that is ejected or draining may get one new
    /// request on trial. In [panic mode](crate::cluster::ClusterBuilder::panic_mode), health does
    /// not keep new requests from ready endpoints.
    ///
    /// ```
    /// use kylin_lb::endpoint::{AdminState, TrafficKind};
    /// use kylin_lb::health::HealthState;
    ///
    /// assert!(AdminState::Drain.admits(TrafficKind::Bound, HealthState::Suspect));
    /// assert!(!AdminState::Drain.admits(TrafficKind::New, HealthState::Healthy));
    /// assert!(AdminState::Ready.admits(TrafficKind::Probe, HealthState::Unhealthy));
    /// ```
    pub const fn admits(self, traffic: TrafficKind, health: HealthState) -> bool {
        let (serves_new, serves_bound) = match health {
            HealthState::Healthy | HealthState::Suspect => (true, true),
            HealthState::Draining => (false, true),
            HealthState::Unhealthy | HealthState::Ejected => (false, false),
        };
        match (self, traffic) {
            (AdminState::Maintenance, _) | (AdminState::Drain, TrafficKind::New) => false,
            (AdminState::Ready | AdminState::Drain, TrafficKind::Probe) => true,
            (AdminState::Ready, TrafficKind::New) => serves_new,
            (AdminState::Ready | AdminState::Drain, TrafficKind::Bound) => serves_bound,
        }
    }
}
