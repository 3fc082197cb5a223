//! The settings of a `kylin.properties` that a front end can use.

use std::time::Duration;

use crate::discovery::{DiscoveredNode, InvalidNode};
use crate::endpoint::Roles;
use crate::kylin::MetadataUrl;
use crate::kylin::properties::{Properties, PropertyError, ServerAddr};

/// Kylin up to 4 raises a shorter `kylin.query.timeout-seconds` to this.
const MIN_QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much longer the proxy waits for a response than Kylin's query timeout.
const HEAD_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);
/// How long the proxy waits for a response if Kylin's queries have no timeout.
const UNLIMITED_HEAD_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A Kylin cluster as its `kylin.properties` describes it.
///
/// | property | becomes |
/// |---|---|
/// | `kylin.server.cluster-servers-with-mode`, else `kylin.server.cluster-mode-{all,query,job}`, else `kylin.server.cluster-servers` | the [nodes](Self::nodes) and their roles |
/// | `kylin.server.mode`, `kylin.server.host-address` | the roles of this one node, if the list has none |
/// | `kylin.query.timeout-seconds` | the [timeout of a response](Self::head_timeout) |
/// | `kylin.metadata.url` | the [reference](crate::probe::MetastoreCheck::reference) of the metastore check |
/// | `kylin.env.zookeeper-*`, `kylin.server.self-discovery-enabled`, `kylin.server.cluster-name` | the ZooKeeper where nodes register |
///
/// ```
/// use kylin_lb::discovery::KylinConfig;
/// use kylin_lb::kylin::properties::Properties;
/// use std::time::Duration;
///
/// let text = "kylin.server.cluster-mode-query=q1:7070,q2:7070\nkylin.server.cluster-mode-job=j1:7070\n\
///             kylin.query.timeout-seconds=600";
/// let config = KylinConfig::from_properties(&Properties::parse("kylin.properties", text)?)?;
/// assert_eq!((config.nodes()[2].address(), config.nodes()[2].roles().to_string()), ("j1:7070", "job".into()));
/// assert_eq!(config.head_timeout(), Some(Duration::from_secs(610)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct KylinConfig {
    nodes: Vec<DiscoveredNode>,
    metadata_url: Option<MetadataUrl>,
    query_timeout: Option<Duration>,
    #[cfg(feature = "zookeeper")]
    zookeeper: Option<Registrations>,
}

/// The error for properties that do not describe a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKylinConfig {
    /// A property is invalid.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// The address of a node is invalid.
    #[error(transparent)]
    Node(#[from] InvalidNode),
}

impl KylinConfig {
    /// Reads the cluster that `properties` describe.
    ///
    /// # Errors
    /// [`InvalidKylinConfig`] for the first invalid property, with its position.
    pub fn from_properties(properties: &Properties) -> Result<Self, InvalidKylinConfig> {
        Ok(KylinConfig {
            nodes: nodes(properties)?,
            metadata_url: properties.metadata_url()?,
            query_timeout: properties.query_timeout()?,
            #[cfg(feature = "zookeeper")]
            zookeeper: Registrations::from_properties(properties)?,
        })
    }

    /// Returns the nodes, each once, in the order of the file. The list is empty if the file leaves
    /// the nodes to discovery.
    pub fn nodes(&self) -> &[DiscoveredNode] {
        &self.nodes
    }

    /// Returns `kylin.metadata.url`, if it is set.
    pub fn metadata_url(&self) -> Option<&MetadataUrl> {
        self.metadata_url.as_ref()
    }

    /// Returns how long to wait for a response: 10 s longer than Kylin's query timeout, and a day
    /// if Kylin sets no limit (`0`).
    ///
    /// Returns `None` if the file does not set a timeout. Kylin 5 then has a limit of 300 s, which
    /// matches the crate's default of 310 s; older versions have no limit.
    pub fn head_timeout(&self) -> Option<Duration> {
        self.query_timeout.map(|limit| match limit {
            Duration::ZERO => UNLIMITED_HEAD_TIMEOUT,
            limit => limit.max(MIN_QUERY_TIMEOUT) + HEAD_TIMEOUT_MARGIN,
        })
    }

