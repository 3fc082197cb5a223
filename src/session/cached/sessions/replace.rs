//! Changes to sessions that were saved earlier.

use std::time::Duration;

use super::Sessions;
use crate::request::ClientAddr;
use crate::session::cached::Lookup;
use crate::session::{Precondition, SessionKey, SessionRecord};

impl Sessions {
    /// Replaces the record of a session, and returns the lookup afterwards, as [`save`](Self::save)
    /// does. A session that was logged out meanwhile, here or at another front end, is not created
    /// again.
    ///
    /// `version` is the version of the record in the store; `None` if the store was unavailable
    /// when the record was saved. If the store is unavailable again and no write is pending, the
    /// change is lost, which costs a login at a node.
    pub(crate) async fn replace(
        &self,
        client: ClientAddr,
        key: SessionKey,
        record: SessionRecord,
        version: Option<u64>,
        ttl: Duration,
    ) -> Lookup {
        let store = &self.store;
        if let Some(version) = version {
            return self.save(client, key, record, Precondition::Version(version), ttl).await;
        }
        if store.is_ended(&key, &record) {
            return Lookup::Absent;
        }
        // The pending write knows which record the store had. The near cache is updated first, so
        // that it is corrected if the write ends meanwhile.
        let lookup = Lookup::Found(record.clone(), None);
        if store.pending.get(&key).is_some() {
            store.remember(client, &key, &lookup, store.loss_epoch(), true);
            if store.pending.replace(&key, &record) {
                return lookup;
            }
        }
        if !store.is_allowed() {
            return Lookup::Unknown;
        }
        let (near, epoch) = (store.recall(&key), store.loss_epoch());
        let loaded = store.call(store.store.load(&key)).await;
        match self.restored(client, key, &loaded, near.as_ref(), Some(ttl)).await {
            Some(lookup) => lookup,
            None => store.loaded(client, &key, loaded, near, epoch),
        }
    }
}
