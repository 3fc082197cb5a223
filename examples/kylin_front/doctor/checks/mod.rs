//! The checks.

mod cluster;
mod each;
mod metastore;

use super::node::{Facts, Node};

pub use self::cluster::{
    cluster_servers, discovery, job_engine, known, limit_discovered, own_roles, storage, users, version,
};
pub use self::each::{clock, probe, reachable, timeouts};
pub use self::metastore::{clusters, metastore};

/// A node with the facts that it has shown.
pub type Seen = (Node, Facts);

fn responding(nodes: &[Seen]) -> impl Iterator<Item = &Seen> {
    nodes.iter().filter(|(node, facts)| !node.is_down && facts.unreachable.is_none())
}

pub fn by_upstream(nodes: &[Seen]) -> Vec<Vec<&Seen>> {
    let mut upstreams: Vec<Vec<&Seen>> = Vec::new();
    for seen in responding(nodes) {
        match upstreams.iter_mut().find(|upstream| upstream[0].0.cluster == seen.0.cluster) {
            Some(upstream) => upstream.push(seen),
            None => upstreams.push(vec![seen]),
        }
    }
    upstreams
}

pub fn nodes_of<'n>(nodes: &[&'n Seen]) -> Vec<&'n str> {
    nodes.iter().map(|(node, _)| &*node.id).collect()
}

fn ids(nodes: &[&Seen]) -> String {
    nodes_of(nodes).join(", ")
}
