//! Drills: nodes that stop, die and pause like processes, front ends for them, and clients that
//! check each response.
//!
//! `tests/it/drills.rs` runs them at a small scale, `benches/drills` at full scale alongside
//! HAProxy and nginx.

mod client;
mod crew;
mod mode;
mod node;
pub(crate) mod outages;
mod tally;
mod tomcats;

pub(crate) use crew::{Drill, Event, Scale};
#[allow(unused_imports, reason = "for the bench")]
pub(crate) use mode::PEERS;
pub(crate) use mode::{MODES, Mode};
pub(crate) use tally::Tally;
pub(crate) use tomcats::Tomcats;
