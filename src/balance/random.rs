use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Bad draws after which nginx falls back to round robin (ngx_http_upstream_random_module.c).
const DRAWS: usize = 21;

/// An endpoint drawn at random by weight (nginx: `random`). [`RandomTwo`](super::RandomTwo) costs the same and spreads
/// better.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomOne;

impl RandomOne {
    /// The policy.
    pub fn new() -> Self {
        RandomOne
    }
}

impl Balancer for RandomOne {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        (0..DRAWS).filter_map(|_| from.draw()).find(|candidate| from.is_eligible(*candidate))
    }
}
