//! The options of the command line.

mod help;
mod values;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use kylin_lb::BufferBudget;
use kylin_lb::admission::QueueRules;
use kylin_lb::nginx::{PolicyName, ProbeMode, SessionMode};
use kylin_lb::proxy::{ReloadAccess, TrustedProxies};
use kylin_lb::server::{Listen, ListenOptions};
use kylin_lb::session::RestoreAfterLoss;
use kylin_lb::testing::kylin::Dialect;
use tracing_subscriber::filter::LevelFilter;

pub use self::help::HELP;
pub use self::values::{Cache, switch};
use self::values::{cache, count, limit, parse, restore, seconds, time, trusted, zookeeper};
use crate::groups::GroupsFile;
use crate::logging::{self, LogFormat};
use crate::nodes::{self, DefaultSettings, Node, NodeSettings};
use crate::request_log::{self, RequestFormat};
use crate::tls::{self, Clients, TlsOptions};

pub struct Args {
    pub source: Source,
    /// The folder of relative names in an nginx configuration.
    pub prefix: Option<PathBuf>,
    pub policy: Option<PolicyName>,
    pub kylin: bool,
    pub reload: ReloadAccess,
    pub resource_groups: Option<GroupsFile>,
    pub sessions: Option<SessionMode>,
    pub store_deadline: Duration,
    /// `None` for the default of the library.
    pub restore: Option<RestoreAfterLoss>,
    pub secret_file: Option<PathBuf>,
    pub probe: Option<ProbeMode>,
    pub buffers: BufferBudget,
    pub response_buffer: usize,
    pub outlier: bool,
    pub drain: bool,
    pub single_flight: bool,
    pub cache: Option<Cache>,
    /// The settings of nodes that set nothing else.
    pub settings: NodeSettings,
    pub panic: bool,
    pub queue: bool,
    pub slow_weights: bool,
    pub trusted: TrustedProxies,
    pub client_connections: Option<NonZeroU32>,
    pub half_close: bool,
    pub client_requests: Option<NonZeroU32>,
    pub listen: Option<Listen>,
    pub status: Option<Listen>,
    pub admin: Option<Listen>,
    pub admin_token_file: Option<PathBuf>,
    pub admin_hosts: Vec<String>,
    pub admin_read: AdminRead,
    pub log: Option<LevelFilter>,
    pub log_format: LogFormat,
    pub access_log: Option<String>,
    pub access_log_format: RequestFormat,
    pub query_log: Option<String>,
    pub log_sql: bool,
    /// `None` for the longest time that a query may take.
    pub grace: Option<Duration>,
    pub lame_duck: Duration,
    pub health_path: Option<String>,
    pub tls: Arc<TlsOptions>,
    pub proxy_protocol: Option<TrustedProxies>,
    pub threads: NonZeroUsize,
    pub check: bool,
}

/// The clients that may read the page of operators.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AdminRead {
    /// Clients on this machine, and clients that send the token.
    Local,
    /// Clients that send the token.
    Token,
}

/// The parsed command line.
pub enum Command {
    Run(Box<Args>),
    Help,
    Version,
}

/// The source of the nodes.
pub enum Source {
    Demo(usize, Dialect),
    Nodes(Vec<Node>),
    #[cfg(feature = "zookeeper")]
    ZooKeeper(Box<kylin_lb::discovery::ZooKeeper>),
    Properties(PathBuf),
    List(PathBuf),
    Config(PathBuf),
    /// A configuration of Apache httpd.
    Httpd(PathBuf),
}

/// The options that name the source of the nodes.
pub const SOURCES: [&str; 7] =
    ["--demo", "--nodes", "--nodes-file", "--zookeeper", "--properties", "--config", "--httpd"];

/// Options for which nginx and httpd have a directive. httpd has none for the last option.
const SET_BY_CONFIG: [&str; 6] =
    ["--proxy-protocol", "--max-conns", "--connect-timeout", "--read-timeout", "--trust", "--response-buffer"];

