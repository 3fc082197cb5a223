//! A queue per endpoint with a limit. Queries wait for a slot of the node that the policy or their
//! session chose.

mod costs;
mod credentials;
mod order;
mod pace;
mod slots;
mod slowness;
mod ticket;
mod users;

use std::any::Any;
use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;

pub(crate) use self::credentials::{Claims, Credential};
use self::order::Order;
use self::ticket::AGEING;
pub(crate) use self::ticket::{SlotState, Ticket};
use crate::clock::{Clock, Epoch, InvalidDuration, at_least};
use crate::cluster::Cluster;
use crate::endpoint::{Lease, Live, SlotOwner};

/// The maximum wait of a query that is not expected to be slow.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);

/// The rules for queries that wait for endpoints with a [limit](crate::Endpoint::max_in_flight).
/// See the guide on [waiting](crate::docs::waiting).
///
/// | setting | default |
/// |---|---|
/// | [`max_wait`](Self::max_wait) | 60 s, and longer for slow queries |
/// | [`max_waiting`](Self::max_waiting) | 64 per endpoint with a limit |
/// | [`slow_weights`](Self::slow_weights) | off |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct QueueRules {
    max_wait: Option<Duration>,
    max_waiting: Option<NonZeroUsize>,
    slow_weights: bool,
}

impl QueueRules {
    /// Returns the default rules.
    pub fn new() -> Self {
        QueueRules { max_wait: None, max_waiting: None, slow_weights: false }
    }

    /// Sets the maximum wait of every query for its slot (nginx: `timeout` of `queue`), at least
    /// 1 ms. After that the client gets a 503 with `Retry-After`. The time starts anew for each
    /// attempt.
    ///
    /// Default: 60 s, and longer for slow queries, because quicker ones may pass them. A query with
    /// an expected duration of more than 2 s may wait 30 times that duration, but not longer than
    /// the [timeout of its response](crate::backend::Timeouts::head).
    ///
    /// # Errors
    /// [`InvalidDuration`] if `time` is shorter than 1 ms.
    pub fn max_wait(mut self, time: Duration) -> Result<Self, InvalidDuration> {
        self.max_wait = Some(at_least(Duration::from_millis(1), time, "longest wait for a slot")?);
        Ok(self)
    }

    /// Sets how many queries may wait in the whole cluster (nginx: the number of `queue`). Default:
    /// `None`, which means 64 per endpoint with a limit.
    ///
    /// If there are more, the query with the longest expected duration gets a 503 with
    /// `Retry-After`; among equals, the last. If some users hold more than an eighth of the places,
    /// it is the most expensive query of these users.
    pub fn max_waiting(mut self, queries: Option<NonZeroUsize>) -> Self {
        self.max_waiting = queries;
        self
    }

    /// Sets whether an endpoint whose node is slower than the others gets a lower
    /// [weight](crate::Endpoint::weight). Default: off.
    ///
    /// Only queries at endpoints with a limit are measured. The duration of each query is divided
    /// by the earlier mean duration for its fingerprint, up to 10. A node is measured by the mean
    /// of these ratios over its last 128 queries. If this mean is more than 1.5 times the median of
    /// all nodes, the weight is divided by the quotient, up to 10. The median of an even number of
    /// nodes is the lower middle value. Weights change at most every 100 ms, and only for nodes
    /// that have executed 32 queries.
    ///
    /// The reduced weight applies as during a [slow start](crate::health::SlowStart), and combines
    /// with it and with the operator's weight. It applies to round robin and to policies that
    /// compare loads. Policies by hash and bound sessions ignore it. The guide on
    /// [waiting](crate::docs::waiting) explains when it helps.
    pub fn slow_weights(mut self, on: bool) -> Self {
        self.slow_weights = on;
        self
    }
}

impl Default for QueueRules {
    fn default() -> Self {
        QueueRules::new()
    }
}

/// The queues of a cluster, which all proxies of the cluster share.
pub(crate) struct Queues {
    epoch: Epoch,
    hasher: RandomState,
    /// Whether any endpoint has a limit.
    is_active: AtomicBool,
    order: Mutex<Order>,
}

