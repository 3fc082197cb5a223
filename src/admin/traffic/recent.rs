//! Counts of the last minute: a ring of windows of five seconds, each a row of counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The duration of a window, in milliseconds.
const WINDOW_MS: u64 = 5000;
/// The number of windows that are kept: those of a minute, and the current one.
const WINDOWS: u64 = 13;
/// The number of windows that a rate covers, including the current one.
const RATE_WINDOWS: u64 = 3;

/// Buckets of durations: four for each power of two of microseconds, so that the middle of a bucket
/// is off by at most an eighth.
const BUCKETS: usize = 1 + ((MAX_EXPONENT - MIN_EXPONENT) as usize) * 4;
/// Shorter durations share the first bucket: below 128 µs.
const MIN_EXPONENT: u32 = 7;
/// Longer durations share the last bucket: from 2^31 µs, about 36 minutes.
const MAX_EXPONENT: u32 = 31;

/// Events of the last minute, by kind. A counter holds the number of its window in the upper half
/// and the count in the lower. So a counter of an old window starts over with one atomic operation.
struct Windows {
    kinds: usize,
    counters: Box<[AtomicU64]>,
}

impl Windows {
    fn new(kinds: usize) -> Self {
        Windows { kinds, counters: (0..WINDOWS as usize * kinds).map(|_| AtomicU64::new(0)).collect() }
    }

    fn count(&self, now_ms: u64, kind: usize) {
        let window = number(now_ms);
        let counter = &self.counters[(window % WINDOWS) as usize * self.kinds + kind];
        let next = |value: u64| match value >> 32 == window {
            true => Some(value + 1),
            false => Some(window << 32 | 1),
        };
        _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Returns the count of `kind` in the last `windows`.
    fn get(&self, now_ms: u64, windows: u64, kind: usize) -> u64 {
        let now = number(now_ms);
        (now.saturating_sub(windows - 1)..=now)
            .map(|window| (window, &self.counters[(window % WINDOWS) as usize * self.kinds + kind]))
            .map(|(window, counter)| (window, counter.load(Ordering::Relaxed)))
            .filter_map(|(window, value)| (value >> 32 == window).then_some(value & u64::from(u32::MAX)))
            .sum()
    }
}

/// Returns the number of the window. It starts at 1, because unused counters have the number 0.
fn number(now_ms: u64) -> u64 {
    (now_ms / WINDOW_MS + 1) & u64::from(u32::MAX)
}

/// Returns how long the windows of rates last until now, in seconds. It is shorter at the start of
/// the process.
fn rate_seconds(now_ms: u64) -> f64 {
    let began = (now_ms / WINDOW_MS).saturating_sub(RATE_WINDOWS - 1) * WINDOW_MS;
    (now_ms - began).max(1000) as f64 / 1000.0
}

/// Events of the last minute.
pub(super) struct RecentCount(Windows);

impl RecentCount {
    pub(super) fn new() -> Self {
        RecentCount(Windows::new(1))
    }

    pub(super) fn count(&self, now_ms: u64) {
        self.0.count(now_ms, 0);
    }

    /// Returns the events per second, over the last 10 to 15 s.
    pub(super) fn per_second(&self, now_ms: u64) -> f64 {
        self.0.get(now_ms, RATE_WINDOWS, 0) as f64 / rate_seconds(now_ms)
    }
}

/// Durations of the last minute, in buckets.
pub(super) struct RecentDurations(Windows);

impl RecentDurations {
    pub(super) fn new() -> Self {
        RecentDurations(Windows::new(BUCKETS))
    }

    pub(super) fn record(&self, now_ms: u64, duration: Duration) {
        self.0.count(now_ms, bucket_of(duration));
    }

