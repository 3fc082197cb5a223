use std::sync::Arc;

use super::{Cluster, PickError, PickReason};
use crate::balance::{Attempted, Balancer, Candidates};
use crate::endpoint::{EndpointHint, EndpointId, Lease, Member, TrafficKind};
use crate::health::HealthState;
use crate::request::RequestView;
use crate::view::{EndpointRef, Group, View};

/// The number of times that a pick goes through all steps. If an endpoint is readmitted between two
/// steps, it was not eligible in the first and is not withheld in the second, so neither step takes
/// it. The next round does.
const ROUNDS: usize = 2;

/// The result of a pick: the backend to send the request with, and the lease that counts it in
/// flight.
#[derive(Debug)]
#[non_exhaustive]
pub struct Picked<B> {
    /// Counts the request in flight until it is dropped.
    pub lease: Lease,
    /// Why this endpoint was picked.
    pub reason: PickReason,
    #[expect(
        clippy::redundant_allocation,
        reason = "the outer reference belongs to one core, so cores do not contend"
    )]
    backend: Arc<Arc<B>>,
}

impl<B> Picked<B> {
    pub(super) fn new(lease: Lease, reason: PickReason, endpoint: &EndpointRef<B>) -> Self {
        Picked { lease, reason, backend: Arc::clone(&endpoint.backend) }
    }

    /// Returns the backend for sending the request. Clone the `Arc` to keep the backend for longer
    /// than this pick.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }
}

impl<B> Cluster<B> {
    /// Picks an endpoint for `request` that is not in `attempted`, and counts the request in flight
    /// there.
    ///
    /// The policy chooses among the primary endpoints. If it abstains, the next endpoint in smooth
    /// weighted round-robin order serves. If no primary endpoint is eligible, the policy chooses
    /// among the backups. If no backup is eligible either, [panic
    /// mode](super::ClusterBuilder::panic_mode) chooses, if it is on. Takes no lock and allocates
    /// nothing.
    ///
    /// # Errors
    /// [`PickError`] if no endpoint is eligible.
    pub fn pick(&self, request: &RequestView<'_>, attempted: &Attempted) -> Result<Picked<B>, PickError> {
        self.pick_in_order(request, attempted, |_, _| None)
    }

    /// Picks from the primary endpoints, then from the backups, then in panic mode. In each group,
    /// the endpoint at the index that `bound` returns takes precedence over the policy, if it is
    /// eligible.
    #[inline]
    fn pick_in_order(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        bound: impl Fn(&View<B>, bool) -> Option<usize>,
    ) -> Result<Picked<B>, PickError> {
        let published = self.shared.published.load();
        let view = &published.view;
        for _ in 0..ROUNDS {
            for (is_backup, group) in view.groups() {
                let bound = bound(view, is_backup).filter(|index| acquire_bound(group, *index, request, attempted));
                let reason = if bound.is_some() { PickReason::Bound } else { PickReason::Policy };
                if let Some(index) =
                    bound.or_else(|| acquire_by_policy(&*published.balancer, group, request, attempted))
                {
                    self.shared.panic.leave(view);
                    return Ok(picked(group, index, reason));
                }
            }
            if let Some((group, index)) = self.take_in_panic(&published, request, attempted) {
                return Ok(picked(group, index, PickReason::Panic));
            }
        }
        Err(match view.primary.layout.slots.len() + view.backup.layout.slots.len() {
            0 => PickError::Empty,
            _ => PickError::NoneEligible,
        })
    }

    /// Picks the endpoint called `id`, to which the session of `request` is bound, if it is
    /// eligible. It may be a draining endpoint or a backup. Otherwise, or if there is no such
    /// endpoint, [`pick`](Self::pick) decides.
    ///
    /// # Errors
    /// [`PickError`] if no endpoint is eligible.
    pub fn pick_bound(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        id: &str,
    ) -> Result<Picked<B>, PickError> {
        self.pick_at(request, attempted, |view| view.find(id))
    }

    /// Picks the eligible endpoint that rendezvous hashing of `key` yields. Every front end finds
    /// the same endpoint, and an endpoint that leaves moves only its own keys. Unlike a bound
    /// session, such a request avoids draining endpoints. It also avoids backups while a primary
    /// endpoint is eligible.
    ///
    /// # Errors
    /// [`PickError`] if no endpoint is eligible.
    pub(crate) fn pick_by_hash(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        key: &[u8],
    ) -> Result<Picked<B>, PickError> {
        {
            let published = self.shared.published.load();
            let view = &published.view;
            for group in [&view.primary, &view.backup] {
                let candidates = candidates(group, request, attempted);
                if let Some(chosen) = candidates.rendezvous(key).filter(|chosen| candidates.acquire(*chosen)) {
                    return Ok(picked(group, chosen.index(), PickReason::Hash));
                }
            }
        }
        self.pick(request, attempted)
    }

