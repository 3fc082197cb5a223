use std::sync::Arc;

use super::{InvalidOption, one_of};
use crate::balance::{Balancer, BalancerExt, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};

/// The name of a policy in an option: `round-robin`, `least-conn`, `ip-hash`, `random-two` or
/// `query-affinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyName {
    /// [`RoundRobin`].
    RoundRobin,
    /// [`LeastConn`].
    LeastConn,
    /// [`IpHash`].
    IpHash,
    /// [`RandomTwo`].
    RandomTwo,
    /// [`QueryAffinity`], and [`LeastConn`] for requests without a query.
    QueryAffinity,
}

const NAMES: [(&str, PolicyName); 5] = [
    ("round-robin", PolicyName::RoundRobin),
    ("least-conn", PolicyName::LeastConn),
    ("ip-hash", PolicyName::IpHash),
    ("random-two", PolicyName::RandomTwo),
    ("query-affinity", PolicyName::QueryAffinity),
];

impl PolicyName {
    /// Returns the policy, for a proxy with or without [single
    /// flight](crate::proxy::ProxyBuilder::single_flight). Without it, [`QueryAffinity`] has a load
    /// factor of 1.25 instead of 2, because identical queries are then in flight many times.
    pub fn balancer(self, single_flight: bool) -> Arc<dyn Balancer> {
        match self {
            PolicyName::RoundRobin => Arc::new(RoundRobin::new()),
            PolicyName::LeastConn => Arc::new(LeastConn::new()),
            PolicyName::IpHash => Arc::new(IpHash::new()),
            PolicyName::RandomTwo => Arc::new(RandomTwo::new()),
            PolicyName::QueryAffinity => {
                let affinity = match single_flight {
                    true => QueryAffinity::new(),
                    // 1.25 is a valid factor.
                    false => QueryAffinity::new().load_factor(1.25).unwrap_or_default(),
                };
                Arc::new(affinity.or(LeastConn::new()))
            }
        }
    }
}

named!(PolicyName, NAMES);
