use std::fmt;

use tokio::sync::watch;

use super::membership::Membership;
use super::{Backoff, DiscoveredNode, Discovery, DiscoveryStatus};
use crate::Cluster;
use crate::background::AbortOnDrop;
use crate::body::BoxError;
use crate::endpoint::Endpoint;

/// Keeps the membership of `cluster` up to date with `discovery` until the handle is dropped.
///
/// `make_endpoint` makes the endpoint of a node that is new or has changed.
/// [`DiscoveredNode::http`] is one such function; [`DiscoveredNode::endpoint`] and
/// [`DiscoveredNode::apply_to`] help to write others.
///
/// - The task changes only endpoints that come from the source. Endpoints that the application
///   added stay before them, and take precedence if a listed node has the same id or address.
/// - A node whose address is unchanged keeps its live state and its backend. A state that
///   [`Cluster::set_admin_state`] set persists, even if the node leaves and comes back. A weight
///   that [`Cluster::set_weight`] set persists until the source changes the node's settings.
/// - Requests in flight to a node that left continue.
/// - An endpoint that the application removes returns with the next update. To keep it out of
///   service, use [`Cluster::set_admin_state`].
/// - A membership without nodes is not applied. No failure of the source ends the task.
/// - The endpoints stay after the handle is dropped.
///
/// # Panics
/// Panics if called outside of a tokio runtime.
pub fn watch<B, D, E>(
    cluster: &Cluster<B>,
    discovery: D,
    make_endpoint: impl FnMut(&DiscoveredNode) -> Result<Endpoint<B>, E> + Send + 'static,
) -> DiscoveryHandle
where
    B: Send + Sync + 'static,
    D: Discovery,
    E: Into<BoxError>,
{
    watch_with(cluster, discovery, make_endpoint, Backoff::default())
}

/// Keeps the membership of `cluster` up to date with `discovery`, like [`watch()`], with `backoff`
/// as the delays after failures of the source.
///
/// # Panics
/// Panics if called outside of a tokio runtime.
pub fn watch_with<B, D, E>(
    cluster: &Cluster<B>,
    discovery: D,
    mut make_endpoint: impl FnMut(&DiscoveredNode) -> Result<Endpoint<B>, E> + Send + 'static,
    backoff: Backoff,
) -> DiscoveryHandle
where
    B: Send + Sync + 'static,
    D: Discovery,
    E: Into<BoxError>,
{
    let (sender, status) = watch::channel(DiscoveryStatus::default());
    let make_endpoint = move |node: &DiscoveredNode| make_endpoint(node).map_err(Into::into);
    let membership = Membership::new(cluster.clone(), make_endpoint, sender);
    DiscoveryHandle { _task: AbortOnDrop::spawn(membership.run(discovery, backoff)), status }
}

/// A running [`watch()`]. Dropping it stops the updates; the cluster keeps its endpoints.
#[must_use = "dropping the handle stops the updates"]
pub struct DiscoveryHandle {
    _task: AbortOnDrop,
    status: watch::Receiver<DiscoveryStatus>,
}

impl DiscoveryHandle {
    /// Returns the state of the source and of its endpoints.
    pub fn status(&self) -> DiscoveryStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub(crate) fn subscribe(&self) -> watch::Receiver<DiscoveryStatus> {
        self.status.clone()
    }

    /// Waits until `test` returns true for the status, and returns that status. An application can
    /// use it to wait for its first endpoints. It has no timeout.
    pub async fn wait_until(&self, test: impl FnMut(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        wait_until(&self.status, test).await
    }
}

impl fmt::Debug for DiscoveryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryHandle").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// Waits until `test` returns true for the watched value, and returns the value. Waits forever once
/// the sender is gone.
pub(super) async fn wait_until<T: Clone>(receiver: &watch::Receiver<T>, test: impl FnMut(&T) -> bool) -> T {
    let mut receiver = receiver.clone();
    let value = receiver.wait_for(test).await.map(|value| value.clone());
    match value {
        Ok(value) => value,
        Err(_) => std::future::pending().await,
    }
}
