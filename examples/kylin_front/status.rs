//! `GET /front/status` on a listener of its own: the state of clusters, sessions and discovery, as JSON.

use std::error::Error;
use std::num::{NonZero, NonZeroU32};
use std::sync::{Arc, OnceLock};

use http::{Method, Request, Response, StatusCode, header};
use kylin_lb::cluster::ClusterStatus;
use kylin_lb::discovery::{DiscoveryHandle, DiscoveryStatus};
use kylin_lb::server::{Listen, Server};
use kylin_lb::session::Sessions;
use kylin_lb::{Body, BufferBudget, ClientAddr, Cluster};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::metrics::{self, Exporter};

/// What the status covers.
#[derive(Default)]
pub struct Monitored {
    clusters: Mutex<Vec<(String, Cluster)>>,
    sessions: Mutex<Option<Sessions>>,
    discovery: Mutex<Option<DiscoveryHandle>>,
    pub buffers: BufferBudget,
    pub exporter: Option<Exporter>,
    pub connections: OnceLock<ConnectionCount>,
}

/// Counts the open connections of clients.
pub type ConnectionCount = Box<dyn Fn() -> usize + Send + Sync>;

/// Serves the status at `listen`, on one thread.
pub fn serve(listen: Listen, monitored: Arc<Monitored>) -> Result<Server, Box<dyn Error>> {
    let handler = move |_: ClientAddr, request: Request<Body>| {
        let monitored = Arc::clone(&monitored);
        async move { response(&monitored, &request) }
    };
    Ok(Server::builder().listen(listen, handler).threads(NonZero::<usize>::MIN).start()?)
}

fn response(monitored: &Monitored, request: &Request<Body>) -> Response<Body> {
    if let (Some(exporter), &Method::GET, "/metrics") = (&monitored.exporter, request.method(), request.uri().path()) {
        let mut response = Response::new(Body::from(exporter.render(monitored)));
        let kind = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return response;
    }
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/front/status") => (StatusCode::OK, monitored.describe()),
        (_, "/front/status") => (StatusCode::METHOD_NOT_ALLOWED, json!({"error": "GET only"})),
        (_, "/metrics") if monitored.exporter.is_some() => {
            (StatusCode::METHOD_NOT_ALLOWED, json!({"error": "GET only"}))
        }
        (_, "/metrics") => (StatusCode::NOT_FOUND, json!({"error": metrics::MISSING})),
        _ => (StatusCode::NOT_FOUND, json!({"error": "the paths are /front/status and /metrics"})),
    };
    let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from(format!("{body:#}\n")) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

impl Monitored {
    pub fn new(buffers: BufferBudget, exporter: Option<Exporter>) -> Arc<Self> {
        Arc::new(Monitored { buffers, exporter, ..Monitored::default() })
    }

    /// Sets what the status covers from now on.
    pub fn set(&self, clusters: Vec<(String, Cluster)>, sessions: Option<Sessions>) {
        (*self.clusters.lock(), *self.sessions.lock()) = (clusters, sessions);
    }

    /// Sets the source of nodes, which runs as long as this lives.
    pub fn set_discovery(&self, discovery: Option<DiscoveryHandle>) {
        *self.discovery.lock() = discovery;
    }

    pub fn clusters(&self) -> Vec<(String, Cluster)> {
        self.clusters.lock().clone()
    }

    pub fn sessions(&self) -> Option<Sessions> {
        self.sessions.lock().clone()
    }

    pub fn discovery(&self) -> Option<DiscoveryStatus> {
        self.discovery.lock().as_ref().map(DiscoveryHandle::status)
    }

    fn describe(&self) -> Value {
        let (clusters, sessions) = (self.clusters(), self.sessions());
        let clusters = clusters.iter().map(|(name, cluster)| (name.clone(), describe(&cluster.status())));
        let buffers = self.buffers.status();
        json!({
            "buffers": {
                "limit": buffers.limit,
                "client_share": buffers.client_share,
                "used": buffers.used,
                "clients": buffers.clients,
                "waiting": buffers.waiting,
                "refused": buffers.refused,
            },
            "clusters": clusters.collect::<serde_json::Map<_, _>>(),
            "session_store": sessions.as_ref().map(|sessions| json!({
                "available": sessions.is_store_available(),
                "pending_writes": sessions.pending_writes(),
                "dropped_writes": sessions.dropped_writes(),
            })),
            "discovery": self.discovery().map(|status| {
                json!({
                    "source": format!("{:?}", status.source).to_lowercase(),
                    "endpoints": status.endpoints,
                    "rejected": status.rejected,
                    "failures": status.failures,
                    "error": status.error,
                })
            }),
        })
    }
}

fn describe(status: &ClusterStatus) -> Value {
    let endpoints = status.endpoints.iter().map(|endpoint| {
        json!({
            "id": endpoint.id.as_str(),
            "weight": endpoint.weight,
            "backup": endpoint.backup,
            "roles": endpoint.roles.to_string(),
            "admin_state": format!("{:?}", endpoint.admin_state).to_lowercase(),
            "health": format!("{:?}", endpoint.health).to_lowercase(),
            "reason": endpoint.reason.as_ref().map(ToString::to_string),
            "probe_level": endpoint.probe_level.map(|level| level.to_string()),
            "in_flight": endpoint.in_flight,
            "waiting": endpoint.waiting,
            "max_in_flight": endpoint.max_in_flight.map_or(0, NonZeroU32::get),
            "served": endpoint.served,
            "failed": endpoint.failed,
            "timed_out": endpoint.timed_out,
            "clock_ahead_s": endpoint.clock_ahead,
        })
    });
    json!({
        "policy": status.balancer,
        "panicking": status.panicking,
        "shortages": status.shortages,
        "user_source_unreachable_for_s": status.user_source_down_since.map(|since| since.elapsed().as_secs()),
        "clock_skew_s": status.clock_skew,
        "clocks_agree": status.clock_skew.is_none_or(|skew| skew <= ClusterStatus::MAX_CLOCK_SKEW),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
