//! A store that remembers every byte that it was given, and can be away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::session::{
    MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// Clones are handles to the same store.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    store: MemoryStore,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    away: Arc<AtomicBool>,
}

impl Recording {
    pub(crate) fn over(store: MemoryStore) -> Self {
        Recording { store, seen: Arc::default(), away: Arc::default() }
    }

    /// Whether every operation fails.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// How many records were written.
    pub(crate) fn saves(&self) -> usize {
        self.seen.lock().unwrap().len() / 2
    }

    /// Do these bytes stand anywhere in a record or a key?
    pub(crate) fn has_seen(&self, bytes: &[u8]) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen.windows(bytes.len()).any(|part| part == bytes))
    }

    fn unless_away<'a, T>(&'a self, answer: impl FnOnce() -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        match self.away.load(Ordering::SeqCst) {
            true => StoreFuture::ready(Err(StoreError::Unavailable("pulled the plug".into()))),
            false => answer(),
        }
    }
}

impl SessionStore for Recording {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.unless_away(|| self.store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.unless_away(|| {
            let mut seen = self.seen.lock().unwrap();
            seen.push(record.encode().to_vec());
            seen.push(key.as_bytes().to_vec());
            drop(seen);
            self.store.save(key, record, expect, ttl)
        })
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.unless_away(|| self.store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.unless_away(|| self.store.remove(key))
    }
}
