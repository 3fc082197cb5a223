//! Picks for requests that concern a certain node or every node, regardless of the health and load
//! of the nodes.
//!
//! A node that is ejected, drains or is full may still have sessions and running queries.
//! Maintenance is different: the operator has taken the node out of service, so it gets no
//! requests. Nor does a node that was not verified or has another metastore.

use super::pick::{acquire_bound, picked};
use super::{Cluster, PickReason, Picked};
use crate::balance::Attempted;
use crate::endpoint::{AdminState, EndpointHint, EndpointSlot, Lease, Role};
use crate::health::Membership;
use crate::request::RequestView;
use crate::view::{Group, View};

/// The result of a pick of every endpoint.
pub(crate) struct PickedEndpoints<B> {
    pub(crate) picked: Vec<Picked<B>>,
    /// The number of endpoints that may get no request before they are verified.
    pub(crate) unverified: usize,
}

impl<B> Cluster<B> {
    /// Picks every endpoint that has the role of `request`, regardless of its health and its limit,
    /// and counts the request as in flight on each. Primary endpoints come first, in configuration
    /// order.
    pub(crate) fn pick_every(&self, request: &RequestView<'_>) -> PickedEndpoints<B> {
        let published = self.shared.published.load();
        let mut every = PickedEndpoints { picked: Vec::new(), unverified: 0 };
        for (group, index, slot) in published.view.in_service(request.role()) {
            match membership_of(slot) {
                Membership::Assumed => every.picked.push(acquire_regardless(group, index, request)),
                Membership::Unverified => every.unverified += 1,
                Membership::Foreign(_) => {}
            }
        }
        every
    }

    /// Returns how many endpoints [`pick_every`](Self::pick_every) picks at most.
    pub(crate) fn count_every(&self, role: Option<Role>) -> usize {
        self.shared.published.load().view.in_service(role).count()
    }

    /// Picks the endpoint that `hint` names, regardless of its health, its limit and its roles.
    /// Returns `None` if there is no such endpoint, or if it may get no requests.
    pub(crate) fn pick_regardless(&self, request: &RequestView<'_>, hint: &EndpointHint) -> Option<Picked<B>> {
        let published = self.shared.published.load();
        let (group, index) = published.view.find_hinted(hint)?;
        let slot = &group.layout.slots[index];
        (is_in_service(slot) && membership_of(slot) == Membership::Assumed)
            .then(|| acquire_regardless(group, index, &request.with_role(None)))
    }

    /// Picks an endpoint that was not attempted and that gets no new sessions, but may have old
    /// ones. Draining endpoints precede those that were ejected for their responses. The search for
    /// the node of a session comes to such endpoints last.
    pub(crate) fn pick_withdrawn(&self, request: &RequestView<'_>, attempted: &Attempted) -> Option<Picked<B>> {
        let published = self.shared.published.load();
        let all = || published.view.in_service(request.role());
        let draining = all().find(|(group, index, _)| acquire_bound(group, *index, request, attempted));
        if let Some((group, index, _)) = draining {
            return Some(picked(group, index, PickReason::Bound));
        }
        let (group, index, _) = all().find(|(group, _, slot)| {
            let is_left = !attempted.contains(&slot.member) && !attempted.is_outside(&slot.member);
            // Checked as if all endpoints were healthy, so that only the limit of requests in
            // flight counts.
            is_left
                && is_ejected_for_responses(slot)
                && slot.acquire(group.layout.alone, true, true, request.past_limits())
        })?;
        Some(picked_regardless(group, index))
    }
}

impl<B> View<B> {
    /// Returns the endpoints with `role` that are not in maintenance, each with its group and its
    /// index in the group.
    fn in_service(&self, role: Option<Role>) -> impl Iterator<Item = (&Group<B>, usize, &EndpointSlot)> {
        let all = self.groups().into_iter().flat_map(|(_, group)| {
            group.layout.slots.iter().enumerate().map(move |(index, slot)| (group, index, slot))
        });
        all.filter(move |(_, _, slot)| is_in_service(slot) && slot.member.has_role(role))
    }
}

fn is_in_service(slot: &EndpointSlot) -> bool {
    slot.member.settings.admin_state != AdminState::Maintenance
}

