//! From the model to clusters and proxies.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::num::NonZeroU32;

use bytes::Bytes;
use http::StatusCode;

use super::affinity::{Affinities, Shared};
use super::{Inner, Route, SiteError};
use crate::backend::http1::{Address, HttpBackend, Timeouts};
use crate::balance::{HashKeyed, IpHash, LeastConn, RandomOne, RandomTwo, RoundRobin, key_fn};
use crate::cluster::{Cluster, ClusterBuilder};
use crate::endpoint::{AdminState, Endpoint};
use crate::nginx::config::Config;
use crate::nginx::location::{Action, Location, Locations};
use crate::nginx::next_upstream::NextUpstream;
use crate::nginx::settings::Settings;
use crate::nginx::upstream::{Method, Upstream, UpstreamServer};
use crate::proxy::{Proxy, RetryPolicy};
use crate::session::Affinity;

/// nginx's `client_max_body_size` where none is set.
const MAX_BODY: u64 = 1 << 20;

/// The value of an upstream's hash key for a request, in the request's extensions.
#[derive(Clone)]
pub(super) struct UpstreamKey(pub(super) Bytes);

/// A cluster and how its sessions find their endpoint.
type Group = (Cluster, Option<Affinity>);

pub(super) fn site(config: Config, shared: Shared) -> Result<Inner, SiteError> {
    let mut affinities = Affinities::new(shared);
    let group = |upstream| Ok((cluster(upstream)?, affinities.of(upstream)?));
    let groups = config.upstreams.iter().map(group).collect::<Result<Vec<Group>, SiteError>>()?;
    let mut routes = Vec::new();
    for server in &config.servers {
        collect_routes(&server.locations, &groups, &mut routes)?;
    }
    let clusters = groups.into_iter().map(|(cluster, _)| cluster).collect();
    routes.sort_by_key(|(number, _)| *number);
    let routes = routes.into_iter().map(|(_, route)| route).collect();
    Ok(Inner { config, clusters, routes })
}

fn collect_routes(locations: &Locations, groups: &[Group], routes: &mut Vec<(usize, Route)>) -> Result<(), SiteError> {
    for location in locations.iter() {
        routes.push((location.number, route(location, groups)?));
        collect_routes(&location.nested, groups, routes)?;
    }
    Ok(())
}

fn route(location: &Location, groups: &[Group]) -> Result<Route, SiteError> {
    let settings = &location.settings;
    let trusted = settings.real_ip.trusted_proxies();
    let proxy = match &location.action {
        Action::Proxy(pass) => {
            let (cluster, affinity) = &groups[pass.upstream];
            let builder = Proxy::plain(cluster.clone())
                .trusted_proxies(trusted.clone())
                .retry(retry(&settings.next_upstream))
                .max_body(Some(settings.max_body_size.unwrap_or(MAX_BODY)).filter(|size| *size > 0));
            let builder = match settings.body_timeout {
                Some(timeout) => builder.body_timeout(timeout),
                None => builder,
            };
            let builder = match affinity {
                Some(affinity) => builder.affinity(affinity.clone()),
                None => builder,
            };
            let streams = settings.request_buffering == Some(false);
            Some(if streams { builder.replay_limit(0) } else { builder }.build()?)
        }
        Action::Return(_) => None,
    };
    Ok(Route { trusted, proxy })
}

fn retry(next: &NextUpstream) -> RetryPolicy {
    let statuses =
        (400..600).filter(|status| next.on_status(*status)).filter_map(|status| StatusCode::from_u16(status).ok());
    let retry = RetryPolicy::off()
        .on_error(next.error)
        .on_timeout(next.timeout)
        .on_invalid(next.invalid_header)
        .non_idempotent(next.non_idempotent)
        .max_attempts(NonZeroU32::new(next.tries))
        .budget(None)
        .max_elapsed(Some(next.within).filter(|within| !within.is_zero()));
    statuses.fold(retry, RetryPolicy::on_status)
}

/// The waits for a node that a location changes; none when it changes none.
pub(super) fn timeouts(settings: &Settings) -> Option<Timeouts> {
    if settings.connect_timeout.is_none() && settings.read_timeout.is_none() {
        return None;
    }
    let mut timeouts = Timeouts::default();
    timeouts.connect = settings.connect_timeout.unwrap_or(timeouts.connect);
    if let Some(read) = settings.read_timeout {
        // nginx counts the head and the pieces of the body alike.
        (timeouts.head, timeouts.body) = (read, read);
    }
    Some(timeouts)
}

