//! A set of endpoints behind one policy.

mod builder;
mod members;
mod outliers;
mod panic;
mod status;

use std::fmt;
use std::sync::Arc;

use ahash::AHashSet;
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

pub use builder::ClusterBuilder;
pub use status::{ClusterStatus, EndpointStatus};

use self::members::Members;
pub(crate) use self::members::Wanted;
use self::panic::PanicMode;
use crate::backend::HttpBackend;
use crate::balance::{Attempted, Balancer, Candidates};
use crate::endpoint::{AdminState, Endpoint, EndpointId, Hint, InvalidId, Lease, Member, Slot};
use crate::request::RequestView;
pub use crate::view::BackendRef;
use crate::view::{Group, Handle, Published, View};

/// Endpoints, the policy that chooses among them, and their live state. Clones are handles to the same cluster.
///
/// Picks read an immutable view and take no lock. Changes of membership replace the view; they never disturb requests in
/// flight, and what is known of an endpoint (its requests in flight, its failures) belongs to its id and stays.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use kylin_lb::balance::{LeastConn, Attempted};
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
///     .endpoint(Endpoint::new("q1", node1)?.weight(2))
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
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    view: Published<B>,
    balancer: Arc<dyn Balancer>,
    /// Taken by changes only, which so follow one another.
    members: Mutex<Members<B>>,
    panic: PanicMode,
    /// Told of every change of the membership.
    changed: Notify,
}

/// What a pick yields: where to send the request, and the slot it takes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Picked<B> {
    /// Counts the request in flight until it is dropped.
    pub lease: Lease,
    /// What to send the request with: a reference for the time of the request. `Arc::clone` makes one to keep.
    pub backend: BackendRef<B>,
}

impl<B> Cluster<B> {
    /// An empty builder: the policy is round robin until another is set.
    pub fn builder() -> ClusterBuilder<B> {
        ClusterBuilder::new()
    }

    /// Chooses an endpoint for `request` that is not in `tried`, and takes a slot on it.
    ///
    /// The policy chooses among the primary endpoints; where it abstains the next in round-robin order serves. When no
    /// primary endpoint can, the same goes for the backups; and then [panic mode](ClusterBuilder::panic_mode), where it is on.
    /// Takes no lock and allocates nothing.
    ///
    /// # Errors
    /// [`PickError`] when no endpoint can serve.
    pub fn pick(&self, request: &RequestView<'_>, tried: &Attempted) -> Result<Picked<B>, PickError> {
        let view = self.inner.view.read();
        for group in [&view.primary, &view.backup] {
            if let Some(index) = self.take_in(group, request, tried) {
                self.inner.panic.leave();
                return Ok(self.picked(group, index));
            }
        }
        if let Some((group, index)) = self.take_in_panic(&view, request, tried) {
            return Ok(self.picked(group, index));
        }
        Err(match view.primary.layout.members.len() + view.backup.layout.members.len() {
            0 => PickError::Empty,
            _ => PickError::NoneFit,
        })
    }

    /// The same for a request of a session that is bound to the endpoint called `id`: that endpoint serves if it can, a
    /// draining or backup one too; otherwise, and when there is no such endpoint, the policy chooses.
    ///
    /// # Errors
    /// [`PickError`] when no endpoint can serve.
    pub fn pick_bound(&self, request: &RequestView<'_>, tried: &Attempted, id: &str) -> Result<Picked<B>, PickError> {
        self.pick_at(request, tried, |view| view.find(id))
    }

    /// The same where the endpoint is the one that the rendezvous hash of `key` has it on, of those that can serve: every
    /// front end finds the same one, and an endpoint that leaves moves only its own keys. Unlike a bound session, such a request
    /// keeps away from draining endpoints, and from backups while a primary endpoint can serve.
    ///
    /// # Errors
    /// [`PickError`] when no endpoint can serve.
    pub fn pick_by_hash(
        &self,
        request: &RequestView<'_>,
        tried: &Attempted,
        key: &[u8],
    ) -> Result<Picked<B>, PickError> {
        {
            let view = self.inner.view.read();
            for group in [&view.primary, &view.backup] {
                let candidates = Candidates::new(&group.layout, tried, request.role());
                if let Some(chosen) = candidates.rendezvous(key).filter(|chosen| candidates.acquire(*chosen)) {
                    return Ok(self.picked(group, chosen.index()));
                }
            }
        }
        self.pick(request, tried)
    }

