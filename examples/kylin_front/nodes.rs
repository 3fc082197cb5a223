//! The cluster: its nodes and its policy.

use std::num::NonZeroU32;

use kylin_lb::cluster::ClusterError;
use kylin_lb::discovery::DiscoveredNode;
use kylin_lb::endpoint::Roles;
use kylin_lb::nginx::PolicyName;
use kylin_lb::{Cluster, Endpoint, HttpBackend};

use crate::args::Args;

/// A node named on the command line.
pub struct Node {
    node: DiscoveredNode,
    /// The jvmRoute of the node.
    route: Option<String>,
}

/// Parses `[NAME@]HOST:PORT[=ROLE]`, separated by commas.
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
        let node = DiscoveredNode::new(address).map_err(|error| error.to_string())?.with_roles(roles);
        let node = match name {
            Some(name) => node.with_id(name).map_err(|error| format!("{address}: {error}"))?,
            None => node,
        };
        Ok(Node { node, route: name.map(str::to_owned) })
    }

    /// Returns a demo node.
    pub fn demo(name: &str, address: std::net::SocketAddr) -> Self {
        let node = DiscoveredNode::new(&address.to_string()).expect("a socket address is valid");
        Node { node: node.with_id(name).expect("a demo name is a valid id"), route: Some(name.to_owned()) }
    }
}

/// Builds the cluster of these nodes; without any where discovery adds them later.
pub fn cluster(nodes: &[Node], args: &Args) -> Result<Cluster, Box<dyn std::error::Error>> {
    let mut endpoints = Vec::new();
    for Node { node, route } in nodes {
        let endpoint = with_ejection_rule(node.http()?, args.outlier);
        endpoints.push(match route {
            Some(route) => endpoint.route(route),
            None => endpoint,
        });
    }
    let policy = args.policy.unwrap_or(PolicyName::LeastConn);
    let cluster = Cluster::builder().endpoints(endpoints).balancer(policy.balancer());
    Ok(cluster.panic_mode(args.panic).build().map_err(|error: ClusterError| format!("--nodes: {error}"))?)
}

/// Sets nginx's `max_fails=1` where the outlier rule, which is the default, shall not eject.
pub fn with_ejection_rule(endpoint: Endpoint<HttpBackend>, outlier: bool) -> Endpoint<HttpBackend> {
    if outlier { endpoint } else { endpoint.max_fails(Some(NonZeroU32::MIN)) }
}
