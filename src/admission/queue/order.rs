//! Decides which request gets a slot: the state of all queues of a cluster, without I/O and without a clock.

mod places;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use ahash::AHashMap;

use super::costs::{Costs, Micros};
use super::credentials::{Accepted, Credential};
use super::slots::{Slots, interval};
use super::slowness;
use super::ticket::{SlotState, Ticket, key};
use super::users::{Activity, User};
use crate::endpoint::Live;

/// Queries with a longer expected duration are slow.
const SLOW: Micros = 5_000_000;

/// All queues of a cluster, and the requests that have their slots.
#[derive(Debug, Default)]
pub(super) struct Order {
    endpoints: AHashMap<u64, Slots>,
    /// The requests by token.
    requests: AHashMap<u64, Request>,
    /// The cost and the token of each request that waits.
    by_cost: BTreeSet<(Micros, u64)>,
    users: AHashMap<u64, User>,
    /// The number of users with more than their share of the places to wait.
    users_over_share: usize,
    /// The number of slots of all endpoints.
    slots: u32,
    /// The number of endpoints with a limit.
    limited: usize,
    max_waiting: Option<usize>,
    /// [`QueueRules::max_wait`](super::QueueRules::max_wait).
    pub(super) max_wait: Duration,
    costs: Costs,
    /// Endpoints whose nodes are slow have less weight.
    slow_weights: bool,
    /// When the weights were last computed.
    weighted: Micros,
    pub(super) accepted: Accepted,
    activity: Activity,
    /// The interval in which [`give_slots_after_interval`](Self::give_slots_after_interval) last ran.
    interval: u64,
    next: u64,
    /// Wakers to be called, or dropped, without the lock.
    pub(super) wakers: Vec<Waker>,
    /// An endpoint whose weight has changed. Those that watch it are notified without the lock.
    pub(super) reweighted: Option<Arc<Live>>,
}

#[derive(Debug)]
struct Request {
    endpoint: u64,
    ticket: Ticket,
    /// Whether it is beyond the share of its user, or was so when it got its slot.
    is_beyond: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting(Option<Waker>),
    Running { since: Micros },
    Refused,
    Stopped,
}

impl Order {
    /// Sets how many requests may wait at most; `None` is 64 for each endpoint with a limit.
    pub(super) fn set_max_waiting(&mut self, max: Option<usize>) {
        self.max_waiting = max;
        self.users_over_share = self.users.values().filter(|user| user.waiting() > self.share_of_places()).count();
    }

    /// Sets whether slow nodes have less weight.
    pub(super) fn set_slow_weights(&mut self, on: bool) {
        self.slow_weights = on;
        self.set_weights();
    }

    /// Sets the endpoints with their limits.
    pub(super) fn set_limits(&mut self, limits: &[(Arc<Live>, Option<NonZeroU32>)], now: Micros) {
        self.endpoints.values_mut().for_each(|slots| slots.is_gone = true);
        for (live, limit) in limits {
            let slots = self.endpoints.entry(live.uid).or_insert_with(|| Slots::gone(live));
            (slots.limit, slots.is_gone) = (limit.map(NonZeroU32::get), false);
        }
        self.endpoints.retain(|_, slots| !slots.is_gone || !slots.are_idle());
        let limited = || limits.iter().filter_map(|(_, limit)| *limit);
        self.slots = limited().fold(0, |sum, limit| sum.saturating_add(limit.get()));
        self.limited = limited().count();
        self.set_max_waiting(self.max_waiting);
        self.set_weights();
        for (live, _) in limits {
            self.give_slots(live.uid, now);
        }
    }

    /// Returns the ticket of a request that arrives now. `unproven`: its credentials, if the user is that of the address until a node
    /// accepts them.
    pub(super) fn ticket(
        &mut self,
        user: u64,
        unproven: Option<Credential>,
        fingerprint: Option<u64>,
        now: Micros,
    ) -> Ticket {
        let cost = self.costs.expected(fingerprint);
        self.activity.note(user, unproven, now);
        self.next += 1;
        let floods = self.users.get(&user).is_some_and(|user| user.floods(self.slots));
        let is_of_flood = floods && self.is_next_beyond(user);
        Ticket {
            key: key(now, cost),
            sequence: self.next,
            cost,
            user,
            fingerprint,
            is_of_flood,
            since: now,
            stop_keys: [0; 2],
            unproven,
        }
    }

    /// Records that a node has accepted the credentials of a user.
    pub(super) fn accept(&mut self, credential: Credential, user: u64) {
        self.accepted.insert(credential, user);
        self.activity.prove(credential, user);
    }

