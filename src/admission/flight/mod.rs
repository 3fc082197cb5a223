//! Single flight: identical queries that are in flight at the same time are executed once.
//!
//! The first query leads: it is sent to a node like any other. Identical queries that arrive before
//! its response follow: they wait, and get a copy of the response. Queries are identical
//! ([`FlightKey`]) if they have the same credentials and the same content, and no write has ended
//! between their arrivals ([`Epochs`]). A node that accepts the credentials of the leader would
//! also accept those of the followers, because they are the same.
//!
//! | event | followers |
//! |---|---|
//! | the response is a result, and can be copied | get it |
//! | it is too long for a copy, or there is no memory for one | are sent to nodes, each separately |
//! | its head sets a cookie that the client gets | are sent to nodes at once, each separately |
//! | the leader gets no slot in time | the oldest leads; its own wait counts from its arrival |
//! | the leader fails, or is refused otherwise | the oldest leads once more |
//! | the second leader fails or is refused too | get that response, so that a failing query is not executed for each client |
//! | the client of the leader leaves, or stops its query | the oldest takes over the execution, or the place in the queue |
//!
//! Kylin begins a session for each request that has Basic credentials and no session, and sets its
//! cookie. A login relay keeps that cookie from the client. Otherwise, after such a response,
//! queries of this kind neither lead nor follow, until a result of one sets no cookie.
//!
//! The execution is a value that the leader holds. If a leader is dropped, it passes the execution
//! to a follower under the lock of its shard. If a follower is dropped, it passes on an execution
//! that it was given. So a client can leave at any time, and an execution ends when its last client
//! does.

mod epochs;
mod key;
mod table;
mod unshareable;

pub(crate) use self::epochs::{Epochs, ProjectSlot};
#[cfg(feature = "cache")]
pub(crate) use self::key::is_neutral;
pub(crate) use self::key::{FlightKey, QueryIds};
pub(crate) use self::table::{FlightRole, FlightTable, Follower, FollowerOutcome, Leader, StopTarget};
