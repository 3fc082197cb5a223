//! A store that records every byte it receives, and can be made unavailable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// Clones share the store.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    store: MemoryStore,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    is_unavailable: Arc<AtomicBool>,
}

impl Recording {
    pub(crate) fn over(store: MemoryStore) -> Self {
        Recording { store, received: Arc::default(), is_unavailable: Arc::default() }
    }

    /// Sets whether every operation fails.
    pub(crate) fn set_unavailable(&self, unavailable: bool) {
        self.is_unavailable.store(unavailable, Ordering::SeqCst);
    }

    /// Returns how many records there are.
    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }

    /// Returns how many records were written.
    pub(crate) fn saves(&self) -> usize {
        self.received.lock().unwrap().len() / 2
    }

    /// Returns whether a record or a key contains these bytes.
    pub(crate) fn has_received(&self, bytes: &[u8]) -> bool {
        self.received.lock().unwrap().iter().any(|received| received.windows(bytes.len()).any(|part| part == bytes))
    }

    /// Returns the keys of all records that were written.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        let received = self.received.lock().unwrap();
        received.iter().skip(1).step_by(2).map(|key| SessionKey::from_bytes((&key[..]).try_into().unwrap())).collect()
    }

    /// Removes all records that were written through this handle, like a cache that restarts.
    pub(crate) async fn lose_all(&self) {
        for key in self.keys() {
            self.store.remove(&key).await.unwrap();
        }
    }

    fn if_available<'a, T>(&'a self, respond: impl FnOnce() -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        match self.is_unavailable.load(Ordering::SeqCst) {
            true => StoreFuture::Ready(Err(StoreError::Unavailable("made unavailable by the test".into()))),
            false => respond(),
        }
    }
}

impl SessionStore for Recording {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.if_available(|| self.store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.if_available(|| {
            let mut received = self.received.lock().unwrap();
            received.push(record.encode().to_vec());
            received.push(key.as_bytes().to_vec());
            drop(received);
            self.store.save(key, record, precondition, ttl)
        })
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.if_available(|| self.store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.if_available(|| self.store.remove(key))
    }
}