    /// Adds a request to the queue of an endpoint. Returns its token, with which it always has to [leave](Self::leave).
    pub(super) fn enter(&mut self, live: &Arc<Live>, ticket: Ticket, now: Micros) -> (u64, SlotState) {
        let endpoint = live.uid;
        self.next += 1;
        let (token, key) = (self.next, (ticket.key, ticket.sequence));
        let is_beyond = self.is_next_beyond(ticket.user);
        self.requests.insert(token, Request { endpoint, ticket, is_beyond, phase: Phase::Waiting(None) });
        // A pick from an older view can choose an endpoint that has left. The request then waits until it sees that.
        let slots = self.endpoints.entry(endpoint).or_insert_with(|| Slots::gone(live));
        slots.live.begin_wait(ticket.is_of_flood);
        slots.put(ticket.user, is_beyond, key, token);
        self.by_cost.insert((ticket.cost, token));
        self.change_waiting(ticket.user, |user| {
            if is_beyond {
                user.beyond.insert(key, token);
            } else {
                user.within += 1;
            }
        });
        self.give_slots(endpoint, now);
        self.give_slots_after_interval(now);
        if self.by_cost.len() > self.places() {
            self.refuse_costliest();
        }
        (token, self.turn(token))
    }

    /// Returns the turn of a request. `waker` is called when it changes.
    pub(super) fn poll(&mut self, token: u64, waker: &Waker) -> SlotState {
        if let Some(Request { phase: Phase::Waiting(stored), .. }) = self.requests.get_mut(&token)
            && !stored.as_ref().is_some_and(|stored| stored.will_wake(waker))
        {
            self.wakers.extend(stored.replace(waker.clone()));
        }
        self.turn(token)
    }

