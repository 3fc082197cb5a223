//! A front end that is described by a configuration of nginx or httpd. A reload reads the
//! configuration again.

use std::collections::HashMap;
use std::error::Error;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::InvalidSetting;
use kylin_lb::nginx::{Config, ConfigError, NameLookups, Site, SiteBuilder, SiteListener, SiteSuccessor};
use kylin_lb::observe::{Observer, Watch};
use kylin_lb::probe::HealthChecker;
use kylin_lb::server::{Handler, Listen, Server, ServerBuilder};
use kylin_lb::session::{Secret, Sessions};

use crate::args::Args;
use crate::front::{Front, Health};
use crate::log_file::LogFile;
use crate::running::Reload;
use crate::status::Monitored;
use crate::{Logs, greet, log_paths, raise_open_files_limit, say, sessions, table};

/// The file that describes a site, and the options that apply to it.
pub struct FileSource<'s> {
    pub path: &'s Path,
    pub args: &'s Args,
    pub logs: &'s Logs,
}

/// A site or its successor, with the settings in its file that affect the whole process.
pub struct Loaded<S> {
    pub site: S,
    /// The limit of open files.
    pub open_files: Option<NonZeroU64>,
    pub access_logs: AccessLogs,
}

/// A site that a file describes.
pub trait FileSite: Clone + Send + 'static {
    type Listener: Handler;
    type Successor: Send + 'static;
    /// The heading of the table of a cluster.
    const GROUP: &'static str;

    /// Builds what the file describes.
    fn load(source: &FileSource<'_>, secret: Secret) -> Result<Loaded<Self>, Box<dyn Error>>;

    /// Builds the site that the file describes now, to replace this one. `open` has the access logs
    /// that are open.
    fn successor(
        &self,
        source: &FileSource<'_>,
        secret: Secret,
        open: &AccessLogs,
    ) -> Result<Loaded<Self::Successor>, Box<dyn Error>>;

    fn of(successor: &Self::Successor) -> &Self;

    /// Returns the site, the changes, and whether other clusters must be probed.
    fn activate(successor: Self::Successor) -> (Self, String, bool);

    fn clusters(&self) -> Vec<(String, Cluster)>;
    fn sessions(&self) -> Option<&Sessions>;
    fn longest_timeout(&self) -> Duration;
    /// Returns the addresses of the file, each with whether clients speak TLS there.
    fn listens(&self) -> Vec<(Listen, bool)>;
    /// Returns a server at the addresses of the file, or only at `listen`.
    fn server(&self, listen: Option<Listen>) -> ServerBuilder<Self::Listener>;
    fn start_probes(&self) -> Result<Vec<HealthChecker>, InvalidSetting>;
    fn start_name_lookups(&self) -> Option<NameLookups>;
}

impl FileSite for Site {
    type Listener = SiteListener;
    type Successor = SiteSuccessor;
    const GROUP: &'static str = "upstream";

    fn load(source: &FileSource<'_>, secret: Secret) -> Result<Loaded<Self>, Box<dyn Error>> {
        let config = read(source.path, source.args)?;
        let unopened: AccessLogs = config.access_logs().map(|path| (path.to_owned(), None)).collect();
        let access_logs = open_logs(source.args, &config, &unopened)?;
        let open_files = config.open_files();
        let site = builder(config, source.args, secret, &source.logs.observers, &access_logs).build()?;
        Ok(Loaded { site, open_files, access_logs })
    }

    fn successor(
        &self,
        source: &FileSource<'_>,
        secret: Secret,
        open: &AccessLogs,
    ) -> Result<Loaded<SiteSuccessor>, Box<dyn Error>> {
        let config = read(source.path, source.args)?;
        let access_logs = open_logs(source.args, &config, open)?;
        let open_files = config.open_files();
        let builder = builder(config, source.args, secret, &source.logs.observers, &access_logs);
        Ok(Loaded { site: builder.build_successor(self)?, open_files, access_logs })
    }

    fn of(successor: &SiteSuccessor) -> &Self {
        successor.site()
    }

    fn activate(successor: SiteSuccessor) -> (Self, String, bool) {
        let (site, changes) = successor.activate();
        (site, changes.to_string(), changes.probes)
    }

    fn clusters(&self) -> Vec<(String, Cluster)> {
        self.clusters().map(|(name, cluster)| (name.to_owned(), cluster.clone())).collect()
    }

