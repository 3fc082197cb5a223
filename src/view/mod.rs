//! The published state of a cluster that picks read: immutable, replaced as a whole at every change.

mod per_core;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;

pub(crate) use self::per_core::{EndpointRef, PerCoreRefs};
use crate::endpoint::{AdminState, EndpointHint, EndpointId, Listed, Member, Offers};
use crate::health::impaired::ImpairedCount;
use crate::shard;

/// All endpoints of a cluster, in two groups.
pub(crate) struct View<B> {
    pub(crate) primary: Group<B>,
    pub(crate) backup: Group<B>,
    /// Where each endpoint stands: in the backup group or not, and at which index.
    places: AHashMap<EndpointId, Place>,
    /// The same by the hash of the id, and by the hash of the route.
    by_digest: AHashMap<u64, Place>,
    by_route: AHashMap<u64, Place>,
}

/// Backup or not, and the index in the group.
type Place = (bool, u32);

impl<B> View<B> {
    pub(crate) fn new(primary: Group<B>, backup: Group<B>) -> Self {
        let mut view =
            View { places: AHashMap::new(), by_digest: AHashMap::new(), by_route: AHashMap::new(), primary, backup };
        for (is_backup, group) in [(false, &view.primary), (true, &view.backup)] {
            for (index, listed) in (0_u32..).zip(&group.layout.members) {
                let settings = &listed.member.settings;
                view.places.insert(settings.id.clone(), (is_backup, index));
                view.by_digest.insert(settings.id.hash64(), (is_backup, index));
                if let Some(EndpointHint::RouteHash(route)) =
                    settings.route.as_ref().map(|route| EndpointHint::route(route.as_bytes()))
                {
                    // Of two endpoints with one route the first has it, a primary before a backup.
                    view.by_route.entry(route).or_insert((is_backup, index));
                }
            }
        }
        view
    }

    /// The group and the index of the endpoint called `id`.
    pub(crate) fn find(&self, id: &str) -> Option<(&Group<B>, usize)> {
        self.group(*self.places.get(id)?)
    }

    /// The same for the endpoint that `hint` names.
    pub(crate) fn find_hinted(&self, hint: &EndpointHint) -> Option<(&Group<B>, usize)> {
        self.group(match hint {
            EndpointHint::Id(id) => *self.places.get(id)?,
            EndpointHint::IdHash(digest) => *self.by_digest.get(digest)?,
            EndpointHint::RouteHash(route) => *self.by_route.get(route)?,
            EndpointHint::Any | EndpointHint::Key(_) => return None,
        })
    }

    fn group(&self, (backup, index): Place) -> Option<(&Group<B>, usize)> {
        Some((if backup { &self.backup } else { &self.primary }, index as usize))
    }
}

/// Endpoints that stand in for each other.
pub(crate) struct Group<B> {
    pub(crate) layout: Layout,
    /// Parallel to `layout.members`.
    pub(crate) refs: PerCoreRefs<B>,
}

/// What a policy needs to know of a group.
pub(crate) struct Layout {
    /// In configuration order.
    pub(crate) members: Vec<Listed>,
    /// What each of them offers: side by side, since in most picks it is all that is asked of an endpoint.
    pub(crate) offers: Vec<Offers>,
    /// Those on its members, and on those of the cluster's other group.
    pub(crate) impaired: ImpairedCount,
    /// Who owns which part of the total weight.
    pub(crate) weights: Weights,
    /// The hash of each member's id and its weight, for rendezvous hashing: side by side, since it looks at all.
    pub(crate) placed: Vec<(u64, u32)>,
    /// One round of smooth weighted round robin over the members that are ready, as indices.
    pub(crate) order: Vec<u32>,
    round: Modulus,
    /// How many turns have been taken; carried over from view to view so that a change causes no burst.
    pub(crate) turns: Arc<Turns>,
    /// The cluster has one endpoint, which is then never ejected.
    pub(crate) alone: bool,
    /// What the policy derived from this very view.
    pub(crate) table: Option<Box<dyn Any + Send + Sync>>,
}

/// How many turns of the smooth order have been taken: by all, and by each core for itself.
#[derive(Debug)]
pub(crate) struct Turns {
    shared: Counter,
    /// Where order matters only among equals, cores need not agree on whose turn it is, as nginx's workers do not. Each goes
    /// through the order, so that shares are kept, and none waits for the counter of all.
    of_cores: Vec<Counter>,
}

/// A counter on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

impl Counter {
    /// How many turns have been taken.
    #[inline]
    fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn take(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// A turn that was looked at.
pub(crate) struct RotationCursor<'t>(&'t Counter);

impl RotationCursor<'_> {
    #[inline]
    pub(crate) fn take(self) {
        self.0.take();
    }
}

