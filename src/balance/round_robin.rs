use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Picks endpoints by smooth weighted round robin in nginx's order: weights 5, 1, 1 yield
/// `a a b a c a a`. Choose it if requests cost about the same.
///
/// The order is computed once per change of membership, so a pick is one atomic increment for any
/// number of endpoints. If an endpoint is not eligible, the others keep their order and shares. The
/// policy omits nginx's soft penalty (its *effective weight*, which has an effect only if the
/// weight is at least `max_fails`).
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin;

impl RoundRobin {
    /// Returns the policy. All its state is in the cluster.
    pub fn new() -> Self {
        RoundRobin
    }
}

impl Balancer for RoundRobin {
    fn reads_query(&self) -> bool {
        false
    }

    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        from.next_eligible()
    }
}
