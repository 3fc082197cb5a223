use std::time::Duration;

use super::MIN_INTERVAL;
use crate::clock::{InvalidDuration, at_least, scaled};

/// The delays after failures of a source. Default: 500 ms after the first failure, at most 30 s.
///
/// The delay doubles with each failure in a row, up to a maximum. A random part of up to half is
/// subtracted, so that front ends that lost a source together do not reconnect together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// Creates delays from `initial`, after the first failure, up to `max`.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `initial` is below 10 ms, because a source that fails at once would
    /// occupy a core, or if `max` is below `initial`.
    pub fn new(initial: Duration, max: Duration) -> Result<Self, InvalidDuration> {
        let initial = at_least(MIN_INTERVAL, initial, "initial backoff")?;
        Ok(Backoff { initial, max: at_least(initial, max, "maximum backoff")? })
    }

    /// Returns the delay after this many failures in a row. `random` is from 0 to 1.
    pub(super) fn after(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.initial.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        scaled(doubled.min(self.max), 0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum_and_keeps_at_least_half() {
        let backoff = Backoff::default();
        let full: Vec<u128> = [1, 2, 3, 7, 8, 1_000_000].map(|n| backoff.after(n, 1.0).as_millis()).to_vec();
        assert_eq!(full, [500, 1000, 2000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.after(3, 0.0).as_millis(), 1000);
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).unwrap().after(9, 1.0), Duration::MAX);
    }

    #[test]
    fn the_delay_is_never_zero() {
        let new = |initial, max| Backoff::new(Duration::from_millis(initial), Duration::from_millis(max));
        let error = new(0, 0).unwrap_err();
        assert_eq!(error.to_string(), "the initial backoff 0ns is too short: expected at least 10ms");
        assert_eq!(new(20, 10).unwrap_err().setting, "maximum backoff");
        assert_eq!(new(10, 10).unwrap().after(1, 0.0), Duration::from_millis(5));
    }
}