    /// Picks the endpoint that a session requests, if it is eligible; otherwise
    /// [`pick`](Self::pick) decides.
    ///
    /// A session that is bound to a backup stays there, unless `primaries_first` is true. A route
    /// is always looked up among the primary endpoints, and among the backups only if no primary
    /// endpoint is eligible: endpoints may share a route.
    pub(crate) fn pick_hinted(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        hint: &EndpointHint,
        primaries_first: bool,
    ) -> Result<Picked<B>, PickError> {
        match hint {
            EndpointHint::Any => self.pick(request, attempted),
            EndpointHint::Key(key) => self.pick_by_hash(request, attempted, key),
            EndpointHint::Id(_) | EndpointHint::IdHash(_) if !primaries_first => {
                self.pick_at(request, attempted, |view| view.find_hinted(hint))
            }
            EndpointHint::Id(_) | EndpointHint::IdHash(_) | EndpointHint::RouteHash(_) => {
                self.pick_in_order(request, attempted, |view, is_backup| view.find_in_group(is_backup, hint))
            }
        }
    }

    /// Picks the endpoint that a session requests. Picks no other endpoint if that one exists.
    pub(crate) fn pick_required(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        hint: &EndpointHint,
    ) -> Result<Picked<B>, PickError> {
        {
            let published = self.shared.published.load();
            if let Some((group, index)) = published.view.find_hinted(hint) {
                let is_acquired = acquire_bound(group, index, request, attempted);
                return if is_acquired {
                    Ok(picked(group, index, PickReason::Bound))
                } else {
                    Err(PickError::NoneEligible)
                };
            }
        }
        self.pick(request, attempted)
    }

    /// Returns whether the endpoint that `hint` names is gone, in maintenance or ejected. A full
    /// endpoint is not out.
    pub(crate) fn is_out(&self, hint: &EndpointHint) -> bool {
        let published = self.shared.published.load();
        let view = &published.view;
        view.find_hinted(hint).is_none_or(|(group, index)| group.layout.slots[index].member.is_out(group.layout.alone))
    }

    /// Returns whether the endpoint of `lease` still serves the request that waits there. It does
    /// if it is a member, and neither its administrative state nor its health keeps such requests
    /// from it. `bound` says that the session is bound to it. Limits do not count, nor does health
    /// if the pick ignored it (`past_health`).
    pub(crate) fn still_serves(&self, lease: &Lease, bound: bool, past_health: bool) -> bool {
        let published = self.shared.published.load();
        let view = &published.view;
        let traffic = if bound { TrafficKind::Bound } else { TrafficKind::New };
        view.find(lease.endpoint().as_str()).is_some_and(|(group, index)| {
            let Member { settings, live, .. } = &*group.layout.slots[index].member;
            live.uid == lease.uid()
                && settings.admin_state.admits(traffic, HealthState::Healthy)
                && (past_health || !group.layout.slots[index].member.is_withheld(group.layout.alone, bound))
        })
    }

    /// Returns whether `hint` names an endpoint outside the resource group of a request.
    pub(crate) fn is_outside_group(&self, hint: &EndpointHint, attempted: &Attempted) -> bool {
        let published = self.shared.published.load();
        let bound = published.view.find_hinted(hint);
        bound.is_some_and(|(group, index)| attempted.is_outside(&group.layout.slots[index].member))
    }

    /// Returns whether `hint` names a backup.
    pub(crate) fn is_backup(&self, hint: &EndpointHint) -> bool {
        self.shared.published.load().view.find_in_group(true, hint).is_some()
    }

    /// Returns the backend of the endpoint called `id`, eligible or not.
    pub(crate) fn backend(&self, id: &EndpointId) -> Option<Arc<B>> {
        let published = self.shared.published.load();
        let view = &published.view;
        let (group, index) = view.find(id.as_str())?;
        Some(Arc::clone(&group.refs.of_thread(index).backend))
    }

    fn pick_at(
        &self,
        request: &RequestView<'_>,
        attempted: &Attempted,
        find: impl for<'v> FnOnce(&'v View<B>) -> Option<(&'v Group<B>, usize)>,
    ) -> Result<Picked<B>, PickError> {
        {
            let published = self.shared.published.load();
            let view = &published.view;
            if let Some((group, index)) = find(view)
                && acquire_bound(group, index, request, attempted)
            {
                return Ok(picked(group, index, PickReason::Bound));
            }
        }
        self.pick(request, attempted)
    }
}

