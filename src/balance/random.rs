use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Unsuccessful draws after which nginx falls back to round robin
/// (ngx_http_upstream_random_module.c).
const MAX_DRAWS: usize = 21;

/// Picks an endpoint at random by weight (nginx: `random`). [`RandomTwo`] costs the same and
/// spreads better.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomOne;

impl RandomOne {
    /// Returns the policy.
    pub fn new() -> Self {
        RandomOne
    }
}

impl Balancer for RandomOne {
    fn reads_query(&self) -> bool {
        false
    }

    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        (0..MAX_DRAWS).filter_map(|_| from.draw()).find(|candidate| from.is_eligible(*candidate))
    }
}

/// Picks the less loaded, relative to weight, of two endpoints drawn at random by weight (nginx:
/// `random two least_conn`).
///
/// Choose it for many endpoints, or for several front ends that do not know each other's load. Such
/// front ends then do not all send to the same endpoint at once. A pick costs the same for ten
/// endpoints as for ten thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomTwo;

impl RandomTwo {
    /// Returns the policy.
    pub fn new() -> Self {
        RandomTwo
    }
}

impl Balancer for RandomTwo {
    fn reads_query(&self) -> bool {
        false
    }

    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let mut first: Option<Candidate<'c>> = None;
        for _ in 0..MAX_DRAWS {
            let second = from.draw()?;
            if first == Some(second) || !from.is_eligible(second) {
                continue;
            }
            let Some(first) = first.replace(second) else {
                // Zero is the minimum load, so an idle endpoint needs no second draw.
                if second.in_flight() == 0 {
                    return Some(second);
                }
                continue;
            };
            let load = |of: Candidate<'c>, other: Candidate<'c>| {
                u128::from(of.in_flight()) * u128::from(other.effective_weight())
            };
            return Some(if load(second, first) < load(first, second) { second } else { first });
        }
        first
    }
}