    /// Returns these quantiles of the durations of the last minute; `None` if there are none.
    pub(super) fn quantiles<const N: usize>(&self, now_ms: u64, quantiles: [f64; N]) -> Option<[Duration; N]> {
        let counts: Vec<u64> = (0..BUCKETS).map(|bucket| self.0.get(now_ms, WINDOWS, bucket)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        Some(quantiles.map(|quantile| {
            let mut left = ((all as f64 * quantile).ceil() as u64).clamp(1, all);
            let bucket = counts.iter().position(|count| {
                let is_here = left <= *count;
                left = left.saturating_sub(*count);
                is_here
            });
            middle_of(bucket.unwrap_or(BUCKETS - 1))
        }))
    }
}

fn bucket_of(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min((1 << MAX_EXPONENT) - 1);
    if micros < 1 << MIN_EXPONENT {
        return 0;
    }
    let exponent = micros.ilog2();
    let quarter = (micros >> (exponent - 2)) & 3;
    1 + ((exponent - MIN_EXPONENT) * 4) as usize + quarter as usize
}

fn middle_of(bucket: usize) -> Duration {
    let Some(bucket) = bucket.checked_sub(1) else { return Duration::from_micros((1 << MIN_EXPONENT) / 2) };
    let (exponent, quarter) = (MIN_EXPONENT + bucket as u32 / 4, bucket as u64 % 4);
    let width = 1 << (exponent - 2);
    Duration::from_micros((4 + quarter) * width + width / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_an_eighth_off() {
        for micros in [128, 129, 191, 1_000, 4_095, 4_096, 123_456, 1_000_000, 59_999_999, 2_000_000_000] {
            let durations = RecentDurations::new();
            durations.record(0, Duration::from_micros(micros));
            let [median] = durations.quantiles(0, [0.5]).unwrap();
            let off = median.as_micros().abs_diff(micros.into()) as f64 / micros as f64;
            assert!(off <= 0.126, "{micros}: {median:?}");
        }
    }

    #[test]
    fn extreme_durations_have_a_bucket() {
        let durations = RecentDurations::new();
        durations.record(0, Duration::ZERO);
        durations.record(0, Duration::MAX);
        let [least, most] = durations.quantiles(0, [0.01, 1.0]).unwrap();
        assert!(least < Duration::from_micros(128) && most > Duration::from_secs(1800), "{least:?} {most:?}");
    }

    #[test]
    fn quantiles_rank_all_durations() {
        let durations = RecentDurations::new();
        for millis in 1..=100 {
            durations.record(millis * 100, Duration::from_millis(millis));
        }
        let found = durations.quantiles(10_000, [0.5, 0.9, 0.99]).unwrap().map(|duration| duration.as_millis());
        for (found, expected) in found.into_iter().zip([50_u128, 90, 99]) {
            assert!(found.abs_diff(expected) <= expected / 8 + 1, "{found} for {expected}");
        }
    }

    #[test]
    fn what_is_older_than_a_minute_no_longer_counts() {
        let (durations, count) = (RecentDurations::new(), RecentCount::new());
        durations.record(0, Duration::from_millis(5));
        count.count(0);
        assert!(durations.quantiles(64_999, [0.5]).is_some() && durations.quantiles(65_000, [0.5]).is_none());
        // The ring wraps around to the same counters.
        durations.record(65_000, Duration::from_secs(7));
        assert!(durations.quantiles(65_000, [0.0]).unwrap()[0] > Duration::from_secs(6));
        assert!(count.per_second(14_999) > 0.0 && count.per_second(15_000) == 0.0);
    }

    #[test]
    fn rates_are_those_of_the_time_that_has_passed() {
        let count = RecentCount::new();
        (0..40_000).step_by(100).for_each(|now| count.count(now));
        assert!((count.per_second(39_999) - 10.0).abs() < 0.1, "{}", count.per_second(39_999));
        assert!((count.per_second(42_000) - 8.3).abs() < 0.1, "{}", count.per_second(42_000));
        let started = RecentCount::new();
        (0..2_000).step_by(100).for_each(|now| started.count(now));
        assert!((started.per_second(2_000) - 10.0).abs() < 0.1, "{}", started.per_second(2_000));
    }

    #[test]
    fn concurrent_counts_are_all_counted_while_windows_change() {
        let count = RecentCount::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..15_000).for_each(|now| count.count(now)));
            }
        });
        assert_eq!(count.0.get(14_999, RATE_WINDOWS, 0), 60_000);
        let late = RecentCount::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| late.count(70_000)));
            }
        });
        assert_eq!(late.0.get(70_000, 1, 0), 40_000);
    }
}
