//! A session store that fails or does not respond for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use kylin_lb::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

#[derive(Debug, Clone)]
pub(crate) struct FailingStore {
    store: MemoryStore,
    mode: Arc<AtomicU8>,
}

const WORKS: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;

impl Default for FailingStore {
    fn default() -> Self {
        FailingStore { store: MemoryStore::new(), mode: Arc::default() }
    }
}

impl FailingStore {
    /// Lets each operation fail from now on, or never end.
    pub(crate) fn fails(&self, at_once: bool) {
        self.mode.store(if at_once { FAILS } else { HANGS }, Ordering::SeqCst);
    }

    pub(crate) fn works(&self) {
        self.mode.store(WORKS, Ordering::SeqCst);
    }

    fn in_mode<'a, T: Send + 'a>(
        &'a self,
        operation: impl FnOnce(&'a MemoryStore) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        StoreFuture::boxed(async move {
            match self.mode.load(Ordering::SeqCst) {
                WORKS => operation(&self.store).await,
                FAILS => Err(StoreError::Unavailable("it is down".into())),
                _ => std::future::pending().await,
            }
        })
    }
}

impl SessionStore for FailingStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.in_mode(move |store| store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.in_mode(move |store| store.save(key, record, precondition, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.in_mode(move |store| store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.in_mode(move |store| store.remove(key))
    }
}
