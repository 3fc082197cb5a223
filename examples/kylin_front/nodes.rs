//! The cluster: its nodes, its policy, and what watches over it.

use kylin_lb::balance::{BalancerExt, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};
use kylin_lb::cluster::{ClusterBuilder, ClusterError};
use kylin_lb::discovery::DiscoveredNode;
use kylin_lb::endpoint::Roles;
use kylin_lb::health::Outlier;
use kylin_lb::probe::{HealthCheck, HealthChecker, Probe};
use kylin_lb::{Cluster, Endpoint, HttpBackend};

use crate::args::Args;

/// A node that was named on the command line.
pub struct Node {
    found: DiscoveredNode,
    /// Its jvmRoute.
    route: Option<String>,
}

#[derive(Clone, Copy)]
pub enum Policy {
    RoundRobin,
    LeastConn,
    IpHash,
    RandomTwo,
    QueryAffinity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Probing {
    Version,
    Health,
    Tcp,
    None,
}

/// `[NAME@]HOST:PORT[=ROLE]`, separated by commas.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    text.split(',').map(|node| Node::parse(node.trim())).collect()
}

impl Node {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('@') {
            Some((name, rest)) => (Some(name), rest),
            None => (None, text),
        };
        let (address, roles) = match rest.split_once('=') {
            Some((address, role)) => (address, role.parse::<Roles>().map_err(|error| format!("{address}: {error}"))?),
            None => (rest, Roles::ALL),
        };
        let found = DiscoveredNode::new(address).map_err(|error| error.to_string())?.with_roles(roles);
        let found = match name {
            Some(name) => found.with_id(name).map_err(|error| format!("{address}: {error}"))?,
            None => found,
        };
        Ok(Node { found, route: name.map(str::to_owned) })
    }

    /// A demo node.
    pub fn demo(name: &str, address: std::net::SocketAddr) -> Self {
        let found = DiscoveredNode::new(&address.to_string()).expect("an address is one");
        Node { found: found.with_id(name).expect("node-1 can be an id"), route: Some(name.to_owned()) }
    }
}

impl Policy {
    pub const NAMES: [(&str, Self); 5] = [
        ("round-robin", Policy::RoundRobin),
        ("least-conn", Policy::LeastConn),
        ("ip-hash", Policy::IpHash),
        ("random-two", Policy::RandomTwo),
        ("query-affinity", Policy::QueryAffinity),
    ];

    fn of(self, cluster: ClusterBuilder<HttpBackend>) -> ClusterBuilder<HttpBackend> {
        match self {
            Policy::RoundRobin => cluster.balancer(RoundRobin::new()),
            Policy::LeastConn => cluster.balancer(LeastConn::new()),
            Policy::IpHash => cluster.balancer(IpHash::new()),
            Policy::RandomTwo => cluster.balancer(RandomTwo::new()),
            Policy::QueryAffinity => cluster.balancer(QueryAffinity::new().or(LeastConn::new())),
        }
    }
}

/// The cluster of these nodes; of none, where they are still to be found.
pub fn cluster(nodes: &[Node], args: &Args) -> Result<Cluster, Box<dyn std::error::Error>> {
    let mut endpoints = Vec::new();
    for Node { found, route } in nodes {
        let endpoint = watched(found.http()?, args.outlier);
        endpoints.push(match route {
            Some(route) => endpoint.route(route),
            None => endpoint,
        });
    }
    let cluster = args.policy.of(Cluster::builder().endpoints(endpoints));
    let cluster = if args.outlier { cluster.outlier(Outlier::new()) } else { cluster };
    Ok(cluster.build().map_err(|error: ClusterError| format!("--nodes: {error}"))?)
}

/// With one rule for ejections, not two.
pub fn watched(endpoint: Endpoint<HttpBackend>, outlier: bool) -> Endpoint<HttpBackend> {
    if outlier { endpoint.max_fails(None) } else { endpoint }
}

impl Probing {
    pub const NAMES: [(&str, Self); 4] =
        [("version", Probing::Version), ("health", Probing::Health), ("tcp", Probing::Tcp), ("none", Probing::None)];

    /// Begins to probe; what is returned is to be kept as long.
    pub fn start(self, cluster: &Cluster) -> Option<HealthChecker> {
        let probe = match self {
            Probing::Version => Probe::kylin_version(),
            Probing::Health => Probe::kylin5_health(),
            Probing::Tcp => Probe::tcp(),
            Probing::None => return None,
        };
        Some(HealthCheck::new(probe).start(cluster))
    }

    pub fn name(self) -> &'static str {
        Probing::NAMES.iter().find(|(_, probe)| *probe == self).map_or("", |(name, _)| name)
    }
}
