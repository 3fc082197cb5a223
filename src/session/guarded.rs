use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Expect, Saved, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored};

/// A store, every call of which has a deadline.
#[derive(Debug)]
pub(super) struct Guarded {
    store: Arc<dyn SessionStore>,
    deadline: Duration,
}

impl Guarded {
    pub(super) fn new(store: Arc<dyn SessionStore>, deadline: Duration) -> Self {
        Guarded { store, deadline }
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        self.within(self.store.load(key)).await
    }

    pub(super) async fn load_fresh(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        self.within(self.store.load(key)).await
    }

    pub(super) async fn save(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        expect: Expect,
        ttl: Duration,
    ) -> Result<Saved, StoreError> {
        self.within(self.store.save(key, record, expect, ttl)).await
    }

    pub(super) async fn touch(&self, key: &SessionKey, ttl: Duration) {
        let _ = self.within(self.store.touch(key, ttl)).await;
    }

    pub(super) async fn remove(&self, key: &SessionKey) {
        let _ = self.within(self.store.remove(key)).await;
    }

    async fn within<T: Unpin>(&self, work: StoreFuture<'_, T>) -> Result<T, StoreError> {
        timeout(self.deadline, work).await.unwrap_or(Err(StoreError::Timeout(self.deadline)))
    }
}
