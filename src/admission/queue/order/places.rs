//! The places of waiting requests.

use super::{Order, Phase, Request};
use crate::admission::queue::ticket::Ticket;
use crate::admission::queue::users::User;

/// The default maximum of waiting requests, for each endpoint with a limit.
const WAITING_PER_ENDPOINT: usize = 64;

impl Order {
    /// Refuses the waiting request with the longest expected duration; among equals, the last. If
    /// users hold more than their share of the places, the refused request is one of theirs.
    pub(super) fn refuse_costliest(&mut self) {
        let crowds = |token: &u64| {
            let user = self.requests.get(token).and_then(|request| self.users.get(&request.ticket.user));
            user.is_some_and(|user| user.waiting() > self.share_of_places())
        };
        let mut costliest = self.by_cost.iter().rev().map(|(_, token)| *token);
        let token = if self.users_over_share > 0 { costliest.find(crowds) } else { costliest.next() };
        if let Some(token) = token {
            self.end_wait(token, Phase::Refused);
        }
    }

    /// Ends the wait of the requests with this key.
    pub(in crate::admission::queue) fn stop(&mut self, key: u64) {
        let has_key =
            |token: &u64| self.requests.get(token).is_some_and(|request| request.ticket.stop_keys.contains(&key));
        let stopped: Vec<_> = self.by_cost.iter().map(|(_, token)| *token).filter(has_key).collect();
        for token in stopped {
            self.end_wait(token, Phase::Stopped);
        }
    }

    /// Ends the wait of a request without a slot.
    fn end_wait(&mut self, token: u64, end: Phase) {
        let Some(Request { endpoint, ticket, is_beyond, phase }) = self.requests.get_mut(&token) else { return };
        let (endpoint, ticket, is_beyond) = (*endpoint, *ticket, *is_beyond);
        if let Phase::Waiting(waker) = std::mem::replace(phase, end) {
            self.wakers.extend(waker);
        }
        self.remove_waiting(endpoint, ticket, is_beyond, token);
    }

    pub(super) fn remove_waiting(&mut self, endpoint: u64, ticket: Ticket, is_beyond: bool, token: u64) {
        let key = (ticket.key, ticket.sequence);
        if let Some(slots) = self.endpoints.get_mut(&endpoint) {
            slots.remove(ticket.user, is_beyond, ticket.pace, key);
            slots.live.end_wait(ticket.is_of_flood);
        }
        self.by_cost.remove(&(ticket.cost, token));
        self.change_waiting(ticket.user, |user| {
            if is_beyond {
                user.beyond.remove(&key);
            } else {
                user.within -= 1;
            }
        });
    }

    pub(super) fn change_waiting(&mut self, name: u64, change: impl FnOnce(&mut User)) {
        let share = self.share_of_places();
        let (mut was_over, mut is_over) = (false, false);
        self.change_user(name, |user| {
            was_over = user.waiting() > share;
            change(user);
            is_over = user.waiting() > share;
        });
        self.users_over_share = self.users_over_share + usize::from(is_over) - usize::from(was_over);
    }

    /// Returns how many places one user may have if all are taken.
    pub(super) fn share_of_places(&self) -> usize {
        self.places() / 8
    }

    /// Returns how many requests may wait.
    pub(super) fn places(&self) -> usize {
        self.max_waiting.unwrap_or(WAITING_PER_ENDPOINT * self.limited.max(1))
    }
}
