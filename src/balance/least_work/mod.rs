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

/// What every request counts for at least: the cheapest answer keeps a node busy for a moment too.
const LEAST: Duration = Duration::from_millis(1);

/// The endpoint with the least expected work outstanding for its weight; of equals, the one whose turn is next in smooth
/// weighted order.
///
/// Of ten queries in flight on one node and ten on another, those that take two seconds weigh more than those that take a
/// tenth. How long a query takes is learned from the answers of queries of the same shape
/// ([`QueryKeys::shape`](crate::QueryKeys::shape)), in a table of fixed size that made-up shapes can neither fill nor wipe;
/// a shape that is not known is taken for an average one, and so every request weighs the same until something is known.
/// Requests without [query keys](crate::RequestView::query) are learned as one shape of their own.
///
/// The load of an endpoint is the sum, over its requests in flight, of
/// - what the request is expected to take, and
/// - how long it has run already, because what has outlived its expectation will, with the heavy tail that query times have,
///   go on for about as long again;
///
/// each of them no further than the mean of all queries. A node runs several queries at once, so one that takes minutes keeps
/// one of its slots busy and not the node: were it counted in full, the node's other slots would stand empty for minutes.
/// (The bound on the second is kept for the sum, not for each.)
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
        let now = from.now()?;
        let horizon = self.queries.overall();
        least(from, |candidate| {
            let work = candidate.outstanding_work(now);
            let run = work.elapsed.min(horizon.saturating_mul(work.requests));
            u64::try_from((work.expected + run).as_micros()).unwrap_or(u64::MAX)
        })
    }

    fn work(&self, request: &RequestView<'_>) -> Option<Work> {
        let bounded = |expected: Duration| expected.min(self.queries.overall()).max(LEAST);
        Some(match request.query() {
            Some(keys) => Work::new(bounded(self.queries.expected(keys.shape)), keys.shape, self.queries.clone()),
            None => Work::new(bounded(self.others.duration()), 0, self.others.clone()),
        })
    }
}

impl fmt::Debug for LeastWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeastWork").field("mean_of_queries", &self.queries.overall()).finish_non_exhaustive()
    }
}
