//! The figures of a run.

use crate::nodes::Completion;
use crate::workload::{Micros, Query};

/// The results of the same front over several seeds.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    took: Vec<Micros>,
    /// The queries that any node serves at once: quick ones, and those with a cached result.
    quick: Vec<Micros>,
    waited: u128,
    hits: usize,
    refused: usize,
    means: Vec<f64>,
    checksum: u64,
}

impl Figures {
    /// Adds a run. Its first tenth is left out, because nodes begin with nothing to do and nothing
    /// cached.
    pub(crate) fn add(&mut self, queries: &[Query], completions: &[Completion]) {
        let warm = completions.len() / 10;
        let before = self.took.len();
        for (query, completion) in queries.iter().zip(completions).skip(warm) {
            if completion.refused {
                self.refused += 1;
                continue;
            }
            self.took.push(completion.took);
            self.waited += u128::from(completion.waited);
            self.hits += usize::from(completion.hit);
            if completion.hit || !query.is_cacheable() {
                self.quick.push(completion.took);
            }
            let word = completion.took << 8 | u64::from(completion.node);
            self.checksum = (self.checksum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        let sum: u64 = self.took[before..].iter().sum();
        self.means.push(seconds(sum) / (self.took.len() - before) as f64);
    }

    /// Returns the seconds from a query to its response.
    pub(crate) fn mean(&self) -> f64 {
        self.means.iter().sum::<f64>() / self.means.len() as f64
    }

    /// The mean of the best and of the worst seed.
    pub(crate) fn range(&self) -> (f64, f64) {
        self.means.iter().fold((f64::INFINITY, 0.0), |(low, high), mean| (low.min(*mean), high.max(*mean)))
    }

    /// Returns the time in seconds within which this share of the queries completed.
    pub(crate) fn within(&self, share: f64) -> f64 {
        percentile(&self.took, share)
    }

    /// Returns the time in seconds within which 99 % of the quick queries completed.
    pub(crate) fn quick_within(&self, share: f64) -> f64 {
        percentile(&self.quick, share)
    }

    /// Returns the average time that a query waited for a slot, in seconds.
    pub(crate) fn waited(&self) -> f64 {
        self.waited as f64 / 1e6 / self.took.len() as f64
    }

    /// Returns the share of queries that were served from a cache.
    pub(crate) fn hits(&self) -> f64 {
        self.hits as f64 / self.took.len() as f64
    }

    /// Returns the share of queries that were refused with a 503. They count in no other figure.
    pub(crate) fn refused(&self) -> f64 {
        self.refused as f64 / (self.refused + self.took.len()) as f64
    }

    /// Identifies a run to the microsecond.
    pub(crate) fn checksum(&self) -> u64 {
        self.checksum
    }
}

fn percentile(of: &[Micros], share: f64) -> f64 {
    let mut sorted = of.to_vec();
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    seconds(*sorted.select_nth_unstable(at).1)
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}