impl Default for Turns {
    fn default() -> Self {
        let of_cores = std::iter::repeat_with(Counter::default).take(shard::count()).collect();
        Turns { shared: Counter::default(), of_cores }
    }
}

impl Turns {
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        self.shared.take()
    }

    #[inline]
    fn of_core(&self) -> &Counter {
        &self.of_cores[shard::of_thread(self.of_cores.len())]
    }
}

impl Layout {
    pub(crate) fn new(
        members: impl Iterator<Item = Member>,
        turns: Arc<Turns>,
        impaired: ImpairedCount,
        alone: bool,
    ) -> Self {
        let members: Vec<Listed> = members.map(Listed::new).collect();
        let settings = || members.iter().map(|listed| &listed.member.settings);
        let weights = Weights::new(settings().map(|settings| settings.weight.get()));
        let ready: Vec<(u32, u32)> = (0_u32..)
            .zip(settings())
            .filter(|(_, settings)| settings.admin_state == AdminState::Ready)
            .map(|(index, settings)| (index, settings.weight.get()))
            .collect();
        let placed = settings().map(|settings| (settings.id.hash64(), settings.weight.get())).collect();
        let order = smooth_order(&ready);
        let round = Modulus::new(order.len() as u64);
        let offers = members.iter().map(Listed::offers).collect();
        Layout { members, offers, weights, placed, order, round, turns, impaired, alone, table: None }
    }

    /// The member whose turn it is, fit to serve or not; none when no member is ready.
    #[inline]
    pub(crate) fn next_in_rotation(&self) -> Option<usize> {
        let place = self.place_of(|| self.turns.take())?;
        Some(self.order[place] as usize)
    }

    /// The same in this core's own round.
    #[inline]
    pub(crate) fn next_in_core_rotation(&self) -> Option<usize> {
        let place = self.place_of(|| self.turns.of_core().take())?;
        Some(self.order[place] as usize)
    }

    /// The member whose turn is next in this core's own round. The turn is not taken yet, but can be.
    #[inline]
    pub(crate) fn peek_core_rotation(&self) -> Option<(usize, RotationCursor<'_>)> {
        let counter = self.turns.of_core();
        let place = self.place_of(|| counter.taken())?;
        Some((self.order[place] as usize, RotationCursor(counter)))
    }

    /// Takes a turn in this core's own round: the members from there on, which keep their turns; `count` at most, and each place of
    /// the order once. Cores begin in different parts of the order, or those that pick at the same rate would all look at the
    /// same members.
    pub(crate) fn next_in_rotation_of(&self, count: usize) -> impl Iterator<Item = usize> + use<'_> {
        let cores = self.turns.of_cores.len();
        let core = shard::of_thread(cores);
        // A power of two, by which nothing need be divided.
        let begin = (self.order.len() * core) >> cores.trailing_zeros();
        let turn = || self.turns.of_cores[core].take().wrapping_add(begin as u64);
        let place = self.place_of(turn).unwrap_or(0);
        let (before, after) = self.order.split_at(place);
        after.iter().chain(before).take(count).map(|index| *index as usize)
    }

    /// The place in the order of a turn.
    #[inline]
    fn place_of(&self, turn: impl FnOnce() -> u64) -> Option<usize> {
        match self.order.len() {
            0 => None,
            1 => Some(0),
            _ => Some(self.round.rest(turn()) as usize),
        }
    }
}

/// Which member owns which units of the total weight, when each owns as many in a row as it has weight; those out of service
/// own theirs too.
pub(crate) struct Weights {
    /// The sum of the weights of members 0 to i.
    until: Vec<u64>,
    /// The owner of each unit; empty where there are too many units.
    owners: Vec<u32>,
    total: Modulus,
}

impl Weights {
    fn new(weights: impl ExactSizeIterator<Item = u32> + Clone) -> Self {
        let until: Vec<u64> = weights
            .clone()
            .scan(0_u64, |sum, weight| {
                *sum += u64::from(weight);
                Some(*sum)
            })
            .collect();
        let total = until.last().copied().unwrap_or(0);
        let few = total <= longest_list(until.len());
        let owned = (0_u32..).zip(weights).filter(|_| few);
        let owners = owned.flat_map(|(index, weight)| std::iter::repeat_n(index, weight as usize)).collect();
        Weights { until, owners, total: Modulus::new(total) }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.length
    }

    /// The owner of unit `unit`, which is below the total.
    #[inline]
    pub(crate) fn owner(&self, unit: u64) -> usize {
        match self.owners.get(unit as usize) {
            Some(index) => *index as usize,
            None => self.until.partition_point(|until| *until <= unit),
        }
    }

