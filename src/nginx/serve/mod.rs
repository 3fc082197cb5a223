//! Serves a configuration: clusters for its upstreams, proxies for its locations.

mod access_log;
mod affinity;
mod builder;
mod clusters;
mod error;
mod forward;
#[cfg(feature = "server")]
mod limits;
mod names;
mod response;
mod routes;
mod successor;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use parking_lot::Mutex;

use self::affinity::Affinities;
pub use self::builder::SiteBuilder;
use self::clusters::ClusterSettings;
pub use self::error::SiteError;
use self::names::UpstreamEndpoints;
pub use self::names::{NAME_LOOKUP_INTERVAL, NameLookups};
use self::routes::Route;
pub use self::successor::{SiteChanges, SiteSuccessor};
#[cfg(feature = "server")]
use super::config::ServerAddrUse;
use super::config::{Config, Listener};
use super::options::ProbeMode;
use crate::InvalidSetting;
use crate::backend::Timeouts;
use crate::probe::HealthChecker;
use crate::session::Sessions;
use crate::{Body, BufferBudget, ClientAddr, Cluster};

/// A front end that serves an nginx configuration. Clones share one site.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use kylin_lb::nginx::{Config, Site};
///
/// let site = Site::new(Config::read("kylin.conf")?)?;
/// let server = site.server().start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Site {
    parts: Arc<SiteParts>,
}

struct SiteParts {
    config: Config,
    /// The certificates, parallel to the configuration's listeners.
    #[cfg(all(feature = "tls", feature = "server"))]
    certificates: Vec<Option<crate::tls::ServerTls>>,
    /// The clusters, parallel to the configuration's upstreams.
    clusters: Vec<Cluster>,
    /// The endpoints of the upstreams, parallel to the clusters.
    endpoints: Vec<Arc<Mutex<UpstreamEndpoints>>>,
    /// The changes that a successor makes when it is activated, parallel to the clusters. They are
    /// for clusters that it shares with the former site.
    pending: Vec<Mutex<Option<ClusterSettings>>>,
    /// The settings that differ from the former site's, but cannot change in a running process.
    kept_settings: Vec<String>,
    /// The probe modes, parallel to the clusters.
    probes: Vec<ProbeMode>,
    affinities: Affinities,
    /// The sessions that the status of an application shows.
    sessions: Option<Sessions>,
    /// The routes by the number of the location.
    routes: Vec<Route>,
    /// The logs of requests that no location serves, by the index of the server.
    server_logs: Vec<Arc<[access_log::WrittenLog]>>,
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "of the server"))]
    buffers: BufferBudget,
}

/// A listen address of a site, which handles the requests that arrive there. Clones share one site.
#[derive(Clone)]
pub struct SiteListener {
    site: Site,
    number: usize,
}

impl Site {
    /// Builds the clusters and proxies of a configuration.
    ///
    /// The names of servers are looked up here, for at most 15 s, and later by
    /// [`start_name_lookups`](Self::start_name_lookups). Each address of a name becomes an
    /// endpoint. A name with `resolve`, or in a variable of `proxy_pass`, may be unknown at first:
    /// its requests get 503 until it is found.
    ///
    /// # Errors
    /// [`SiteError`] names the upstream and the server.
    pub fn new(config: Config) -> Result<Self, SiteError> {
        Self::builder(config).build()
    }

    /// Returns a builder, which also takes settings that nginx does not have, such as a secret and
    /// a session store. Front ends of one cluster share these two.
    pub fn builder(config: Config) -> SiteBuilder {
        SiteBuilder::new(config)
    }

    /// Returns the clusters and the names of their upstreams, in the order of the file.
    pub fn clusters(&self) -> impl ExactSizeIterator<Item = (&str, &Cluster)> {
        let SiteParts { config, clusters, .. } = &*self.parts;
        config.upstreams.iter().zip(clusters).map(|(upstream, cluster)| (upstream.name.as_str(), cluster))
    }

    /// Starts to probe the servers of each upstream whose [`ProbeMode`] is not `None`, until the
    /// returned checkers are dropped. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of [`ProbeMode::start`].
    pub fn start_probes(&self) -> Result<Vec<HealthChecker>, InvalidSetting> {
        let probed = self.parts.probes.iter().zip(&self.parts.clusters);
        probed.filter_map(|(probe, cluster)| probe.start(cluster).transpose()).collect()
    }

    /// Returns the longest response timeout of all locations, which is the maximum duration of a
    /// query.
    pub fn longest_timeout(&self) -> Duration {
        let timeouts = self.parts.routes.iter().filter(|route| route.proxy.is_some());
        let default = Timeouts::default().head;
        timeouts.map(|route| route.timeouts.map_or(default, |timeouts| timeouts.head)).max().unwrap_or(default)
    }

