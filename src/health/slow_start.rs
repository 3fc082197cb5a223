//! Slow start: an endpoint that is new or returns grows into its share of traffic. Its caches are
//! cold at first, and its JVM has not compiled anything yet.
//!
//! The share is a fraction of the endpoint's weight that grows with time. Round robin skips the
//! endpoint in some rotations; policies that compare loads use a smaller weight. Hash policies
//! ignore the ramp, and nginx rejects `slow_start` for them: keys that move to a node and away
//! again are worse than a cold node.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::as_millis;
use crate::setting::InvalidSetting;

/// The ramp by which an endpoint that is new or readmitted grows into its share of traffic (nginx
/// Plus: `slow_start`).
///
/// ```
/// use kylin_lb::health::SlowStart;
/// use std::time::Duration;
///
/// let minute = SlowStart::over(Duration::from_secs(60));
/// assert_eq!(minute.share_after(Duration::from_secs(30)), 0.5);
/// assert_eq!(minute.share_after(Duration::ZERO), 0.1, "the ramp begins at its floor");
/// assert_eq!(minute.share_after(Duration::from_secs(60)), 1.0);
///
/// let fast = minute.aggression(2.0)?;
/// assert_eq!(fast.share_after(Duration::from_secs(15)), 0.5, "the square root of a quarter");
/// # Ok::<(), kylin_lb::InvalidSetting>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct SlowStart {
    window_ms: u64,
    aggression: f64,
    floor: f64,
}

impl SlowStart {
    /// Returns a linear ramp that lasts for `window` and begins at a tenth, like Envoy's. A zero
    /// window means no ramp.
    pub fn over(window: Duration) -> Self {
        SlowStart { window_ms: as_millis(window), aggression: 1.0, floor: 0.1 }
    }

    /// Bends the ramp as Envoy does: the share is `(elapsed / window) ^ (1 / aggression)`. A value
    /// over 1 rises fast at first, a value below 1 late. Default: 1, a linear ramp.
    ///
    /// # Errors
    /// [`InvalidSetting`] unless `aggression` is from 0.1 to 10.
    pub fn aggression(self, aggression: f64) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless((0.1..=10.0).contains(&aggression), "aggression", "0.1 to 10")?;
        Ok(SlowStart { aggression, ..self })
    }

    /// Sets the share at which the ramp begins. It cannot be zero, because only requests warm the
    /// node up. Default: 0.1.
    ///
    /// # Errors
    /// [`InvalidSetting`] unless `floor` is from 0.01 to 1.
    pub fn floor(self, floor: f64) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless((0.01..=1.0).contains(&floor), "floor", "0.01 to 1")?;
        Ok(SlowStart { floor, ..self })
    }

    /// Returns the share of its weight that an endpoint has when `elapsed` has passed since the
    /// start: from the floor to 1.
    pub fn share_after(&self, elapsed: Duration) -> f64 {
        self.share(as_millis(elapsed))
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

/// A full share, in the units of [`Ramp::share`].
pub(crate) const WHOLE: u32 = 1024;

/// The slow start of one endpoint. Picks read it, so it has atomics only.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    /// Milliseconds since the endpoint's origin; 0 while there is no ramp.
    from: AtomicU64,
    /// The shares that rotation has granted and requests have not used.
    credit: AtomicU32,
}

impl Ramp {
    /// Begins the ramp at `at`, which may be in the future: until then the share is the floor.
    pub(crate) fn begin(&self, at: u64) {
        self.from.store(at.max(1), Ordering::Relaxed);
    }

    /// Returns the current share of the endpoint's weight, out of [`WHOLE`]; never 0. `now` is
    /// called only during a ramp.
    pub(crate) fn share(&self, settings: Option<SlowStart>, now: impl FnOnce() -> u64) -> u32 {
        let Some(settings) = settings else { return WHOLE };
        let from = self.from.load(Ordering::Relaxed);
        if from == 0 {
            return WHOLE;
        }
        let elapsed = now().saturating_sub(from);
        if elapsed >= settings.window_ms {
            // Fails if another ramp has begun meanwhile, which then stays.
            let _ = self.from.compare_exchange(from, 0, Ordering::Relaxed, Ordering::Relaxed);
            return WHOLE;
        }
        ((settings.share(elapsed) * f64::from(WHOLE)) as u32).clamp(1, WHOLE)
    }

    /// Returns whether an endpoint with this share serves when it is next in rotation. Over many
    /// calls, exactly this share returns true, evenly spread.
    pub(crate) fn takes_pick(&self, share: u32) -> bool {
        share == WHOLE || self.credit.fetch_add(share, Ordering::Relaxed) % WHOLE + share >= WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Option<SlowStart> = Some(SlowStart { window_ms: 60_000, aggression: 1.0, floor: 0.1 });

    #[test]
    fn a_ramp_takes_exactly_its_share_of_the_rotations() {
        let ramp = Ramp::default();
        ramp.begin(1_000);
        for (now, share) in [(1_000, 0.1), (7_000, 0.1), (31_000, 0.5), (55_000, 0.9), (61_000, 1.0)] {
            let used = (0..10_000).filter(|_| ramp.takes_pick(ramp.share(MINUTE, || now))).count();
            assert!((used as f64 / 10_000.0 - share).abs() < 0.001, "{used} of 10000 at {now}");
        }
    }

    #[test]
    fn the_clock_is_read_only_during_a_ramp() {
        let ramp = Ramp::default();
        assert_eq!(ramp.share(MINUTE, || panic!("read")), WHOLE);
        ramp.begin(5);
        assert_eq!(ramp.share(None, || panic!("read")), WHOLE);
        assert_eq!(ramp.share(MINUTE, || 60_005), WHOLE);
        assert_eq!(ramp.share(MINUTE, || panic!("read")), WHOLE, "the ramp has ended");
    }

    #[test]
    fn a_ramp_that_begins_later_stays_at_its_floor_until_then() {
        let ramp = Ramp::default();
        ramp.begin(100_000);
        assert_eq!(ramp.share(MINUTE, || 1), 102);
    }

    proptest::proptest! {
        #[test]
        fn no_value_out_of_range_is_accepted(value in proptest::num::f64::ANY) {
            let ramp = SlowStart::over(Duration::from_secs(1));
            proptest::prop_assert_eq!(ramp.aggression(value).is_ok(), (0.1..=10.0).contains(&value));
            proptest::prop_assert_eq!(ramp.floor(value).is_ok(), (0.01..=1.0).contains(&value));
        }

        #[test]
        fn a_share_never_falls_and_keeps_its_bounds(
            aggression in 0.1..=10.0,
            floor in 0.01..=1.0,
            window in 0_u64..100_000,
            times in proptest::collection::vec(0_u64..120_000, 2..20),
        ) {
            let settings = SlowStart::over(Duration::from_millis(window)).aggression(aggression).unwrap().floor(floor).unwrap();
            let mut times = times;
            times.sort_unstable();
            let shares: Vec<f64> = times.iter().map(|time| settings.share(*time)).collect();
            proptest::prop_assert!(shares.iter().all(|share| (0.01..=1.0).contains(share)));
            proptest::prop_assert!(shares.is_sorted());
        }
    }
}
