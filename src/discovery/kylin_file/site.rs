//! What Kylin's properties say of a cluster, in the words of this crate.

use std::time::Duration;

use crate::discovery::{DiscoveredNode, InvalidNode};
use crate::endpoint::Roles;
use crate::kylin::metadata_url::MetadataUrl;
use crate::kylin::properties::{Properties, PropertyError, ServerAddr};

/// Kylin up to 4 raises a shorter `kylin.query.timeout-seconds` to this.
const LEAST_TIMEOUT: Duration = Duration::from_secs(60);
/// How much longer than a query may take its answer is waited for.
const MARGIN: Duration = Duration::from_secs(10);
/// How long an answer is waited for where Kylin sets its queries no limit.
const NO_LIMIT: Duration = Duration::from_secs(86_400);

/// A Kylin cluster as its `kylin.properties` describes it.
///
/// | property | becomes |
/// |---|---|
/// | `kylin.server.cluster-servers-with-mode`, else `kylin.server.cluster-mode-{all,query,job}`, else `kylin.server.cluster-servers` | the [nodes](Self::nodes) and what they do |
/// | `kylin.server.mode`, `kylin.server.host-address` | what this one node does, where the list does not say |
/// | `kylin.query.timeout-seconds` | the [time for an answer](Self::head_timeout) |
/// | `kylin.metadata.url` | the [reference](crate::probe::MetastoreCheck::reference) of the metastore |
/// | `kylin.env.zookeeper-*`, `kylin.server.self-discovery-enabled`, `kylin.server.cluster-name` | the ZooKeeper to ask for nodes |
///
/// ```
/// use kylin_lb::discovery::KylinSite;
/// use kylin_lb::kylin::properties::Properties;
/// use std::time::Duration;
///
/// let text = "kylin.server.cluster-mode-query=q1:7070,q2:7070\nkylin.server.cluster-mode-job=j1:7070\n\
///             kylin.query.timeout-seconds=600";
/// let site = KylinSite::of(&Properties::parse("kylin.properties", text)?)?;
/// assert_eq!((site.nodes()[2].address(), site.nodes()[2].roles().to_string()), ("j1:7070", "job".into()));
/// assert_eq!(site.head_timeout(), Some(Duration::from_secs(610)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct KylinSite {
    nodes: Vec<DiscoveredNode>,
    metadata_url: Option<MetadataUrl>,
    query_timeout: Option<Duration>,
    #[cfg(feature = "zookeeper")]
    zookeeper: Option<Registry>,
}

/// Where in ZooKeeper nodes register.
#[cfg(feature = "zookeeper")]
#[derive(Debug, Clone)]
struct Registry {
    servers: String,
    base: String,
    cluster: String,
    layouts: Vec<crate::discovery::zookeeper::Layout>,
}

/// Properties of which no cluster can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSite {
    /// A property is not as it should be.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// A node is not at an address of the network.
    #[error(transparent)]
    Node(#[from] InvalidNode),
}

impl KylinSite {
    /// What `properties` say.
    ///
    /// # Errors
    /// [`InvalidSite`] for the first of those properties that is wrong, with its place.
    pub fn of(properties: &Properties) -> Result<Self, InvalidSite> {
        Ok(KylinSite {
            nodes: nodes(properties)?,
            metadata_url: properties.metadata_url()?,
            query_timeout: properties.query_timeout()?,
            #[cfg(feature = "zookeeper")]
            zookeeper: Registry::of(properties)?,
        })
    }

    /// The nodes, each once, in the order of the file; none where the file leaves them to discovery.
    pub fn nodes(&self) -> &[DiscoveredNode] {
        &self.nodes
    }

    pub(super) fn into_nodes(self) -> Vec<DiscoveredNode> {
        self.nodes
    }

    /// `kylin.metadata.url`, where it is set.
    pub fn metadata_url(&self) -> Option<&MetadataUrl> {
        self.metadata_url.as_ref()
    }

