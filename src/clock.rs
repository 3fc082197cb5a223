//! The source of time.
//!
//! Every decision that depends on time (ejection, idle limits, retry deadlines) reads a [`Clock`],
//! so that tests set the time and never sleep.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current instant. It never goes backwards.
    fn now(&self) -> Instant;

    /// Returns the time of day, in seconds since 1970 (UTC), for values that other machines read,
    /// such as the expiry of a cookie. It may be set back.
    fn unix(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }
}

/// The monotonic clock of the operating system, which is the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock and the moment from which it counts. Times are milliseconds since then, small enough for
/// an atomic.
#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    clock: Arc<dyn Clock>,
    origin: Instant,
}

impl Epoch {
    /// Starts to count now.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Epoch { origin: clock.now(), clock }
    }

    /// Returns the clock.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns the milliseconds since the origin.
    pub(crate) fn millis(&self) -> u64 {
        self.millis_at(self.clock.now())
    }

    /// Returns the microseconds since the origin.
    pub(crate) fn micros(&self) -> u64 {
        let since = self.clock.now().saturating_duration_since(self.origin);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Returns the instant `millis` milliseconds after the origin.
    pub(crate) fn instant(&self, millis: u64) -> Instant {
        self.origin.checked_add(Duration::from_millis(millis)).unwrap_or(self.origin)
    }

    /// Returns the milliseconds from the origin to `moment`; 0 for a moment before it.
    pub(crate) fn millis_at(&self, moment: Instant) -> u64 {
        as_millis(moment.saturating_duration_since(self.origin))
    }
}

/// The duration of a tokio sleep that never ends.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Returns `duration` in milliseconds, or `u64::MAX` if they are more.
pub(crate) fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the instant `after` from now on the clock of tokio's timers, which tests can pause.
pub(crate) fn timer_in(after: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    now.checked_add(after).unwrap_or_else(|| now + NEVER)
}

/// Returns the instant `after` later than `instant`. If that cannot be represented, it is 30 years
/// later.
pub(crate) fn instant_after(instant: Instant, after: Duration) -> Instant {
    instant.checked_add(after).unwrap_or_else(|| instant + NEVER)
}

/// Returns `factor` times `duration`, or `Duration::MAX` if that is more.
pub(crate) fn scaled(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// The error for a duration that is too short for its setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("the {setting} {value:?} is too short: expected at least {min:?}")]
pub struct InvalidDuration {
    /// The name of the setting.
    pub setting: &'static str,
    /// The rejected value.
    pub value: Duration,
    /// The minimum valid value.
    pub min: Duration,
}

/// Returns `value`, or an error if it is shorter than `min`.
pub(crate) fn at_least(min: Duration, value: Duration, setting: &'static str) -> Result<Duration, InvalidDuration> {
    if value < min { Err(InvalidDuration { setting, value, min }) } else { Ok(value) }
}

/// A clock that shows a fixed time until it is advanced. Clones share one time.
///
/// ```
/// use kylin_lb::clock::{Clock, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(10));
/// assert_eq!(clock.now() - before, Duration::from_secs(10));
/// ```
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    elapsed_nanos: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

#[cfg(any(test, feature = "test-util"))]
impl ManualClock {
    /// Returns a clock that shows a fixed instant.
    #[allow(clippy::new_without_default, reason = "two clocks made so show different times; a default would hide it")]
    pub fn new() -> Self {
        ManualClock { start: Instant::now(), elapsed_nanos: Default::default() }
    }

    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_nanos.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.elapsed_nanos.load(std::sync::atomic::Ordering::SeqCst))
    }

    /// Returns the time of day, which starts at the first of January 2026.
    fn unix(&self) -> u64 {
        1_767_225_600 + self.elapsed_nanos.load(std::sync::atomic::Ordering::SeqCst) / 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_too_long() {
        let now = Instant::now();
        assert_eq!(instant_after(now, Duration::from_secs(8)), now + Duration::from_secs(8));
        assert!(instant_after(now, Duration::MAX) > now + Duration::from_secs(86_400));
        assert_eq!(scaled(Duration::from_secs(4), 1.5), Duration::from_secs(6));
        assert_eq!([1.0, 1.5].map(|factor| scaled(Duration::MAX, factor)), [Duration::MAX; 2]);
    }
}
