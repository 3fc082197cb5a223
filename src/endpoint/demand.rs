use super::Intent;
use crate::health::Operational;

/// What may be sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Demand {
    /// A request that any endpoint could serve.
    New,
    /// A request of a session that is bound to this endpoint.
    Bound,
    /// A probe.
    Probe,
}

impl Intent {
    /// The truth table over both axes (see [`health`](crate::health)): may an endpoint with this intent, in this state, get
    /// `demand`? Limits of requests in flight come on top. In [panic mode](crate::cluster::ClusterBuilder::panic_mode) new
    /// requests go to endpoints of this cluster that are ready, in any state.
    ///
    /// ```
    /// use kylin_lb::endpoint::{Intent, Demand};
    /// use kylin_lb::health::Operational;
    ///
    /// assert!(Intent::Drain.admits(Demand::Bound, Operational::InDoubt));
    /// assert!(!Intent::Drain.admits(Demand::New, Operational::Up));
    /// assert!(Intent::Ready.admits(Demand::Probe, Operational::Down));
    /// ```
    pub const fn admits(self, demand: Demand, state: Operational) -> bool {
        let fit = matches!(state, Operational::Up | Operational::InDoubt);
        match (self, demand) {
            (Intent::Maintain, _) => false,
            (Intent::Ready | Intent::Drain, Demand::Probe) => true,
            (Intent::Ready, Demand::New | Demand::Bound) | (Intent::Drain, Demand::Bound) => fit,
            (Intent::Drain, Demand::New) => false,
        }
    }
}
