use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::claim::SlotClaim;
use super::suspect::{RequestKey, Suspect, Suspects};
use super::{EndpointHint, EndpointId, EndpointSettings, Live, Member, SlotOwner};
use crate::health::state::Sign;

/// The outcome of a request, as far as the health of its endpoint is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint responded.
    Success,
    /// The endpoint failed in what it responded: a response that is not valid HTTP or breaks off, or one whose status the
    /// application counts as a failure. An ejection for such failures lasts its time.
    Failure,
    /// The endpoint was not reached: no connection was made, or it ended before a response. The node is down, restarts or
    /// refuses load. An ejection for such failures ends when a probe or a request on trial succeeds.
    Unreachable,
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
    /// The endpoint was withdrawn when it was picked, so that this request tries whether it is back.
    on_trial: bool,
    outcome: Outcome,
    /// The outcome is reported elsewhere.
    is_suspended: bool,
    /// The request, if a failure is compared with that of others; none where a failure counts at once.
    key: RequestKey,
    /// None where requests do not wait for slots.
    claim: Option<Box<SlotClaim>>,
}

impl Lease {
    /// Returns the lease of a request that [`Member::acquire`] has counted in.
    #[inline]
    pub(crate) fn new(member: &Arc<Member>, alone: bool, on_trial: bool) -> Self {
        Lease {
            member: Arc::clone(member),
            alone,
            on_trial,
            outcome: Outcome::Unknown,
            is_suspended: false,
            key: RequestKey::NONE,
            claim: None,
        }
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

    /// Returns the address of the node as the operator wrote it.
    pub(crate) fn placement(&self) -> &str {
        &self.member.settings.placement
    }

    /// Records what a response shows of whether the node stays. It is no success on trial if the node stops. A response on a
    /// connection that is new shows that the node accepts connections.
    #[inline]
    pub(crate) fn show(&mut self, sign: Sign) {
        let Live { health, uid, .. } = &*self.member.live;
        let stops = match sign {
            Sign::KeepsAlive => false,
            Sign::Closes { uses, .. } => uses > 1,
            Sign::RetryAfter { .. } => true,
        };
        if (!self.alone && health.show(sign, *uid)) || stops {
            self.on_trial = false;
        }
    }

    /// Sets the outcome that is reported when the lease is dropped. The last call counts.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    pub(crate) fn uid(&self) -> u64 {
        self.member.live.uid
    }

    /// Returns whether its health bars the endpoint from further requests. `bound` is for sessions that are bound to it.
    pub(crate) fn is_barred(&self, bound: bool) -> bool {
        self.member.is_barred(self.alone, bound)
    }

    /// Returns the limit of requests in flight of the endpoint.
    pub(crate) fn limit(&self) -> Option<NonZeroU32> {
        self.member.settings.max_in_flight
    }

    /// Has the request wait for a slot of the endpoint, under the claim `token` of `owner`. A request that ends while it waits was
    /// never in flight. `is_of_flood`: others do not count it as load.
    pub(crate) fn wait_for_slot(&mut self, owner: Arc<dyn SlotOwner>, token: u64, is_of_flood: bool) {
        self.member.live.waiting.fetch_add(1, Ordering::Relaxed);
        self.member.live.waiting_of_floods.fetch_add(is_of_flood.into(), Ordering::Relaxed);
        self.claim = Some(SlotClaim::new(owner, token, is_of_flood));
    }

    /// Ends the wait: the owner of the slots has given the request its slot.
    pub(crate) fn take_slot(&mut self) {
        self.end_wait();
    }

    /// Returns whether the request has waited until now.
    fn end_wait(&mut self) -> bool {
        let Some(claim) = self.claim.as_mut().filter(|claim| claim.is_waiting) else { return false };
        claim.is_waiting = false;
        self.member.live.waiting.fetch_sub(1, Ordering::Relaxed);
        self.member.live.waiting_of_floods.fetch_sub(claim.is_of_flood.into(), Ordering::Relaxed);
        true
    }

    /// Returns the claim to a slot, if there is one.
    pub(crate) fn claim(&self) -> Option<u64> {
        self.claim.as_ref().map(|claim| claim.token())
    }

    /// Records that the response is one of a successful request, so that the time until its end is typical for such requests.
    pub(crate) fn expect_success(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.may_succeed = true;
        }
    }
}

impl Lease {
    /// Leaves a failure to a comparison with other requests, because this request was attempted at one endpoint only.
    pub(crate) fn compare_with_others(&mut self, key: RequestKey) {
        self.key = key;
    }

    pub(crate) fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure | Outcome::Unreachable)
    }

    /// Ends the request. If it failed, its failure waits.
    pub(crate) fn suspend(mut self, key: RequestKey) -> Option<Suspect> {
        let suspect = self.is_failure().then(|| self.suspect(self.outcome == Outcome::Unreachable, key));
        self.is_suspended = suspect.is_some();
        suspect
    }

    fn suspect(&self, unreached: bool, key: RequestKey) -> Suspect {
        Suspect::new(&self.member, self.alone, self.on_trial, unreached, key)
    }

    fn fail(&self, unreached: bool) {
        if self.key == RequestKey::NONE {
            self.member.fail(self.alone, self.on_trial, unreached);
        } else {
            Suspects::of(self.suspect(unreached, self.key)).end();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.end_wait() {
            return self.member.withdraw();
        }
        let Member { settings, live, .. } = &*self.member;
        if let Some(claim) = &mut self.claim {
            claim.succeeded = claim.may_succeed && self.outcome == Outcome::Success;
        }
        match self.outcome {
            _ if self.is_suspended => {}
            Outcome::Success => {
                let readmitted_by_rule = !self.alone && live.passive.succeed(settings.rule);
                if readmitted_by_rule {
                    live.health.readmit(live.now_ms());
                }
                if live.health.succeed(self.on_trial, || live.now_ms()) || readmitted_by_rule {
                    tracing::info!(target: "kylin_lb::state", endpoint = %settings.id, "endpoint readmitted");
                }
            }
            Outcome::Failure => self.fail(false),
            Outcome::Unreachable => self.fail(true),
            Outcome::Slow => live.health.time_out(live.now_ms()),
            Outcome::Unknown => live.health.outcomes.skip(),
        }
        // The claim ends after this, so that the next request finds the slot free.
        self.member.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", self.endpoint()).field("outcome", &self.outcome).finish()
    }
}
