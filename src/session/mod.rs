//! Shared memory of sessions: who is logged in where.
//!
//! Kylin keeps a login in the memory of one node. What ties a session to that node is a [`SessionRecord`] under a
//! [`SessionKey`], in a [`SessionStore`] that any number of front ends may share.

pub(crate) mod affinity;
mod invalid;
mod key;
mod latest;
#[cfg(feature = "memcached")]
mod memcached;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
mod nodes_share;
mod open;
mod pairs;
mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "mysql", feature = "memcached"))]
mod remote;
mod secret;
mod sessions;
#[cfg(feature = "shared-sessions")]
mod shared;
mod shelf;
mod store;
#[cfg(feature = "kylin")]
mod tomcat;

#[cfg(feature = "redis")]
pub use self::redis::{RedisBuilder, RedisStore};
pub use affinity::{Affinity, InvalidCookie, SameSite, SessionCookie, StickyCookie};
pub use invalid::InvalidStore;
pub use key::SessionKey;
#[cfg(feature = "memcached")]
pub use memcached::{MemcachedBuilder, MemcachedStore};
pub use memory::MemoryStore;
#[cfg(feature = "mysql")]
pub use mysql::{MysqlBuilder, MysqlStore};
pub use nodes_share::NodesShare;
pub use open::open;
pub use record::{DamagedRecord, SessionRecord};
pub use secret::{InvalidSecret, Secret};
pub use sessions::Sessions;
#[cfg(feature = "shared-sessions")]
pub use shared::{HandOut, SharedSessions};
pub use store::{Expect, Saved, SessionStore, StoreError, StoreFuture, Stored};
#[cfg(feature = "kylin")]
pub use tomcat::open_beside;
