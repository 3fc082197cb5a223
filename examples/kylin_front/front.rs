//! The front end's own responses, which it gives before a request reaches a node.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode, header};
use kylin_lb::cluster::EndpointStatus;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::HealthState;
use kylin_lb::server::Handler;
use kylin_lb::{Body, ClientAddr, Cluster};
use parking_lot::Mutex;
use pin_project_lite::pin_project;

/// The health path, which tells a load balancer in front whether to send requests here.
#[derive(Default)]
pub struct Health {
    /// `None` if the option turns it off.
    path: Option<String>,
    stopping: AtomicBool,
    clusters: Mutex<Vec<Cluster>>,
}

impl Health {
    pub fn new(path: Option<String>) -> Arc<Self> {
        Arc::new(Health { path, ..Health::default() })
    }

    /// Sets the clusters. The front end is healthy if a node of any of them may serve.
    pub fn set_clusters(&self, clusters: Vec<Cluster>) {
        *self.clusters.lock() = clusters;
    }

    /// Makes the path report from now on that the front end is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn status(&self) -> (StatusCode, &'static str) {
        if self.stopping.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"stopping\"}\n");
        }
        let clusters = self.clusters.lock().clone();
        match clusters.is_empty() || clusters.iter().any(has_node) {
            true => (StatusCode::OK, "{\"status\":\"ready\"}\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"no node\"}\n"),
        }
    }
}

/// Returns whether a node may serve. In panic mode, which tries failed nodes, they count too.
fn has_node(cluster: &Cluster) -> bool {
    let status = cluster.status();
    status.panicking || status.endpoints.iter().any(serves)
}

/// Returns whether the node serves at least requests of sessions that are bound to it, as a
/// draining node does.
pub fn serves(endpoint: &EndpointStatus) -> bool {
    let is_in_health = !matches!(endpoint.health, HealthState::Unhealthy | HealthState::Ejected);
    endpoint.admin_state != AdminState::Maintenance && is_in_health
}

/// A handler with the health path in front of it.
pub struct Front<H> {
    pub health: Arc<Health>,
    pub inner: H,
    /// The HTTPS port to which all requests are redirected. If it is `None`, requests are served.
    pub redirect: Option<Arc<AtomicU16>>,
}

pin_project! {
    /// The response to a request: the front end's own, or that of the inner handler. An `async`
    /// block would move the inner handler's large future once more.
    #[project = HandledParts]
    enum Handled<F> {
        Own { response: Option<Response<Body>> },
        Inner { #[pin] response: F },
    }
}

impl<F: Future<Output = Response<Body>>> Future for Handled<F> {
    type Output = Response<Body>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        match self.project() {
            HandledParts::Own { response } => Poll::Ready(response.take().expect("polled only until it is ready")),
            HandledParts::Inner { response } => response.poll(cx),
        }
    }
}

impl<H: Handler> Handler for Front<H> {
    fn handle(&self, peer: ClientAddr, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        let response = match &self.health.path {
            Some(path) if request.uri().path() == path => health(&self.health, &request),
            _ => match &self.redirect {
                Some(port) => redirect(port.load(Ordering::Relaxed), &request),
                None => return Handled::Inner { response: self.inner.handle(peer, request) },
            },
        };
        Handled::Own { response: Some(response) }
    }

    fn trusts(&self, peer: ClientAddr) -> bool {
        self.inner.trusts(peer)
    }
}

/// Redirects to the same URL with https.
fn redirect(port: u16, request: &Request<Body>) -> Response<Body> {
    let authority = request.uri().authority().cloned().or_else(|| {
        let host = request.headers().get(header::HOST)?;
        http::uri::Authority::try_from(host.as_bytes()).ok()
    });
    let mut response = Response::new(Body::empty());
    // 308 keeps the method: a query is a POST.
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let path = request.uri().path_and_query().map(|path| path.as_str()).filter(|path| path.starts_with('/'));
    let path = path.unwrap_or("/");
    let location = authority.map(|authority| match port {
        443 => format!("https://{}{path}", authority.host()),
        port => format!("https://{}:{port}{path}", authority.host()),
    });
    match location.and_then(|location| header::HeaderValue::try_from(location).ok()) {
        Some(location) => _ = response.headers_mut().insert(header::LOCATION, location),
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    // Otherwise clients would still follow a permanent redirect after the options have changed.
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

fn health(health: &Health, request: &Request<Body>) -> Response<Body> {
    let (status, body) = match *request.method() {
        Method::GET | Method::HEAD => health.status(),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "{\"status\":\"GET only\"}\n"),
    };
    let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from(body) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
