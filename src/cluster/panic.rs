//! Panic mode: when health keeps requests from every endpoint, an endpoint that may fail is better
//! than an error response.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Cluster, Published};
use crate::balance::Attempted;
use crate::endpoint::{AdminState, EndpointSlot, Member, Role};
use crate::request::RequestView;
use crate::view::{Group, View};

/// Whether a cluster has entered panic mode. Picks read it, so it has no lock.
#[derive(Debug, Default)]
pub(super) struct PanicMode {
    entered: AtomicBool,
}

impl PanicMode {
    /// Records that a request was served normally. The mode ends when no role lacks an endpoint.
    /// Until then, requests that need other roles are served normally.
    pub(super) fn leave<B>(&self, view: &View<B>) {
        if self.entered.load(Ordering::Relaxed)
            && !view.lacks_healthy_endpoints()
            && self.entered.swap(false, Ordering::Relaxed)
        {
            tracing::info!(target: "kylin_lb::state", "panic mode left: an endpoint can serve again");
        }
    }

    fn enter(&self) {
        if !self.entered.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "kylin_lb::state", "panic mode entered: health keeps requests from every endpoint, so the least recently failed one serves");
        }
    }
}

impl<B> View<B> {
    /// Returns whether health keeps requests of some role from all ready endpoints.
    pub(super) fn lacks_healthy_endpoints(&self) -> bool {
        let none = Attempted::none();
        [None, Some(Role::Query), Some(Role::Job)].into_iter().any(|role| self.lacks_healthy_endpoint_for(role, &none))
    }

    /// Returns whether there are ready endpoints with `role` that were not attempted, and health
    /// alone keeps requests from all of them.
    fn lacks_healthy_endpoint_for(&self, role: Option<Role>, attempted: &Attempted) -> bool {
        let is_candidate = |member: &Member| member.has_role(role) && !attempted.contains(member);
        let mut ready = self.ready().filter(|(_, _, slot)| is_candidate(&slot.member)).peekable();
        ready.peek().is_some() && ready.all(|(group, _, slot)| slot.member.is_withheld(group.layout.alone, false))
    }

    /// Returns the endpoints that are ready and not quarantined, each with its group and its index
    /// in the group.
    fn ready(&self) -> impl Iterator<Item = (&Group<B>, usize, &EndpointSlot)> {
        let groups = [&self.primary, &self.backup].into_iter();
        let all =
            groups.flat_map(|group| (0..).zip(&group.layout.slots).map(move |(index, slot)| (group, index, slot)));
        all.filter(|(_, _, slot)| {
            let Member { settings, live, .. } = &*slot.member;
            settings.admin_state == AdminState::Ready && !live.health.is_quarantined()
        })
    }
}

impl<B> Cluster<B> {
    /// Takes a slot on the endpoint that failed least recently, among those that have the role, are
    /// below their limit and were not attempted.
    pub(super) fn take_in_panic<'v>(
        &self,
        published: &'v Published<B>,
        request: &RequestView<'_>,
        attempted: &Attempted,
    ) -> Option<(&'v Group<B>, usize)> {
        // An endpoint that is likely to fail is no better than a response that the client can
        // already get.
        let passed_over = if attempted.has_response() { &Attempted::none() } else { attempted };
        let Published { view, may_panic, .. } = published;
        if !may_panic || !view.lacks_healthy_endpoint_for(request.role(), passed_over) {
            return None;
        }
        // A concurrent request may take the last slot of an endpoint. The next round then skips the
        // endpoint.
        for _ in 0..view.ready().count() {
            let (group, index, slot) = view
                .ready()
                .filter(|(_, _, EndpointSlot { member, .. })| {
                    let is_full = !request.past_limits() && !member.is_below_limit();
                    member.has_role(request.role()) && !is_full && !attempted.contains(member)
                })
                .min_by_key(|(_, _, slot)| {
                    // Draining endpoints come first, because a stopping node still responds.
                    let is_draining = slot.member.live.health.is_draining();
                    (!is_draining, slot.member.last_failure(), slot.load().in_flight())
                })?;
            // Acquired as if the endpoint were the only one, so that its ejection does not count.
            if slot.member.acquire(true, false, request.past_limits()) {
                // The mode begins only if every request with this role lacks an endpoint. This
                // request may be the only one, because of its attempts or its resource group.
                if view.lacks_healthy_endpoint_for(request.role(), &Attempted::none()) {
                    self.shared.panic.enter();
                }
                return Some((group, index));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use http::Request;

    use super::*;
    use crate::endpoint::{Endpoint, Outcome, Roles};

    #[test]
    fn requests_that_other_endpoints_serve_do_not_end_the_mode() {
        let endpoint =
            |id: &str, roles: Roles| Endpoint::new(id, ()).unwrap().roles(roles).max_fails(Some(NonZeroU32::MIN));
        let endpoints =
            [endpoint("job", Role::Job.into()), endpoint("q1", Role::Query.into()), endpoint("q2", Role::Query.into())];
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let request = Request::new(());
        let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7]));
        let pick = |role, attempted: &Attempted| cluster.pick(&view.with_role(Some(role)), attempted).unwrap();
        let has_entered = || cluster.shared.panic.entered.load(Ordering::Relaxed);
        let end = |mut picked: crate::cluster::Picked<()>, outcome| picked.lease.set_outcome(outcome);
        let none = Attempted::none();
        let mut outside = Attempted::none();
        let other = pick(Role::Query, &none);
        outside.add(&other.lease);
        end(pick(Role::Query, &outside), Outcome::Failure);
        drop(pick(Role::Query, &none));
        assert!(!has_entered(), "all other requests have an endpoint");
        end(pick(Role::Job, &none), Outcome::Unreachable);
        for _ in 0..3 {
            assert_eq!(pick(Role::Job, &none).reason, crate::cluster::PickReason::Panic);
            assert!(has_entered());
            drop(pick(Role::Query, &none));
            assert!(has_entered(), "a query is no job");
        }
        cluster.shared.published.load().view.primary.layout.slots[0].member.live.passive.readmit_reachable();
        end(pick(Role::Job, &none), Outcome::Success);
        drop(pick(Role::Query, &none));
        assert!(!has_entered());
    }
}
