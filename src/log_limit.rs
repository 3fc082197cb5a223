//! Limits the log lines that clients can cause to one per kind and second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Clock;

/// The time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits the lines of one kind.
#[derive(Debug)]
pub(crate) struct LogLimit {
    clock: Arc<dyn Clock>,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        LogLimit { clock: Arc::clone(clock), lines: Mutex::default() }
    }

    /// Returns how many lines were left out since the last one, if another line may be written.
    /// Otherwise counts this line as left out.
    pub(crate) fn admit(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut lines = self.lines.lock();
        if lines.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn one_line_a_second_is_written_with_the_count_of_the_others() {
        let clock = ManualClock::new();
        let limit = LogLimit::new(&(Arc::new(clock.clone()) as Arc<dyn Clock>));
        assert_eq!([limit.admit(), limit.admit(), limit.admit()], [Some(0), None, None]);
        clock.advance(INTERVAL);
        assert_eq!([limit.admit(), limit.admit()], [Some(2), None]);
        clock.advance(INTERVAL);
        assert_eq!(limit.admit(), Some(1));
    }
}
