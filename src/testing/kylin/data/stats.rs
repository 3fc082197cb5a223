//! What a test can see of a node: counters, which requests reached it, and a way to wait for either without sleeping.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::body::OnEnd;

/// How many request ids, and how many different SQL texts, a node remembers.
const REMEMBERED: usize = 100_000;
/// How long a test may wait before it is told that what it waits for does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has happened on a node since it was made. All are counts since then, but for `in_flight` and `open_connections`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that reached the node, of any kind.
    pub requests: u64,
    /// Requests whose answer has not ended yet.
    pub in_flight: u64,
    /// Requests given up by the other side: the future, or the body of the answer, was dropped before it ended.
    pub cancelled: u64,
    /// Queries that were executed, failing SQL and CSV exports included, refused ones not.
    pub queries: u64,
    /// Queries running at this moment.
    pub running: u64,
    /// Queries that somebody has stopped.
    pub stopped: u64,
    /// Builds that this node submitted to the metastore.
    pub builds: u64,
    /// Passwords checked and found right. Clients without cookies cause one with every request.
    pub logins: u64,
    /// Passwords checked and found wrong. Kylin 5 locks a user after three.
    pub wrong_passwords: u64,
    /// Answers of 401.
    pub unauthorized: u64,
    /// Calls of `/kylin/api/cache`, which no client from outside should reach.
    pub cache_calls: u64,
    /// Requests with the header `routed`, by which Kylin 5 nodes know requests of each other.
    pub routed: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open at this moment.
    pub open_connections: u64,
}

/// What was waited for did not come in 30 s.
#[derive(Debug)]
#[non_exhaustive]
pub struct StillWaiting {
    /// The counters at the end of the wait.
    pub stats: Stats,
}

impl fmt::Display for StillWaiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what was waited for did not happen in {PATIENCE:?}: {:?}", self.stats)
    }
}

impl std::error::Error for StillWaiting {}

pub(crate) struct Counts {
    stats: watch::Sender<Stats>,
    ids: Mutex<Remembered>,
    sql: Mutex<Remembered>,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Counts { stats: watch::Sender::new(Stats::default()), ids: Mutex::default(), sql: Mutex::default() }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        self.stats.borrow().clone()
    }

    pub(crate) fn add(&self, change: impl FnOnce(&mut Stats)) {
        self.stats.send_modify(change);
    }

    pub(crate) async fn wait_until(&self, test: impl FnMut(&Stats) -> bool) -> Result<Stats, StillWaiting> {
        let mut changes = self.stats.subscribe();
        match tokio::time::timeout(PATIENCE, changes.wait_for(test)).await {
            Ok(Ok(stats)) => Ok(stats.clone()),
            // The sender is ours, so it cannot be gone while we wait: this is the end of the patience.
            _ => Err(StillWaiting { stats: self.snapshot() }),
        }
    }

    pub(crate) fn saw_id(&self, id: &str) {
        self.ids.lock().count(id);
    }

    pub(crate) fn times_seen(&self, id: &str) -> u64 {
        self.ids.lock().times(id)
    }

    pub(crate) fn ran_sql(&self, sql: &str) {
        self.sql.lock().count(sql);
        self.add(|stats| stats.queries += 1);
    }

    pub(crate) fn times_ran(&self, sql: &str) -> u64 {
        self.sql.lock().times(sql)
    }
}

/// How often each text came, of the last [`REMEMBERED`] different ones.
#[derive(Default)]
struct Remembered {
    times: AHashMap<Arc<str>, u64>,
    order: VecDeque<Arc<str>>,
}

impl Remembered {
    fn count(&mut self, text: &str) {
        if let Some(times) = self.times.get_mut(text) {
            *times += 1;
            return;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
        let text: Arc<str> = text.into();
        self.order.push_back(text.clone());
        self.times.insert(text, 1);
    }

    fn times(&self, text: &str) -> u64 {
        self.times.get(text).copied().unwrap_or(0)
    }
}

/// One request on the node, from its arrival until its answer has ended or was given up.
pub(crate) struct InFlight {
    counts: Arc<Counts>,
    ended: AtomicBool,
}

impl InFlight {
    pub(crate) fn begin(counts: &Arc<Counts>) -> Arc<Self> {
        counts.add(|stats| {
            stats.requests += 1;
            stats.in_flight += 1;
        });
        Arc::new(InFlight { counts: counts.clone(), ended: AtomicBool::new(false) })
    }

    /// The node itself ends this request early: that is no cancelling by the other side.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl OnEnd for InFlight {
    fn on_end(self: Arc<Self>, whole: bool) {
        if whole {
            self.end();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let ended = *self.ended.get_mut();
        self.counts.add(|stats| {
            stats.in_flight -= 1;
            stats.cancelled += u64::from(!ended);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_as_cancelled_only_when_it_did_not_end() {
        let counts = Arc::new(Counts::new());
        let (answered, dropped) = (InFlight::begin(&counts), InFlight::begin(&counts));
        assert_eq!(counts.snapshot().in_flight, 2);
        answered.on_end(true);
        dropped.on_end(false);
        assert_eq!(counts.snapshot(), Stats { requests: 2, cancelled: 1, ..Stats::default() });
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut remembered = Remembered::default();
        for i in 0..REMEMBERED + 10 {
            remembered.count(&i.to_string());
        }
        assert_eq!(remembered.times.len(), REMEMBERED);
        assert_eq!((remembered.times("0"), remembered.times("10")), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_ends_and_says_what_was_seen() {
        let counts = Counts::new();
        let waited = counts.wait_until(|stats| stats.queries > 0).await;
        assert_eq!(waited.unwrap_err().stats, Stats::default());
    }
}
