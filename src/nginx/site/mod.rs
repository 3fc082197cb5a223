//! A configuration brought to life: clusters for its upstreams, proxies for its locations.

mod affinity;
mod build;
mod builder;
#[cfg(feature = "server")]
mod limits;
mod serve;

use std::fmt;
use std::io;
use std::sync::Arc;

use http::{Request, Response};

pub use self::builder::SiteBuilder;
use super::config::Config;
use super::listen::ListenAddress;
use crate::ClientAddr;
use crate::body::Body;
use crate::cluster::{Cluster, ClusterError};
use crate::endpoint::InvalidId;
use crate::proxy::{Proxy, ProxyBuildError, TrustedProxies};
use crate::session::{InvalidCookie, InvalidSecret};

/// A front end made from an nginx configuration. Clones are handles to the same site.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use kylin_lb::nginx::{Config, Site};
///
/// let site = Site::new(Config::read("kylin.conf")?)?;
/// let server = site.server().threads(4).start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Site {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Parallel to the configuration's upstreams.
    clusters: Vec<Cluster>,
    /// By the number of the location.
    routes: Vec<Route>,
}

/// What a location was made into.
struct Route {
    trusted: TrustedProxies,
    /// None for a location that answers by itself.
    proxy: Option<Proxy>,
}

/// One address of a site, and what answers there. Clones are handles to the same site.
#[derive(Clone)]
pub struct SiteListener {
    site: Site,
    number: usize,
}

impl Site {
    /// Makes clusters and proxies. The names of servers are looked up now, as nginx does: a name with several addresses
    /// becomes as many endpoints.
    ///
    /// # Errors
    /// [`SiteError`] names the upstream and the server.
    pub fn new(config: Config) -> Result<Self, SiteError> {
        Self::builder(config).build()
    }

    /// Begins to make a site with what front ends of one address share, and no configuration can say.
    pub fn builder(config: Config) -> SiteBuilder {
        SiteBuilder::new(config)
    }

    /// The clusters and the names of their upstreams, in the order of the file.
    pub fn clusters(&self) -> impl ExactSizeIterator<Item = (&str, &Cluster)> {
        let Inner { config, clusters, .. } = &*self.inner;
        config.upstreams.iter().zip(clusters).map(|(upstream, cluster)| (upstream.name.as_str(), cluster))
    }

    /// The addresses that the configuration listens on, each once.
    pub fn listeners(&self) -> impl ExactSizeIterator<Item = SiteListener> {
        (0..self.inner.config.listeners.len()).map(|number| SiteListener { site: self.clone(), number })
    }

    /// A server that listens where the configuration says, with its limits on clients.
    #[cfg(feature = "server")]
    pub fn server(&self) -> crate::server::ServerBuilder<SiteListener> {
        let builder = self.listeners().fold(crate::server::Server::builder(), |builder, listener| {
            let listen = listener.listen();
            builder.listen(listen, listener)
        });
        limits::apply(&self.inner.config, &self.inner.config.listeners, builder)
    }

    /// A server that listens at `listen` and nowhere else, in place of the first address of the configuration: with the
    /// servers that are reached there, and its limits on clients.
    #[cfg(feature = "server")]
    pub fn server_on(&self, listen: crate::server::Listen) -> crate::server::ServerBuilder<SiteListener> {
        // A configuration has a server, and a server an address.
        let first = SiteListener { site: self.clone(), number: 0 };
        let builder = crate::server::Server::builder().listen(listen, first);
        limits::apply(&self.inner.config, &self.inner.config.listeners[..1], builder)
    }
}

impl SiteListener {
    /// Answers `request`, which came from `peer` to this address.
    pub async fn forward(&self, peer: impl Into<ClientAddr>, request: Request<Body>) -> Response<Body> {
        serve::forward(&self.site.inner, self.number, peer.into(), request).await
    }

    /// Where it listens.
    #[cfg(feature = "server")]
    pub fn listen(&self) -> crate::server::Listen {
        use crate::server::Listen;

        let listener = &self.site.inner.config.listeners[self.number];
        match &listener.address {
            ListenAddress::Tcp(address) if address.is_ipv6() && !listener.ipv6_only => Listen::DualStack(*address),
            ListenAddress::Tcp(address) => Listen::Tcp(*address),
            ListenAddress::Unix(path) => Listen::Unix(path.clone()),
        }
    }

    fn address(&self) -> &ListenAddress {
        &self.site.inner.config.listeners[self.number].address
    }
}

#[cfg(feature = "server")]
impl crate::server::Handler for SiteListener {
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self.forward(peer, request)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("clusters", &self.inner.clusters).finish_non_exhaustive()
    }
}

impl fmt::Debug for SiteListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteListener").field("address", self.address()).finish_non_exhaustive()
    }
}

/// Why a configuration that is correct cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// A server's name has no address.
    #[error("upstream {upstream}: host not found in server {server}")]
    HostNotFound {
        /// The upstream's name.
        upstream: String,
        /// The server as written.
        server: String,
        /// What the lookup said.
        source: io::Error,
    },
    /// A server cannot be an endpoint.
    #[error("upstream {upstream}: server {server} cannot be an endpoint")]
    Endpoint {
        /// The upstream's name.
        upstream: String,
        /// The server as written.
        server: String,
        /// Why.
        source: InvalidId,
    },
    /// The servers of an upstream cannot be a cluster.
    #[error("upstream {upstream} cannot be a cluster")]
    Cluster {
        /// The upstream's name.
        upstream: String,
        /// Why.
        source: ClusterError,
    },
    /// `sticky learn` with `sync`, but the host gave no store that front ends share.
    #[error("upstream {upstream}: sync of sticky learn needs a store of sessions that front ends share")]
    Sync {
        /// The upstream's name.
        upstream: String,
    },
    /// What `sticky cookie` says cannot be a cookie.
    #[error("upstream {upstream}: sticky cookie")]
    Cookie {
        /// The upstream's name.
        upstream: String,
        /// Why.
        source: InvalidCookie,
    },
    /// The settings of a location cannot be a proxy.
    #[error("location cannot be a proxy")]
    Proxy(#[from] ProxyBuildError),
    /// The operating system has no random bytes for a secret.
    #[error("no secret for the sessions of upstream {upstream}")]
    Secret {
        /// The upstream's name.
        upstream: String,
        /// Why.
        source: InvalidSecret,
    },
}
