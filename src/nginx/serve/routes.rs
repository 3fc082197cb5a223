//! Builds a proxy for each location.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::StatusCode;

use super::SiteError;
use super::access_log::{self, Addresses, Writers, WrittenLog};
use crate::Cluster;
use crate::admission::QueueRules;
use crate::backend::{HttpBackend, Timeouts};
use crate::buffer::BufferBudget;
use crate::kylin::ResourceGroups;
use crate::nginx::config::Config;
use crate::nginx::directives::location::{Action, Location, Locations, Matcher};
use crate::nginx::directives::settings::{BlockSettings, NextUpstream, RealIp};
use crate::observe::Observer;
use crate::proxy::{KylinRules, Proxy, ProxyBuilder, ReloadAccess, RetryBudget, RetryPolicy, TrustedProxies};
use crate::session::Affinity;

/// The compiled form of a location.
pub(super) struct Route {
    pub(super) trusted: TrustedProxies,
    /// The proxy; `None` for a location that responds itself.
    pub(super) proxy: Option<Proxy>,
    /// The proxy of requests that declare the length of their body; `None` if it is the same.
    ///
    /// In nginx, the location that led such a request to a named location has checked the length.
    /// Only the bytes of a body without a length are checked in the named location
    /// (`ngx_http_request_body_chunked_filter`).
    pub(super) declared: Option<Proxy>,
    /// Whether the rules of Kylin apply.
    pub(super) is_of_kylin: bool,
    /// The timeouts of a node, if the location changes them.
    pub(super) timeouts: Option<Timeouts>,
    pub(super) logs: Arc<[WrittenLog]>,
    /// The endpoints of the upstream.
    pub(super) addresses: Addresses,
    /// Whether headers of the response show the outcome of the request.
    pub(super) shows_outcome: bool,
}

impl Route {
    fn none() -> Self {
        Route {
            trusted: TrustedProxies::none(),
            proxy: None,
            declared: None,
            is_of_kylin: false,
            timeouts: None,
            logs: Arc::default(),
            addresses: None,
            shows_outcome: false,
        }
    }
}

/// The cluster of an upstream, how its sessions find their endpoint, and whether the rules of Kylin
/// apply.
pub(super) struct Group {
    pub(super) cluster: Cluster,
    pub(super) affinity: Option<Affinity>,
    pub(super) kylin: bool,
    pub(super) queue: Option<QueueRules>,
    pub(super) buffers: BufferBudget,
    pub(super) max_requests_per_client: Option<NonZeroU32>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) reload: ReloadAccess,
    pub(super) single_flight: bool,
    pub(super) resource_groups: Option<ResourceGroups>,
    pub(super) addresses: Addresses,
}

/// Builds the routes, indexed by the number of the location.
pub(super) fn build(config: &Config, groups: &[Group], writers: &Writers) -> Result<Vec<Route>, SiteError> {
    let mut routes = Vec::new();
    for server in &config.servers {
        let of_server = OfServer { real_ip: &server.settings.real_ip, max_body: highest_max_body(&server.locations) };
        collect(&server.locations, &of_server, groups, writers, &mut routes)?;
    }
    routes.sort_by_key(|(number, _)| *number);
    let mut by_number = Vec::new();
    for (number, route) in routes {
        // A `return` after a `proxy_pass` leaves gaps in the numbers of locations.
        while by_number.len() < number {
            by_number.push(Route::none());
        }
        by_number.push(route);
    }
    Ok(by_number)
}

/// The settings of a server that its locations need.
struct OfServer<'c> {
    real_ip: &'c Arc<RealIp>,
    /// The highest body limit of its locations; `None` if one of them has no limit.
    max_body: Option<u64>,
}

fn highest_max_body(locations: &Locations) -> Option<u64> {
    locations.iter().try_fold(0, |highest, location| {
        let nested = highest_max_body(&location.nested)?;
        Some(location.settings.max_body()?.max(nested).max(highest))
    })
}

fn collect(
    locations: &Locations,
    of_server: &OfServer<'_>,
    groups: &[Group],
    writers: &Writers,
    routes: &mut Vec<(usize, Route)>,
) -> Result<(), SiteError> {
    for location in locations.iter() {
        for form in location.forms() {
            routes.push((form.number, route(form, of_server, groups, writers)?));
        }
        collect(&location.nested, of_server, groups, writers, routes)?;
    }
    Ok(())
}

/// Returns the rule by which a location identifies its clients.
///
/// As in nginx, the rule of the server applies first, when a request arrives. That of the location
/// applies only if the first one names no client.
fn trusted(of_server: &Arc<RealIp>, of_location: &Arc<RealIp>) -> TrustedProxies {
    match Arc::ptr_eq(of_server, of_location) {
        true => of_server.trusted_proxies(),
        false => of_server.trusted_proxies().or_else(of_location.trusted_proxies()),
    }
}

