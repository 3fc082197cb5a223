//! The listeners for operators. `--admin` serves the page, its JSON and its actions, `--status`
//! only the JSON, and both serve `/metrics`.

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::{Method, Request, Response, StatusCode, header};
use kylin_lb::admin::{self, Admin, AdminToken};
use kylin_lb::discovery::{DiscoveryHandle, DiscoveryStatus};
use kylin_lb::server::{Handler, Listen, Server, ServerBuilder};
use kylin_lb::session::Sessions;
use kylin_lb::{Body, BufferBudget, ClientAddr, Cluster, Proxy};
use parking_lot::Mutex;
use serde_json::json;

use crate::args::{AdminRead, Args};
use crate::log_file::LogFile;
use crate::logging::Levels;
use crate::metrics::{self, Exporter};
use crate::signals::Reloads;

/// The maximum number of connections of operators and collectors to each listener. A server may use
/// half of the files that the process may open, but those are for Kylin's clients and for nodes.
const MAX_CONNECTIONS: Option<NonZero<usize>> = NonZero::new(32);

/// The parts of the front end that the status shows.
pub struct Monitored {
    pub admin: Admin,
    pub exporter: Option<Exporter>,
    #[cfg_attr(not(feature = "prometheus"), allow(dead_code, reason = "metrics have a name for it"))]
    pub buffers: BufferBudget,
    clusters: Mutex<Vec<(String, Cluster)>>,
    sessions: Mutex<Option<Sessions>>,
    discovery: Mutex<Option<DiscoveryHandle>>,
    logs: Mutex<Vec<LogFile>>,
    /// The proxy of listed nodes. The sites of configurations have many, which only events count.
    proxy: Mutex<Option<Proxy>>,
    connections: OnceLock<ConnectionCount>,
    last_reload: Mutex<LastReload>,
}

/// The last time that the front end read what it was started from. The start counts.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "prometheus"), allow(dead_code, reason = "metrics show it"))]
pub struct LastReload {
    /// Whether everything that was read was valid, so that it is in use.
    pub is_success: bool,
    /// The time of the last success.
    pub last_success: SystemTime,
}

/// Counts the open connections of clients.
type ConnectionCount = Arc<dyn Fn() -> usize + Send + Sync>;

/// Returns the status page with its actions.
pub fn admin(args: &Args, reloads: Reloads, levels: Levels) -> Result<Admin, Box<dyn Error>> {
    let admin = Admin::builder()
        .hosts(&args.admin_hosts)
        .token_for_reading(args.admin_read == AdminRead::Token)
        .buffers(args.buffers.clone())
        .on_reload(move || {
            let reloads = reloads.clone();
            async move { reloads.request().await }
        })
        .on_log_level(move |level| levels.set(level));
    let admin = admin.build();
    admin.set_token(token(args.admin_token_file.as_deref())?);
    Ok(admin)
}

/// Reads the operators' token.
pub fn token(file: Option<&Path>) -> Result<Option<AdminToken>, String> {
    let read = |file: &Path| {
        let place = |error: &dyn std::fmt::Display| format!("--admin-token-file {}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| place(&error))?;
        AdminToken::parse(&text).map_err(|error| place(&error))
    };
    file.map(read).transpose()
}

/// Serves only the status at `listen`, without a login, on one thread. Uses the sockets of
/// `inherited` that have this address.
pub fn serve(
    listen: Listen,
    monitored: Arc<Monitored>,
    inherited: &mut Vec<OwnedFd>,
) -> Result<Server, Box<dyn Error>> {
    let handler = move |_: ClientAddr, request: Request<Body>| {
        let monitored = Arc::clone(&monitored);
        async move {
            // An attacker's page could read it in an operator's browser.
            match monitored.admin.authorize_origin(&request) {
                Ok(()) => response(&monitored, &request),
                Err(refusal) => refusal,
            }
        }
    };
    start("--status", listen, handler, inherited)
}

/// Serves the page and its actions at `listen`, like [`serve`]. A client that may read the status
/// may read `/metrics`.
pub fn serve_admin(
    listen: Listen,
    monitored: Arc<Monitored>,
    inherited: &mut Vec<OwnedFd>,
) -> Result<Server, Box<dyn Error>> {
    let handler = move |peer: ClientAddr, request: Request<Body>| {
        let monitored = Arc::clone(&monitored);
        async move {
            if request.uri().path() != "/metrics" {
                return monitored.admin.handle(peer, request).await;
            }
            match monitored.admin.authorize_read(peer, &request) {
                Ok(()) => response(&monitored, &request),
                Err(refusal) => refusal,
            }
        }
    };
    start("--admin", listen, handler, inherited)
}

fn start(
    option: &str,
    listen: Listen,
    handler: impl Handler,
    inherited: &mut Vec<OwnedFd>,
) -> Result<Server, Box<dyn Error>> {
    let address = listen.to_string();
    let is_of_address = |socket: &OwnedFd| Listen::of_socket(socket).is_ok_and(|of| of.to_string() == address);
    let (own, others) = std::mem::take(inherited).into_iter().partition(is_of_address);
    *inherited = others;
    let builder = Server::builder().listen(listen, handler).threads(NonZero::<usize>::MIN);
    // At the limit, the server closes the connection that has been idle for the longest, so one
    // client cannot keep operators out.
    let builder = builder.max_connections(MAX_CONNECTIONS).max_connections_per_client(None);
    let started = Vec::into_iter(own).fold(builder, ServerBuilder::inherit).start();
    Ok(started.map_err(|error| format!("{option} {address}: {error}"))?)
}

fn response(monitored: &Monitored, request: &Request<Body>) -> Response<Body> {
    if let (Some(exporter), &Method::GET, "/metrics") = (&monitored.exporter, request.method(), request.uri().path()) {
        let mut response = Response::new(Body::from(exporter.render(monitored)));
        let kind = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return response;
    }
    let error = |message: &str| json!({ "error": message }).to_string();
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/front/status") => (StatusCode::OK, monitored.admin.status_json()),
        (_, "/front/status") => (StatusCode::METHOD_NOT_ALLOWED, error("GET only")),
        (_, "/metrics") if monitored.exporter.is_some() => (StatusCode::METHOD_NOT_ALLOWED, error("GET only")),
        (_, "/metrics") => (StatusCode::NOT_FOUND, error(metrics::MISSING)),
        _ => (StatusCode::NOT_FOUND, error("the paths are /front/status and /metrics")),
    };
    let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from(body + "\n") };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