    /// Makes the endpoint of a node over HTTP/1.1, with the [timeout](Self::head_timeout) from the
    /// file. The node may come from another source.
    ///
    /// # Errors
    /// [`InvalidEndpoint`](crate::backend::http1::InvalidEndpoint) for an address that the backend
    /// does not accept.
    #[cfg(feature = "client")]
    pub fn endpoint(
        &self,
        node: &DiscoveredNode,
    ) -> Result<crate::Endpoint<crate::HttpBackend>, crate::backend::http1::InvalidEndpoint> {
        let backend = crate::HttpBackend::builder(node.address())?;
        let backend = match self.head_timeout() {
            Some(timeout) => backend.head_timeout(timeout),
            None => backend,
        };
        Ok(node.endpoint(backend.build()?)?)
    }

    /// Returns the ZooKeeper where the nodes register, if the file implies that they do.
    ///
    /// Kylin 3 and 4 register below the name of the cluster, with self-discovery or with the job
    /// scheduler that elects a leader. A file with neither, and without nodes, is assumed to belong
    /// to Kylin 5. Kylin 5 registers below the id of its metastore, which is inferred.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`](crate::discovery::zookeeper::InvalidZooKeeper) if ZooKeeper does not
    /// accept a server or path of the file.
    #[cfg(feature = "zookeeper")]
    pub fn zookeeper(
        &self,
    ) -> Result<Option<crate::discovery::ZooKeeper>, crate::discovery::zookeeper::InvalidZooKeeper> {
        let Some(Registrations { servers, base, cluster, layouts }) = &self.zookeeper else { return Ok(None) };
        let zookeeper = crate::discovery::ZooKeeper::parse(servers)?.base_path(base)?.cluster(cluster)?;
        Ok(Some(zookeeper.layouts(layouts.iter().copied())))
    }
}

fn nodes(properties: &Properties) -> Result<Vec<DiscoveredNode>, InvalidKylinConfig> {
    let own = match properties.host_address()? {
        Some(address) => Some((address, properties.server_mode()?)),
        None => None,
    };
    let own_roles = |server: &ServerAddr| own.as_ref().filter(|(own, _)| own.is_at(server)).map(|(_, roles)| *roles);
    let mut nodes: Vec<DiscoveredNode> = Vec::new();
    for server in properties.cluster_servers()? {
        let roles = server.roles().or_else(|| own_roles(&server)).unwrap_or(Roles::ALL);
        let node = DiscoveredNode::new(&server.to_string())?.with_source("kylin.properties");
        match nodes.iter_mut().find(|known| known.address() == node.address()) {
            // Kylin 5 may list a node under each of its modes.
            Some(known) => *known = known.clone().with_roles(known.roles().and(roles)),
            None => nodes.push(node.with_roles(roles)),
        }
    }
    Ok(nodes)
}

/// The place where nodes register in ZooKeeper.
#[cfg(feature = "zookeeper")]
#[derive(Debug, Clone)]
struct Registrations {
    servers: String,
    base: String,
    cluster: String,
    layouts: Vec<crate::discovery::zookeeper::Layout>,
}

