//! An endpoint as a view lists it: what picks ask stands side by side, so that one that meets nothing unusual reads half a cache
//! line here and the endpoint's load.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::load::{Block, Load, LoadRef};
use super::{AdminState, Member, Role, Roles};
use crate::health::slow_start::WHOLE;

/// A member, and copies of those of its settings that picks read.
#[repr(align(32))]
pub(crate) struct Listed {
    /// Not one of those that are handed out, whose count of references changes with each pick.
    pub(crate) member: Arc<Member>,
    /// Where the member's load is: the block, and the index in it.
    block: Arc<Block>,
    index: u16,
    weight: u32,
    max_in_flight: Option<NonZeroU32>,
    offers: Offers,
    /// May it be in a slow start?
    ramps: bool,
}

impl Listed {
    pub(crate) fn new(member: Member) -> Self {
        let settings = &member.settings;
        let LoadRef { block, index } = member.live.load.clone();
        Listed {
            block,
            index,
            weight: settings.weight.get(),
            max_in_flight: settings.max_in_flight,
            offers: Offers::of(settings.admin_state, settings.roles).limited(settings.max_in_flight.is_some()),
            ramps: settings.slow_start.is_some(),
            member: Arc::new(member),
        }
    }

    /// What it offers by its settings.
    pub(crate) fn offers(&self) -> Offers {
        self.offers
    }

    /// May a request go to it that belongs to a session which is bound to it? Draining keeps those.
    pub(crate) fn is_eligible_when_bound(&self, alone: bool, needed: Offers) -> bool {
        let intended = self.member.settings.admin_state != AdminState::Maintenance;
        intended && self.offers.include(needed.though_not_ready()) && self.can_serve(alone)
    }

    /// Do health and limits let it serve?
    #[inline]
    pub(crate) fn can_serve(&self, alone: bool) -> bool {
        self.load().is_below(self.max_in_flight) && (self.member.live.is_spotless() || !self.member.is_barred(alone))
    }

    /// Takes a slot. False when the last one, or the only probe of an ejected endpoint, has just gone to another request.
    /// Where it is `calm`, nothing is said against any endpoint.
    #[inline]
    pub(crate) fn acquire(&self, alone: bool, calm: bool) -> bool {
        if calm { self.load().count.begin(self.max_in_flight) } else { self.member.acquire(alone) }
    }

    /// Its weight, at least 1.
    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// What it has to do at present.
    #[inline]
    pub(crate) fn load(&self) -> &Load {
        self.block.at(self.index)
    }

    /// The share of its weight that it has at present, of [`WHOLE`].
    #[inline]
    pub(crate) fn share(&self) -> u32 {
        if self.ramps { self.member.share() } else { WHOLE }
    }

    /// May it be in a slow start?
    #[inline]
    pub(crate) fn may_ramp(&self) -> bool {
        self.ramps
    }

    /// Does it use the turn that has fallen on it? Not each one during a slow start.
    #[inline]
    pub(crate) fn uses_turn(&self) -> bool {
        !self.ramps || self.member.uses_turn()
    }
}

/// What an endpoint offers by its settings, and what a request needs of one: to be ready, and roles. Of an endpoint also
/// whether it has a limit of requests in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offers(u8);

impl Offers {
    const READY: u8 = 0x80;
    const LIMITED: u8 = 0x40;

    fn of(admin_state: AdminState, roles: Roles) -> Self {
        let ready = if admin_state == AdminState::Ready { Offers::READY } else { 0 };
        Offers(ready | roles.bits())
    }

    /// What a request needs that goes to any endpoint with `role`.
    pub(crate) fn needed_for(role: Option<Role>) -> Self {
        Offers::of(AdminState::Ready, role.map_or(Roles::NONE, Roles::only))
    }

    fn limited(self, limited: bool) -> Self {
        if limited { Offers(self.0 | Offers::LIMITED) } else { self }
    }

    #[inline]
    pub(crate) fn are_limited(self) -> bool {
        self.0 & Offers::LIMITED != 0
    }

    fn though_not_ready(self) -> Self {
        Offers(self.0 & !Offers::READY)
    }

    #[inline]
    pub(crate) fn include(self, needed: Offers) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// Two to a cache line, and none across the border of two.
const _: () = assert!(size_of::<Listed>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::endpoint::{Endpoint, Live, Loads};
    use crate::health::impaired::ImpairedCount;

    #[test]
    fn a_limit_leaves_as_many_slots_as_it_says() {
        let live = Live::new(Loads::new().next(0), Arc::new(SystemClock), None, ImpairedCount::default());
        let endpoint = Endpoint::new("a", ()).unwrap().max_in_flight(NonZeroU32::new(2));
        let listed = Listed::new(Member::new(Arc::new(endpoint.settings), Arc::new(live)));
        assert!(listed.acquire(false, true) && listed.acquire(false, false));
        assert!(!listed.acquire(false, true) && !listed.acquire(false, false) && !listed.can_serve(false));
        listed.member.end();
        assert!(listed.can_serve(false) && listed.acquire(false, true));
        assert_eq!(listed.load().in_flight(), 2);
    }
}
