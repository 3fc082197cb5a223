use std::fmt;
use std::sync::Arc;

use ahash::AHashSet;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::guard::{guarded, guarded_call};
use super::status::{DiscoveryStatus, SourceState};
use super::{Backoff, DiscoveredNode, Discovery, DiscoveryError, chain};
use crate::Cluster;
use crate::body::BoxError;
use crate::clock::{Clock, SystemClock};
use crate::cluster::Wanted;
use crate::endpoint::{Endpoint, EndpointId, Roles};

/// The least time between two memberships: what changes within it comes as one.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Keeps the membership of `cluster` as `discovery` says, until the handle is dropped. `make` makes the endpoint of a node that
/// is new or has changed; [`DiscoveredNode::http`] is one such, [`DiscoveredNode::endpoint`] and [`DiscoveredNode::applied_to`] help to write others.
///
/// Only endpoints that come from the source are touched. Those that the operator configured stay, stand before them, and win
/// where both have one id or address. Endpoints whose address stays keep their live state and their backend; what the
/// operator said of them with `drain` or `maintain` holds, also when the node vanishes and comes back; a weight set by the
/// operator holds until the source says something else of that node. Requests in flight on a node that left go on. A node
/// that the operator removes comes back with the next membership: to keep it out, use [`Cluster::set_admin_state`].
///
/// Nothing ends the following, and no membership without nodes is applied. After the handle is dropped the endpoints stay.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch<B, D, E>(
    cluster: &Cluster<B>,
    discovery: D,
    make: impl FnMut(&DiscoveredNode) -> Result<Endpoint<B>, E> + Send + 'static,
) -> DiscoveryHandle
where
    B: Send + Sync + 'static,
    D: Discovery,
    E: Into<BoxError>,
{
    watch_with(cluster, discovery, make, Backoff::default())
}

/// [`watch`] with pauses of one's own after failures of the source.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch_with<B, D, E>(
    cluster: &Cluster<B>,
    discovery: D,
    mut make: impl FnMut(&DiscoveredNode) -> Result<Endpoint<B>, E> + Send + 'static,
    backoff: Backoff,
) -> DiscoveryHandle
where
    B: Send + Sync + 'static,
    D: Discovery,
    E: Into<BoxError>,
{
    let (sender, status) = watch::channel(DiscoveryStatus::NEW);
    let make = move |found: &DiscoveredNode| make(found).map_err(Into::into);
    let follower = Follower { cluster: cluster.clone(), make, known: Vec::new(), status: sender };
    let task = tokio::spawn(follower.run(discovery, backoff)).abort_handle();
    DiscoveryHandle { task, status }
}

/// A cluster following a source. Dropping it ends the following, not the cluster.
#[must_use = "dropping it ends the following"]
pub struct DiscoveryHandle {
    task: AbortHandle,
    status: watch::Receiver<DiscoveryStatus>,
}

impl DiscoveryHandle {
    /// How it stands.
    pub fn status(&self) -> DiscoveryStatus {
        self.status.borrow().clone()
    }

