//! A set of endpoints behind one policy.

mod builder;
mod error;
mod every;
mod members;
mod outliers;
mod panic;
mod pick;
mod pick_reason;
mod status;
mod user_source;
mod watch;

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::AHashSet;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use builder::ClusterBuilder;
pub use error::{ClusterError, PickError};
pub(crate) use every::PickedEndpoints;
pub(crate) use members::DesiredEndpoint;
pub use pick::Picked;
pub use pick_reason::PickReason;
pub(crate) use status::skew;
pub use status::{ClusterStatus, EndpointStatus};
pub(crate) use watch::MembersWatch;

use self::members::Members;
use self::panic::PanicMode;
use self::user_source::UserSource;
use crate::backend::HttpBackend;
use crate::balance::Balancer;
use crate::endpoint::{AdminState, Endpoint, EndpointId, SlotOwner};
use crate::health::CheckerId;
use crate::view::View;

/// Endpoints, the policy that chooses among them, and their live state. Clones share one cluster.
///
/// Picks read an immutable view and take no lock. A change of membership replaces the view and
/// never disturbs requests in flight. The live state of an endpoint (its requests in flight, its
/// failures) belongs to its id and survives such changes.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use kylin_lb::balance::{Attempted, LeastConn};
/// use kylin_lb::{Cluster, Endpoint, RequestView};
/// # struct Node;
/// # impl kylin_lb::Backend for Node {
/// #     async fn send(&self, _: http::Request<kylin_lb::Body>) -> Result<http::Response<kylin_lb::Body>, kylin_lb::SendError> {
/// #         Ok(http::Response::default())
/// #     }
/// # }
/// # let (node1, node2) = (Node, Node);
///
/// let cluster = Cluster::builder()
///     .endpoint(Endpoint::new("q1", node1)?.weight(2_u32.try_into()?))
///     .endpoint(Endpoint::new("q2", node2)?)
///     .balancer(LeastConn::new())
///     .build()?;
///
/// let request = http::Request::get("/kylin/api/projects").body(())?;
/// let client: std::net::IpAddr = "192.0.2.7".parse()?;
/// let picked = cluster.pick(&RequestView::of(&request, client), &Attempted::none())?;
/// assert_eq!(picked.lease.endpoint().as_str(), "q1");
/// assert_eq!(cluster.status().in_flight(), 1);
/// drop(picked);
/// assert_eq!(cluster.status().in_flight(), 0);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run()).unwrap();
/// ```
pub struct Cluster<B = HttpBackend> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    published: ArcSwap<Published<B>>,
    /// Whether the policy reads the keys of queries.
    reads_query: AtomicBool,
    reads_fingerprint: AtomicBool,
    /// Locked only by changes, never by picks.
    members: Mutex<Members<B>>,
    panic: PanicMode,
    user_source: UserSource,
    /// Notified after every change of membership.
    changes: tokio::sync::watch::Sender<()>,
    /// The state that the proxies of the cluster share.
    common: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// The values that picks read. Every change replaces all of them at once.
struct Published<B> {
    view: View<B>,
    /// The policy that made the tables of the view.
    balancer: Arc<dyn Balancer>,
    may_panic: bool,
}

impl<B> Cluster<B> {
    /// Returns an empty builder, with round robin as its policy.
    pub fn builder() -> ClusterBuilder<B> {
        ClusterBuilder::new()
    }

    /// Adds an endpoint at the end of the configuration order. An endpoint that is removed and
    /// added again keeps its live state while it has requests in flight.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] if the id is taken.
    pub fn add(&self, endpoint: Endpoint<B>) -> Result<(), ClusterError> {
        self.change(|members| members.add(endpoint))
    }

    /// Removes an endpoint. Its requests in flight continue.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] if there is no such endpoint.
    pub fn remove(&self, id: &EndpointId) -> Result<(), ClusterError> {
        self.change(|members| members.remove(id))
    }

    /// Replaces the whole membership in one step. Endpoints whose ids stay keep their live state
    /// and the state that [`set_admin_state`](Self::set_admin_state) set.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] if two endpoints have the same id; the cluster is then
    /// unchanged.
    pub fn replace(&self, endpoints: Vec<Endpoint<B>>) -> Result<(), ClusterError> {
        self.change(|members| members.replace(endpoints))
    }

    /// Sets the weight of an endpoint.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] if there is no such endpoint.
    pub fn set_weight(&self, id: &EndpointId, weight: NonZeroU32) -> Result<(), ClusterError> {
        self.change(|members| members.edit(id, |endpoint| endpoint.weight(weight)))
    }