    fn sessions(&self) -> Option<&Sessions> {
        self.sessions()
    }

    fn longest_timeout(&self) -> Duration {
        self.longest_timeout()
    }

    fn listens(&self) -> Vec<(Listen, bool)> {
        self.listeners().map(|listener| (listener.listen(), listener.is_tls())).collect()
    }

    fn server(&self, listen: Option<Listen>) -> ServerBuilder<SiteListener> {
        match listen {
            Some(listen) => self.server_on(listen),
            None => self.server(),
        }
    }

    fn start_probes(&self) -> Result<Vec<HealthChecker>, InvalidSetting> {
        self.start_probes()
    }

    fn start_name_lookups(&self) -> Option<NameLookups> {
        Some(self.start_name_lookups(self.name_lookup_interval()))
    }
}

/// A running front end that a file describes.
pub struct Configured<S> {
    path: PathBuf,
    args: Arc<Args>,
    logs: Logs,
    /// The logs of the configuration.
    access_logs: AccessLogs,
    health: Arc<Health>,
    monitored: Arc<Monitored>,
    /// Servers of the status, which stop when they are dropped.
    _operators: Vec<Server>,
    secret: Secret,
    site: S,
    checkers: Vec<HealthChecker>,
    lookups: Option<NameLookups>,
    watches: Vec<Watch>,
    store_watches: Vec<Watch>,
}

/// The access logs of a configuration, by path; `None` for a log that could not be opened when the
/// front end started.
pub type AccessLogs = HashMap<PathBuf, Option<LogFile>>;

/// Opens the access logs that are not open yet. A log that could not be opened before may fail
/// again. The folder of nginx's logs need not exist on this machine, and requests are served
/// without it.
fn open_logs(args: &Args, config: &Config, open: &AccessLogs) -> Result<AccessLogs, Box<dyn Error>> {
    let mut logs = AccessLogs::new();
    for path in config.access_logs() {
        log_paths::check_apart(args, config, path)?;
        log_paths::take_if_stdout(path);
        let file = match open.get(path) {
            Some(Some(file)) => Some(file.clone()),
            before => match LogFile::open_path(path) {
                Ok(file) => Some(file),
                Err(error) if before.is_some() => {
                    tracing::warn!(error = %error, place = log_paths::place(config, path), "access_log is not written");
                    None
                }
                Err(error) => {
                    return Err(format!("{}: access_log: {error}", log_paths::place(config, path)).into());
                }
            },
        };
        logs.insert(path.to_owned(), file);
    }
    Ok(logs)
}