#[cfg(feature = "zookeeper")]
impl Registrations {
    fn from_properties(properties: &Properties) -> Result<Option<Self>, PropertyError> {
        use crate::discovery::zookeeper::Layout;

        let Some(servers) = properties.zookeeper_servers()? else { return Ok(None) };
        let chroot = properties.zookeeper_chroot()?;
        let at = |base: &str, cluster: String, layouts| {
            let (servers, base) = (servers.join(","), format!("{chroot}{base}"));
            Ok(Some(Registrations { servers, base, cluster, layouts }))
        };
        if properties.self_discovery()? || properties.job_scheduler()? == Some(100) {
            let root = properties.zookeeper_root()?;
            let (base, cluster) = root.rsplit_once('/').unwrap_or(("", &root));
            return at(base, cluster.to_owned(), vec![Layout::Kylin30, Layout::Kylin31]);
        }
        match properties.metadata_url()? {
            Some(url) if properties.cluster_servers()?.is_empty() => {
                at("/kylin", url.unique_id(), vec![Layout::Kylin5])
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> KylinConfig {
        KylinConfig::from_properties(&Properties::parse("kylin.properties", text).unwrap()).unwrap()
    }

    fn shown(text: &str) -> Vec<String> {
        config(text).nodes().iter().map(|node| format!("{} {}", node.address(), node.roles())).collect()
    }

    #[test]
    fn nodes_and_roles_are_read_from_every_form_of_the_list() {
        let list = "kylin.server.cluster-servers=A:7070,b,u:p@c:1\n";
        assert_eq!(shown(list), ["a:7070 all", "b:7070 all", "c:1 all"]);
        assert_eq!(
            shown(&format!("{list}kylin.server.mode=query\nkylin.server.host-address=B:7070")),
            ["a:7070 all", "b:7070 query", "c:1 all"]
        );
        assert_eq!(shown("kylin.server.cluster-servers-with-mode=a:1:query,b:2:job"), ["a:1 query", "b:2 job"]);
        assert_eq!(
            shown("kylin.server.cluster-mode-query=a:1,b:1\nkylin.server.cluster-mode-job=b:1,c:1"),
            ["a:1 query", "b:1 all", "c:1 job"]
        );
        assert_eq!(shown("kylin.server.mode=job"), [""; 0]);
    }

    #[test]
    fn the_response_timeout_is_longer_than_the_query_timeout() {
        let timeout = |value: &str| config(&format!("kylin.query.timeout-seconds={value}")).head_timeout();
        assert_eq!(timeout("300"), Some(Duration::from_secs(310)));
        assert_eq!(timeout("5"), Some(Duration::from_secs(70)));
        assert_eq!(timeout("0"), Some(Duration::from_secs(86_400)));
        assert_eq!(config("").head_timeout(), None);
    }

    #[test]
    fn an_error_names_the_place_of_the_property() {
        let error = |text: &str| {
            let properties = Properties::parse("kylin.properties", text).unwrap();
            KylinConfig::from_properties(&properties).unwrap_err().to_string()
        };
        let message = error("\nkylin.metadata.url=x@jdbc,url=${DB}");
        assert!(
            message.starts_with("kylin.properties:2: kylin.metadata.url: expected a value without variables"),
            "{message}"
        );
        assert!(error("kylin.server.cluster-servers=a:b").contains("cluster-servers: expected host:port"));
        assert!(error("kylin.server.cluster-servers=\u{e9}:1").contains("expected host:port"));
        assert!(error("kylin.query.timeout-seconds=soon").contains("a whole number of seconds"));
    }

    #[cfg(feature = "zookeeper")]
    #[test]
    fn the_zookeeper_path_is_that_where_kylin_registers() {
        let location = |text: &str| {
            let Registrations { servers, base, cluster, layouts } = config(text).zookeeper?;
            assert!(config(text).zookeeper().unwrap().is_some());
            Some(format!("{servers}{base}/{cluster} {layouts:?}"))
        };
        let zookeeper =
            "kylin.env.zookeeper-connect-string=z1:2181,z2\nkylin.metadata.url=prod@jdbc,url=jdbc:mysql://db/k?x\n";
        let with = |text: &str| location(&format!("{zookeeper}{text}"));
        let kylin3 = |base: &str| Some(format!("z1:2181,z2{base}/prod [Kylin30, Kylin31]"));
        assert_eq!(with("kylin.server.self-discovery-enabled=true"), kylin3("/kylin"));
        assert_eq!(with("kylin.job.scheduler.default=100\nkylin.env.zookeeper-base-path=/k/l"), kylin3("/k/l"));
        assert_eq!(with(""), Some("z1:2181,z2/kylin/prod_jdbc_mysql___db_k [Kylin5]".to_owned()));
        assert_eq!(with("kylin.server.cluster-servers=a:1"), None);
        assert_eq!(location("kylin.server.self-discovery-enabled=true"), None);
        let chroot = "kylin.env.zookeeper-connect-string=z/ch\nkylin.server.self-discovery-enabled=true";
        assert_eq!(location(chroot).as_deref(), Some("z/ch/kylin/kylin_metadata [Kylin30, Kylin31]"));
    }
}