    /// The same where a session's [`Hint`] goes.
    pub(crate) fn pick_hinted(
        &self,
        request: &RequestView<'_>,
        tried: &Attempted,
        hint: &Hint,
    ) -> Result<Picked<B>, PickError> {
        match hint {
            Hint::None => self.pick(request, tried),
            Hint::Key(key) => self.pick_by_hash(request, tried, key),
            _ => self.pick_at(request, tried, |view| view.at(hint)),
        }
    }

    /// Is the endpoint that `hint` names gone, in maintenance or ejected, rather than just full?
    pub(crate) fn is_out(&self, hint: &Hint) -> bool {
        let view = self.inner.view.read();
        view.at(hint).is_none_or(|(group, index)| group.layout.members[index].member.is_out(group.layout.alone))
    }

    fn pick_at(
        &self,
        request: &RequestView<'_>,
        tried: &Attempted,
        place: impl for<'v> FnOnce(&'v View<B>) -> Option<(&'v Group<B>, usize)>,
    ) -> Result<Picked<B>, PickError> {
        {
            let view = self.inner.view.read();
            if let Some((group, index)) = place(&view) {
                let candidates = Candidates::new(&group.layout, tried, request.role());
                let bound = candidates.at(index);
                if candidates.is_eligible_when_bound(bound) && candidates.acquire(bound) {
                    return Ok(self.picked(group, index));
                }
            }
        }
        self.pick(request, tried)
    }

    /// Takes a slot on the endpoint of `group` that the policy chooses: its index.
    fn take_in(&self, group: &Group<B>, request: &RequestView<'_>, tried: &Attempted) -> Option<usize> {
        if group.layout.members.is_empty() {
            return None;
        }
        let candidates = Candidates::new(&group.layout, tried, request.role());
        // A slot can be lost to a concurrent pick between the policy's look and the taking. Each round then sees that
        // endpoint as full, so rounds are few; the bound is for an adversarial schedule.
        for _ in 0..=2 * group.layout.members.len() {
            let chosen = self
                .inner
                .balancer
                .pick(request, &candidates)
                .filter(|candidate| candidates.is_eligible(*candidate))
                .or_else(|| candidates.next_in_order())?;
            if candidates.acquire(chosen) {
                return Some(chosen.index());
            }
        }
        None
    }

    /// What is handed out where a slot was taken. Made in one piece and last: to move it would cost as much as to count.
    #[inline]
    fn picked(&self, group: &Group<B>, index: usize) -> Picked<B> {
        let Handle { member, backend } = group.handles.of_thread(index);
        let slot = Slot::taken(member, group.layout.alone);
        Picked { lease: slot.lease(), backend: backend.clone() }
    }

    /// What the endpoint called `id` is sent requests with, be it fit to serve or not.
    pub(crate) fn backend(&self, id: &EndpointId) -> Option<Arc<B>> {
        let view = self.inner.view.read();
        let (group, index) = view.find(id.as_str())?;
        Some(Arc::clone(&group.handles.of_thread(index).backend))
    }

    /// Adds an endpoint at the end of the configuration order. One that was there before under the same id, and still has
    /// requests in flight, keeps its live state.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] when the id is taken.
    pub fn add(&self, endpoint: Endpoint<B>) -> Result<(), ClusterError> {
        self.change(|members| members.add(endpoint))
    }

    /// Takes an endpoint out. Its requests in flight go on.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] when there is no such endpoint.
    pub fn remove(&self, id: &EndpointId) -> Result<(), ClusterError> {
        self.change(|members| members.remove(id))
    }