/// Applies the options to a configuration.
pub fn builder(
    config: Config,
    args: &Args,
    secret: Secret,
    logs: &[Arc<dyn Observer>],
    access_logs: &AccessLogs,
) -> SiteBuilder {
    let mut site = Site::builder(config).secret(secret).store_deadline(args.store_deadline);
    site = site.buffers(args.buffers.clone()).max_requests_per_client(args.client_requests).reload(args.reload);
    site = logs.iter().fold(site, |site, observer| site.observer(Arc::clone(observer)));
    for (path, file) in access_logs.iter().filter_map(|(path, file)| Some((path, file.clone()?))) {
        site = site.access_log(path, move |line| file.write(&line));
    }
    // Options that were not given are not set, so that the report shows them as defaults.
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

/// Reads an nginx configuration.
pub fn read(path: &Path, args: &Args) -> Result<Config, ConfigError> {
    match &args.prefix {
        Some(prefix) => Config::read_with_prefix(path, prefix),
        None => Config::read(path),
    }
}

impl<S: FileSite> Configured<S> {
    /// Starts the front end.
    pub fn start(
        path: PathBuf,
        args: Args,
        secret: Secret,
        logs: Logs,
        mut inherited: Vec<OwnedFd>,
    ) -> Result<(Self, Server), Box<dyn Error>> {
        let source = FileSource { path: &path, args: &args, logs: &logs };
        let Loaded { site, open_files, access_logs } = S::load(&source, secret.clone())?;
        raise_open_files_limit(open_files);
        let health = Health::new(args.health_path.clone());
        let checkers = site.start_probes()?;
        let mut configured = Configured {
            path,
            health,
            monitored: Monitored::new(logs.admin.clone(), args.buffers.clone(), logs.exporter.clone()),
            logs,
            access_logs,
            _operators: Vec::new(),
            args: Arc::new(args),
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
        let listens = configured.site.listens();
        // The option replaces all addresses. Clients use the protocol of the first one there.
        let chosen = configured
            .args
            .listen
            .iter()
            .map(|listen| (listen.clone(), listens.first().is_some_and(|(_, is_tls)| *is_tls)));
        let chosen: Vec<_> = chosen.collect();
        greet(&server, if chosen.is_empty() { &listens } else { &chosen });
        if configured.args.listen.is_some() {
            for (listen, _) in listens {
                say(format_args!("not listening on {listen}, which --listen replaces\n"));
            }
        }
        for (name, cluster) in configured.site.clusters() {
            say(format_args!("\n{} {name}{}", S::GROUP, table(&cluster)));
        }
        Ok((configured, server))
    }

    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the maximum time that a query may take.
    pub fn longest_query(&self) -> Duration {
        self.site.longest_timeout()
    }

    fn server(&self, site: &S) -> ServerBuilder<Front<S::Listener>> {
        let server = site.server(self.args.listen.clone());
        let server = server.threads(self.args.threads).max_connections_per_client(self.args.client_connections);
        let server = server.half_close(self.args.half_close);
        server.map(|inner| Front { health: Arc::clone(&self.health), inner, redirect: None })
    }

    /// Makes the health path, the status and the log show the current site.
    fn follow(&mut self) {
        let clusters = self.site.clusters();
        self.health.set_clusters(clusters.iter().map(|(_, cluster)| cluster.clone()).collect());
        self.monitored.set(clusters, self.site.sessions().cloned());
        self.monitored.set_logs(self.log_files());
        self.lookups = self.site.start_name_lookups();
        self.store_watches = self.logs.store_watches(self.site.sessions());
    }

    /// Logs changes of state of the upstreams.
    fn watch(&mut self) {
        let clusters = self.site.clusters();
        self.watches = self
            .logs
            .watches(|watch| clusters.iter().fold(watch, |watch, (name, cluster)| watch.cluster(name, cluster)));
    }
}

/// The data that a reload reads.
pub struct Read<S> {
    secret: Secret,
    loaded: Loaded<S>,
}

impl<S: FileSite> Reload for Configured<S> {
    type New = Read<S::Successor>;

    /// The reader reads the configuration, its certificates and the secret, and opens its logs.
    /// Nothing changes unless all of them are valid.
    fn reader(&self) -> impl FnOnce() -> Result<Self::New, Box<dyn Error>> + Send + 'static {
        let Configured { path, args, logs, access_logs, secret, site, .. } = self;
        let (path, args, logs) = (path.clone(), Arc::clone(args), logs.clone());
        let (access_logs, secret, site) = (access_logs.clone(), secret.clone(), site.clone());
        move || {
            let secret = sessions::reread(args.secret_file.as_deref(), &secret)?;
            let source = FileSource { path: &path, args: &args, logs: &logs };
            let loaded = site.successor(&source, secret.clone(), &access_logs)?;
            Ok(Read { secret, loaded })
        }
    }

    fn reload(&mut self, new: Self::New, server: &mut Server) -> Result<String, Box<dyn Error>> {
        let token = crate::status::token(self.args.admin_token_file.as_deref())?;
        let Read { secret, loaded } = new;
        let Loaded { site: successor, open_files, access_logs } = loaded;
        let replaced = server.replace(self.server(S::of(&successor)))?;
        self.monitored.admin.set_token(token);
        self.lookups = None;
        let (site, changes, probes) = S::activate(successor);
        (self.site, self.access_logs) = (site, access_logs);
        let mut what = vec![changes];
        if secret != self.secret {
            what.push("another secret".into());
        }
        self.secret = secret;
        for (verb, listens) in [("listening on", &replaced.added), ("no longer listening on", &replaced.removed)] {
            what.extend(listens.iter().map(|listen| format!("{verb} {listen}")));
        }
        what.extend(replaced.kept_settings.iter().map(|name| format!("{name} stays until a restart")));
        if probes {
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

    fn monitored(&self) -> &Monitored {
        &self.monitored
    }

    fn log_files(&self) -> Vec<LogFile> {
        self.logs.files.iter().chain(self.access_logs.values().flatten()).cloned().collect()
    }
}
