//! The journey of a request as one who knows Kylin makes it: what `crate::kylin` says of a request and of an answer, applied.

mod abandon;
mod budget;
mod fan_out;
mod peek;
mod recent_writes;
mod rules;
mod visit;

pub use budget::RetryBudget;
pub use rules::{KylinRules, StopAbandoned};

pub(super) use crate::kylin::retry::Next;
pub(super) use fan_out::fan_out;
pub(super) use peek::peek;
pub(super) use rules::Rules;
pub(super) use visit::{Judged, Visit};
