//! The contract of a session store: the trait, and what its methods take and return.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{SessionKey, SessionRecord};
use crate::body::BoxError;
use crate::maybe_ready::MaybeReady;
use crate::request::ClientAddr;

/// Shared storage of sessions: compare-and-set over small records that expire.
///
/// [`Sessions::remote`](crate::session::Sessions::remote) uses an implementation, and adds
/// deadlines, a near cache and a circuit breaker to it. The trait is also implemented for
/// `Arc<dyn SessionStore>`, so that several owners can share one store.
///
/// The caller guarantees:
///
/// - Keys are uniformly distributed.
/// - A time to live is at least one second.
/// - The caller has a deadline for every call, and drops the future when the deadline has passed.
///
/// An implementation must keep these promises:
///
/// - Of two concurrent calls of [`save`](Self::save) for one key, at most one succeeds, even if
///   they run in different processes.
/// - A record is not returned after its time to live.
/// - [`save`](Self::save) fails with [`StoreError::TooLong`] if the encoded record has more than
///   [`SessionRecord::MAX_LEN`] bytes.
/// - A record that cannot be decoded counts as absent.
/// - After a connection has failed, a later call opens a new one.
/// - Errors never contain keys, records or credentials.
///
/// The conformance suite in `testing::store` (feature `test-util`) checks an implementation.
///
/// A store in a map returns [`MaybeReady::Ready`]. A store on a server returns
/// [`MaybeReady::boxed`]`(async move { .. })`.
///
/// ```
/// use kylin_lb::session::{
///     MaybeReady, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore, StoreError, StoreFuture, Stored,
/// };
/// use std::collections::HashMap;
/// use std::sync::{Mutex, PoisonError};
/// use std::time::{Duration, Instant};
///
/// /// The last version, and the records with their expiry.
/// #[derive(Debug, Default)]
/// struct MapStore(Mutex<(u64, HashMap<SessionKey, (Stored, Instant)>)>);
///
/// impl MapStore {
///     /// Calls `f` with the last version and all records but an expired one under `key`.
///     fn with<T>(&self, key: &SessionKey, f: impl FnOnce(&mut u64, &mut HashMap<SessionKey, (Stored, Instant)>) -> T) -> T {
///         let (version, records) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         if records.get(key).is_some_and(|(_, expires)| *expires <= Instant::now()) {
///             records.remove(key);
///         }
///         f(version, records)
///     }
/// }
///
/// impl SessionStore for MapStore {
///     fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
///         MaybeReady::Ready(Ok(self.with(key, |_, records| records.get(key).map(|(stored, _)| stored.clone()))))
///     }
///
///     fn save<'a>(
///         &'a self,
///         key: &'a SessionKey,
///         record: &'a SessionRecord,
///         precondition: Precondition,
///         ttl: Duration,
///     ) -> StoreFuture<'a, SaveOutcome> {
///         if record.encoded_len() > SessionRecord::MAX_LEN {
///             return MaybeReady::Ready(Err(StoreError::TooLong(record.encoded_len())));
///         }
///         MaybeReady::Ready(Ok(self.with(key, |version, records| {
///             let current = records.get(key).map(|(stored, _)| stored);
///             let holds = match precondition {
///                 Precondition::Absent => current.is_none(),
///                 Precondition::Version(version) => current.is_some_and(|stored| stored.version == version),
///             };
///             if !holds {
///                 return SaveOutcome::Conflict(current.cloned());
///             }
///             *version += 1;
///             let stored = Stored { record: record.clone(), version: *version };
///             records.insert(*key, (stored, Instant::now() + ttl));
///             SaveOutcome::Stored(*version)
///         })))
///     }
///
///     fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
///         self.with(key, |_, records| {
///             if let Some((_, expires)) = records.get_mut(key) {
///                 *expires = Instant::now() + ttl;
///             }
///         });
///         MaybeReady::Ready(Ok(()))
///     }
///
///     fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
///         self.with(key, |_, records| records.remove(key));
///         MaybeReady::Ready(Ok(()))
///     }
/// }
/// ```
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the record under `key`, with its version.
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>>;

    /// Writes `record` under `key` for the time to live `ttl` if the `precondition` holds, and
    /// returns its new version. Otherwise returns [`SaveOutcome::Conflict`] with the current
    /// record.
    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome>;

    /// [Saves](Self::save) a record on behalf of a client. Default: calls [`save`](Self::save).
    ///
    /// An in-memory store that evicts sessions when it is full uses the client to give each client
    /// its share.
    fn save_for<'a>(
        &'a self,
        _client: ClientAddr,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.save(key, record, precondition, ttl)
    }

    /// Sets the time to live of the record under `key` to `ttl` from now. Does nothing if there is
    /// no record.
    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()>;

    /// Removes the record under `key`, if there is one.
    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()>;

    /// Returns a number that grows whenever a connection of this handle was lost. Default: 0, for a
    /// store that loses records only if an operation fails.
    ///
    /// A server that restarted may hold fewer records than before. If a record is missing after the
    /// number grew, it was possibly lost rather than removed. The number must grow before any
    /// operation that started after the loss returns.
    fn connection_epoch(&self) -> u64 {
        0
    }

    /// Returns the address of the store for logs, such as `redis://10.0.0.5:6379`. It must not
    /// contain credentials. Default: `None`.
    fn address(&self) -> Option<String> {
        None
    }
}

/// The result of a store operation. An in-memory store returns it at once, without allocating;
/// other stores return a boxed future.
pub type StoreFuture<'a, T> = MaybeReady<'a, Result<T, StoreError>>;

/// A record and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: SessionRecord,
    /// Identifies a write. The store chooses the version and never reuses it for the same key.
    /// Callers only compare versions of one key for equality.
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

/// The error of a store operation. It contains no key, record or credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached, or cannot currently serve.
    #[error("the session store is unavailable")]
    Unavailable(#[source] BoxError),
    /// This process has no descriptors, ports or memory left for a connection to the store. The
    /// store is not at fault.
    #[error("the front end is short of descriptors, ports or memory to reach the session store")]
    Shortage(#[source] BoxError),
    /// The store did not respond within this deadline.
    #[error("the session store did not respond within {0:?}")]
    Timeout(Duration),
    /// The store sent an invalid response, or refused the request permanently, for example because
    /// of a wrong password or table.
    #[error("the session store refused a request or sent an invalid response")]
    Refused(#[source] BoxError),
    /// The encoded record has this many bytes, which is more than [`SessionRecord::MAX_LEN`].
    #[error("a session record of {0} bytes is too long")]
    TooLong(usize),
}

/// Makes the result of [`open`](super::open) usable as a store.
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

    fn save_for<'a>(
        &'a self,
        client: ClientAddr,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        precondition: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        (**self).save_for(client, key, record, precondition, ttl)
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

    fn address(&self) -> Option<String> {
        (**self).address()
    }
}

/// The trait stays dyn compatible.
const _: fn(&dyn SessionStore) = |_| {};
