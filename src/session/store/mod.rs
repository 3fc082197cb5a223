//! The contract of a session store, and the stores.

pub(in crate::session) mod cache;
mod invalid;
mod key;
pub(in crate::session) mod latest;
#[cfg(feature = "memcached")]
mod memcached;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
mod open;
mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "mysql", feature = "memcached"))]
pub(in crate::session) mod remote;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(feature = "redis")]
pub use self::redis::{RedisBuilder, RedisStore};
pub use invalid::InvalidStore;
pub use key::SessionKey;
#[cfg(feature = "memcached")]
pub use memcached::{MemcachedBuilder, MemcachedStore};
pub use memory::MemoryStore;
#[cfg(feature = "mysql")]
pub use mysql::{MysqlBuilder, MysqlStore};
pub use open::open;
pub use record::{DamagedRecord, SessionRecord};

use crate::body::BoxError;

/// Shared memory of sessions: compare-and-set over small records with a time to live.
///
/// What an implementer may rely on: records are at most [`SessionRecord::MAX_LEN`] bytes encoded; keys are uniformly
/// distributed; a time to live is at least one second; every call has a deadline above it, after which its future is dropped.
/// What is asked of an implementer: `save` decides between two writers of one key, whatever process they are in; a record
/// that cannot be read back counts as absent; after a connection has failed, a later call finds a new one by itself;
/// errors never hold keys, records or credentials. The conformance suite in `testing` (feature `test-util`) checks it.
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// The record under `key`, with the version to name when it is replaced.
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>>;

    /// Writes `record` under `key`, to live for `ttl`, if what is there is what the caller `expect`s. The loser of a race gets
    /// the winner's record.
    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome>;

    /// Lets the record under `key` live for `ttl` from now; no record is no error.
    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()>;

    /// Removes the record under `key`, if there is one.
    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()>;

    /// How often so far this handle has lost its connection, apart from operations that failed: a server that comes back may
    /// have less than it had, and what is missing from then on need not have been removed. Counted before any operation that
    /// came after the loss returns. Default 0: nothing is lost without an operation that fails.
    fn connection_epoch(&self) -> u64 {
        0
    }
}

/// A record and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: SessionRecord,
    /// Changes whenever the record does; only equality means anything, and only for one key of one store.
    pub version: u64,
}

/// What a writer believes is under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing, or nothing that can be read.
    Absent,
    /// The record of this version.
    Version(u64),
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaveOutcome {
    /// It was done, and made this version.
    Stored(u64),
    /// Another writer was faster: this is what is there now, if anything.
    Conflict(Option<Stored>),
}

/// Why a store did not do what was asked. Holds no key, record or credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, or is not able to serve at present.
    #[error("the session store is unavailable")]
    Unavailable(#[source] BoxError),
    /// It did not answer within the deadline.
    #[error("the session store did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered with something that makes no sense, or refused the request for good: a wrong password, a wrong table.
    #[error("the session store refused or misunderstood a request")]
    Refused(#[source] BoxError),
    /// The record is longer than [`SessionRecord::MAX_LEN`].
    #[error("a session record of {0} bytes is longer than stores keep")]
    TooLong(usize),
}

/// What a store's operation comes to: at once for a store in memory, which so allocates nothing, or later.
#[must_use = "a store does nothing before its future is awaited"]
pub struct StoreFuture<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    Ready(Option<Result<T, StoreError>>),
    Boxed(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

impl<'a, T> StoreFuture<'a, T> {
    /// The result is here.
    pub const fn ready(result: Result<T, StoreError>) -> Self {
        StoreFuture(Kind::Ready(Some(result)))
    }

    /// The result comes later.
    pub fn boxed(future: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Self {
        StoreFuture(Kind::Boxed(Box::pin(future)))
    }

    /// The result, if it is here already; otherwise the future again.
    ///
    /// # Errors
    /// The future, when it has to be awaited.
    pub fn now(self) -> Result<Result<T, StoreError>, Self> {
        match self.0 {
            Kind::Ready(Some(result)) => Ok(result),
            kind => Err(StoreFuture(kind)),
        }
    }
}

impl<T: Unpin> Future for StoreFuture<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Kind::Ready(result) => Poll::Ready(result.take().expect("a future is not polled after its end")),
            Kind::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.0, Kind::Ready(_)) { "StoreFuture::Ready" } else { "StoreFuture::Boxed" })
    }
}

/// What [`open`](super::open) opened is a store like any other.
impl SessionStore for Arc<dyn SessionStore> {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        (**self).load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        (**self).save(key, record, expect, ttl)
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        (**self).touch(key, ttl)
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        (**self).remove(key)
    }

    fn connection_epoch(&self) -> u64 {
        (**self).connection_epoch()
    }
}

/// A `dyn SessionStore` can be had: the trait stays object-safe.
const _: fn(&dyn SessionStore) = |_| {};
