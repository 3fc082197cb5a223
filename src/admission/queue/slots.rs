use std::sync::Arc;

use ahash::AHashMap;

use super::costs::Micros;
use super::pace::{Pace, Waiting};
use super::slowness::Slowness;
use crate::endpoint::Live;

/// The minimum number of slots for some to be kept for quick queries.
const MIN_SLOTS_TO_KEEP: u32 = 4;
/// The interval of [`Peak`]. Slots that others needed in this interval or the last one are left
/// free for them. With a shorter interval, a burst of their queries, as when a dashboard is opened,
/// would find the slots of the previous burst taken.
const INTERVAL: Micros = 15_000_000;

/// The slots of one endpoint, and the requests that wait for them.
#[derive(Debug)]
pub(super) struct Slots {
    /// Counts the waiting requests, for policies.
    pub(super) live: Arc<Live>,
    /// `None` is no limit.
    pub(super) limit: Option<u32>,
    pub(super) taken: u32,
    pub(super) taken_by_slow: u32,
    /// The number of slots of requests that were beyond the shares of their users when they got
    /// them.
    pub(super) taken_beyond: u32,
    /// The waiting requests within the shares of their users.
    pub(super) waiting: Waiting,
    /// The other waiting requests, by user. A user without any has no entry.
    pub(super) beyond: AHashMap<u64, Waiting>,
    needed: Peak,
    pub(super) slowness: Slowness,
    pub(super) is_gone: bool,
}

impl Slots {
    /// Returns the slots of an endpoint that has left the cluster.
    pub(super) fn gone(live: &Arc<Live>) -> Self {
        Slots {
            live: Arc::clone(live),
            limit: None,
            taken: 0,
            taken_by_slow: 0,
            taken_beyond: 0,
            waiting: Waiting::default(),
            beyond: AHashMap::new(),
            needed: Peak::default(),
            slowness: Slowness::default(),
            is_gone: true,
        }
    }

    pub(super) fn are_free(&self) -> bool {
        !self.is_gone && self.limit.is_none_or(|limit| self.taken < limit)
    }

    pub(super) fn are_idle(&self) -> bool {
        self.taken == 0 && self.waiting.is_empty() && self.beyond.is_empty()
    }

    /// Returns how many slots are kept for quick queries of users within their shares.
    fn kept(&self) -> u32 {
        self.limit.map_or(0, |limit| if limit < MIN_SLOTS_TO_KEEP { 0 } else { (limit / 8).max(1) })
    }

    /// Returns whether slow requests hold all the slots that they may have.
    pub(super) fn are_full_of_slow(&self) -> bool {
        self.kept() > 0 && self.limit.is_some_and(|limit| self.taken_by_slow >= limit - self.kept())
    }

    /// Returns whether one more request beyond the share of its user would take a slot that is left
    /// to other users. Some slots are kept for quick queries. In addition, as many are left as
    /// requests within the shares needed lately, plus `more`. If all slots are free, one request
    /// may go.
    pub(super) fn are_left_to_others(&self, more: u32) -> bool {
        let is_left = |limit: u32| {
            let is_needed = self.taken_beyond + 1 + self.needed.max().saturating_add(more) > limit;
            limit.saturating_sub(self.taken) <= self.kept() || self.taken > 0 && is_needed
        };
        self.limit.is_some_and(is_left)
    }

    /// Records how many slots the requests within the shares of their users need.
    pub(super) fn note_need(&mut self, now: Micros) {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.needed.note((self.taken - self.taken_beyond).saturating_add(waiting), now);
    }

    pub(super) fn put(&mut self, user: u64, is_beyond: bool, pace: Pace, key: (Micros, u64), token: u64) {
        let queue = if is_beyond { self.beyond.entry(user).or_default() } else { &mut self.waiting };
        queue.insert(pace, key, token);
    }

    pub(super) fn remove(&mut self, user: u64, is_beyond: bool, pace: Pace, key: (Micros, u64)) {
        if !is_beyond {
            self.waiting.remove(pace, key);
        } else if let Some(queue) = self.beyond.get_mut(&user) {
            queue.remove(pace, key);
            if queue.is_empty() {
                self.beyond.remove(&user);
            }
        }
    }
}

/// The maximum of the numbers that were recorded in the current interval and the last one.
#[derive(Debug, Default)]
struct Peak {
    interval: u64,
    present: u32,
    before: u32,
}

/// Returns the number of the interval that contains a time.
pub(super) fn interval(now: Micros) -> u64 {
    now / INTERVAL
}

impl Peak {
    fn note(&mut self, number: u32, now: Micros) {
        // The clock is the application's, so it may go backwards.
        let passed = interval(now).saturating_sub(self.interval);
        if passed > 0 {
            (self.interval, self.before, self.present) = (interval(now), if passed == 1 { self.present } else { 0 }, 0);
        }
        self.present = self.present.max(number);
    }

    fn max(&self) -> u32 {
        self.present.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_forgotten_after_one_to_two_intervals() {
        let mut peak = Peak::default();
        let mut max = |number, now| {
            peak.note(number, now);
            peak.max()
        };
        assert_eq!([max(3, 0), max(5, INTERVAL - 1), max(1, INTERVAL), max(2, 2 * INTERVAL - 1)], [3, 5, 5, 5]);
        assert_eq!([max(1, 2 * INTERVAL), max(0, 3 * INTERVAL), max(0, 9 * INTERVAL)], [2, 1, 0]);
        assert_eq!([max(4, 8 * INTERVAL), max(2, 0), max(0, 9 * INTERVAL)], [4, 4, 4], "an earlier time");
    }
}