/// Returns whether the endpoint was ejected although its node is up and so still has its sessions.
fn is_ejected_for_responses(slot: &EndpointSlot) -> bool {
    let live = &slot.member.live;
    let is_reached = !live.passive.is_unreachable();
    let is_ejected = match live.health.ejection() {
        Some((_, is_unreachable)) => !is_unreachable,
        None => live.passive.is_ejected(slot.member.settings.rule, || live.now_ms()),
    };
    is_reached && is_ejected && !live.health.is_down() && membership_of(slot) == Membership::Assumed
}

fn membership_of(slot: &EndpointSlot) -> Membership {
    slot.member.live.health.membership().0
}

/// Counts the request as in flight on the endpoint at `index`. If a trial of the endpoint is due,
/// this request is the trial.
fn acquire_regardless<B>(group: &Group<B>, index: usize, request: &RequestView<'_>) -> Picked<B> {
    if acquire_bound(group, index, &request.with_past_limits(true), &Attempted::none()) {
        return picked(group, index, PickReason::Bound);
    }
    let slot = &group.layout.slots[index];
    // Acquired as if all endpoints were healthy, so that it always succeeds.
    slot.acquire(group.layout.alone, true, true, true);
    picked_regardless(group, index)
}

/// Returns a pick at an endpoint that health keeps requests from. Its failure ejects nothing, as at
/// the only endpoint of a cluster, so that no client can prolong an ejection. Its success does not
/// readmit the endpoint, because the request is no trial.
fn picked_regardless<B>(group: &Group<B>, index: usize) -> Picked<B> {
    let endpoint = group.refs.of_thread(index);
    Picked::new(Lease::new(&endpoint.member, true, false), PickReason::Bound, endpoint)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::clock::ManualClock;
    use crate::endpoint::{Endpoint, Outcome};
    use crate::health::{CheckerId, HealthState, Mismatch};

    fn view(request: &Request<()>) -> RequestView<'_> {
        RequestView::of(request, std::net::IpAddr::from([192, 0, 2, 7]))
    }

    #[test]
    fn no_request_reaches_an_endpoint_that_was_not_verified_or_is_foreign() {
        let cluster = Cluster::builder().endpoint(Endpoint::new("a", ()).unwrap()).build().unwrap();
        let request = Request::new(());
        let member =
            |cluster: &Cluster<()>| cluster.shared.published.load().view.primary.layout.slots[0].member.clone();
        let health = &member(&cluster).live.health;
        let verifier = CheckerId::next();
        health.set_verifier(Some(verifier), 1);
        health.require_verification(1);
        let id = EndpointHint::Id("a".parse().unwrap());
        for (membership, unverified, picked) in [
            (None, 1, false),
            (Some(Membership::Foreign(Mismatch::Project)), 0, false),
            (Some(Membership::Assumed), 0, true),
        ] {
            if let Some(membership) = membership {
                assert!(health.set_membership(verifier, health.membership().1, membership, 2));
            }
            let every = cluster.pick_every(&view(&request));
            assert_eq!((every.picked.len(), every.unverified), (usize::from(picked), unverified), "{membership:?}");
            assert_eq!(cluster.pick_regardless(&view(&request), &id).is_some(), picked, "{membership:?}");
        }
    }

    #[test]
    fn endpoints_that_serve_nothing_else_are_picked_and_those_in_maintenance_are_not() {
        let one = NonZeroU32::new(1);
        let endpoint = |id: &str| Endpoint::new(id, ()).unwrap();
        let endpoints = [
            endpoint("ready").roles(Role::Job),
            endpoint("full").max_in_flight(one).roles(Role::Query),
            endpoint("drained").admin_state(AdminState::Drain).roles(Role::Query),
            endpoint("ejected").max_fails(one).roles(Role::Query),
            endpoint("backup").backup(true).roles(Role::Query),
            endpoint("out").admin_state(AdminState::Maintenance).roles(Role::Query),
        ];
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let request = Request::new(());
        let view = view(&request);
        let bound = |id: &str| cluster.pick_bound(&view, &Attempted::none(), id).unwrap();
        bound("ejected").lease.set_outcome(Outcome::Failure);
        let held = bound("full");
        let names = |role| {
            let every = cluster.pick_every(&view.with_role(role));
            assert_eq!((every.picked.len(), every.unverified), (cluster.count_every(role), 0));
            let names = every.picked.iter().map(|picked| picked.lease.endpoint().to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["ready", "full", "drained", "ejected", "backup"]);
        assert_eq!(names(Some(Role::Query)), ["full", "drained", "ejected", "backup"]);
        let id = |id: &str| EndpointHint::Id(id.parse().unwrap());
        for name in ["ready", "full", "drained", "ejected", "backup"] {
            assert_eq!(cluster.pick_regardless(&view, &id(name)).unwrap().lease.endpoint().as_str(), name);
        }
        assert!(cluster.pick_regardless(&view, &id("out")).is_none());
        assert!(cluster.pick_regardless(&view, &id("unknown")).is_none());
        drop(held);
        assert_eq!(cluster.status().in_flight(), 0);
        assert!(cluster.status().endpoints[3].ejected, "a request without an outcome changes no health");
    }

    #[test]
    fn a_search_comes_to_draining_endpoints_and_then_to_those_ejected_for_their_responses() {
        let (one, clock) = (NonZeroU32::new(1), ManualClock::new());
        let endpoint = |id: &str| Endpoint::new(id, ()).unwrap().max_fails(one).max_in_flight(one);
        let drained = endpoint("drained").admin_state(AdminState::Drain);
        let endpoints =
            ["ready", "unreachable", "down", "foreign", "ejected"].map(endpoint).into_iter().chain([drained]);
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        let request = Request::new(());
        let view = view(&request);
        let fail = |id: &str, outcome| {
            cluster.pick_bound(&view, &Attempted::none(), id).unwrap().lease.set_outcome(outcome);
        };
        fail("unreachable", Outcome::Unreachable);
        for id in ["down", "foreign", "ejected"] {
            fail(id, Outcome::Failure);
        }
        let published = cluster.shared.published.load();
        let health = |index: usize| &published.view.primary.layout.slots[index].member.live.health;
        let checker = CheckerId::next();
        // It is down until its first good probe.
        health(2).attach_checker(checker, true, 0);
        health(3).set_verifier(Some(checker), 0);
        assert!(health(3).set_membership(checker, health(3).membership().1, Membership::Foreign(Mismatch::Project), 2));

        let mut attempted = Attempted::none();
        attempted.add(&cluster.pick_bound(&view, &attempted, "ready").unwrap().lease);
        let mut search = |is_attempted: bool| {
            let picked = cluster.pick_withdrawn(&view, &attempted);
            if let Some(picked) = picked.as_ref().filter(|_| is_attempted) {
                attempted.add(&picked.lease);
            }
            picked
        };
        let id = |picked: &Option<Picked<()>>| picked.as_ref().map(|picked| picked.lease.endpoint().to_string());
        assert_eq!(id(&search(true)).as_deref(), Some("drained"));
        let mut held = search(false);
        assert_eq!(id(&held).as_deref(), Some("ejected"));
        assert_eq!(id(&search(false)), None, "it is full");
        let past = cluster.pick_withdrawn(&view.with_past_limits(true), &attempted);
        assert_eq!(id(&past).as_deref(), Some("ejected"));
        drop((past, held.take()));
        attempted.add(&cluster.pick_withdrawn(&view, &attempted).unwrap().lease);
        assert_eq!(id(&cluster.pick_withdrawn(&view, &attempted)), None);
    }

    #[test]
    fn failures_of_searches_do_not_prolong_an_ejection() {
        let (one, clock) = (NonZeroU32::new(1), ManualClock::new());
        let endpoint = |id: &str| Endpoint::new(id, ()).unwrap().max_fails(one).fail_timeout(Duration::from_secs(10));
        let endpoints = ["ready", "ejected"].map(endpoint);
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        let request = Request::new(());
        let view = view(&request);
        let bound = || cluster.pick_bound(&view, &Attempted::none(), "ejected").unwrap();
        bound().lease.set_outcome(Outcome::Failure);
        let mut attempted = Attempted::none();
        attempted.add(&bound().lease);
        let withdrawn = || cluster.pick_withdrawn(&view, &attempted).unwrap();
        for second in 0..10 {
            assert_eq!(bound().lease.endpoint().as_str(), "ready", "after {second} s");
            withdrawn().lease.set_outcome(if second % 2 == 0 { Outcome::Failure } else { Outcome::Unreachable });
            assert_eq!(cluster.status().endpoints[1].health, HealthState::Ejected, "after {second} s");
            clock.advance(Duration::from_secs(1));
        }
        clock.advance(Duration::from_millis(1));
        assert_eq!(bound().lease.endpoint().as_str(), "ejected", "10 s after its own failure");
    }
}
