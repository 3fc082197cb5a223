use std::sync::atomic::{AtomicI64, Ordering};

/// The time by which the clock of a node is ahead of the front end's, by the last `Date` of a
/// response to a probe.
#[derive(Debug)]
pub(crate) struct NodeClock(AtomicI64);

const UNKNOWN: i64 = i64::MIN;

impl NodeClock {
    /// Returns the difference in seconds; negative if the node's clock is behind, `None` before the
    /// first date.
    pub(crate) fn ahead(&self) -> Option<i64> {
        let ahead = self.0.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then_some(ahead)
    }

    /// Forgets the last date, because a node that is down shows none.
    pub(crate) fn clear(&self) {
        self.0.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Records the date of a response that has just arrived, both in seconds since 1970.
    pub(crate) fn set(&self, date: u64, now: u64) {
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        self.0.store(seconds(date).saturating_sub(seconds(now)), Ordering::Relaxed);
    }
}

impl Default for NodeClock {
    fn default() -> Self {
        NodeClock(AtomicI64::new(UNKNOWN))
    }
}
