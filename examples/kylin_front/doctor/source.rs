//! The nodes of the source that the arguments name, and the front end that would serve them.

use std::collections::HashMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::balance::Attempted;
use kylin_lb::discovery::{DiscoveredNode, Discovery, FileList};
use kylin_lb::endpoint::AdminState;
use kylin_lb::kylin::tomcat::Warning;
use kylin_lb::nginx::{SessionMode, SiteListener};
use kylin_lb::server::Handler as _;
use kylin_lb::session::{Secret, Sessions};
use kylin_lb::{Backend as _, Body, Cluster, Proxy, RequestView};

use super::node::Node;
use super::report::{Check, Report};
use crate::args::{Args, Source};
use crate::configured::FileSite as _;
use crate::demo::Demo;
use crate::members::{no_node_in, properties_file};
use crate::{configured, httpd, listed, nodes, sessions, summary, table};

/// The timeout for the list of a registry.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// The client's address in requests through the front end.
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The name of a cluster without a name.
const CLUSTER: &str = "kylin";
/// The prefix of the names of session modes in which the nodes share their sessions.
const REPLICATED: &str = "replicated";

/// The front end that the arguments describe, in this process. It does not listen.
pub enum Front {
    Proxy(Proxy),
    Site(Vec<SiteListener>),
    Httpd(Vec<httpd::SiteListener>),
}

/// The nodes that the arguments name, and their front end.
pub struct Checked {
    pub nodes: Vec<Node>,
    pub front: Front,
    /// The maximum time for which the front end waits for a response.
    pub head_timeout: Duration,
    /// Whether that time follows from the query timeout in Kylin's own file.
    pub follows_kylin: bool,
    /// The clusters whose nodes are expected to share their sessions.
    pub replicated: Vec<String>,
    /// The sessions of the front end, if it keeps any.
    pub sessions: Option<Sessions>,
    /// Demo nodes, which stop when this is dropped.
    _demo: Option<Demo>,
}

impl Front {
    /// Returns the number of handlers: one per address of a configuration.
    pub fn count(&self) -> usize {
        match self {
            Front::Proxy(_) => 1,
            Front::Site(listeners) => listeners.len(),
            Front::Httpd(listeners) => listeners.len(),
        }
    }

    pub async fn send(&self, way: usize, request: Request<Body>) -> Response<Body> {
        match self {
            Front::Proxy(proxy) => proxy.forward(CLIENT, request).await,
            Front::Site(listeners) => listeners[way].forward(CLIENT, request).await,
            Front::Httpd(listeners) => listeners[way].handle(CLIENT.into(), request).await,
        }
    }
}

impl Checked {
    /// Finds the nodes. If that fails, records a fault in the report and returns `None`.
    pub async fn find(mut args: Args, timeout: Duration, report: &mut Report) -> Option<Self> {
        report.ran(Check::Source);
        let source = std::mem::replace(&mut args.source, Source::Nodes(Vec::new()));
        let found = match source {
            Source::Config(path) => of_config(&path, &args, timeout, report),
            Source::Httpd(path) => of_httpd(&path, &args, timeout, report),
            other => of_list(other, args, timeout, report).await,
        };
        match found {
            Ok(found) if found.nodes.is_empty() => {
                report.fault(Check::Source, &[], "no node is named");
                None
            }
            Ok(found) => Some(found),
            Err(error) => {
                report.fault(Check::Source, &[], with_causes(&*error));
                None
            }
        }
    }
}

/// Returns the message of an error and those of its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Reads an nginx configuration like the front end. The report contains the output of `--check`.
fn of_config(
    path: &std::path::Path,
    args: &Args,
    timeout: Duration,
    report: &mut Report,
) -> Result<Checked, Box<dyn Error>> {
    let (secret, _) = sessions::secret(args.secret_file.as_deref())?;
    let site = configured::builder(configured::read(path, args)?, args, secret, &[], &HashMap::new());
    report.understood = site.report().to_string();
    let warnings = report.understood.lines().filter_map(|line| line.trim_start().strip_prefix("warning: "));
    for warning in warnings.map(str::to_owned).collect::<Vec<_>>() {
        session_manager(&warning, report);
    }
    let replicated = replicated(&report.understood);
    let site = site.build()?;
    let nodes = site.clusters().flat_map(|(name, cluster)| nodes_of(name, cluster, timeout)).collect();
    let head_timeout = site.longest_timeout();
    let (front, sessions) = (Front::Site(site.listeners().collect()), site.sessions().cloned());
    Ok(Checked { nodes, head_timeout, follows_kylin: false, replicated, sessions, front, _demo: None })
}

/// Reports mistakes in the file of a node's session manager: a fault if it does not share sessions,
/// otherwise a note.
fn session_manager(warning: &str, report: &mut Report) {
    let faults = [Warning::NoValve, Warning::WrongPath, Warning::Local, Warning::Sticky, Warning::LongIds];
    match faults.iter().any(|fault| fault.to_string() == warning) {
        true => report.fault(Check::Sessions, &[], warning),
        false => report.note(Check::Sessions, &[], warning),
    }
}