impl Args {
    /// Returns how queries wait; `None` if they do not.
    pub fn queue_rules(&self) -> Option<QueueRules> {
        self.queue.then(|| QueueRules::new().slow_weights(self.slow_weights))
    }

    /// Returns the settings of nodes that set nothing else.
    pub fn default_settings(&self) -> DefaultSettings {
        DefaultSettings { settings: self.settings.clone(), outlier: self.outlier, tls: Arc::clone(&self.tls) }
    }

    /// Returns the options of an address of `--listen`; with `None`, clients speak no TLS there.
    pub fn listen_options(&self, clients: Option<&Clients>) -> ListenOptions {
        let options = ListenOptions::new();
        let options = match &self.proxy_protocol {
            Some(networks) => options.proxy_protocol(networks.clone()),
            None => options,
        };
        match clients {
            #[cfg(feature = "tls")]
            Some(clients) => options.tls(clients),
            #[cfg(not(feature = "tls"))]
            Some(clients) => match *clients {},
            None => options,
        }
    }

    /// Parses the arguments. Call it within a tokio runtime: it opens a store, without connecting.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut args = Args {
            source: Source::Demo(3, Dialect::default()),
            prefix: None,
            policy: None,
            kylin: true,
            reload: ReloadAccess::Administrators,
            resource_groups: None,
            sessions: None,
            store_deadline: Duration::from_millis(50),
            restore: None,
            secret_file: None,
            probe: None,
            buffers: BufferBudget::process(),
            response_buffer: 1 << 20,
            outlier: true,
            drain: true,
            single_flight: true,
            cache: None,
            settings: NodeSettings::default(),
            panic: true,
            queue: true,
            slow_weights: false,
            trusted: TrustedProxies::none(),
            client_connections: NonZeroU32::new(1024),
            half_close: false,
            client_requests: NonZeroU32::new(256),
            listen: None,
            status: None,
            admin: None,
            admin_token_file: None,
            admin_hosts: Vec::new(),
            admin_read: AdminRead::Local,
            log: None,
            log_format: LogFormat::default(),
            access_log: None,
            access_log_format: RequestFormat::default(),
            query_log: None,
            log_sql: false,
            grace: None,
            lame_duck: Duration::ZERO,
            health_path: Some("/front/health".into()),
            tls: Arc::default(),
            proxy_protocol: None,
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            check: false,
        };
        let mut given: Vec<String> = Vec::new();
        let mut version = Dialect::default();
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if given.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            given.push(name.clone());
            if matches!(name.as_str(), "--check" | "--help" | "-h" | "--version" | "--log-sql") && value.is_some() {
                return Err(format!("{name} takes no value"));
            }
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--demo" => args.source = Source::Demo(count(&name, &value()?, 1024)?.get(), Dialect::default()),
                "--kylin-version" => {
                    let value = value()?;
                    version = value.parse().map_err(|error| format!("{name} {value}: {error}"))?;
                }
                "--nodes" => {
                    args.source = Source::Nodes(nodes::parse(&value()?).map_err(|error| format!("--nodes: {error}"))?)
                }
                "--zookeeper" => {
                    args.source = zookeeper(&value()?).map_err(|error| format!("--zookeeper: {error}"))?;
                }
                "--nodes-file" => args.source = Source::List(value()?.into()),
                "--properties" => args.source = Source::Properties(value()?.into()),
                "--config" => args.source = Source::Config(value()?.into()),
                "--httpd" => args.source = Source::Httpd(value()?.into()),
                "--prefix" => args.prefix = Some(value()?.into()),
                "--policy" => args.policy = Some(parse(&name, &value()?)?),
                "--kylin" => args.kylin = switch(&name, &value()?)?,
                "--reload" => {
                    args.reload = match &*value()? {
                        "administrators" => ReloadAccess::Administrators,
                        "closed" => ReloadAccess::Closed,
                        "everyone" => ReloadAccess::Everyone,
                        other => return Err(format!("--reload {other}: expected administrators, closed, everyone")),
                    }
                }
                "--resource-groups" => {
                    let file = GroupsFile::read(&value()?);
                    args.resource_groups = Some(file.map_err(|error| format!("{name}: {error}"))?);
                }
                "--sessions" => args.sessions = Some(value()?.parse().map_err(|error| format!("--sessions: {error}"))?),
                "--store-deadline" => {
                    args.store_deadline = Duration::from_millis(count(&name, &value()?, 60_000)?.get() as u64)
                }
                "--restore-sessions" => args.restore = Some(restore(&name, &value()?)?),
                "--secret-file" => args.secret_file = Some(value()?.into()),
                "--probe" => args.probe = Some(parse(&name, &value()?)?),
                "--buffer-bytes" => args.buffers = BufferBudget::new(limit(&name, &value()?, usize::MAX - 1)?),
                "--response-buffer" => {
                    let value = value()?;
                    let bytes = value
                        .parse()
                        .map_err(|_| format!("--response-buffer {value}: expected a number of bytes, or 0"))?;
                    args.response_buffer = bytes;
                }
                "--outlier" => args.outlier = switch(&name, &value()?)?,
                "--drain" => args.drain = switch(&name, &value()?)?,
                "--single-flight" => args.single_flight = switch(&name, &value()?)?,
                "--cache" => args.cache = Some(cache(&value()?).map_err(|error| format!("{name}: {error}"))?),
                "--max-conns" => {
                    let count = count(&name, &value()?, u32::MAX as usize)?.get();
                    args.settings.max_conns = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX));
                }
                "--connect-timeout" => args.settings.connect_timeout = Some(time(&name, &value()?)?),
                "--read-timeout" => args.settings.read_timeout = Some(time(&name, &value()?)?),
                "--panic" => args.panic = switch(&name, &value()?)?,
                "--queue" => args.queue = switch(&name, &value()?)?,
                "--slow-weights" => args.slow_weights = switch(&name, &value()?)?,
                "--trust" => args.trusted = trusted(&value()?).map_err(|error| format!("--trust {error}"))?,
                "--client-connections" => args.client_connections = limit(&name, &value()?, 1 << 30)?,
                "--client-requests" => args.client_requests = limit(&name, &value()?, 1 << 30)?,
                "--half-close" => args.half_close = switch(&name, &value()?)?,
                "--listen" => args.listen = Some(value()?.parse().map_err(|error| format!("--listen: {error}"))?),
                "--status" => args.status = Some(value()?.parse().map_err(|error| format!("--status: {error}"))?),
                "--admin" => args.admin = Some(value()?.parse().map_err(|error| format!("--admin: {error}"))?),
                "--admin-token-file" => args.admin_token_file = Some(value()?.into()),
                "--admin-host" => args.admin_hosts = value()?.split(',').map(|name| name.trim().to_owned()).collect(),
                "--admin-read" => {
                    args.admin_read = match &*value()? {
                        "local" => AdminRead::Local,
                        "token" => AdminRead::Token,
                        other => return Err(format!("{name} {other}: expected local or token")),
                    }
                }
                "--grace" => args.grace = Some(seconds(&name, &value()?)?),
                "--lame-duck" => args.lame_duck = seconds(&name, &value()?)?,
                "--health-path" => {
                    args.health_path = match value()? {
                        none if none == "none" => None,
                        path if path.starts_with('/') => Some(path),
                        other => return Err(format!("{name} {other}: expected /PATH or none")),
                    }
                }
                "--proxy-protocol" => {
                    let networks = trusted(&value()?).map_err(|error| format!("--proxy-protocol {error}"))?;
                    args.proxy_protocol = Some(networks);
                }
                name if tls::NAMES.contains(&name) => Arc::make_mut(&mut args.tls).set(name, &value()?)?,
                "--threads" => args.threads = count(&name, &value()?, 1024)?,
                "--check" => args.check = true,
                "--log" => args.log = Some(logging::level(&value()?).map_err(|error| format!("--log {error}"))?),
                "--log-format" => args.log_format = logging::format(&value()?)?,
                "--access-log" => args.access_log = Some(value()?),
                "--access-log-format" => args.access_log_format = request_log::format(&value()?)?,
                "--query-log" => args.query_log = Some(value()?),
                "--log-sql" => args.log_sql = true,
                "--help" | "-h" => return Ok(Command::Help),
                "--version" => return Ok(Command::Version),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        args.check_agreement(&given, version)?;
        Ok(Command::Run(Box::new(args)))
    }

    /// Checks that the options agree.
    fn check_agreement(&mut self, given: &[String], chosen: Dialect) -> Result<(), String> {
        let has = |name: &str| given.iter().any(|given| given == name);
        let mut sources = SOURCES.into_iter().filter(|name| has(name));
        if let (Some(one), Some(other)) = (sources.next(), sources.next()) {
            return Err(format!("{one} and {other} exclude each other: each is a source of nodes"));
        }
        for (option, of, is_given) in [
            ("--access-log-format", "--access-log", has("--access-log")),
            ("--log-sql", "--query-log", has("--query-log")),
            ("--prefix", "--config", has("--config")),
        ] {
            if has(option) && !is_given {
                return Err(format!("{option} needs {of}"));
            }
        }
        match &mut self.source {
            Source::Demo(_, version) => *version = chosen,
            Source::Config(_) | Source::Httpd(_) => {
                let source = if has("--httpd") { "--httpd" } else { "--config" };
                let count = SET_BY_CONFIG.len() - usize::from(has("--httpd"));
                let mut names = SET_BY_CONFIG.into_iter().take(count).chain(tls::NAMES);
                if let Some(name) = names.find(|name| has(name)) {
                    return Err(format!("{source} and {name} exclude each other: the configuration sets that itself"));
                }
                if has("--kylin-version") {
                    return Err("--kylin-version is for demo nodes: use it with --demo".into());
                }
                if has("--slow-weights") && !has("--httpd") {
                    return Err(
                        "--config and --slow-weights exclude each other: the option needs another source of nodes"
                            .into(),
                    );
                }
                if has("--cache") {
                    return Err(format!(
                        "{source} and --cache exclude each other: the option needs another source of nodes"
                    ));
                }
            }
            _ if has("--kylin-version") => return Err("--kylin-version is for demo nodes: use it with --demo".into()),
            _ => {}
        }
        let of_admin = ["--admin-token-file", "--admin-read"].into_iter().find(|name| has(name));
        if let (Some(name), None) = (of_admin, &self.admin) {
            return Err(format!("{name} needs --admin"));
        }
        if has("--admin-host") && self.admin.is_none() && self.status.is_none() {
            return Err("--admin-host needs --admin or --status".into());
        }
        if self.admin_read == AdminRead::Token && self.admin_token_file.is_none() {
            return Err("--admin-read token needs --admin-token-file".into());
        }
        if self.cache.is_some() && !self.kylin {
            return Err("--cache needs --kylin on".into());
        }
        self.tls.check()?;
        let is_https = matches!(&self.source, Source::Nodes(nodes) if nodes.iter().any(Node::is_https));
        if let Some(name) = tls::OF_NODES.into_iter().find(|name| has(name) && !is_https) {
            return Err(format!("{name} is for nodes at https://, and --nodes names none"));
        }
        if let Some(restore) = self.restore {
            let mode = self.sessions.take().unwrap_or(SessionMode::MEMORY).restore_after_loss(restore);
            self.sessions = Some(mode.map_err(|error| format!("--restore-sessions: {error}"))?);
        }
        Ok(())
    }
}
