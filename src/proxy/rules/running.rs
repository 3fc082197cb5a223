//! Checks whether Kylin runs at a node.
//!
//! A stopping Tomcat ends its web applications before it closes its port, and responds to
//! everything with 404 meanwhile. So a 404 for a call that returns JSON in every version may mean
//! that nothing was executed and that another node should get the request. A stopping Tomcat also
//! accepts connections that it never serves, where a repeated request would be lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::clock::Clock;
use crate::cluster::Picked;
use crate::cookie::CookieJar;
use crate::endpoint::EndpointId;
use crate::kylin::class::AUTHENTICATION;
use crate::log_limit::LogLimit;

/// A short timeout is enough, because Kylin has nothing to compute for the response.
const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_BODY: u64 = 64 * 1024;
/// The time for which a result that Kylin does not run is reused, so that a stopping node is not
/// asked for each of its clients.
const REUSE_INTERVAL: Duration = Duration::from_millis(500);

/// What a node shows about Kylin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// Kylin responded.
    Yes,
    /// Something responded: Tomcat, or a login page of another server.
    Unclear,
    /// Nothing responded, or 404.
    No,
}

/// The time for which a node is remembered after it was asked. It is longer than the interval
/// between log lines of one node.
const KEPT: Duration = Duration::from_secs(2);

/// The checks of one node. They are locked while the node is asked, so that only one check runs at
/// a time.
#[derive(Debug)]
struct NodeChecks {
    /// The last response, and when the node was asked.
    last: Option<(Instant, Running)>,
    /// One limit per node, so that no node hides the log lines of another.
    log: LogLimit,
}

/// Asks nodes whether Kylin runs there, each at most once at a time.
#[derive(Debug)]
pub(super) struct RunningChecks {
    clock: Arc<dyn Clock>,
    nodes: Mutex<HashMap<EndpointId, Arc<tokio::sync::Mutex<NodeChecks>>>>,
}

impl RunningChecks {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        RunningChecks { clock, nodes: Mutex::default() }
    }

    /// Asks the node. `may_be_missing` says that a running Kylin may send this 404 too, so that a
    /// client could cause one check after another.
    pub(super) async fn check<B: Backend>(&self, picked: &Picked<B>, may_be_missing: bool) -> Running {
        let arrived = self.clock.now();
        let endpoint = picked.lease.endpoint();
        let node = self.node(endpoint);
        let mut node = node.lock().await;
        let is_fresh = |at: Instant| self.clock.now().saturating_duration_since(at) < REUSE_INTERVAL;
        // A Kylin that was running before the 404 may have ended since.
        let counts = |&(asked, running): &(Instant, Running)| match running != Running::No && !may_be_missing {
            true => asked >= arrived,
            false => is_fresh(asked),
        };
        if let Some((_, running)) = node.last.filter(counts) {
            return running;
        }
        let asked = self.clock.now();
        let client =
            NodeClient::new(Arc::clone(picked.backend()), picked.lease.placement(), TIMEOUT).max_body(MAX_BODY);
        let running = ask(&client).await;
        if running != Running::Yes
            && let Some(left_out) = node.log.admit()
        {
            tracing::warn!(%endpoint, ?running, left_out, "Kylin does not respond at a node");
        }
        node.last = Some((asked, running));
        running
    }

    fn node(&self, endpoint: &EndpointId) -> Arc<tokio::sync::Mutex<NodeChecks>> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(endpoint) {
            return Arc::clone(node);
        }
        // Endpoints that have left are forgotten when another one is asked for the first time.
        let now = self.clock.now();
        let is_kept = |at: Instant| now.saturating_duration_since(at) < KEPT;
        // An entry that is in use elsewhere stays, so that only one check of its node runs at a
        // time.
        let is_recent = |node: &tokio::sync::Mutex<NodeChecks>| {
            node.try_lock().is_ok_and(|node| node.last.is_some_and(|(at, _)| is_kept(at)))
        };
        nodes.retain(|_, node| Arc::strong_count(node) > 1 || is_recent(node));
        let node = NodeChecks { last: None, log: LogLimit::new(&self.clock) };
        Arc::clone(nodes.entry(endpoint.clone()).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(node))))
    }
}

/// Asks a node whether Kylin runs there. A 401 or a JSON object proves a Kylin of any version, even
/// a failing one. A page does not, because Tomcat and other servers have pages too.
async fn ask(client: &NodeClient) -> Running {
    match client.get(AUTHENTICATION, None, &mut CookieJar::default()).await {
        Ok(response) if response.status == StatusCode::UNAUTHORIZED => Running::Yes,
        Ok(response) if response.status == StatusCode::NOT_FOUND => Running::No,
        Ok(response) => match response.body {
            Ok(body) if body.trim_ascii_start().starts_with(b"{") => Running::Yes,
            _ => Running::Unclear,
        },
        Err(_) => Running::No,
    }
}
