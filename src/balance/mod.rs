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
//! | [`HashKeyed::modulo`] | `hash KEY` | by a key, modulo, bit-exact |
//! | [`HashKeyed::consistent`] | `hash KEY consistent` | by a key, on a ketama ring, bit-exact |
//! | [`RandomOne`] | `random` | one drawn at random by weight |
//! | [`RandomTwo`] | `random two` | the less loaded of two drawn at random |
//! | [`QueryAffinity`] | | the one that has answered this query before, unless it is busier than its share |
//! | [`a.or(b)`](BalancerExt::or) | | by `b` where `a` abstains |

mod candidates;
mod hash_key;
mod ip_hash;
mod ketama;
mod key;
mod least;
mod least_conn;
mod or;
mod query_affinity;
mod random;
mod random_two;
mod round_robin;

use std::fmt::Debug;
use std::sync::Arc;

pub use candidates::{Attempted, Candidate, Candidates, Table};
pub use hash_key::HashKeyed;
pub use ip_hash::IpHash;
pub use key::{HashKey, RequestKey, key_fn};
pub use least_conn::LeastConn;
pub use or::Or;
pub use query_affinity::QueryAffinity;
pub use random::RandomOne;
pub use random_two::RandomTwo;
pub use round_robin::RoundRobin;

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