impl Monitored {
    pub fn new(admin: Admin, buffers: BufferBudget, exporter: Option<Exporter>) -> Arc<Self> {
        Arc::new(Monitored {
            admin,
            exporter,
            buffers,
            clusters: Mutex::default(),
            sessions: Mutex::default(),
            discovery: Mutex::default(),
            logs: Mutex::default(),
            proxy: Mutex::default(),
            connections: OnceLock::new(),
            last_reload: Mutex::new(LastReload { is_success: true, last_success: SystemTime::now() }),
        })
    }

    /// Sets the clusters and sessions that the status shows from now on.
    pub fn set(&self, clusters: Vec<(String, Cluster)>, sessions: Option<Sessions>) {
        (*self.clusters.lock(), *self.sessions.lock()) = (clusters, sessions);
        self.show();
    }

    /// Sets the source of nodes, which runs as long as this lives.
    pub fn set_discovery(&self, discovery: Option<DiscoveryHandle>) {
        *self.discovery.lock() = discovery;
        self.show();
    }

    /// Sets the log files, whose lost lines the status counts.
    pub fn set_logs(&self, logs: Vec<LogFile>) {
        *self.logs.lock() = logs;
        self.show();
    }

    /// Sets the proxy whose single flight and result cache the status shows.
    pub fn set_proxy(&self, proxy: Proxy) {
        *self.proxy.lock() = Some(proxy);
        self.show();
    }

    /// Returns the proxy whose single flight and result cache the status shows.
    pub fn proxy(&self) -> Option<Proxy> {
        self.proxy.lock().clone()
    }

    /// Sets the function that counts the connections of clients. Later calls have no effect.
    pub fn set_connections(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        _ = self.connections.set(Arc::new(count));
        self.show();
    }

    #[cfg_attr(not(feature = "prometheus"), allow(dead_code, reason = "metrics have a name for it"))]
    pub fn connections(&self) -> Option<usize> {
        self.connections.get().map(|count| count())
    }

    /// Records the end of a reload.
    pub fn set_reloaded(&self, is_success: bool) {
        let mut last = self.last_reload.lock();
        last.is_success = is_success;
        if is_success {
            last.last_success = SystemTime::now();
        }
    }

    #[cfg_attr(not(feature = "prometheus"), allow(dead_code, reason = "metrics have a name for it"))]
    pub fn last_reload(&self) -> LastReload {
        *self.last_reload.lock()
    }

    fn show(&self) {
        let all = admin::Monitored::new();
        let mut all = self.clusters().iter().fold(all, |all, (name, cluster)| all.cluster(name.as_str(), cluster));
        if let Some(sessions) = &self.sessions() {
            all = all.sessions("sessions", sessions);
        }
        if let Some(discovery) = &*self.discovery.lock() {
            all = all.discovery("nodes", discovery);
        }
        for (name, logs) in self.logs() {
            all = all.log(name, move || logs.iter().map(LogFile::dropped).sum());
        }
        if let Some(proxy) = &self.proxy() {
            all = all.single_flight("kylin", proxy);
            #[cfg(feature = "cache")]
            {
                all = all.cache("results", proxy);
            }
        }
        if let Some(count) = self.connections.get().cloned() {
            all = all.connections(move || count());
        }
        self.admin.monitor(all);
    }

    pub fn clusters(&self) -> Vec<(String, Cluster)> {
        self.clusters.lock().clone()
    }

    /// Returns the log files by name. Two may have the same name: that of an option and that of the
    /// configuration.
    pub fn logs(&self) -> BTreeMap<String, Vec<LogFile>> {
        let mut logs = BTreeMap::<String, Vec<LogFile>>::new();
        for log in &*self.logs.lock() {
            let of_name = logs.entry(log.name().to_owned()).or_default();
            if !of_name.iter().any(|other| other.is(log)) {
                of_name.push(log.clone());
            }
        }
        logs
    }

    pub fn sessions(&self) -> Option<Sessions> {
        self.sessions.lock().clone()
    }

    #[cfg_attr(not(feature = "prometheus"), allow(dead_code, reason = "metrics have a name for it"))]
    pub fn discovery(&self) -> Option<DiscoveryStatus> {
        self.discovery.lock().as_ref().map(DiscoveryHandle::status)
    }
}
