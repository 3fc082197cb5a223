//! The thin helper that puts a cluster behind one function: a request in, an answer out.

mod budget;
mod builder;
mod cancel;
mod client;
mod edits;
mod error_response;
mod fan_out;
mod forward;
mod head;
mod headers;
mod kylin_request;
mod peek;
mod recent_writes;
mod resumed;
mod retry;
mod rules;
#[cfg(feature = "tower")]
mod service;
mod session;
mod upload;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

pub use budget::{InvalidRatio, RetryBudget};
pub use builder::{KylinAware, Plain, ProxyBuildError, ProxyBuilder};
pub use client::TrustedProxies;
pub use edits::HeaderEdits;
pub use error_response::ErrorResponse;
pub use head::check_head;
pub use retry::RetryPolicy;
pub use rules::{CancelOnDisconnect, KylinRules};
#[cfg(feature = "tower")]
pub use service::ProxyService;

use self::budget::RetryAccount;
use self::builder::ProxySettings;
use crate::backend::{Backend, HttpBackend};
use crate::body::{Body, BoxError};
use crate::cluster::Cluster;
use crate::request::ClientAddr;

/// Forwards requests to a cluster. Clones are handles to the same proxy.
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
/// let answer = proxy.forward(peer, request).await;
/// # Ok(())
/// # }
/// ```
pub struct Proxy<B = HttpBackend> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    cluster: Cluster<B>,
    settings: ProxySettings,
    /// None where retries have no limit.
    budget: Option<RetryAccount>,
    /// None in a plain proxy.
    rules: Option<self::rules::RuleState>,
}

impl<B: Backend> Proxy<B> {
    /// Returns a builder of a proxy that knows Kylin: it keeps logins, retries by what a request is for, and guards the calls
    /// between nodes.
    pub fn builder(cluster: Cluster<B>) -> ProxyBuilder<B> {
        ProxyBuilder::kylin_aware(cluster)
    }

    /// Returns a builder of a proxy for any HTTP service: it keeps no sessions unless it is told to, retries by method and
    /// status, and guards nothing.
    pub fn plain(cluster: Cluster<B>) -> ProxyBuilder<B, Plain> {
        ProxyBuilder::plain(cluster)
    }

    /// The cluster behind the proxy.
    pub fn cluster(&self) -> &Cluster<B> {
        &self.inner.cluster
    }

    /// Sends `request`, which came from `peer`, to an endpoint, and gives back the answer with its body still streaming.
    ///
    /// Never fails: where no endpoint could answer, the answer says so in the form of a Kylin error (JSON). The request
    /// counts as in flight on its endpoint until the body of the answer has ended or is dropped. Dropping the future, or
    /// that body, cancels the request at the node.
    ///
    /// | what happened | status |
    /// |---|---|
    /// | the head of the request is not acceptable | 400, 405, 417, 501 |
    /// | the body of the request ended early / came too slowly / is too large | 400 / 408 / 413 |
    /// | the node could not be reached, or broke off, or answered nonsense | 502 |
    /// | no endpoint can serve: all are out, ejected or full | 503 |
    /// | the node did not answer in time | 504 |
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

    /// The same for a body of our own: to see that it is one would move the request twice.
    pub(crate) fn forward_body(
        &self,
        peer: ClientAddr,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send {
        forward::forward(&self.inner, peer, request)
    }
}

impl<B> Clone for Proxy<B> {
    fn clone(&self) -> Self {
        Proxy { inner: Arc::clone(&self.inner) }
    }
}

impl<B> fmt::Debug for Proxy<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cluster, settings, rules, .. } = &*self.inner;
        f.debug_struct("Proxy").field("cluster", cluster).field("settings", settings).field("rules", rules).finish()
    }
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use super::*;

    /// Servers move the future of a request about, and keep one per connection.
    #[test]
    fn the_future_of_a_request_is_small() {
        let proxy: Proxy = Proxy::builder(Cluster::builder().build().unwrap()).build().unwrap();
        let forwarded = proxy.forward(ClientAddr::Unix, Request::new(Body::empty()));
        assert!(size_of_val(&forwarded) <= 2112, "{}", size_of_val(&forwarded));
    }
}
