use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Bad draws after which nginx falls back to round robin (ngx_http_upstream_random_module.c).
const DRAWS: usize = 21;

/// The less loaded, per weight, of two endpoints drawn at random by weight (nginx: `random two least_conn`).
///
/// Costs the same for ten endpoints and ten thousand, and front ends that do not know each other's load do not all rush to
/// the same endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomTwo;

impl RandomTwo {
    /// The policy.
    pub fn new() -> Self {
        RandomTwo
    }
}

impl Balancer for RandomTwo {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let mut first: Option<Candidate<'c>> = None;
        for _ in 0..DRAWS {
            let second = from.draw()?;
            if first == Some(second) || !from.is_eligible(second) {
                continue;
            }
            let Some(first) = first.replace(second) else {
                // Nobody can have less than nothing.
                if second.in_flight() == 0 {
                    return Some(second);
                }
                continue;
            };
            let load = |of: Candidate<'c>, against: Candidate<'c>| {
                u128::from(of.in_flight()) * u128::from(against.effective_weight())
            };
            return Some(if load(second, first) < load(first, second) { second } else { first });
        }
        first
    }
}
