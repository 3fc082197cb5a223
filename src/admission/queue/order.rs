//! Decides which request gets a slot: the state of all queues of a cluster, without I/O and without
//! a clock.

mod places;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use ahash::AHashMap;

use super::costs::{Costs, Micros};
use super::credentials::{Accepted, Credential};
use super::pace::Pace;
use super::slots::{Slots, interval};
use super::slowness;
use super::ticket::{SlotState, Ticket, key};
use super::users::{Activity, User};
use crate::endpoint::Live;

/// The number of slots that slow queries leave to other users, in addition to those that a flood of
/// quick ones leaves. Other users wait long for a slot that a slow query holds, and may need more
/// slots meanwhile than before.
const MORE_FOR_SLOW: u32 = 1;

/// All queues of a cluster, and the requests that have their slots.
#[derive(Debug, Default)]
pub(super) struct Order {
    endpoints: AHashMap<u64, Slots>,
    /// The requests by token.
    requests: AHashMap<u64, Request>,
    /// The cost and the token of each request that waits.
    by_cost: BTreeSet<(Micros, u64)>,
    users: AHashMap<u64, User>,
    /// The number of users that hold more than their share of the waiting places.
    users_over_share: usize,
    /// The number of slots of all endpoints.
    slots: u32,
    /// The number of endpoints with a limit.
    limited: usize,
    max_waiting: Option<usize>,
    /// [`QueueRules::max_wait`](super::QueueRules::max_wait).
    pub(super) max_wait: Option<Duration>,
    costs: Costs,
    /// Whether endpoints with slow nodes get a lower weight.
    slow_weights: bool,
    /// The time at which the weights were last computed.
    weighted: Micros,
    pub(super) accepted: Accepted,
    activity: Activity,
    /// The interval in which [`give_slots_after_interval`](Self::give_slots_after_interval) last
    /// ran.
    interval: u64,
    next: u64,
    /// Wakers that must be called, or dropped, without the lock.
    pub(super) wakers: Vec<Waker>,
    /// An endpoint whose weight has changed. The tasks that watch it are notified without the lock.
    pub(super) reweighted: Option<Arc<Live>>,
}

#[derive(Debug)]
struct Request {
    endpoint: u64,
    ticket: Ticket,
    /// Whether it is beyond the share of its user, or was when it got its slot.
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
    /// Sets how many requests may wait; `None` means 64 per endpoint with a limit.
    pub(super) fn set_max_waiting(&mut self, max: Option<usize>) {
        self.max_waiting = max;
        self.users_over_share = self.users.values().filter(|user| user.waiting() > self.share_of_places()).count();
    }

    /// Sets whether endpoints with slow nodes get a lower weight.
    pub(super) fn set_slow_weights(&mut self, on: bool) {
        self.slow_weights = on;
        self.set_weights();
    }

    /// Sets the endpoints and their limits.
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

