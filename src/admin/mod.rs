//! A status page for operators, the same data as JSON, and actions that change the state (feature
//! `admin`).
//!
//! [`Admin`] is a handler to mount under its own path, beside a proxy, or on its own listener. It
//! observes proxies for rates and latencies, and reads the state of the parts in its [`Monitored`].
//!
//! | request | response |
//! |---|---|
//! | `GET PATH` | the page: one HTML file, which reads the status every 2 s |
//! | `GET PATH/status` | the status as JSON, as [`Admin::status_json`] returns it |
//! | `POST PATH/action` | performs the action in the JSON of the body |
//!
//! The body of an action is one of these objects. `cluster` is needed only if several clusters have
//! an endpoint with that id.
//!
//! | body | effect |
//! |---|---|
//! | `{"action": "ready", "endpoint": "q1", "cluster": "kylin"}`, also `drain` and `maintenance` | [`Cluster::set_admin_state`](crate::Cluster::set_admin_state) |
//! | `{"action": "weight", "endpoint": "q1", "weight": 2}` | [`Cluster::set_weight`](crate::Cluster::set_weight), from 1 to 65,535; it applies until the source of nodes or a reload sets another |
//! | `{"action": "reload"}` | calls the function of [`AdminBuilder::on_reload`] |
//! | `{"action": "log-level", "level": "debug"}` | calls the function of [`AdminBuilder::on_log_level`] |
//!
//! # Access
//!
//! - The page itself contains no data, and every client gets it.
//! - The status is readable with the [token](AdminToken) as `Authorization: Bearer`. Without it,
//!   the status is readable on a unix socket, and from a loopback address unless the request shows
//!   that a proxy has forwarded it. Signs of a proxy are HTTP/1.0, `Forwarded`, `Via`, `X-Real-IP`
//!   and any `X-Forwarded-*`. A proxy on this machine that shows none of these (nginx 1.29.7 and
//!   later with `proxy_pass` alone) lets its clients read the status. Configure it to add
//!   `X-Forwarded-For`, or set [`AdminBuilder::token_for_reading`].
//! - An action always needs the token. If no token is set, there are no actions.
//! - A request must name this host: by an IP address, `localhost`, or one of
//!   [`AdminBuilder::hosts`]. Otherwise an attacker's page could get the same origin, with a name
//!   that resolves to this address (DNS rebinding).
//! - A request that a page of another origin sends is refused, based on `Origin` and
//!   `Sec-Fetch-Site`.
//! - An action is a POST of JSON of at most 4 KiB.
//!
//! The page loads nothing from elsewhere, and its content security policy allows only its own
//! script and style, by hash. It keeps the token in memory until it is closed or reloaded. HTTP
//! without TLS exposes the token to the network, so use a tunnel, TLS or a unix socket for other
//! machines.
//!
//! ```no_run
//! # #[cfg(feature = "server")]
//! # async fn run(cluster: kylin_lb::Cluster) -> Result<(), Box<dyn std::error::Error>> {
//! use kylin_lb::Proxy;
//! use kylin_lb::admin::{Admin, AdminToken, Monitored};
//! use kylin_lb::server::Server;
//!
//! let token = AdminToken::parse(&std::fs::read_to_string("/etc/kylin/admin-token")?)?;
//! let admin = Admin::builder().token(token).build();
//! admin.monitor(Monitored::new().cluster("kylin", &cluster));
//! // The observer counts requests; without it the status has no rates and no latencies.
//! let proxy = Proxy::builder(cluster).observer(admin.clone()).build()?;
//! let operators = Server::builder().listen("127.0.0.1:8081".parse()?, admin).start()?;
//! # drop((proxy, operators));
//! # Ok(())
//! # }
//! ```

mod access;
mod action;
mod builder;
mod monitored;
mod page;
mod refusal;
mod respond;
mod status;
mod traffic;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::{Mutex, RwLock};

pub use self::access::{AdminToken, InvalidToken};
use self::action::Hooks;
pub use self::builder::AdminBuilder;
pub use self::monitored::Monitored;
use self::traffic::Traffic;
use crate::body::{Body, BoxError};
use crate::buffer::BufferBudget;
use crate::observe::{AttemptEnded, EventKind, Finished, Observer, Received};
use crate::request::ClientAddr;

