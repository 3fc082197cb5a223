use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Turns taken among endpoints that are equally loaded before the first of them is chosen.
const TURNS: usize = 32;

/// The most endpoints of which all are looked at.
const FEW: usize = 64;

/// How many are looked at where there are more.
const SOME: usize = 32;

/// The endpoint with the fewest requests in flight for its weight (nginx: `least_conn`); of equals, the one whose turn is
/// next in smooth weighted order.
///
/// The count is of requests whose answer has not ended, over all cores of the process.
///
/// Among more than 64 endpoints a pick takes a turn in smooth weighted order and looks at the 32 endpoints from there on, of
/// which it chooses by the same rule; where none of them can serve, the next in order does. nginx looks at all, which for
/// thousands of endpoints costs more than sending the request. What is lost is little: two to choose from already bring nearly
/// all the balance that choosing from all does (Mitzenmacher 2001), and every endpoint is among the 32 of as many picks in a row.
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
        if from.len() > FEW {
            // In order from the turn on, so that the first of equals is the one whose turn is next.
            let some = from.take_turn_of(SOME).filter(|candidate| from.is_eligible(*candidate));
            return some.map(|candidate| (candidate, Load::of(candidate))).reduce(less_loaded).map(|(least, _)| least);
        }
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

/// The less loaded of two, of equals the first.
fn less_loaded<'c>(first: (Candidate<'c>, Load), second: (Candidate<'c>, Load)) -> (Candidate<'c>, Load) {
    if second.1.is_less_than(first.1) { second } else { first }
}

/// Requests in flight per weight, compared by cross-multiplication: exact, and no division.
#[derive(Clone, Copy)]
struct Load {
    in_flight: u64,
    weight: u64,
}

impl Load {
    fn of(candidate: Candidate<'_>) -> Self {
        Load { in_flight: u64::from(candidate.in_flight()), weight: u64::from(candidate.weight()) }
    }

    fn is_less_than(self, other: Load) -> bool {
        self.in_flight * other.weight < other.in_flight * self.weight
    }
}
