//! The counters of a node, the requests that reached it, and a way to wait for them without
//! sleeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::body::OnEnd;
use crate::testing::kylin::data::bounded::BoundedMap;

/// The number of request ids, and of different SQL texts, that a node remembers.
const MAX_REMEMBERED: usize = 100_000;
/// The time after which a wait fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The counters of a node since it was made. `in_flight`, `running` and `open_connections` are
/// current values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that reached the node, of any kind.
    pub requests: u64,
    /// Requests whose response has not ended yet.
    pub in_flight: u64,
    /// Requests that the client cancelled: the future or the body of the response was dropped
    /// before its end.
    pub cancelled: u64,
    /// Executed queries, including failing SQL and CSV exports, but not rejected ones.
    pub queries: u64,
    /// Queries that are currently running.
    pub running: u64,
    /// Stopped queries.
    pub stopped: u64,
    /// Builds that this node submitted to the metastore.
    pub builds: u64,
    /// Successful password checks. A client without cookies causes one with every request.
    pub logins: u64,
    /// Failed password checks. Kylin 5 locks a user after three.
    pub wrong_passwords: u64,
    /// Passwords that could not be checked because the user source is unreachable.
    pub unchecked_logins: u64,
    /// Responses with status 401.
    pub unauthorized: u64,
    /// Calls of `/kylin/api/cache`, which no client may reach.
    pub cache_calls: u64,
    /// Requests with the header `routed`, which marks requests between nodes of Kylin 5.
    pub routed: u64,
    /// Accepted connections.
    pub connections: u64,
    /// Open connections.
    pub open_connections: u64,
}

/// The error if the awaited event did not happen within 30 s.
#[derive(Debug, thiserror::Error)]
#[error("the awaited event did not happen within {WAIT_TIMEOUT:?}: {stats:?}")]
#[non_exhaustive]
pub struct WaitTimeout {
    /// The counters at the timeout.
    pub stats: Stats,
}

#[derive(Default)]
pub(crate) struct Counts {
    stats: watch::Sender<Stats>,
    ids: Mutex<Remembered>,
    sql: Mutex<Remembered>,
}

impl Counts {
    pub(crate) fn snapshot(&self) -> Stats {
        self.stats.borrow().clone()
    }

    pub(crate) fn add(&self, change: impl FnOnce(&mut Stats)) {
        self.stats.send_modify(change);
    }

    pub(crate) async fn wait_until(&self, test: impl FnMut(&Stats) -> bool) -> Result<Stats, WaitTimeout> {
        let mut changes = self.stats.subscribe();
        match tokio::time::timeout(WAIT_TIMEOUT, changes.wait_for(test)).await {
            Ok(Ok(stats)) => Ok(stats.clone()),
            // `self` holds the sender, so the channel is open and this is the timeout.
            _ => Err(WaitTimeout { stats: self.snapshot() }),
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

/// The counts for the last [`MAX_REMEMBERED`] different texts.
#[derive(Default)]
struct Remembered(BoundedMap<u64, MAX_REMEMBERED>);

impl Remembered {
    fn count(&mut self, text: &str) {
        match self.0.get_mut(text) {
            Some(times) => *times += 1,
            None => self.0.insert(text, 1),
        }
    }

    fn times(&self, text: &str) -> u64 {
        self.0.get(text).copied().unwrap_or(0)
    }
}

/// A request on the node, from its arrival until its response has ended or is dropped.
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

    /// Ends the request early. It does not count as cancelled.
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
    fn a_request_is_cancelled_only_if_it_did_not_end() {
        let counts = Arc::new(Counts::default());
        let (ended, dropped) = (InFlight::begin(&counts), InFlight::begin(&counts));
        assert_eq!(counts.snapshot().in_flight, 2);
        ended.on_end(true);
        dropped.on_end(false);
        assert_eq!(counts.snapshot(), Stats { requests: 2, cancelled: 1, ..Stats::default() });
    }

    #[test]
    fn the_memory_of_texts_is_bounded() {
        let mut remembered = Remembered::default();
        for i in 0..MAX_REMEMBERED + 10 {
            remembered.count(&i.to_string());
        }
        assert_eq!(remembered.0.len(), MAX_REMEMBERED);
        assert_eq!((remembered.times("0"), remembered.times("10")), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_times_out_and_returns_the_counters() {
        let counts = Counts::default();
        let waited = counts.wait_until(|stats| stats.queries > 0).await;
        assert_eq!(waited.unwrap_err().stats, Stats::default());
    }
}