    /// Returns the ticket of a request that arrives now. `unproven` are its credentials, if the
    /// address stands for the user until a node accepts them.
    pub(super) fn ticket(
        &mut self,
        user: u64,
        unproven: Option<Credential>,
        fingerprint: Option<u64>,
        now: Micros,
    ) -> Ticket {
        let (cost, is_known) = self.costs.expected(fingerprint);
        self.activity.note(user, unproven, now);
        self.next += 1;
        let has_many = self.users.get(&user).is_some_and(|user| user.has_shrunken_share(self.slots));
        let is_of_flood = has_many && self.is_next_beyond(user);
        Ticket {
            key: key(now, cost),
            sequence: self.next,
            cost,
            pace: Pace::of(cost, is_known),
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

    /// Adds a request to the queue of an endpoint. Returns its token, with which the request must
    /// always [leave](Self::leave).
    pub(super) fn enter(&mut self, live: &Arc<Live>, ticket: Ticket, now: Micros) -> (u64, SlotState) {
        let endpoint = live.uid;
        self.next += 1;
        let (token, key) = (self.next, (ticket.key, ticket.sequence));
        let is_beyond = self.is_next_beyond(ticket.user);
        self.requests.insert(token, Request { endpoint, ticket, is_beyond, phase: Phase::Waiting(None) });
        // A pick from an older view can choose an endpoint that has left. The request then waits
        // until it notices.
        let slots = self.endpoints.entry(endpoint).or_insert_with(|| Slots::gone(live));
        slots.live.begin_wait(ticket.is_of_flood);
        slots.put(ticket.user, is_beyond, ticket.pace, key, token);
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

    /// Returns the turn of a request. `waker` is called when the turn changes.
    pub(super) fn poll(&mut self, token: u64, waker: &Waker) -> SlotState {
        if let Some(Request { phase: Phase::Waiting(stored), .. }) = self.requests.get_mut(&token)
            && !stored.as_ref().is_some_and(|stored| stored.will_wake(waker))
        {
            self.wakers.extend(stored.replace(waker.clone()));
        }
        self.turn(token)
    }

    /// Removes a request: it no longer waits, or its slot is free. If it `succeeded`, its duration
    /// is learned.
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
                    slots.taken_by_slow -= u32::from(ticket.pace.is_slow());
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

    /// Learns the duration of a query.
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

    /// Sets the reduced weights of endpoints.
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

    /// Moves requests of a user into its share until the share is full. The requests of a user that
    /// floods count as arriving now.
    fn fill_share(&mut self, name: u64, now: Micros) {
        let places = self.places();
        while let Some(user) = self.users.get_mut(&name).filter(|user| !user.share_is_full(self.slots, user.all()))
            && let Some((before, token)) = user.beyond.pop_first()
        {
            user.within += 1;
            let floods = user.floods(self.slots, places);
            let Some(Request { endpoint, ticket, is_beyond, .. }) = self.requests.get_mut(&token) else { return };
            *is_beyond = false;
            if floods {
                ticket.key = ticket.key.max(key(now, ticket.cost));
            }
            let was_of_flood = std::mem::take(&mut ticket.is_of_flood);
            let (endpoint, pace, after) = (*endpoint, ticket.pace, (ticket.key, ticket.sequence));
            if let Some(slots) = self.endpoints.get_mut(&endpoint) {
                slots.live.begin_wait(false);
                slots.live.end_wait(was_of_flood);
                slots.remove(name, true, pace, before);
                slots.put(name, false, pace, after, token);
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
                slots.taken_by_slow += u32::from(ticket.pace.is_slow());
                slots.taken_beyond += u32::from(is_beyond);
            }
            // Counted before the request is removed from the waiting ones. Otherwise the user could
            // be removed with it.
            self.users.entry(ticket.user).or_default().taken += 1;
            self.remove_waiting(endpoint, ticket, is_beyond, token);
        }
    }

    /// Gives slots that were left free for other users to requests beyond their shares, once per
    /// interval.
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

    /// Returns the first request that may have a slot of the endpoint, if one is free. Slow
    /// requests are skipped while slow requests hold all the slots that they may have. Requests
    /// beyond the share of their user come last; among these, the user with the fewest requests
    /// comes first.
    fn first(&self, endpoint: u64, now: Micros) -> Option<u64> {
        let slots = self.endpoints.get(&endpoint).filter(|slots| slots.are_free())?;
        let slow_may_go = !slots.are_full_of_slow();
        if let Some((_, within)) = slots.waiting.first(|pace| slow_may_go || !pace.is_slow()) {
            return Some(within);
        }
        let places = self.places();
        let (flood_waits, slow_wait) = (slots.are_left_to_others(0), slots.are_left_to_others(MORE_FOR_SLOW));
        let beyond = slots.beyond.iter().filter_map(|(name, queue)| {
            let user = self.users.get(name)?;
            let leaves_slots = slow_wait && self.activity.is_other_active(*name, now);
            if leaves_slots && flood_waits && user.floods(self.slots, places) {
                return None;
            }
            let (sequence, token) = queue.first(|pace| match pace {
                Pace::Quick => true,
                Pace::Unknown => !leaves_slots,
                Pace::Slow => slow_may_go && !leaves_slots,
            })?;
            Some((user.all(), sequence, token))
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
mod tests;
