//! Which request gets a slot: the state of all queues of a cluster, without I/O and without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::task::Waker;
use std::time::Duration;

use ahash::AHashMap;

use super::costs::{Costs, Micros};

/// How much earlier a request must have arrived to precede another, for each unit of time that it is expected to take longer.
pub(super) const AGEING: u64 = 30;
/// From here on a query is slow.
const SLOW: Micros = 5_000_000;
/// From so many slots on some are kept for quick queries.
const MIN_SLOTS_TO_KEEP: u32 = 4;
/// The slots that each user may have, however few there are.
const MIN_SLOTS_OF_USER: u32 = 4;
/// How long a user counts as active after its last query.
const ACTIVE: Micros = 10_000_000;
/// How many requests wait for an endpoint on average, at most.
const WAITING_PER_ENDPOINT: usize = 64;

/// What decides when a request is served. It keeps its ticket when it is picked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The lower one goes first: arrival + [`AGEING`] x cost.
    key: Micros,
    /// The order of arrival, between equal keys.
    sequence: u64,
    /// The expected duration.
    pub(super) cost: Micros,
    /// A hash of who asks.
    user: u64,
    fingerprint: Option<u64>,
    /// From when on the bound of the wait counts: the arrival, or the end of the attempt before.
    pub(super) since: Micros,
    /// Hashes by which the client may stop the query; 0 where there is none.
    pub(super) stop_keys: [u64; 2],
}

impl Ticket {
    /// Returns the ticket of a query that is sent in place of an equal one, which leaves its queue: it goes when that one would have
    /// gone, if that is earlier.
    pub(crate) fn in_place_of(self, before: Ticket) -> Self {
        Ticket { key: self.key.min(before.key), since: self.since.max(before.since), ..self }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has its slot.
    Go,
    Wait,
    /// Too many requests wait, and this is the costliest.
    Refused,
    /// Its client has stopped it.
    Stopped,
}

/// All queues of a cluster, and who has their slots.
#[derive(Debug, Default)]
pub(super) struct Order {
    endpoints: AHashMap<u64, Slots>,
    /// By token.
    requests: AHashMap<u64, Request>,
    /// The cost and the token of each request that waits.
    by_cost: BTreeSet<(Micros, u64)>,
    users: AHashMap<u64, User>,
    /// The users who have more than their share of the places to wait.
    crowding: usize,
    /// The slots of all endpoints.
    slots: u32,
    /// The endpoints with a limit.
    limited: usize,
    max_waiting: Option<usize>,
    /// A setting of the rules.
    pub(super) max_wait: Duration,
    costs: Costs,
    /// The user of the last query with its time, and the last one of another user.
    latest: [(u64, Option<Micros>); 2],
    next: u64,
    /// To be called, or dropped, without the lock.
    pub(super) woken: Vec<Waker>,
}

/// The slots of one endpoint, and the requests that wait for them by their keys.
#[derive(Debug, Default)]
struct Slots {
    /// `None` is no limit.
    limit: Option<u32>,
    taken: u32,
    taken_by_slow: u32,
    waiting: BTreeMap<(Micros, u64), u64>,
    is_gone: bool,
}

#[derive(Debug, Default)]
struct User {
    taken: u32,
    waiting: usize,
}

#[derive(Debug)]
struct Request {
    endpoint: u64,
    ticket: Ticket,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting(Option<Waker>),
    Running { since: Micros },
    Refused,
    Stopped,
}

impl Slots {
    fn are_free(&self) -> bool {
        !self.is_gone && self.limit.is_none_or(|limit| self.taken < limit)
    }

    /// Returns the slots that are kept for quick queries of users with few slots.
    fn kept(&self) -> u32 {
        self.limit.map_or(0, |limit| if limit < MIN_SLOTS_TO_KEEP { 0 } else { (limit / 8).max(1) })
    }

    /// Returns whether slow requests have all the slots that they may have.
    fn are_full_of_slow(&self) -> bool {
        self.kept() > 0 && self.limit.is_some_and(|limit| self.taken_by_slow >= limit - self.kept())
    }

