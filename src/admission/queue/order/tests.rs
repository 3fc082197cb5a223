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
    let limits: Vec<_> = (0..).zip(limits).map(|(uid, limit)| (live(order, uid), NonZeroU32::new(*limit))).collect();
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
    Ticket { key: now + AGEING * cost, cost, may_be_slow: cost > SLOW, ..order.ticket(user, None, None, now) }
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
    let waiting = |order: &Order| flood.iter().filter(|token| order.turn(**token) == SlotState::Wait).count() as u32;
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
    assert_eq!((order.turn(waiting[1]), order.turn(waiting[2])), (SlotState::Go, SlotState::Go), "0 is no limit here");
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
            let of = |of: &&mut Modelled| of.ticket.user == ticket.user && of.is_beyond && of.turn == SlotState::Wait;
            if within >= self.share(all) {
                break;
            }
            let Some(next) = self.requests.iter_mut().filter(of).min_by_key(|of| (of.ticket.key, of.ticket.sequence))
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
                if self.requests.iter().any(|of| of.endpoint == endpoint && of.is_beyond && of.turn == SlotState::Wait)
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
            let are_left = |more| limit - taken <= kept || taken > 0 && beyond + 1 + needed + more > limit;
            let others = |user: u64| self.sent.iter().any(|(of, at)| *of != user && self.now - at < ACTIVE);
            let floods = |user: u64| self.of_user(user).0 > 8 * self.whole_share();
            let may_go =
                |of: &&Modelled| at(of) && of.turn == SlotState::Wait && !(is_full_of_slow && of.ticket.cost > SLOW);
            let within = self.requests.iter().filter(may_go).filter(|of| !of.is_beyond);
            let first = within.min_by_key(|of| (of.ticket.key, of.ticket.sequence)).map(|of| of.token);
            let first = first.or_else(|| {
                let users: std::collections::BTreeSet<u64> = self.requests.iter().map(|of| of.ticket.user).collect();
                let firsts = users.into_iter().filter_map(|user| {
                    let waits = |of: &Modelled| {
                        others(user)
                            && (floods(user) && are_left(0) || of.ticket.cost > SLOW && are_left(MORE_FOR_SLOW))
                    };
                    let of_user = self.requests.iter().filter(may_go).filter(|of| of.ticket.user == user);
                    of_user.filter(|of| !waits(of)).min_by_key(|of| (of.ticket.key, of.ticket.sequence))
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

/// A user sends 30 queries at once while another user is active and has needed one slot.
#[test]
fn queries_beyond_a_share_that_may_be_slow_leave_slots_to_others() {
    let started = |fingerprint, cost: Micros, other_at: Micros| {
        let mut order = order(&[16, 16], None);
        order.costs.learn(Some(1), cost);
        let (other, _) = enter(&mut order, 2, SECOND, 0);
        order.leave(other, true, 0);
        let count = |order: &mut Order| {
            let ticket = order.ticket(1, None, Some(fingerprint), other_at);
            u32::from(order.enter(&live(order, 0), ticket, other_at).1 == SlotState::Go)
        };
        (0..30).map(|_| count(&mut order)).sum::<u32>()
    };
    let (quick, slow, unseen) = (started(1, SECOND, 0), started(1, 20 * SECOND, 0), started(9, SECOND, 0));
    // Of 16 slots two are kept for quick queries.
    assert_eq!((quick, slow, unseen), (16, 14, 14));
    assert_eq!((started(9, SECOND, ACTIVE), started(1, 20 * SECOND, ACTIVE)), (16, 14), "without another user");
}

#[test]
fn a_quick_query_beyond_a_share_passes_the_slow_ones_of_its_user() {
    let mut order = order(&[8], None);
    let (other, _) = enter(&mut order, 2, SECOND, 0);
    let slow: Vec<_> = (0..9).map(|_| enter(&mut order, 1, SLOW + 1, 0)).collect();
    assert_eq!(slow.iter().filter(|(_, turn)| *turn == SlotState::Go).count(), 4 + 2, "one slot is left to others");
    let [quick, next] = [0; 2].map(|_| enter(&mut order, 1, SECOND, 0));
    assert_eq!((quick.1, next.1), (SlotState::Go, SlotState::Wait));
    order.leave(slow[0].0, true, 0);
    assert_eq!(order.turn(next.0), SlotState::Go, "a quick one is next within the share");
    order.leave(other, true, 0);
    assert_eq!(order.turn(slow[6].0), SlotState::Wait);
    order.leave(next.0, true, ACTIVE);
    assert_eq!((order.turn(slow[6].0), order.turn(slow[7].0)), (SlotState::Go, SlotState::Go), "without another user");
}

/// Every 12 s five others send a query at once, and one of them every 4 s, while a user floods with queries of 2 s.
#[test]
fn slots_that_others_need_now_and_then_are_left_to_them() {
    let mut order = order(&[8], None);
    let mut flood: Vec<(u64, Option<Micros>)> = (0..100).map(|_| (enter(&mut order, 1, SECOND, 0).0, None)).collect();
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