    /// Replaces the policy. Requests in flight are not affected. See [`ClusterBuilder::balancer`].
    pub fn set_balancer(&self, balancer: impl Balancer) {
        let balancer: Arc<dyn Balancer> = Arc::new(balancer);
        self.change_infallibly(|members| members.balancer = balancer);
    }

    /// Sets whether an endpoint that failed may serve while health keeps requests from all of them.
    /// See [`ClusterBuilder::panic_mode`].
    pub fn set_panic_mode(&self, on: bool) {
        self.change_infallibly(|members| members.may_panic = on);
    }

    /// Sets the administrative state of an endpoint. The state survives every change of membership,
    /// until it is set again or the endpoint is removed.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] if there is no such endpoint.
    pub fn set_admin_state(&self, id: &EndpointId, state: AdminState) -> Result<(), ClusterError> {
        self.change(|members| members.set_admin_state(id, state))
    }

    /// Returns whether the policy reads the keys of queries.
    pub(crate) fn reads_query(&self) -> bool {
        self.shared.reads_query.load(Ordering::Relaxed)
    }

    /// Returns whether the policy reads the fingerprint of a query.
    pub(crate) fn reads_fingerprint(&self) -> bool {
        self.shared.reads_fingerprint.load(Ordering::Relaxed)
    }

    /// Returns whether the cluster has no endpoint.
    pub(crate) fn is_empty(&self) -> bool {
        let published = self.shared.published.load();
        let view = &published.view;
        view.primary.layout.slots.is_empty() && view.backup.layout.slots.is_empty()
    }

    /// Returns the state of the cluster and its endpoints as plain values.
    pub fn status(&self) -> ClusterStatus {
        let mut status = ClusterStatus::of(&self.shared.published.load());
        status.user_source_down_since = self.shared.user_source.down_since();
        status
    }

    /// Replaces the endpoints that a source of membership owns with those that it names now.
    /// Returns the indexes of endpoints that were left out because other endpoints have their id or
    /// address.
    pub(crate) fn reconcile(&self, owned: &AHashSet<EndpointId>, wanted: Vec<DesiredEndpoint<B>>) -> Vec<usize> {
        self.change_infallibly(|members| members.reconcile(owned, wanted))
    }

    /// Keeps requests from every present and future endpoint until `verifier` has verified that it
    /// belongs to the cluster.
    pub(crate) fn set_verifier(&self, verifier: CheckerId) {
        self.shared.members.lock().set_verifier(Some(verifier));
    }

    /// Undoes [`set_verifier`](Self::set_verifier), unless another verifier has been set since.
    pub(crate) fn clear_verifier(&self, verifier: CheckerId) {
        let mut members = self.shared.members.lock();
        if members.verifier() == Some(verifier) {
            members.set_verifier(None);
        }
    }

    /// Returns the owner of the endpoints' slots, one for all proxies of the cluster. The first
    /// call makes it with `make`.
    pub(crate) fn slots(&self, make: impl FnOnce() -> Arc<dyn SlotOwner>) -> Arc<dyn SlotOwner> {
        self.shared.members.lock().slots(make)
    }

    fn change_infallibly<T>(&self, change: impl FnOnce(&mut Members<B>) -> T) -> T {
        let Ok(changed) = self.change(|members| Ok::<_, Infallible>(change(members)));
        changed
    }

    /// Returns the `T` that all proxies of the cluster share. The first call makes it with `make`.
    pub(crate) fn common<T: Any + Send + Sync>(&self, make: impl Fn() -> Arc<T>) -> Arc<T> {
        let common = Arc::clone(self.shared.common.get_or_init(|| make() as Arc<dyn Any + Send + Sync>));
        // All calls for a cluster use the same type.
        common.downcast().unwrap_or_else(|_| make())
    }

    fn change<T, E>(&self, change: impl FnOnce(&mut Members<B>) -> Result<T, E>) -> Result<T, E> {
        let mut members = self.shared.members.lock();
        let changed = change(&mut members)?;
        // The limits are set before a pick can choose a new endpoint.
        members.share_limits();
        self.shared.published.store(Arc::new(members.publish()));
        self.shared.reads_query.store(members.balancer.reads_query(), Ordering::Relaxed);
        self.shared.reads_fingerprint.store(members.balancer.reads_fingerprint(), Ordering::Relaxed);
        self.shared.changes.send_replace(());
        // Waiting queries then check whether their endpoint still serves them.
        members.impaired().notify();
        Ok(changed)
    }
}

impl<B> Clone for Cluster<B> {
    fn clone(&self) -> Self {
        Cluster { shared: Arc::clone(&self.shared) }
    }
}

impl<B> fmt::Debug for Cluster<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("status", &self.status()).finish()
    }
}
