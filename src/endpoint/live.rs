use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::load::{Load, LoadRef, Wraps};
use super::{AdminState, Role, Settings};
use crate::clock::Clock;
use crate::health::impaired::ImpairedCount;
use crate::health::passive::Passive;
use crate::health::state::{Peers, Rule, State};

/// What changes while an endpoint serves, on cache lines of its own: where outliers are ejected, each success is counted here. In
/// this order, so that what a pick reads where something is said against an endpoint lies in the first.
#[repr(C, align(128))]
pub(crate) struct Live {
    pub(crate) passive: Passive,
    /// Begins with what picks read.
    pub(crate) health: State,
    /// What changes with each request lies elsewhere.
    pub(crate) load: LoadRef,
    pub(crate) failed: AtomicU64,
    pub(super) wraps: Wraps,
    /// Distinguishes endpoints within the process, for a request's list of those already tried.
    pub(crate) uid: u64,
    origin: Instant,
    clock: Arc<dyn Clock>,
}

const _: () = assert!(offset_of!(Live, health) + State::READ_IN_PICKS <= 64);

impl Live {
    /// `peers` compares the endpoint with the others of its cluster, where that is asked for; `impaired` are the cluster's.
    pub(crate) fn new(
        load: LoadRef,
        clock: Arc<dyn Clock>,
        peers: Option<Arc<dyn Peers>>,
        impaired: ImpairedCount,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // One fail_timeout of any sane length lies between the origin and now, as in nginx, where `checked` starts at 0.
        Live {
            load,
            passive: Passive::new(impaired.clone()),
            health: State::new(peers, impaired),
            failed: AtomicU64::new(0),
            wraps: Wraps::default(),
            uid: NEXT.fetch_add(1, Ordering::Relaxed),
            origin: clock.now(),
            clock,
        }
    }

    /// Is there nothing that could bar it: no failure, no ejection, no word of probes? Asks no clock.
    #[inline]
    pub(crate) fn is_spotless(&self) -> bool {
        (self.passive.fails() == 0) & self.health.is_unbarred()
    }

    /// How many requests have ended.
    pub(crate) fn served(&self) -> u64 {
        self.load.count.ended(&self.wraps)
    }

    /// Milliseconds since the origin.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment `ms` milliseconds after the origin.
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        self.origin.checked_add(Duration::from_millis(ms)).unwrap_or(self.origin)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("in_flight", &self.load.in_flight()).field("fails", &self.passive.fails()).finish()
    }
}

/// Settings and live state together.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Member {
    /// These first, close to the count of references to the member: what ends looks for them.
    pub(crate) live: Arc<Live>,
    /// The live state's.
    load: LoadRef,
    /// Apart, so that what each request touches is little.
    pub(crate) settings: Arc<Settings>,
}

impl Member {
    pub(crate) fn new(settings: Arc<Settings>, live: Arc<Live>) -> Self {
        Member { load: live.load.clone(), live, settings }
    }

    /// What it has to do at present.
    #[inline]
    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    /// Takes a slot. False when the last one, or the only probe of an ejected endpoint, has just gone to another request.
    pub(crate) fn acquire(&self, alone: bool) -> bool {
        let Member { settings, live, load } = self;
        if !load.count.begin(settings.max_in_flight) {
            return false;
        }
        if alone || live.passive.choose(settings.rule, || live.now_ms()) {
            return true;
        }
        load.count.give_back();
        false
    }

    /// Gives back the slot of a request that has ended.
    #[inline]
    pub(super) fn end(&self) {
        self.load.count.end(&self.live.wraps);
    }

    /// Is it out of service for everybody, bound sessions included, for another reason than its load?
    pub(crate) fn is_out(&self, alone: bool) -> bool {
        self.settings.admin_state == AdminState::Maintenance || self.is_barred(alone)
    }

    /// Does it do what the request needs?
    pub(crate) fn has_role(&self, role: Option<Role>) -> bool {
        role.is_none_or(|role| self.settings.roles.has(role))
    }

    /// Is it below its limit of requests in flight?
    pub(crate) fn has_room(&self) -> bool {
        self.load.is_below(self.settings.max_in_flight)
    }

    /// Does its health keep requests away now, whatever the operator and limits say?
    #[cold]
    pub(crate) fn is_barred(&self, alone: bool) -> bool {
        let Member { settings, live, .. } = self;
        (!alone && live.passive.is_ejected(settings.rule, || live.now_ms()))
            || live.health.is_barred(alone, || live.now_ms())
    }

    /// When it failed last, if ever. Comparable between endpoints.
    pub(crate) fn last_failure(&self) -> Option<Instant> {
        let at = self.live.health.last_failure();
        (at > 0).then(|| self.live.instant(at))
    }

    /// The share of its weight that it has at present, of [`WHOLE`](crate::health::slow_start::WHOLE).
    #[cold]
    pub(crate) fn share(&self) -> u32 {
        self.live.health.ramp.share(self.settings.slow_start, || self.live.now_ms())
    }

    /// Does it use the turn that has fallen on it? Not each one during a slow start.
    #[cold]
    pub(crate) fn uses_turn(&self) -> bool {
        self.live.health.ramp.uses_turn(self.settings.slow_start, || self.live.now_ms())
    }

    /// What nginx's rule says of it.
    pub(crate) fn rule(&self, alone: bool) -> Rule {
        let Member { settings, live, .. } = self;
        let rule = settings.rule;
        match live.passive.is_ejected(rule, || live.now_ms()) {
            _ if alone || rule.max_fails == 0 || live.passive.fails() < rule.max_fails => Rule::Fine,
            true => Rule::Ejected,
            false => Rule::OnTrial,
        }
    }
}