    /// The owner of unit `number` modulo the total.
    #[inline]
    pub(crate) fn owner_modulo(&self, number: u32) -> usize {
        self.owner(self.total.rest(number.into()))
    }
}

/// Divides by the same number again and again.
struct Modulus {
    length: u64,
    /// 2^64 / length, rounded up; 0 where the length is 1, or more than 32 bits.
    inverse: u64,
}

impl Modulus {
    fn new(length: u64) -> Self {
        let inverse = match u32::try_from(length) {
            Ok(2..) => u64::MAX / length + 1,
            _ => 0,
        };
        Modulus { length, inverse }
    }

    /// `number % length`, by two multiplications instead of a division where both have 32 bits (Lemire, Kaser, Kurz 2019).
    #[inline]
    fn rest(&self, number: u64) -> u64 {
        if self.inverse == 0 || number > u32::MAX.into() {
            return number.checked_rem(self.length).unwrap_or(0);
        }
        ((u128::from(self.inverse.wrapping_mul(number)) * u128::from(self.length)) >> 64) as u64
    }
}

/// The longest order that is precomputed for a group of at most this many endpoints over 16.
const ORDER_LIMIT: u64 = 1 << 16;

/// How long a list by weights may become that is kept for so many endpoints.
fn longest_list(endpoints: usize) -> u64 {
    ORDER_LIMIT.max(16 * endpoints as u64)
}

/// One whole round of nginx's smooth weighted round robin over `(index, weight)` in configuration order.
///
/// nginx adds every peer's weight to its current weight, takes the highest (the first of equals) and subtracts the total
/// from it (ngx_http_upstream_get_peer). So before turn t peer i stands at `t * w_i - total * picks_i`. Of peers with
/// equal weight the one with the fewest picks leads, the first in order of those: they take turns. Only the leaders of the
/// *distinct* weights have to be compared, which makes this fast for thousands of endpoints.
fn smooth_order(ready: &[(u32, u32)]) -> Vec<u32> {
    struct Class {
        weight: u64,
        members: Vec<u32>,
        picks: u64,
    }

    let mut classes: Vec<Class> = Vec::new();
    for (index, weight) in scaled(ready) {
        match classes.iter_mut().find(|class| class.weight == weight) {
            Some(class) => class.members.push(index),
            None => classes.push(Class { weight, members: vec![index], picks: 0 }),
        }
    }
    let total: u64 = classes.iter().map(|class| class.weight * class.members.len() as u64).sum();
    let mut order = Vec::with_capacity(total as usize);
    for turn in 1..=total {
        let standing = |class: &Class| {
            let size = class.members.len() as u64;
            let (rounds, place) = (class.picks / size, (class.picks % size) as usize);
            let current = i128::from(turn) * i128::from(class.weight) - i128::from(total) * i128::from(rounds);
            (current, std::cmp::Reverse(class.members[place]))
        };
        let Some(leader) = classes.iter_mut().max_by_key(|class| standing(class)) else { break };
        order.push(leader.members[(leader.picks % leader.members.len() as u64) as usize]);
        leader.picks += 1;
    }
    order
}

