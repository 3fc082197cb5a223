//! Carries out what `health::outlier` rules: has every endpoint's counts at hand, and ejects and readmits.
//!
//! There is no task behind it. A request that ends with a failure too many has the ruling made at once; the first request
//! that ends after an interval has the success rates compared. Nothing of this happens in a pick.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::endpoint::{AdminState, EndpointId, Live, Member, Roles};
use crate::health::Outlier;
use crate::health::outlier::{Standing, Window};
use crate::health::passive::Rule;
use crate::health::state::Peers;

pub(super) struct Outliers {
    settings: Outlier,
    clock: Arc<dyn Clock>,
    origin: Instant,
    /// When the present interval ends, in milliseconds since the origin.
    interval_ends: AtomicU64,
    watched: Mutex<Vec<Watched>>,
}

/// An endpoint without its live state's life: that one knows us.
struct Watched {
    id: EndpointId,
    live: Weak<Live>,
    ready: bool,
    rule: Rule,
    roles: Roles,
}

impl Outliers {
    pub(super) fn new(settings: Outlier, clock: Arc<dyn Clock>) -> Self {
        let origin = clock.now();
        let interval_ends = AtomicU64::new(settings.interval_ms);
        Outliers { settings, clock, origin, interval_ends, watched: Mutex::default() }
    }

    /// Says who belongs to the cluster now.
    pub(super) fn watch<'m>(&self, members: impl Iterator<Item = &'m Arc<Member>>) {
        let watched = members.map(|member| {
            let settings = &member.settings;
            Watched {
                id: settings.id.clone(),
                live: Arc::downgrade(&member.live),
                ready: settings.admin_state == AdminState::Ready,
                rule: settings.rule,
                roles: settings.roles,
            }
        });
        *self.watched.lock() = watched.collect();
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// Has an interval ended since the last call? Exactly one caller is told.
    fn interval_is_over(&self) -> bool {
        let now = self.now_ms();
        let ends = self.interval_ends.load(Ordering::Relaxed);
        let next = now.saturating_add(self.settings.interval_ms);
        now >= ends && self.interval_ends.compare_exchange(ends, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Has the ruling made over all endpoints, and carries it out.
    fn rule(&self, interval_over: bool) {
        let watched = self.watched.lock();
        let endpoints: Vec<_> = watched.iter().filter_map(|watched| Some((watched, watched.live.upgrade()?))).collect();
        let alone = endpoints.len() == 1;
        let standings: Vec<_> = endpoints
            .iter()
            .map(|(watched, live)| {
                let now = live.now_ms();
                if live.health.expire(now) {
                    tracing::info!(endpoint = %watched.id, "outlier readmitted");
                }
                live.health.forgive(self.settings.interval_ms, now);
                watched.standing(live, alone, now, interval_over)
            })
            .collect();
        let ruling = self.settings.rule(&standings);
        for (index, cause) in ruling.eject {
            let (Watched { id, .. }, live) = &endpoints[index];
            let times = live.health.eject(cause, live.now_ms(), |times| self.settings.ejection_ms(times));
            let millis = self.settings.ejection_ms(times);
            tracing::warn!(endpoint = %id, ?cause, times, millis, "outlier ejected");
        }
        for index in ruling.readmit {
            let (Watched { id, .. }, live) = &endpoints[index];
            live.health.pardon(live.now_ms());
            tracing::warn!(endpoint = %id, "readmitted: most endpoints fail alike, so the fault is something they share");
        }
    }
}

impl Watched {
    fn standing(&self, live: &Live, alone: bool, now: u64, interval_over: bool) -> Standing {
        let health = &live.health;
        let ready = self.ready && !health.is_down();
        let by_rule = !alone && live.passive.is_ejected(self.rule, || now);
        let last_failure = health.last_failure();
        Standing {
            ready,
            fit: ready && !by_rule && !health.is_barred(alone, || now),
            roles: self.roles.bits(),
            ejected_for: health.ejected_at().map(|at| now.saturating_sub(at)),
            run: health.tally.run(),
            failed_ago: (last_failure > 0).then(|| now.saturating_sub(last_failure)),
            window: if interval_over { health.tally.take() } else { Window::default() },
        }
    }
}

impl Peers for Outliers {
    fn counted(&self, run: u32) {
        let interval_over = self.interval_is_over();
        let consecutive = self.settings.consecutive;
        if interval_over || (consecutive > 0 && run >= consecutive) {
            self.rule(interval_over);
        }
    }
}

impl fmt::Debug for Outliers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outliers").field(&self.settings).finish()
    }
}
