//! Users who send more than their share.

use super::*;

#[test]
fn a_user_with_an_eighth_of_the_slots_lets_others_pass_and_gets_what_they_leave() {
    let mut order = order(&[32, 8], None);
    let flood: Vec<_> = (0..90).map(|_| enter(&mut order, 1, SECOND, 0)).collect();
    assert_eq!(flood.iter().filter(|(_, turn)| *turn == SlotState::Go).count(), 32, "no slot stays idle");
    let (other, turn) = enter(&mut order, 2, 2 * SECOND, SECOND);
    assert_eq!(turn, SlotState::Wait);
    order.leave(flood[0].0, true, SECOND);
    assert_eq!(order.turn(other), SlotState::Go);
    // While another user is active, as many slots are left to others as they needed: 5 for the
    // share of this user, and one.
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
    // Of 16 slots, two are kept for quick queries.
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

/// Every 12 s five other users send a query at once, and one of them every 4 s, while one user
/// floods with queries of 2 s.
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

/// One user keeps sending as many queries as may wait. No query of another user may wait for more
/// than the next end of a query.
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
