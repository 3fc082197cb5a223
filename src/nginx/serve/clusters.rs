//! Builds a cluster for each upstream.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use bytes::Bytes;

use super::SiteError;
use crate::backend::http1::{Address, HttpBackend};
use crate::balance::{Balancer, HashKeyed, IpHash, LeastConn, RandomOne, RandomTwo, RoundRobin, key_fn};
use crate::cluster::{Cluster, ClusterError};
use crate::endpoint::{AdminState, Endpoint};
use crate::health::Outlier;
use crate::nginx::applied::Applied;
use crate::nginx::directives::upstream::{EjectionRule, Method, Upstream, UpstreamServer};

/// A request extension: the value of the upstream's hash key.
#[derive(Clone)]
pub(super) struct UpstreamKey(pub(super) Bytes);

/// The settings of a cluster, without its endpoints.
pub(super) struct ClusterSettings {
    balancer: Arc<dyn Balancer>,
    panic: bool,
    drain: bool,
}

impl ClusterSettings {
    pub(super) fn of(upstream: &Upstream, applied: &Applied) -> Self {
        let balancer = match applied.policy.value {
            Some(policy) => policy.balancer(applied.kylin.value && applied.single_flight.value),
            None => balancer(&upstream.method),
        };
        ClusterSettings { balancer, panic: applied.panic.value, drain: applied.drain.value }
    }

    pub(super) fn build(self, upstream: &str, endpoints: Vec<Endpoint<HttpBackend>>) -> Result<Cluster, SiteError> {
        let cluster = Cluster::builder().endpoints(endpoints).balancer(self.balancer);
        let cluster = cluster.outlier(Outlier::new().drain(self.drain)).panic_mode(self.panic).build();
        cluster.map_err(|source| SiteError::Cluster { upstream: upstream.to_owned(), source })
    }

    /// Applies the settings to a running cluster. Its outlier rule stays.
    pub(super) fn apply(self, cluster: &Cluster, endpoints: Vec<Endpoint<HttpBackend>>) -> Result<(), ClusterError> {
        cluster.replace(endpoints)?;
        cluster.set_balancer(self.balancer);
        cluster.set_panic_mode(self.panic);
        Ok(())
    }
}

pub(super) fn endpoint(
    id: String,
    upstream: &Upstream,
    server: &UpstreamServer,
    address: Address,
    applied: &Applied,
) -> Result<Endpoint<HttpBackend>, SiteError> {
    let endpoint = Endpoint::new(id, backend(upstream, server, address)?).map_err(|source| SiteError::Endpoint {
        upstream: upstream.name.clone(),
        server: server.written.clone(),
        source,
    })?;
    let admin_state = match (server.down, server.drain) {
        (true, _) => AdminState::Maintenance,
        (false, true) => AdminState::Drain,
        (false, false) => AdminState::Ready,
    };
    let mut endpoint = endpoint
        .placement(&server.written)
        .weight(NonZeroU32::new(server.weight).unwrap_or(NonZeroU32::MIN))
        .max_in_flight(NonZeroU32::new(server.max_conns))
        .backup(server.backup)
        .admin_state(admin_state);
    endpoint = match applied.ejection(server) {
        EjectionRule::Outlier => endpoint,
        EjectionRule::MaxFails { max_fails, fail_timeout } => {
            endpoint.max_fails(NonZeroU32::new(max_fails)).fail_timeout(fail_timeout).outlier(false)
        }
    };
    if let Some(route) = &server.route {
        endpoint = endpoint.route(route);
    }
    if !server.slow_start.is_zero() {
        endpoint = endpoint.slow_start(server.slow_start);
    }
    Ok(endpoint)
}

#[cfg_attr(not(feature = "tls"), allow(unused_variables, clippy::unnecessary_wraps, reason = "only TLS can fail"))]
fn backend(upstream: &Upstream, server: &UpstreamServer, address: Address) -> Result<HttpBackend, SiteError> {
    let mut builder = HttpBackend::to(address);
    if let Some(connections) = upstream.keepalive {
        builder = builder.max_idle(connections as usize);
    }
    if let Some(bytes) = upstream.head_bytes.and_then(|bytes| NonZeroUsize::new(usize::try_from(bytes).ok()?)) {
        builder = builder.max_head_bytes(bytes);
    }
    if let Some(requests) = upstream.keepalive_requests {
        builder = builder.max_uses(NonZeroU32::new(requests));
    }
    if let Some(age) = upstream.keepalive_time {
        builder = builder.max_age(Some(age));
    }
    if let Some(timeout) = upstream.keepalive_timeout {
        builder = builder.idle_timeout(timeout);
    }
    #[cfg(feature = "tls")]
    if let Some(Some(tls)) = &upstream.passed {
        let host = if let Address::Name(host, _) = &server.address {
            Some(host.clone())
        } else if let Address::Socket(socket) = &server.address {
            Some(socket.ip().to_string())
        } else {
            None
        };
        let tls = super::tls::of_nodes(tls, host.as_deref()).and_then(|tls| builder.tls(&tls));
        builder = tls.map_err(|source| SiteError::Tls { place: format!("upstream {}", upstream.name), source })?;
    }
    Ok(builder.build().expect("the default timeouts are valid"))
}

fn balancer(method: &Method) -> Arc<dyn Balancer> {
    let key = || {
        key_fn("upstream key", |request, sink| {
            if let Some(UpstreamKey(key)) = request.extensions().get() {
                sink(key);
            }
        })
    };
    match method {
        Method::RoundRobin => Arc::new(RoundRobin::new()),
        Method::IpHash => Arc::new(IpHash::new()),
        Method::LeastConn => Arc::new(LeastConn::new()),
        Method::Hash { consistent: false, .. } => Arc::new(HashKeyed::modulo(key())),
        Method::Hash { consistent: true, .. } => Arc::new(HashKeyed::consistent(key())),
        Method::Random { two: false } => Arc::new(RandomOne::new()),
        Method::Random { two: true } => Arc::new(RandomTwo::new()),
    }
}
