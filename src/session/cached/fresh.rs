//! Lookups and removals that bypass the near cache, for the login relay.

use super::{Lookup, Sessions, Write};
use crate::session::SessionKey;

impl Sessions {
    /// Looks up the session under `key` in the store; in the near cache only while the store is
    /// unavailable.
    pub(crate) async fn find_fresh(&self, key: SessionKey) -> Lookup {
        let store = self.store();
        let near = store.recall(&key);
        // A pending write is newer than the record in the store.
        if near.as_ref().is_some_and(|near| near.version.is_none()) || !store.is_allowed() {
            return near.map_or(Lookup::Unknown, Lookup::from);
        }
        let epoch = store.loss_epoch();
        let loaded = store.call(store.store.load(&key)).await;
        store.loaded(&key, loaded, near, epoch)
    }

    /// Removes the session under `key` and waits for the store. Afterwards no front end finds the
    /// session in the store, unless the store is unavailable.
    pub(crate) async fn remove_now(&self, key: SessionKey) {
        let store = self.store();
        store.forget(&key);
        let is_removed = store.is_allowed() && store.call(store.store.remove(&key)).await.is_ok();
        // Another request may have looked the session up meanwhile.
        store.forget(&key);
        if !is_removed {
            store.write_later(key, Write::Remove);
        }
    }
}