    /// Returns whether no more slots are free than are kept.
    fn are_down_to_kept(&self) -> bool {
        self.limit.is_some_and(|limit| limit.saturating_sub(self.taken) <= self.kept())
    }
}

impl Order {
    /// Sets how many requests may wait at most; `None` is 64 for each endpoint with a limit.
    pub(super) fn set_max_waiting(&mut self, max: Option<usize>) {
        self.max_waiting = max;
        self.crowding = self.users.values().filter(|user| user.waiting > self.share_of_places()).count();
    }

    /// Sets the endpoints with their limits.
    pub(super) fn set_limits(&mut self, limits: &[(u64, Option<NonZeroU32>)], now: Micros) {
        self.endpoints.values_mut().for_each(|slots| slots.is_gone = true);
        for (endpoint, limit) in limits {
            let slots = self.endpoints.entry(*endpoint).or_default();
            (slots.limit, slots.is_gone) = (limit.map(NonZeroU32::get), false);
        }
        self.endpoints.retain(|_, slots| !slots.is_gone || slots.taken > 0 || !slots.waiting.is_empty());
        let limited = || limits.iter().filter_map(|(_, limit)| *limit);
        self.slots = limited().fold(0, |sum, limit| sum.saturating_add(limit.get()));
        self.limited = limited().count();
        self.set_max_waiting(self.max_waiting);
        for (endpoint, _) in limits {
            self.hand_on(*endpoint, now);
        }
    }

    /// Returns the ticket of a request that arrives now.
    pub(super) fn ticket(&mut self, user: u64, fingerprint: Option<u64>, now: Micros) -> Ticket {
        let cost = self.costs.expected(fingerprint);
        if self.latest[0].0 != user {
            self.latest = [(user, None), self.latest[0]];
        }
        self.latest[0].1 = Some(now);
        self.next += 1;
        let key = now.saturating_add(cost.saturating_mul(AGEING));
        Ticket { key, sequence: self.next, cost, user, fingerprint, since: now, stop_keys: [0; 2] }
    }

    /// Lets a request into the queue of an endpoint. Returns its token, with which it has to [leave](Self::leave) in any case.
    pub(super) fn enter(&mut self, endpoint: u64, ticket: Ticket, now: Micros) -> (u64, Turn) {
        self.next += 1;
        let token = self.next;
        self.requests.insert(token, Request { endpoint, ticket, phase: Phase::Waiting(None) });
        // A pick from a view before the last change can choose an endpoint that has left. The request waits until it sees that.
        let slots = self.endpoints.entry(endpoint).or_insert_with(|| Slots { is_gone: true, ..Slots::default() });
        slots.waiting.insert((ticket.key, ticket.sequence), token);
        self.by_cost.insert((ticket.cost, token));
        self.count_waiting(ticket.user, true);
        self.hand_on(endpoint, now);
        if self.by_cost.len() > self.places() {
            self.refuse_costliest();
        }
        (token, self.turn(token))
    }

    /// Returns what became of a request. `waker` is called when it changes.
    pub(super) fn poll(&mut self, token: u64, waker: &Waker) -> Turn {
        if let Some(Request { phase: Phase::Waiting(stored), .. }) = self.requests.get_mut(&token)
            && !stored.as_ref().is_some_and(|stored| stored.will_wake(waker))
        {
            self.woken.extend(stored.replace(waker.clone()));
        }
        self.turn(token)
    }

    /// Ends a request: it waits no longer, or its slot is free. `succeeded`: the time since it got its slot is learned.
    pub(super) fn leave(&mut self, token: u64, succeeded: bool, now: Micros) {
        let Some(Request { endpoint, ticket, phase }) = self.requests.remove(&token) else { return };
        match phase {
            Phase::Waiting(waker) => {
                self.woken.extend(waker);
                self.remove_waiting(endpoint, ticket, token);
            }
            Phase::Running { since } => {
                if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                    slots.taken -= 1;
                    slots.taken_by_slow -= u32::from(ticket.cost > SLOW);
                }
                self.change_user(ticket.user, |user| user.taken -= 1);
                if succeeded {
                    self.costs.learn(ticket.fingerprint, now.saturating_sub(since));
                }
            }
            Phase::Refused | Phase::Stopped => {}
        }
        self.hand_on(endpoint, now);
        let is_over = |slots: &Slots| slots.is_gone && slots.taken == 0 && slots.waiting.is_empty();
        if self.endpoints.get(&endpoint).is_some_and(is_over) {
            self.endpoints.remove(&endpoint);
        }
    }

