//! A node that has just come takes its share of traffic by and by: its caches are cold and its JVM has compiled nothing yet.
//!
//! The share is a fraction of the endpoint's weight that grows with time. Round robin honours it by letting turns go by,
//! policies that compare loads by a smaller weight. Hash policies do not: nginx refuses `slow_start` there, because keys that
//! move to a node and away again are worse than a cold node.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How an endpoint that is new or readmitted grows into its share of traffic (nginx Plus: `slow_start`).
///
/// ```
/// use kylin_lb::health::SlowStart;
/// use std::time::Duration;
///
/// let minute = SlowStart::over(Duration::from_secs(60));
/// assert_eq!(minute.share_after(Duration::from_secs(30)), 0.5);
/// assert_eq!(minute.share_after(Duration::ZERO), 0.1, "a ramp has to begin somewhere");
/// assert_eq!(minute.share_after(Duration::from_secs(60)), 1.0);
/// assert_eq!(minute.aggression(2.0).share_after(Duration::from_secs(15)), 0.5, "the square root of a quarter");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct SlowStart {
    window_ms: u64,
    aggression: f64,
    floor: f64,
}

impl SlowStart {
    /// A ramp that is linear, lasts for `window` and begins at a tenth. A window of zero is no ramp.
    pub fn over(window: Duration) -> Self {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        SlowStart { window_ms, aggression: 1.0, floor: 0.1 }
    }

    /// Bends the ramp as Envoy does: the share is `(elapsed / window) ^ (1 / aggression)`. Over 1 it rises fast at first,
    /// below 1 late. Default 1, linear; kept within 0.1 to 10.
    pub fn aggression(mut self, aggression: f64) -> Self {
        self.aggression = if aggression.is_nan() { 1.0 } else { aggression.clamp(0.1, 10.0) };
        self
    }

    /// The share at which the ramp begins, so that there are requests to warm up with. Default 0.1; kept within 0.01 to 1.
    pub fn floor(mut self, floor: f64) -> Self {
        self.floor = if floor.is_nan() { 0.1 } else { floor.clamp(0.01, 1.0) };
        self
    }

    /// The share of its weight that an endpoint has `elapsed` after the start: from the floor to 1.
    pub fn share_after(&self, elapsed: Duration) -> f64 {
        self.share(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    fn share(&self, elapsed_ms: u64) -> f64 {
        if elapsed_ms >= self.window_ms {
            return 1.0;
        }
        let part = elapsed_ms as f64 / self.window_ms as f64;
        let bent = if self.aggression == 1.0 { part } else { part.powf(self.aggression.recip()) };
        bent.clamp(self.floor, 1.0)
    }
}

impl From<Duration> for SlowStart {
    fn from(window: Duration) -> Self {
        SlowStart::over(window)
    }
}

/// A whole share, in the units of [`Ramp::share`].
pub(crate) const WHOLE: u32 = 1024;

/// Where one endpoint stands on its ramp. Read in picks: atomics only.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    /// Milliseconds since the endpoint's origin; 0 while there is no ramp.
    from: AtomicU64,
    /// What turns have been granted and not used, in shares.
    credit: AtomicU32,
}

impl Ramp {
    /// Begins the ramp at `at`, which may lie ahead: until then the share is the floor.
    pub(crate) fn begin(&self, at: u64) {
        self.from.store(at.max(1), Ordering::Relaxed);
    }

    /// The share of its weight that the endpoint has now, of [`WHOLE`]; never 0. `now` is asked only during a ramp.
    pub(crate) fn share(&self, settings: Option<SlowStart>, now: impl FnOnce() -> u64) -> u32 {
        let Some(settings) = settings else { return WHOLE };
        let from = self.from.load(Ordering::Relaxed);
        if from == 0 {
            return WHOLE;
        }
        let elapsed = now().saturating_sub(from);
        if elapsed >= settings.window_ms {
            // Fails when another ramp has begun meanwhile, which is then left alone.
            let _ = self.from.compare_exchange(from, 0, Ordering::Relaxed, Ordering::Relaxed);
            return WHOLE;
        }
        ((settings.share(elapsed) * f64::from(WHOLE)) as u32).clamp(1, WHOLE)
    }

    /// Does the endpoint use the turn that has fallen on it? Of many turns it uses exactly its share, evenly spread.
    pub(crate) fn uses_turn(&self, settings: Option<SlowStart>, now: impl FnOnce() -> u64) -> bool {
        let share = self.share(settings, now);
        share == WHOLE || self.credit.fetch_add(share, Ordering::Relaxed) % WHOLE + share >= WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Option<SlowStart> = Some(SlowStart { window_ms: 60_000, aggression: 1.0, floor: 0.1 });

    #[test]
    fn a_ramp_uses_exactly_its_share_of_the_turns() {
        let ramp = Ramp::default();
        ramp.begin(1_000);
        for (now, share) in [(1_000, 0.1), (7_000, 0.1), (31_000, 0.5), (55_000, 0.9), (61_000, 1.0)] {
            let used = (0..10_000).filter(|_| ramp.uses_turn(MINUTE, || now)).count();
            assert!((used as f64 / 10_000.0 - share).abs() < 0.001, "{used} of 10000 at {now}");
        }
    }

    #[test]
    fn no_clock_is_asked_where_there_is_no_ramp() {
        let ramp = Ramp::default();
        assert_eq!(ramp.share(MINUTE, || panic!("asked")), WHOLE);
        ramp.begin(5);
        assert_eq!(ramp.share(None, || panic!("asked")), WHOLE);
        assert_eq!(ramp.share(MINUTE, || 60_005), WHOLE);
        assert_eq!(ramp.share(MINUTE, || panic!("asked")), WHOLE, "it is over for good");
    }

    #[test]
    fn a_ramp_that_begins_later_stays_at_its_floor_until_then() {
        let ramp = Ramp::default();
        ramp.begin(100_000);
        assert_eq!(ramp.share(MINUTE, || 1), 102);
    }

    proptest::proptest! {
        #[test]
        fn a_share_never_falls_and_keeps_its_bounds(
            aggression in proptest::num::f64::ANY,
            floor in proptest::num::f64::ANY,
            window in 0_u64..100_000,
            times in proptest::collection::vec(0_u64..120_000, 2..20),
        ) {
            let settings = SlowStart::over(Duration::from_millis(window)).aggression(aggression).floor(floor);
            let mut times = times;
            times.sort_unstable();
            let shares: Vec<f64> = times.iter().map(|time| settings.share(*time)).collect();
            proptest::prop_assert!(shares.iter().all(|share| (0.01..=1.0).contains(share)));
            proptest::prop_assert!(shares.is_sorted());
        }
    }
}
