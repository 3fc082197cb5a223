use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::session::{
    Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
};

/// A [`SessionStore`] with async methods, for stores whose every operation waits for a server.
pub(crate) trait RemoteStore: fmt::Debug + Send + Sync + 'static {
    fn load(&self, key: &SessionKey) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    fn save(
        &self,
        key: &SessionKey,
        record: &SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> impl Future<Output = Result<SaveOutcome, StoreError>> + Send;

    fn touch(&self, key: &SessionKey, ttl: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn remove(&self, key: &SessionKey) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn connection_epoch(&self) -> u64;
}

impl<S: RemoteStore> SessionStore for S {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        StoreFuture::boxed(RemoteStore::load(self, key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        StoreFuture::boxed(RemoteStore::save(self, key, record, precondition, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(RemoteStore::touch(self, key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(RemoteStore::remove(self, key))
    }

    fn connection_epoch(&self) -> u64 {
        RemoteStore::connection_epoch(self)
    }
}
