//! A session store that fails on demand.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// An in-memory store that is slow, fails or does not respond while a [`StoreFault`] is set. Clones
/// are the same store.
///
/// ```
/// use kylin_lb::session::{SessionKey, SessionStore};
/// use kylin_lb::testing::{FailingStore, StoreFault};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let store = FailingStore::new();
/// let key = SessionKey::from_bytes([7; 16]);
/// assert_eq!(store.load(&key).await.unwrap(), None);
/// store.set_fault(Some(StoreFault::Fails));
/// assert!(store.load(&key).await.is_err());
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct FailingStore {
    store: MemoryStore,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    fault: Mutex<Option<StoreFault>>,
    calls: AtomicUsize,
    saved: Mutex<HashSet<SessionKey>>,
}

/// The behaviour of each operation of a [`FailingStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFault {
    /// Succeeds after this time.
    Slow(Duration),
    /// Fails at once with [`StoreError::Unavailable`].
    Fails,
    /// Never ends.
    Hangs,
}

impl FailingStore {
    /// Creates a store that works.
    pub fn new() -> Self {
        FailingStore::default()
    }

    /// Creates a store that works and keeps its records in `store`.
    pub fn over(store: MemoryStore) -> Self {
        FailingStore { store, shared: Arc::default() }
    }

    /// Returns the store that keeps the records, which does not fail.
    pub fn records(&self) -> &MemoryStore {
        &self.store
    }

    /// Sets the behaviour of operations that begin from now on. With `None`, they succeed.
    pub fn set_fault(&self, fault: Option<StoreFault>) {
        *self.shared.fault.lock() = fault;
    }

    /// Returns how many operations have been started.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Loses all records, like a cache that restarts.
    pub async fn lose_all(&self) {
        let saved = std::mem::take(&mut *self.shared.saved.lock());
        for key in saved {
            // An in-memory store does not fail.
            _ = self.store.remove(&key).await;
        }
    }

    fn with_fault<'a, T: Send + 'a>(
        &'a self,
        operation: impl FnOnce(&'a MemoryStore) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        StoreFuture::boxed(async move {
            self.shared.calls.fetch_add(1, Ordering::SeqCst);
            let fault = *self.shared.fault.lock();
            match fault {
                None => {}
                Some(StoreFault::Slow(time)) => sleep(time).await,
                Some(StoreFault::Fails) => return Err(StoreError::Unavailable("the test wants it".into())),
                Some(StoreFault::Hangs) => pending().await,
            }
            operation(&self.store).await
        })
    }
}

impl SessionStore for FailingStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.with_fault(move |store| store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.shared.saved.lock().insert(*key);
        self.with_fault(move |store| store.save(key, record, precondition, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.with_fault(move |store| store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.with_fault(move |store| store.remove(key))
    }
}
