//! Sessions: which node each login belongs to.
//!
//! Kylin keeps a login in the memory of one node. An [`Affinity`] sends the requests of a session to that node. A
//! [`SessionStore`] holds [`SessionRecord`]s under [`SessionKey`]s, and any number of front ends may share it.

pub(crate) mod affinity;
mod cached;
pub(crate) mod hook;
mod learn;
#[cfg(feature = "login-relay")]
mod login_relay;
mod replicated;
mod route;
mod secret;
mod session_cookie;
mod sticky;
mod store;
mod user;

pub use crate::cookie::{InvalidCookie, SameSite};
pub use crate::maybe_ready::{BoxFuture, MaybeReady, MaybeReadyFuture};
pub use affinity::Affinity;
pub use cached::{Sessions, SessionsBuilder};
#[cfg(feature = "login-relay")]
pub use login_relay::{CookieIssue, LoginRelay};
pub use replicated::ReplicatedSessions;
pub use route::SessionRoute;
pub use secret::{InvalidSecret, Secret};
pub use session_cookie::SessionCookie;
pub use sticky::StickyCookie;
pub use store::{
    DamagedRecord, InvalidStore, MemoryStore, Precondition, SaveOutcome, SessionKey, SessionRecord, SessionStore,
    StoreError, StoreFuture, Stored, open,
};
#[cfg(feature = "memcached")]
pub use store::{MemcachedBuilder, MemcachedStore};
#[cfg(feature = "mysql")]
pub use store::{MysqlBuilder, MysqlStore};
#[cfg(feature = "redis")]
pub use store::{RedisBuilder, RedisStore};
