//! The parts of the crate's clock that the modelled code needs.

use std::fmt::Debug;
use std::time::Duration;

pub(crate) trait Clock: Debug + Send + Sync + 'static {}

#[derive(Debug)]
pub(crate) struct NoClock;

impl Clock for NoClock {}

pub(crate) fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
