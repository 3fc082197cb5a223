use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;

use super::{Attempted, Table};
use crate::endpoint::{EligibilityFlags, EndpointId, EndpointSlot, Role};
use crate::hash;
use crate::health::slow_start::WHOLE;
use crate::view::{Layout, RotationCursor};

/// The number of picks that rotation offers before every endpoint is searched for an eligible one.
const MAX_ROTATIONS: usize = 64;
/// How many endpoints in slow start may in a row let a pick pass.
const MAX_PASSED: usize = 16;

/// The endpoints of a group that a policy chooses from, in configuration order. They include
/// endpoints that are not eligible, because a hash policy needs the whole list to keep its mapping.
#[derive(Clone, Copy)]
pub struct Candidates<'c> {
    layout: &'c Layout,
    attempted: &'c Attempted,
    needed: EligibilityFlags,
    /// Whether limits of requests in flight do not apply, because the request waits for a slot or
    /// needs none.
    past_limits: bool,
    /// Whether the request gets a slot before waiting requests of users with more than eight
    /// shares.
    passes_flood: bool,
    table: Option<&'c (dyn Any + Send + Sync)>,
}

impl<'c> Candidates<'c> {
    /// Returns the candidates for a request that needs `role` and has been sent to the `attempted`
    /// endpoints.
    pub(crate) fn new(layout: &'c Layout, attempted: &'c Attempted, role: Option<Role>) -> Self {
        let needed = EligibilityFlags::needed_for(role);
        Candidates {
            layout,
            attempted,
            needed,
            past_limits: false,
            passes_flood: false,
            table: layout.table.as_deref(),
        }
    }

    /// Sets whether full endpoints are eligible.
    #[inline]
    pub(crate) fn past_limits(mut self, past_limits: bool) -> Self {
        self.past_limits = past_limits;
        self
    }

    /// Sets whether loads exclude the waiting requests of users with more than eight shares.
    #[inline]
    pub(crate) fn passing_flood(mut self, passes_flood: bool) -> Self {
        self.passes_flood = passes_flood;
        self
    }

    /// Returns the number of endpoints, eligible or not.
    pub fn len(&self) -> usize {
        self.layout.slots.len()
    }

    /// Returns whether there is no endpoint, eligible or not.
    pub fn is_empty(&self) -> bool {
        self.layout.slots.is_empty()
    }

