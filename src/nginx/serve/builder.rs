use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::access_log::{self, Writers};
use super::affinity::Affinities;
use super::clusters::ClusterSettings;
use super::names::{LookedUp, UpstreamEndpoints};
use super::routes::Group;
use super::{Site, SiteError, SiteParts, SiteSuccessor, routes};
use crate::buffer::BufferBudget;
use crate::kylin::ResourceGroups;
use crate::nginx::applied::applied;
use crate::nginx::config::Config;
use crate::nginx::options::{KylinOptions, PolicyName, ProbeMode, SessionMode};
use crate::nginx::report::Report;
use crate::observe::Observer;
use crate::proxy::ReloadAccess;
use crate::session::{Secret, Sessions};

/// Builds a [`Site`] from a configuration, and from settings for which nginx has no directive.
///
/// A directive or a comment of an upstream takes precedence over a comment of a server. A comment
/// of a server takes precedence over a setting of this builder.
///
/// | setting | default |
/// |---|---|
/// | [`kylin`](Self::kylin) | on, for upstreams of Kylin |
/// | [`session_mode`](Self::session_mode) | learned sessions in memory, for upstreams of Kylin |
/// | [`policy`](Self::policy) | round robin |
/// | [`probe`](Self::probe) | [`ProbeMode::Auto`], for upstreams of Kylin |
/// | [`outlier`](Self::outlier), [`drain`](Self::drain), [`panic_mode`](Self::panic_mode) | on |
/// | [`single_flight`](Self::single_flight) | on, for upstreams of Kylin |
///
/// ```
/// use kylin_lb::nginx::{Config, Site};
/// use kylin_lb::session::Secret;
///
/// let config = Config::parse(
///     "kylin.conf",
///     "upstream kylin { sticky cookie lb httponly; server 1.1.1.1:7070; server 1.1.1.2:7070; }
///      server { listen 8080; location / { proxy_pass http://kylin; } }",
/// )?;
/// // In production the secret comes from a file that only the front ends can read.
/// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
/// let site = Site::builder(config).secret(secret).build()?;
/// # let _ = site;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct SiteBuilder {
    config: Config,
    options: KylinOptions,
    affinities: Affinities,
    buffers: BufferBudget,
    max_requests_per_client: Option<NonZeroU32>,
    observers: Vec<Arc<dyn Observer>>,
    reload: ReloadAccess,
    writers: Writers,
}

impl SiteBuilder {
    pub(super) fn new(config: Config) -> Self {
        let (options, affinities) = (KylinOptions::default(), Affinities::default());
        SiteBuilder {
            config,
            options,
            affinities,
            buffers: BufferBudget::process(),
            max_requests_per_client: NonZeroU32::new(256),
            observers: Vec::new(),
            reload: ReloadAccess::default(),
            writers: Writers::default(),
        }
    }