    /// Replaces the whole membership in one step: endpoints whose ids stay keep their live state, and what the operator said
    /// of them with [`set_admin_state`](Self::set_admin_state) still holds.
    ///
    /// # Errors
    /// [`ClusterError::Duplicate`] when two have the same id; nothing is changed then.
    pub fn replace(&self, endpoints: Vec<Endpoint<B>>) -> Result<(), ClusterError> {
        self.change(|members| members.replace(endpoints))
    }

    /// Sets the weight of an endpoint; 0 counts as 1.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] when there is no such endpoint.
    pub fn set_weight(&self, id: &EndpointId, weight: u32) -> Result<(), ClusterError> {
        self.change(|members| members.edit(id, |endpoint| endpoint.weight(weight)))
    }

    /// Sets what the operator wants of an endpoint: [`Ready`](AdminState::Ready), [`Drain`](AdminState::Drain) (no new
    /// sessions; requests in flight go on) or [`Maintenance`](AdminState::Maintenance) (nothing at all, as nginx's `down`; the
    /// endpoint keeps its place in the mapping of the hash policies). The state holds through every change of membership,
    /// until it is set again or the endpoint is removed.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] when there is no such endpoint.
    pub fn set_admin_state(&self, id: &EndpointId, state: AdminState) -> Result<(), ClusterError> {
        self.change(|members| members.set_admin_state(id, state))
    }

    /// How everything stands, as plain values.
    pub fn status(&self) -> ClusterStatus {
        let view = self.inner.view.read();
        ClusterStatus::of(&view, &*self.inner.balancer, self.inner.panic.allowed)
    }

    /// Every endpoint with its backend, for whoever watches over them.
    pub(crate) fn members(&self) -> Vec<(Arc<Member>, Arc<B>)> {
        let view = self.inner.view.read();
        let pairs = |group: &Group<B>| -> Vec<_> {
            let members = group.layout.members.iter().map(|listed| Arc::clone(&listed.member));
            members.zip(group.handles.backends().cloned()).collect()
        };
        [pairs(&view.primary), pairs(&view.backup)].concat()
    }

    /// Comes when the membership changes after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.inner.changed.notified()
    }

    /// Makes the endpoints that a source of membership owns those that it wants now; returns the indexes of those that were
    /// left out because other endpoints have their id or address.
    pub(crate) fn reconcile(&self, owned: &AHashSet<EndpointId>, wanted: Vec<Wanted<B>>) -> Vec<usize> {
        let mut members = self.inner.members.lock();
        let refused = members.reconcile(owned, wanted);
        self.inner.view.publish(members.view(&*self.inner.balancer));
        self.inner.changed.notify_waiters();
        refused
    }

    /// From now on an endpoint serves only when `judge` has let it in: those that are there, and those that come.
    pub(crate) fn admit_by(&self, judge: u64) {
        self.inner.members.lock().set_judge(judge);
    }

    /// Endpoints need `judge` no more, unless another has come after it.
    pub(crate) fn admit_without(&self, judge: u64) {
        let mut members = self.inner.members.lock();
        if members.judge() == judge {
            members.set_judge(0);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Members<B>) -> Result<(), ClusterError>) -> Result<(), ClusterError> {
        let mut members = self.inner.members.lock();
        change(&mut members)?;
        self.inner.view.publish(members.view(&*self.inner.balancer));
        self.inner.changed.notify_waiters();
        Ok(())
    }
}

impl<B> Clone for Cluster<B> {
    fn clone(&self) -> Self {
        Cluster { inner: Arc::clone(&self.inner) }
    }
}

impl<B> fmt::Debug for Cluster<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("status", &self.status()).finish()
    }
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// The cluster has no endpoints.
    #[error("the cluster has no endpoints")]
    Empty,
    /// Every endpoint is out of service, ejected, at its limit, or was tried already.
    #[error("no endpoint can serve the request")]
    NoneFit,
}

/// Why a cluster was not built or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Two endpoints with one id.
    #[error("there is already an endpoint {0}")]
    Duplicate(EndpointId),
    /// No endpoint with this id.
    #[error("there is no endpoint {0}")]
    Unknown(EndpointId),
    /// A text that cannot be an id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
}
