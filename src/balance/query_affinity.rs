use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// Sends a repeated query to the endpoint that has answered it before, whose caches have it: consistent hashing with bounded
/// loads (Mirrokni, Thorup, Zadimoghaddam, 2016) over [`QueryKeys::affinity`](crate::QueryKeys::affinity).
///
/// Every key has an order of preference over the endpoints, by rendezvous hashing of their ids and weights: every front end
/// finds the same, and an endpoint that leaves moves only its own keys. The first in that order serves that is not above its
/// share, which is the load factor times the mean in flight for its weight, this request included. (In its slow start it has
/// less of a share, and the same keys.) So one popular query cannot overload a node: its next in order takes what is too
/// much, and only those two or three nodes compute it.
///
/// Abstains for a request without [query keys](crate::RequestView::query), and so is combined with another policy:
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
    /// With a load factor of 1.25: a node may have a quarter more in flight than the mean, which leaves most keys at home
    /// and keeps the busiest node close to the others.
    pub fn new() -> Self {
        QueryAffinity { factor_percent: 125 }
    }

    /// Sets the load factor, in steps of 0.01 and from 1 to 1000: nearer to 1 spreads better, higher keeps more queries
    /// where they were answered before. Values outside are taken for the nearest inside, and what is no number for 1.25.
    #[must_use]
    pub fn load_factor(mut self, factor: f64) -> Self {
        let factor = if factor.is_nan() { 1.25 } else { factor.clamp(1.0, 1000.0) };
        self.factor_percent = (factor * 100.0).round() as u32;
        self
    }
}

impl Default for QueryAffinity {
    fn default() -> Self {
        QueryAffinity::new()
    }
}

impl Balancer for QueryAffinity {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let key = request.query()?.affinity;
        let (in_flight, weights) = from.iter().fold((1, 0), |(in_flight, weights), candidate| {
            (in_flight + u128::from(candidate.in_flight()), weights + u128::from(candidate.effective_weight()))
        });
        // An endpoint's share is factor * in_flight * weight / weights, rounded up. One more fits below it when what is
        // there already is less than the share before rounding.
        let budget = in_flight * u128::from(self.factor_percent);
        from.rendezvous_where(key, |candidate| {
            u128::from(candidate.in_flight()) * 100 * weights < budget * u128::from(candidate.effective_weight())
        })
    }
}
