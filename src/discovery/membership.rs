//! The task that applies the updates of a source to a cluster.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashSet;
use tokio::sync::watch;
use tokio::time::sleep;

use super::status::{DiscoveryStatus, SourceState};
use super::{Backoff, DiscoveredNode, Discovery, DiscoveryError};
use crate::Cluster;
use crate::body::BoxError;
use crate::clock::{Clock, SystemClock};
use crate::cluster::DesiredEndpoint;
use crate::endpoint::{Endpoint, EndpointId, Roles};
use crate::error_chain::error_chain;
use crate::unwind::catch_panic;

/// The minimum time between two updates. Changes within it are applied as one.
const UPDATE_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct Membership<B, M> {
    cluster: Cluster<B>,
    make_endpoint: M,
    /// The nodes of the last update.
    entries: Vec<Entry<B>>,
    status: watch::Sender<DiscoveryStatus>,
}

/// A listed node and its endpoint.
struct Entry<B> {
    node: DiscoveredNode,
    endpoint: Endpoint<B>,
}

impl<B, M> Membership<B, M>
where
    B: Send + Sync + 'static,
    M: FnMut(&DiscoveredNode) -> Result<Endpoint<B>, BoxError> + Send + 'static,
{
    pub(super) fn new(cluster: Cluster<B>, make_endpoint: M, status: watch::Sender<DiscoveryStatus>) -> Self {
        Membership { cluster, make_endpoint, entries: Vec::new(), status }
    }

    pub(super) async fn run(mut self, mut discovery: impl Discovery, backoff: Backoff) {
        let mut failures = 0_u32;
        loop {
            match catch_panic(pin!(discovery.next())).await.unwrap_or(Err(DiscoveryError::Panicked)) {
                Ok(nodes) => {
                    failures = 0;
                    self.apply(nodes);
                    sleep(UPDATE_INTERVAL).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.report_failure(&error, failures);
                    sleep(backoff.after(failures, fastrand::f64())).await;
                }
            }
        }
    }

    fn report_failure(&self, error: &DiscoveryError, failures: u32) {
        let error = error_chain(error);
        // One warning per outage and kind of failure.
        if self.status.borrow().error.as_ref() == Some(&error) {
            tracing::debug!(error, failures, "discovery still fails");
        } else {
            tracing::warn!(target: "kylin_lb::state", error, kept = self.entries.len(), "discovery failed; the last known endpoints stay");
        }
        self.status.send_modify(|status| {
            status.source = SourceState::Failing;
            status.failures = failures;
            status.error = Some(error);
        });
    }

    fn apply(&mut self, nodes: Vec<DiscoveredNode>) {
        let (mut entries, mut wanted, mut rejected) = (Vec::new(), Vec::new(), 0);
        for node in distinct(nodes) {
            let old = self.entries.iter().find(|entry| entry.node.address() == node.address());
            let (entry, changed) = match old {
                Some(old) if old.node.has_same_settings(&node) => (Some(Entry { node, ..old.share() }), false),
                old => match make_endpoint(&mut self.make_endpoint, &node) {
                    Some(mut endpoint) => {
                        // A node whose settings change keeps its connections.
                        if let Some(old) = old {
                            endpoint.backend = Arc::clone(&old.endpoint.backend);
                        }
                        (Some(Entry { node, endpoint }), true)
                    }
                    // The node stays as it was. The next update tries again.
                    None => {
                        rejected += 1;
                        (old.map(Entry::share), false)
                    }
                },
            };
            if let Some(entry) = entry {
                wanted.push(DesiredEndpoint { endpoint: entry.endpoint.clone(), changed });
                entries.push(entry);
            }
        }
        if entries.is_empty() {
            self.report_empty(rejected);
            return;
        }
        let owned: AHashSet<EndpointId> = self.entries.iter().map(|entry| entry.endpoint.id().clone()).collect();
        let colliding = self.cluster.reconcile(&owned, wanted);
        // From the last to the first, so that the indexes before it stay valid.
        for index in colliding.iter().rev() {
            let entry = entries.remove(*index);
            tracing::debug!(endpoint = %entry.node.id(), "a discovered node has the id or address of another endpoint");
        }
        log_changes(&self.entries, &entries);
        self.entries = entries;
        self.report_update(rejected + colliding.len());
    }

    fn report_empty(&self, rejected: usize) {
        self.status.send_modify(|status| {
            if status.source != SourceState::Empty {
                tracing::warn!(target: "kylin_lb::state", kept = self.entries.len(), "discovery found no nodes; the last known endpoints stay");
            }
            status.source = SourceState::Empty;
            status.rejected = rejected;
            status.failures = 0;
            status.error = None;
        });
    }

    fn report_update(&self, rejected: usize) {
        let endpoints = self.entries.len();
        self.status.send_modify(|status| {
            if matches!(status.source, SourceState::Failing | SourceState::Empty) {
                tracing::info!(target: "kylin_lb::state", endpoints, "discovery recovered");
            }
            *status = DiscoveryStatus {
                source: SourceState::Current,
                endpoints,
                rejected,
                updates: status.updates + 1,
                failures: 0,
                error: None,
                last_update: Some(SystemClock.now()),
            };
        });
    }
}

impl<B> Entry<B> {
    fn share(&self) -> Self {
        Entry { node: self.node.clone(), endpoint: self.endpoint.clone() }
    }
}

/// Calls the application's `make` for `node`. Logs why it made no endpoint.
fn make_endpoint<B>(
    make: &mut impl FnMut(&DiscoveredNode) -> Result<Endpoint<B>, BoxError>,
    node: &DiscoveredNode,
) -> Option<Endpoint<B>> {
    let result = catch_unwind(AssertUnwindSafe(|| make(node)))
        .unwrap_or_else(|_| Err("the application's function panicked".into()));
    let log = |error: &BoxError| {
        let (node, source, error) = (node.address(), node.source(), error_chain(&**error));
        tracing::warn!(node, source, error, "no endpoint can be made of a discovered node");
    };
    result.inspect_err(log).ok()
}

/// Keeps the first node of each address, and only nodes that serve clients.
fn distinct(nodes: Vec<DiscoveredNode>) -> impl Iterator<Item = DiscoveredNode> {
    let mut addresses = AHashSet::new();
    nodes.into_iter().filter(move |node| node.roles() != Roles::NONE && addresses.insert(node.address().to_owned()))
}

fn log_changes<B>(before: &[Entry<B>], after: &[Entry<B>]) {
    let has = |entries: &[Entry<B>], node: &DiscoveredNode| {
        entries.iter().any(|entry| entry.node.address() == node.address())
    };
    for Entry { node, .. } in after.iter().filter(|entry| !has(before, &entry.node)) {
        let (id, roles, drain, source) = (node.id(), node.roles(), node.is_draining(), node.source());
        tracing::info!(target: "kylin_lb::state", endpoint = %id, %roles, drain, source, "endpoint discovered");
    }
    for Entry { node, .. } in before.iter().filter(|entry| !has(after, &entry.node)) {
        tracing::info!(target: "kylin_lb::state", endpoint = %node.id(), "endpoint is no longer listed");
    }
}
