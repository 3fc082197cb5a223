//! The cluster of a balancer.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::backend::Timeouts;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::Outlier;
use kylin_lb::{Cluster, Endpoint, HttpBackend};

use super::{BuildError, tls};
use crate::args::Args;
use crate::httpd::directives::{Balancer, Member, Method, Server};
use crate::httpd::policy::LbMethod;

/// httpd's default of `retry`.
const RETRY: Duration = Duration::from_secs(60);

/// The settings and endpoints of a cluster, before or after a change.
pub struct Running {
    pub endpoints: Vec<Endpoint<HttpBackend>>,
    pub policy: Policy,
    pub panic: bool,
}

/// The policy of a balancer.
pub enum Policy {
    Httpd(Arc<LbMethod>),
    Named(Arc<dyn kylin_lb::balance::Balancer>),
}

impl Running {
    /// Returns the settings and endpoints of a balancer's cluster, and the longest timeouts of its
    /// members.
    pub fn of(balancer: &Balancer, servers: &[&Server], args: &Args) -> Result<(Self, Timeouts), BuildError> {
        let first_class = balancer.members.iter().map(class).min();
        let mut longest = Timeouts::default();
        (longest.head, longest.connect) = (Duration::ZERO, Duration::ZERO);
        let mut endpoints = Vec::new();
        for member in &balancer.members {
            let timeouts = timeouts(member, servers);
            longest.head = longest.head.max(timeouts.head);
            longest.connect = longest.connect.max(timeouts.connect);
            let is_backup = Some(class(member)) != first_class;
            let place = |error: &dyn Error| format!("member {}: {error}", member.address);
            let backend = backend(member, timeouts, servers).map_err(|error| place(&*error))?;
            let endpoint = Endpoint::new(&member.address, backend).map_err(|error| place(&error))?;
            endpoints.push(with_settings(endpoint, member, balancer, args).backup(is_backup));
        }
        let policy = match (balancer.method, args.policy) {
            (None, Some(named)) => Policy::Named(named.balancer(args.kylin && args.single_flight)),
            (method, _) => Policy::Httpd(Arc::new(LbMethod::new(balancer, method.unwrap_or(Method::ByRequests)))),
        };
        Ok((Running { endpoints, policy, panic: args.panic && balancer.recovers }, longest))
    }

    pub fn cluster(self, args: &Args) -> Result<Cluster, kylin_lb::cluster::ClusterError> {
        let builder = Cluster::builder()
            .endpoints(self.endpoints)
            .outlier(Outlier::new().drain(args.drain))
            .panic_mode(self.panic);
        match self.policy {
            Policy::Httpd(policy) => builder.balancer(policy as Arc<dyn kylin_lb::balance::Balancer>).build(),
            Policy::Named(policy) => builder.balancer(policy).build(),
        }
    }
}

/// Returns the class of a member. Members of the lowest class, and spares that replace them, are
/// primary endpoints. The others are backups, which the policy orders.
fn class(member: &Member) -> (u32, bool) {
    (member.set, member.status.standby)
}

/// Returns the time of `timeout=`, else of `ProxyTimeout`, else of a `Timeout` that is longer than
/// the front end's own.
fn timeouts(member: &Member, servers: &[&Server]) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let of_server =
        |server: &&Server| server.proxy_timeout.or(server.timeout.filter(|time| *time > Timeouts::default().head));
    if let Some(time) = member.timeout.or(servers.iter().filter_map(of_server).max()).filter(|time| !time.is_zero()) {
        (timeouts.head, timeouts.body) = (time, time);
    }
    timeouts.connect = member.connect_timeout.unwrap_or(timeouts.connect);
    timeouts
}

fn backend(member: &Member, timeouts: Timeouts, servers: &[&Server]) -> Result<HttpBackend, BuildError> {
    let mut backend = HttpBackend::builder(&member.address)?.timeouts(timeouts);
    if let Some(ttl) = member.ttl {
        backend = backend.idle_timeout(ttl);
    }
    if !member.reuse {
        backend = backend.max_idle(0);
    }
    Ok(tls::to_member(backend, member, servers)?.build()?)
}

fn with_settings(
    endpoint: Endpoint<HttpBackend>,
    member: &Member,
    balancer: &Balancer,
    args: &Args,
) -> Endpoint<HttpBackend> {
    let mut endpoint = endpoint.weight(balancer.weight(member)).max_in_flight(member.max);
    if let Some(route) = &member.route {
        endpoint = endpoint.route(route);
    }
    endpoint = match (member.status.disabled, member.status.drain) {
        (true, _) => endpoint.admin_state(AdminState::Maintenance),
        (false, true) => endpoint.admin_state(AdminState::Drain),
        (false, false) => endpoint,
    };
    // httpd ejects a member after one failure.
    let retry = member.retry.or((!args.outlier).then_some(RETRY));
    match retry {
        _ if member.status.ignores_errors => endpoint.max_fails(None).outlier(false),
        None => endpoint,
        Some(Duration::ZERO) => endpoint.max_fails(None).outlier(false),
        Some(retry) => endpoint.max_fails(NonZeroU32::new(1)).fail_timeout(retry).outlier(false),
    }
}
