//! A front end of an nginx configuration, which it reads again when it is told to.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::nginx::{Config, NAME_LOOKUP_INTERVAL, NameLookups, Site, SiteBuilder, SiteListener};
use kylin_lb::observe::Watch;
use kylin_lb::probe::HealthChecker;
use kylin_lb::server::{Listen, Server, ServerBuilder};
use kylin_lb::session::Secret;

use crate::args::Args;
use crate::front::{Front, Health};
use crate::running::Reload;
use crate::status::Monitored;
use crate::{Logs, greet, raise_open_files_limit, say, sessions, table};

/// What runs of a configuration.
pub struct Configured {
    path: PathBuf,
    args: Args,
    logs: Logs,
    health: Arc<Health>,
    monitored: Arc<Monitored>,
    /// Serve the status as long as they live.
    _operators: Vec<Server>,
    secret: Secret,
    site: Site,
    checkers: Vec<HealthChecker>,
    lookups: Option<NameLookups>,
    watches: Vec<Watch>,
    store_watches: Vec<Watch>,
}

/// Applies the options to a configuration.
pub fn builder(
    config: Config,
    args: &Args,
    secret: Secret,
    logs: &[Arc<dyn kylin_lb::observe::Observer>],
) -> SiteBuilder {
    let mut site = Site::builder(config).secret(secret).store_deadline(args.store_deadline);
    site = site.buffers(args.buffers.clone()).max_requests_per_client(args.client_requests).reload(args.reload);
    site = logs.iter().fold(site, |site, observer| site.observer(Arc::clone(observer)));
    // What was not given is left to the defaults, so that the report says so.
    for (on, set) in [
        (args.kylin, SiteBuilder::kylin as fn(SiteBuilder, bool) -> SiteBuilder),
        (args.outlier, SiteBuilder::outlier),
        (args.drain, SiteBuilder::drain),
        (args.single_flight, SiteBuilder::single_flight),
        (args.panic, SiteBuilder::panic_mode),
        (args.queue, SiteBuilder::queue),
    ] {
        if !on {
            site = set(site, false);
        }
    }
    if let Some(mode) = &args.sessions {
        site = site.session_mode(mode.clone());
    }
    if let Some(policy) = args.policy {
        site = site.policy(policy);
    }
    if let Some(probe) = args.probe {
        site = site.probe(probe);
    }
    if let Some(file) = &args.resource_groups {
        site = site.resource_groups(file.groups.clone());
    }
    site
}

impl Configured {
    /// Starts the front end.
    pub fn start(
        path: PathBuf,
        args: Args,
        secret: Secret,
        logs: Logs,
        mut inherited: Vec<OwnedFd>,
    ) -> Result<(Self, Server), Box<dyn Error>> {
        let config = Config::read(&path)?;
        raise_open_files_limit(config.open_files());
        let site = builder(config, &args, secret.clone(), &logs.observers).build()?;
        let health = Health::new(args.health_path.clone());
        let checkers = site.start_probes()?;
        let mut configured = Configured {
            path,
            health,
            monitored: Monitored::new(logs.admin.clone(), args.buffers.clone(), logs.exporter.clone()),
            logs,
            _operators: Vec::new(),
            args,
            secret,
            site,
            checkers,
            lookups: None,
            watches: Vec::new(),
            store_watches: Vec::new(),
        };
        configured.follow();
        configured.watch();
        configured._operators = crate::operators(&configured.args, &configured.monitored, &mut inherited)?;
        let builder = configured.server(&configured.site);
        let server = inherited.into_iter().fold(builder, ServerBuilder::inherit).start()?;
        configured.monitored.set_connections(server.connection_count());
        let listens: Vec<Listen> = configured.site.listeners().map(|listener| listener.listen()).collect();
        greet(&server, configured.args.listen.as_ref().map_or(&listens, std::slice::from_ref));
        if configured.args.listen.is_some() {
            for listen in listens {
                say(format_args!("not listening on {listen}, which --listen replaces\n"));
            }
        }
        for (name, cluster) in configured.site.clusters() {
            say(format_args!("\nupstream {name}{}", table(cluster)));
        }
        Ok((configured, server))
    }

    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the longest time that a query may take.
    pub fn longest_query(&self) -> Duration {
        self.site.longest_timeout()
    }

    fn server(&self, site: &Site) -> ServerBuilder<Front<SiteListener>> {
        let server = match &self.args.listen {
            Some(listen) => site.server_on(listen.clone()),
            None => site.server(),
        };
        let server = server.threads(self.args.threads).max_connections_per_client(self.args.client_connections);
        server.map(|inner| Front { health: Arc::clone(&self.health), inner })
    }

    /// Has the health path, the status and the log follow the site.
    fn follow(&mut self) {
        let clusters = || self.site.clusters().map(|(name, cluster)| (name.to_owned(), cluster.clone()));
        self.health.set_clusters(clusters().map(|(_, cluster)| cluster).collect());
        self.monitored.set(clusters().collect(), self.site.sessions().cloned());
        self.lookups = Some(self.site.start_name_lookups(NAME_LOOKUP_INTERVAL));
        self.store_watches = self.logs.store_watches(self.site.sessions());
    }

    /// Logs changes of state of the upstreams.
    fn watch(&mut self) {
        self.watches = self
            .logs
            .watches(|watch| self.site.clusters().fold(watch, |watch, (name, cluster)| watch.cluster(name, cluster)));
    }
}

impl Reload for Configured {
    /// Reads the configuration, its certificates and the secret. Nothing changes unless all of them are valid.
    fn reload(&mut self, server: &mut Server) -> Result<String, Box<dyn Error>> {
        let secret = sessions::reread(self.args.secret_file.as_deref(), &self.secret)?;
        let token = crate::status::token(self.args.admin_token_file.as_deref())?;
        let config = Config::read(&self.path)?;
        let open_files = config.open_files();
        let successor =
            builder(config, &self.args, secret.clone(), &self.logs.observers).build_successor(&self.site)?;
        let replaced = server.replace(self.server(successor.site()))?;
        self.monitored.admin.set_token(token);
        self.lookups = None;
        let (site, changes) = successor.activate();
        self.site = site;
        let mut what = vec![changes.to_string()];
        if secret != self.secret {
            what.push("another secret".into());
        }
        self.secret = secret;
        for (verb, listens) in [("listening on", &replaced.added), ("no longer listening on", &replaced.removed)] {
            what.extend(listens.iter().map(|listen| format!("{verb} {listen}")));
        }
        what.extend(replaced.kept_settings.iter().map(|name| format!("{name} stays until a restart")));
        if changes.probes {
            match self.site.start_probes() {
                Ok(checkers) => self.checkers = checkers,
                Err(error) => tracing::error!(%error, "the probes of the new configuration did not start"),
            }
            self.watch();
        }
        if open_files.is_some() {
            raise_open_files_limit(open_files);
        }
        self.follow();
        Ok(what.join("; "))
    }
}
