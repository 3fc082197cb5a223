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
use self::values::{cache, count, health_path, limit, parse, restore, seconds, time, trusted, zookeeper};
use crate::groups::GroupsFile;
use crate::logging::{self, LogFormat};
use crate::nodes::{self, DefaultSettings, Node, NodeSettings};
use crate::request_log::{self, RequestFormat};
use crate::tls::{self, Clients, TlsOptions};

pub struct Args {
    pub source: Source,
    /// The folder to which names in an nginx configuration are relative.
    pub prefix: Option<PathBuf>,
    pub policy: Option<PolicyName>,
    pub kylin: bool,
    pub reload: ReloadAccess,
    pub resource_groups: Option<GroupsFile>,
    pub sessions: Option<SessionMode>,
    pub store_deadline: Duration,
    /// `None` means the default of the library.
    pub restore: Option<RestoreAfterLoss>,
    pub secret_file: Option<PathBuf>,
    pub probe: Option<ProbeMode>,
    pub buffers: BufferBudget,
    pub response_buffer: usize,
    pub outlier: bool,
    pub drain: bool,
    pub single_flight: bool,
    pub cache: Option<Cache>,
    /// The settings of nodes that set nothing themselves.
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
    pub log_flags: bool,
    /// `None` means the maximum time that a query may take.
    pub grace: Option<Duration>,
    pub lame_duck: Duration,
    pub health_path: Option<String>,
    pub tls: Arc<TlsOptions>,
    pub proxy_protocol: Option<TrustedProxies>,
    pub threads: NonZeroUsize,
    pub check: bool,
}

