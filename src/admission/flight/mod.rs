//! Single flight: one execution for the equal queries that wait at the same time.
//!
//! The first of them leads: it is sent to a node like any other. Queries that arrive until its response is there, and are equal to
//! it, follow: they wait, and get a copy of the response. Queries are equal ([`FlightKey`]) if they carry the same credentials and ask
//! the same, and no write has ended between their arrivals ([`Epochs`]). That a node has accepted the credentials of the leader shows
//! that it accepts those of the followers.
//!
//! | what happens | the followers |
//! |---|---|
//! | the response is a result, and can be copied | get it |
//! | it is too long for a copy, has no memory, or sets a cookie | are sent to nodes, each for itself |
//! | the leader has no slot in time, or too many wait for one | get that response |
//! | the leader fails or is refused otherwise | the oldest leads once more |
//! | the second leader fails or is refused too | get that response, so that a query that fails is not executed by each client |
//! | the client of the leader leaves, or stops its query | the oldest takes over the execution, or the place in the queue |
//!
//! The execution is a value that the leader holds. A leader that is dropped hands it to a follower under the lock of its shard, and a
//! follower that is dropped hands on what it was given. So a client can leave at any time, and an execution ends when its last
//! client does.

mod epochs;
mod key;
mod table;
mod unshareable;

pub(crate) use self::epochs::{Epochs, ProjectSlot};
#[cfg(feature = "cache")]
pub(crate) use self::key::is_neutral;
pub(crate) use self::key::{FlightKey, QueryIds};
pub use self::table::SingleFlightStatus;
pub(crate) use self::table::{Entered, FlightTable, Follower, Leader, Waited};
