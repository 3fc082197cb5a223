use std::cmp::Ordering;

use super::{Candidate, Candidates};

/// Turns taken among endpoints that are equally loaded before the first of them is chosen.
const TURNS: usize = 32;

/// The most endpoints of which all are looked at.
const FEW: usize = 64;

/// How many are looked at where there are more.
const SOME: usize = 32;

/// The eligible endpoint with the least load for its weight; of equals, the one whose turn is next in smooth weighted order.
/// Where there are many, the least loaded of some.
pub(super) fn least<'c>(from: &Candidates<'c>, load: impl Fn(Candidate<'c>) -> u64) -> Option<Candidate<'c>> {
    let load = |candidate: Candidate<'c>| Load { amount: load(candidate), weight: candidate.effective_weight() };
    if from.len() > FEW {
        // In order from the turn on: the first of equals is the one whose turn is next.
        let mut some = from.take_turn_of(SOME).filter(|candidate| from.is_eligible(*candidate));
        let mut best = some.next()?;
        let mut least = load(best);
        // Nobody can have less than nothing.
        while least.amount > 0 {
            let Some(candidate) = some.next() else { break };
            let load = load(candidate);
            if load.against(least).is_lt() {
                (best, least) = (candidate, load);
            }
        }
        return Some(best);
    }
    let mut all = from.iter();
    let mut first = all.next()?;
    let (mut least, mut tied) = (load(first), false);
    for candidate in all {
        let load = load(candidate);
        match load.against(least) {
            Ordering::Less => (first, least, tied) = (candidate, load, false),
            Ordering::Equal => {
                tied = true;
                // Nobody can have less than nothing, so it does not matter who else has as little.
                if least.amount == 0 {
                    break;
                }
            }
            Ordering::Greater => {}
        }
    }
    if !tied {
        return Some(first);
    }
    // Loads move while we look, so "equal" means equal to what was seen, and the search has an end.
    for _ in 0..TURNS {
        let candidate = from.take_turn()?;
        if load(candidate).against(least).is_le() && from.is_eligible(candidate) {
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
    fn against(self, other: Load) -> Ordering {
        (u128::from(self.amount) * u128::from(other.weight)).cmp(&(u128::from(other.amount) * u128::from(self.weight)))
    }
}
