use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Intent, Role, Settings};
use crate::clock::Clock;
use crate::health::passive::Passive;

/// What changes while an endpoint serves. On cache lines of its own, because every core writes to it.
#[repr(align(128))]
pub(crate) struct Live {
    /// Slots taken, and slots given back: what lies between is in flight. Two counts that only rise cost a request two atomic
    /// additions; one of those in flight and one of those served would cost three.
    begun: AtomicU64,
    ended: AtomicU64,
    pub(crate) passive: Passive,
    pub(crate) failed: AtomicU64,
    /// Distinguishes endpoints within the process, for a request's list of those already tried.
    pub(crate) uid: u64,
    origin: Instant,
    clock: Arc<dyn Clock>,
}

impl Live {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // One fail_timeout of any sane length lies between the origin and now, as in nginx, where `checked` starts at 0.
        Live {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            passive: Passive::default(),
            failed: AtomicU64::new(0),
            uid: NEXT.fetch_add(1, Ordering::Relaxed),
            origin: clock.now(),
            clock,
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        // In this order, or a request that begins and ends in between would count as less than none.
        let ended = self.ended.load(Ordering::Acquire);
        Live::between(ended, self.begun.load(Ordering::Relaxed))
    }

    fn between(ended: u64, begun: u64) -> u32 {
        u32::try_from(begun.saturating_sub(ended)).unwrap_or(u32::MAX)
    }

    /// How many requests have ended.
    pub(crate) fn served(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Takes a slot; false when `limit`, if it is not 0, is reached.
    fn begin(&self, limit: u32) -> bool {
        if limit == 0 {
            self.begun.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let ended = self.ended.load(Ordering::Acquire);
        let below = |begun| (Live::between(ended, begun) < limit).then_some(begun + 1);
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Gives back a slot of which no use was made.
    fn give_back(&self) {
        self.begun.fetch_sub(1, Ordering::Relaxed);
    }

    /// Milliseconds since the origin.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives back the slot of a request that has ended.
    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("in_flight", &self.in_flight()).field("fails", &self.passive.fails()).finish()
    }
}

/// Settings and live state together: what a view holds and a policy sees as a candidate.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) settings: Settings,
    pub(crate) live: Arc<Live>,
}

impl Member {
    /// May a policy choose it now for a request that needs `role`? The one place where health, intent, limits and roles are
    /// tested.
    pub(crate) fn is_eligible(&self, alone: bool, role: Option<Role>) -> bool {
        self.settings.intent == Intent::Ready && self.can_serve(alone, role)
    }

    /// May a request go to it that belongs to a session which is bound to it? Draining keeps those.
    pub(crate) fn is_eligible_when_bound(&self, alone: bool, role: Option<Role>) -> bool {
        self.settings.intent != Intent::Maintain && self.can_serve(alone, role)
    }

    /// Is it out of service for everybody, bound sessions included, for another reason than its load?
    pub(crate) fn is_out(&self, alone: bool) -> bool {
        let ejected = || !alone && self.live.passive.is_ejected(self.settings.rule, || self.live.now_ms());
        self.settings.intent == Intent::Maintain || ejected()
    }

    fn can_serve(&self, alone: bool, role: Option<Role>) -> bool {
        let limit = self.settings.max_in_flight;
        role.is_none_or(|role| self.settings.roles.has(role))
            && (limit == 0 || self.live.in_flight() < limit)
            && (alone || !self.live.passive.is_ejected(self.settings.rule, || self.live.now_ms()))
    }

    /// Takes a slot. False when the last one, or the only probe of an ejected endpoint, has just gone to another request.
    pub(crate) fn acquire(&self, alone: bool) -> bool {
        if !self.live.begin(self.settings.max_in_flight) {
            return false;
        }
        if alone || self.live.passive.choose(self.settings.rule, || self.live.now_ms()) {
            return true;
        }
        self.live.give_back();
        false
    }
}
