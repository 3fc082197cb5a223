//! The durations of queries, learned per fingerprint.

/// Microseconds.
pub(super) type Micros = u64;

/// The number of fingerprints that are remembered: [`BUCKETS`] of [`WAYS`].
const BUCKETS: usize = 512;
const WAYS: usize = 8;

/// The learned durations. The table is bounded: a new fingerprint replaces the least recently used
/// one in its bucket.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// Empty until a duration is learned.
    learned: Vec<Learned>,
    all: Mean,
    /// Counts uses.
    used: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    fingerprint: u64,
    /// The mean; it covers no query if the entry is free.
    mean: Mean,
    used: u64,
}

/// A mean that is plain at first, and exponentially weighted later.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    pub(super) value: f64,
    pub(super) count: u32,
}

impl Mean {
    /// Adds a number, with a weight of at least 1 / `max`.
    pub(super) fn add(&mut self, number: f64, max: u32) {
        self.count = (self.count + 1).min(max);
        self.value += (number - self.value) / f64::from(self.count);
    }
}

impl Costs {
    /// Returns the expected duration of a query: the mean for its fingerprint or, if that is
    /// unknown, the mean of all queries. Also returns whether the mean for its fingerprint is
    /// known.
    pub(super) fn expected(&mut self, fingerprint: Option<u64>) -> (Micros, bool) {
        self.used += 1;
        let used = self.used;
        let known = fingerprint.and_then(|fingerprint| {
            let entry = self.bucket(fingerprint).iter_mut().find(|entry| entry.holds(fingerprint))?;
            entry.used = used;
            Some(entry.mean)
        });
        (known.unwrap_or(self.all).value as Micros, known.is_some())
    }

    /// Learns the duration of a query. Returns its ratio to the earlier mean for its fingerprint,
    /// if there was one.
    pub(super) fn learn(&mut self, fingerprint: Option<u64>, took: Micros) -> Option<f64> {
        self.all.add(took as f64, 255);
        let fingerprint = fingerprint?;
        if self.learned.is_empty() {
            self.learned = vec![Learned::default(); BUCKETS * WAYS];
        }
        self.used += 1;
        let used = self.used;
        let bucket = self.bucket(fingerprint);
        let index = (0..WAYS).find(|index| bucket[*index].holds(fingerprint)).unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|index| bucket[*index].used).unwrap_or(0);
            bucket[oldest] = Learned { fingerprint, ..Learned::default() };
            oldest
        });
        let Learned { mean, .. } = bucket[index];
        bucket[index].mean.add(took as f64, 32);
        bucket[index].used = used;
        (mean.count > 0 && mean.value > 0.0).then(|| took as f64 / mean.value)
    }

    /// Returns the entries that may hold a fingerprint; none until something was learned.
    fn bucket(&mut self, fingerprint: u64) -> &mut [Learned] {
        let begin = (fingerprint % BUCKETS as u64) as usize * WAYS;
        self.learned.get_mut(begin..begin + WAYS).unwrap_or_default()
    }
}

impl Learned {
    fn holds(&self, fingerprint: u64) -> bool {
        self.mean.count > 0 && self.fingerprint == fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_plain_for_32_queries_and_then_follows_changes() {
        let mut costs = Costs::default();
        assert_eq!(costs.expected(Some(1)), (0, false));
        (1..=32).for_each(|took| _ = costs.learn(Some(1), took * 1_000));
        assert_eq!(costs.expected(Some(1)), (16_500, true));
        assert_eq!(costs.learn(Some(1), 2 * 16_500 + 15_500).map(f64::round), Some(3.0));
        assert_eq!(costs.expected(Some(1)), (17_500, true));
    }

    #[test]
    fn an_unknown_query_costs_the_mean_of_all() {
        let mut costs = Costs::default();
        assert_eq!((costs.learn(Some(1), 1_000), costs.learn(None, 3_000)), (None, None));
        assert_eq!([Some(2), None].map(|unknown| costs.expected(unknown)), [(2_000, false); 2]);
        assert_eq!(costs.expected(Some(1)), (1_000, true));
    }

    #[test]
    fn a_bucket_forgets_the_least_recently_used() {
        let mut costs = Costs::default();
        let of_bucket = |n: u64| Some(n * BUCKETS as u64);
        (0..WAYS as u64).for_each(|n| _ = costs.learn(of_bucket(n), 10 + n));
        assert_eq!(costs.expected(of_bucket(0)), (10, true));
        costs.learn(of_bucket(99), 500);
        assert_eq!([0, 99].map(|n| costs.expected(of_bucket(n))), [(10, true), (500, true)]);
        let all = costs.expected(None);
        assert_eq!(costs.expected(of_bucket(1)), all, "the least recently used one is gone");
        assert_eq!(costs.learned.len(), BUCKETS * WAYS);
    }
}
