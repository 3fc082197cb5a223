//! A cluster for each upstream.

use std::collections::HashMap;
use std::io;
use std::net::ToSocketAddrs;
use std::num::NonZeroU32;

use bytes::Bytes;

use super::SiteError;
use crate::backend::http1::{Address, HttpBackend};
use crate::balance::{HashKeyed, IpHash, LeastConn, RandomOne, RandomTwo, RoundRobin, key_fn};
use crate::cluster::{Cluster, ClusterBuilder};
use crate::endpoint::{AdminState, Endpoint};
use crate::health::Outlier;
use crate::nginx::applied::Applied;
use crate::nginx::directives::upstream::{EjectionRule, Method, Upstream, UpstreamServer};

/// A request extension: the value of the upstream's hash key.
#[derive(Clone)]
pub(super) struct UpstreamKey(pub(super) Bytes);

pub(super) fn build(upstream: &Upstream, applied: &Applied) -> Result<Cluster, SiteError> {
    let mut endpoints = Vec::new();
    let mut times: HashMap<String, usize> = HashMap::new();
    for server in &upstream.servers {
        let addresses = addresses(upstream, server)?;
        let several = addresses.len() > 1;
        for address in addresses {
            let mut id = if several { format!("{}/{address}", server.written) } else { server.written.clone() };
            // nginx accepts a server twice.
            let time = times.entry(id.clone()).and_modify(|time| *time += 1).or_insert(1);
            if *time > 1 {
                id = format!("{id}#{time}");
            }
            endpoints.push(endpoint(id, upstream, server, address, applied)?);
        }
    }
    let outlier = Outlier::new().drain(applied.drain.value);
    let builder = Cluster::builder().endpoints(endpoints).outlier(outlier).panic_mode(applied.panic.value);
    let builder = match applied.policy.value {
        Some(policy) => builder.balancer(policy.balancer()),
        None => with_method(&upstream.method, builder),
    };
    let cluster = builder.build();
    cluster.map_err(|source| SiteError::Cluster { upstream: upstream.name.clone(), source })
}

fn endpoint(
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
    Ok(builder.build())
}

fn addresses(upstream: &Upstream, server: &UpstreamServer) -> Result<Vec<Address>, SiteError> {
    let Address::Name(host, port) = &server.address else { return Ok(vec![server.address.clone()]) };
    let found = (host.as_str(), *port).to_socket_addrs().map(|found| found.map(Address::Socket).collect::<Vec<_>>());
    let found = found.and_then(|found| if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) });
    found.map_err(|source| SiteError::HostNotFound {
        upstream: upstream.name.clone(),
        server: server.written.clone(),
        source,
    })
}

fn with_method(method: &Method, builder: ClusterBuilder<HttpBackend>) -> ClusterBuilder<HttpBackend> {
    let key = || {
        key_fn("upstream key", |request, sink| {
            if let Some(UpstreamKey(key)) = request.extensions().get() {
                sink(key);
            }
        })
    };
    match method {
        Method::RoundRobin => builder.balancer(RoundRobin::new()),
        Method::IpHash => builder.balancer(IpHash::new()),
        Method::LeastConn => builder.balancer(LeastConn::new()),
        Method::Hash { consistent: false, .. } => builder.balancer(HashKeyed::modulo(key())),
        Method::Hash { consistent: true, .. } => builder.balancer(HashKeyed::consistent(key())),
        Method::Random { two: false } => builder.balancer(RandomOne::new()),
        Method::Random { two: true } => builder.balancer(RandomTwo::new()),
    }
}