    /// Returns the endpoint at `index` of the configuration order, eligible or not.
    ///
    /// # Panics
    /// Panics if `index` is not below [`len`](Self::len).
    pub fn at(&self, index: usize) -> Candidate<'c> {
        Candidate::new(index, &self.layout.slots[index], self.all_healthy(), self.passes_flood)
    }

    /// Returns every endpoint, eligible or not.
    pub fn all(&self) -> impl ExactSizeIterator<Item = Candidate<'c>> + use<'c> {
        let (layout, all_healthy, passes_flood) = (self.layout, self.all_healthy(), self.passes_flood);
        let slots = layout.slots.iter().enumerate();
        slots.map(move |(index, slot)| Candidate::new(index, slot, all_healthy, passes_flood))
    }

    /// Returns the eligible endpoints.
    pub fn iter(&self) -> impl Iterator<Item = Candidate<'c>> + use<'c> {
        let this = *self;
        let all_healthy = this.all_healthy();
        this.all().filter(move |candidate| this.is_eligible_if(*candidate, all_healthy))
    }

    /// Returns whether `candidate` may serve this request: it is ready, neither ejected nor full,
    /// has the role that the request needs, and was not attempted before. For a query that
    /// [waits](crate::admission::QueueRules), a full endpoint is eligible too.
    #[inline]
    pub fn is_eligible(&self, candidate: Candidate<'c>) -> bool {
        self.is_eligible_if(candidate, self.all_healthy())
    }

    /// Returns whether no endpoint of the cluster is impaired.
    #[inline]
    pub(super) fn all_healthy(&self) -> bool {
        self.layout.impaired.is_zero()
    }

    /// Like [`is_eligible`](Self::is_eligible), for a known [`all_healthy`](Self::all_healthy). If
    /// all endpoints are healthy and this one has no limit, its slot is not read.
    #[inline]
    pub(super) fn is_eligible_if(&self, candidate: Candidate<'c>, all_healthy: bool) -> bool {
        let Candidate { slot, .. } = candidate;
        let flags = self.layout.flags[candidate.index()];
        flags.contain(self.needed)
            && (all_healthy && (!flags.are_limited() || self.past_limits)
                || slot.is_available(self.layout.alone, false, self.past_limits))
            && !self.was_attempted(slot)
    }

    /// Returns whether `candidate` may serve a request of a session that is bound to it.
    pub(crate) fn is_eligible_when_bound(&self, candidate: Candidate<'c>) -> bool {
        candidate.slot.is_eligible_when_bound(self.layout.alone, self.needed, self.past_limits)
            && !self.was_attempted(candidate.slot)
    }

    #[inline]
    fn was_attempted(&self, slot: &EndpointSlot) -> bool {
        // Checked first: a first attempt need not read the slot.
        !self.attempted.excludes_none() && self.attempted.contains(&slot.member)
    }

    /// Counts a request as in flight on `candidate`. Returns false if another request has just
    /// reached its limit.
    #[inline]
    pub(crate) fn acquire(&self, candidate: Candidate<'c>) -> bool {
        candidate.slot.acquire(self.layout.alone, false, self.all_healthy(), self.past_limits)
    }

    /// Counts a request of a session that is bound to `candidate` as in flight on it. Returns false
    /// if another request has just reached its limit.
    pub(crate) fn acquire_bound(&self, candidate: Candidate<'c>) -> bool {
        candidate.slot.acquire(self.layout.alone, true, self.all_healthy(), self.past_limits)
    }

    /// Returns the sum of all weights, including those of endpoints that are not eligible.
    pub fn total_weight(&self) -> u64 {
        self.layout.weights.total()
    }

    /// Returns the owner of unit `hash` modulo the total weight, without a division. Each endpoint
    /// owns as many consecutive units as it has weight.
    #[inline]
    pub(super) fn at_weight_modulo(&self, hash: u32) -> Candidate<'c> {
        self.at(self.layout.weights.owner_modulo(hash))
    }

    /// Advances the rotation that all cores share, and returns the next endpoint in smooth weighted
    /// round-robin order, eligible or not. Returns `None` if no endpoint is ready. An endpoint in
    /// its slow start lets some picks pass.
    #[inline]
    pub fn next_in_rotation(&self) -> Option<Candidate<'c>> {
        self.ramped(|| Some(self.at(self.layout.rotation.next()?)))
    }

    /// Advances the rotation of the current core, and returns the next endpoint. The shares are
    /// those of [`next_in_rotation`](Self::next_in_rotation), but cores do not contend for a
    /// counter. Used to choose among equals.
    #[inline]
    pub(super) fn next_in_core_rotation(&self) -> Option<Candidate<'c>> {
        self.ramped(|| Some(self.at(self.layout.rotation.next_of_core()?)))
    }

    /// Returns the next endpoint in the rotation of the current core, eligible or not, and the
    /// cursor that advances it. Returns `None` if the share of that endpoint may be reduced.
    #[inline]
    pub(super) fn peek_core_rotation(&self) -> Option<(Candidate<'c>, RotationCursor<'c>)> {
        let (index, cursor) = self.layout.rotation.peek_of_core()?;
        let candidate = self.at(index);
        (candidate.slot.share(candidate.all_healthy) == WHOLE).then_some((candidate, cursor))
    }

    /// Advances the rotation of the current core by one, and returns up to `count` endpoints in
    /// smooth weighted round-robin order from there on, eligible or not. Meant for policies that
    /// cannot compare all endpoints because there are too many. An endpoint in its slow start is
    /// left out in proportion to its ramp.
    pub fn rotation_window(&self, count: usize) -> impl Iterator<Item = Candidate<'c>> + use<'c> {
        let this = *self;
        let window = self.layout.rotation.window_of_core(count).map(move |index| this.at(index));
        window.filter(|candidate| candidate.takes_pick())
    }

    /// Returns the next eligible endpoint in smooth weighted round-robin order.
    ///
    /// If an endpoint is not eligible, its pick passes to the next in order, and it does not catch
    /// up later. The share of a dead endpoint is spread over all others by weight. If its neighbour
    /// took the whole share, that neighbour would have twice the load.
    #[inline]
    pub fn next_eligible(&self) -> Option<Candidate<'c>> {
        let first = self.next_in_rotation()?;
        if self.is_eligible(first) { Some(first) } else { self.next_eligible_after_first() }
    }

    #[cold]
    fn next_eligible_after_first(&self) -> Option<Candidate<'c>> {
        let rotation = &self.layout.rotation;
        for _ in 1..rotation.order().len().min(MAX_ROTATIONS) {
            let candidate = self.next_in_rotation()?;
            if self.is_eligible(candidate) {
                return Some(candidate);
            }
        }
        // Most of the round belongs to endpoints that are not eligible. The others keep their
        // shares, but not their order.
        let weights: u64 = self.iter().map(|candidate| candidate.effective_weight()).sum();
        let mut unit = rotation.advance().wrapping_mul(WHOLE.into()).checked_rem(weights)?;
        self.iter().find(|candidate| match unit.checked_sub(candidate.effective_weight()) {
            Some(rest) => {
                unit = rest;
                false
            }
            None => true,
        })
    }

    /// Draws a ready endpoint at random by weight, eligible or not. An endpoint in its slow start
    /// is drawn less often.
    #[inline]
    pub fn draw(&self) -> Option<Candidate<'c>> {
        let order = self.layout.rotation.order();
        self.ramped(|| (!order.is_empty()).then(|| self.at(order[fastrand::usize(..order.len())] as usize)))
    }

    /// Returns an endpoint that `next` yields. An endpoint in its slow start is returned only in
    /// proportion to its ramp. If nearly all are in their slow start, the last one is returned,
    /// because they are equally cold.
    #[inline]
    fn ramped(&self, next: impl Fn() -> Option<Candidate<'c>>) -> Option<Candidate<'c>> {
        let first = next()?;
        if first.takes_pick() { Some(first) } else { Self::ramped_after_first(next) }
    }

    #[cold]
    fn ramped_after_first(next: impl Fn() -> Option<Candidate<'c>>) -> Option<Candidate<'c>> {
        let mut candidate = next()?;
        for _ in 1..MAX_PASSED {
            if candidate.takes_pick() {
                break;
            }
            candidate = next()?;
        }
        Some(candidate)
    }

    /// Returns the eligible endpoint on which `key` has the highest rendezvous score (Thaler and
    /// Ravishankar 1998, weighted by the logarithmic method). Every front end finds the same
    /// endpoint, and an endpoint that leaves moves only its own keys. The score depends on id and
    /// weight, not on order or address.
    pub fn rendezvous(&self, key: &[u8]) -> Option<Candidate<'c>> {
        self.rendezvous_where(hash::key64(key), |_| true)
    }

    /// Returns the eligible endpoint with the highest rendezvous score among those for which
    /// `accept` returns true. `key` is already a hash.
    pub fn rendezvous_where(&self, key: u64, accept: impl Fn(Candidate<'c>) -> bool) -> Option<Candidate<'c>> {
        let mut best: Option<(Candidate<'c>, u64, u32)> = None;
        for (index, (id_hash, weight)) in self.layout.rendezvous.iter().enumerate() {
            let score = hash::neg_log2(hash::mix(key, *id_hash));
            // The lowest of -log2(u)/weight wins, compared by cross-multiplication: exact, and no
            // division.
            let wins = best.is_none_or(|(_, least, of)| {
                u128::from(score) * u128::from(of) < u128::from(least) * u128::from(*weight)
            });
            // A slot is read only if its score wins, which few do.
            if wins && self.is_eligible(self.at(index)) && accept(self.at(index)) {
                best = Some((self.at(index), score, *weight));
            }
        }
        best.map(|(candidate, ..)| candidate)
    }

    /// Returns the table that the policy prepared for this view.
    pub fn table<T: 'static>(&self) -> Option<&'c T> {
        self.table?.downcast_ref()
    }

    pub(super) fn with_table(mut self, table: &'c Table) -> Self {
        self.table = table.as_deref();
        self
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

/// One endpoint that a policy may choose.
#[derive(Clone, Copy)]
pub struct Candidate<'c> {
    /// 32 bits, so that a candidate fits into two registers.
    index: u32,
    /// No endpoint of the cluster is impaired, so only a slow start can reduce the share.
    all_healthy: bool,
    passes_flood: bool,
    slot: &'c EndpointSlot,
}

impl<'c> Candidate<'c> {
    #[inline]
    fn new(index: usize, slot: &'c EndpointSlot, all_healthy: bool, passes_flood: bool) -> Self {
        // A view has fewer endpoints than 2^32, as rotation requires.
        Candidate { index: index as u32, all_healthy, passes_flood, slot }
    }

    #[inline]
    fn takes_pick(self) -> bool {
        self.slot.takes_pick(self.all_healthy)
    }

    /// Returns the position in configuration order.
    #[inline]
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Returns the id.
    pub fn id(&self) -> &'c EndpointId {
        &self.slot.member.settings.id
    }

    /// Returns the weight, at least 1.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.slot.weight()
    }

    /// Returns the weight in 1024ths, at least 1. It is lower during a slow start, while the node
    /// refuses connections, and while the node is
    /// [slow](crate::admission::QueueRules::slow_weights). It is meant for policies that compare
    /// loads. Hash policies use [`weight`](Self::weight), so that a ramp moves no keys.
    #[inline]
    pub fn effective_weight(&self) -> u64 {
        u64::from(self.weight()) * u64::from(self.slot.share(self.all_healthy))
    }

    /// Returns how many requests are in flight or [wait](crate::admission::QueueRules) for the
    /// endpoint. Waiting requests of a user who [floods](crate::docs::waiting) do not count,
    /// because other requests pass them. They do count for a query of such a user.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        let all = self.slot.load().in_flight();
        if self.passes_flood { all.saturating_sub(self.slot.member.live.waiting_of_floods()) } else { all }
    }

    /// Returns the [limit](crate::Endpoint::max_in_flight) of requests in flight; `None` if there
    /// is no limit. [`in_flight`](Self::in_flight) may exceed it while requests wait.
    pub fn max_in_flight(&self) -> Option<NonZeroU32> {
        self.slot.member.settings.max_in_flight
    }

    /// Returns the name that places the endpoint on a hash ring: see
    /// [`Endpoint::placement`](crate::Endpoint::placement).
    pub fn placement(&self) -> &'c str {
        &self.slot.member.settings.placement
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.slot, other.slot)
    }
}

impl Eq for Candidate<'_> {}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("id", self.id()).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
