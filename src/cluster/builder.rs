use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::members::Members;
use super::outliers::Outliers;
use super::panic::PanicMode;
use super::{Cluster, ClusterError, Shared};
use crate::balance::{Balancer, RoundRobin};
use crate::clock::{Clock, SystemClock};
use crate::endpoint::Endpoint;
use crate::health::Outlier;

/// Builds a [`Cluster`].
///
/// | setting | default |
/// |---|---|
/// | [`endpoint`](Self::endpoint), [`endpoints`](Self::endpoints) | none |
/// | [`balancer`](Self::balancer) | [`RoundRobin`] |
/// | [`outlier`](Self::outlier) | off |
/// | [`panic_mode`](Self::panic_mode) | off |
/// | [`clock`](Self::clock) | the system's clock |
#[must_use]
pub struct ClusterBuilder<B> {
    endpoints: Vec<Endpoint<B>>,
    balancer: Arc<dyn Balancer>,
    clock: Arc<dyn Clock>,
    outlier: Option<Outlier>,
    panic: bool,
}

impl<B> ClusterBuilder<B> {
    pub(super) fn new() -> Self {
        ClusterBuilder {
            endpoints: Vec::new(),
            balancer: Arc::new(RoundRobin::new()),
            clock: Arc::new(SystemClock),
            outlier: None,
            panic: false,
        }
    }

    /// Adds an endpoint. The order matters to the hash policies.
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

    /// Sets the clock. Default: the monotonic clock of the system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Ejects endpoints that fail more than the others, in addition to nginx's rule. Default: off.
    ///
    /// ```
    /// use kylin_lb::health::Outlier;
    /// use kylin_lb::{Cluster, Endpoint};
    /// # fn nodes() -> Vec<Endpoint<kylin_lb::HttpBackend>> { Vec::new() }
    ///
    /// // Without nginx's rule only outliers are ejected.
    /// let endpoints = nodes().into_iter().map(|endpoint| endpoint.max_fails(None));
    /// let cluster = Cluster::builder().endpoints(endpoints).outlier(Outlier::new()).build()?;
    /// # Ok::<(), kylin_lb::cluster::ClusterError>(())
    /// ```
    pub fn outlier(mut self, rule: Outlier) -> Self {
        self.outlier = Some(rule);
        self
    }

    /// Sets whether an unhealthy or ejected endpoint serves while health bars every ready endpoint that has the role that the request
    /// needs. The endpoint that failed least recently then serves, since its state may be wrong or only part of the node may fail. Administrative states,
    /// limits of requests in flight and attempted endpoints apply as usual, and endpoints of another metastore never serve.
    /// Default: off, as in nginx.
    pub fn panic_mode(mut self, on: bool) -> Self {
        self.panic = on;
        self
    }

    /// Builds the cluster. It may be empty: endpoints can be added later.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] if two endpoints have the same id, [`ClusterError::Outlier`] if a setting of the outlier rule
    /// is invalid.
    pub fn build(self) -> Result<Cluster<B>, ClusterError> {
        if let Some(outlier) = &self.outlier {
            outlier.validate().map_err(ClusterError::Outlier)?;
        }
        let outliers = self.outlier.map(|rule| Arc::new(Outliers::new(rule, Arc::clone(&self.clock))));
        let mut members = Members::new(self.clock, outliers);
        members.replace(self.endpoints)?;
        members.run();
        let shared = Shared {
            view: ArcSwap::from_pointee(members.view(&*self.balancer)),
            balancer: self.balancer,
            members: Mutex::new(members),
            panic: PanicMode::new(self.panic),
            changes: watch::Sender::new(()),
        };
        Ok(Cluster { shared: Arc::new(shared) })
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
