use std::future::pending;

use super::{DiscoveredNode, Discovery, DiscoveryError};

/// A fixed list of nodes.
#[derive(Debug, Clone)]
pub struct StaticList {
    /// `None` once the list has been yielded.
    nodes: Option<Vec<DiscoveredNode>>,
}

impl StaticList {
    /// Creates a source that yields these nodes, in this order, once.
    pub fn new(nodes: impl IntoIterator<Item = DiscoveredNode>) -> Self {
        StaticList { nodes: Some(nodes.into_iter().collect()) }
    }
}

impl Discovery for StaticList {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        match self.nodes.take() {
            Some(nodes) => Ok(nodes),
            None => pending().await,
        }
    }
}
