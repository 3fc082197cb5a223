//! See [`LeastWork`]. The policy stands here, what it learns in `durations.rs`.

mod durations;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::durations::{Durations, Mean};
use super::least::least;
use super::{Balancer, Candidate, Candidates};
use crate::endpoint::Work;
use crate::request::RequestView;

/// How many mean durations a request in flight counts for, whatever is expected of it besides.
const MEANS: u64 = 2;

/// The endpoint with the least expected work outstanding for its weight; of equals, the one whose turn is next in smooth
/// weighted order.
///
/// Of ten queries in flight on one node and ten on another, those that take two seconds weigh more than those that take a
/// tenth. How long a query takes is learned from the answers of queries of the same shape
/// ([`QueryKeys::shape`](crate::QueryKeys::shape)), in a table of fixed size that made-up shapes can neither fill nor wipe;
/// a shape that is not known is taken for an average one, and so every request weighs the same until something is known.
/// Requests without [query keys](crate::RequestView::query) are learned as one shape of their own.
///
/// A request in flight counts, until it ends, for
/// - what it is expected to take, but no more than the mean of all queries. A node runs several queries at once, so one that
///   takes minutes keeps one of its slots busy and not the node: were it counted in full, the node's other slots would stand
///   empty for minutes;
/// - and twice that mean, whatever it is: for the slot it keeps, and because query times have a heavy tail, in which the one
///   that has outlived its expectation goes on for about as long again. So a wrong expectation misleads by a third of a
///   request, and never makes a stuck one weigh nothing.
///
/// In simulation (`benches/simulation`) expected work counted in full was worse than a mere count of requests, which is what the
/// bound is for; with it this policy and [`LeastConn`](super::LeastConn) came out level, so it pays only where shapes differ more
/// than they do there. The factor two is a choice, not a finding.
///
/// Among more than 64 endpoints some are looked at, and among equals each core takes turns for itself, as
/// [`LeastConn`](super::LeastConn) does.
///
/// ```
/// use kylin_lb::balance::LeastWork;
/// # use kylin_lb::{Backend, Body, SendError};
/// # struct Node;
/// # impl Backend for Node {
/// #     async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, SendError> { Ok(http::Response::default()) }
/// # }
/// let cluster = kylin_lb::Cluster::<Node>::builder().balancer(LeastWork::new()).build()?;
/// # Ok::<(), kylin_lb::cluster::ClusterError>(())
/// ```
#[derive(Clone)]
pub struct LeastWork {
    queries: Arc<Durations>,
    others: Arc<Mean>,
}

impl LeastWork {
    /// A policy that has learned nothing yet. Clones learn together.
    pub fn new() -> Self {
        LeastWork { queries: Arc::new(Durations::new(fastrand::u64(..))), others: Arc::default() }
    }
}

impl Default for LeastWork {
    fn default() -> Self {
        LeastWork::new()
    }
}

impl Balancer for LeastWork {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let each = micros(self.queries.overall()).saturating_mul(MEANS).max(1);
        least(from, |candidate| {
            let slots = u64::from(candidate.in_flight()).saturating_mul(each);
            slots.saturating_add(micros(candidate.outstanding_work()))
        })
    }

    fn work(&self, request: &RequestView<'_>) -> Option<Work> {
        let most = self.queries.overall();
        Some(match request.query() {
            Some(keys) => Work::new(self.queries.expected(keys.shape).min(most), keys.shape, self.queries.clone()),
            None => Work::new(self.others.duration().min(most), 0, self.others.clone()),
        })
    }
}

impl fmt::Debug for LeastWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeastWork").field("mean_of_queries", &self.queries.overall()).finish_non_exhaustive()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