    /// Waits until `test` holds, and returns how it stands then; at start, for instance, until there are endpoints. Waits as
    /// long as it takes: put a deadline around it.
    pub async fn wait_until(&self, test: impl FnMut(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        let mut status = self.status.clone();
        let mut test = test;
        let reached = match status.wait_for(|status| test(status)).await {
            Ok(status) => Some(status.clone()),
            // The runtime that followed has ended.
            Err(_) => None,
        };
        match reached {
            Some(status) => status,
            None => std::future::pending().await,
        }
    }
}

impl Drop for DiscoveryHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for DiscoveryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryHandle").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// What the task of a [`DiscoveryHandle`] works with.
struct Follower<B, M> {
    cluster: Cluster<B>,
    make: M,
    /// What the source named last, and the endpoints that were made of it.
    known: Vec<Known<B>>,
    status: watch::Sender<DiscoveryStatus>,
}

struct Known<B> {
    found: DiscoveredNode,
    endpoint: Endpoint<B>,
}

impl<B> Known<B> {
    fn share(&self) -> Self {
        Known { found: self.found.clone(), endpoint: self.endpoint.share() }
    }
}

impl<B, M> Follower<B, M>
where
    B: Send + Sync + 'static,
    M: FnMut(&DiscoveredNode) -> Result<Endpoint<B>, BoxError> + Send + 'static,
{
    async fn run(mut self, mut discovery: impl Discovery, backoff: Backoff) {
        let mut failures = 0_u32;
        loop {
            match guarded(discovery.next()).await.unwrap_or(Err(DiscoveryError::Panicked)) {
                Ok(found) => {
                    failures = 0;
                    self.apply(found);
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.failed(&error, failures);
                    sleep(backoff.after(failures, fastrand::f64())).await;
                }
            }
        }
    }

    fn failed(&self, error: &DiscoveryError, failures: u32) {
        let line = chain(error);
        // Once per outage and kind of failure; what comes again and again is for the debug log.
        let again = self.status.borrow().error.as_ref() == Some(&line);
        if again {
            tracing::debug!(error = line, failures, "discovery still fails");
        } else {
            tracing::warn!(error = line, kept = self.known.len(), "discovery fails; the last known endpoints are kept");
        }
        self.status.send_modify(|status| {
            status.source = SourceState::Failing;
            status.failures = failures;
            status.error = Some(line);
        });
    }

    fn apply(&mut self, found: Vec<DiscoveredNode>) {
        let found = distinct(found);
        if found.is_empty() {
            self.told_nothing();
            return;
        }
        let owned: AHashSet<EndpointId> = self.known.iter().map(|known| known.endpoint.id().clone()).collect();
        let (mut next, wanted, mut refused) = self.next(found);
        if next.is_empty() {
            // Every node of a new membership was refused: as good as none.
            self.told_nothing();
            self.status.send_modify(|status| status.refused = refused);
            return;
        }
        let colliding = self.cluster.reconcile(&owned, wanted);
        refused += colliding.len();
        // From the last to the first, so that the indexes before stay.
        for index in colliding.into_iter().rev() {
            let twice = next.remove(index);
            tracing::debug!(endpoint = %twice.found.id(), "a node that was found has the id or address of another endpoint");
        }
        self.log_changes(&next);
        self.known = next;
        let endpoints = self.known.len();
        self.status.send_modify(|status| {
            if status.source != SourceState::Current && status.source != SourceState::Waiting {
                tracing::info!(endpoints, "discovery works again");
            }
            *status = DiscoveryStatus {
                source: SourceState::Current,
                endpoints,
                refused,
                told: status.told + 1,
                failures: 0,
                error: None,
                told_at: Some(SystemClock.now()),
            };
        });
    }

    fn told_nothing(&self) {
        let kept = self.known.len();
        if self.status.borrow().source != SourceState::Empty {
            tracing::warn!(kept, "discovery finds no nodes; the last known endpoints are kept");
        }
        self.status.send_modify(|status| {
            status.source = SourceState::Empty;
            status.failures = 0;
            status.error = None;
        });
    }

    /// What is known after `found`, what the cluster is to make of it, and how many nodes could not be used.
    fn next(&mut self, found: Vec<DiscoveredNode>) -> (Vec<Known<B>>, Vec<Wanted<B>>, usize) {
        let (mut next, mut wanted, mut refused) = (Vec::new(), Vec::new(), 0);
        for found in found {
            let old = self.known.iter().find(|known| known.found.address() == found.address());
            let same = old.filter(|old| old.found.says_the_same_as(&found));
            let (known, changed) = match same {
                Some(old) => (Some(Known { endpoint: old.endpoint.share(), found }), false),
                None => {
                    let made =
                        guarded_call(|| (self.make)(&found)).unwrap_or_else(|| Err("the host's code panicked".into()));
                    let made = made.map_err(|error| {
                        tracing::warn!(
                            node = found.address(),
                            source = found.source(),
                            error = chain(&*error),
                            "no endpoint can be made of a node that was found"
                        );
                        refused += 1;
                    });
                    match (made, old) {
                        // A node that only changes its settings keeps its connections.
                        (Ok(made), Some(old)) => {
                            let endpoint = Endpoint { backend: Arc::clone(&old.endpoint.backend), ..made };
                            (Some(Known { found, endpoint }), true)
                        }
                        (Ok(endpoint), None) => (Some(Known { found, endpoint }), true),
                        // Better the node as it was than none; its news are tried again next time.
                        (Err(()), old) => (old.map(Known::share), false),
                    }
                }
            };
            if let Some(known) = known {
                wanted.push(Wanted { endpoint: known.endpoint.share(), changed });
                next.push(known);
            }
        }
        (next, wanted, refused)
    }

    fn log_changes(&self, next: &[Known<B>]) {
        let names = |list: &[Known<B>], address: &str| list.iter().any(|known| known.found.address() == address);
        for Known { found, .. } in next.iter().filter(|known| !names(&self.known, known.found.address())) {
            tracing::info!(endpoint = %found.id(), roles = %found.roles(), drain = found.is_draining(),
                source = found.source(), "endpoint found");
        }
        for Known { found, .. } in self.known.iter().filter(|known| !names(next, known.found.address())) {
            tracing::info!(endpoint = %found.id(), "endpoint gone");
        }
    }
}

/// Each node once, by its address and the first that is said of it; without those that serve no client's request.
fn distinct(found: Vec<DiscoveredNode>) -> Vec<DiscoveredNode> {
    let mut addresses = AHashSet::new();
    found
        .into_iter()
        .filter(|found| found.roles() != Roles::NONE && addresses.insert(found.address().to_owned()))
        .collect()
}