    /// Returns the sessions that the front end keeps in memory or in a store. If upstreams keep
    /// them in different ways, these are the first.
    pub fn sessions(&self) -> Option<&Sessions> {
        self.parts.sessions.as_ref()
    }

    /// Returns the addresses that the configuration listens at, each once.
    pub fn listeners(&self) -> impl ExactSizeIterator<Item = SiteListener> {
        (0..self.parts.config.listeners.len()).map(|number| SiteListener { site: self.clone(), number })
    }

    /// Returns a builder of a server that listens at the addresses of the configuration, with its
    /// limits on clients.
    #[cfg(feature = "server")]
    pub fn server(&self) -> crate::server::ServerBuilder<SiteListener> {
        let builder = self.listeners().fold(crate::server::Server::builder(), |builder, listener| {
            let (listen, options) = (listener.listen(), listener.options());
            builder.listen_with(listen, options, listener)
        });
        limits::apply(&self.parts.config, &self.parts.config.listeners, builder).buffers(self.parts.buffers.clone())
    }

    /// Returns a builder of a server that listens only at `listen`, instead of the configuration's
    /// first address.
    ///
    /// The server has the virtual servers of that address, its limits on clients, its TLS and its
    /// PROXY protocol.
    #[cfg(feature = "server")]
    pub fn server_on(&self, listen: crate::server::Listen) -> crate::server::ServerBuilder<SiteListener> {
        // Each configuration has a server, and each server an address.
        let first = SiteListener { site: self.clone(), number: 0 };
        let builder = crate::server::Server::builder().listen_with(listen, first.options(), first);
        limits::apply(&self.parts.config, &self.parts.config.listeners[..1], builder)
            .buffers(self.parts.buffers.clone())
    }
}

#[cfg(all(feature = "tls", feature = "server"))]
impl Site {
    /// Reads the certificates of all addresses again. New connections use them, and open
    /// connections continue. If one cannot be read, all stay as they are.
    ///
    /// # Errors
    /// [`SiteError::Tls`] names the address, the file and the reason.
    pub fn reload_certificates(&self) -> Result<(), SiteError> {
        let SiteParts { config, certificates, .. } = &*self.parts;
        let read = config.listeners.iter().map(|listener| tls::of_listener(config, listener));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        for (serving, new) in certificates.iter().zip(read) {
            if let (Some(serving), Some(new)) = (serving, new) {
                serving.replace(&new);
            }
        }
        Ok(())
    }
}

impl SiteListener {
    /// Returns how connections begin at the address: with TLS, with the PROXY protocol, or with
    /// requests.
    #[cfg(feature = "server")]
    pub fn options(&self) -> crate::server::ListenOptions {
        let mut options = crate::server::ListenOptions::new();
        if self.config().proxy_protocol {
            let default = &self.site.parts.config.servers[self.config().default];
            options = options.proxy_protocol(default.settings.real_ip.trusted_peers());
        }
        if self.site.parts.config.server_addr != ServerAddrUse::Unused && self.config().is_wildcard() {
            options = options.local_addr();
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.site.parts.certificates[self.number] {
            options = options.tls(tls);
        }
        options
    }

    /// Responds to `request`, which came from `peer` to this address.
    pub async fn forward(&self, peer: impl Into<ClientAddr>, request: Request<Body>) -> Response<Body> {
        forward::forward(&self.site.parts, self.config(), peer.into(), request).await
    }

    /// Returns whether clients speak TLS at this address: `listen ... ssl`.
    pub fn is_tls(&self) -> bool {
        self.config().ssl
    }

    /// Returns the address that the configuration gives.
    #[cfg(feature = "server")]
    pub fn listen(&self) -> crate::server::Listen {
        use super::directives::server::ListenAddress;
        use crate::server::Listen;

        match &self.config().address {
            ListenAddress::Tcp(address) if address.is_ipv6() && !self.config().ipv6_only => Listen::DualStack(*address),
            ListenAddress::Tcp(address) => Listen::Tcp(*address),
            ListenAddress::Unix(path) => Listen::Unix(path.clone()),
        }
    }

    fn config(&self) -> &Listener {
        &self.site.parts.config.listeners[self.number]
    }
}

#[cfg(feature = "server")]
impl crate::server::Handler for SiteListener {
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        self.forward(peer, request)
    }

    /// Returns whether a location trusts the peer (`set_real_ip_from`).
    fn trusts(&self, peer: ClientAddr) -> bool {
        self.site.parts.routes.iter().any(|route| route.trusted.trusts(peer))
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("clusters", &self.parts.clusters).finish_non_exhaustive()
    }
}

impl fmt::Debug for SiteListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteListener").field("address", &self.config().address).finish_non_exhaustive()
    }
}
