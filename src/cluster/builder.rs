use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::members::Members;
use super::outliers::Outliers;
use super::user_source::UserSource;
use super::{Cluster, ClusterError, Shared};
use crate::balance::{Balancer, RoundRobin};
use crate::clock::{Clock, SystemClock};
use crate::endpoint::Endpoint;
use crate::health::Outlier;
use crate::health::impaired::ImpairedCount;

/// Builds a [`Cluster`].
///
/// | setting | default |
/// |---|---|
/// | [`endpoint`](Self::endpoint), [`endpoints`](Self::endpoints) | none |
/// | [`balancer`](Self::balancer) | [`RoundRobin`] |
/// | [`outlier`](Self::outlier) | [`Outlier::default`] |
/// | [`panic_mode`](Self::panic_mode) | on |
/// | [`clock`](Self::clock) | the system clock |
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
            outlier: Some(Outlier::default()),
            panic: true,
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

    /// Sets the rule that ejects endpoints that fail more than the others. Endpoints with
    /// [`max_fails`](Endpoint::max_fails) or [`fail_timeout`](Endpoint::fail_timeout) follow
    /// nginx's rule instead. `None` ejects none of the other endpoints. Default:
    /// [`Outlier::default`].
    ///
    /// ```
    /// use kylin_lb::health::Outlier;
    /// use kylin_lb::{Cluster, Endpoint};
    /// use std::num::NonZeroU32;
    /// # fn nodes() -> Vec<Endpoint<kylin_lb::HttpBackend>> { Vec::new() }
    ///
    /// let outlier = Outlier::new().consecutive(NonZeroU32::new(3));
    /// let cluster = Cluster::builder().endpoints(nodes()).outlier(outlier).build()?;
    /// # Ok::<(), kylin_lb::cluster::ClusterError>(())
    /// ```
    pub fn outlier(mut self, rule: impl Into<Option<Outlier>>) -> Self {
        self.outlier = rule.into();
        self
    }

    /// Sets whether an unhealthy or ejected endpoint may serve when no healthy one can: panic mode.
    /// Default: on.
    ///
    /// It applies when health keeps requests from every ready endpoint that has the required role
    /// and was not attempted yet. The endpoint that failed least recently then serves, because its
    /// state may be outdated, or only a part of the node may fail. Administrative states, limits of
    /// requests in flight and attempted endpoints apply as usual, and endpoints of another
    /// metastore never serve.
    ///
    /// nginx does this differently: when all peers of an upstream have failed, it forgets their
    /// failures at once (`ngx_http_upstream_get_round_robin_peer`).
    pub fn panic_mode(mut self, on: bool) -> Self {
        self.panic = on;
        self
    }

    /// Builds the cluster. It may be empty: endpoints can be added later.
    ///
    /// # Errors
    /// - [`ClusterError::Duplicate`] if two endpoints have the same id;
    /// - [`ClusterError::Outlier`] if a setting of the outlier rule is invalid.
    pub fn build(self) -> Result<Cluster<B>, ClusterError> {
        if let Some(outlier) = &self.outlier {
            outlier.validate().map_err(ClusterError::Outlier)?;
        }
        let impaired = ImpairedCount::default();
        let outliers = |rule| Arc::new(Outliers::new(rule, Arc::clone(&self.clock), impaired.clone()));
        let outliers = self.outlier.map(outliers);
        let user_source = UserSource::new(Arc::clone(&self.clock));
        let mut members = Members::new(self.clock, outliers, impaired, self.balancer, self.panic);
        members.replace(self.endpoints)?;
        members.run();
        let shared = Shared {
            published: ArcSwap::from_pointee(members.publish()),
            reads_query: AtomicBool::new(members.balancer.reads_query()),
            reads_fingerprint: AtomicBool::new(members.balancer.reads_fingerprint()),
            members: Mutex::new(members),
            panic: Default::default(),
            user_source,
            changes: watch::Sender::new(()),
            common: OnceLock::new(),
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
