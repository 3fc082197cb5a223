//! A store that remembers every byte that it was given.

use std::sync::Mutex;
use std::time::Duration;

use kylin_lb::session::{Expect, MemoryStore, Saved, SessionKey, SessionRecord, SessionStore, StoreFuture, Stored};

#[derive(Debug)]
pub(crate) struct Recording {
    store: MemoryStore,
    seen: Mutex<Vec<Vec<u8>>>,
}

impl Recording {
    pub(crate) fn over(store: MemoryStore) -> Self {
        Recording { store, seen: Mutex::default() }
    }

    /// How many records were written.
    pub(crate) fn saves(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Do these bytes stand anywhere in a record or a key?
    pub(crate) fn has_seen(&self, bytes: &[u8]) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen.windows(bytes.len()).any(|part| part == bytes))
    }
}

impl SessionStore for Recording {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.store.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Expect,
        ttl: Duration,
    ) -> StoreFuture<'a, Saved> {
        let mut seen = self.seen.lock().unwrap();
        seen.push(record.encode().to_vec());
        seen.push(key.as_bytes().to_vec());
        drop(seen);
        self.store.save(key, record, expect, ttl)
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.store.touch(key, ttl)
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.store.remove(key)
    }
}
