use std::sync::Arc;
use std::time::Instant;

use super::load::{Load, LoadRef};
use super::{AdminState, EndpointSettings, Live, Role};
use crate::health::passive::PassiveState;

/// An endpoint's settings and live state.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Member {
    /// The first field, next to the member's own reference count, because the end of a request
    /// reads both.
    pub(crate) live: Arc<Live>,
    /// A copy of the reference in the live state.
    load: LoadRef,
    /// Behind a pointer, so that a request touches few cache lines.
    pub(crate) settings: Arc<EndpointSettings>,
}

impl Member {
    pub(crate) fn new(settings: Arc<EndpointSettings>, live: Arc<Live>) -> Self {
        Member { load: live.load.clone(), live, settings }
    }

    #[inline]
    pub(crate) fn load(&self) -> &Load {
        self.load.get()
    }

    /// Counts a request as in flight. Returns false if another request has just reached the limit,
    /// or has just become the one that tests an ejected endpoint. `bound` says that the session is
    /// bound to the endpoint, `past_limit` that the limit does not apply.
    pub(crate) fn acquire(&self, alone: bool, bound: bool, past_limit: bool) -> bool {
        let Member { settings, live, load } = self;
        if !load.get().begin(settings.max_in_flight.filter(|_| !past_limit)) {
            return false;
        }
        let now = || live.now_ms();
        if alone || (live.passive.choose(settings.rule, now) && live.health.choose(bound, now)) {
            return true;
        }
        load.get().undo_begin();
        false
    }

    /// Undoes an [`acquire`](Self::acquire) whose request is not sent.
    pub(super) fn withdraw(&self) {
        self.load.get().undo_begin();
    }

    /// Counts a request as ended.
    #[inline]
    pub(super) fn release(&self) {
        self.load.get().end(&self.live.wraps);
    }

    /// Returns whether the endpoint is out of service, even for bound sessions, for a reason other
    /// than its load.
    pub(crate) fn is_out(&self, alone: bool) -> bool {
        self.settings.admin_state == AdminState::Maintenance || self.is_withheld(alone, true)
    }

    /// Returns whether the endpoint has the role that a request needs.
    pub(crate) fn has_role(&self, role: Option<Role>) -> bool {
        role.is_none_or(|role| self.settings.roles.has(role))
    }

    /// Returns whether the endpoint is below its limit of requests in flight.
    pub(crate) fn is_below_limit(&self) -> bool {
        self.load().is_below(self.settings.max_in_flight)
    }

    /// Returns whether health keeps requests from the endpoint, regardless of the administrative
    /// state and limits. With `bound`, considers requests of sessions that are bound to it.
    #[cold]
    pub(crate) fn is_withheld(&self, alone: bool, bound: bool) -> bool {
        let Member { settings, live, .. } = self;
        (!alone && live.passive.is_ejected(settings.rule, || live.now_ms()))
            || live.health.is_unavailable(alone, bound, || live.now_ms())
    }

    /// Returns when the endpoint last failed, if ever. The times of different endpoints can be
    /// compared.
    pub(crate) fn last_failure(&self) -> Option<Instant> {
        let at = self.live.health.last_failure();
        (at > 0).then(|| self.live.instant(at))
    }

    /// Returns the current share of the weight, in units of
    /// [`WHOLE`](crate::health::slow_start::WHOLE).
    #[cold]
    pub(crate) fn share(&self) -> u32 {
        self.live.health.share(self.settings.slow_start, || self.live.now_ms())
    }

    /// Returns whether the endpoint takes the pick that rotation offers. While its share is
    /// reduced, it lets some picks pass.
    #[cold]
    pub(crate) fn takes_pick(&self) -> bool {
        self.live.health.takes_pick(self.settings.slow_start, || self.live.now_ms())
    }

    /// Returns the state of the endpoint by nginx's rule of `max_fails`.
    pub(crate) fn passive_state(&self, alone: bool) -> PassiveState {
        let Member { settings, live, .. } = self;
        live.passive.state(settings.rule, alone, || live.now_ms())
    }
}
