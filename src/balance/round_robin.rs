use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Smooth weighted round robin in nginx's order: weights 5, 1, 1 give `a a b a c a a`.
///
/// The order is computed once per change of membership, so a pick is one atomic increment however many endpoints there are.
/// An endpoint that cannot serve loses its turns, and the others keep their order and shares. nginx's soft penalty (its
/// *effective weight*, which exists only where weight is at least `max_fails`) is left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin;

impl RoundRobin {
    /// The policy; all its state is the cluster's.
    pub fn new() -> Self {
        RoundRobin
    }
}

impl Balancer for RoundRobin {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        from.next_in_order()
    }
}
