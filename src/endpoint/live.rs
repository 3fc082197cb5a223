use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::load::{LoadRef, WrapCount};
use super::node_clock::NodeClock;
use crate::clock::{Clock, Epoch};
use crate::health::impaired::ImpairedCount;
use crate::health::passive::Passive;
use crate::health::probe_level::LastProbeLevel;
use crate::health::state::{EndpointHealth, OutcomeListener};

/// The state that changes while an endpoint serves, on its own cache lines.
///
/// The order of the members puts the data that picks read of an impaired endpoint into the first
/// line. The load, which changes with each request, lies elsewhere.
#[repr(C, align(128))]
pub(crate) struct Live {
    pub(crate) passive: Passive,
    /// Its first members are those that picks read.
    pub(crate) health: EndpointHealth,
    pub(crate) load: LoadRef,
    /// The requests of the load that wait for a slot.
    waiting: AtomicU32,
    /// The waiting requests of users who [flood](crate::docs::waiting), beyond their shares.
    /// Requests of other users do not count them.
    waiting_of_floods: AtomicU32,
    pub(crate) failed: AtomicU64,
    /// The failed requests that count against no endpoint.
    pub(crate) discarded: AtomicU64,
    pub(crate) probe_level: LastProbeLevel,
    pub(crate) clock: NodeClock,
    pub(super) wraps: WrapCount,
    /// Identifies the endpoint within the process, for the attempted endpoints of a request.
    pub(crate) uid: u64,
    epoch: Epoch,
}

const _: () = assert!(offset_of!(Live, health) + EndpointHealth::READ_IN_PICKS <= 64);

impl Live {
    /// Returns the state of an endpoint that joins a cluster. `listener` compares the endpoint with
    /// the others, if outliers are ejected; `impaired` is the cluster's count.
    pub(crate) fn new(
        load: LoadRef,
        clock: Arc<dyn Clock>,
        listener: Option<Arc<dyn OutcomeListener>>,
        impaired: ImpairedCount,
    ) -> Self {
        static NEXT_UID: AtomicU64 = AtomicU64::new(1);
        Live {
            load,
            waiting: AtomicU32::new(0),
            waiting_of_floods: AtomicU32::new(0),
            passive: Passive::new(impaired.clone()),
            health: EndpointHealth::new(listener, impaired),
            failed: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            probe_level: LastProbeLevel::default(),
            clock: NodeClock::default(),
            wraps: WrapCount::default(),
            uid: NEXT_UID.fetch_add(1, Ordering::Relaxed),
            epoch: Epoch::new(clock),
        }
    }

    /// Returns whether nothing could keep requests from the endpoint: no counted failure, no
    /// ejection, no failed probe. Reads no clock.
    #[inline]
    pub(crate) fn is_unimpaired(&self) -> bool {
        (self.passive.fails() == 0) & !self.health.is_impaired()
    }

    /// Returns how many requests are in flight, without those that wait for a slot.
    pub(crate) fn in_flight(&self) -> u32 {
        self.load.get().in_flight().saturating_sub(self.waiting())
    }

    /// Counts a request that begins to wait for a slot. The owner of the slots calls this at the
    /// moment of its decision.
    pub(crate) fn begin_wait(&self, is_of_flood: bool) {
        self.waiting_of_floods.fetch_add(is_of_flood.into(), Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Stops counting a request that waited: it got its slot, or has left.
    pub(crate) fn end_wait(&self, is_of_flood: bool) {
        self.waiting_of_floods.fetch_sub(is_of_flood.into(), Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns how many requests wait for a slot.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns how many requests of users with more than eight shares wait for a slot.
    pub(crate) fn waiting_of_floods(&self) -> u32 {
        self.waiting_of_floods.load(Ordering::Relaxed)
    }

    /// Returns how many requests have succeeded.
    pub(crate) fn succeeded(&self) -> u64 {
        let failed = self.failed.load(Ordering::Relaxed).saturating_sub(self.discarded.load(Ordering::Relaxed));
        self.served().saturating_sub(failed + self.health.outcomes.unrated())
    }

    /// Returns how many requests have ended.
    pub(crate) fn served(&self) -> u64 {
        self.load.get().ended(&self.wraps)
    }

    /// Returns the time of day, in seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        self.epoch.clock().unix()
    }

    /// Returns the milliseconds since the endpoint was added.
    pub(crate) fn now_ms(&self) -> u64 {
        self.epoch.millis()
    }

    /// Returns the instant `ms` milliseconds after the endpoint was added.
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        self.epoch.instant(ms)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("in_flight", &self.in_flight()).field("fails", &self.passive.fails()).finish()
    }
}
