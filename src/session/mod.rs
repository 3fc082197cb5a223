//! Session affinity: which endpoint gets the requests of a session.
//!
//! Kylin keeps a login session in the memory of one node, so requests of the session must go to
//! that node.
//!
//! | type | purpose |
//! |---|---|
//! | [`Affinity`] | chooses how sessions are kept: set it with [`ProxyBuilder::affinity`](crate::proxy::ProxyBuilder::affinity) |
//! | [`Sessions`] | the sessions of a front end: in memory, or in a store with a near cache |
//! | [`SessionStore`] | the trait of stores, which any number of front ends may share; [`open`] makes a store from an address |
//! | [`SessionRecord`] under a [`SessionKey`] | what a store keeps of a session: the endpoint to which it is bound |
//! | [`Secret`] | derives the keys of sessions and signs cookies; all front ends of one cluster need the same one |

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

#[cfg(fuzzing)]
pub(crate) use login_relay::fuzz as fuzz_relayed_session;

pub use crate::cookie::{InvalidCookie, SameSite};
pub use crate::maybe_ready::{BoxFuture, MaybeReady, MaybeReadyFuture};
pub use affinity::Affinity;
pub use cached::{RestoreAfterLoss, Sessions, SessionsBuilder};
#[cfg(feature = "login-relay")]
pub use login_relay::{CookieIssue, LoginRelay};
pub use replicated::ReplicatedSessions;
pub use route::SessionRoute;
#[cfg(feature = "cache")]
pub(crate) use secret::Tagger;
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
