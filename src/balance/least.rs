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
    let load = |candidate: Candidate<'c>| PerWeight { amount: load(candidate), weight: candidate.effective_weight() };
    if from.len() > FEW {
        return least_of_some(from, load);
    }
    // Nobody can have less than nothing, and among all who have as little it is this one's turn.
    if let Some((next, turn)) = from.peek_core_rotation()
        && load(next).amount == 0
        && from.is_eligible(next)
    {
        turn.take();
        return Some(next);
    }
    least_of_all(from, load)
}

/// The least loaded of all; of equals, the one whose turn is next.
#[inline(never)]
fn least_of_all<'c>(from: &Candidates<'c>, load: impl Fn(Candidate<'c>) -> PerWeight) -> Option<Candidate<'c>> {
    let mut least: Option<(Candidate<'c>, PerWeight)> = None;
    let mut tied = false;
    let all_healthy = from.all_healthy();
    for candidate in from.all().filter(|candidate| from.is_fit(*candidate, all_healthy)) {
        let load = load(candidate);
        match least.map_or(Ordering::Less, |(_, least)| load.against(least)) {
            Ordering::Less => (least, tied) = (Some((candidate, load)), false),
            Ordering::Equal => {
                tied = true;
                // It does not matter who else has nothing.
                if load.amount == 0 {
                    break;
                }
            }
            Ordering::Greater => {}
        }
    }
    let (first, least) = least?;
    if tied { next_as_loaded(from, load, least).or(Some(first)) } else { Some(first) }
}

/// The next endpoint in order that has no more than `most`.
#[inline]
fn next_as_loaded<'c>(
    from: &Candidates<'c>,
    load: impl Fn(Candidate<'c>) -> PerWeight,
    most: PerWeight,
) -> Option<Candidate<'c>> {
    // Loads move while we look, so "equal" means equal to what was seen, and the search has an end.
    for _ in 0..TURNS {
        let candidate = from.next_in_core_rotation()?;
        if load(candidate).against(most).is_le() && from.is_eligible(candidate) {
            return Some(candidate);
        }
    }
    None
}

/// The least loaded of those whose turns are next; of equals, the first of them.
#[inline(never)]
fn least_of_some<'c>(from: &Candidates<'c>, load: impl Fn(Candidate<'c>) -> PerWeight) -> Option<Candidate<'c>> {
    let mut some = from.next_in_rotation_of(SOME).filter(|candidate| from.is_eligible(*candidate));
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
    Some(best)
}

/// A load per weight, compared by cross-multiplication: exact, and no division.
#[derive(Clone, Copy)]
struct PerWeight {
    amount: u64,
    weight: u64,
}

impl PerWeight {
    #[inline]
    fn against(self, other: PerWeight) -> Ordering {
        match (self.amount.checked_mul(other.weight), other.amount.checked_mul(self.weight)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => self.against_in_128_bits(other),
        }
    }

    #[cold]
    fn against_in_128_bits(self, other: PerWeight) -> Ordering {
        let product = |amount: u64, weight: u64| u128::from(amount) * u128::from(weight);
        product(self.amount, other.weight).cmp(&product(other.amount, self.weight))
    }
}
