//! The entry of an endpoint in a view. It holds copies of the data that picks read. A normal pick
//! reads only half a cache line here and the endpoint's load.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::load::{Load, LoadBlock, LoadRef};
use super::{AdminState, Member, Role, Roles};
use crate::health::slow_start::WHOLE;

/// A member, with copies of the settings that picks read.
#[repr(align(32))]
pub(crate) struct EndpointSlot {
    /// The member. Picks return other references, because their counts change with each pick.
    pub(crate) member: Arc<Member>,
    /// The block that holds the member's load, and the index there.
    block: Arc<LoadBlock>,
    index: u16,
    weight: u32,
    max_in_flight: Option<NonZeroU32>,
    flags: EligibilityFlags,
    has_slow_start: bool,
}

impl EndpointSlot {
    pub(crate) fn new(member: Member) -> Self {
        let settings = &member.settings;
        let LoadRef { block, index } = member.live.load.clone();
        EndpointSlot {
            block,
            index,
            weight: settings.weight.get(),
            max_in_flight: settings.max_in_flight,
            flags: EligibilityFlags::new(settings.admin_state, settings.roles, settings.max_in_flight.is_some()),
            has_slow_start: settings.slow_start.is_some(),
            member: Arc::new(member),
        }
    }

    pub(crate) fn flags(&self) -> EligibilityFlags {
        self.flags
    }

    /// Returns whether the endpoint may serve a request of a session that is bound to it. It may be
    /// draining.
    pub(crate) fn is_eligible_when_bound(&self, alone: bool, needed: EligibilityFlags, past_limit: bool) -> bool {
        self.member.settings.admin_state != AdminState::Maintenance
            && self.flags.contain(needed.without_ready())
            && self.is_available(alone, true, past_limit)
    }

    /// Returns whether health and the limit of requests in flight let the endpoint serve. `bound`
    /// is for sessions that are bound to it; with `past_limit` the limit does not apply.
    #[inline]
    pub(crate) fn is_available(&self, alone: bool, bound: bool, past_limit: bool) -> bool {
        (past_limit || self.load().is_below(self.max_in_flight))
            && (self.member.live.is_unimpaired() || !self.member.is_withheld(alone, bound))
    }

    /// Counts a request as in flight. Returns false if another request has just reached the limit,
    /// or has just become the one that tests an ejected endpoint. `all_healthy` says that no
    /// endpoint of the cluster is impaired.
    #[inline]
    pub(crate) fn acquire(&self, alone: bool, bound: bool, all_healthy: bool, past_limit: bool) -> bool {
        if all_healthy {
            self.load().begin(self.max_in_flight.filter(|_| !past_limit))
        } else {
            self.member.acquire(alone, bound, past_limit)
        }
    }

    /// Returns the weight, at least 1.
    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    #[inline]
    pub(crate) fn load(&self) -> &Load {
        self.block.at(self.index)
    }

    /// Returns the current share of the weight, in units of [`WHOLE`]. It is reduced during a slow
    /// start, and while the node refuses connections. `all_healthy` says that no endpoint of the
    /// cluster is impaired.
    #[inline]
    pub(crate) fn share(&self, all_healthy: bool) -> u32 {
        if self.has_slow_start || !all_healthy { self.member.share() } else { WHOLE }
    }

    /// Returns whether the endpoint takes the pick that rotation offers. While its share is
    /// reduced, it lets some picks pass.
    #[inline]
    pub(crate) fn takes_pick(&self, all_healthy: bool) -> bool {
        (!self.has_slow_start && all_healthy) || self.member.takes_pick()
    }
}

/// A set of flags. For an endpoint they say whether it is ready, its roles, and whether it has a
/// limit of requests in flight. For a request they say what it needs of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EligibilityFlags(u8);

impl EligibilityFlags {
    const READY: u8 = 0x80;
    const LIMITED: u8 = 0x40;

    fn new(admin_state: AdminState, roles: Roles, limited: bool) -> Self {
        let ready = if admin_state == AdminState::Ready { EligibilityFlags::READY } else { 0 };
        let limited = if limited { EligibilityFlags::LIMITED } else { 0 };
        EligibilityFlags(ready | limited | roles.bits())
    }

    /// Returns the flags that an endpoint needs to serve a new request: ready, and with `role` if
    /// there is one.
    pub(crate) fn needed_for(role: Option<Role>) -> Self {
        EligibilityFlags::new(AdminState::Ready, role.map_or(Roles::NONE, Roles::only), false)
    }

    #[inline]
    pub(crate) fn are_limited(self) -> bool {
        self.0 & EligibilityFlags::LIMITED != 0
    }

    fn without_ready(self) -> Self {
        EligibilityFlags(self.0 & !EligibilityFlags::READY)
    }

    #[inline]
    pub(crate) fn contain(self, needed: EligibilityFlags) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// Two slots fill a cache line, and none crosses a boundary.
const _: () = assert!(size_of::<EndpointSlot>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::endpoint::{Endpoint, Live, Loads};
    use crate::health::impaired::ImpairedCount;

    #[test]
    fn a_limit_admits_exactly_that_many_requests() {
        let live = Live::new(Loads::new().next(0), Arc::new(SystemClock), None, ImpairedCount::default());
        let endpoint = Endpoint::new("a", ()).unwrap().max_in_flight(NonZeroU32::new(2));
        let slot = EndpointSlot::new(Member::new(Arc::new(endpoint.settings), Arc::new(live)));
        assert!(slot.acquire(false, false, true, false) && slot.acquire(false, false, false, false));
        assert!(
            !slot.acquire(false, false, true, false)
                && !slot.acquire(false, false, false, false)
                && !slot.is_available(false, false, false)
        );
        slot.member.release();
        assert!(slot.is_available(false, false, false) && slot.acquire(false, false, true, false));
        assert_eq!(slot.load().in_flight(), 2);
        assert!(slot.is_available(false, false, true) && slot.acquire(false, false, true, true));
    }
}
