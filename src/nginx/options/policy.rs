use std::sync::Arc;

use super::{InvalidOption, one_of};
use crate::balance::{Balancer, BalancerExt, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};

/// The name of a policy in an option: `round-robin`, `least-conn`, `ip-hash`, `random-two` or `query-affinity`.
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
    /// Returns the policy.
    pub fn balancer(self) -> Arc<dyn Balancer> {
        match self {
            PolicyName::RoundRobin => Arc::new(RoundRobin::new()),
            PolicyName::LeastConn => Arc::new(LeastConn::new()),
            PolicyName::IpHash => Arc::new(IpHash::new()),
            PolicyName::RandomTwo => Arc::new(RandomTwo::new()),
            PolicyName::QueryAffinity => Arc::new(QueryAffinity::new().or(LeastConn::new())),
        }
    }
}

named!(PolicyName, NAMES);
