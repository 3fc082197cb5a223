//! Waiting requests, grouped by how long they are expected to take.

use std::collections::BTreeMap;

use super::costs::Micros;

/// Queries with a longer expected duration are slow.
pub(super) const SLOW: Micros = 5_000_000;

/// The expected pace of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Quick,
    /// No such query has run yet, and the mean duration of earlier queries is not slow.
    Unknown,
    Slow,
}

impl Pace {
    /// `is_known` says that such a query has run, so that `expected` is not only the mean of all.
    pub(super) fn of(expected: Micros, is_known: bool) -> Self {
        match (expected > SLOW, is_known) {
            (true, _) => Pace::Slow,
            (false, true) => Pace::Quick,
            (false, false) => Pace::Unknown,
        }
    }

    pub(super) fn is_slow(self) -> bool {
        self == Pace::Slow
    }
}

/// Tokens of requests by key and, between equal keys, by order of arrival.
pub(super) type ByKey = BTreeMap<(Micros, u64), u64>;

/// Waiting requests by pace. The first request that may go is found without looking at those that
/// may not.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    quick: ByKey,
    unknown: ByKey,
    slow: ByKey,
}

impl Waiting {
    pub(super) fn insert(&mut self, pace: Pace, key: (Micros, u64), token: u64) {
        self.of(pace).insert(key, token);
    }

    pub(super) fn remove(&mut self, pace: Pace, key: (Micros, u64)) {
        self.of(pace).remove(&key);
    }

    pub(super) fn len(&self) -> usize {
        self.quick.len() + self.unknown.len() + self.slow.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the order of arrival and the token of the first request of a pace that may go.
    pub(super) fn first(&self, may_go: impl Fn(Pace) -> bool) -> Option<(u64, u64)> {
        let queues = [(Pace::Quick, &self.quick), (Pace::Unknown, &self.unknown), (Pace::Slow, &self.slow)];
        let firsts =
            queues.into_iter().filter(|(pace, _)| may_go(*pace)).filter_map(|(_, queue)| queue.first_key_value());
        firsts.min().map(|((_, sequence), token)| (*sequence, *token))
    }

    fn of(&mut self, pace: Pace) -> &mut ByKey {
        match pace {
            Pace::Quick => &mut self.quick,
            Pace::Unknown => &mut self.unknown,
            Pace::Slow => &mut self.slow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_may_go_has_the_lowest_key() {
        let mut waiting = Waiting::default();
        let paces = [Pace::of(SLOW + 1, true), Pace::of(SLOW, false), Pace::of(SLOW, true)];
        assert_eq!(paces, [Pace::Slow, Pace::Unknown, Pace::Quick]);
        for (token, pace) in (1..).zip(paces) {
            waiting.insert(pace, (token * 10, token + 100), token);
            waiting.insert(pace, (token * 10 + 1, token), token + 10);
        }
        assert_eq!((waiting.len(), waiting.first(|_| true)), (6, Some((101, 1))));
        assert_eq!(waiting.first(|pace| !pace.is_slow()), Some((102, 2)));
        assert_eq!(waiting.first(|pace| pace == Pace::Quick), Some((103, 3)));
        waiting.remove(Pace::Quick, (30, 103));
        assert_eq!(waiting.first(|pace| pace == Pace::Quick), Some((3, 13)));
        assert_eq!(waiting.first(|_| false), None);
    }
}