    fn turn(&self, token: u64) -> Turn {
        match self.requests.get(&token).map(|request| &request.phase) {
            Some(Phase::Waiting(_)) => Turn::Wait,
            Some(Phase::Running { .. }) => Turn::Go,
            Some(Phase::Stopped) => Turn::Stopped,
            Some(Phase::Refused) | None => Turn::Refused,
        }
    }

    /// Gives the free slots of an endpoint to the first that may go.
    fn hand_on(&mut self, endpoint: u64, now: Micros) {
        while let Some(token) = self.first(endpoint, now) {
            let Some(request) = self.requests.get_mut(&token) else { return };
            let ticket = request.ticket;
            if let Phase::Waiting(waker) = std::mem::replace(&mut request.phase, Phase::Running { since: now }) {
                self.woken.extend(waker);
            }
            self.remove_waiting(endpoint, ticket, token);
            if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                slots.taken += 1;
                slots.taken_by_slow += u32::from(ticket.cost > SLOW);
            }
            self.change_user(ticket.user, |user| user.taken += 1);
        }
    }

    /// Returns the first request that may have a slot of the endpoint, if one is free. Slow ones are passed over while they have all
    /// that they may have; those of a user with a large share are, unless nothing else waits that may go. While other users are
    /// active, such a user leaves them the slots that are kept.
    fn first(&self, endpoint: u64, now: Micros) -> Option<u64> {
        let slots = self.endpoints.get(&endpoint).filter(|slots| slots.are_free())?;
        let share = (self.slots / 8).max(MIN_SLOTS_OF_USER);
        let mut of_large_user = None;
        for token in slots.waiting.values() {
            let ticket = &self.requests.get(token)?.ticket;
            if ticket.cost > SLOW && slots.are_full_of_slow() {
                continue;
            }
            if self.users.get(&ticket.user).is_none_or(|user| user.taken < share) {
                return Some(*token);
            }
            if !slots.are_down_to_kept() || !self.is_other_active(ticket.user, now) {
                of_large_user = of_large_user.or(Some(*token));
            }
        }
        of_large_user
    }

    /// Returns whether another user has sent a query lately.
    fn is_other_active(&self, user: u64, now: Micros) -> bool {
        let other = self.latest.iter().find(|(of, _)| *of != user);
        other.and_then(|(_, at)| *at).is_some_and(|at| now.saturating_sub(at) < ACTIVE)
    }

    /// Refuses the costliest request that waits; of equal ones the last. While users have more than their share of the places, it is
    /// one of theirs.
    fn refuse_costliest(&mut self) {
        let crowds = |token: &u64| {
            let user = self.requests.get(token).and_then(|request| self.users.get(&request.ticket.user));
            user.is_some_and(|user| user.waiting > self.share_of_places())
        };
        let mut costliest = self.by_cost.iter().rev().map(|(_, token)| *token);
        let token = if self.crowding > 0 { costliest.find(crowds) } else { costliest.next() };
        if let Some(token) = token {
            self.end_wait(token, Phase::Refused);
        }
    }

    /// Has the requests that wait with this key wait no longer.
    pub(super) fn stop(&mut self, key: u64) {
        let has_key =
            |token: &u64| self.requests.get(token).is_some_and(|request| request.ticket.stop_keys.contains(&key));
        let stopped: Vec<_> = self.by_cost.iter().map(|(_, token)| *token).filter(has_key).collect();
        for token in stopped {
            self.end_wait(token, Phase::Stopped);
        }
    }

    /// Ends the wait of a request without a slot.
    fn end_wait(&mut self, token: u64, end: Phase) {
        let Some(Request { endpoint, ticket, phase }) = self.requests.get_mut(&token) else { return };
        let (endpoint, ticket) = (*endpoint, *ticket);
        if let Phase::Waiting(waker) = std::mem::replace(phase, end) {
            self.woken.extend(waker);
        }
        self.remove_waiting(endpoint, ticket, token);
    }

    fn remove_waiting(&mut self, endpoint: u64, ticket: Ticket, token: u64) {
        if let Some(slots) = self.endpoints.get_mut(&endpoint) {
            slots.waiting.remove(&(ticket.key, ticket.sequence));
        }
        self.by_cost.remove(&(ticket.cost, token));
        self.count_waiting(ticket.user, false);
    }

    fn count_waiting(&mut self, user: u64, is_added: bool) {
        let share = self.share_of_places();
        let (mut was_over, mut is_over) = (false, false);
        self.change_user(user, |user| {
            was_over = user.waiting > share;
            if is_added {
                user.waiting += 1
            } else {
                user.waiting -= 1
            }
            is_over = user.waiting > share;
        });
        self.crowding = self.crowding + usize::from(is_over) - usize::from(was_over);
    }

    /// The places to wait that one user may have when there are too few.
    fn share_of_places(&self) -> usize {
        self.places() / 8
    }

    /// Returns how many requests may wait.
    fn places(&self) -> usize {
        self.max_waiting.unwrap_or(WAITING_PER_ENDPOINT * self.limited.max(1))
    }

    fn change_user(&mut self, name: u64, change: impl FnOnce(&mut User)) {
        let user = self.users.entry(name).or_default();
        change(user);
        if user.taken == 0 && user.waiting == 0 {
            self.users.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Micros = 1_000_000;

    fn order(limits: &[u32], max_waiting: Option<usize>) -> Order {
        let mut order = Order::default();
        set(&mut order, limits, max_waiting);
        order
    }

    fn set(order: &mut Order, limits: &[u32], max_waiting: Option<usize>) {
        let limits: Vec<_> = (0..).zip(limits).map(|(uid, limit)| (uid, NonZeroU32::new(*limit))).collect();
        order.set_max_waiting(max_waiting);
        order.set_limits(&limits, 0);
    }

    /// Returns the ticket of a query that arrives at `now` and is expected to take `cost`.
    fn ticket(order: &mut Order, user: u64, cost: Micros, now: Micros) -> Ticket {
        Ticket { key: now + AGEING * cost, cost, ..order.ticket(user, None, now) }
    }

    fn enter(order: &mut Order, user: u64, cost: Micros, now: Micros) -> (u64, Turn) {
        let ticket = ticket(order, user, cost, now);
        order.enter(0, ticket, now)
    }

    #[test]
    fn a_quick_query_precedes_a_costly_one_that_came_up_to_30_times_the_difference_before() {
        let mut order = order(&[1], None);
        let (running, turn) = enter(&mut order, 1, 0, 0);
        assert_eq!(turn, Turn::Go);
        let (costly, _) = enter(&mut order, 2, 2 * SECOND, 0);
        let (early, _) = enter(&mut order, 3, SECOND, 29 * SECOND);
        let (late, _) = enter(&mut order, 4, SECOND, 31 * SECOND);
        let mut served = Vec::new();
        let mut token = running;
        for _ in 0..3 {
            order.leave(token, true, 32 * SECOND);
            token = *[costly, early, late].iter().find(|of| order.turn(**of) == Turn::Go).unwrap();
            served.push(token);
        }
        assert_eq!(served, [early, costly, late]);
    }

    #[test]
    fn slow_queries_leave_an_eighth_of_the_slots_to_quick_ones() {
        for (limit, for_slow) in [(1, 1), (3, 3), (4, 3), (8, 7), (16, 14)] {
            let mut order = order(&[limit], None);
            let slow: Vec<_> = (0..limit + 2).map(|user| enter(&mut order, user.into(), SLOW + 1, 0)).collect();
            assert_eq!(slow.iter().filter(|(_, turn)| *turn == Turn::Go).count(), for_slow, "{limit} slots");
            for user in for_slow as u64..u64::from(limit) {
                assert_eq!(enter(&mut order, 100 + user, SLOW, 0).1, Turn::Go, "{limit} slots");
            }
            order.leave(slow[0].0, false, 0);
            assert_eq!(order.turn(slow[for_slow].0), Turn::Go, "a slow query follows a slow one");
        }
    }

    #[test]
    fn a_user_with_an_eighth_of_the_slots_lets_others_pass_and_gets_what_they_leave() {
        let mut order = order(&[32, 8], None);
        let flood: Vec<_> = (0..40).map(|_| enter(&mut order, 1, SECOND, 0)).collect();
        assert_eq!(flood.iter().filter(|(_, turn)| *turn == Turn::Go).count(), 32, "no slot stays idle");
        let (other, turn) = enter(&mut order, 2, 2 * SECOND, SECOND);
        assert_eq!(turn, Turn::Wait);
        order.leave(flood[0].0, true, SECOND);
        assert_eq!(order.turn(other), Turn::Go);
        // While another user is active, an eighth of the slots is left to others.
        (1..6).for_each(|index| order.leave(flood[index].0, true, SECOND));
        assert_eq!((order.turn(flood[32].0), order.turn(flood[33].0)), (Turn::Go, Turn::Wait));
        order.leave(other, true, 11 * SECOND);
        assert_eq!((order.turn(flood[36].0), order.turn(flood[37].0)), (Turn::Go, Turn::Go), "no user but this one");
    }

    #[test]
    fn what_is_beyond_the_places_is_the_costliest_and_of_a_user_who_crowds() {
        let mut order = order(&[1], Some(8));
        enter(&mut order, 0, 0, 0);
        let waiting: Vec<_> = (1..=8).map(|user| enter(&mut order, user, user * SECOND, 0).0).collect();
        assert_eq!(enter(&mut order, 20, 9 * SECOND, 0).1, Turn::Refused, "the new one is the costliest");
        let (cheap, turn) = enter(&mut order, 21, SECOND, 0);
        assert_eq!((turn, order.turn(waiting[7])), (Turn::Wait, Turn::Refused));
        // A second place of eight is more than an eighth.
        let (second, turn) = enter(&mut order, 1, 0, 0);
        assert_eq!((turn, order.turn(waiting[0])), (Turn::Wait, Turn::Refused), "the costlier of user 1");
        assert_eq!((order.turn(cheap), order.turn(second), order.by_cost.len()), (Turn::Wait, Turn::Wait, 8));
        let (last, turn) = enter(&mut order, 21, SECOND, 0);
        assert_eq!((turn, order.turn(cheap)), (Turn::Refused, Turn::Wait), "of equal ones the last");
        order.leave(last, false, 0);
    }

    #[test]
    fn limits_follow_the_membership() {
        let mut order = order(&[1, 1], None);
        let (running, _) = enter(&mut order, 1, 0, 0);
        let waiting: Vec<_> = (0..3).map(|user| enter(&mut order, user, 0, 0).0).collect();
        set(&mut order, &[2, 1], None);
        assert_eq!((order.turn(waiting[0]), order.turn(waiting[1])), (Turn::Go, Turn::Wait));
        order.set_limits(&[(1, NonZeroU32::new(1))], 0);
        order.leave(running, true, 0);
        assert_eq!(order.turn(waiting[1]), Turn::Wait, "an endpoint that left starts nothing");
        set(&mut order, &[0, 1], None);
        assert_eq!((order.turn(waiting[1]), order.turn(waiting[2])), (Turn::Go, Turn::Go), "0 is no limit here");
        order.set_limits(&[], 0);
        waiting.into_iter().for_each(|token| order.leave(token, true, 0));
        assert!(is_empty(&order));
    }

    #[test]
    fn a_request_that_was_picked_for_an_endpoint_that_has_left_waits() {
        let mut order = order(&[1], None);
        let left = ticket(&mut order, 1, 0, 0);
        let (token, turn) = order.enter(7, left, 0);
        assert_eq!(turn, Turn::Wait);
        order.leave(token, false, 0);
        assert!(is_empty(&order) && order.endpoints.len() == 1);
    }

    fn is_empty(order: &Order) -> bool {
        let is_idle = |slots: &Slots| slots.taken == 0 && slots.taken_by_slow == 0 && slots.waiting.is_empty();
        let Order { endpoints, requests, by_cost, users, crowding, .. } = order;
        endpoints.values().all(is_idle)
            && requests.is_empty()
            && by_cost.is_empty()
            && users.is_empty()
            && *crowding == 0
    }

    /// Applies the rules to a list.
    struct Model {
        limits: [u32; 2],
        /// When each user sent its last query.
        sent: BTreeMap<u64, Micros>,
        now: Micros,
        requests: Vec<(u64, u64, Ticket, Turn)>,
    }

    impl Model {
        fn taken(&self, of: impl Fn(u64, &Ticket) -> bool) -> u32 {
            let taken =
                self.requests.iter().filter(|(_, endpoint, ticket, turn)| *turn == Turn::Go && of(*endpoint, ticket));
            taken.count() as u32
        }

        fn hand_on(&mut self, endpoint: u64) {
            let limit = self.limits[endpoint as usize];
            while self.taken(|of, _| of == endpoint) < limit {
                let slow = self.taken(|of, ticket| of == endpoint && ticket.cost > SLOW);
                let is_full_of_slow = limit >= 4 && slow >= limit - (limit / 8).max(1);
                let share = (self.limits.iter().sum::<u32>() / 8).max(4);
                let kept = if limit < 4 { 0 } else { (limit / 8).max(1) };
                let is_down = limit - self.taken(|of, _| of == endpoint) <= kept;
                let others = |user: u64| self.sent.iter().any(|(of, at)| *of != user && self.now - at < ACTIVE);
                let first = |with_large: bool| {
                    let may_go = |(_, of, ticket, turn): &&(u64, u64, Ticket, Turn)| {
                        *of == endpoint
                            && *turn == Turn::Wait
                            && !(is_full_of_slow && ticket.cost > SLOW)
                            && (self.taken(|_, other| other.user == ticket.user) < share
                                || with_large && !(is_down && others(ticket.user)))
                    };
                    let first = self
                        .requests
                        .iter()
                        .filter(may_go)
                        .min_by_key(|(_, _, ticket, _)| (ticket.key, ticket.sequence));
                    first.map(|(token, ..)| *token)
                };
                let Some(token) = first(false).or_else(|| first(true)) else { return };
                self.requests.iter_mut().find(|(of, ..)| *of == token).unwrap().3 = Turn::Go;
            }
        }

        fn refuse(&mut self, max: usize) {
            let waiting = || self.requests.iter().filter(|(.., turn)| *turn == Turn::Wait);
            if waiting().count() <= max {
                return;
            }
            let crowds = |user: u64| waiting().filter(|(_, _, ticket, _)| ticket.user == user).count() > max / 8;
            let any = waiting().any(|(_, _, ticket, _)| crowds(ticket.user));
            let victims = waiting().filter(|(_, _, ticket, _)| !any || crowds(ticket.user));
            let (token, ..) = *victims.max_by_key(|(token, _, ticket, _)| (ticket.cost, *token)).unwrap();
            self.requests.iter_mut().find(|(of, ..)| *of == token).unwrap().3 = Turn::Refused;
        }
    }

    proptest! {
        #[test]
        fn every_request_gets_the_turn_that_the_rules_say(
            limits in (1..12_u32, 1..12_u32),
            actions in prop::collection::vec((0..4_u8, 0..2_u64, 0..4_u64, 0..8_u64, 0..5_u64, any::<prop::sample::Index>()), 0..160),
        ) {
            const MAX: usize = 16;
            let mut order = order(&[limits.0, limits.1], Some(MAX));
            let mut model = Model { limits: [limits.0, limits.1], sent: BTreeMap::new(), now: 0, requests: Vec::new() };
            let mut now = 0;
            for (action, endpoint, user, seconds, later, which) in actions {
                now += later * SECOND;
                model.now = now;
                if action < 3 || model.requests.is_empty() {
                    let ticket = ticket(&mut order, user, seconds * SECOND, now);
                    let (token, _) = order.enter(endpoint, ticket, now);
                    model.sent.insert(user, now);
                    model.requests.push((token, endpoint, ticket, Turn::Wait));
                    model.hand_on(endpoint);
                    model.refuse(MAX);
                } else {
                    let (token, endpoint, ..) = model.requests.remove(which.index(model.requests.len()));
                    order.leave(token, false, now);
                    model.hand_on(endpoint);
                }
                for (token, .., turn) in &model.requests {
                    prop_assert_eq!(order.turn(*token), *turn);
                }
            }
            for (token, ..) in model.requests {
                order.leave(token, true, now);
            }
            prop_assert!(is_empty(&order));
        }
    }
}
