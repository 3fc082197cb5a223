//! The proxy: takes a request, and returns the response of a node of a cluster.

mod attempts;
mod builder;
mod error_response;
mod head;
mod recent_queries;
mod replay;
mod retry;
mod rules;
#[cfg(feature = "tower")]
mod service;
mod session;
#[cfg(all(test, feature = "client"))]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response};

pub use crate::basic_auth::BasicCredentials;
pub use builder::{KylinAware, Plain, ProxyBuildError, ProxyBuilder};
pub use error_response::ErrorResponse;
#[cfg(feature = "server")]
pub(crate) use error_response::TRUNCATED;
#[cfg(feature = "server")]
pub(crate) use head::MAX_METHOD;
#[cfg(feature = "admin")]
pub(crate) use head::is_named_by_proxies;
pub use head::{HeaderEdits, TrustedProxies, check_head};
pub use replay::BodyCopy;
pub use retry::{RetryBudget, RetryPolicy};
pub use rules::{CancelOnDisconnect, KylinRules, ReloadAccess};
#[cfg(feature = "tower")]
pub use service::ProxyService;

use self::attempts::QueryFlights;
use self::attempts::admit::KnownQuery;
use self::builder::ProxySettings;
use self::recent_queries::RecentQueries;
use self::retry::RetryAccount;
use crate::admission::SingleFlightStatus;
use crate::admission::queue::Queues;
use crate::backend::{Backend, HttpBackend};
use crate::body::{Body, BoxError};
use crate::buffer::BufferBudget;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::request::{ClientAddr, ClientLimit};

/// Forwards requests to a cluster. Clones share the same proxy.
///
/// ```no_run
/// # async fn run(peer: std::net::SocketAddr, request: http::Request<kylin_lb::Body>) -> Result<(), Box<dyn std::error::Error>> {
/// use kylin_lb::balance::LeastConn;
/// use kylin_lb::{Cluster, Endpoint, Proxy};
///
/// let cluster = Cluster::builder()
///     .endpoint(Endpoint::http("q1", "10.0.0.1:7070")?)
///     .endpoint(Endpoint::http("q2", "10.0.0.2:7070")?)
///     .balancer(LeastConn::new())
///     .build()?;
/// let proxy = Proxy::builder(cluster).build()?;
///
/// let response = proxy.forward(peer, request).await;
/// # Ok(())
/// # }
/// ```
pub struct Proxy<B = HttpBackend> {
    inner: Arc<ProxyCore<B>>,
}

struct ProxyCore<B> {
    cluster: Cluster<B>,
    settings: ProxySettings,
    /// `None` if clients have no limit.
    client_limit: Option<Arc<ClientLimit>>,
    /// `None` if retries are unlimited.
    budget: Option<RetryAccount>,
    /// The budget of attempts that search for the node of a session.
    searches: Option<RetryAccount>,
    /// `None` if requests never wait for a slot.
    queues: Option<Arc<Queues>>,
    /// `None` in a plain proxy.
    rules: Option<self::rules::RuleState>,
    /// `None` in a plain proxy.
    flights: Option<Arc<QueryFlights<B>>>,
    /// `None` if no results are cached.
    #[cfg(feature = "cache")]
    cache: Option<Arc<crate::admission::cache::ResultCache<B>>>,
    /// `None` in a plain proxy.
    recent_queries: Option<RecentQueries<KnownQuery>>,
    /// Whether an untrusted peer has named its client, which is logged once.
    untrusted_proxy: AtomicBool,
}

impl<B> ProxyCore<B> {
    /// Returns the flights of a cluster. The first call makes them.
    fn flights(cluster: &Cluster<B>, clock: &Arc<dyn Clock>) -> Arc<QueryFlights<B>>
    where
        B: 'static,
    {
        cluster.common(|| Arc::new(QueryFlights::new(Arc::clone(clock))))
    }

    /// Warns once that `peer` names its client although it is no trusted proxy. All clients behind
    /// such a peer share its address, and the scheme and host that they used are lost.
    fn warn_of_untrusted_proxy(&self, peer: ClientAddr) {
        if !self.untrusted_proxy.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = peer.ip().map(tracing::field::display),
                "X-Forwarded-* from a peer that is not a trusted proxy were replaced: if it is a balancer or TLS terminator, \
                 trust it (ProxyBuilder::trusted_proxies; kylin_front --trust; set_real_ip_from in an nginx configuration), or \
                 all its clients count as one"
            );
        }
    }
}