fn cluster(upstream: &Upstream) -> Result<Cluster, SiteError> {
    let mut endpoints = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for server in &upstream.servers {
        let addresses = addresses(upstream, server)?;
        let several = addresses.len() > 1;
        for address in addresses {
            let mut id = if several { format!("{}/{address}", server.written) } else { server.written.clone() };
            // nginx lets a server stand twice.
            let times = seen.entry(id.clone()).and_modify(|times| *times += 1).or_insert(1);
            if *times > 1 {
                id = format!("{id}#{times}");
            }
            let endpoint = Endpoint::new(id, backend(upstream, address)).map_err(|source| SiteError::Endpoint {
                upstream: upstream.name.clone(),
                server: server.written.clone(),
                source,
            })?;
            let endpoint = match &server.route {
                Some(route) => endpoint.route(route),
                None => endpoint,
            };
            let endpoint = match server.slow_start.is_zero() {
                true => endpoint,
                false => endpoint.slow_start(server.slow_start),
            };
            let admin_state = match (server.down, server.drain) {
                (true, _) => AdminState::Maintenance,
                (false, true) => AdminState::Drain,
                (false, false) => AdminState::Ready,
            };
            endpoints.push(
                endpoint
                    .placement(&server.written)
                    .weight(NonZeroU32::new(server.weight).unwrap_or(NonZeroU32::MIN))
                    .max_in_flight(NonZeroU32::new(server.max_conns))
                    .max_fails(NonZeroU32::new(server.max_fails))
                    .fail_timeout(server.fail_timeout)
                    .backup(server.backup)
                    .admin_state(admin_state),
            );
        }
    }
    let builder = Cluster::builder().endpoints(endpoints);
    policy(upstream, builder).build().map_err(|source| SiteError::Cluster { upstream: upstream.name.clone(), source })
}

fn policy(upstream: &Upstream, builder: ClusterBuilder<HttpBackend>) -> ClusterBuilder<HttpBackend> {
    let key = || {
        key_fn("upstream key", |request, sink| {
            if let Some(UpstreamKey(key)) = request.extensions().get() {
                sink(key);
            }
        })
    };
    match &upstream.method {
        Method::RoundRobin => builder.balancer(RoundRobin::new()),
        Method::IpHash => builder.balancer(IpHash::new()),
        Method::LeastConn => builder.balancer(LeastConn::new()),
        Method::Hash { consistent: false, .. } => builder.balancer(HashKeyed::modulo(key())),
        Method::Hash { consistent: true, .. } => builder.balancer(HashKeyed::consistent(key())),
        Method::Random { two: false } => builder.balancer(RandomOne::new()),
        Method::Random { two: true } => builder.balancer(RandomTwo::new()),
    }
}

fn addresses(upstream: &Upstream, server: &UpstreamServer) -> Result<Vec<Address>, SiteError> {
    let Address::Name(host, port) = &server.address else { return Ok(vec![server.address.clone()]) };
    let found = (host.as_str(), *port).to_socket_addrs().map(|found| found.map(Address::Socket).collect::<Vec<_>>());
    let found = found.and_then(|found| match found.is_empty() {
        true => Err(std::io::ErrorKind::NotFound.into()),
        false => Ok(found),
    });
    found.map_err(|source| SiteError::HostNotFound {
        upstream: upstream.name.clone(),
        server: server.written.clone(),
        source,
    })
}

fn backend(upstream: &Upstream, address: Address) -> HttpBackend {
    let mut builder = HttpBackend::to(address);
    if let Some(connections) = upstream.keepalive {
        builder = builder.max_idle(connections as usize);
    }
    if let Some(requests) = upstream.keepalive_requests {
        builder = builder.max_uses(requests);
    }
    if let Some(age) = upstream.keepalive_time {
        builder = builder.max_age(Some(age));
    }
    match upstream.keepalive_timeout {
        Some(timeout) => builder.idle_timeout(timeout),
        None => builder,
    }
    .build()
}
