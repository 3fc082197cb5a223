//! The pause before a server that could not be reached is tried again.
//!
//! While it lasts callers are told at once why, rather than each finding out; after it the next caller tries.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fault;
use crate::clock::{Clock, SystemClock};

/// The first pause. Short: most failures are a restart or a failover that is over soon.
const SHORTEST: Duration = Duration::from_millis(10);
/// How long a server that is back may stay unnoticed.
const LONGEST: Duration = Duration::from_millis(500);

/// Lets attempts through, further and further apart while they fail.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Option<Closed>>);

#[derive(Debug)]
struct Closed {
    until: Instant,
    pause: Duration,
    why: Fault,
}

impl Gate {
    /// Whether an attempt may be made now.
    ///
    /// # Errors
    /// Why the last one failed, during the pause after it.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match &*self.0.lock() {
            Some(closed) if SystemClock.now() < closed.until => Err(closed.why.clone()),
            _ => Ok(()),
        }
    }

    /// An attempt was good.
    pub(crate) fn open(&self) {
        *self.0.lock() = None;
    }

    /// An attempt failed: twice the pause of the one before it, give or take a quarter, so that front ends that lost a server
    /// together do not come back together.
    pub(crate) fn close(&self, why: Fault) {
        let mut closed = self.0.lock();
        let pause = closed.as_ref().map_or(SHORTEST, |last| (last.pause * 2).min(LONGEST));
        *closed = Some(Closed { until: SystemClock.now() + pause.mul_f64(0.75 + fastrand::f64() / 2.0), pause, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_a_good_attempt_ends_them() {
        let gate = Gate::default();
        assert!(gate.check().is_ok());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            gate.close(Fault::unavailable("redis", "gone"));
            pauses.push(gate.0.lock().as_ref().unwrap().pause.as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(gate.check().unwrap_err().to_string(), "redis: gone");
        gate.open();
        assert!(gate.check().is_ok());
    }
}