    /// Sets the secret that signs the cookies of `sticky cookie`. Front ends of one cluster need
    /// the same secret.
    ///
    /// Default: random bytes. Another process, or this one after a restart, then ignores the
    /// cookie, and the method of the upstream picks a server.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.affinities.secret = Some(secret);
        self
    }

    /// Sets where every `sticky learn` keeps its sessions, for example in a store that front ends
    /// share.
    ///
    /// Default: in memory, with the size of `zone=`; `sync` is then an error.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.affinities.sessions = Some(sessions);
        self
    }

    /// Sets whether the rules of Kylin apply to upstreams of Kylin: roles, retries by class, closed
    /// internal calls.
    ///
    /// Default: on.
    pub fn kylin(mut self, on: bool) -> Self {
        self.options.kylin = Some(on);
        self
    }

    /// Sets which clients may reload metadata and configuration of Kylin nodes.
    ///
    /// Default: administrators. See [`KylinRules::reload`](crate::proxy::KylinRules::reload).
    pub fn reload(mut self, access: ReloadAccess) -> Self {
        self.reload = access;
        self
    }

    /// Sets how upstreams of Kylin keep logins. Default: [`SessionMode::MEMORY`].
    pub fn session_mode(mut self, mode: SessionMode) -> Self {
        self.options.sessions = Some(mode);
        self
    }

    /// Sets the time for one operation of a store, after which the request proceeds without it.
    /// Default: 50 ms.
    pub fn store_deadline(mut self, deadline: Duration) -> Self {
        self.affinities.deadline = Some(deadline);
        self
    }

    /// Sets the policy of upstreams without a method. Default: round robin, as in nginx.
    pub fn policy(mut self, policy: PolicyName) -> Self {
        self.options.policy = Some(policy);
        self
    }

    /// Sets how [`Site::start_probes`] probes upstreams of Kylin. [`ProbeMode::Tcp`] probes all
    /// upstreams.
    ///
    /// Default: [`ProbeMode::Auto`].
    pub fn probe(mut self, probe: ProbeMode) -> Self {
        self.options.probe = Some(probe);
        self
    }

    /// Sets whether queries to upstreams of Kylin wait for servers that have reached `max_conns`.
    ///
    /// The directive `queue` sets the rules, if the file has it. Default: on. See
    /// [`ProxyBuilder::queue`](crate::proxy::ProxyBuilder::queue).
    pub fn queue(mut self, on: bool) -> Self {
        self.options.queue = Some(on);
        self
    }

    /// Sets whether servers without `max_fails` and `fail_timeout` are ejected if they fail more
    /// often than the others.
    ///
    /// Default: on. If off, nginx's default applies: such a server is ejected for 10 s after one
    /// failure.
    pub fn outlier(mut self, on: bool) -> Self {
        self.options.outlier = Some(on);
        self
    }

    /// Sets whether a stopping node gets no new sessions, if it has neither `max_fails` nor
    /// `fail_timeout`.
    ///
    /// Default: on. See [`Outlier::drain`](crate::health::Outlier::drain).
    pub fn drain(mut self, on: bool) -> Self {
        self.options.drain = Some(on);
        self
    }

    /// Sets whether identical queries to an upstream of Kylin are executed once.
    ///
    /// Default: on. See [`single_flight`](crate::proxy::ProxyBuilder::single_flight).
    pub fn single_flight(mut self, on: bool) -> Self {
        self.options.single_flight = Some(on);
        self
    }

    /// Sets whether a failed server serves requests while all servers are unhealthy or ejected.
    ///
    /// Default: on. See [`panic_mode`](crate::cluster::ClusterBuilder::panic_mode).
    pub fn panic_mode(mut self, on: bool) -> Self {
        self.options.panic = Some(on);
        self
    }

    /// Sets the resource groups of Kylin 5, for upstreams of Kylin.
    ///
    /// Default: none. See
    /// [`KylinRules::resource_groups`](crate::proxy::KylinRules::resource_groups).
    pub fn resource_groups(mut self, groups: ResourceGroups) -> Self {
        self.options.resource_groups = Some(groups);
        self
    }

    /// Sets the budget for bytes that wait in memory, which all locations and the server share.
    ///
    /// Default: [`BufferBudget::process`].
    pub fn buffers(mut self, budget: BufferBudget) -> Self {
        self.buffers = budget;
        self
    }

    /// Adds an observer, which gets the events of requests of every location with `proxy_pass`.
    ///
    /// Default: none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets the function that takes the lines of the access log at `path`, without a line break.
    ///
    /// The function must not block. A log without a function is not written, because the
    /// application opens the files: see [`Config::access_logs`]. Default: none.
    pub fn access_log(mut self, path: impl Into<PathBuf>, write: impl Fn(Vec<u8>) + Send + Sync + 'static) -> Self {
        self.writers.insert(path.into(), Arc::new(write));
        self
    }

    /// Returns a report like [`Config::report`], with the settings of this builder.
    pub fn report(&self) -> Report<'_> {
        Report::new(&self.config, self.options.clone())
    }

    /// Sets the maximum number of requests in flight per client and location.
    ///
    /// `None` is no limit, as in nginx. `set_real_ip_from` names the trusted proxies. Default: 256.
    /// See
    /// [`max_requests_per_client`](crate::proxy::ProxyBuilder::max_requests_per_client).
    pub fn max_requests_per_client(mut self, requests: Option<NonZeroU32>) -> Self {
        self.max_requests_per_client = requests;
        self
    }

    /// Builds the clusters and proxies, as [`Site::new`] does.
    ///
    /// # Errors
    /// [`SiteError`] names the upstream and the server.
    pub fn build(self) -> Result<Site, SiteError> {
        self.build_after(None)
    }

    /// Builds a site that replaces the running `site` and keeps its state.
    ///
    /// Upstreams with the same name keep their clusters, with their probes and the live state of
    /// endpoints by id. Upstreams whose session mode is unchanged keep their sessions.
    ///
    /// Nothing changes before the successor is [activated](SiteSuccessor::activate). Without a
    /// secret of its own, the builder uses that of `site`. If the secret differs, earlier sessions
    /// are found as long as it includes the [previous one](Secret::with_previous).
    ///
    /// ```no_run
    /// # fn reload(site: kylin_lb::nginx::Site, mut server: kylin_lb::server::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// use kylin_lb::nginx::{Config, Site};
    ///
    /// // An error leaves the running site as it is.
    /// let successor = Site::builder(Config::read("kylin.conf")?).build_successor(&site)?;
    /// server.replace(successor.site().server())?;
    /// let (site, changes) = successor.activate();
    /// println!("reloaded: {changes}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`build`](Self::build). A server of `site` whose name cannot be looked up keeps its
    /// addresses.
    pub fn build_successor(self, site: &Site) -> Result<SiteSuccessor, SiteError> {
        let before = site.clone();
        Ok(SiteSuccessor { site: self.build_after(Some(&before.parts))?, before })
    }

    fn build_after(self, before: Option<&SiteParts>) -> Result<Site, SiteError> {
        let SiteBuilder {
            config,
            options,
            mut affinities,
            buffers,
            max_requests_per_client,
            observers,
            reload,
            writers,
        } = self;
        affinities.shared = options.sessions.clone().filter(SessionMode::has_store);
        let before_affinities = before.map(|before| &before.affinities);
        affinities.secret = affinities.secret.or_else(|| before_affinities?.secret.clone());
        let (mut groups, mut probes, mut endpoints, mut pending) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut kept_settings = Vec::new();
        if let Some(before) = before {
            config.zones.follow(&before.config.zones);
        }
        let names = LookedUp::all(&config);
        for (upstream, mut applied) in config.upstreams.iter().zip(applied(&config, &options)) {
            let name = &upstream.name;
            let place = before.and_then(|before| before.config.upstreams.iter().position(|other| other.name == *name));
            let running = before.zip(place).map(|(before, place)| (&before.clusters[place], &before.endpoints[place]));
            let running_endpoints = running.map(|(_, endpoints)| endpoints.lock().clone());
            if let Some(running) = &running_endpoints
                && running.drains() != applied.drain.value
            {
                kept_settings.push(format!("drain of upstream {name}"));
                applied.drain.value = running.drains();
            }
            let addresses = |address: &_| names.addresses(address);
            let looked_up = UpstreamEndpoints::look_up(upstream, &applied, running_endpoints.as_ref(), addresses)?;
            let settings = ClusterSettings::of(upstream, &applied);
            let (cluster, change) = match running {
                Some((cluster, _)) => (cluster.clone(), Some(settings)),
                None => (settings.build(name, looked_up.endpoints())?, None),
            };
            let looked_up = Arc::new(Mutex::new(looked_up));
            endpoints.push(Arc::clone(&looked_up));
            pending.push(Mutex::new(change));
            let affinity = affinities.build(upstream, &applied, before_affinities)?;
            groups.push(Group {
                cluster,
                affinity,
                kylin: applied.kylin.value,
                queue: applied.queue.value,
                resource_groups: applied.resource_groups.value.clone(),
                buffers: buffers.clone(),
                max_requests_per_client,
                observers: observers.clone(),
                reload,
                single_flight: applied.single_flight.value,
                addresses: Some(looked_up).filter(|endpoints| endpoints.lock().differ_from_text()),
            });
            probes.push(applied.probe.value);
        }
        let routes = routes::build(&config, &groups, &writers)?;
        let clusters = groups.into_iter().map(|group| group.cluster).collect();
        let sessions = affinities.sessions();
        #[cfg(all(feature = "tls", feature = "server"))]
        let certificates = config.listeners.iter().map(|listener| super::tls::of_listener(&config, listener));
        let parts = SiteParts {
            #[cfg(all(feature = "tls", feature = "server"))]
            certificates: certificates.collect::<Result<_, _>>()?,
            server_logs: config
                .servers
                .iter()
                .map(|server| access_log::written(&server.settings.access_logs, &writers))
                .collect(),
            config,
            clusters,
            endpoints,
            pending,
            kept_settings,
            probes,
            affinities,
            sessions,
            routes,
            buffers,
        };
        Ok(Site { parts: Arc::new(parts) })
    }
}

impl fmt::Debug for SiteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteBuilder")
            .field("config", &self.config)
            .field("options", &self.options)
            .field("affinities", &self.affinities)
            .finish_non_exhaustive()
    }
}
