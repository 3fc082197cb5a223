//! Claims: let one front end do something that no other may do at the same time.

use std::time::Duration;

use super::Sessions;
use crate::session::{Precondition, SaveOutcome, SessionKey, SessionRecord};

impl Sessions {
    /// Saves an empty record under `key` for the time `ttl`, unless there is one, and returns
    /// whether it did. So only one of all front ends gets the claim. If the store is unavailable, a
    /// front end gets the claim only if no other front end can have these sessions.
    pub(crate) async fn claim(&self, key: SessionKey, ttl: Duration) -> bool {
        let store = &self.store;
        let record = SessionRecord::default();
        if store.is_allowed()
            && let Ok(saved) = store.call(store.store.save(&key, &record, Precondition::Absent, ttl)).await
        {
            return matches!(saved, SaveOutcome::Stored(_));
        }
        store.is_alone()
    }

    /// Sets the time to live of a claim to `ttl` from now, if there is one.
    pub(crate) async fn extend_claim(&self, key: SessionKey, ttl: Duration) {
        let store = &self.store;
        if store.is_allowed() {
            _ = store.call(store.store.touch(&key, ttl)).await;
        }
    }
}
