//! One backend in a cluster: its identity, its settings and its live state.
//!
//! Settings are values and change by replacement; live state belongs to the [`EndpointId`] and survives every change of
//! membership or weight.

mod demand;
mod hint;
mod id;
mod lease;
mod listed;
mod live;
mod load;
mod role;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub use demand::TrafficKind;
pub(crate) use hint::EndpointHint;
pub use id::{EndpointId, InvalidId};
pub use lease::{Lease, Outcome};
pub(crate) use listed::{Listed, Offers};
pub(crate) use live::{Live, Member};
pub(crate) use load::Loads;
pub use role::{InvalidRoles, Role, Roles};

use crate::health::SlowStart;
use crate::health::passive::Rule;

/// A backend with an identity and the settings under which a cluster uses it.
///
/// The defaults are nginx's: weight 1, no limit in flight, `max_fails` 1, `fail_timeout` 10 s, not a backup.
#[must_use]
pub struct Endpoint<B> {
    pub(crate) settings: Settings,
    pub(crate) backend: Arc<B>,
}

impl<B> Endpoint<B> {
    /// An endpoint called `id` that is served by `backend`.
    ///
    /// # Errors
    /// [`InvalidId`] when `id` cannot be an [`EndpointId`].
    pub fn new(id: impl AsRef<str>, backend: B) -> Result<Self, InvalidId> {
        let id = EndpointId::new(id.as_ref())?;
        let placement = Arc::from(id.as_str());
        Ok(Endpoint { settings: Settings::new(id, placement), backend: Arc::new(backend) })
    }

    /// Sets the share of traffic in relation to the weights of the other endpoints. Default: 1. An endpoint that shall get no
    /// traffic is [drained](AdminState::Drain).
    pub fn weight(mut self, weight: NonZeroU32) -> Self {
        self.settings.weight = weight;
        self
    }

    /// Sets how many requests may be in flight at once (nginx: `max_conns`). Default: `None`, no limit.
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

    /// Sets how many failures within [`fail_timeout`](Self::fail_timeout) eject the endpoint (nginx: `max_fails`). Default: 1.
    /// `None` never ejects it by this rule, as nginx's 0 does. The only endpoint of a cluster is never ejected.
    pub fn max_fails(mut self, fails: Option<NonZeroU32>) -> Self {
        self.settings.rule.max_fails = fails.map_or(0, NonZeroU32::get);
        self
    }

    /// Both the time in which `max_fails` are counted and the time of an ejection (nginx: `fail_timeout`).
    pub fn fail_timeout(mut self, timeout: Duration) -> Self {
        self.settings.rule = Rule::new(self.settings.rule.max_fails, timeout);
        self
    }

    /// How long the endpoint takes to grow into its share of traffic when it is added to a cluster that runs, or comes back
    /// after it was down, ejected or in maintenance (nginx Plus: `slow_start`). A [`Duration`] is a linear ramp. Default: no
    /// ramp. Endpoints that a cluster is built with are equally cold and do not ramp at first. Round robin, random and the
    /// policies that compare loads honour it, hash policies do not.
    pub fn slow_start(mut self, ramp: impl Into<SlowStart>) -> Self {
        self.settings.slow_start = Some(ramp.into());
        self
    }

    /// A backup is used when no primary endpoint is left.
    pub fn backup(mut self, backup: bool) -> Self {
        self.settings.backup = backup;
        self
    }

    /// What the operator wants of the endpoint from the start. nginx's `down` is [`AdminState::Maintenance`].
    pub fn admin_state(mut self, admin_state: AdminState) -> Self {
        self.settings.admin_state = admin_state;
        self
    }

    /// What the node does (`kylin.server.mode`). A request that needs a role goes only to endpoints that have it. Default: all.
    pub fn roles(mut self, roles: impl Into<Roles>) -> Self {
        self.settings.roles = roles.into();
        self
    }

    /// The name under which hash policies place keys on the endpoint: by default its address as written, or its id for a
    /// backend of the host's own. `HashKeyed::consistent` splits it into host and port as nginx does, and endpoints with equal
    /// names share their points.
    pub fn placement(mut self, name: impl AsRef<str>) -> Self {
        self.settings.placement = Arc::from(name.as_ref());
        self
    }

    /// The node's name in session ids, after the dot (Tomcat's `jvmRoute`, httpd's and nginx's `route`), for
    /// [`Affinity::route`](crate::session::Affinity::route). Default: none.
    pub fn route(mut self, route: impl AsRef<str>) -> Self {
        self.settings.route = Some(Arc::from(route.as_ref())).filter(|route: &Arc<str>| !route.is_empty());
        self
    }

    /// The same endpoint again, with the same backend.
    pub(crate) fn share(&self) -> Self {
        Endpoint { settings: self.settings.clone(), backend: Arc::clone(&self.backend) }
    }

    /// The endpoint's id.
    pub fn id(&self) -> &EndpointId {
        &self.settings.id
    }
}

impl<B> fmt::Debug for Endpoint<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.settings).finish()
    }
}

/// What the operator wants of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AdminState {
    /// Serve everything.
    #[default]
    Ready,
    /// Serve only sessions that are bound to it; new ones go elsewhere.
    Drain,
    /// Serve nothing, but keep the place in the mapping of the hash policies (nginx: `down`).
    Maintenance,
}

/// The settings of an endpoint, without its backend.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: EndpointId,
    pub(crate) placement: Arc<str>,
    pub(crate) weight: NonZeroU32,
    pub(crate) max_in_flight: Option<NonZeroU32>,
    pub(crate) rule: Rule,
    pub(crate) backup: bool,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) admin_state: AdminState,
    pub(crate) roles: Roles,
    pub(crate) route: Option<Arc<str>>,
}

impl Settings {
    fn new(id: EndpointId, placement: Arc<str>) -> Self {
        Settings {
            id,
            placement,
            weight: NonZeroU32::MIN,
            max_in_flight: None,
            rule: Rule::new(1, Duration::from_secs(10)),
            backup: false,
            slow_start: None,
            admin_state: AdminState::Ready,
            roles: Roles::ALL,
            route: None,
        }
    }
}
