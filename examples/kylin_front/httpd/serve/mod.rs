//! Serves a configuration: clusters for its balancers, proxies for its servers.

mod build;
mod forward;
mod request;
mod response;
mod running;
mod session;
mod tls;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::InvalidSetting;
use kylin_lb::backend::Timeouts;
use kylin_lb::nginx::{NameLookups, ProbeMode};
use kylin_lb::probe::HealthChecker;
use kylin_lb::proxy::TrustedProxies;
use kylin_lb::server::{Handler, Listen, ListenOptions, Server, ServerBuilder};
use kylin_lb::session::{Affinity, Secret, Sessions};
use kylin_lb::{Body, BufferBudget, ClientAddr, Cluster, Proxy};

pub use self::build::SiteSuccessor;
use super::config::Config;
use super::directives::Balancer;
use crate::configured::{AccessLogs, FileSite, FileSource, Loaded};

type BuildError = Box<dyn Error>;

/// A front end that serves a configuration of httpd. Clones share one site.
#[derive(Clone)]
pub struct Site(Arc<Parts>);

struct Parts {
    config: Config,
    groups: Vec<Group>,
    /// The proxies by the index of the server and of the balancer; `None` if no `ProxyPass` leads
    /// from that server to that balancer.
    proxies: Vec<Vec<Option<Proxy>>>,
    /// The trusted proxies, by the index of the server.
    trusted: Vec<TrustedProxies>,
    /// The options, by the index of the listener.
    options: Vec<ListenOptions>,
    logins: Logins,
    buffers: BufferBudget,
}

/// A running balancer.
struct Group {
    name: String,
    cluster: Cluster,
    probe: ProbeMode,
    timeouts: Timeouts,
}

/// The sessions of balancers without `stickysession`.
#[derive(Clone)]
struct Logins {
    secret: Secret,
    affinity: Option<Affinity>,
    sessions: Option<Sessions>,
}

/// A listen address of a site, which handles the requests that arrive there.
#[derive(Clone)]
pub struct SiteListener {
    site: Site,
    number: usize,
}

impl FileSite for Site {
    type Listener = SiteListener;
    type Successor = SiteSuccessor;
    const GROUP: &'static str = "balancer";

    fn load(source: &FileSource<'_>, secret: Secret) -> Result<Loaded<Self>, Box<dyn Error>> {
        Site::load(source.path, source.args, &secret, &source.logs.observers).map(without_logs)
    }

    fn successor(
        &self,
        source: &FileSource<'_>,
        secret: Secret,
        _: &AccessLogs,
    ) -> Result<Loaded<SiteSuccessor>, Box<dyn Error>> {
        self.successor(source.path, source.args, &secret, &source.logs.observers).map(without_logs)
    }

    fn of(successor: &SiteSuccessor) -> &Self {
        &successor.site
    }

    fn activate(successor: SiteSuccessor) -> (Self, String, bool) {
        successor.activate()
    }

    /// Returns the clusters in the order of the file.
    fn clusters(&self) -> Vec<(String, Cluster)> {
        self.0.groups.iter().map(|group| (group.name.clone(), group.cluster.clone())).collect()
    }

    fn sessions(&self) -> Option<&Sessions> {
        self.0.logins.sessions.as_ref()
    }

    fn longest_timeout(&self) -> Duration {
        self.0.groups.iter().map(|group| group.timeouts.head).max().unwrap_or(Timeouts::default().head)
    }

    fn listens(&self) -> Vec<(Listen, bool)> {
        self.0.config.listeners.iter().map(|listener| (listener.listen.clone(), listener.is_tls)).collect()
    }

    fn server(&self, listen: Option<Listen>) -> ServerBuilder<SiteListener> {
        let mut builder = Server::builder().buffers(self.0.buffers.clone());
        for (handler, listener) in self.listeners().zip(&self.0.config.listeners) {
            let options = self.0.options[handler.number].clone();
            builder = builder.listen_with(listen.clone().unwrap_or(listener.listen.clone()), options, handler);
            if listen.is_some() {
                break;
            }
        }
        builder
    }

    fn start_probes(&self) -> Result<Vec<HealthChecker>, InvalidSetting> {
        self.0.groups.iter().filter_map(|group| group.probe.start(&group.cluster).transpose()).collect()
    }

    /// Returns `None`, because the names of members are looked up for each connection.
    fn start_name_lookups(&self) -> Option<NameLookups> {
        None
    }
}

/// Wraps a site without logs. httpd's logs are not written, and the file sets no limit of open
/// files.
fn without_logs<S>(site: S) -> Loaded<S> {
    Loaded { site, open_files: None, access_logs: AccessLogs::new() }
}

impl Site {
    /// Returns the addresses of the configuration, as handlers of their requests.
    pub fn listeners(&self) -> impl Iterator<Item = SiteListener> {
        (0..self.0.config.listeners.len()).map(|number| SiteListener { site: self.clone(), number })
    }
}

impl Parts {
    fn balancer(&self, number: usize) -> (&Balancer, &Group) {
        (&self.config.balancers[number], &self.groups[number])
    }
}

impl Handler for SiteListener {
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        forward::forward(&self.site.0, &self.site.0.config.listeners[self.number], peer, request)
    }

    fn trusts(&self, peer: ClientAddr) -> bool {
        self.site.0.config.listeners[self.number].servers.iter().any(|server| self.site.0.trusted[*server].trusts(peer))
    }
}
