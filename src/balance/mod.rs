//! Policies: which endpoint serves a request.
//!
//! A policy sees [`Candidates`] and chooses one. It never asks whether an endpoint is healthy, full, drained or already
//! tried: [`Candidates::is_eligible`] answers all of that in one place, the same for every policy. It never sees cookies of
//! sessions either; affinity goes before it.
//!
//! | policy | nginx | chooses |
//! |---|---|---|
//! | [`RoundRobin`] | (default) | in smooth weighted order |
//! | [`IpHash::new`] | `ip_hash` | by the client's /24 or IPv6 address, bit-exact |
//! | [`IpHash::whole_address`] | | by the client's whole address, by rendezvous |
//! | [`LeastConn`] | `least_conn` | the fewest requests in flight for its weight |
//! | [`Hash::new`] | `hash KEY` | by a key, modulo, bit-exact |
//! | [`Hash::consistent`] | `hash KEY consistent` | by a key, on a ketama ring, bit-exact |
//! | [`Random`] | `random` | one drawn at random by weight |
//! | [`RandomTwo`] | `random two` | the less loaded of two drawn at random |
//! | [`LeastWork`] | | the least expected work outstanding for its weight |
//! | [`QueryAffinity`] | | the one that has answered this query before, unless it is busier than its share |
//! | [`a.or(b)`](BalancerExt::or) | | by `b` where `a` abstains |

mod candidates;
mod hash_key;
mod ip_hash;
mod ketama;
mod key;
mod least;
mod least_conn;
mod least_work;
mod or;
mod query_affinity;
mod random;
mod random_two;
mod round_robin;

use std::fmt::Debug;
use std::sync::Arc;

pub use candidates::{Candidate, Candidates, Table, Tried};
pub use hash_key::Hash;
pub use ip_hash::IpHash;
pub use key::{HashKey, RequestKey, key_fn};
pub use least_conn::LeastConn;
pub use least_work::LeastWork;
pub use or::Or;
pub use query_affinity::QueryAffinity;
pub use random::Random;
pub use random_two::RandomTwo;
pub use round_robin::RoundRobin;

use crate::endpoint::Work;
use crate::request::RequestView;

/// A policy that picks an endpoint.
///
/// `pick` is called for every attempt of every request, on every core at once: it must not block, lock or allocate.
/// Endpoints that were tried before by the same request are among the candidates but not eligible.
///
/// ```
/// use kylin_lb::balance::{Balancer, Candidate, Candidates};
/// use kylin_lb::RequestView;
///
/// /// Always the first endpoint that can serve.
/// #[derive(Debug)]
/// struct First;
///
/// impl Balancer for First {
///     fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
///         from.iter().next()
///     }
/// }
/// ```
pub trait Balancer: Debug + Send + Sync + 'static {
    /// Chooses one of the eligible candidates, or abstains with `None`; the cluster then takes the next in smooth weighted
    /// round-robin order. A candidate that is not eligible counts as abstaining.
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>>;

    /// What `request` is expected to cost, for a policy that weighs requests: asked once the request has its slot, and kept
    /// in its lease. Until the lease ends the amount is part of the endpoint's [outstanding work](Candidate::outstanding_work),
    /// and then the work's [`Learner`](crate::endpoint::Learner) hears how long it took. Like `pick`, it must not block,
    /// lock or allocate. By default nothing is expected, and nothing recorded.
    fn work(&self, _request: &RequestView<'_>) -> Option<Work> {
        None
    }

    /// Derives what `pick` wants ready-made (a hash ring, say) from the members of a new view. Called once per change of
    /// membership, off the path of requests; `pick` finds the result in [`Candidates::table`], so that table and members can
    /// never disagree.
    fn prepare(&self, _members: &Candidates<'_>) -> Table {
        Table::none()
    }
}

impl Balancer for Arc<dyn Balancer> {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        (**self).pick(request, from)
    }

    fn work(&self, request: &RequestView<'_>) -> Option<Work> {
        (**self).work(request)
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        (**self).prepare(members)
    }
}

/// What every policy can be combined into.
pub trait BalancerExt: Balancer + Sized {
    /// This policy, and where it abstains, `other`.
    fn or<B: Balancer>(self, other: B) -> Or<Self, B> {
        Or::new(self, other)
    }
}

impl<B: Balancer> BalancerExt for B {}

/// A `dyn Balancer` can be had: the trait stays object-safe.
const _: fn(&dyn Balancer) = |_| {};
