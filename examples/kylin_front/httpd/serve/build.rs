//! Builds sites, and those that take the place of a running one.

use std::collections::BTreeSet;
use std::error::Error;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::admission::QueueRules;
use kylin_lb::backend::Timeouts;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::Outlier;
use kylin_lb::nginx::{ProbeMode, SessionMode};
use kylin_lb::observe::Observer;
use kylin_lb::proxy::{KylinRules, ProxyBuilder, RetryPolicy};
use kylin_lb::server::ListenOptions;
use kylin_lb::session::{Affinity, Secret};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};

use super::{Group, Logins, Parts, Site};
use crate::args::Args;
use crate::httpd::config::{Config, Listener};
use crate::httpd::directives::{Balancer, Member, Method, Server};
use crate::httpd::kylin::of_kylin;
use crate::httpd::policy::{BoundPicks, LbMethod};

/// httpd's default of `LimitRequestBody`.
const MAX_BODY_BYTES: u64 = 1 << 30;
/// httpd's default of `retry`.
const RETRY: Duration = Duration::from_secs(60);

/// A site that is ready to take the place of a running one. Nothing has changed yet.
pub struct SiteSuccessor {
    pub site: Site,
    before: Site,
    changes: Vec<(Cluster, Running)>,
}

/// What a cluster has, before or after a change.
struct Running {
    endpoints: Vec<Endpoint<HttpBackend>>,
    policy: Policy,
    panic: bool,
}

/// The policy of a balancer.
enum Policy {
    Httpd(Arc<LbMethod>),
    Named(kylin_lb::nginx::PolicyName),
}

type BuildError = Box<dyn Error>;

impl Site {
    /// Builds what a file describes.
    pub fn load(
        path: &Path,
        args: &Args,
        secret: &Secret,
        observers: &[Arc<dyn Observer>],
    ) -> Result<Site, BuildError> {
        let (site, changes) = build(Config::read(path)?, args, secret, observers, None)?;
        drop(changes);
        Ok(site)
    }

    /// Builds a site that takes the place of this one, and keeps what lives in it: the clusters of balancers with the same name, and the
    /// sessions.
    pub fn successor(
        &self,
        path: &Path,
        args: &Args,
        secret: &Secret,
        observers: &[Arc<dyn Observer>],
    ) -> Result<SiteSuccessor, BuildError> {
        let (site, changes) = build(Config::read(path)?, args, secret, observers, Some(self))?;
        Ok(SiteSuccessor { site, before: self.clone(), changes })
    }
}

impl SiteSuccessor {
    /// Has the clusters follow the new configuration. Returns the new site, what has changed, and whether other balancers are probed.
    pub fn activate(self) -> (Site, String, bool) {
        let SiteSuccessor { site, before, changes } = self;
        for (cluster, Running { endpoints, policy, panic }) in changes {
            // The ids were checked when the site was built.
            if let Err(error) = cluster.replace(endpoints) {
                tracing::error!(%error, "the members of a balancer cannot be exchanged");
            }
            match policy {
                Policy::Httpd(policy) => cluster.set_balancer(policy as Arc<dyn kylin_lb::balance::Balancer>),
                Policy::Named(policy) => cluster.set_balancer(policy.balancer()),
            }
            cluster.set_panic_mode(panic);
        }
        let names = |site: &Site| site.0.groups.iter().map(|group| group.name.clone()).collect::<BTreeSet<_>>();
        let (old, new) = (names(&before), names(&site));
        let mut what = vec!["balancers and paths as in the file".to_owned()];
        let added: Vec<_> = new.difference(&old).cloned().collect();
        let removed: Vec<_> = old.difference(&new).cloned().collect();
        for (verb, names) in [("balancers added", added), ("balancers removed", removed)] {
            if !names.is_empty() {
                what.push(format!("{verb}: {}", names.join(" ")));
            }
        }
        let probed =
            |site: &Site| site.0.groups.iter().map(|group| (group.name.clone(), group.probe)).collect::<Vec<_>>();
        let probes = probed(&before) != probed(&site);
        (site, what.join("; "), probes)
    }
}

