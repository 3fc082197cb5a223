//! Builds sites, and successors of a running site.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use kylin_lb::nginx::{ProbeMode, SessionMode};
use kylin_lb::observe::Observer;
use kylin_lb::proxy::{KylinRules, ProxyBuilder, RetryPolicy};
use kylin_lb::session::{Affinity, Secret};
use kylin_lb::{Cluster, HttpBackend, Proxy};

use super::running::{Policy, Running};
use super::tls::options;
use super::{BuildError, Group, Logins, Parts, Site};
use crate::args::Args;
use crate::httpd::config::Config;
use crate::httpd::directives::{Balancer, Server};
use crate::httpd::kylin::of_kylin;
use crate::httpd::policy::{BoundPicks, LbMethod};

/// A site that is ready to replace a running one. Nothing has changed yet.
pub struct SiteSuccessor {
    pub site: Site,
    before: Site,
    changes: Vec<(Cluster, Running)>,
}

impl Site {
    /// Builds the site of a file.
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

    /// Builds a site that replaces this one. It keeps the clusters of balancers with the same name,
    /// and the sessions.
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
    /// Applies the new configuration to the clusters. Returns the new site, its changes, and
    /// whether the probed balancers changed.
    pub fn activate(self) -> (Site, String, bool) {
        let SiteSuccessor { site, before, changes } = self;
        for (cluster, Running { endpoints, policy, panic }) in changes {
            // The ids were checked when the site was built.
            if let Err(error) = cluster.replace(endpoints) {
                tracing::error!(%error, "the members of a balancer cannot be exchanged");
            }
            match policy {
                Policy::Httpd(policy) => cluster.set_balancer(policy as Arc<dyn kylin_lb::balance::Balancer>),
                Policy::Named(policy) => cluster.set_balancer(policy),
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
        let servers = config.servers.iter().filter(|server| config.is_reached(server));
        let servers = servers.filter(|server| server.all_passes().any(|pass| leads_to(pass, &config, balancer)));
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
        true => RetryPolicy::default().on_stopping(false),
        // httpd retries a request only if no node has received it, regardless of responses.
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
            let proxy = Proxy::builder(cluster.clone()).rules(rules).queue(args.queue_rules()).hide_nodes(false);
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
        // `LimitRequestBody` does not apply to proxied requests.
        .max_body(None)
        .max_requests_per_client(args.client_requests);
    let builder = match counted {
        Some(policy) => builder.observer(BoundPicks(Arc::clone(policy))),
        None => builder,
    };
    observers.iter().fold(builder, |builder, observer| builder.observer(Arc::clone(observer)))
}
