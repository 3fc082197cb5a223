//! Panic mode: when health leaves nobody, anybody is better than a refusal.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Cluster;
use crate::balance::Attempted;
use crate::endpoint::{AdminState, EndpointSlot, Member, Role};
use crate::request::RequestView;
use crate::view::{Group, View};

/// Whether a cluster may panic, and does. Without a lock: it is read in picks.
#[derive(Debug)]
pub(super) struct PanicMode {
    pub(super) allowed: bool,
    entered: AtomicBool,
}

impl PanicMode {
    pub(super) fn new(allowed: bool) -> Self {
        PanicMode { allowed, entered: AtomicBool::new(false) }
    }

    /// Notes that a request was served in the normal way.
    pub(super) fn leave(&self) {
        if self.allowed && self.entered.load(Ordering::Relaxed) && self.entered.swap(false, Ordering::Relaxed) {
            tracing::info!("panic mode left: some endpoint is fit again");
        }
    }

    fn enter(&self) {
        if !self.entered.swap(true, Ordering::Relaxed) {
            tracing::warn!("panic mode: no endpoint is fit, the least recently failed serves");
        }
    }
}

impl<B> View<B> {
    /// Does health, and nothing else, keep requests that need `role` from every endpoint that the operator wants to serve?
    fn is_left_by_health(&self, role: Option<Role>) -> bool {
        let mut fitting = self.ready().filter(|(_, _, slot)| slot.member.has_role(role)).peekable();
        fitting.peek().is_some() && fitting.all(|(group, _, slot)| slot.member.is_barred(group.layout.alone))
    }

    /// The same for some kind of request.
    pub(super) fn is_partly_left_by_health(&self) -> bool {
        [None, Some(Role::Query), Some(Role::Job)].into_iter().any(|role| self.is_left_by_health(role))
    }

    /// Every endpoint of this cluster that the operator wants to serve, with its group and its place in it. One that belongs to
    /// another cluster is no better than none.
    fn ready(&self) -> impl Iterator<Item = (&Group<B>, usize, &EndpointSlot)> {
        let groups = [&self.primary, &self.backup].into_iter();
        let all =
            groups.flat_map(|group| (0..).zip(&group.layout.slots).map(move |(index, slot)| (group, index, slot)));
        all.filter(|(_, _, slot)| {
            let Member { settings, live, .. } = &*slot.member;
            settings.admin_state == AdminState::Ready && !live.health.is_outsider()
        })
    }
}

impl<B> Cluster<B> {
    /// Takes a slot on the endpoint that failed least recently, of those that have the role and room, and were not attempted.
    pub(super) fn take_in_panic<'v>(
        &self,
        view: &'v View<B>,
        request: &RequestView<'_>,
        attempted: &Attempted,
    ) -> Option<(&'v Group<B>, usize)> {
        if !self.shared.panic.allowed || !view.is_left_by_health(request.role()) {
            return None;
        }
        for _ in 0..view.ready().count() {
            let (group, index, slot) = view
                .ready()
                .filter(|(_, _, EndpointSlot { member, .. })| {
                    member.has_role(request.role()) && member.is_below_limit() && !attempted.contains(member)
                })
                .min_by_key(|(_, _, slot)| (slot.member.last_failure(), slot.load().in_flight()))?;
            // As if it were alone, which health never keeps from serving.
            if slot.member.acquire(true) {
                self.shared.panic.enter();
                return Some((group, index));
            }
        }
        None
    }
}
