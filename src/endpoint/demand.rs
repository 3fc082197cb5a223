use super::AdminState;
use crate::health::HealthState;

/// What may be sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrafficKind {
    /// A request that any endpoint could serve.
    New,
    /// A request of a session that is bound to this endpoint.
    Bound,
    /// A probe.
    Probe,
}

impl AdminState {
    /// The truth table over both axes (see [`health`](crate::health)): may an endpoint with this admin_state, in this state, get
    /// `demand`? Limits of requests in flight come on top. In [panic mode](crate::cluster::ClusterBuilder::panic_mode) new
    /// requests go to endpoints of this cluster that are ready, in any state.
    ///
    /// ```
    /// use kylin_lb::endpoint::{AdminState, TrafficKind};
    /// use kylin_lb::health::HealthState;
    ///
    /// assert!(AdminState::Drain.admits(TrafficKind::Bound, HealthState::Suspect));
    /// assert!(!AdminState::Drain.admits(TrafficKind::New, HealthState::Healthy));
    /// assert!(AdminState::Ready.admits(TrafficKind::Probe, HealthState::Unhealthy));
    /// ```
    pub const fn admits(self, demand: TrafficKind, state: HealthState) -> bool {
        let fit = matches!(state, HealthState::Healthy | HealthState::Suspect);
        match (self, demand) {
            (AdminState::Maintenance, _) => false,
            (AdminState::Ready | AdminState::Drain, TrafficKind::Probe) => true,
            (AdminState::Ready, TrafficKind::New | TrafficKind::Bound) | (AdminState::Drain, TrafficKind::Bound) => fit,
            (AdminState::Drain, TrafficKind::New) => false,
        }
    }
}
