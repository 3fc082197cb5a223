//! The contract of a session store: the trait, and what its methods take and return.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{SessionKey, SessionRecord};
use crate::body::BoxError;
use crate::maybe_ready::MaybeReady;

/// Shared storage of sessions: compare-and-set over small records that expire.
///
/// An implementer may rely on these facts:
///
/// - An encoded record has at most [`SessionRecord::MAX_LEN`] bytes.
/// - Keys are uniformly distributed.
/// - A time to live is at least one second.
/// - Every call has a deadline above it. The caller drops the future when the deadline has passed.
///
/// An implementer must keep these promises:
///
/// - [`save`](Self::save) decides between two writers of one key, whatever processes they run in.
/// - A record that cannot be decoded counts as absent.
/// - After a connection has failed, a later call opens a new one by itself.
/// - Errors never contain keys, records or credentials.
///
/// The conformance suite in `testing::store` (feature `test-util`) checks them.
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the record under `key`, with its version.
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>>;

    /// Writes `record` under `key` for the time to live `ttl`, if the store meets the `precondition`. The loser of a race
    /// receives the record of the winner.
    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome>;

    /// Extends the life of the record under `key` to `ttl` from now. A missing record is not an error.
    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()>;

    /// Removes the record under `key`, if there is one.
    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()>;

    /// Returns a number that grows whenever a connection of this handle was lost. Default: 0, for a store that loses nothing
    /// unless an operation fails.
    ///
    /// A server that restarted may hold fewer records than before. A record that is missing after the number grew was
    /// possibly lost rather than removed. The number must grow before any operation that started after the loss returns.
    fn connection_epoch(&self) -> u64 {
        0
    }
}

/// The result of a store operation: ready at once for a store in memory, which allocates nothing, or a boxed future.
pub type StoreFuture<'a, T> = MaybeReady<'a, Result<T, StoreError>>;

/// A record and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: SessionRecord,
    /// Differs for every write. Versions can only be compared for equality, under one key of one store.
    pub version: u64,
}

/// The state of a key on which a write depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key holds no record, or none that can be decoded.
    Absent,
    /// The key holds the record of this version.
    Version(u64),
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaveOutcome {
    /// The record was written and has this version.
    Stored(u64),
    /// The precondition did not hold. Contains the record under the key, if there is one.
    Conflict(Option<Stored>),
}

/// Why a store operation failed. Contains no key, record or credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached, or cannot serve at present.
    #[error("the session store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The store did not respond within this deadline.
    #[error("the session store did not respond within {0:?}")]
    Timeout(Duration),
    /// The store sent an invalid response or refused the request for good, for example for a wrong password or table.
    #[error("the session store refused or misunderstood a request")]
    Refused(#[source] BoxError),
    /// The encoded record has this many bytes, which is more than [`SessionRecord::MAX_LEN`].
    #[error("a session record of {0} bytes is too long")]
    TooLong(usize),
}

/// Lets a store that [`open`](super::open) returned stand where any other store can.
impl SessionStore for Arc<dyn SessionStore> {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        (**self).load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        (**self).save(key, record, precondition, ttl)
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

/// The trait stays object-safe.
const _: fn(&dyn SessionStore) = |_| {};
