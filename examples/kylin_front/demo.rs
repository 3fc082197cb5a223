//! Demo nodes in this process.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use kylin_lb::balance::RoundRobin;
use kylin_lb::testing::kylin::{KylinNode, Metastore, Served};
use kylin_lb::{Cluster, Endpoint, Proxy};

/// Kylin nodes that share a metastore.
pub struct Demo {
    nodes: Vec<(KylinNode, Served)>,
}

impl Demo {
    pub async fn start(count: usize) -> Result<Self, Box<dyn Error>> {
        let metastore = Metastore::new();
        let mut nodes = Vec::new();
        for number in 1..=count {
            let node = KylinNode::new(format!("node-{number}")).metastore(&metastore);
            let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await?;
            nodes.push((node, served));
        }
        Ok(Demo { nodes })
    }

    pub fn proxy(&self) -> Result<Proxy, Box<dyn Error>> {
        let mut cluster = Cluster::builder().balancer(RoundRobin::new());
        for (node, served) in &self.nodes {
            cluster = cluster.endpoint(Endpoint::http(node.name(), &served.addr().to_string())?);
        }
        Ok(Proxy::builder(cluster.build()?).build())
    }
}

/// Commands to paste.
pub fn commands(front: SocketAddr) -> String {
    format!(
        r#"
log in:
  curl -i -u ADMIN:KYLIN -X POST http://{front}/kylin/api/user/authentication
query:
  curl -s -u ADMIN:KYLIN -H 'Content-Type: application/json' -d '{{"sql":"select 1","project":"learn_kylin"}}' http://{front}/kylin/api/query
see the balancing (the first cell of a result is the node's name):
  for i in 1 2 3 4 5 6; do curl -s -u ADMIN:KYLIN -H 'Content-Type: application/json' -d '{{"sql":"select 1","project":"learn_kylin"}}' http://{front}/kylin/api/query | grep -o 'node-[0-9]*'; done
"#
    )
}
