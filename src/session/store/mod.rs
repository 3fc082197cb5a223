//! Session stores: the contract, and the stores of this crate.
//!
//! [`MemoryStore`] keeps sessions in the process. The stores of `redis`, `mysql` and `memcached`
//! keep them on servers that several front ends share; [`remote`] contains what these stores have
//! in common.

pub(in crate::session) mod cache;
mod contract;
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
mod remote;

#[cfg(feature = "redis")]
pub use self::redis::{RedisBuilder, RedisStore};
pub use contract::{Precondition, SaveOutcome, SessionStore, StoreError, StoreFuture, Stored};
pub use invalid::InvalidStore;
pub use key::SessionKey;
#[cfg(feature = "memcached")]
pub use memcached::{MemcachedBuilder, MemcachedStore};
pub use memory::MemoryStore;
#[cfg(feature = "mysql")]
pub use mysql::{MysqlBuilder, MysqlStore};
pub use open::open;
pub use record::{DamagedRecord, SessionRecord};
#[cfg(any(feature = "redis", feature = "mysql", feature = "memcached"))]
pub(super) use remote::is_of_connecting;

/// Returns whether a new connection failed. This build has no remote store, so the cause is
/// unknown.
#[cfg(not(any(feature = "redis", feature = "mysql", feature = "memcached")))]
pub(super) fn is_of_connecting(_: &StoreError) -> Option<bool> {
    None
}