impl Queues {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let (is_active, order) = (AtomicBool::new(false), Mutex::default());
        Queues { epoch: Epoch::new(clock), hasher: RandomState::new(), is_active, order }
    }

    /// Returns the queues of `cluster`, which follow `rules` from now on.
    pub(crate) fn of<B>(cluster: &Cluster<B>, rules: QueueRules, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let make = || Arc::new(Queues::new(Arc::clone(clock)));
        let queues: Arc<dyn Any + Send + Sync> = cluster.slots(|| make());
        // A cluster has only this kind of slot owner.
        let queues = queues.downcast().unwrap_or_else(|_| make());
        queues.set_rules(rules);
        queues
    }

    /// Returns the number that represents a user in a ticket, or represents credentials: a keyed
    /// hash of the name, the session or the address.
    pub(crate) fn user(&self, identity: impl Hash) -> u64 {
        self.hasher.hash_one(identity)
    }

    /// Returns the keyed hash that represents credentials.
    pub(crate) fn credential(&self, credential: impl Hash) -> Credential {
        Credential(self.hasher.hash_one(credential))
    }

    /// Records that a node has accepted the credentials of a user.
    pub(crate) fn accept(&self, credential: Credential, user: u64) {
        self.with(|order, _| order.accept(credential, user));
    }

    fn set_rules(&self, QueueRules { max_wait, max_waiting, slow_weights }: QueueRules) {
        self.with(|order, _| {
            order.max_wait = max_wait;
            order.set_slow_weights(slow_weights);
            order.set_max_waiting(max_waiting.map(NonZeroUsize::get));
        });
    }

    /// Returns whether any endpoint has a limit, so that queries may have to wait.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// Returns the ticket of a query that arrives now. `stop_keys` are the [keys](Self::stop_key)
    /// of its ids, or 0.
    pub(crate) fn ticket(&self, claims: Claims, fingerprint: Option<u64>, stop_keys: [u64; 2]) -> Ticket {
        self.with(|order, now| {
            let user = order.accepted.user(&claims);
            let unproven = claims.provable.filter(|credential| !order.accepted.has(*credential));
            Ticket { stop_keys, ..order.ticket(user, unproven, fingerprint, now) }
        })
    }

    /// Restarts the time limit of the wait.
    pub(crate) fn restart(&self, ticket: &mut Ticket) {
        ticket.since = self.with(|_, now| now);
    }

    /// Returns the key by which `user` may stop a query with this id.
    pub(crate) fn stop_key(&self, id: &str, user: u64) -> u64 {
        self.hasher.hash_one((id, user)).max(1)
    }

    /// Ends the wait of the queries with this key.
    pub(crate) fn stop(&self, key: u64) {
        self.with(|order, _| order.stop(key));
    }

    /// Puts the request of `lease` into the queue of its endpoint, unless it gets a slot at once or
    /// the endpoint has no limit.
    pub(crate) fn enter(self: &Arc<Self>, lease: &mut Lease, ticket: Ticket) -> SlotState {
        if lease.limit().is_none() {
            return SlotState::Go;
        }
        let (token, turn) = self.with(|order, now| order.enter(lease.live(), ticket, now));
        lease.wait_for_slot(Arc::clone(self) as Arc<dyn SlotOwner>, token);
        if turn == SlotState::Go {
            lease.take_slot();
        }
        turn
    }

    /// Completes when the request of `lease` has a slot, or no longer waits.
    pub(crate) fn poll_slot(&self, lease: &mut Lease, cx: &mut Context<'_>) -> Poll<SlotState> {
        let turn = lease.claim().map_or(SlotState::Go, |token| self.with(|order, _| order.poll(token, cx.waker())));
        match turn {
            SlotState::Wait => return Poll::Pending,
            SlotState::Go => lease.take_slot(),
            SlotState::Refused | SlotState::Stopped => {}
        }
        Poll::Ready(turn)
    }

    /// Returns how long a query may still wait. `head_timeout` is the timeout of its backend.
    pub(crate) fn time_left(&self, ticket: Ticket, head_timeout: Duration) -> Duration {
        let (max_wait, waited) = self.with(|order, now| (order.max_wait, now.saturating_sub(ticket.since)));
        let until_key = Duration::from_micros(ticket.cost.saturating_mul(AGEING));
        let max_wait = max_wait.unwrap_or_else(|| DEFAULT_MAX_WAIT.max(until_key.min(head_timeout)));
        max_wait.saturating_sub(Duration::from_micros(waited))
    }

    /// Calls `work` under the lock, and then wakes the requests whose turn has changed, and the
    /// tasks that watch weights.
    fn with<T>(&self, work: impl FnOnce(&mut Order, u64) -> T) -> T {
        let (result, woken, reweighted) = {
            let mut order = self.order.lock();
            // Read under the lock, so that time never goes backwards between two calls.
            (work(&mut order, self.epoch.micros()), std::mem::take(&mut order.wakers), order.reweighted.take())
        };
        for waker in woken {
            waker.wake();
        }
        if let Some(live) = reweighted {
            live.health.slowed.notify();
        }
        result
    }
}

impl SlotOwner for Queues {
    fn set_limits(&self, limits: &[(Arc<Live>, Option<NonZeroU32>)]) {
        self.is_active.store(limits.iter().any(|(_, limit)| limit.is_some()), Ordering::Relaxed);
        self.with(|order, now| order.set_limits(limits, now));
    }

    fn end(&self, token: u64, succeeded: bool) {
        self.with(|order, now| order.leave(token, succeeded, now));
    }
}
