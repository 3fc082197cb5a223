//! Where the cluster's nodes come from, and what keeps watch over them.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use kylin_lb::discovery::{self, DiscoveredNode, Discovery, DiscoveryHandle, KylinConfig, KylinFile};
use kylin_lb::health::HealthState;
use kylin_lb::probe::{MetastoreCheck, MetastoreChecker};
use kylin_lb::{Cluster, Endpoint, HttpBackend};

use crate::args::{Args, Source};
use crate::demo::Demo;
use crate::nodes;

/// How long the first news of the nodes is waited for.
const FIRST_NEWS: Duration = Duration::from_secs(10);

/// A cluster and all that lives as long as it.
pub struct Members {
    pub cluster: Cluster,
    pub follow: Option<DiscoveryHandle>,
    pub demo: Option<Demo>,
    pub metastore: Option<MetastoreChecker>,
}

impl Members {
    fn fixed(cluster: Cluster) -> Self {
        Members { cluster, follow: None, demo: None, metastore: None }
    }

    pub async fn find(source: Source, args: &Args) -> Result<Self, Box<dyn Error>> {
        match source {
            Source::Demo(count, version) => {
                let demo = Demo::start(count, version).await?;
                Ok(Members { demo: Some(demo.clone()), ..Members::fixed(nodes::cluster(&demo.nodes(), args)?) })
            }
            Source::Nodes(nodes) => Ok(Members::fixed(nodes::cluster(&nodes, args)?)),
            Source::ZooKeeper(source) => {
                Members::fixed(nodes::cluster(&[], args)?).watch(*source, args, DiscoveredNode::http).await
            }
            Source::Properties(path) => Members::of_properties(&path, args).await,
            Source::Config(_) => Err("a configuration has its own clusters".into()),
        }
    }

    /// `kylin.properties`, and `kylin.properties.override` beside it, where there is one.
    async fn of_properties(path: &Path, args: &Args) -> Result<Self, Box<dyn Error>> {
        let mut overriding = path.as_os_str().to_owned();
        overriding.push(".override");
        let file = KylinFile::new(path).overridden_by(overriding);
        let site = file.read().await?;
        let members = Members::fixed(nodes::cluster(&[], args)?);
        let made = site.clone();
        let make = move |found: &DiscoveredNode| KylinConfig::endpoint(&made, found);
        let mut members = match site.zookeeper()? {
            Some(registry) if site.nodes().is_empty() => members.watch(registry, args, make).await?,
            _ => members.watch(file, args, make).await?,
        };
        // A node of another cluster would be a mistake in the file, or in the node.
        let reference = site.metadata_url().cloned();
        members.metastore = reference.map(|url| MetastoreCheck::new().reference(url).start(&members.cluster));
        members.serves().await;
        Ok(members)
    }

    /// Waits a while until a node was looked at and may serve, so that the first clients are not refused.
    async fn serves(&self) {
        let one_serves = async {
            while self.cluster.status().endpoints.iter().all(|endpoint| endpoint.operational == HealthState::Unhealthy)
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(FIRST_NEWS, one_serves).await.is_err() {
            eprintln!("kylin_front: no node is known to be of the metastore that the properties name");
        }
    }

    /// Goes by what `source` says, and waits a while until it says something.
    async fn watch<E>(
        mut self,
        source: impl Discovery,
        args: &Args,
        make: impl Fn(&DiscoveredNode) -> Result<Endpoint<HttpBackend>, E> + Send + 'static,
    ) -> Result<Self, Box<dyn Error>>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let outlier = args.outlier;
        let make = move |found: &DiscoveredNode| make(found).map(|endpoint| nodes::watched(endpoint, outlier));
        let follow = discovery::watch(&self.cluster, source, make);
        let news = follow.wait_until(|status| status.updates > 0);
        if tokio::time::timeout(FIRST_NEWS, news).await.is_err() {
            let why = follow.status().error.unwrap_or_else(|| "it names none".into());
            eprintln!("kylin_front: there are no nodes yet: {why}");
        }
        self.follow = Some(follow);
        Ok(self)
    }
}
