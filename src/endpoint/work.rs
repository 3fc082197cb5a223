use super::Intent;
use crate::health::Operational;

/// What may be sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Work {
    /// A request that any endpoint could serve.
    New,
    /// A request of a session that is bound to this endpoint.
    Bound,
    /// A probe.
    Probe,
}

impl Intent {
    /// The truth table over both axes (see [`health`](crate::health)): may an endpoint with this intent, in this state, get
    /// `work`? Limits of requests in flight come on top. In [panic mode](crate::cluster::ClusterBuilder::panic_mode) new
    /// requests go to endpoints that are ready in any state.
    ///
    /// ```
    /// use kylin_lb::endpoint::{Intent, Work};
    /// use kylin_lb::health::Operational;
    ///
    /// assert!(Intent::Drain.admits(Work::Bound, Operational::InDoubt));
    /// assert!(!Intent::Drain.admits(Work::New, Operational::Up));
    /// assert!(Intent::Ready.admits(Work::Probe, Operational::Down));
    /// ```
    pub const fn admits(self, work: Work, state: Operational) -> bool {
        let fit = matches!(state, Operational::Up | Operational::InDoubt);
        match (self, work) {
            (Intent::Maintain, _) => false,
            (Intent::Ready | Intent::Drain, Work::Probe) => true,
            (Intent::Ready, Work::New | Work::Bound) | (Intent::Drain, Work::Bound) => fit,
            (Intent::Drain, Work::New) => false,
        }
    }
}