/// The status page and its actions. Clones share their state.
///
/// It is an [`Observer`] of proxies. It responds to requests with [`handle`](Self::handle), as a
/// `server::Handler` (feature `server`) or as a `tower::Service` (feature `tower`).
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    /// The path at which the handler is mounted, without a slash at the end.
    path: Box<str>,
    /// The names of this host.
    hosts: Vec<String>,
    token: RwLock<Option<AdminToken>>,
    token_for_reading: bool,
    hooks: Hooks,
    buffers: BufferBudget,
    traffic: Arc<Traffic>,
    monitored: Mutex<Monitored>,
    log_level: Mutex<Option<String>>,
    /// The number of requests that were refused because of their token, host or origin.
    denied: AtomicU64,
    started: Instant,
}

impl Admin {
    /// Returns a builder without a token.
    pub fn builder() -> AdminBuilder {
        AdminBuilder::new()
    }

    /// Sets the parts that the status covers and the actions apply to.
    pub fn monitor(&self, monitored: Monitored) {
        let monitored = monitored.started(&self.shared.traffic);
        *self.shared.monitored.lock() = monitored;
    }

    /// Replaces the token, for example after its file has changed; `None` turns the actions off.
    pub fn set_token(&self, token: Option<AdminToken>) {
        *self.shared.token.write() = token;
    }

    /// Returns the status as JSON. [The guide](crate::docs::operations#status-page) explains its
    /// members.
    pub fn status_json(&self) -> String {
        status::json(&self.shared)
    }

    /// Returns whether `peer` may read the status with this request. Meant for a path of the
    /// application's own, such as `/metrics`.
    ///
    /// # Errors
    /// The response to send if `peer` may not.
    #[allow(clippy::result_large_err, reason = "the response is about to be sent")]
    pub fn authorize_read<R>(&self, peer: impl Into<ClientAddr>, request: &Request<R>) -> Result<(), Response<Body>> {
        respond::authorize_read(&self.shared, peer.into(), request)
    }

    /// Returns whether a request names this host and comes from no page of another origin. Meant
    /// for a listener of the application's own that serves [`status_json`](Self::status_json) to
    /// every peer.
    ///
    /// # Errors
    /// The response to send if the request does not.
    #[allow(clippy::result_large_err, reason = "the response is about to be sent")]
    pub fn authorize_origin<R>(&self, request: &Request<R>) -> Result<(), Response<Body>> {
        respond::authorize_origin(&self.shared, request)
    }

    /// Responds to a request of `peer`. Paths that are not in the [table](self) get 404.
    pub async fn handle<R>(&self, peer: impl Into<ClientAddr>, request: Request<R>) -> Response<Body>
    where
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        respond::respond(&self.shared, peer.into(), request.map(Body::new)).await
    }
}

impl Observer for Admin {
    fn wants(&self, kind: EventKind) -> bool {
        matches!(kind, EventKind::Received | EventKind::AttemptEnded | EventKind::Finished)
    }

    fn received(&self, event: &Received<'_>) {
        self.shared.traffic.received(event);
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        self.shared.traffic.attempt_ended(event);
    }

    fn finished(&self, event: &Finished<'_>) {
        self.shared.traffic.finished(event);
    }
}

#[cfg(feature = "server")]
impl crate::server::Handler for Admin {
    async fn handle(&self, peer: ClientAddr, request: Request<Body>) -> Response<Body> {
        respond::respond(&self.shared, peer, request).await
    }
}

/// The peer of a request is the [`ClientAddr`] in its extensions. A request without one counts as
/// coming from another machine, and needs the token.
#[cfg(feature = "tower")]
impl<R> tower_service::Service<Request<R>> for Admin
where
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = crate::session::BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let peer = request.extensions().get().copied().unwrap_or(access::UNKNOWN_PEER);
        let admin = self.clone();
        Box::pin(async move { Ok(admin.handle(peer, request).await) })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("path", &self.shared.path).finish_non_exhaustive()
    }
}
