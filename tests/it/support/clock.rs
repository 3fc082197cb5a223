//! The clock of tokio's timers.

use std::time::Instant;

use kylin_lb::clock::Clock;

/// The clock of tokio's timers, which a test pauses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PausedClock;

impl Clock for PausedClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
