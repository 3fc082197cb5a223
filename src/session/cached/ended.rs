//! The sessions that were logged out at this front end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock::{Epoch, as_millis};
use crate::session::store::latest::Latest;
use crate::session::{SessionKey, SessionRecord};

/// The maximum number of logouts that are remembered.
const MAX_ENDED: usize = 100_000;

/// The sessions that were logged out here, kept for as long as a record of them could last. Lookups
/// do not find them, and they are not restored.
pub(super) struct EndedSessions {
    /// The time at which the last record of the session expires, in milliseconds.
    sessions: Mutex<Latest<SessionKey, u64>>,
    epoch: Epoch,
    is_reported: AtomicBool,
}

impl fmt::Debug for EndedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndedSessions").finish_non_exhaustive()
    }
}

impl EndedSessions {
    pub(super) fn new(epoch: Epoch) -> Self {
        EndedSessions { sessions: Mutex::default(), epoch, is_reported: AtomicBool::new(false) }
    }

    /// Adds a session whose records live for `ttl`.
    pub(super) fn add(&self, key: SessionKey, ttl: Duration) {
        let now = self.epoch.millis();
        let expires = now.saturating_add(as_millis(ttl));
        let mut sessions = self.sessions.lock();
        while sessions.evict_oldest_if(|expires| *expires <= now) {}
        let is_forgotten = sessions.put(key, expires, MAX_ENDED);
        drop(sessions);
        if is_forgotten && !self.is_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                max = MAX_ENDED,
                "more sessions were logged out than the front end remembers; the first are forgotten"
            );
        }
    }

    pub(super) fn contains(&self, key: &SessionKey) -> bool {
        self.sessions.lock().get(key).is_some_and(|expires| *expires > self.epoch.millis())
    }

    /// Returns all sessions, each with the time for which a record of it could still last.
    pub(super) fn all(&self) -> Vec<(SessionKey, Duration)> {
        let now = self.epoch.millis();
        let left = |expires: &u64| Some(Duration::from_millis(expires.checked_sub(now).filter(|left| *left > 0)?));
        self.sessions.lock().iter().filter_map(|(key, expires)| Some((*key, left(expires)?))).collect()
    }
}

/// Returns the record that replaces a logged-out session in the store. It does not open as a
/// session.
pub(super) fn tombstone() -> SessionRecord {
    SessionRecord::default().with_sealed(Bytes::from_static(b"ended"))
}
