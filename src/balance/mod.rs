//! Policies: they pick the endpoint that serves a request.
//!
//! A policy sees [`Candidates`] and chooses one. It never checks whether an endpoint is healthy,
//! full, draining or already attempted: [`Candidates::is_eligible`] does that in one place for
//! every policy. It never reads session cookies either, because [affinity](crate::session) takes
//! precedence over it.
//!
//! | policy | nginx | picks | when to choose it | cost of a pick |
//! |---|---|---|---|---|
//! | [`RoundRobin`] | (default) | the next in smooth weighted order | requests cost about the same | constant |
//! | [`LeastConn`] | `least_conn` | the fewest requests in flight for its weight | queries take very different times | up to 64 endpoints |
//! | [`RandomTwo`] | `random two` | the less loaded of two drawn at random | many endpoints, several front ends | constant |
//! | [`RandomOne`] | `random` | one drawn at random by weight | as `random` in nginx | constant |
//! | [`QueryAffinity`] | | the endpoint that ran this query before, unless it is above its share | repeated queries, result caches | all endpoints |
//! | [`IpHash::new`] | `ip_hash`, bit-exact | by the client's /24 or IPv6 address | no cookies, the mapping of nginx | constant |
//! | [`IpHash::whole_address`] | | by the client's whole address, by rendezvous | no cookies, an even spread | all endpoints |
//! | [`HashKeyed::modulo`] | `hash KEY`, bit-exact | by a key, modulo the total weight | the mapping of nginx | constant |
//! | [`HashKeyed::consistent`] | `hash KEY consistent`, bit-exact | by a key, on a ketama ring | stable mappings | a binary search |
//! | [`a.or(b)`](BalancerExt::or) | | by `b` if `a` abstains | | |

mod attempted;
mod candidates;
mod hash_key;
mod ip_hash;
mod ketama;
mod key;
mod least_conn;
mod or;
mod query_affinity;
mod random;
mod round_robin;
mod table;

use std::fmt::Debug;
use std::sync::Arc;

pub use attempted::Attempted;
pub use candidates::{Candidate, Candidates};
pub use hash_key::HashKeyed;
pub use ip_hash::IpHash;
pub use key::{HashKey, RequestKey, key_fn};
pub use least_conn::LeastConn;
pub use or::Or;
pub use query_affinity::QueryAffinity;
pub use random::{RandomOne, RandomTwo};
pub use round_robin::RoundRobin;
pub use table::Table;

use crate::request::RequestView;

/// A policy that picks an endpoint.
///
/// The cluster calls `pick` for every attempt of every request, on all cores concurrently, so it
/// must not block, lock or allocate. The candidates include endpoints that are not eligible, for
/// example those that this request was sent to before.
///
/// ```
/// use kylin_lb::balance::{Balancer, Candidate, Candidates};
/// use kylin_lb::RequestView;
///
/// /// Picks the first eligible endpoint.
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
    /// Chooses one of the eligible candidates, or abstains with `None`. If the policy abstains or
    /// chooses a candidate that is not eligible, the next in smooth weighted round-robin order
    /// serves.
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>>;

    /// Returns whether `pick` reads [`RequestView::query`]. The proxy computes the keys of a query
    /// only if it does. Default: yes, which is always correct.
    fn reads_query(&self) -> bool {
        true
    }

    /// Returns whether `pick` reads the [fingerprint](crate::QueryKeys::fingerprint) of a query.
    /// The proxy computes it only then, because it takes longer than the other key. Default: the
    /// value of [`reads_query`](Self::reads_query), which is always correct.
    fn reads_fingerprint(&self) -> bool {
        self.reads_query()
    }

    /// Derives a table for `pick` (a hash ring, for instance) from the members of a new view. The
    /// cluster calls it once per change of membership, and never while it picks. `pick` finds the
    /// result in [`Candidates::table`], so the table always matches the members.
    fn prepare(&self, _members: &Candidates<'_>) -> Table {
        Table::none()
    }
}

impl Balancer for Arc<dyn Balancer> {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        (**self).pick(request, from)
    }

    fn reads_query(&self) -> bool {
        (**self).reads_query()
    }

    fn reads_fingerprint(&self) -> bool {
        (**self).reads_fingerprint()
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        (**self).prepare(members)
    }
}

/// Combines policies.
pub trait BalancerExt: Balancer + Sized {
    /// Returns a policy that asks `other` if this one abstains.
    fn or<B: Balancer>(self, other: B) -> Or<Self, B> {
        Or::new(self, other)
    }
}

impl<B: Balancer> BalancerExt for B {}

/// The trait is dyn compatible.
const _: fn(&dyn Balancer) = |_| {};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policies_that_read_queries_have_their_keys_computed() {
        let by_path = || HashKeyed::modulo(RequestKey::PathAndQuery);
        assert!(!RoundRobin::new().reads_query() && !LeastConn::new().reads_query() && !IpHash::new().reads_query());
        assert!(!RandomOne::new().reads_query() && !RandomTwo::new().reads_query());
        // The key of a hash policy may be a closure that reads the query.
        assert!(QueryAffinity::new().reads_query() && by_path().reads_query());
        assert!(LeastConn::new().or(QueryAffinity::new()).reads_query());
        assert!(!QueryAffinity::new().or(LeastConn::new()).reads_fingerprint() && by_path().reads_fingerprint());
        assert!(QueryAffinity::new().or(by_path()).reads_fingerprint());
        assert!(!LeastConn::new().or(RoundRobin::new()).reads_query());
        let shared: Arc<dyn Balancer> = Arc::new(LeastConn::new());
        assert!(!shared.reads_query());
    }
}
