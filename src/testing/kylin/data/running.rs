//! The running queries of one node.
//!
//! In Kylin 2.x-4.x this is a map in the memory of each node, so all nodes must be asked to list or
//! stop queries.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::testing::kylin::KylinNode;

#[derive(Default)]
pub(crate) struct Running(Mutex<Vec<Arc<RunningQuery>>>);

pub(crate) struct RunningQuery {
    pub(crate) id: String,
    /// The id that a client of Kylin 5 chooses to stop its own query.
    pub(crate) stop_id: Option<String>,
    pub(crate) sql: String,
    pub(crate) project: String,
    pub(crate) user: String,
    stopped: Notify,
}

/// Removes its query from the running ones when it is dropped.
pub(crate) struct RunningGuard {
    query: Arc<RunningQuery>,
    node: KylinNode,
}

impl KylinNode {
    /// Adds `query` to the running ones, unless there are `limit` of them.
    pub(crate) fn start(&self, query: RunningQuery, limit: Option<usize>) -> Option<RunningGuard> {
        let query = Arc::new(query);
        let mut queries = self.inner.running.0.lock();
        if limit.is_some_and(|limit| queries.len() >= limit) {
            return None;
        }
        queries.push(query.clone());
        drop(queries);
        self.inner.counts.add(|stats| stats.running += 1);
        Some(RunningGuard { query, node: self.clone() })
    }
}

impl Running {
    pub(crate) fn list(&self) -> Vec<Arc<RunningQuery>> {
        self.0.lock().clone()
    }

    /// Stops the query `id`, if it runs on this node.
    pub(crate) fn stop(&self, id: &str) {
        for query in self.0.lock().iter().filter(|query| query.id == id || query.stop_id.as_deref() == Some(id)) {
            query.stopped.notify_one();
        }
    }
}

impl RunningQuery {
    pub(crate) fn new(id: String, stop_id: Option<String>, sql: String, project: String, user: &str) -> Self {
        RunningQuery { id, stop_id, sql, project, user: user.to_owned(), stopped: Notify::new() }
    }
}

impl RunningGuard {
    /// Returns when this query is stopped.
    pub(crate) async fn stopped(&self) {
        self.query.stopped.notified().await;
        self.node.inner.counts.add(|stats| stats.stopped += 1);
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.node.inner.running.0.lock().retain(|query| !Arc::ptr_eq(query, &self.query));
        self.node.inner.counts.add(|stats| stats.running -= 1);
    }
}
