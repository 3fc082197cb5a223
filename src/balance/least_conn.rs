use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Turns taken among endpoints that are equally loaded before the first of them is chosen.
const TURNS: usize = 32;

/// The endpoint with the fewest requests in flight for its weight (nginx: `least_conn`); of equals, the one whose turn is
/// next in smooth weighted order.
///
/// The count is of requests whose answer has not ended, over all cores of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastConn;

impl LeastConn {
    /// The policy; all its state is the cluster's.
    pub fn new() -> Self {
        LeastConn
    }
}

impl Balancer for LeastConn {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let mut best: Option<(Candidate<'c>, Load)> = None;
        let mut tied = false;
        for candidate in from.iter() {
            let load = Load::of(candidate);
            match &best {
                Some((_, least)) if least.is_less_than(load) => {}
                Some((_, least)) if !load.is_less_than(*least) => tied = true,
                _ => (best, tied) = (Some((candidate, load)), false),
            }
        }
        let (first, least) = best?;
        if !tied {
            return Some(first);
        }
        // Loads move while we look, so "equal" means equal to what was seen, and the search has an end.
        for _ in 0..TURNS {
            let candidate = from.take_turn()?;
            if !least.is_less_than(Load::of(candidate)) && from.is_eligible(candidate) {
                return Some(candidate);
            }
        }
        Some(first)
    }
}

/// Requests in flight per weight, compared by cross-multiplication: exact, and no division.
#[derive(Clone, Copy)]
struct Load {
    in_flight: u128,
    weight: u128,
}

impl Load {
    fn of(candidate: Candidate<'_>) -> Self {
        Load { in_flight: candidate.in_flight().into(), weight: candidate.effective_weight().into() }
    }

    fn is_less_than(self, other: Load) -> bool {
        self.in_flight * other.weight < other.in_flight * self.weight
    }
}
