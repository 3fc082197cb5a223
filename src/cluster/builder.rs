use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::members::Members;
use super::{Cluster, ClusterError, Inner};
use crate::balance::{Balancer, RoundRobin};
use crate::clock::{Clock, SystemClock};
use crate::endpoint::Endpoint;
use crate::view::Published;

/// Collects what a [`Cluster`] is made of.
#[must_use]
pub struct ClusterBuilder<B> {
    endpoints: Vec<Endpoint<B>>,
    balancer: Arc<dyn Balancer>,
    clock: Arc<dyn Clock>,
}

impl<B> ClusterBuilder<B> {
    pub(super) fn new() -> Self {
        ClusterBuilder { endpoints: Vec::new(), balancer: Arc::new(RoundRobin::new()), clock: Arc::new(SystemClock) }
    }

    /// Adds an endpoint; the order matters to the hash policies.
    pub fn endpoint(mut self, endpoint: Endpoint<B>) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds endpoints in order.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint<B>>) -> Self {
        self.endpoints.extend(endpoints);
        self
    }

    /// Sets the policy. Default: [`RoundRobin`].
    pub fn balancer(mut self, balancer: impl Balancer) -> Self {
        self.balancer = Arc::new(balancer);
        self
    }

    /// Sets where time comes from. Default: the system's monotonic clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the cluster. One without endpoints is fine: they may come later.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] when two endpoints have the same id.
    pub fn build(self) -> Result<Cluster<B>, ClusterError> {
        let mut members = Members::new(self.clock);
        members.replace(self.endpoints)?;
        let view = Published::new(members.view(&*self.balancer));
        Ok(Cluster { inner: Arc::new(Inner { view, balancer: self.balancer, members: Mutex::new(members) }) })
    }
}

impl<B> fmt::Debug for ClusterBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("endpoints", &self.endpoints)
            .field("balancer", &self.balancer)
            .finish_non_exhaustive()
    }
}
