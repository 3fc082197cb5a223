use std::cmp::Ordering;

use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// The maximum number of endpoints for which all are compared.
const MAX_COMPARED: usize = 64;
/// The number of endpoints that a pick compares if there are more.
const WINDOW: usize = 32;
/// The number of picks that rotation offers among equally loaded endpoints before the first of them
/// is chosen.
const MAX_ROTATIONS: usize = 32;

/// Picks the endpoint with the fewest requests in flight for its weight (nginx: `least_conn`), and
/// among equals the next in smooth weighted order. Choose it if requests take very different times,
/// as OLAP queries do.
///
/// The count covers requests whose response has not ended, over all cores of the process. Each core
/// has its own rotation among equals, like nginx's workers, so cores do not contend for a counter.
/// An idle endpoint that is next in rotation is picked without reading the loads of the others.
///
/// A pick compares up to 64 endpoints. If there are more, it compares the next 32 in smooth
/// weighted order. If none of these is eligible, the next eligible one in order serves. In
/// contrast, nginx compares all, which for thousands of endpoints costs more than sending the
/// request. Little is lost: two choices already yield nearly all the balance of choosing from all
/// (Mitzenmacher 2001). Each endpoint is compared in 32 consecutive picks of a core, and cores
/// start in different parts of the order.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastConn;

impl LeastConn {
    /// Returns the policy. All its state is in the cluster.
    pub fn new() -> Self {
        LeastConn
    }
}

impl Balancer for LeastConn {
    fn reads_query(&self) -> bool {
        false
    }

    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        if from.len() > MAX_COMPARED {
            return least_of_window(from);
        }
        // Zero is the minimum load, so an idle endpoint that is next in rotation wins.
        if let Some((next, cursor)) = from.peek_core_rotation()
            && next.in_flight() == 0
            && from.is_eligible(next)
        {
            cursor.advance();
            return Some(next);
        }
        least_of_all(from)
    }
}

/// Returns the least loaded of all endpoints; among equals, the next in rotation.
#[inline(never)]
fn least_of_all<'c>(from: &Candidates<'c>) -> Option<Candidate<'c>> {
    let mut least: Option<(Candidate<'c>, RelativeLoad)> = None;
    let mut tied = false;
    let all_healthy = from.all_healthy();
    for candidate in from.all().filter(|candidate| from.is_eligible_if(*candidate, all_healthy)) {
        let load = RelativeLoad::of(candidate);
        match least.map_or(Ordering::Less, |(_, least)| load.compare(least)) {
            Ordering::Less => (least, tied) = (Some((candidate, load)), false),
            Ordering::Equal => {
                tied = true;
                // If two are idle, rotation decides, because no other endpoint can have less load.
                if load.in_flight == 0 {
                    break;
                }
            }
            Ordering::Greater => {}
        }
    }
    let (first, least) = least?;
    if tied { next_within(from, least).or(Some(first)) } else { Some(first) }
}

/// Returns the next eligible endpoint in rotation whose load is at most `max`.
#[inline]
fn next_within<'c>(from: &Candidates<'c>, max: RelativeLoad) -> Option<Candidate<'c>> {
    // Loads change during the search, so it has a bound.
    for _ in 0..MAX_ROTATIONS {
        let candidate = from.next_in_core_rotation()?;
        if RelativeLoad::of(candidate).compare(max).is_le() && from.is_eligible(candidate) {
            return Some(candidate);
        }
    }
    None
}

/// Returns the least loaded of the next endpoints in rotation; among equals, the first.
#[inline(never)]
fn least_of_window<'c>(from: &Candidates<'c>) -> Option<Candidate<'c>> {
    let mut window = from.rotation_window(WINDOW).filter(|candidate| from.is_eligible(*candidate));
    let mut best = window.next()?;
    let mut least = RelativeLoad::of(best);
    // Zero is the minimum load, which ends the search.
    while least.in_flight > 0 {
        let Some(candidate) = window.next() else { break };
        let load = RelativeLoad::of(candidate);
        if load.compare(least).is_lt() {
            (best, least) = (candidate, load);
        }
    }
    Some(best)
}

/// Requests in flight per weight, compared by cross-multiplication: exact, and no division.
#[derive(Clone, Copy)]
struct RelativeLoad {
    in_flight: u64,
    weight: u64,
}

impl RelativeLoad {
    #[inline]
    fn of(candidate: Candidate<'_>) -> Self {
        RelativeLoad { in_flight: candidate.in_flight().into(), weight: candidate.effective_weight() }
    }

    #[inline]
    fn compare(self, other: RelativeLoad) -> Ordering {
        match (self.in_flight.checked_mul(other.weight), other.in_flight.checked_mul(self.weight)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => self.compare_in_128_bits(other),
        }
    }

    #[cold]
    fn compare_in_128_bits(self, other: RelativeLoad) -> Ordering {
        let product = |in_flight: u64, weight: u64| u128::from(in_flight) * u128::from(weight);
        product(self.in_flight, other.weight).cmp(&product(other.in_flight, self.weight))
    }
}