/// The clients that may read the operators' page.
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

    /// Returns the settings of nodes that set nothing themselves.
    pub fn default_settings(&self) -> DefaultSettings {
        DefaultSettings { settings: self.settings.clone(), outlier: self.outlier, tls: Arc::clone(&self.tls) }
    }

    /// Returns the options of an address of `--listen`. With `None`, clients speak plain HTTP
    /// there.
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

    fn defaults() -> Self {
        Args {
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
            log_flags: false,
            grace: None,
            lame_duck: Duration::ZERO,
            health_path: Some("/front/health".into()),
            tls: Arc::default(),
            proxy_protocol: None,
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            check: false,
        }
    }

    /// Parses the arguments. Call it within a tokio runtime, because it opens a store, without
    /// connecting.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut args = Args::defaults();
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
            if matches!(name.as_str(), "--check" | "--help" | "-h" | "--version" | "--log-sql" | "--log-flags")
                && value.is_some()
            {
                return Err(format!("{name} takes no value"));
            }
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--help" | "-h" => return Ok(Command::Help),
                "--version" => return Ok(Command::Version),
                "--kylin-version" => {
                    let value = value()?;
                    version = value.parse().map_err(|error| format!("{name} {value}: {error}"))?;
                }
                name => args.set(name, &mut value)?,
            }
        }
        args.check_agreement(&given, version)?;
        Ok(Command::Run(Box::new(args)))
    }

    /// Sets one option. `value` takes the option's value, and fails if there is none.
    fn set(&mut self, name: &str, value: &mut impl FnMut() -> Result<String, String>) -> Result<(), String> {
        match name {
            "--demo" => self.source = Source::Demo(count(name, &value()?, 1024)?.get(), Dialect::default()),
            "--nodes" => {
                self.source = Source::Nodes(nodes::parse(&value()?).map_err(|error| format!("--nodes: {error}"))?)
            }
            "--zookeeper" => {
                self.source = zookeeper(&value()?).map_err(|error| format!("--zookeeper: {error}"))?;
            }
            "--nodes-file" => self.source = Source::List(value()?.into()),
            "--properties" => self.source = Source::Properties(value()?.into()),
            "--config" => self.source = Source::Config(value()?.into()),
            "--httpd" => self.source = Source::Httpd(value()?.into()),
            "--prefix" => self.prefix = Some(value()?.into()),
            "--policy" => self.policy = Some(parse(name, &value()?)?),
            "--kylin" => self.kylin = switch(name, &value()?)?,
            "--reload" => {
                self.reload = match &*value()? {
                    "administrators" => ReloadAccess::Administrators,
                    "closed" => ReloadAccess::Closed,
                    "everyone" => ReloadAccess::Everyone,
                    other => return Err(format!("--reload {other}: expected administrators, closed, everyone")),
                }
            }
            "--resource-groups" => {
                let file = GroupsFile::read(&value()?);
                self.resource_groups = Some(file.map_err(|error| format!("{name}: {error}"))?);
            }
            "--sessions" => self.sessions = Some(value()?.parse().map_err(|error| format!("--sessions: {error}"))?),
            "--store-deadline" => {
                self.store_deadline = Duration::from_millis(count(name, &value()?, 60_000)?.get() as u64)
            }
            "--restore-sessions" => self.restore = Some(restore(name, &value()?)?),
            "--secret-file" => self.secret_file = Some(value()?.into()),
            "--probe" => self.probe = Some(parse(name, &value()?)?),
            "--buffer-bytes" => self.buffers = BufferBudget::new(limit(name, &value()?, usize::MAX - 1)?),
            "--response-buffer" => {
                let value = value()?;
                let bytes = value
                    .parse()
                    .map_err(|_| format!("--response-buffer {value}: expected a number of bytes, or 0"))?;
                self.response_buffer = bytes;
            }
            "--outlier" => self.outlier = switch(name, &value()?)?,
            "--drain" => self.drain = switch(name, &value()?)?,
            "--single-flight" => self.single_flight = switch(name, &value()?)?,
            "--cache" => self.cache = Some(cache(&value()?).map_err(|error| format!("{name}: {error}"))?),
            "--max-conns" => {
                let count = count(name, &value()?, u32::MAX as usize)?.get();
                self.settings.max_conns = Some(u32::try_from(count).unwrap_or(u32::MAX));
            }
            "--connect-timeout" => self.settings.connect_timeout = Some(time(name, &value()?)?),
            "--read-timeout" => self.settings.read_timeout = Some(time(name, &value()?)?),
            "--panic" => self.panic = switch(name, &value()?)?,
            "--queue" => self.queue = switch(name, &value()?)?,
            "--slow-weights" => self.slow_weights = switch(name, &value()?)?,
            "--trust" => self.trusted = trusted(&value()?).map_err(|error| format!("--trust {error}"))?,
            "--client-connections" => self.client_connections = limit(name, &value()?, 1 << 30)?,
            "--client-requests" => self.client_requests = limit(name, &value()?, 1 << 30)?,
            "--half-close" => self.half_close = switch(name, &value()?)?,
            "--listen" => self.listen = Some(value()?.parse().map_err(|error| format!("--listen: {error}"))?),
            "--status" => self.status = Some(value()?.parse().map_err(|error| format!("--status: {error}"))?),
            "--admin" => self.admin = Some(value()?.parse().map_err(|error| format!("--admin: {error}"))?),
            "--admin-token-file" => self.admin_token_file = Some(value()?.into()),
            "--admin-host" => self.admin_hosts = value()?.split(',').map(|name| name.trim().to_owned()).collect(),
            "--admin-read" => {
                self.admin_read = match &*value()? {
                    "local" => AdminRead::Local,
                    "token" => AdminRead::Token,
                    other => return Err(format!("{name} {other}: expected local or token")),
                }
            }
            "--grace" => self.grace = Some(seconds(name, &value()?)?),
            "--lame-duck" => self.lame_duck = seconds(name, &value()?)?,
            "--health-path" => self.health_path = health_path(name, &value()?)?,
            "--proxy-protocol" => {
                let networks = trusted(&value()?).map_err(|error| format!("--proxy-protocol {error}"))?;
                self.proxy_protocol = Some(networks);
            }
            name if tls::NAMES.contains(&name) => Arc::make_mut(&mut self.tls).set(name, &value()?)?,
            "--threads" => self.threads = count(name, &value()?, 1024)?,
            "--check" => self.check = true,
            "--log" => self.log = Some(logging::level(&value()?).map_err(|error| format!("--log {error}"))?),
            "--log-format" => self.log_format = logging::format(&value()?)?,
            "--access-log" => self.access_log = Some(value()?),
            "--access-log-format" => self.access_log_format = request_log::format(&value()?)?,
            "--query-log" => self.query_log = Some(value()?),
            "--log-sql" => self.log_sql = true,
            "--log-flags" => self.log_flags = true,
            _ => return Err(format!("unknown option {name}")),
        }
        Ok(())
    }

    /// Checks that the options are consistent.
    fn check_agreement(&mut self, given: &[String], chosen: Dialect) -> Result<(), String> {
        let has = |name: &str| given.iter().any(|given| given == name);
        let mut sources = SOURCES.into_iter().filter(|name| has(name));
        if let (Some(one), Some(other)) = (sources.next(), sources.next()) {
            return Err(format!("{one} and {other} exclude each other: each is a source of nodes"));
        }
        for (option, of, is_given) in [
            ("--access-log-format", "--access-log", has("--access-log")),
            ("--log-sql", "--query-log", has("--query-log")),
            ("--log-flags", "--query-log", has("--query-log")),
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
