use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;
use crate::setting::InvalidSetting;

/// Sends a repeated query to the endpoint that has run it before and has it cached. The method is
/// consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016) over
/// [`QueryKeys::affinity`](crate::QueryKeys::affinity).
///
/// Rendezvous hashing of ids and weights gives every key an order of preference over the endpoints.
/// Every front end finds the same order, and an endpoint that leaves moves only its own keys. The
/// request goes to the first endpoint in that order that is below its limit:
///
/// - An endpoint with [`max_in_flight`](crate::Endpoint::max_in_flight) is below its limit while it
///   has a free slot.
/// - The limit of any other endpoint is its share: the load factor times the mean number of
///   requests in flight for its weight, including this request. (In its slow start an endpoint has
///   a smaller share but the same keys.)
///
/// If queries [wait](crate::admission::QueueRules) and no endpoint has a free slot, that share is
/// the limit of every endpoint. So a query waits for the endpoint that has its result, unless far
/// more queries wait there than elsewhere.
///
/// So one popular query cannot overload a node. The next endpoint in its order serves the excess,
/// and only two or three nodes compute the query.
///
/// # When it harms
///
/// If nodes keep no results, a query gains nothing from returning to its node. Examples are
///
/// - Kylin 2.x-4.x with `kylin.query.cache-enabled=false`;
/// - Kylin 5 with its query cache off;
/// - results that are too large for the cache;
/// - results that the next build makes stale before they are requested again.
///
/// The load is then spread less evenly than by [`LeastConn`](super::LeastConn), which has no such
/// preference. If rows depend on the user, each user has their own entries, and fewer queries find
/// one.
///
/// A pick takes time proportional to the number of endpoints. nginx has no such policy. The policy
/// abstains for a request without [query keys](crate::RequestView::query), so combine it with
/// another one:
///
/// ```
/// use kylin_lb::balance::{BalancerExt, LeastConn, QueryAffinity};
///
/// let policy = QueryAffinity::new().or(LeastConn::new());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct QueryAffinity {
    factor_percent: u32,
}

impl QueryAffinity {
    /// Returns the policy with a load factor of 2. That suits a proxy that executes identical
    /// queries once ([`single_flight`](crate::proxy::ProxyBuilder::single_flight), the default),
    /// because a popular query is then in flight once for each user.
    pub fn new() -> Self {
        QueryAffinity { factor_percent: 200 }
    }

    /// Sets the load factor of endpoints without a limit, rounded to 0.01. A factor near 1 spreads
    /// better; a higher one keeps more queries on their first node. Choose 1.25 to 1.5 for a proxy
    /// that sends each of several identical queries to a node.
    ///
    /// # Errors
    /// [`InvalidSetting`] if `factor` is not within 1 to 1000.
    pub fn load_factor(self, factor: f64) -> Result<Self, InvalidSetting> {
        InvalidSetting::unless((1.0..=1000.0).contains(&factor), "load_factor", "1 to 1000")?;
        Ok(QueryAffinity { factor_percent: (factor * 100.0).round() as u32 })
    }
}

impl Default for QueryAffinity {
    fn default() -> Self {
        QueryAffinity::new()
    }
}

impl Balancer for QueryAffinity {
    fn reads_fingerprint(&self) -> bool {
        false
    }

    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let key = request.query()?.affinity;
        let (in_flight, weights) = from.iter().fold((1, 0), |(in_flight, weights), candidate| {
            (in_flight + u128::from(candidate.in_flight()), weights + u128::from(candidate.effective_weight()))
        });
        // An endpoint's share is factor * in_flight * weight / weights, rounded up. One more
        // request fits if the requests in flight are below the share before rounding.
        let budget = in_flight * u128::from(self.factor_percent);
        let is_within_share = |candidate: Candidate<'c>| {
            u128::from(candidate.in_flight()) * 100 * weights < budget * u128::from(candidate.effective_weight())
        };
        let free = from.rendezvous_where(key, |candidate| match candidate.max_in_flight() {
            Some(limit) => candidate.in_flight() < limit.get(),
            None => is_within_share(candidate),
        });
        free.or_else(|| from.rendezvous_where(key, is_within_share))
    }
}
