//! When a session in use is to be told to live on: now and then, not with every request.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::keep::Known;
use crate::clock::Clock;
use crate::session::SessionKey;
use crate::session::latest::Latest;

pub(super) struct Touches {
    latest: Mutex<Latest<SessionKey, Instant>>,
    every: Duration,
}

/// How many sessions are remembered; one that is forgotten is touched once too often.
const REMEMBERED: usize = 50_000;

impl Touches {
    /// For sessions that live `ttl` unless they are touched.
    pub(super) fn new(ttl: Duration) -> Self {
        Touches { latest: Mutex::default(), every: ttl / 8 }
    }

    /// Is it time to touch the session? Whoever is told so does it.
    pub(super) fn is_due(&self, known: Option<&Known>, clock: &dyn Clock) -> bool {
        let Some(known) = known else { return false };
        let now = clock.now();
        let mut latest = self.latest.lock();
        let due = latest.get(&known.key).is_none_or(|last| now.saturating_duration_since(*last) >= self.every);
        if due {
            latest.put(known.key, now, REMEMBERED);
        }
        due
    }
}
