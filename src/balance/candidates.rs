use std::any::Any;
use std::fmt;

use crate::endpoint::{EndpointId, Lease, Listed, Member, Offers, Role};
use crate::hash;
use crate::health::slow_start::WHOLE;
use crate::view::{Layout, RotationCursor};

/// How many turns are taken in search of an eligible endpoint before all are looked at in order.
const TURNS: usize = 64;
/// How many endpoints in their slow start in a row may let a turn go by.
const RAMPED_TURNS: usize = 16;

/// The endpoints of a group that a policy chooses from, in configuration order, with those that cannot serve in their
/// places: a hash policy needs the whole list to keep its mapping.
#[derive(Clone, Copy)]
pub struct Candidates<'c> {
    layout: &'c Layout,
    tried: &'c Attempted,
    needed: Offers,
    table: Option<&'c (dyn Any + Send + Sync)>,
}

impl<'c> Candidates<'c> {
    /// The candidates for a request that needs `role`, where it was not tried before.
    pub(crate) fn new(layout: &'c Layout, tried: &'c Attempted, role: Option<Role>) -> Self {
        Candidates { layout, tried, needed: Offers::needed_for(role), table: layout.table.as_deref() }
    }

    /// How many endpoints there are, eligible or not.
    pub fn len(&self) -> usize {
        self.layout.members.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.layout.members.is_empty()
    }