    /// How long to wait for a node's answer: 10 s more than a query may take, a day where Kylin sets no limit (`0`). None when the
    /// file does not say; Kylin 5 then has a limit of 300 s, older ones have none, and this crate's default of 310 s does.
    pub fn head_timeout(&self) -> Option<Duration> {
        self.query_timeout.map(|limit| if limit.is_zero() { NO_LIMIT } else { limit.max(LEAST_TIMEOUT) + MARGIN })
    }

    /// The endpoint of a node, of this file or found otherwise, over HTTP/1.1 with the time for an answer that the file says.
    ///
    /// # Errors
    /// [`InvalidEndpoint`](crate::backend::http1::InvalidEndpoint) for an address that the backend does not take.
    #[cfg(feature = "client")]
    pub fn endpoint(
        &self,
        found: &DiscoveredNode,
    ) -> Result<crate::Endpoint<crate::HttpBackend>, crate::backend::http1::InvalidEndpoint> {
        let backend = crate::HttpBackend::builder(found.address())?;
        let backend = match self.head_timeout() {
            Some(timeout) => backend.head_timeout(timeout),
            None => backend,
        };
        Ok(found.endpoint(backend.build())?)
    }

    /// The endpoints of all [nodes](Self::nodes), for a cluster that does not follow the file.
    ///
    /// # Errors
    /// [`InvalidEndpoint`](crate::backend::http1::InvalidEndpoint) as [`endpoint`](Self::endpoint).
    #[cfg(feature = "client")]
    pub fn endpoints(
        &self,
    ) -> Result<Vec<crate::Endpoint<crate::HttpBackend>>, crate::backend::http1::InvalidEndpoint> {
        self.nodes.iter().map(|found| self.endpoint(found)).collect()
    }

    /// The ZooKeeper that nodes register in, where the file says that they do: with self-discovery, or the job scheduler that elects
    /// a leader, as Kylin 3 and 4 do below the cluster's name; without these, and where the file names no nodes, as Kylin 5 does
    /// below the id of its metastore. That a file without either is Kylin 5's is inferred.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`](crate::discovery::zookeeper::InvalidZooKeeper) when a part of the file cannot be one of ZooKeeper's.
    #[cfg(feature = "zookeeper")]
    pub fn zookeeper(
        &self,
    ) -> Result<Option<crate::discovery::ZooKeeper>, crate::discovery::zookeeper::InvalidZooKeeper> {
        let Some(Registry { servers, base, cluster, layouts }) = &self.zookeeper else { return Ok(None) };
        let zookeeper = crate::discovery::ZooKeeper::parse(servers)?.base_path(base)?.cluster(cluster)?;
        Ok(Some(zookeeper.layouts(layouts.iter().copied())))
    }
}

fn nodes(properties: &Properties) -> Result<Vec<DiscoveredNode>, InvalidSite> {
    let own =
        properties.host_address()?.map(|own| Ok::<_, PropertyError>((own, properties.server_mode()?))).transpose()?;
    let own_roles = |server: &ServerAddr| own.as_ref().filter(|(own, _)| own.is_at(server)).map(|(_, roles)| *roles);
    let mut nodes: Vec<DiscoveredNode> = Vec::new();
    for server in properties.cluster_servers()? {
        let roles = server.roles().or_else(|| own_roles(&server)).unwrap_or(Roles::ALL);
        let found = DiscoveredNode::new(&server.to_string())?.with_source("kylin.properties");
        match nodes.iter_mut().find(|node| node.address() == found.address()) {
            // In the lists of Kylin 5 a node may stand under each of its modes.
            Some(node) => *node = node.clone().with_roles(node.roles().and(roles)),
            None => nodes.push(found.with_roles(roles)),
        }
    }
    Ok(nodes)
}

