//! Decides by the results of probes whether an endpoint is up, like HAProxy's `fall` and `rise`.

use std::num::NonZeroU32;

use super::ProbeFailure;

/// The numbers of results in a row that change the state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Failures until an endpoint that is up is down.
    pub(crate) fall: NonZeroU32,
    /// Successes until an endpoint that is down is up.
    pub(crate) rise: NonZeroU32,
}

/// The state of one endpoint according to its probes.
#[derive(Debug, Default)]
pub(crate) struct RiseFall {
    status: Status,
    /// Results in a row that contradict the status.
    streak: u32,
    failure: Option<ProbeFailure>,
    /// The time at which the status, or its first contradiction, began: milliseconds since the
    /// endpoint's origin.
    since: u64,
    /// The time at which a probe last found that the node accepts no connection; `None` if none has
    /// since the endpoint was last healthy.
    refused: Option<u64>,
}

/// The time for which a node that accepted no connection may still be starting.
const MAX_START_MS: u64 = 120_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Status {
    /// Up. Also the status before the first probe.
    #[default]
    Up,
    Down,
    /// Not admitted before the first success.
    Unproven,
}

/// The change that a result made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    None,
    /// The first failure of an endpoint that is up.
    Suspected,
    /// A success after too few failures.
    Cleared,
    Fell,
    Rose,
    /// A success readmitted an endpoint that was ejected because it could not be reached.
    Readmitted,
}

impl RiseFall {
    /// Returns the state of an endpoint that must not serve before its first success.
    pub(crate) fn unproven(now: u64) -> Self {
        RiseFall { status: Status::Unproven, since: now, ..RiseFall::default() }
    }

    /// Records the result of one probe. An endpoint that `serves` requests meanwhile does not fall
    /// because it refuses a probe's connection.
    pub(crate) fn record(
        &mut self,
        thresholds: Thresholds,
        result: Result<(), ProbeFailure>,
        serves: bool,
        now: u64,
    ) -> Transition {
        if let Err(failure) = result {
            self.failure = Some(failure);
            if failure == ProbeFailure::Unreachable {
                self.refused = Some(now);
            }
        }
        match (self.status, result.is_ok()) {
            (Status::Up, true) if self.streak > 0 => {
                (self.streak, self.failure, self.refused, self.since) = (0, None, None, now);
                Transition::Cleared
            }
            (Status::Up, true) | (Status::Unproven, false) => Transition::None,
            (Status::Down, false) => {
                self.streak = 0;
                Transition::None
            }
            // A starting node responds to its first probe when it is ready.
            (Status::Unproven, true) => self.change(Status::Up, now),
            (Status::Up, false) => {
                let spared = serves && result == Err(ProbeFailure::Unreachable);
                self.streak += 1;
                if self.streak >= thresholds.fall.get() && !spared {
                    return self.change(Status::Down, now);
                }
                if self.streak > 1 {
                    return Transition::None;
                }
                self.since = now;
                Transition::Suspected
            }
            (Status::Down, true) => {
                self.streak += 1;
                // A node that accepts connections again has started, and one success proves that.
                let is_proven = self.refused.is_some() || self.streak >= thresholds.rise.get();
                if is_proven { self.change(Status::Up, now) } else { Transition::None }
            }
        }
    }

    fn change(&mut self, status: Status, now: u64) -> Transition {
        (self.status, self.streak, self.since) = (status, 0, now);
        if status == Status::Up {
            (self.failure, self.refused) = (None, None);
            return Transition::Rose;
        }
        Transition::Fell
    }

    pub(crate) fn is_up(&self) -> bool {
        self.status == Status::Up
    }

    /// Returns how many results in a row contradict the status.
    pub(crate) fn streak(&self) -> u32 {
        self.streak
    }

    /// Returns whether the endpoint must not serve before its first success.
    pub(crate) fn is_unproven(&self) -> bool {
        self.status == Status::Unproven
    }

    /// Returns whether the next results may change the status, so that the next probe should come
    /// soon.
    pub(crate) fn is_undecided(&self) -> bool {
        self.streak > 0 || self.status == Status::Unproven
    }

    /// Returns whether the node may be starting: it refused a connection not long ago, and has not
    /// responded successfully since.
    pub(crate) fn is_starting(&self, now: u64) -> bool {
        self.refused.is_some_and(|refused| now.saturating_sub(refused) <= MAX_START_MS)
    }

