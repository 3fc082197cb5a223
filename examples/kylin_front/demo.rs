//! Demo nodes in this process.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Served};

use crate::nodes::Node;

/// Kylin nodes that share a metastore but no sessions.
#[derive(Clone)]
pub struct Demo {
    nodes: Arc<Vec<(KylinNode, Served)>>,
}

impl Demo {
    pub async fn start(count: usize, version: Dialect) -> Result<Self, Box<dyn Error>> {
        let metastore = Metastore::new();
        let mut nodes = Vec::new();
        for number in 1..=count {
            let name = format!("node-{number}");
            let node = KylinNode::new(&name).kylin_version(version).metastore(&metastore).jvm_route(&name);
            let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await?;
            nodes.push((node, served));
        }
        Ok(Demo { nodes: Arc::new(nodes) })
    }

    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.iter().map(|(node, served)| Node::demo(node.name(), served.addr())).collect()
    }
}

/// Returns commands to paste into a shell.
pub fn commands(front: SocketAddr) -> String {
    format!(
        r#"
log in, and query with the session; it stays with its node:
  curl -s -c cookies -u ADMIN:KYLIN -X POST http://{front}/kylin/api/user/authentication
  curl -s -b cookies -H 'Content-Type: application/json' -d '{{"sql":"select 1","project":"learn_kylin"}}' http://{front}/kylin/api/query
see the balancing (the first cell of a result is the node's name):
  for i in 1 2 3 4 5 6; do curl -s -u ADMIN:KYLIN -H 'Content-Type: application/json' -d '{{"sql":"select 1","project":"learn_kylin"}}' http://{front}/kylin/api/query | grep -o 'node-[0-9]*' | head -1; done
"#
    )
}
