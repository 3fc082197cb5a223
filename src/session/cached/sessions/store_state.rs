//! The state of the store behind sessions.

use std::time::Duration;

use tokio::sync::Notify;

use super::Sessions;
#[cfg(doc)]
use crate::session::SessionStore;
use crate::session::cached::StoreFailure;
use crate::session::{SessionKey, StoreError};

impl Sessions {
    /// Returns whether the front end currently calls the store. It does not while the circuit
    /// breaker is open.
    pub fn is_store_available(&self) -> bool {
        !self.store.breaker.is_open()
    }

    /// Checks that the store responds, by loading a session that does not exist within `deadline`.
    /// Meant for a check when a front end starts; the front end also serves without its store.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails or does not respond in time.
    pub async fn check_store(&self, deadline: Duration) -> Result<(), StoreError> {
        let key = SessionKey::from_bytes(fastrand::u128(..).to_ne_bytes());
        let loaded = tokio::time::timeout(deadline, self.store.store.load(&key)).await;
        loaded.unwrap_or(Err(StoreError::Timeout(deadline))).map(drop)
    }

    /// Returns the [address](SessionStore::address) of the store, if it has one.
    pub fn store_address(&self) -> Option<String> {
        self.store.store.address()
    }

    /// Returns the last failure of the store.
    pub(crate) fn last_store_failure(&self) -> Option<StoreFailure> {
        self.store.last_failure.lock().clone()
    }

    /// Returns the notification for when the store becomes available or unavailable.
    pub(crate) fn store_availability(&self) -> &Notify {
        &self.store.availability
    }
}