impl<B: Backend> Proxy<B> {
    /// Returns a builder of a Kylin-aware proxy. Such a proxy keeps logins, retries by the class of
    /// a request, and closes the calls between nodes to clients.
    pub fn builder(cluster: Cluster<B>) -> ProxyBuilder<B> {
        ProxyBuilder::kylin_aware(cluster)
    }

    /// Returns a builder of a proxy for any HTTP service. Such a proxy keeps no sessions unless an
    /// [affinity](ProxyBuilder::affinity) is set, retries by method and status, and closes no path.
    pub fn plain(cluster: Cluster<B>) -> ProxyBuilder<B, Plain> {
        ProxyBuilder::plain(cluster)
    }

    /// Returns the cluster behind the proxy.
    pub fn cluster(&self) -> &Cluster<B> {
        &self.inner.cluster
    }

    /// Returns the budget of the bytes that are buffered in memory.
    pub fn buffers(&self) -> &BufferBudget {
        &self.inner.settings.buffers
    }

    /// Returns how many request bodies are currently streaming to nodes (see
    /// [`ProxyBuilder::streamed_bodies`]).
    pub fn streamed_bodies(&self) -> usize {
        self.inner.settings.streams.count()
    }

    /// Returns how many queries, over all proxies of the cluster, wait for the response to an
    /// identical one. Returns `None` if [single flight](ProxyBuilder::single_flight) is off in this
    /// proxy.
    pub fn single_flight(&self) -> Option<SingleFlightStatus> {
        let flights = self.inner.flights.as_ref().filter(|_| self.inner.settings.single_flight);
        flights.map(|flights| flights.status())
    }

    /// Returns the contents and counters of the result cache; `None` without a cache (see
    /// [`ProxyBuilder::cache`]).
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    pub fn cache(&self) -> Option<crate::observe::CacheStatus> {
        self.inner.cache.as_ref().map(|cache| cache.status())
    }

    #[cfg(feature = "server")]
    pub(crate) fn trusted_proxies(&self) -> &TrustedProxies {
        &self.inner.settings.trusted
    }

    /// Sends `request`, which came from `peer`, to an endpoint and returns the response, whose body
    /// streams.
    ///
    /// If a response breaks off after `forward` has returned it, its body ends with an error. The
    /// server must then close the connection, or reset the stream.
    ///
    /// If no endpoint responds, the response is an [error in Kylin's JSON form](ErrorResponse). The
    /// request counts as in flight on its endpoint until the body of the response has ended or is
    /// dropped. Dropping the future or that body cancels the request at the node.
    ///
    /// | cause | status |
    /// |---|---|
    /// | the head of the request is ambiguous or not supported | 400, 405, 417, 501 |
    /// | the path is closed to clients | 403 |
    /// | the client has its [maximum of requests in flight](ProxyBuilder::max_requests_per_client) | 429, with `Retry-After` |
    /// | the body of the request ended early / came too slowly / is too large | 400 / 408 / 413 |
    /// | the node could not be reached, or the connection broke, or the response is not HTTP or ended early | 502 |
    /// | no endpoint is eligible: all are unhealthy, ejected, in maintenance or full | 503 |
    /// | too many queries [wait](crate::admission::QueueRules) for a node, or the query has waited too long | 503, with `Retry-After` |
    /// | there is no memory left for the body, and too many bodies stream to the nodes | 503 |
    /// | one of the responses to be merged is longer than 4 MiB / there is no memory for them | 502 / 503 |
    /// | the node did not respond in time | 504 |
    /// | the policy, the store or the backend of the application panicked | 500 |
    pub fn forward<R>(
        &self,
        peer: impl Into<ClientAddr>,
        request: Request<R>,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        self.forward_body(peer.into(), request.map(Body::new))
    }

    /// Forwards a request whose body is already a [`Body`]. Detecting that in
    /// [`forward`](Self::forward) would move the request twice.
    pub(crate) fn forward_body(
        &self,
        peer: ClientAddr,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send {
        attempts::forward(&self.inner, peer, request)
    }
}

impl<B> Clone for Proxy<B> {
    fn clone(&self) -> Self {
        Proxy { inner: Arc::clone(&self.inner) }
    }
}

impl<B> fmt::Debug for Proxy<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProxyCore { cluster, settings, rules, .. } = &*self.inner;
        f.debug_struct("Proxy").field("cluster", cluster).field("settings", settings).field("rules", rules).finish()
    }
}