fn route(
    location: &Location,
    of_server: &OfServer<'_>,
    groups: &[Group],
    writers: &Writers,
) -> Result<Route, SiteError> {
    let settings = &location.settings;
    let group = match &location.action {
        Action::Proxy(pass) => Some(&groups[pass.upstream]),
        Action::Return(_) | Action::Named(_) | Action::LeftOut(_) => None,
    };
    let trusted = trusted(of_server.real_ip, &settings.real_ip);
    let with_limit = |max_body| proxy(location, max_body, &trusted, groups);
    let declared = match location.matcher {
        Matcher::Named(_) if of_server.max_body != settings.max_body() => with_limit(of_server.max_body)?,
        Matcher::Named(_) | Matcher::Exact(_) | Matcher::Prefix { .. } | Matcher::Regex(_) => None,
    };
    Ok(Route {
        proxy: with_limit(settings.max_body())?,
        declared,
        trusted,
        timeouts: timeouts(settings),
        logs: access_log::written(&settings.access_logs, writers),
        addresses: group.and_then(|group| group.addresses.clone()),
        is_of_kylin: group.is_some_and(|group| group.kylin),
        shows_outcome: settings.shows_outcome(),
    })
}

fn proxy(
    location: &Location,
    max_body: Option<u64>,
    trusted: &TrustedProxies,
    groups: &[Group],
) -> Result<Option<Proxy>, SiteError> {
    let settings = &location.settings;
    let Action::Proxy(pass) = &location.action else { return Ok(None) };
    let group = &groups[pass.upstream];
    let retry = retry(&settings.next_upstream, group.kylin);
    Ok(Some(match group.kylin {
        true => {
            let rules = KylinRules::default().other_paths(false).reload(group.reload);
            let rules = rules.resource_groups(group.resource_groups.clone());
            let builder = Proxy::builder(group.cluster.clone()).rules(rules).queue(group.queue).hide_nodes(false);
            with_settings(
                builder.single_flight(group.single_flight).max_body(max_body),
                settings,
                trusted,
                group,
                retry,
            )?
        }
        false => {
            let builder = Proxy::plain(group.cluster.clone()).max_body(max_body);
            with_settings(builder, settings, trusted, group, retry)?
        }
    }))
}

fn with_settings<K>(
    builder: ProxyBuilder<HttpBackend, K>,
    settings: &BlockSettings,
    trusted: &TrustedProxies,
    group: &Group,
    retry: RetryPolicy,
) -> Result<Proxy, SiteError> {
    let builder = group.observers.iter().fold(builder, |builder, observer| builder.observer(Arc::clone(observer)));
    let mut builder = builder
        .buffers(group.buffers.clone())
        .max_requests_per_client(group.max_requests_per_client)
        .trusted_proxies(trusted.clone())
        .retry(retry)
        .affinity(group.affinity.clone());
    if let Some(timeout) = settings.body_timeout {
        builder = builder.body_timeout(timeout);
    }
    if settings.buffering == Some(false) {
        builder = builder.response_buffer(0);
    }
    if settings.request_buffering == Some(false) {
        // The file turns buffering off, and nginx does not limit the number of streamed bodies.
        builder = builder.replay_limit(0).streamed_bodies(None);
    }
    Ok(builder.build()?)
}

/// Returns the retry policy of `proxy_next_upstream`.
///
/// With the rules of Kylin, the class of a request decides which conditions apply, and a budget
/// limits retries. A response of a stopping node is retried only if the conditions say so
/// ([`RetryPolicy::none`]).
fn retry(next: &NextUpstream, kylin: bool) -> RetryPolicy {
    let statuses = (400..600).filter(|status| next.on_status(*status));
    let retry = RetryPolicy::none()
        .on_error(next.has("error"))
        .on_timeout(next.has("timeout"))
        .timeout_is_failure(next.timeout_is_written())
        .on_invalid(next.has("invalid_header") || (kylin && !next.is_written))
        .non_idempotent(next.has("non_idempotent"))
        .max_attempts(NonZeroU32::new(next.tries))
        .count_unsent(true)
        .budget(if kylin { Some(RetryBudget::default()) } else { None })
        .max_elapsed(Some(next.max_elapsed).filter(|time| !time.is_zero()));
    statuses.filter_map(|status| StatusCode::from_u16(status).ok()).fold(retry, RetryPolicy::on_status)
}

fn timeouts(settings: &BlockSettings) -> Option<Timeouts> {
    if settings.connect_timeout.is_none() && settings.read_timeout.is_none() {
        return None;
    }
    let mut timeouts = Timeouts::default();
    timeouts.connect = settings.connect_timeout.unwrap_or(timeouts.connect);
    if let Some(read) = settings.read_timeout {
        // nginx applies `proxy_read_timeout` to the head and to each piece of the body.
        (timeouts.head, timeouts.body) = (read, read);
    }
    Some(timeouts)
}
