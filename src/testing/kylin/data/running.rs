//! The queries that run on one node at this moment.
//!
//! In Kylin 2.x-4.x this is a map in the memory of each node, which no other node knows: to list or stop queries through
//! a front end, all nodes have to be asked.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::testing::kylin::data::stats::Counts;

#[derive(Default)]
pub(crate) struct Running(Mutex<Vec<Arc<RunningQuery>>>);

pub(crate) struct RunningQuery {
    pub(crate) id: String,
    /// What a Kylin 5 client may name instead of the id to stop its own query.
    pub(crate) stop_id: Option<String>,
    pub(crate) sql: String,
    pub(crate) project: String,
    pub(crate) user: String,
    stopped: Notify,
}

/// A query's place among the running ones, until it is dropped.
pub(crate) struct Slot {
    query: Arc<RunningQuery>,
    running: Arc<Running>,
    counts: Arc<Counts>,
}

impl Running {
    /// Enters `query` unless `limit` queries (0: any number) run already.
    pub(crate) fn enter(self: &Arc<Self>, query: RunningQuery, limit: usize, counts: &Arc<Counts>) -> Option<Slot> {
        let query = Arc::new(query);
        let mut queries = self.0.lock();
        if limit > 0 && queries.len() >= limit {
            return None;
        }
        queries.push(query.clone());
        drop(queries);
        counts.add(|stats| stats.running += 1);
        Some(Slot { query, running: self.clone(), counts: counts.clone() })
    }

    pub(crate) fn list(&self) -> Vec<Arc<RunningQuery>> {
        self.0.lock().clone()
    }

    /// Asks the query `id` to stop; nothing happens when there is none.
    pub(crate) fn stop(&self, id: &str) {
        for query in self.0.lock().iter().filter(|query| query.id == id || query.stop_id.as_deref() == Some(id)) {
            query.stopped.notify_one();
        }
    }
}

impl RunningQuery {
    pub(crate) fn new(id: String, stop_id: Option<String>, sql: String, project: String, user: String) -> Self {
        RunningQuery { id, stop_id, sql, project, user, stopped: Notify::new() }
    }
}

impl Slot {
    /// Returns when somebody asked this query to stop.
    pub(crate) async fn stopped(&self) {
        self.query.stopped.notified().await;
        self.counts.add(|stats| stats.stopped += 1);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.running.0.lock().retain(|query| !Arc::ptr_eq(query, &self.query));
        self.counts.add(|stats| stats.running -= 1);
    }
}
