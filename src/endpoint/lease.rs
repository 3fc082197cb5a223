use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{EndpointId, Member};

/// What became of a request, as far as the health of its endpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint answered.
    Success,
    /// The endpoint failed: no connection, no answer, a broken answer, or a status that the host counts as a failure.
    Failure,
    /// No answer came in time. Never ejects: a query may take minutes. It puts the endpoint in doubt, which has it probed soon
    /// where there are [`HealthCheck`](crate::probe::HealthCheck).
    Slow,
    /// Nothing can be said of the endpoint, for instance because the client went away first.
    #[default]
    Unknown,
}

/// One request in flight on an endpoint. The count goes down, and the outcome is reported, when the lease is dropped:
/// keep it until the *body* of the answer has ended ([`Proxy`](crate::Proxy) lets it ride inside the body).
#[must_use = "dropping the lease ends the request's time in flight"]
pub struct Lease {
    member: Arc<Member>,
    /// The endpoint is alone in its cluster, so that its failures have no consequences.
    alone: bool,
    outcome: Outcome,
}

impl Lease {
    /// Returns the lease of a request that has been counted in with [`Member::acquire`].
    #[inline]
    pub(crate) fn new(member: &Arc<Member>, alone: bool) -> Self {
        Lease { member: Arc::clone(member), alone, outcome: Outcome::Unknown }
    }

    /// The endpoint that was picked.
    pub fn endpoint(&self) -> &EndpointId {
        &self.member.settings.id
    }

    /// Sets what is reported when the lease ends; the last word counts.
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
            Outcome::Slow => live.health.slow_down(live.now_ms()),
            Outcome::Unknown => {}
        }
        self.member.end();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", self.endpoint()).field("outcome", &self.outcome).finish()
    }
}
