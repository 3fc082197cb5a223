//! The nodes of the cluster: from the command line, ZooKeeper, Kylin's properties, or demo nodes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::discovery::{
    self as sources, DiscoveredNode, Discovery, DiscoveryHandle, FileList, KylinFile, SourceState,
};
use kylin_lb::health::HealthState;
use kylin_lb::observe::Watch;
use kylin_lb::probe::{MetastoreCheck, MetastoreChecker};

use crate::args::{Args, Source};
use crate::demo::Demo;
use crate::nodes::{self, NodeSettings};

/// A cluster, and the tasks that it needs, which stop when they are dropped.
pub struct Members {
    pub cluster: Cluster,
    pub discovery: Option<DiscoveryHandle>,
    pub demo: Option<Demo>,
    pub metastore: Option<MetastoreChecker>,
    /// The list of nodes that is watched.
    list: Option<PathBuf>,
    /// Whether the only node in Kylin's properties has a name that each machine has for itself.
    pub is_own_name: bool,
}

impl Members {
    fn fixed(cluster: Cluster) -> Self {
        Members { cluster, discovery: None, demo: None, metastore: None, list: None, is_own_name: false }
    }

    pub async fn find(source: Source, args: &Args) -> Result<Self, Box<dyn Error>> {
        match source {
            Source::Demo(count, version) => {
                let demo = Demo::start(count, version).await?;
                Ok(Members { demo: Some(demo.clone()), ..Members::fixed(nodes::cluster(&demo.nodes(), None, args)?) })
            }
            Source::Nodes(nodes) => Ok(Members::fixed(nodes::cluster(&nodes, None, args)?)),
            #[cfg(feature = "zookeeper")]
            Source::ZooKeeper(source) => {
                Ok(Members::fixed(nodes::cluster(&[], None, args)?).watch(*source, args, None))
            }
            Source::List(path) => {
                let members = Members::fixed(nodes::cluster(&[], None, args)?).watch(FileList::new(&path), args, None);
                Ok(Members { list: Some(path), ..members })
            }
            Source::Properties(path) => Members::of_properties(&path, args).await,
            Source::Config(_) | Source::Httpd(_) => Err("a configuration has its own clusters".into()),
        }
    }

    async fn of_properties(path: &Path, args: &Args) -> Result<Self, Box<dyn Error>> {
        let file = properties_file(path);
        let config = file.read().await?;
        let members = Members::fixed(nodes::cluster(&[], None, args)?);
        let head_timeout = config.head_timeout();
        let is_own_name = matches!(config.nodes(), [only] if only.address().starts_with("localhost:"));
        #[cfg(feature = "zookeeper")]
        let mut members = match config.zookeeper()? {
            Some(registry) if config.nodes().is_empty() => members.watch(registry, args, head_timeout),
            _ => members.watch(file, args, head_timeout),
        };
        #[cfg(not(feature = "zookeeper"))]
        let mut members = members.watch(file, args, head_timeout);
        members.is_own_name = is_own_name;
        let reference = config.metadata_url().cloned();
        members.metastore =
            reference.map(|url| MetastoreCheck::new().reference(url).start(&members.cluster)).transpose()?;
        Ok(members)
    }

    /// Waits until nodes are listed and one may serve, so that the first clients are not refused,
    /// but for at most `limit`.
    pub async fn wait(&self, limit: Duration) {
        let one_serves = async {
            if let Some(discovery) = &self.discovery {
                // A registry without nodes may soon have some. A list file is final.
                let is_empty_list = |source| self.list.is_some() && source == SourceState::Empty;
                discovery.wait_until(|status| status.updates > 0 || is_empty_list(status.source)).await;
            }
            if self.metastore.is_some() {
                while self.cluster.status().endpoints.iter().all(|endpoint| endpoint.health == HealthState::Unhealthy) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        // A timeout is not an error here, because the log names the missing nodes.
        _ = tokio::time::timeout(limit, one_serves).await;
    }

    /// Returns an error if the list of nodes cannot currently be read. The last good list is used
    /// meanwhile.
    pub fn check(&self) -> Result<(), String> {
        let Some(path) = &self.list else { return Ok(()) };
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("--nodes-file {}: {error}", path.display()))?;
        let parsed = FileList::parse(&text);
        let place = |error: &sources::InvalidLine| format!("{}:{}:{}", path.display(), error.line(), error.column());
        match parsed {
            Ok(nodes) if nodes.is_empty() => Err(format!("--nodes-file {}", no_node_in(path))),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("--nodes-file {}: {error}", place(&error))),
        }
    }

    /// Returns why there are no nodes yet, if their source has listed none.
    pub fn missing(&self) -> Option<String> {
        let status = self.discovery.as_ref()?.status();
        let other = || status.error.unwrap_or_else(|| "the source does not respond".into());
        (status.updates == 0).then(|| self.empty_list().unwrap_or_else(other))
    }

    /// Returns the problem of a list of nodes that is empty.
    pub fn empty_list(&self) -> Option<String> {
        let (list, discovery) = self.list.as_ref().zip(self.discovery.as_ref())?;
        let is_empty = discovery.status().source == SourceState::Empty;
        is_empty.then(|| format!("--nodes-file {}", no_node_in(list)))
    }

    /// Adds the cluster and the source of its nodes to `watch`.
    pub fn watch_state(&self, watch: Watch) -> Watch {
        let watch = watch.cluster("kylin", &self.cluster);
        match &self.discovery {
            Some(discovery) => watch.discovery("nodes", discovery),
            None => watch,
        }
    }

    /// Follows `source`.
    fn watch(mut self, source: impl Discovery, args: &Args, head_timeout: Option<Duration>) -> Self {
        let defaults = args.default_settings();
        let make = move |found: &DiscoveredNode| NodeSettings::default().endpoint(found, head_timeout, &defaults);
        let discovery = sources::watch(&self.cluster, source, make);
        self.discovery = Some(discovery);
        self
    }
}

/// Returns the message about a list without a node.
pub fn no_node_in(list: &Path) -> String {
    format!(
        "{}: no node is listed; a line is HOST:PORT and settings, such as 10.0.0.1:7070 role=query weight=2",
        list.display()
    )
}

/// Returns `kylin.properties`, and `kylin.properties.override` beside it if it exists.
pub fn properties_file(path: &Path) -> KylinFile {
    let mut overriding = path.as_os_str().to_owned();
    overriding.push(".override");
    KylinFile::new(path).overridden_by(overriding)
}
