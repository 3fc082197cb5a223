use super::{Candidate, Candidates};

/// Turns taken among endpoints that are equally loaded before the first of them is chosen.
const TURNS: usize = 32;

/// The eligible endpoint with the least load for its weight; of equals, the one whose turn is next in smooth weighted order.
pub(super) fn least<'c>(from: &Candidates<'c>, load: impl Fn(Candidate<'c>) -> u64) -> Option<Candidate<'c>> {
    let load = |candidate: Candidate<'c>| Load { amount: load(candidate), weight: candidate.effective_weight() };
    let mut best: Option<(Candidate<'c>, Load)> = None;
    let mut tied = false;
    for candidate in from.iter() {
        let load = load(candidate);
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
        if !least.is_less_than(load(candidate)) && from.is_eligible(candidate) {
            return Some(candidate);
        }
    }
    Some(first)
}

/// A load per weight, compared by cross-multiplication: exact, and no division.
#[derive(Clone, Copy)]
struct Load {
    amount: u64,
    weight: u64,
}

impl Load {
    fn is_less_than(self, other: Load) -> bool {
        u128::from(self.amount) * u128::from(other.weight) < u128::from(other.amount) * u128::from(self.weight)
    }
}
