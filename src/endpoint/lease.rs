use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::claim::SlotClaim;
use super::pending_failure::{FailedClient, PendingFailure, PendingFailures};
use super::{EndpointHint, EndpointId, EndpointSettings, Live, Member, SlotOwner};
use crate::health::state::{ProbeEvidence, ShutdownIndication};

/// The outcome of a request for the health of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint responded.
    Success,
    /// The endpoint gave a bad response. The response is not valid HTTP, breaks off, or has a
    /// status that the application counts as a failure. An ejection for such failures lasts its
    /// full time.
    Failure,
    /// The endpoint was not reached: no connection was made, or it closed before a response. The
    /// node is down, restarts or refuses load. An ejection for such failures ends when a probe or a
    /// request on trial succeeds.
    Unreachable,
    /// No response came in time. This outcome never ejects, since a query may take minutes. The
    /// endpoint becomes [suspect](crate::health::HealthState::Suspect), and a running
    /// [`HealthCheck`](crate::probe::HealthCheck) probes it soon.
    Slow,
    /// The request ended without a result that concerns the endpoint, for instance because the
    /// client disconnected first.
    #[default]
    Unknown,
}

/// One request in flight on an endpoint.
///
/// Dropping the lease ends the request: it lowers the count in flight and reports the outcome. Keep
/// the lease until the *body* of the response has ended; [`Proxy`](crate::Proxy) stores it in the
/// body.
#[must_use = "dropping the lease ends the request in flight"]
pub struct Lease {
    member: Arc<Member>,
    /// Whether failures eject nothing, because the endpoint is the only one of its cluster, or was
    /// picked although health keeps requests from it.
    alone: bool,
    /// Whether the endpoint was withdrawn when it was picked, so that this request tests whether it
    /// is back.
    on_trial: bool,
    outcome: Outcome,
    /// Whether the outcome is a failure that its [`PendingFailure`] reports.
    is_failure_deferred: bool,
    /// The client, if a failure is compared with failures of other clients. [`FailedClient::NONE`]
    /// if it counts at once.
    client: FailedClient,
    /// `None` if requests do not wait for slots.
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
            is_failure_deferred: false,
            client: FailedClient::NONE,
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

    /// Returns whether the endpoint has been probed.
    pub(crate) fn is_probed(&self) -> bool {
        self.member.live.health.is_probed()
    }

    /// Requests a probe of the endpoint: see
    /// [`EndpointHealth::ask_probe`](crate::health::state::EndpointHealth::ask_probe).
    pub(crate) async fn ask_probe(&self) -> ProbeEvidence {
        let Live { health, .. } = &*self.member.live;
        health.ask_probe(self.member.live.now_ms()).await
    }

    /// Returns whether the endpoint that was picked is a backup.
    pub(crate) fn is_backup(&self) -> bool {
        self.member.settings.backup
    }

    /// Returns the address of the node as the operator wrote it.
    pub(crate) fn placement(&self) -> &Arc<str> {
        &self.member.settings.placement
    }

    /// Records whether a response shows that the node is stopping. If it does, the request is no
    /// success on trial. A response on a new connection shows that the node accepts connections.
    #[inline]
    pub(crate) fn show(&mut self, indication: ShutdownIndication) {
        let Live { health, uid, .. } = &*self.member.live;
        let stops = match indication {
            ShutdownIndication::KeepsAlive => false,
            ShutdownIndication::Closes { uses, .. } => uses > 1,
            ShutdownIndication::RetryAfter { .. } => true,
        };
        if (!self.alone && health.show(indication, *uid)) || stops {
            self.on_trial = false;
        }
    }

    /// Sets the outcome that is reported when the lease is dropped. The last call wins.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Records the text of the request's error for the status of the endpoint.
    pub(crate) fn note_error(&self, text: impl FnOnce() -> String) {
        let live = &self.member.live;
        live.health.note_error(text, live.now_ms());
    }

    pub(crate) fn uid(&self) -> u64 {
        self.member.live.uid
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.member.live
    }

    /// Returns whether health keeps further requests from the endpoint; with `bound`, those of
    /// bound sessions.
    pub(crate) fn is_withheld(&self, bound: bool) -> bool {
        self.member.is_withheld(self.alone, bound)
    }

    /// Returns the limit of requests in flight of the endpoint.
    pub(crate) fn limit(&self) -> Option<NonZeroU32> {
        self.member.settings.max_in_flight
    }

    /// Marks the request as waiting for a slot of the endpoint, under the claim `token` of `owner`.
    /// A request that ends while it waits was never in flight.
    pub(crate) fn wait_for_slot(&mut self, owner: Arc<dyn SlotOwner>, token: u64) {
        self.claim = Some(SlotClaim::new(owner, token));
    }

    /// Ends the wait: the owner of the slots has assigned a slot to the request.
    pub(crate) fn take_slot(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.is_waiting = false;
        }
    }

    /// Returns the claim to a slot, if there is one.
    pub(crate) fn claim(&self) -> Option<u64> {
        self.claim.as_ref().map(|claim| claim.token())
    }

    /// Records that the response is a success, so that the request's duration is typical of such
    /// requests.
    pub(crate) fn expect_success(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.may_succeed = true;
        }
    }
}

impl Lease {
    /// Makes a failure wait for a comparison with other requests. Used if the request is attempted
    /// at only one endpoint.
    pub(crate) fn compare_with_others(&mut self, client: FailedClient) {
        self.client = client;
    }

    pub(crate) fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure | Outcome::Unreachable)
    }

    /// Ends the request. If it failed, returns the failure, to be counted later.
    pub(crate) fn defer_failure(mut self, client: FailedClient) -> Option<PendingFailure> {
        let failure = self.is_failure().then(|| self.pending_failure(self.outcome == Outcome::Unreachable, client));
        self.is_failure_deferred = failure.is_some();
        failure
    }

    fn pending_failure(&self, unreached: bool, client: FailedClient) -> PendingFailure {
        PendingFailure::new(&self.member, self.alone, self.on_trial, unreached, client)
    }

    fn fail(&self, unreached: bool) {
        if self.client == FailedClient::NONE {
            self.member.fail(self.alone, self.on_trial, unreached);
        } else {
            PendingFailures::of(self.pending_failure(unreached, self.client)).end();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.claim.as_ref().is_some_and(|claim| claim.is_waiting) {
            // Ends before the load. The load must never be seen without a request that other
            // counters still include.
            self.claim = None;
            return self.member.withdraw();
        }
        let Member { settings, live, .. } = &*self.member;
        if let Some(claim) = &mut self.claim {
            claim.succeeded = claim.may_succeed && self.outcome == Outcome::Success;
        }
        match self.outcome {
            _ if self.is_failure_deferred => {}
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
