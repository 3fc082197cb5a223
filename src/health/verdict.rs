//! What probes have to say of an endpoint: their results in, fit or not out. Pure; HAProxy's `fall` and `rise`.

use super::ProbeFailure;

/// How many results in a row change a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Failures until an endpoint that is up is down.
    pub(crate) fall: u32,
    /// Successes until one that is down is up.
    pub(crate) rise: u32,
}

/// The verdict on one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    opinion: Opinion,
    /// Results in a row that speak against the opinion.
    streak: u32,
    failure: Option<ProbeFailure>,
    /// When the opinion, or the doubt about it, began: milliseconds since the endpoint's origin.
    since: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Opinion {
    /// Up until the contrary is shown.
    #[default]
    Up,
    Down,
    /// Not admitted before its first success.
    Unproven,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// A first failure, of an endpoint that is up.
    Doubted,
    /// A success ended the doubt.
    Cleared,
    Fell,
    Rose,
}

impl Verdict {
    /// The verdict on an endpoint of which nothing is known and which must not serve before it has proved itself.
    pub(crate) fn unproven(now: u64) -> Self {
        Verdict { opinion: Opinion::Unproven, since: now, ..Verdict::default() }
    }

    /// Takes the result of one probe into account.
    pub(crate) fn observe(&mut self, needed: Thresholds, result: Result<(), ProbeFailure>, now: u64) -> Change {
        if let Err(failure) = result {
            self.failure = Some(failure);
        }
        match (self.opinion, result.is_ok()) {
            (Opinion::Up, true) if self.streak > 0 => {
                (self.streak, self.failure, self.since) = (0, None, now);
                Change::Cleared
            }
            (Opinion::Up, true) | (Opinion::Unproven, false) => Change::Nothing,
            (Opinion::Down, false) => {
                self.streak = 0;
                Change::Nothing
            }
            // A node that has just been started answers its first probe when it is ready.
            (Opinion::Unproven, true) => self.turn(Opinion::Up, now),
            (Opinion::Up, false) => {
                self.streak += 1;
                if self.streak >= needed.fall {
                    return self.turn(Opinion::Down, now);
                }
                if self.streak > 1 {
                    return Change::Nothing;
                }
                self.since = now;
                Change::Doubted
            }
            (Opinion::Down, true) => {
                self.streak += 1;
                if self.streak >= needed.rise { self.turn(Opinion::Up, now) } else { Change::Nothing }
            }
        }
    }

    fn turn(&mut self, opinion: Opinion, now: u64) -> Change {
        (self.opinion, self.streak, self.since) = (opinion, 0, now);
        if opinion == Opinion::Up {
            self.failure = None;
            return Change::Rose;
        }
        Change::Fell
    }

    /// May the endpoint serve?
    pub(crate) fn is_up(&self) -> bool {
        self.opinion == Opinion::Up
    }

    /// Is it open which way the verdict goes, so that the next probe should come soon?
    pub(crate) fn is_open(&self) -> bool {
        self.streak > 0 || self.opinion == Opinion::Unproven
    }

    /// The failure that the opinion or the doubt rests on.
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

    const NEEDED: Thresholds = Thresholds { fall: 3, rise: 2 };
    const BAD: Result<(), ProbeFailure> = Err(ProbeFailure::Timeout);
    const GOOD: Result<(), ProbeFailure> = Ok(());

    /// Plays results, one a millisecond from 1 on, and returns what each changed.
    fn play(verdict: &mut Verdict, results: &[Result<(), ProbeFailure>]) -> Vec<Change> {
        (1..).zip(results).map(|(now, result)| verdict.observe(NEEDED, *result, now)).collect()
    }

    #[test]
    fn falls_after_fall_failures_in_a_row_and_rises_after_rise_successes_in_a_row() {
        use Change::{Cleared, Doubted, Fell, Nothing, Rose};
        let mut verdict = Verdict::default();
        assert_eq!(play(&mut verdict, &[BAD, BAD, GOOD]), [Doubted, Nothing, Cleared]);
        assert_eq!(play(&mut verdict, &[BAD, BAD, BAD]), [Doubted, Nothing, Fell]);
        assert!(!verdict.is_up());
        assert_eq!(verdict.since(), 3);
        assert_eq!(play(&mut verdict, &[BAD, GOOD, BAD, GOOD, GOOD]), [Nothing, Nothing, Nothing, Nothing, Rose]);
        assert_eq!((verdict.is_up(), verdict.failure(), verdict.since()), (true, None, 5));
    }

    #[test]
    fn one_that_is_unproven_is_admitted_by_its_first_success() {
        let mut verdict = Verdict::unproven(7);
        assert_eq!(play(&mut verdict, &[BAD; 9]), [Change::Nothing; 9]);
        assert_eq!((verdict.is_up(), verdict.is_open(), verdict.since()), (false, true, 7));
        assert_eq!(play(&mut verdict, &[GOOD]), [Change::Rose]);
    }

    proptest::proptest! {
        /// The same as counting the results at the end of the history by hand.
        #[test]
        fn the_verdict_follows_the_last_results(
            fall in 1_u32..5,
            rise in 1_u32..5,
            results in proptest::collection::vec(proptest::bool::ANY, 0..60),
        ) {
            let needed = Thresholds { fall, rise };
            let mut verdict = Verdict::default();
            let mut up = true;
            for (count, good) in (1_usize..).zip(&results) {
                let change = verdict.observe(needed, if *good { GOOD } else { BAD }, count as u64);
                let same_at_the_end = results[..count].iter().rev().take_while(|result| *result == good).count();
                let before = up;
                match good {
                    false if up && same_at_the_end >= fall as usize => up = false,
                    true if !up && same_at_the_end >= rise as usize => up = true,
                    _ => {}
                }
                proptest::prop_assert_eq!(verdict.is_up(), up);
                proptest::prop_assert_eq!(change == Change::Fell, before && !up);
                proptest::prop_assert_eq!(change == Change::Rose, !before && up);
                proptest::prop_assert_eq!(verdict.failure().is_none(), up && *good, "{:?}", verdict);
            }
        }
    }
}