    /// The endpoint at `index` of the configuration order, eligible or not.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn at(&self, index: usize) -> Candidate<'c> {
        Candidate { index, listed: &self.layout.members[index] }
    }

    /// Every endpoint, eligible or not.
    pub fn all(&self) -> impl ExactSizeIterator<Item = Candidate<'c>> + use<'c> {
        let layout = self.layout;
        layout.members.iter().enumerate().map(|(index, listed)| Candidate { index, listed })
    }

    /// The endpoints that can serve now.
    pub fn iter(&self) -> impl Iterator<Item = Candidate<'c>> + use<'c> {
        let this = *self;
        let all_healthy = this.all_healthy();
        this.all().filter(move |candidate| this.is_fit(*candidate, all_healthy))
    }

    /// May `candidate` serve this request now: it is ready, not ejected, not full, has the role that the request needs, and
    /// was not tried before?
    #[inline]
    pub fn is_eligible(&self, candidate: Candidate<'c>) -> bool {
        self.is_fit(candidate, self.all_healthy())
    }

    /// Is nothing said against anybody?
    #[inline]
    pub(super) fn all_healthy(&self) -> bool {
        self.layout.impaired.are_none()
    }

    /// Is `candidate` eligible, where it is `all_healthy` or not? Where it is, and there is no limit, the endpoint need not be looked at.
    #[inline]
    pub(super) fn is_fit(&self, candidate: Candidate<'c>, all_healthy: bool) -> bool {
        let Candidate { index, listed } = candidate;
        let offers = self.layout.offers[index];
        offers.include(self.needed)
            && (all_healthy && !offers.are_limited() || listed.can_serve(self.layout.alone))
            && !self.was_tried(listed)
    }

    /// The same for a request of a session that is bound to `candidate`.
    pub(crate) fn is_eligible_when_bound(&self, candidate: Candidate<'c>) -> bool {
        candidate.listed.is_eligible_when_bound(self.layout.alone, self.needed) && !self.was_tried(candidate.listed)
    }

    #[inline]
    fn was_tried(&self, listed: &Listed) -> bool {
        !self.tried.is_empty() && self.tried.has(listed.member.live.uid)
    }

    /// The sum of all weights, of endpoints that cannot serve too.
    pub fn total_weight(&self) -> u64 {
        self.layout.weights.total()
    }

    /// The endpoint that owns unit `unit` of the total weight, when each owns as many units in a row as it has weight.
    ///
    /// # Panics
    /// When `unit` is not below [`total_weight`](Self::total_weight).
    pub fn at_weight(&self, unit: u64) -> Candidate<'c> {
        self.at(self.layout.weights.owner(unit))
    }

    /// The same for unit `hash` modulo the total weight, faster.
    #[inline]
    pub(super) fn at_weight_modulo(&self, hash: u32) -> Candidate<'c> {
        self.at(self.layout.weights.owner_modulo(hash))
    }

    /// Takes a slot on `candidate`; false when another request was faster.
    #[inline]
    pub(crate) fn acquire(&self, candidate: Candidate<'c>) -> bool {
        candidate.listed.acquire(self.layout.alone, self.all_healthy())
    }

    /// Takes a turn: the next endpoint in smooth weighted round-robin order, eligible or not. None when no endpoint is
    /// ready. All cores share these turns. An endpoint in its slow start lets turns go by.
    #[inline]
    pub fn next_in_rotation(&self) -> Option<Candidate<'c>> {
        self.ramped(|| Some(self.at(self.layout.next_in_rotation()?)))
    }

    /// The same in a round that the present core has for itself, for what chooses among equals: the same shares, and in the same
    /// order as far as one core goes, without a counter that cores contend for.
    #[inline]
    pub(super) fn next_in_core_rotation(&self) -> Option<Candidate<'c>> {
        self.ramped(|| Some(self.at(self.layout.next_in_core_rotation()?)))
    }

    /// The endpoint whose turn is next in the present core's own round, eligible or not, unless it may be in its slow start: the
    /// turn is not taken yet, but can be.
    #[inline]
    pub(super) fn peek_core_rotation(&self) -> Option<(Candidate<'c>, RotationCursor<'c>)> {
        let (index, turn) = self.layout.peek_core_rotation()?;
        let candidate = self.at(index);
        (!candidate.listed.may_ramp()).then_some((candidate, turn))
    }

    /// Takes a turn in the present core's own round, and looks at `count` endpoints in smooth weighted round-robin order from
    /// there on, eligible or not: what a policy goes by that compares endpoints where there are too many to look at all of them.
    /// One in its slow start is left out in proportion to its ramp.
    pub fn next_in_rotation_of(&self, count: usize) -> impl Iterator<Item = Candidate<'c>> + use<'c> {
        let this = *self;
        self.layout
            .next_in_rotation_of(count)
            .map(move |index| this.at(index))
            .filter(|candidate| candidate.listed.uses_turn())
    }

    /// The next eligible endpoint in smooth weighted round-robin order.
    ///
    /// A turn that falls on an endpoint that cannot serve is given up for good and the next is taken. So the share of a
    /// dead endpoint is spread over all others by weight; walking on to its neighbour would double that one's load.
    #[inline]
    pub fn next_in_order(&self) -> Option<Candidate<'c>> {
        let first = self.next_in_rotation()?;
        if self.is_eligible(first) { Some(first) } else { self.next_of_the_others() }
    }

    /// The next eligible endpoint in order where the first cannot serve.
    #[cold]
    fn next_of_the_others(&self) -> Option<Candidate<'c>> {
        for _ in 1..self.layout.order.len().min(TURNS) {
            let candidate = self.next_in_rotation()?;
            if self.is_eligible(candidate) {
                return Some(candidate);
            }
        }
        // Endpoints that cannot serve own most turns. The shares of the others stay right, if not their order.
        let weights: u64 = self.iter().map(|candidate| candidate.effective_weight()).sum();
        let mut unit = self.layout.turns.take().wrapping_mul(WHOLE.into()).checked_rem(weights)?;
        self.iter().find(|candidate| match unit.checked_sub(candidate.effective_weight()) {
            Some(rest) => {
                unit = rest;
                false
            }
            None => true,
        })
    }

    /// Draws an endpoint at random by weight, from those that are ready. One in its slow start is drawn less often.
    #[inline]
    pub fn draw(&self) -> Option<Candidate<'c>> {
        let order = &self.layout.order;
        self.ramped(|| (!order.is_empty()).then(|| self.at(order[fastrand::usize(..order.len())] as usize)))
    }

    /// What `next` yields, but for endpoints in their slow start in proportion to their ramps. Where nearly all are in it,
    /// the last one is taken: they are equally cold.
    #[inline]
    fn ramped(&self, next: impl Fn() -> Option<Candidate<'c>>) -> Option<Candidate<'c>> {
        let first = next()?;
        if first.listed.uses_turn() { Some(first) } else { Self::ramped_after_first(next) }
    }

    #[cold]
    fn ramped_after_first(next: impl Fn() -> Option<Candidate<'c>>) -> Option<Candidate<'c>> {
        let mut candidate = next()?;
        for _ in 1..RAMPED_TURNS {
            if candidate.listed.uses_turn() {
                break;
            }
            candidate = next()?;
        }
        Some(candidate)
    }

    /// The eligible endpoint on which `key` has the highest rendezvous score (Thaler and Ravishankar 1998, weighted as in
    /// the CRUSH-like logarithmic method). Every front end finds the same, and an endpoint that leaves moves only its own
    /// keys. Placement goes by id and weight; order and address play no part.
    pub fn rendezvous(&self, key: &[u8]) -> Option<Candidate<'c>> {
        self.rendezvous_where(hash::key64(key), |_| true)
    }

    /// The same for a key that is a hash already, among the eligible endpoints that also `fit`: the first of them in the
    /// key's own order of preference, in which those that do not fit are passed over.
    pub fn rendezvous_where(&self, key: u64, fits: impl Fn(Candidate<'c>) -> bool) -> Option<Candidate<'c>> {
        let mut best: Option<(Candidate<'c>, u64, u32)> = None;
        for (index, (digest, weight)) in self.layout.placed.iter().enumerate() {
            let score = hash::neg_log2(hash::mix(key, *digest));
            // The lowest of -log2(u)/weight wins, compared by cross-multiplication: exact, and no division.
            let wins = best.is_none_or(|(_, least, of)| {
                u128::from(score) * u128::from(of) < u128::from(least) * u128::from(*weight)
            });
            // What wins is rare, so few members are looked at.
            if wins && self.is_eligible(self.at(index)) && fits(self.at(index)) {
                best = Some((self.at(index), score, *weight));
            }
        }
        best.map(|(candidate, ..)| candidate)
    }

    /// What the policy prepared for this view.
    pub fn table<T: 'static>(&self) -> Option<&'c T> {
        self.table?.downcast_ref()
    }

    pub(crate) fn with_table(mut self, table: &'c Table) -> Self {
        self.table = table.0.as_deref();
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
    index: usize,
    listed: &'c Listed,
}

impl<'c> Candidate<'c> {
    /// Its position in configuration order.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its id.
    pub fn id(&self) -> &'c EndpointId {
        &self.listed.member.settings.id
    }

    /// Its weight, at least 1.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.listed.weight()
    }

    /// Its weight in 1024ths, less during its slow start; at least 1. For policies that compare loads; hash policies go by
    /// [`weight`](Self::weight), so that a ramp moves no keys.
    #[inline]
    pub fn effective_weight(&self) -> u64 {
        u64::from(self.weight()) * u64::from(self.listed.share())
    }

    /// How many requests are in flight on it.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.listed.load().in_flight()
    }

    /// The name that places it on a hash ring: see [`Endpoint::placement`](crate::Endpoint::placement).
    pub fn placement(&self) -> &'c str {
        &self.listed.member.settings.placement
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.listed, other.listed)
    }
}

