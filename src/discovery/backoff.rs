use std::time::Duration;

/// How long a source is left alone after it failed: twice as long after each failure in a row, up to a most, and by chance up
/// to half of that less, so that front ends which lost one source together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure. Default: 500 ms.
    pub first: Duration,
    /// After many. Default: 30 s, so that a source is noticed within a minute of its return.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after this many failures in a row; `chance` is from 0 to 1.
    pub(super) fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        // Never no pause at all: a source that fails at once would take a core.
        let full = doubled.min(self.most).max(Duration::from_millis(10));
        full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most_and_keeps_half_of_it() {
        let backoff = Backoff::default();
        let full: Vec<u128> = [1, 2, 3, 7, 8, 1_000_000].map(|n| backoff.after(n, 1.0).as_millis()).to_vec();
        assert_eq!(full, [500, 1000, 2000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.after(3, 0.0).as_millis(), 1000);
    }

    #[test]
    fn never_is_no_pause() {
        let none = Backoff { first: Duration::ZERO, most: Duration::ZERO };
        assert_eq!(none.after(1, 0.0), Duration::from_millis(5));
    }
}
