//! Measures how much slower a node is than the others, by comparing the duration of its queries
//! with the expected duration.

use super::costs::{Mean, Micros};
use crate::health::slow_start::WHOLE;

/// The minimum interval between two changes of weights.
pub(super) const INTERVAL: Micros = 100_000;
/// The number of queries that the mean of a node covers.
const QUERIES: u32 = 128;
/// The minimum number of queries for a mean.
const MIN_QUERIES: u32 = 32;
/// The maximum ratio that one query adds to a mean, because a query may take long for a reason
/// other than its node.
const MAX_OF_QUERY: f64 = 10.0;
/// The multiple of the median above which a mean shows that its node is slow.
const SLOW: f64 = 1.5;
/// The maximum divisor of a weight. Some queries still go to a slow node, and show when it is fast
/// again.
const MAX_DIVISOR: f64 = 10.0;

/// The mean of the durations of a node's queries, each divided by the expected duration.
#[derive(Debug, Default)]
pub(super) struct Slowness(Mean);

impl Slowness {
    /// Adds a query that took `ratio` times as long as expected.
    pub(super) fn add(&mut self, ratio: f64) {
        self.0.add(ratio.min(MAX_OF_QUERY), QUERIES);
    }

    /// Returns the mean, if it covers enough queries.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.0.count >= MIN_QUERIES).then_some(self.0.value)
    }

    /// Returns the share of its weight that the node keeps, out of [`WHOLE`].
    pub(super) fn share(&self, median: Option<f64>) -> u32 {
        let (Some(mean), Some(median)) = (self.mean(), median) else { return WHOLE };
        if mean > SLOW * median { (f64::from(WHOLE) / (mean / median).min(MAX_DIVISOR)) as u32 } else { WHOLE }
    }
}

/// Returns the median of the nodes' means; of an even number, the lower one, so that the slower of
/// two nodes is slow.
pub(super) fn median(means: impl Iterator<Item = f64>) -> Option<f64> {
    let mut means: Vec<_> = means.collect();
    means.sort_by(f64::total_cmp);
    means.get(means.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the shares of nodes. For each node, its queries took the given multiple of the
    /// expected duration, and their number is given.
    fn shares(nodes: &[(f64, u32)]) -> Vec<u32> {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(ratio, queries)| {
                let mut node = Slowness::default();
                (0..*queries).for_each(|_| node.add(*ratio));
                node
            })
            .collect();
        let median = median(nodes.iter().filter_map(Slowness::mean));
        nodes.iter().map(|node| node.share(median)).collect()
    }

    #[test]
    fn the_weight_is_divided_by_the_relation_to_the_median_from_one_and_a_half_to_ten_times() {
        let cases: [(&[f64], &[u32]); 8] = [
            (&[1.0, 1.0, 1.5, 1.0], &[WHOLE; 4]),
            (&[1.0, 1.0, 2.0, 1.0], &[WHOLE, WHOLE, WHOLE / 2, WHOLE]),
            (&[1.0, 4.0, 2.0, 1.0, 1.0], &[WHOLE, WHOLE / 4, WHOLE / 2, WHOLE, WHOLE]),
            (&[0.5, 2.0], &[WHOLE, WHOLE / 4]),
            (&[3.0, 3.0, 3.0], &[WHOLE; 3]),
            (&[0.1, 100.0, 0.1], &[WHOLE, WHOLE / 10, WHOLE]),
            (&[9.0], &[WHOLE]),
            (&[], &[]),
        ];
        for (ratios, expected) in cases {
            let nodes: Vec<_> = ratios.iter().map(|ratio| (*ratio, 200)).collect();
            assert_eq!(shares(&nodes), expected, "{ratios:?}");
        }
    }

    #[test]
    fn a_node_of_few_queries_is_neither_slow_nor_part_of_the_median() {
        assert_eq!(shares(&[(1.0, 200), (1.0, 200), (9.0, MIN_QUERIES - 1)]), [WHOLE; 3]);
        assert_eq!(shares(&[(1.0, 200), (1.0, 200), (9.0, MIN_QUERIES)]), [WHOLE, WHOLE, WHOLE / 9]);
        assert_eq!(shares(&[(1.0, 200), (4.0, 200), (0.1, 3), (0.1, 0)])[..2], [WHOLE, WHOLE / 4]);
    }
}