fn build(
    config: Config,
    args: &Args,
    secret: &Secret,
    observers: &[Arc<dyn Observer>],
    before: Option<&Site>,
) -> Result<(Site, Vec<(Cluster, Running)>), BuildError> {
    let logins = Logins::new(args, secret, before)?;
    let mut changes = Vec::new();
    let (mut groups, mut policies) = (Vec::new(), Vec::new());
    let of_kylin = of_kylin(&config);
    let of_kylin: Vec<bool> = of_kylin.into_iter().map(|(is_of_kylin, _)| is_of_kylin).collect();
    for (balancer, is_of_kylin) in config.balancers.iter().zip(&of_kylin) {
        let servers =
            config.servers.iter().filter(|server| server.all_passes().any(|pass| leads_to(pass, &config, balancer)));
        let servers: Vec<&Server> = servers.collect();
        let (running, timeouts) = Running::of(balancer, &servers, args)?;
        let known = before.and_then(|before| before.0.groups.iter().find(|group| group.name == balancer.name));
        policies.push(match &running.policy {
            Policy::Httpd(policy) => Some(Arc::clone(policy)),
            Policy::Named(_) => None,
        });
        let cluster = match known {
            Some(group) => {
                changes.push((group.cluster.clone(), running));
                group.cluster.clone()
            }
            None => running.cluster(args).map_err(|error| format!("balancer://{}: {error}", balancer.name))?,
        };
        let probe = match args.probe {
            Some(probe @ (ProbeMode::Tcp | ProbeMode::None)) => probe,
            Some(probe) if *is_of_kylin && args.kylin => probe,
            None if *is_of_kylin && args.kylin => ProbeMode::Auto,
            _ => ProbeMode::None,
        };
        groups.push(Group { name: balancer.name.clone(), cluster, probe, timeouts });
    }
    let mut proxies = Vec::new();
    for server in &config.servers {
        let mut of_server = Vec::new();
        for (index, balancer) in config.balancers.iter().enumerate() {
            let is_used = server.all_passes().any(|pass| leads_to(pass, &config, balancer));
            let proxy = || {
                proxy(
                    &groups[index].cluster,
                    balancer,
                    of_kylin[index],
                    server,
                    args,
                    &logins,
                    policies[index].as_ref(),
                    observers,
                )
            };
            of_server.push(if is_used { Some(proxy()?) } else { None });
        }
        proxies.push(of_server);
    }
    let options = config.listeners.iter().map(|listener| options(&config, listener)).collect::<Result<_, _>>()?;
    let trusted = config.servers.iter().map(Server::trusted_proxies).collect();
    let parts = Parts { config, groups, proxies, trusted, options, logins, buffers: args.buffers.clone() };
    Ok((Site(Arc::new(parts)), changes))
}

fn leads_to(pass: &crate::httpd::directives::Pass, config: &Config, balancer: &Balancer) -> bool {
    pass.to.as_ref().is_some_and(|target| std::ptr::eq(&config.balancers[target.balancer], balancer))
}

impl Logins {
    fn new(args: &Args, secret: &Secret, before: Option<&Site>) -> Result<Self, BuildError> {
        let before = before.map(|before| &before.0.logins);
        if let Some(same) = before.filter(|before| before.secret == *secret) {
            return Ok(same.clone());
        }
        let mode = args.sessions.clone().unwrap_or(SessionMode::MEMORY);
        let sessions = match before.and_then(|before| before.sessions.as_ref()) {
            Some(sessions) => Some(sessions.with_secret(secret)),
            None => mode.sessions(secret, args.store_deadline)?,
        };
        Ok(Logins { affinity: mode.affinity(secret, sessions.as_ref()), sessions, secret: secret.clone() })
    }
}

impl Running {
    /// Returns what the cluster of a balancer has, and the longest times of its members.
    fn of(balancer: &Balancer, servers: &[&Server], args: &Args) -> Result<(Self, Timeouts), BuildError> {
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
            (None, Some(named)) => Policy::Named(named),
            (method, _) => Policy::Httpd(Arc::new(LbMethod::new(balancer, method.unwrap_or(Method::ByRequests)))),
        };
        Ok((Running { endpoints, policy, panic: args.panic && balancer.recovers }, longest))
    }

    fn cluster(self, args: &Args) -> Result<Cluster, kylin_lb::cluster::ClusterError> {
        let builder = Cluster::builder()
            .endpoints(self.endpoints)
            .outlier(Outlier::new().drain(args.drain))
            .panic_mode(self.panic);
        match self.policy {
            Policy::Httpd(policy) => builder.balancer(policy as Arc<dyn kylin_lb::balance::Balancer>).build(),
            Policy::Named(policy) => builder.balancer(policy.balancer()).build(),
        }
    }
}

/// Members of the lowest class are primary endpoints, with the spares that take their places. The others are backups, among which the
/// policy has the order.
fn class(member: &Member) -> (u32, bool) {
    (member.set, member.status.standby)
}

/// As `timeout=` says, else `ProxyTimeout`, else a `Timeout` that is longer than the front end's own.
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

#[cfg_attr(not(feature = "tls"), allow(unused_variables, reason = "only TLS needs the servers"))]
fn backend(member: &Member, timeouts: Timeouts, servers: &[&Server]) -> Result<HttpBackend, BuildError> {
    let mut backend = HttpBackend::builder(&member.address)?.timeouts(timeouts);
    if let Some(ttl) = member.ttl {
        backend = backend.idle_timeout(ttl);
    }
    if !member.reuse {
        backend = backend.max_idle(0);
    }
    #[cfg(feature = "tls")]
    if member.tls {
        use kylin_lb::tls::{ClientTls, Roots};
        let mut tls = ClientTls::builder();
        if let Some(roots) = servers.iter().find_map(|server| server.node_tls.roots.as_ref()) {
            let roots = Roots::from_file(roots)
                .map_err(|error| format!("SSLProxyCACertificateFile {}: {error}", roots.display()))?;
            tls = tls.roots(roots);
        }
        let is_unverified = servers.iter().any(|server| server.node_tls.unverified);
        backend = backend.tls(&tls.verify(!is_unverified).build()?)?;
    }
    Ok(backend.build())
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
    // httpd takes a member out after one failure.
    let retry = member.retry.or((!args.outlier).then_some(RETRY));
    match retry {
        _ if member.status.ignores_errors => endpoint.max_fails(None).outlier(false),
        None => endpoint,
        Some(Duration::ZERO) => endpoint.max_fails(None).outlier(false),
        Some(retry) => endpoint.max_fails(NonZeroU32::new(1)).fail_timeout(retry).outlier(false),
    }
}

