mod floods;
mod model;

use std::num::NonZeroU32;

use super::*;
use crate::admission::queue::pace::SLOW;
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
    Ticket { key: now + AGEING * cost, cost, pace: Pace::of(cost, true), ..order.ticket(user, None, None, now) }
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

/// Runs queries of these durations in milliseconds, one at each endpoint, started a tenth of a
/// second apart.
fn run(order: &mut Order, rounds: u64, millis: &[u64], now: &mut Micros) -> Vec<u32> {
    for round in 0..rounds {
        for (uid, millis) in (0..).zip(millis) {
            // There are two kinds of queries, one of which takes ten times as long as the other.
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