impl Eq for Candidate<'_> {}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("id", self.id()).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// What a policy derived from the members of a view: see [`Balancer::prepare`](super::Balancer::prepare).
#[derive(Default)]
pub struct Table(Option<Box<dyn Any + Send + Sync>>);

impl Table {
    /// Nothing to keep.
    pub const fn none() -> Self {
        Table(None)
    }

    /// Keeps `table` with the view.
    pub fn new<T: Send + Sync + 'static>(table: T) -> Self {
        Table(Some(Box::new(table)))
    }

    pub(crate) fn into_inner(self) -> Option<Box<dyn Any + Send + Sync>> {
        self.0
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.0.is_some()).finish()
    }
}

/// The endpoints on which a request was tried already. Allocates from the fifth on.
#[derive(Debug, Default)]
pub struct Attempted {
    first: [u64; 4],
    count: usize,
    more: Vec<u64>,
}

impl Attempted {
    /// None yet.
    pub fn none() -> Self {
        Attempted::default()
    }

    /// Adds the endpoint of `lease`, unless it is there already.
    pub fn add(&mut self, lease: &Lease) {
        self.insert(lease.uid());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn insert(&mut self, uid: u64) {
        if self.has(uid) {
            return;
        }
        match self.first.get_mut(self.count) {
            Some(slot) => *slot = uid,
            None => self.more.push(uid),
        }
        self.count += 1;
    }

    pub(crate) fn contains(&self, member: &Member) -> bool {
        self.has(member.live.uid)
    }

    #[inline(never)]
    fn has(&self, uid: u64) -> bool {
        self.first[..self.count.min(self.first.len())].contains(&uid) || self.more.contains(&uid)
    }
}
