//! What is told of a run.

use crate::nodes::Answer;
use crate::workload::{Micros, Query};

/// What came of the same front over several seeds.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    took: Vec<Micros>,
    /// Of the queries that any node answers at once: quick ones, and those found in a cache.
    quick: Vec<Micros>,
    waited: u128,
    hits: usize,
    means: Vec<f64>,
    checksum: u64,
}

impl Figures {
    /// Adds a run. Its first tenth is left out: nodes begin with nothing to do and nothing cached.
    pub(crate) fn add(&mut self, queries: &[Query], answers: &[Answer]) {
        let warm = answers.len() / 10;
        let before = self.took.len();
        for (query, answer) in queries.iter().zip(answers).skip(warm) {
            self.took.push(answer.took);
            self.waited += u128::from(answer.waited);
            self.hits += usize::from(answer.hit);
            if answer.hit || !query.is_cacheable() {
                self.quick.push(answer.took);
            }
            let word = answer.took << 8 | u64::from(answer.node);
            self.checksum = (self.checksum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        let sum: u64 = self.took[before..].iter().sum();
        self.means.push(seconds(sum) / (self.took.len() - before) as f64);
    }

    /// Seconds from a query to its answer.
    pub(crate) fn mean(&self) -> f64 {
        self.means.iter().sum::<f64>() / self.means.len() as f64
    }

    /// The mean of the best and of the worst seed.
    pub(crate) fn range(&self) -> (f64, f64) {
        self.means.iter().fold((f64::INFINITY, 0.0), |(low, high), mean| (low.min(*mean), high.max(*mean)))
    }

    /// Seconds within which this share of the answers came.
    pub(crate) fn within(&self, share: f64) -> f64 {
        percentile(&self.took, share)
    }

    /// The same of the queries that take no time themselves.
    pub(crate) fn quick_within(&self, share: f64) -> f64 {
        percentile(&self.quick, share)
    }

    /// Seconds that a query waited for a slot, on average.
    pub(crate) fn waited(&self) -> f64 {
        self.waited as f64 / 1e6 / self.took.len() as f64
    }

    /// The share of queries that were answered from a cache.
    pub(crate) fn hits(&self) -> f64 {
        self.hits as f64 / self.took.len() as f64
    }

    /// Says whether two runs were the same to the microsecond.
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