    /// Returns the failure for which the endpoint is down or suspect.
    pub(crate) fn failure(&self) -> Option<ProbeFailure> {
        self.failure
    }

    pub(crate) fn since(&self) -> u64 {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Result<(), ProbeFailure> = Err(ProbeFailure::Timeout);
    const GOOD: Result<(), ProbeFailure> = Ok(());

    fn thresholds(fall: u32, rise: u32) -> Thresholds {
        Thresholds { fall: NonZeroU32::new(fall).unwrap(), rise: NonZeroU32::new(rise).unwrap() }
    }

    /// Records one result per millisecond, starting at 1, with `fall` 3 and `rise` 2. Returns the
    /// transitions.
    fn record(probes: &mut RiseFall, results: &[Result<(), ProbeFailure>]) -> Vec<Transition> {
        (1..).zip(results).map(|(now, result)| probes.record(thresholds(3, 2), *result, false, now)).collect()
    }

    #[test]
    fn falls_after_fall_failures_in_a_row_and_rises_after_rise_successes_in_a_row() {
        use Transition::{Cleared, Fell, None as Nothing, Rose, Suspected};
        let mut probes = RiseFall::default();
        assert_eq!(record(&mut probes, &[BAD, BAD, GOOD]), [Suspected, Nothing, Cleared]);
        assert_eq!(record(&mut probes, &[BAD, BAD, BAD]), [Suspected, Nothing, Fell]);
        assert!(!probes.is_up());
        assert_eq!(probes.since(), 3);
        assert_eq!(record(&mut probes, &[BAD, GOOD, BAD, GOOD, GOOD]), [Nothing, Nothing, Nothing, Nothing, Rose]);
        assert_eq!((probes.is_up(), probes.failure(), probes.since()), (true, None, 5));
    }

    #[test]
    fn one_success_suffices_after_the_node_accepted_no_connection() {
        const REFUSED: Result<(), ProbeFailure> = Err(ProbeFailure::Unreachable);
        let mut probes = RiseFall::default();
        record(&mut probes, &[REFUSED, BAD, BAD, BAD]);
        assert!(!probes.is_up() && probes.is_starting(MAX_START_MS) && !probes.is_starting(MAX_START_MS + 2));
        assert_eq!(record(&mut probes, &[GOOD]), [Transition::Rose]);
        assert!(!probes.is_starting(5));
    }

    #[test]
    fn an_endpoint_that_serves_does_not_fall_because_it_accepts_no_connection() {
        let mut probes = RiseFall::default();
        let mut refuse = |serves| probes.record(thresholds(3, 2), Err(ProbeFailure::Unreachable), serves, 1);
        assert_eq!(
            [true; 5].map(&mut refuse),
            [Transition::Suspected, Transition::None, Transition::None, Transition::None, Transition::None]
        );
        assert_eq!(refuse(false), Transition::Fell);
    }

    #[test]
    fn an_unproven_endpoint_is_admitted_by_its_first_success() {
        let mut probes = RiseFall::unproven(7);
        assert_eq!(record(&mut probes, &[BAD; 9]), [Transition::None; 9]);
        assert_eq!((probes.is_up(), probes.is_undecided(), probes.since()), (false, true, 7));
        assert_eq!(record(&mut probes, &[GOOD]), [Transition::Rose]);
    }

    proptest::proptest! {
        /// Compares the status with the count of results at the end of the history.
        #[test]
        fn the_status_follows_the_last_results(
            fall in 1_u32..5,
            rise in 1_u32..5,
            results in proptest::collection::vec(proptest::bool::ANY, 0..60),
        ) {
            let thresholds = thresholds(fall, rise);
            let mut probes = RiseFall::default();
            let mut up = true;
            for (count, good) in (1_usize..).zip(&results) {
                let transition = probes.record(thresholds, if *good { GOOD } else { BAD }, true, count as u64);
                let same_at_the_end = results[..count].iter().rev().take_while(|result| *result == good).count();
                let before = up;
                match good {
                    false if up && same_at_the_end >= fall as usize => up = false,
                    true if !up && same_at_the_end >= rise as usize => up = true,
                    _ => {}
                }
                proptest::prop_assert_eq!(probes.is_up(), up);
                proptest::prop_assert_eq!(transition == Transition::Fell, before && !up);
                proptest::prop_assert_eq!(transition == Transition::Rose, !before && up);
                proptest::prop_assert_eq!(probes.failure().is_none(), up && *good, "{:?}", probes);
            }
        }
    }
}