    /// Removes a request: it waits no longer, or its slot is free. If it `succeeded`, its duration is learned.
    pub(super) fn leave(&mut self, token: u64, succeeded: bool, now: Micros) {
        let Some(Request { endpoint, ticket, is_beyond, phase }) = self.requests.remove(&token) else { return };
        match phase {
            Phase::Waiting(waker) => {
                self.wakers.extend(waker);
                self.remove_waiting(endpoint, ticket, is_beyond, token);
            }
            Phase::Running { since } => {
                if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                    slots.taken -= 1;
                    slots.taken_by_slow -= u32::from(ticket.cost > SLOW);
                    slots.taken_beyond -= u32::from(is_beyond);
                }
                self.change_user(ticket.user, |user| user.taken -= 1);
                if succeeded {
                    self.learn(endpoint, ticket, now.saturating_sub(since), now);
                }
            }
            Phase::Refused | Phase::Stopped => {}
        }
        self.fill_share(ticket.user, now);
        self.give_slots(endpoint, now);
        self.give_slots_after_interval(now);
        let is_over = |slots: &Slots| slots.is_gone && slots.are_idle();
        if self.endpoints.get(&endpoint).is_some_and(is_over) {
            self.endpoints.remove(&endpoint);
        }
    }

    /// Learns that a query took so long.
    fn learn(&mut self, endpoint: u64, ticket: Ticket, took: Micros, now: Micros) {
        let ratio = self.costs.learn(ticket.fingerprint, took);
        if !self.slow_weights {
            return;
        }
        if let (Some(ratio), Some(slots)) = (ratio, self.endpoints.get_mut(&endpoint)) {
            slots.slowness.add(ratio);
        }
        if now.saturating_sub(self.weighted) >= slowness::INTERVAL {
            self.weighted = now;
            self.set_weights();
        }
    }

    /// Sets what endpoints have of their weights.
    fn set_weights(&mut self) {
        let is_compared = |slots: &&Slots| self.slow_weights && !slots.is_gone && slots.limit.is_some();
        let compared = self.endpoints.values().filter(is_compared);
        let median = slowness::median(compared.filter_map(|slots| slots.slowness.mean()));
        for slots in self.endpoints.values() {
            let share = slots.slowness.share(median.filter(|_| is_compared(&slots)));
            if slots.live.health.slowed.set(share) {
                self.reweighted = Some(Arc::clone(&slots.live));
            }
        }
    }

    fn turn(&self, token: u64) -> SlotState {
        match self.requests.get(&token).map(|request| &request.phase) {
            Some(Phase::Waiting(_)) => SlotState::Wait,
            Some(Phase::Running { .. }) => SlotState::Go,
            Some(Phase::Stopped) => SlotState::Stopped,
            Some(Phase::Refused) | None => SlotState::Refused,
        }
    }

    /// Moves requests of a user into its share while it is not full. Those of a user that floods count as arriving now.
    fn fill_share(&mut self, name: u64, now: Micros) {
        while let Some(user) = self.users.get_mut(&name).filter(|user| !user.share_is_full(self.slots, user.all()))
            && let Some((before, token)) = user.beyond.pop_first()
        {
            user.within += 1;
            let floods = user.floods(self.slots);
            let Some(Request { endpoint, ticket, is_beyond, .. }) = self.requests.get_mut(&token) else { return };
            *is_beyond = false;
            if floods {
                ticket.key = ticket.key.max(key(now, ticket.cost));
            }
            let was_of_flood = std::mem::take(&mut ticket.is_of_flood);
            let (endpoint, after) = (*endpoint, (ticket.key, ticket.sequence));
            if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                slots.live.begin_wait(false);
                slots.live.end_wait(was_of_flood);
                slots.remove(name, true, before);
                slots.put(name, false, after, token);
            }
            self.give_slots(endpoint, now);
        }
    }

    /// Returns whether the next request of a user is beyond its share.
    fn is_next_beyond(&self, user: u64) -> bool {
        self.users.get(&user).is_some_and(|user| user.share_is_full(self.slots, user.all().saturating_add(1)))
    }

    /// Gives the free slots of an endpoint to the first requests that may have them.
    fn give_slots(&mut self, endpoint: u64, now: Micros) {
        if let Some(slots) = self.endpoints.get_mut(&endpoint) {
            slots.note_need(now);
        }
        while let Some(token) = self.first(endpoint, now) {
            let Some(request) = self.requests.get_mut(&token) else { return };
            let (ticket, is_beyond) = (request.ticket, request.is_beyond);
            if let Phase::Waiting(waker) = std::mem::replace(&mut request.phase, Phase::Running { since: now }) {
                self.wakers.extend(waker);
            }
            if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                slots.taken += 1;
                slots.taken_by_slow += u32::from(ticket.cost > SLOW);
                slots.taken_beyond += u32::from(is_beyond);
            }
            // Counted before the request is removed from those that wait. Otherwise the user could be removed with it.
            self.users.entry(ticket.user).or_default().taken += 1;
            self.remove_waiting(endpoint, ticket, is_beyond, token);
        }
    }

    /// Gives slots that were left free for other users to requests beyond their shares, once in each interval.
    fn give_slots_after_interval(&mut self, now: Micros) {
        if interval(now) <= self.interval {
            return;
        }
        self.interval = interval(now);
        let waited_for: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, slots)| !slots.beyond.is_empty())
            .map(|(endpoint, _)| *endpoint)
            .collect();
        for endpoint in waited_for {
            self.give_slots(endpoint, now);
        }
    }

    /// Returns the first request that may have a slot of the endpoint, if one is free. Slow ones are passed over while slow ones
    /// have all the slots that they may have. Those beyond the share of their user come last, the user with the fewest requests first.
    fn first(&self, endpoint: u64, now: Micros) -> Option<u64> {
        let slots = self.endpoints.get(&endpoint).filter(|slots| slots.are_free())?;
        let may_go = |token: &&u64| {
            self.requests.get(token).is_some_and(|of| of.ticket.cost <= SLOW || !slots.are_full_of_slow())
        };
        if let Some(within) = slots.waiting.values().find(may_go) {
            return Some(*within);
        }
        let beyond = slots.beyond.iter().filter_map(|(name, queue)| {
            let user = self.users.get(name)?;
            let is_kept = user.floods(self.slots) && (slots.are_down_to_kept() || slots.are_needed());
            let token =
                queue.values().find(may_go).filter(|_| !is_kept || !self.activity.is_other_active(*name, now))?;
            Some((user.all(), self.requests.get(token)?.ticket.sequence, *token))
        });
        beyond.min().map(|(.., token)| token)
    }

    fn change_user(&mut self, name: u64, change: impl FnOnce(&mut User)) {
        let user = self.users.entry(name).or_default();
        change(user);
        if user.all() == 0 {
            self.users.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::admission::queue::ticket::AGEING;
    use crate::clock::SystemClock;
    use crate::endpoint::Loads;
    use crate::health::impaired::ImpairedCount;
    use crate::health::slow_start::WHOLE;

    const SECOND: Micros = 1_000_000;
    const ACTIVE: Micros = 10 * SECOND;

    fn order(limits: &[u32], max_waiting: Option<usize>) -> Order {
        let mut order = Order::default();
        set(&mut order, limits, max_waiting);
        order
    }

    fn set(order: &mut Order, limits: &[u32], max_waiting: Option<usize>) {
        let limits: Vec<_> =
            (0..).zip(limits).map(|(uid, limit)| (live(order, uid), NonZeroU32::new(*limit))).collect();
        order.set_max_waiting(max_waiting);
        order.set_limits(&limits, 0);
    }

    /// Returns the state of the endpoint with this uid.
    fn live(order: &Order, uid: u64) -> Arc<Live> {
        let new = || {
            let mut live = Live::new(Loads::new().next(0), Arc::new(SystemClock), None, ImpairedCount::default());
            live.uid = uid;
            Arc::new(live)
        };
        order.endpoints.get(&uid).map_or_else(new, |slots| Arc::clone(&slots.live))
    }

    /// Returns the ticket of a query that arrives at `now` and is expected to take `cost`.
    fn ticket(order: &mut Order, user: u64, cost: Micros, now: Micros) -> Ticket {
        Ticket { key: now + AGEING * cost, cost, ..order.ticket(user, None, None, now) }
    }

    fn enter(order: &mut Order, user: u64, cost: Micros, now: Micros) -> (u64, SlotState) {
        let ticket = ticket(order, user, cost, now);
        order.enter(&live(order, 0), ticket, now)
    }

    #[test]
    fn a_quick_query_precedes_a_costly_one_that_came_up_to_30_times_the_difference_before() {
        let mut order = order(&[1], None);
        let (running, turn) = enter(&mut order, 1, 0, 0);
        assert_eq!(turn, SlotState::Go);
        let (costly, _) = enter(&mut order, 2, 2 * SECOND, 0);
        let (early, _) = enter(&mut order, 3, SECOND, 29 * SECOND);
        let (late, _) = enter(&mut order, 4, SECOND, 31 * SECOND);
        let mut served = Vec::new();
        let mut token = running;
        for _ in 0..3 {
            order.leave(token, true, 32 * SECOND);
            token = *[costly, early, late].iter().find(|of| order.turn(**of) == SlotState::Go).unwrap();
            served.push(token);
        }
        assert_eq!(served, [early, costly, late]);
    }

    #[test]
    fn slow_queries_leave_an_eighth_of_the_slots_to_quick_ones() {
        for (limit, for_slow) in [(1, 1), (3, 3), (4, 3), (8, 7), (16, 14)] {
            let mut order = order(&[limit], None);
            let slow: Vec<_> = (0..limit + 2).map(|user| enter(&mut order, user.into(), SLOW + 1, 0)).collect();
            assert_eq!(slow.iter().filter(|(_, turn)| *turn == SlotState::Go).count(), for_slow, "{limit} slots");
            for user in for_slow as u64..u64::from(limit) {
                assert_eq!(enter(&mut order, 100 + user, SLOW, 0).1, SlotState::Go, "{limit} slots");
            }
            order.leave(slow[0].0, false, 0);
            assert_eq!(order.turn(slow[for_slow].0), SlotState::Go, "a slow query follows a slow one");
        }
    }

    #[test]
    fn a_user_with_an_eighth_of_the_slots_lets_others_pass_and_gets_what_they_leave() {
        let mut order = order(&[32, 8], None);
        let flood: Vec<_> = (0..90).map(|_| enter(&mut order, 1, SECOND, 0)).collect();
        assert_eq!(flood.iter().filter(|(_, turn)| *turn == SlotState::Go).count(), 32, "no slot stays idle");
        let (other, turn) = enter(&mut order, 2, 2 * SECOND, SECOND);
        assert_eq!(turn, SlotState::Wait);
        order.leave(flood[0].0, true, SECOND);
        assert_eq!(order.turn(other), SlotState::Go);
        // While another user is active, as many slots are left to others as were needed, 5 for the share of this user and one.
        (1..7).for_each(|index| order.leave(flood[index].0, true, SECOND));
        assert_eq!((order.turn(flood[32].0), order.turn(flood[33].0)), (SlotState::Go, SlotState::Wait));
        order.leave(other, true, 11 * SECOND);
        assert_eq!(
            (order.turn(flood[36].0), order.turn(flood[37].0)),
            (SlotState::Go, SlotState::Go),
            "no user but this one"
        );
    }

    #[test]
    fn what_is_beyond_the_places_is_the_costliest_and_of_a_user_who_crowds() {
        let mut order = order(&[1], Some(8));
        enter(&mut order, 0, 0, 0);
        let waiting: Vec<_> = (1..=8).map(|user| enter(&mut order, user, user * SECOND, 0).0).collect();
        assert_eq!(enter(&mut order, 20, 9 * SECOND, 0).1, SlotState::Refused, "the new one is the costliest");
        let (cheap, turn) = enter(&mut order, 21, SECOND, 0);
        assert_eq!((turn, order.turn(waiting[7])), (SlotState::Wait, SlotState::Refused));
        // A second place of eight is more than an eighth.
        let (second, turn) = enter(&mut order, 1, 0, 0);
        assert_eq!((turn, order.turn(waiting[0])), (SlotState::Wait, SlotState::Refused), "the costlier of user 1");
        assert_eq!((order.turn(cheap), order.turn(second), order.by_cost.len()), (SlotState::Wait, SlotState::Wait, 8));
        let (last, turn) = enter(&mut order, 21, SECOND, 0);
        assert_eq!((turn, order.turn(cheap)), (SlotState::Refused, SlotState::Wait), "of equal ones the last");
        order.leave(last, false, 0);
    }

    #[test]
    fn a_query_of_a_flood_is_load_for_others_from_the_moment_at_which_a_slot_is_given_to_it() {
        let mut order = order(&[4], None);
        let live = live(&order, 0);
        let mut flood: Vec<_> = (0..60).map(|_| enter(&mut order, 1, SECOND, 0).0).collect();
        let waiting =
            |order: &Order| flood.iter().filter(|token| order.turn(**token) == SlotState::Wait).count() as u32;
        let before = live.waiting_of_floods();
        assert_eq!((live.waiting(), waiting(&order)), (56, 56));
        assert_eq!(before, 27, "the first 33 are no flood");
        // No task of a query has run since.
        order.leave(flood[0], true, SECOND);
        assert_eq!((live.waiting(), waiting(&order)), (55, 55));
        flood.reverse();
        for token in flood {
            let was = (live.waiting(), live.waiting_of_floods());
            order.leave(token, true, SECOND);
            assert!(live.waiting() <= was.0 && live.waiting_of_floods() <= was.1);
            assert!(live.waiting_of_floods() <= live.waiting());
        }
        assert_eq!((live.waiting(), live.waiting_of_floods()), (0, 0));
    }

    /// Has queries of these durations in milliseconds run one after the other, one at each endpoint, a 10th of a second apart.
    fn run(order: &mut Order, rounds: u64, millis: &[u64], now: &mut Micros) -> Vec<u32> {
        for round in 0..rounds {
            for (uid, millis) in (0..).zip(millis) {
                // Of two kinds, one of which takes ten times as long as the other.
                let kind = round % 2;
                let ticket = order.ticket(1, None, Some(kind), *now);
                let (token, turn) = order.enter(&live(order, uid), ticket, *now);
                assert_eq!(turn, SlotState::Go);
                *now += millis * 1_000 * (1 + 9 * kind);
                order.leave(token, true, *now);
            }
            *now += SECOND / 10;
        }
        (0..millis.len() as u64).map(|uid| live(order, uid).health.slowed.share()).collect()
    }

    #[test]
    fn a_slow_node_has_less_weight_until_it_is_fast_again_where_the_rules_say_so() {
        let (mut order, mut now) = (order(&[2, 2, 2], None), 0);
        assert_eq!(run(&mut order, 300, &[10, 10, 40], &mut now), [WHOLE; 3], "off");
        order.set_slow_weights(true);
        assert_eq!(run(&mut order, 31, &[10, 10, 40], &mut now), [WHOLE; 3], "too few queries");
        let shares = run(&mut order, 300, &[10, 10, 40], &mut now);
        assert!(shares[..2] == [WHOLE; 2] && (WHOLE / 4).abs_diff(shares[2]) < WHOLE / 40, "{shares:?}");
        assert!(order.reweighted.take().is_some_and(|live| live.uid == 2));
        assert_eq!(run(&mut order, 600, &[10, 10, 10], &mut now), [WHOLE; 3], "fast again");
        assert_eq!(run(&mut order, 600, &[40, 40, 40], &mut now), [WHOLE; 3], "all are slow");
        let slow = |order: &mut Order, now: &mut Micros| {
            run(order, 600, &[10, 50, 50], now)[0] == WHOLE && run(order, 600, &[90, 10, 10], now)[0] < WHOLE
        };
        assert!(slow(&mut order, &mut now));
        order.set_slow_weights(false);
        assert_eq!(live(&order, 0).health.slowed.share(), WHOLE, "off");
        order.set_slow_weights(true);
        assert!(slow(&mut order, &mut now));
        set(&mut order, &[0, 2, 2], None);
        assert_eq!(live(&order, 0).health.slowed.share(), WHOLE, "without a limit");
    }

    #[test]
    fn limits_follow_the_membership() {
        let mut order = order(&[1, 1], None);
        let (running, _) = enter(&mut order, 1, 0, 0);
        let waiting: Vec<_> = (0..3).map(|user| enter(&mut order, user, 0, 0).0).collect();
        set(&mut order, &[2, 1], None);
        assert_eq!((order.turn(waiting[0]), order.turn(waiting[1])), (SlotState::Go, SlotState::Wait));
        order.set_limits(&[(live(&order, 1), NonZeroU32::new(1))], 0);
        order.leave(running, true, 0);
        assert_eq!(order.turn(waiting[1]), SlotState::Wait, "an endpoint that left starts nothing");
        set(&mut order, &[0, 1], None);
        assert_eq!(
            (order.turn(waiting[1]), order.turn(waiting[2])),
            (SlotState::Go, SlotState::Go),
            "0 is no limit here"
        );
        order.set_limits(&[], 0);
        waiting.into_iter().for_each(|token| order.leave(token, true, 0));
        assert!(is_empty(&order));
    }

    #[test]
    fn a_request_that_was_picked_for_an_endpoint_that_has_left_waits() {
        let mut order = order(&[1], None);
        let left = ticket(&mut order, 1, 0, 0);
        let (token, turn) = order.enter(&live(&order, 7), left, 0);
        assert_eq!(turn, SlotState::Wait);
        order.leave(token, false, 0);
        assert!(is_empty(&order) && order.endpoints.len() == 1);
    }

    fn is_empty(order: &Order) -> bool {
        let is_idle = |slots: &Slots| slots.are_idle() && slots.taken_by_slow == 0 && slots.taken_beyond == 0;
        let Order { endpoints, requests, by_cost, users, users_over_share, .. } = order;
        endpoints.values().all(is_idle)
            && requests.is_empty()
            && by_cost.is_empty()
            && users.is_empty()
            && *users_over_share == 0
    }

    struct Modelled {
        token: u64,
        endpoint: u64,
        ticket: Ticket,
        is_beyond: bool,
        turn: SlotState,
    }

    /// Applies the rules to a list.
    struct Model {
        limits: [u32; 2],
        /// The time at which each user sent its last query.
        sent: BTreeMap<u64, Micros>,
        now: Micros,
        /// The interval of the last action.
        interval: u64,
        /// When how many slots of an endpoint were needed by requests within the shares of their users.
        needs: Vec<(Micros, u64, u32)>,
        requests: Vec<Modelled>,
    }

    impl Model {
        fn count(&self, of: impl Fn(&&Modelled) -> bool) -> u32 {
            self.requests.iter().filter(of).count() as u32
        }

        /// Returns how many requests of the user run or wait, and how many of them run or wait within its share.
        fn of_user(&self, user: u64) -> (u32, u32) {
            let all = self.count(|of| of.ticket.user == user && of.turn != SlotState::Refused);
            let beyond = self.count(|of| of.ticket.user == user && of.turn == SlotState::Wait && of.is_beyond);
            (all, all - beyond)
        }

        fn whole_share(&self) -> u32 {
            (self.limits.iter().sum::<u32>() / 8).max(4)
        }

        fn share(&self, all: u32) -> u32 {
            let share = self.whole_share();
            if all <= 8 * share { share } else { (8 * share * share / all).max(1) }
        }

        fn enter(&mut self, token: u64, endpoint: u64, ticket: Ticket) {
            let (all, within) = self.of_user(ticket.user);
            let is_beyond = within >= self.share(all + 1);
            self.requests.push(Modelled { token, endpoint, ticket, is_beyond, turn: SlotState::Wait });
            self.give_slots(endpoint);
            self.pass_interval();
        }

        fn leave(&mut self, index: usize) -> u64 {
            let Modelled { token, endpoint, ticket, .. } = self.requests.remove(index);
            let flood = 8 * self.whole_share();
            loop {
                let (all, within) = self.of_user(ticket.user);
                let of =
                    |of: &&mut Modelled| of.ticket.user == ticket.user && of.is_beyond && of.turn == SlotState::Wait;
                if within >= self.share(all) {
                    break;
                }
                let Some(next) =
                    self.requests.iter_mut().filter(of).min_by_key(|of| (of.ticket.key, of.ticket.sequence))
                else {
                    break;
                };
                next.is_beyond = false;
                if all > flood {
                    next.ticket.key = next.ticket.key.max(self.now + AGEING * next.ticket.cost);
                }
                let endpoint = next.endpoint;
                self.give_slots(endpoint);
            }
            self.give_slots(endpoint);
            self.pass_interval();
            token
        }

        fn pass_interval(&mut self) {
            let interval = interval(self.now);
            if std::mem::replace(&mut self.interval, interval) != interval {
                for endpoint in [0, 1] {
                    if self
                        .requests
                        .iter()
                        .any(|of| of.endpoint == endpoint && of.is_beyond && of.turn == SlotState::Wait)
                    {
                        self.give_slots(endpoint);
                    }
                }
            }
        }

        fn give_slots(&mut self, endpoint: u64) {
            let at = |of: &Modelled| of.endpoint == endpoint;
            let need = self.count(|of| {
                at(of)
                    && !(of.is_beyond && of.turn == SlotState::Go)
                    && !(of.is_beyond && of.turn == SlotState::Wait)
                    && of.turn != SlotState::Refused
            });
            self.needs.push((self.now, endpoint, need));
            let limit = self.limits[endpoint as usize];
            while self.count(|of| at(of) && of.turn == SlotState::Go) < limit {
                let taken = self.count(|of| at(of) && of.turn == SlotState::Go);
                let slow = self.count(|of| at(of) && of.turn == SlotState::Go && of.ticket.cost > SLOW);
                let kept = if limit < 4 { 0 } else { (limit / 8).max(1) };
                let is_full_of_slow = limit >= 4 && slow >= limit - kept;
                let lately = |at: Micros| interval(self.now) - interval(at) <= 1;
                let needs = self.needs.iter().filter(|(at, of, _)| lately(*at) && *of == endpoint);
                let needed = needs.map(|(.., need)| *need).max().unwrap_or(0);
                let beyond = self.count(|of| at(of) && of.turn == SlotState::Go && of.is_beyond);
                let is_needed = taken > 0 && beyond + 1 + needed > limit;
                let others = |user: u64| self.sent.iter().any(|(of, at)| *of != user && self.now - at < ACTIVE);
                let floods = |user: u64| self.of_user(user).0 > 8 * self.whole_share();
                let may_go = |of: &&Modelled| {
                    at(of) && of.turn == SlotState::Wait && !(is_full_of_slow && of.ticket.cost > SLOW)
                };
                let within = self.requests.iter().filter(may_go).filter(|of| !of.is_beyond);
                let first = within.min_by_key(|of| (of.ticket.key, of.ticket.sequence)).map(|of| of.token);
                let first = first.or_else(|| {
                    let users: std::collections::BTreeSet<u64> =
                        self.requests.iter().map(|of| of.ticket.user).collect();
                    let firsts = users.into_iter().filter_map(|user| {
                        let is_kept = floods(user) && (limit - taken <= kept || is_needed);
                        let of_user = self.requests.iter().filter(may_go).filter(|of| of.ticket.user == user);
                        of_user
                            .min_by_key(|of| (of.ticket.key, of.ticket.sequence))
                            .filter(|_| !(is_kept && others(user)))
                    });
                    firsts.min_by_key(|of| (self.of_user(of.ticket.user).0, of.ticket.sequence)).map(|of| of.token)
                });
                let Some(token) = first else { return };
                self.requests.iter_mut().find(|of| of.token == token).unwrap().turn = SlotState::Go;
            }
        }

        fn refuse(&mut self, max: usize) {
            let waiting = || self.requests.iter().filter(|of| of.turn == SlotState::Wait);
            if waiting().count() <= max {
                return;
            }
            let crowds = |user: u64| waiting().filter(|of| of.ticket.user == user).count() > max / 8;
            let any = waiting().any(|of| crowds(of.ticket.user));
            let victims = waiting().filter(|of| !any || crowds(of.ticket.user));
            let token = victims.max_by_key(|of| (of.ticket.cost, of.token)).unwrap().token;
            self.requests.iter_mut().find(|of| of.token == token).unwrap().turn = SlotState::Refused;
        }
    }

    proptest! {
        #[test]
        fn every_request_gets_the_turn_that_the_rules_say(
            limits in (1..12_u32, 1..12_u32),
            actions in prop::collection::vec((0..4_u8, 0..2_u64, 0..6_u64, 0..8_u64, 0..5_u64, any::<prop::sample::Index>()), 0..200),
        ) {
            const MAX: usize = 32;
            let mut order = order(&[limits.0, limits.1], Some(MAX));
            let limits = [limits.0, limits.1];
            let mut model = Model { limits, sent: BTreeMap::new(), now: 0, interval: 0, needs: Vec::new(), requests: Vec::new() };
            let mut now = 0;
            for (action, endpoint, user, seconds, later, which) in actions {
                now += later * SECOND / 2;
                model.now = now;
                if action < 3 || model.requests.is_empty() {
                    // The first user sends the most.
                    let ticket = ticket(&mut order, user.saturating_sub(2), seconds * SECOND, now);
                    let (token, _) = order.enter(&live(&order, endpoint), ticket, now);
                    model.sent.insert(ticket.user, now);
                    model.enter(token, endpoint, ticket);
                    model.refuse(MAX);
                } else {
                    let token = model.leave(which.index(model.requests.len()));
                    order.leave(token, false, now);
                }
                for of in &model.requests {
                    prop_assert_eq!(order.turn(of.token), of.turn);
                }
                for (endpoint, slots) in &order.endpoints {
                    let waits = |of: &&Modelled| of.endpoint == *endpoint && of.turn == SlotState::Wait;
                    let waiting: Vec<_> = model.requests.iter().filter(waits).collect();
                    let beyond = waiting.iter().filter(|of| of.is_beyond).count();
                    prop_assert_eq!(slots.live.waiting() as usize, waiting.len());
                    prop_assert!(slots.live.waiting_of_floods() as usize <= beyond);
                }
            }
            for of in model.requests {
                order.leave(of.token, true, now);
            }
            prop_assert!(is_empty(&order));
        }
    }

    #[test]
    fn a_user_beyond_its_share_who_does_not_flood_leaves_no_slot_free() {
        let mut order = order(&[8, 8], None);
        let (other, _) = enter(&mut order, 2, SECOND, 0);
        order.leave(other, true, 0);
        let queries: Vec<_> = (0..9).map(|_| enter(&mut order, 1, SECOND, 0).1).collect();
        assert_eq!(queries.iter().filter(|turn| **turn == SlotState::Go).count(), 8, "twice the share of four");
    }

    /// Every 12 s five others send a query at once, and one of them every 4 s, while a user floods with queries of 2 s.
    #[test]
    fn slots_that_others_need_now_and_then_are_left_to_them() {
        let mut order = order(&[8], None);
        let mut flood: Vec<(u64, Option<Micros>)> =
            (0..100).map(|_| (enter(&mut order, 1, SECOND, 0).0, None)).collect();
        let (mut others, mut ended) = (Vec::new(), 0);
        for tick in 0..240_u64 {
            let now = tick * SECOND / 2;
            others.drain(..).for_each(|token| order.leave(token, true, now));
            for (token, began) in &mut flood {
                let is_running = order.turn(*token) == SlotState::Go;
                if is_running && began.is_some_and(|began| now - began >= 2 * SECOND) {
                    order.leave(*token, true, now);
                    (*token, *began) = (enter(&mut order, 1, SECOND, now).0, None);
                    ended += 1;
                } else if is_running && began.is_none() {
                    *began = Some(now);
                }
            }
            let count = if tick % 24 == 0 { 5 } else { u64::from(tick % 8 == 0) };
            for user in 10..10 + count {
                let (token, turn) = enter(&mut order, user, SECOND, now);
                assert!(turn == SlotState::Go || tick < 60, "user {user} waits in tick {tick}");
                others.push(token);
            }
        }
        assert!(ended > 60, "the flood is served too: {ended}");
    }

    /// A user who sends again and again as much as may wait never has a query of another user wait for more than the next end.
    #[test]
    fn no_query_of_another_user_waits_for_more_than_one_end_of_a_flood() {
        for slots in [4, 8, 32] {
            let mut order = order(&[slots], None);
            let mut random = fastrand::Rng::with_seed(slots.into());
            let mut flood: Vec<u64> = (0..1_000).map(|_| enter(&mut order, 1, SECOND, 0).0).collect();
            for round in 0..500_u64 {
                let now = round * SECOND / 10;
                flood.retain(|token| {
                    order.turn(*token) != SlotState::Refused || {
                        order.leave(*token, false, now);
                        false
                    }
                });
                let running = |order: &Order| flood.iter().filter(|token| order.turn(**token) == SlotState::Go).count();
                assert!(running(&order) > 0, "the flood is served too");
                let (other, turn) = enter(&mut order, 2 + round % 3, random.u64(0..3) * SECOND, now);
                if turn == SlotState::Wait {
                    let running: Vec<_> =
                        flood.iter().copied().filter(|token| order.turn(*token) == SlotState::Go).collect();
                    let ended = running[random.usize(..running.len())];
                    order.leave(ended, true, now);
                    flood.retain(|token| *token != ended);
                    assert_eq!(order.turn(other), SlotState::Go, "{slots} slots, round {round}");
                }
                order.leave(other, true, now);
                flood.extend((0..2).map(|_| enter(&mut order, 1, SECOND, now).0));
            }
        }
    }
}
