//! Shared memory of sessions: who is logged in where.
//!
//! Kylin keeps a login in the memory of one node. What ties a session to that node is a [`SessionRecord`] under a
//! [`SessionKey`], in a [`SessionStore`] that any number of front ends may share.

pub(crate) mod affinity;
mod key;
mod memory;
mod record;
mod secret;
mod sessions;
mod shelf;
mod store;

pub use affinity::{Affinity, InvalidCookie, SameSite, SessionCookie, StickyCookie};
pub use key::SessionKey;
pub use memory::MemoryStore;
pub use record::{DamagedRecord, SessionRecord};
pub use secret::{InvalidSecret, Secret};
pub use sessions::Sessions;
pub use store::{Expect, Saved, SessionStore, StoreError, StoreFuture, Stored};
