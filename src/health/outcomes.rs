//! Counts the outcomes of the requests of one endpoint.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts failures. A request that succeeds writes nothing here unless failures precede it.
#[derive(Debug, Default)]
pub(crate) struct OutcomeCounts {
    row: AtomicRow,
    /// The time at which the first failure in the row was counted.
    row_began: AtomicU64,
    /// Failures since the last window was taken.
    failures: AtomicU32,
    /// Requests whose outcome does not count, since the endpoint was added.
    unrated: AtomicU64,
    /// The number of requests whose outcome counted when the last window was taken.
    taken: AtomicU64,
}

/// Failures since the last success. The lower half counts all of them. The upper half counts those
/// in which the endpoint was not reached; its top bit is [`ON_PROBATION`].
#[derive(Debug, Default)]
struct AtomicRow(AtomicU64);

const ONE_FAILURE: u64 = 1;
const ONE_UNREACHED: u64 = (1 << 32) + ONE_FAILURE;
const ON_PROBATION: u64 = 1 << 63;

/// Failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    pub(crate) failures: u32,
    /// The failures for which the endpoint was not reached.
    pub(crate) unreached: u32,
    /// Whether the endpoint was readmitted after it could not be reached, and no request has
    /// succeeded since.
    pub(crate) on_probation: bool,
    pub(crate) began: u64,
}

/// Requests and failures over one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
}

impl OutcomeCounts {
    /// Returns whether a success changes anything: there are failures in a row, or the endpoint is
    /// on probation.
    #[inline]
    pub(crate) fn is_in_row(&self) -> bool {
        self.row.0.load(Ordering::Relaxed) != 0
    }

    /// Returns the current row.
    pub(crate) fn row(&self) -> Row {
        let word = self.row.0.load(Ordering::Relaxed);
        Row {
            // The lower half.
            failures: word as u32,
            unreached: ((word & !ON_PROBATION) >> 32) as u32,
            on_probation: word & ON_PROBATION != 0,
            began: self.row_began.load(Ordering::Relaxed),
        }
    }

    /// Ends the row: a request succeeded, or the endpoint is ejected.
    pub(crate) fn end_row(&self) {
        self.row.0.store(0, Ordering::Relaxed);
    }

    /// Ends the row of an endpoint that is readmitted, until a request succeeds on probation.
    pub(crate) fn put_on_probation(&self) {
        self.row.0.store(ON_PROBATION, Ordering::Relaxed);
    }

    /// Counts a failure.
    pub(crate) fn fail(&self, unreached: bool, now: u64) {
        self.fail_late();
        let one = if unreached { ONE_UNREACHED } else { ONE_FAILURE };
        if self.row.0.fetch_add(one, Ordering::Relaxed) & u64::from(u32::MAX) == 0 {
            self.row_began.store(now, Ordering::Relaxed);
        }
    }

    /// Counts a failure from before an ejection or before the last success. It belongs to no row,
    /// because it says nothing about the endpoint's present state.
    pub(crate) fn fail_late(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ended without a success or a failure.
    pub(crate) fn skip(&self) {
        self.unrated.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests ended without a success or a failure.
    pub(crate) fn unrated(&self) -> u64 {
        self.unrated.load(Ordering::Relaxed)
    }

    /// Takes the counts since the last call. `ended` is the number of all requests that have ended
    /// since the endpoint was added.
    pub(crate) fn take_window(&self, ended: u64) -> Window {
        let rated = ended.saturating_sub(self.unrated.load(Ordering::Relaxed));
        let before = self.taken.fetch_max(rated, Ordering::Relaxed);
        let failures = u64::from(self.failures.swap(0, Ordering::Relaxed));
        // The outcome of a request is counted before its end.
        Window { requests: rated.saturating_sub(before).max(failures), failures }
    }

    /// Returns whether a request has succeeded since a window was last taken.
    pub(crate) fn has_succeeded(&self, ended: u64) -> bool {
        let rated = ended.saturating_sub(self.unrated.load(Ordering::Relaxed));
        let requests = rated.saturating_sub(self.taken.load(Ordering::Relaxed));
        requests > u64::from(self.failures.load(Ordering::Relaxed))
    }
}

impl Row {
    /// The maximum duration of a burst. A burst of failures is no outage while the endpoint works
    /// on more requests than have failed in a row.
    const MAX_BURST_MS: u64 = 1_000;

    /// Returns whether the row may be a burst, such as that of a node at its limit of connections.
    pub(crate) fn is_burst(&self, in_flight: u32, now: u64) -> bool {
        !self.on_probation && self.failures < in_flight && now.saturating_sub(self.began) < Self::MAX_BURST_MS
    }
}

impl Window {
    pub(crate) fn success_rate(self) -> f64 {
        1.0 - self.failures as f64 / self.requests as f64
    }

    pub(crate) fn plus(self, other: Window) -> Window {
        Window { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_the_failures_since_the_last_success() {
        let counts = OutcomeCounts::default();
        assert!(!counts.is_in_row());
        counts.fail(false, 7);
        counts.fail(true, 8);
        counts.fail_late();
        assert_eq!(counts.row(), Row { failures: 2, unreached: 1, on_probation: false, began: 7 });
        counts.put_on_probation();
        assert!(counts.is_in_row());
        counts.fail(true, 9);
        assert_eq!(counts.row(), Row { failures: 1, unreached: 1, on_probation: true, began: 9 });
        counts.end_row();
        assert!(!counts.is_in_row());
    }

    #[test]
    fn a_row_is_a_burst_while_more_requests_are_in_flight_for_a_second() {
        let row = Row { failures: 5, began: 100, ..Row::default() };
        assert!(row.is_burst(6, 1_099) && !row.is_burst(5, 100) && !row.is_burst(6, 1_100));
        assert!(!Row { on_probation: true, ..row }.is_burst(6, 100));
    }

    #[test]
    fn no_count_is_lost_while_windows_are_taken() {
        const EACH: u64 = 50_000;
        let (counts, ended) = (OutcomeCounts::default(), AtomicU64::new(0));
        let taken = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for request in 0..EACH {
                            match request % 5 {
                                0 => counts.fail(true, 0),
                                1 => counts.skip(),
                                _ => {}
                            }
                            ended.fetch_add(1, Ordering::Release);
                        }
                    })
                })
                .collect();
            let mut failures = 0;
            while writers.iter().any(|writer| !writer.is_finished()) {
                failures += counts.take_window(ended.load(Ordering::Acquire)).failures;
            }
            failures + counts.take_window(ended.load(Ordering::Acquire)).failures
        });
        assert_eq!(taken, 4 * EACH / 5);
        assert_eq!(counts.taken.load(Ordering::Relaxed), 4 * EACH * 4 / 5, "requests that were rated");
        assert!(!counts.has_succeeded(ended.load(Ordering::Relaxed)));
    }
}
