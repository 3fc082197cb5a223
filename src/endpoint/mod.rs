//! One node of a cluster: its identity, its backend, its settings and its live state.
//!
//! Settings are values that are changed by replacement. Live state belongs to the [`EndpointId`]
//! and survives every change of membership or weight.

mod admin_state;
mod claim;
mod hint;
mod id;
mod lease;
mod live;
mod load;
mod member;
mod node_clock;
mod pending_failure;
mod slot;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub use admin_state::{AdminState, TrafficKind};
pub(crate) use claim::SlotOwner;
pub(crate) use hint::EndpointHint;
pub use id::{EndpointId, InvalidId};
pub use lease::{Lease, Outcome};
pub(crate) use live::Live;
pub(crate) use load::Loads;
pub(crate) use member::Member;
pub(crate) use pending_failure::{FailedClient, PendingFailures};
pub(crate) use slot::{EligibilityFlags, EndpointSlot};

pub use crate::kylin::node::role::{InvalidRoles, Role, Roles};

use crate::health::SlowStart;
use crate::health::passive::PassiveRule;

/// A node's entry in a cluster: an id, a [`Backend`](crate::Backend) that sends requests to the
/// node, and settings.
///
/// `Endpoint::http` makes an endpoint that is reached over the network; [`Endpoint::new`] takes any
/// backend.
///
/// The defaults are weight 1, no limit of requests in flight, not a backup, and ejection by the
/// cluster's outlier rule instead of nginx's `max_fails`.
#[must_use]
pub struct Endpoint<B> {
    pub(crate) settings: EndpointSettings,
    pub(crate) backend: Arc<B>,
}

/// The settings of an endpoint, without its backend.
#[derive(Debug, Clone)]
pub(crate) struct EndpointSettings {
    pub(crate) id: EndpointId,
    pub(crate) placement: Arc<str>,
    pub(crate) weight: NonZeroU32,
    pub(crate) max_in_flight: Option<NonZeroU32>,
    /// nginx's rule, if `max_fails` is not 0.
    pub(crate) rule: PassiveRule,
    /// Whether the application has set `max_fails`.
    has_max_fails: bool,
    /// Whether the outlier rule of the cluster may eject the endpoint.
    outlier: bool,
    pub(crate) backup: bool,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) admin_state: AdminState,
    /// Whether the operator has set the state in a running cluster, and not the source of the
    /// endpoint.
    pub(crate) admin_state_is_set: bool,
    pub(crate) roles: Roles,
    pub(crate) route: Option<Arc<str>>,
}

impl<B> Endpoint<B> {
    /// Returns an endpoint called `id` that is served by `backend`.
    ///
    /// # Errors
    /// [`InvalidId`] if `id` is not a valid [`EndpointId`].
    pub fn new(id: impl AsRef<str>, backend: B) -> Result<Self, InvalidId> {
        let id = EndpointId::new(id.as_ref())?;
        let settings = EndpointSettings {
            placement: Arc::from(id.as_str()),
            id,
            weight: NonZeroU32::MIN,
            max_in_flight: None,
            rule: PassiveRule::new(0, Duration::from_secs(10)),
            has_max_fails: false,
            outlier: true,
            backup: false,
            slow_start: None,
            admin_state: AdminState::Ready,
            admin_state_is_set: false,
            roles: Roles::ALL,
            route: None,
        };
        Ok(Endpoint { settings, backend: Arc::new(backend) })
    }

    /// Returns the endpoint's id.
    pub fn id(&self) -> &EndpointId {
        &self.settings.id
    }

    /// Sets the share of traffic relative to the weights of the other endpoints. Default: 1. To
    /// send an endpoint no new sessions, [drain](AdminState::Drain) it.
    pub fn weight(mut self, weight: NonZeroU32) -> Self {
        self.settings.weight = weight;
        self
    }

    /// Sets how many requests may be in flight at once (nginx: `max_conns`). Default: `None`, no
    /// limit.
    ///
    /// In a Kylin-aware proxy with [queues](crate::admission::QueueRules), which are on by default,
    /// the limit is the number of *queries* that the node runs at once. Further queries wait, and
    /// other requests are not limited. Elsewhere the endpoint is not eligible while it is full. A
    /// limit that is set later does not count queries that were sent before.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// let endpoint = kylin_lb::Endpoint::new("q1", ())?.max_in_flight(NonZeroU32::new(32));
    /// # Ok::<(), kylin_lb::endpoint::InvalidId>(())
    /// ```
    pub fn max_in_flight(mut self, limit: Option<NonZeroU32>) -> Self {
        self.settings.max_in_flight = limit;
        self
    }

