use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{EndpointHint, EndpointId, EndpointSettings, Member};

/// The outcome of a request, as far as the health of its endpoint is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint responded.
    Success,
    /// The endpoint failed: no connection, no response, a broken response, or a status that the application counts as a
    /// failure.
    Failure,
    /// No response came in time. This never ejects, since a query may take minutes. The endpoint becomes
    /// [suspect](crate::health::HealthState::Suspect), and a running [`HealthCheck`](crate::probe::HealthCheck) probes it soon.
    Slow,
    /// The request ended without a result that concerns the endpoint, for instance because the client disconnected first.
    #[default]
    Unknown,
}

/// One request in flight on an endpoint.
///
/// Dropping the lease ends the request: it lowers the count in flight and reports the outcome. Keep the lease until the *body*
/// of the response has ended; [`Proxy`](crate::Proxy) stores it in the body.
#[must_use = "dropping the lease ends the request in flight"]
pub struct Lease {
    member: Arc<Member>,
    /// The endpoint is the only one of its cluster, so its failures do not eject it.
    alone: bool,
    outcome: Outcome,
}

impl Lease {
    /// Returns the lease of a request that [`Member::acquire`] has counted in.
    #[inline]
    pub(crate) fn new(member: &Arc<Member>, alone: bool) -> Self {
        Lease { member: Arc::clone(member), alone, outcome: Outcome::Unknown }
    }

    /// Returns the endpoint that was picked.
    pub fn endpoint(&self) -> &EndpointId {
        &self.member.settings.id
    }

    /// Returns whether `hint` names the endpoint that was picked.
    pub(crate) fn is_named_by(&self, hint: &EndpointHint) -> bool {
        let EndpointSettings { id, route, .. } = &*self.member.settings;
        match hint {
            EndpointHint::RouteHash(hash) => {
                route.as_deref().is_some_and(|route| *hash == EndpointHint::route_hash(route.as_bytes()))
            }
            hint => hint.names(id),
        }
    }

    /// Returns whether a number of failures ejects the endpoint (nginx's `max_fails`).
    pub(crate) fn has_max_fails(&self) -> bool {
        self.member.settings.rule.max_fails > 0
    }

    /// Returns whether the endpoint that was picked is a backup.
    pub(crate) fn is_backup(&self) -> bool {
        self.member.settings.backup
    }

    /// Sets the outcome that is reported when the lease is dropped. The last call counts.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    pub(crate) fn uid(&self) -> u64 {
        self.member.live.uid
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Member { settings, live, .. } = &*self.member;
        match self.outcome {
            Outcome::Success => {
                if !self.alone && live.passive.succeed(settings.rule) {
                    live.health.readmit(live.now_ms());
                    tracing::info!(endpoint = %settings.id, "endpoint readmitted");
                }
                live.health.succeed(|| live.now_ms());
            }
            Outcome::Failure => {
                live.failed.fetch_add(1, Ordering::Relaxed);
                let now = live.now_ms();
                if !self.alone && live.passive.fail(settings.rule, now) {
                    live.health.eject_by_rule(now);
                    tracing::warn!(endpoint = %settings.id, "endpoint ejected");
                }
                live.health.fail(now);
            }
            Outcome::Slow => live.health.time_out(live.now_ms()),
            Outcome::Unknown => {}
        }
        self.member.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", self.endpoint()).field("outcome", &self.outcome).finish()
    }
}