#[expect(clippy::too_many_arguments, reason = "each is read once")]
fn proxy(
    cluster: &Cluster,
    balancer: &Balancer,
    is_of_kylin: bool,
    server: &Server,
    args: &Args,
    logins: &Logins,
    policy: Option<&Arc<LbMethod>>,
    observers: &[Arc<dyn Observer>],
) -> Result<Proxy, BuildError> {
    let affinity = match &balancer.sticky {
        Some(_) => Some(Affinity::given_route()),
        None if is_of_kylin => logins.affinity.clone(),
        None => None,
    };
    let is_of_kylin = is_of_kylin && args.kylin;
    let retry = match is_of_kylin {
        true => RetryPolicy::default(),
        // httpd repeats only what no node has received.
        false => RetryPolicy::none().on_error(true).max_attempts(NonZeroU32::new(1)),
    };
    let retry = match balancer.max_attempts {
        Some(retries) => retry.max_attempts(NonZeroU32::new(retries.saturating_add(1))).count_unsent(true),
        None => retry,
    };
    let retry = retry.timeout_is_failure(balancer.fail_on_timeout);
    Ok(match is_of_kylin {
        true => {
            let groups = args.resource_groups.as_ref().map(|file| file.groups.clone());
            let rules = KylinRules::default().other_paths(false).reload(args.reload).resource_groups(groups);
            let proxy = Proxy::builder(cluster.clone()).rules(rules).queue(args.queue.then(QueueRules::new));
            configure(
                proxy.single_flight(args.single_flight),
                server,
                args,
                policy.filter(|_| balancer.sticky.is_some()),
                observers,
            )
            .retry(retry)
            .affinity(affinity)
            .build()?
        }
        false => configure(
            Proxy::plain(cluster.clone()),
            server,
            args,
            policy.filter(|_| balancer.sticky.is_some()),
            observers,
        )
        .retry(retry)
        .affinity(affinity)
        .build()?,
    })
}

fn configure<K>(
    builder: ProxyBuilder<HttpBackend, K>,
    server: &Server,
    args: &Args,
    counted: Option<&Arc<LbMethod>>,
    observers: &[Arc<dyn Observer>],
) -> ProxyBuilder<HttpBackend, K> {
    let builder = builder
        .served_by(true)
        .trusted_proxies(server.trusted_proxies())
        .buffers(args.buffers.clone())
        .response_buffer(args.response_buffer)
        .max_body(Some(server.max_body.unwrap_or(MAX_BODY_BYTES)).filter(|bytes| *bytes > 0))
        .max_requests_per_client(args.client_requests);
    let builder = match counted {
        Some(policy) => builder.observer(BoundPicks(Arc::clone(policy))),
        None => builder,
    };
    observers.iter().fold(builder, |builder, observer| builder.observer(Arc::clone(observer)))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "TLS can fail")]
fn options(_: &Config, _: &Listener) -> Result<ListenOptions, BuildError> {
    Ok(ListenOptions::new())
}

/// Returns how connections begin at an address: with TLS, if its virtual hosts have `SSLEngine On`.
#[cfg(feature = "tls")]
fn options(config: &Config, listener: &Listener) -> Result<ListenOptions, BuildError> {
    use kylin_lb::tls::{Identity, ServerTls};

    let options = ListenOptions::new();
    if !listener.is_tls {
        return Ok(options);
    }
    let mut builder = None;
    for server in listener.servers.iter().map(|number| &config.servers[*number]) {
        let Some(certificate) = &server.tls.certificate else { continue };
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let mut certificates = read(certificate)?;
        if let Some(chain) = &server.tls.chain {
            certificates.push(b'\n');
            certificates.extend(read(chain)?);
        }
        let key = read(server.tls.key.as_ref().unwrap_or(certificate))?;
        let identity =
            Identity::from_pem(&certificates, &key).map_err(|error| format!("{}: {error}", certificate.display()))?;
        let mut tls = builder.take().unwrap_or_else(|| ServerTls::builder(identity.clone()));
        for name in
            server.names.iter().filter(|name| !name.contains(['?', '[']) && name.rfind('*').is_none_or(|at| at == 0))
        {
            tls = tls.identity_for(name, identity.clone());
        }
        builder = Some(tls);
    }
    Ok(match builder {
        Some(tls) => options.tls(&tls.build()?),
        None => options,
    })
}
