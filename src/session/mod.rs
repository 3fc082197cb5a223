//! Shared memory of sessions: who is logged in where.
//!
//! Kylin keeps a login in the memory of one node. What ties a session to that node is a [`SessionRecord`] under a
//! [`SessionKey`], in a [`SessionStore`] that any number of front ends may share.

mod key;
mod record;
mod store;

pub use key::SessionKey;
pub use record::{DamagedRecord, SessionRecord};
pub use store::{Expect, Saved, SessionStore, StoreError, StoreFuture, Stored};