/// Reads a configuration of Apache httpd like the front end.
fn of_httpd(
    path: &std::path::Path,
    args: &Args,
    timeout: Duration,
    report: &mut Report,
) -> Result<Checked, Box<dyn Error>> {
    let (secret, _) = sessions::secret(args.secret_file.as_deref())?;
    report.understood = httpd::report(path, args)?;
    let mode = args.sessions.clone().unwrap_or(SessionMode::MEMORY);
    for warning in mode.warnings() {
        session_manager(&warning, report);
    }
    let site = httpd::Site::load(path, args, &secret, &[])?;
    // A balancer with `stickysession` does not take the option.
    let replicated = replicated(&report.understood);
    let nodes = site.clusters().iter().flat_map(|(name, cluster)| nodes_of(name, cluster, timeout)).collect();
    let head_timeout = site.longest_timeout();
    let (front, sessions) = (Front::Httpd(site.listeners().collect()), site.sessions().cloned());
    Ok(Checked { nodes, head_timeout, follows_kylin: false, replicated, sessions, front, _demo: None })
}

/// Returns the upstreams or balancers of a report whose nodes are expected to share their sessions.
fn replicated(report: &str) -> Vec<String> {
    let mut cluster = "";
    let mut found = Vec::new();
    for line in report.lines() {
        let sessions = line.trim_start().strip_prefix("sessions ");
        if !line.starts_with(' ') {
            let title = line.rsplit_once(": ").map_or(line, |(title, _)| title);
            let mut kinds = ["upstream ", "host ", "balancer://"].into_iter();
            cluster = kinds.find_map(|kind| title.strip_prefix(kind)).unwrap_or(title);
        } else if sessions.is_some_and(|mode| mode.trim_start().starts_with(REPLICATED)) {
            found.push(cluster.to_owned());
        }
    }
    found
}

async fn of_list(
    source: Source,
    mut args: Args,
    timeout: Duration,
    report: &mut Report,
) -> Result<Checked, Box<dyn Error>> {
    let mut demo = None;
    let mut head_timeout = None;
    let list = match source {
        Source::Demo(count, version) => demo.insert(Demo::start(count, version).await?).nodes(),
        Source::Nodes(nodes) => nodes,
        Source::List(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let parsed = FileList::parse(&text);
            let nodes = parsed.map_err(|error| format!("{}:{}: {error}", path.display(), error.line()))?;
            if nodes.is_empty() {
                return Err(no_node_in(&path).into());
            }
            discovered(nodes)
        }
        #[cfg(feature = "zookeeper")]
        Source::ZooKeeper(registry) => discovered(listed_by(*registry).await?),
        Source::Properties(path) => {
            let config = properties_file(&path).read().await?;
            head_timeout = config.head_timeout();
            discovered(match config.nodes() {
                #[cfg(feature = "zookeeper")]
                [] => match config.zookeeper()? {
                    Some(registry) => listed_by(registry).await?,
                    None => Vec::new(),
                },
                nodes => nodes.to_vec(),
            })
        }
        Source::Config(_) | Source::Httpd(_) => return Err("a configuration has its own clusters".into()),
    };
    let cluster = nodes::cluster(&list, head_timeout, &args)?;
    let mode = args.sessions.get_or_insert(SessionMode::MEMORY).clone();
    let replicated = if mode.to_string().starts_with(REPLICATED) { vec![CLUSTER.to_owned()] } else { Vec::new() };
    report.understood = format!("{}{}\n", summary(&args), table(&cluster));
    for warning in mode.warnings() {
        session_manager(&warning, report);
    }
    let (secret, _): (Secret, bool) = sessions::secret(args.secret_file.as_deref())?;
    let sessions = mode.sessions(&secret, args.store_deadline)?;
    let front = listed::proxy(&cluster, &mode, &secret, sessions.as_ref(), &args, &[])?;
    let nodes = nodes_of(CLUSTER, &cluster, timeout);
    let follows_kylin = head_timeout.is_some();
    let head_timeout = nodes.iter().map(|node| node.backend.head_timeout()).min().unwrap_or_default();
    Ok(Checked { nodes, front: Front::Proxy(front), head_timeout, follows_kylin, replicated, sessions, _demo: demo })
}

fn discovered(nodes: Vec<DiscoveredNode>) -> Vec<nodes::Node> {
    nodes.into_iter().map(nodes::Node::discovered).collect()
}

/// Returns the first list of a registry.
#[cfg_attr(not(feature = "zookeeper"), allow(dead_code, reason = "only ZooKeeper is a registry"))]
async fn listed_by(mut registry: impl Discovery) -> Result<Vec<DiscoveredNode>, Box<dyn Error>> {
    match tokio::time::timeout(LIST_TIMEOUT, registry.next()).await {
        Ok(nodes) => Ok(nodes?),
        Err(_) => Err(format!("the registry of the nodes has no response within {} s", LIST_TIMEOUT.as_secs()).into()),
    }
}

/// Returns the endpoints of a cluster, each with the backend that the front end would use.
fn nodes_of(name: &str, cluster: &Cluster, timeout: Duration) -> Vec<Node> {
    let request = Request::new(());
    let view = RequestView::of(&request, CLIENT);
    let node = |endpoint: &kylin_lb::cluster::EndpointStatus| {
        let is_down = endpoint.admin_state == AdminState::Maintenance;
        // A node in maintenance is not picked.
        if is_down {
            cluster.set_admin_state(&endpoint.id, AdminState::Ready).ok()?;
        }
        let picked = cluster.pick_bound(&view, &Attempted::none(), endpoint.id.as_str());
        if is_down {
            cluster.set_admin_state(&endpoint.id, AdminState::Maintenance).ok()?;
        }
        let picked = picked.ok().filter(|picked| *picked.lease.endpoint() == endpoint.id)?;
        let backend = Arc::clone(picked.backend());
        Some(Node {
            id: endpoint.id.to_string(),
            cluster: name.to_owned(),
            address: backend.address().clone(),
            given: endpoint.roles,
            is_down,
            backend,
            timeout,
        })
    };
    cluster.status().endpoints.iter().filter_map(node).collect()
}