/// Counts the request as in flight on the endpoint of `group` that the policy chooses, and returns
/// its index.
fn acquire_by_policy<B>(
    balancer: &dyn Balancer,
    group: &Group<B>,
    request: &RequestView<'_>,
    attempted: &Attempted,
) -> Option<usize> {
    if group.layout.slots.is_empty() {
        return None;
    }
    let candidates = candidates(group, request, attempted);
    // Another pick may fill the chosen endpoint first. The next round then sees that endpoint as
    // full, so rounds are few. The bound is for an adversarial schedule.
    for _ in 0..=2 * group.layout.slots.len() {
        let chosen = balancer
            .pick(request, &candidates)
            .filter(|candidate| candidates.is_eligible(*candidate))
            .or_else(|| candidates.next_eligible())?;
        if candidates.acquire(chosen) {
            return Some(chosen.index());
        }
    }
    None
}

#[inline]
fn candidates<'v, B>(group: &'v Group<B>, request: &RequestView<'_>, attempted: &'v Attempted) -> Candidates<'v> {
    let candidates = Candidates::new(&group.layout, attempted, request.role());
    candidates.past_limits(request.past_limits()).passing_flood(request.passes_flood())
}

/// Counts the request as in flight on the endpoint at `index`, to which its session is bound.
/// Returns false if the endpoint is not eligible.
pub(super) fn acquire_bound<B>(
    group: &Group<B>,
    index: usize,
    request: &RequestView<'_>,
    attempted: &Attempted,
) -> bool {
    let candidates = candidates(group, request, attempted);
    let bound = candidates.at(index);
    candidates.is_eligible_when_bound(bound) && candidates.acquire_bound(bound)
}

/// Builds the result in one piece, last and inlined into its caller: moving it would cost as much
/// as counting the references.
#[inline]
pub(super) fn picked<B>(group: &Group<B>, index: usize, reason: PickReason) -> Picked<B> {
    let EndpointRef { member, backend } = group.refs.of_thread(index);
    let health = &member.live.health;
    // A request of a bound session at a draining endpoint is not on trial, because a stopping node
    // still serves its sessions.
    let on_trial = !group.layout.impaired.is_zero()
        && health.is_impaired()
        && !(reason == PickReason::Bound && health.is_draining());
    Picked { lease: Lease::new(member, group.layout.alone, on_trial), reason, backend: Arc::clone(backend) }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};

    use super::*;
    use crate::backend::{Backend, SendError};
    use crate::body::Body;
    use crate::endpoint::Endpoint;

    struct Teapot;

    impl Backend for Teapot {
        async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            Ok(response)
        }
    }

    #[test]
    fn a_success_of_a_bound_session_readmits_an_endpoint_that_was_not_reached_and_ends_no_drain() {
        let clock = crate::clock::ManualClock::new();
        let endpoints = ["a", "b"].map(|id| Endpoint::new(id, Teapot).unwrap());
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        let request = Request::new(Body::empty());
        let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7]));
        let member = Arc::clone(&cluster.shared.published.load().view.primary.layout.slots[0].member);
        let health = &member.live.health;
        for is_drain in [false, true] {
            let now = member.live.now_ms();
            if is_drain {
                health.drain(crate::health::Reason::Closing, now);
            } else {
                health.eject_unreachable(now);
            }
            clock.advance(std::time::Duration::from_secs(2));
            let mut picked = cluster.pick_bound(&view, &Attempted::none(), "a").unwrap();
            assert_eq!((picked.reason, picked.lease.endpoint().as_str()), (PickReason::Bound, "a"));
            picked.lease.set_outcome(crate::endpoint::Outcome::Success);
            drop(picked);
            assert_eq!(health.is_impaired(), is_drain);
        }
    }

    #[tokio::test]
    async fn what_is_picked_can_be_sent_with_and_kept() {
        let cluster = Cluster::builder().endpoint(Endpoint::new("a", Teapot).unwrap()).build().unwrap();
        let request = Request::new(Body::empty());
        let client = std::net::IpAddr::from([192, 0, 2, 7]);
        let picked = cluster.pick(&RequestView::of(&request, client), &Attempted::none()).unwrap();
        let kept = Arc::clone(picked.backend());
        assert_eq!(picked.backend().send(request).await.unwrap().status(), StatusCode::IM_A_TEAPOT);
        drop(picked);
        assert!(Arc::ptr_eq(&kept, &cluster.backend(&"a".parse().unwrap()).unwrap()));
        assert_eq!(cluster.status().in_flight(), 0);
    }
}
