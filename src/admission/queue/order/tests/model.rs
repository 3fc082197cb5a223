//! A reference model that applies the rules to a list. Each request must get the same turn as in
//! the real queues.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
    /// The times at which requests within the shares of their users needed slots of an endpoint,
    /// and how many.
    needs: Vec<(Micros, u64, u32)>,
    requests: Vec<Modelled>,
}

impl Model {
    fn count(&self, of: impl Fn(&&Modelled) -> bool) -> u32 {
        self.requests.iter().filter(of).count() as u32
    }

    /// Returns how many requests of the user run or wait, and how many of these are within its
    /// share.
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