#[cfg(feature = "zookeeper")]
impl Registry {
    fn of(properties: &Properties) -> Result<Option<Self>, PropertyError> {
        use crate::discovery::zookeeper::Layout;

        let Some(servers) = properties.zookeeper_servers()? else { return Ok(None) };
        let (servers, chroot) = (servers.join(","), properties.zookeeper_chroot()?);
        if properties.self_discovery()? || properties.job_scheduler()? == Some(100) {
            let root = properties.zookeeper_root()?;
            let (base, cluster) = root.rsplit_once('/').unwrap_or(("", &root));
            let layouts = vec![Layout::Kylin30, Layout::Kylin31];
            return Ok(Some(Registry {
                servers,
                base: format!("{chroot}{base}"),
                cluster: cluster.to_owned(),
                layouts,
            }));
        }
        match properties.metadata_url()? {
            Some(url) if properties.cluster_servers()?.is_empty() => {
                let base = format!("{chroot}/kylin");
                Ok(Some(Registry { servers, base, cluster: url.unique_id(), layouts: vec![Layout::Kylin5] }))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(text: &str) -> KylinSite {
        KylinSite::of(&Properties::parse("kylin.properties", text).unwrap()).unwrap()
    }

    fn shown(text: &str) -> Vec<String> {
        site(text).nodes().iter().map(|node| format!("{} {}", node.address(), node.roles())).collect()
    }

    #[test]
    fn nodes_and_what_they_do_are_read_from_every_form_of_the_list() {
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
    fn an_answer_is_waited_for_longer_than_a_query_may_take() {
        let timeout = |value: &str| site(&format!("kylin.query.timeout-seconds={value}")).head_timeout();
        assert_eq!(timeout("300"), Some(Duration::from_secs(310)));
        assert_eq!(timeout("5"), Some(Duration::from_secs(70)));
        assert_eq!(timeout("0"), Some(Duration::from_secs(86_400)));
        assert_eq!(site("").head_timeout(), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let error = |text: &str| {
            let properties = Properties::parse("kylin.properties", text).unwrap();
            KylinSite::of(&properties).unwrap_err().to_string()
        };
        let said = error("\nkylin.metadata.url=x@jdbc,url=${DB}");
        assert!(
            said.starts_with("kylin.properties:2: kylin.metadata.url: expected a value without variables"),
            "{said}"
        );
        assert!(error("kylin.server.cluster-servers=a:b").contains("cluster-servers: expected host:port"));
        assert!(error("kylin.server.cluster-servers=\u{e9}:1").contains("expected host:port"));
        assert!(error("kylin.query.timeout-seconds=soon").contains("a whole number of seconds"));
    }

    #[cfg(feature = "zookeeper")]
    #[test]
    fn the_zookeeper_is_asked_where_kylin_registers() {
        let place = |text: &str| {
            let Registry { servers, base, cluster, layouts } = site(text).zookeeper?;
            assert!(site(text).zookeeper().unwrap().is_some());
            Some(format!("{servers}{base}/{cluster} {layouts:?}"))
        };
        let zookeeper =
            "kylin.env.zookeeper-connect-string=z1:2181,z2\nkylin.metadata.url=prod@jdbc,url=jdbc:mysql://db/k?x\n";
        let with = |text: &str| place(&format!("{zookeeper}{text}"));
        let kylin3 = |base: &str| Some(format!("z1:2181,z2{base}/prod [Kylin30, Kylin31]"));
        assert_eq!(with("kylin.server.self-discovery-enabled=true"), kylin3("/kylin"));
        assert_eq!(with("kylin.job.scheduler.default=100\nkylin.env.zookeeper-base-path=/k/l"), kylin3("/k/l"));
        assert_eq!(with(""), Some("z1:2181,z2/kylin/prod_jdbc_mysql___db_k [Kylin5]".to_owned()));
        assert_eq!(with("kylin.server.cluster-servers=a:1"), None);
        assert_eq!(place("kylin.server.self-discovery-enabled=true"), None);
        let chroot = "kylin.env.zookeeper-connect-string=z/ch\nkylin.server.self-discovery-enabled=true";
        assert_eq!(place(chroot).as_deref(), Some("z/ch/kylin/kylin_metadata [Kylin30, Kylin31]"));
    }
}