    /// Sets how many failures within [`fail_timeout`](Self::fail_timeout) eject the endpoint
    /// (nginx: `max_fails`). nginx's rule then replaces the cluster's [outlier
    /// rule](crate::health::Outlier). Default: `None`, which keeps the outlier rule. The only
    /// endpoint of a cluster is never ejected.
    pub fn max_fails(mut self, fails: Option<NonZeroU32>) -> Self {
        self.settings.rule.max_fails = fails.map_or(0, NonZeroU32::get);
        self.settings.has_max_fails = true;
        self
    }

    /// Sets both the time within which failures are counted and the duration of an ejection (nginx:
    /// `fail_timeout`). The endpoint is then ejected by nginx's rule, with `max_fails` 1 unless
    /// [`max_fails`](Self::max_fails) is set too. Default: the outlier rule; if only `max_fails` is
    /// set, 10 s.
    pub fn fail_timeout(mut self, timeout: Duration) -> Self {
        let max_fails = if self.settings.has_max_fails { self.settings.rule.max_fails } else { 1 };
        self.settings.rule = PassiveRule::new(max_fails, timeout);
        self
    }

    /// Sets whether the [outlier rule](crate::health::Outlier) of the cluster may eject the
    /// endpoint. Default: true. If it is off and `max_fails` is not set, no failed request ejects
    /// the endpoint, as with nginx's `max_fails=0`. The outlier rule still compares the other
    /// endpoints with it.
    pub fn outlier(mut self, outlier: bool) -> Self {
        self.settings.outlier = outlier;
        self
    }

    /// Sets how the endpoint grows into its share of traffic (nginx Plus: `slow_start`). The ramp
    /// begins when the endpoint joins a running cluster, or returns after it was down, ejected or
    /// in maintenance. A [`Duration`] is a linear ramp. Default: no ramp.
    ///
    /// The endpoints that a cluster is built with are equally cold, so they do not ramp at first.
    /// Round robin, random and the policies that compare loads honour the ramp; hash policies do
    /// not.
    pub fn slow_start(mut self, ramp: impl Into<SlowStart>) -> Self {
        self.settings.slow_start = Some(ramp.into());
        self
    }

    /// Makes the endpoint a backup, which is used only while no primary endpoint is eligible.
    /// Default: not a backup.
    pub fn backup(mut self, backup: bool) -> Self {
        self.settings.backup = backup;
        self
    }

    /// Sets the initial administrative state. nginx's `down` is [`AdminState::Maintenance`].
    /// Default: ready.
    pub fn admin_state(mut self, admin_state: AdminState) -> Self {
        self.settings.admin_state = admin_state;
        self
    }

    /// Sets the roles of the node (`kylin.server.mode`). A request that needs a role is served only
    /// by endpoints that have it. Default: all roles.
    pub fn roles(mut self, roles: impl Into<Roles>) -> Self {
        self.settings.roles = roles.into();
        self
    }

    /// Sets the name by which hash policies place keys on the endpoint. Default: the address of the
    /// node as the operator wrote it, or the id if the application made the backend.
    /// [`HashKeyed::consistent`](crate::balance::HashKeyed::consistent) splits the name into host
    /// and port as nginx does. Endpoints with equal names share their points.
    pub fn placement(mut self, name: impl AsRef<str>) -> Self {
        self.settings.placement = Arc::from(name.as_ref());
        self
    }

    /// Sets the node's name in session ids, after the dot (Tomcat's `jvmRoute`, `route` of httpd
    /// and nginx), for [`Affinity::route`](crate::session::Affinity::route). An empty name means no
    /// route. Default: no route.
    pub fn route(mut self, route: impl AsRef<str>) -> Self {
        self.settings.route = Some(Arc::from(route.as_ref())).filter(|route: &Arc<str>| !route.is_empty());
        self
    }
}

/// A clone shares the backend.
impl<B> Clone for Endpoint<B> {
    fn clone(&self) -> Self {
        Endpoint { settings: self.settings.clone(), backend: Arc::clone(&self.backend) }
    }
}

impl EndpointSettings {
    /// Returns whether the cluster's outlier rule may eject the endpoint.
    pub(crate) fn has_outlier_rule(&self) -> bool {
        self.outlier && self.rule.max_fails == 0
    }
}

impl<B> fmt::Debug for Endpoint<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.settings).finish()
    }
}