/// Weights divided by their greatest common divisor, and scaled down when one round would still be too long to keep.
fn scaled(ready: &[(u32, u32)]) -> Vec<(u32, u64)> {
    let divisor = ready.iter().fold(0, |gcd, (_, weight)| greatest_common_divisor(gcd, u64::from(*weight))).max(1);
    let total: u64 = ready.iter().map(|(_, weight)| u64::from(*weight) / divisor).sum();
    let limit = longest_list(ready.len());
    let scale = |weight: u64| match total {
        total if total <= limit => weight,
        total => (weight * limit / total).max(1),
    };
    ready.iter().map(|(index, weight)| (*index, scale(u64::from(*weight) / divisor))).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::clock::SystemClock;
    use crate::endpoint::{Endpoint, Live, Loads};

    fn order(weights: &[u32]) -> String {
        let ready: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
        smooth_order(&ready).into_iter().map(|index| char::from(b'a' + index as u8)).collect()
    }

    /// nginx's loop, word for word.
    fn nginx_order(weights: &[u32]) -> Vec<u32> {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut current = vec![0_i64; weights.len()];
        (0..total)
            .map(|_| {
                let mut best = 0;
                for i in 0..weights.len() {
                    current[i] += i64::from(weights[i]);
                    if current[i] > current[best] {
                        best = i;
                    }
                }
                current[best] -= total;
                best as u32
            })
            .collect()
    }

    #[test]
    fn smooth_order_equals_the_golden_sequences_of_nginx() {
        assert_eq!(order(&[5, 1, 1]), "aabacaa");
        assert_eq!(order(&[4, 2, 1]), "abacaba");
        assert_eq!(order(&[3, 2]), "ababa");
        assert_eq!(order(&[1, 1, 1]), "abc");
        assert_eq!(order(&[100, 100]), "ab", "a common divisor shortens the round");
        assert_eq!(order(&[]), "");
    }

    #[test]
    fn a_huge_round_is_scaled_down_and_keeps_its_shares() {
        let order = smooth_order(&[(0, u32::MAX), (1, u32::MAX / 3), (2, 1)]);
        assert!(order.len() as u64 <= ORDER_LIMIT + 3);
        let share = |index| order.iter().filter(|at| **at == index).count() as f64 / order.len() as f64;
        assert!((share(0) - 0.75).abs() < 0.001);
        assert!(share(2) > 0.0, "nobody starves");
    }

    fn layout(weights: &[u32], turns: Turns) -> Layout {
        let mut loads = Loads::new();
        let member = |n: usize| {
            let live = Live::new(loads.next(n), Arc::new(SystemClock), None, ImpairedCount::default());
            let endpoint = Endpoint::new(n.to_string(), ()).unwrap().weight(NonZeroU32::new(weights[n]).unwrap());
            Member::new(Arc::new(endpoint.settings), Arc::new(live))
        };
        Layout::new((0..weights.len()).map(member), Arc::new(turns), ImpairedCount::default(), false)
    }

    /// What threads do one after the other that have this and that of two cores' shards, four times in turn.
    fn in_turn<T: Send>(act: impl Fn() -> T + Sync) -> [Vec<T>; 2] {
        let mut done = [Vec::new(), Vec::new()];
        while done.iter().any(|done| done.len() < 4) {
            let (shard, what) =
                std::thread::scope(|scope| scope.spawn(|| (shard::of_thread(2), act())).join().unwrap());
            done[shard].push(what);
        }
        done.map(|done| done.into_iter().take(4).collect())
    }

    fn turns_of_two_cores() -> Turns {
        Turns { shared: Counter::default(), of_cores: vec![Counter::default(), Counter::default()] }
    }

    #[test]
    fn each_core_goes_through_the_order_for_itself() {
        let layout = layout(&[2, 1, 1], turns_of_two_cores());
        let taken = in_turn(|| {
            let (next, turn) = layout.peek_core_rotation().unwrap();
            turn.take();
            (next, layout.next_in_core_rotation())
        });
        assert_eq!(taken, [0, 1].map(|_| [(0, Some(1)), (2, Some(0)), (0, Some(1)), (2, Some(0))].to_vec()));
        assert_eq!(layout.next_in_rotation(), Some(0), "the order that is one for all has not moved");
    }

    #[test]
    fn cores_that_look_at_some_of_many_look_at_different_ones() {
        let layout = layout(&[1; 100], turns_of_two_cores());
        let seen = in_turn(|| layout.next_in_rotation_of(3).collect::<Vec<_>>());
        let from = |begin: usize| (0..4).map(|n| (begin + n..begin + n + 3).collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(seen, [from(0), from(50)]);
        assert_eq!(layout.next_in_rotation_of(1_000).count(), 100, "each once");
    }

    proptest::proptest! {
        #[test]
        fn a_rest_is_what_division_leaves(number: u64, length in 1_u64..=u64::MAX, bits in 0..64_u32) {
            for (number, length) in [(number, length), (number >> bits, length), (number, (length >> bits).max(1))] {
                let (number, length) = (number >> 31, length);
                for length in [length, (length >> 32).max(1)] {
                    proptest::prop_assert_eq!(Modulus::new(length).rest(number), number % length);
                }
            }
        }

        #[test]
        fn every_unit_of_weight_has_its_owner(
            weights in proptest::collection::vec(1_u32..40, 1..20),
            heavy in proptest::option::of(70_000_u32..),
            number: u32,
        ) {
            let weights: Vec<u32> = weights.into_iter().chain(heavy).collect();
            let owners = Weights::new(weights.iter().copied());
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            proptest::prop_assert_eq!(owners.total(), total);
            let mut before = 0;
            for (index, weight) in weights.iter().enumerate() {
                proptest::prop_assert_eq!(owners.owner(before), index);
                before += u64::from(*weight);
                proptest::prop_assert_eq!(owners.owner(before - 1), index);
            }
            proptest::prop_assert_eq!(owners.owner_modulo(number), owners.owner(u64::from(number) % total));
        }

        #[test]
        fn smooth_order_equals_nginx_for_any_weights(weights in proptest::collection::vec(1_u32..30, 1..20)) {
            let ready: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
            let ours = smooth_order(&ready);
            let nginx = nginx_order(&weights);
            // A common divisor makes nginx repeat our round.
            proptest::prop_assert!(nginx.chunks(ours.len()).all(|round| round == ours));
        }
    }
}
