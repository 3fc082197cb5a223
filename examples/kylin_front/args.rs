use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;
use kylin_lb::BufferBudget;
use kylin_lb::nginx::{InvalidOption, PolicyName, ProbeMode, SessionMode};
use kylin_lb::proxy::{ReloadAccess, TrustedProxies};
use kylin_lb::server::{Listen, ListenOptions};
use kylin_lb::session::RestoreAfterLoss;
use kylin_lb::testing::kylin::Dialect;
use tracing_subscriber::filter::LevelFilter;

use crate::groups::GroupsFile;
use crate::logging::{self, LogFormat};
use crate::nodes::{self, DefaultSettings, Node, NodeSettings};
use crate::request_log::{self, RequestFormat};
use crate::tls::{self, Clients, TlsOptions};

pub const HELP: &str = "\
A load-balancing front end for Apache Kylin.

Usage: kylin_front [OPTIONS]          each option also as --name=value
       kylin_front ctl VERB [OPTIONS]  changes a front end that runs with --admin; ctl --help has the verbs
       kylin_front doctor [OPTIONS]    checks the nodes and the front end by what the manuals require; doctor --help has more

Nodes, from one of:
  --demo N            N demo Kylin nodes in this process (default, with N = 3)
  --kylin-version V   version of the demo nodes: 2.4 (KAP), 2.6, 3.0, 3.1 (default), 4.0 or 5.0; also v4 for 3.1, v5 for 5.0
  --nodes NODE,...    a node is [NAME@][https://]HOST:PORT[=ROLE], with the role all (default), query or job; the name is the
                      endpoint's id, and its jvmRoute for --sessions route; behind a space settings as in nginx:
                      \"10.0.0.1:7070 weight=5 max_conns=32, 10.0.0.2:7070 backup\", with weight, max_conns, max_fails,
                      fail_timeout, slow_start, connect_timeout, read_timeout, backup, down and drain
  --nodes-file FILE   a node a line, HOST:PORT [role=ROLE] [weight=N] [id=NAME] [backup] [drain]; followed as it changes
  --zookeeper PLACE   the ZooKeeper where Kylin registers its nodes: HOST:PORT[,HOST:PORT...][/BASE/CLUSTER]
                      (build with --features zookeeper)
  --properties FILE   a kylin.properties, and FILE.override if it exists: the nodes that it names, or those of its
                      ZooKeeper, followed as they change; nodes of another metastore are quarantined
  --config FILE       an nginx configuration: upstreams, servers, locations; the options of \"Balancing\" are for upstreams about
                      which it says nothing, and a comment \"# kylin_lb: sessions redis://...;\" in an upstream or server sets one
  --prefix DIR        the folder of relative names of files in the nginx configuration, as of nginx -p (default: that of FILE)

  --httpd FILE        a configuration of Apache httpd: balancers, members, ProxyPass, virtual hosts; the options of \"Balancing\" are
                      for balancers about which it says nothing

Balancing:
  --policy NAME       round-robin (default with --config), least-conn (default), ip-hash, random-two or query-affinity
  --kylin on|off      apply the rules of Kylin: roles, retries, closed internal calls (default: on)
  --reload WHO        who may use \"Reload Metadata\" and \"Reload Config\" in Kylin's web interface: administrators (default),
                      closed or everyone
  --resource-groups FILE  the resource groups of Kylin 5 (JSON, as in PUT /kylin/api/resource_groups), read again when it
                      changes: a project is served by the nodes of its group (default: none)
  --sessions HOW      how logins are kept:
                        memory            learned from the nodes' cookies, in memory (default)
                        STORE             learned, in a store that front ends share: redis://, redis+sentinel://,
                                          redis+cluster://, mysql:// or memcached:// (build with --features redis, mysql)
                        cookie            a signed cookie of the front end
                        route             the jvmRoute in session ids
                        login-relay[:STORE]  the front end logs in at each node; in memory, or in a store
                                          (build with --features login-relay)
                        replicated[=FILE]    the nodes share them, through Redis for example; FILE is the context.xml of a
                                          node, or the kylin.properties of Kylin 5: --check says what is wrong in it
                        user              one node for each user, for clients without cookies
                        none              logins are not kept
                      With --config a STORE is also for its sticky learn.
  --store-deadline MS milliseconds for one operation of a store, after which the request proceeds without it
                      (default: 50)
  --restore-sessions HOW  which relayed logins are written again to a store that has lost them: never (default with
                      --secret-file), alone (default without; for one front end), or shared (all front ends need it)
  --secret-file FILE  the secret that front ends share: 64 hexadecimal digits, base64 of 32 bytes, or 32 bytes; further
                      lines are earlier secrets (default: random, which works for one front end)
  --probe WHAT        auto (default: what each node offers), version (Kylin 3.1 and later), health (Kylin 5), tcp or none
  --buffer-bytes N    how many bytes may wait in memory for all clients together, of which one client may have a quarter:
                      bodies of requests, and responses that clients do not read; or none (default: 268435456)
  --response-buffer N how many bytes of a response are taken from its node ahead of a client that reads slowly; or none
                      (default: 1048576); not with --config, which has proxy_buffering
  --outlier on|off    eject nodes that fail more than the others; off: by nginx's max_fails, 1 in 10s (default: on)
  --drain on|off      no new sessions for a node that shows that it stops, where --outlier is on: it refuses connections, closes
                      those of clients, or says 503 with Retry-After (default: on)
  --single-flight on|off
                      equal queries of a user at the same time are executed once (default: on)
  --max-conns N       the most queries at once at a node for which none is set (default: no limit)
  --queue on|off      queries wait for a node that has its max-conns, quick ones first, and other requests pass; off: a full
                      node gets no requests (default: on)
  --connect-timeout T the time for a connection to a node (default: 5s)
  --read-timeout T    the time until a node responds, and between two pieces of a response (default: 310s, then 60s);
                      --max-conns and these two not with --config, which has max_conns, proxy_connect_timeout and proxy_read_timeout
  --panic on|off      use a node that failed where health bars all of them, instead of a 503 (default: on)

Clients:
  --trust NET,...     proxies in front, as addresses or networks: their X-Forwarded-For names the client, read from right to
                      left; they have no limits themselves (default: none)
  --client-connections N|none  connections of one client: an IPv4 address or an IPv6 /64 (default: 1024)
  --client-requests N|none     its requests in flight; more get 429 (default: 256)

This program:
  --listen ADDR       where to listen (default 127.0.0.1:8080): HOST:PORT, [V6]:PORT, unix:/path; replaces all
                      addresses of a configuration, and serves its first server
  --tls-certificate FILE  speaks https at --listen, with this chain of certificates, PEM; and --tls-key FILE, its key
  --tls-client-ca FILE    serves only clients with a certificate of these authorities
  --redirect ADDR     redirects http at this address to https
  --node-ca FILE      the authorities of nodes at https:// (default: those of the system)
  --node-verify on|off  off trusts any certificate of a node, so that another host at its address reads logins (default: on)
                      (these build with --features tls, and not with --config, which has ssl_* and proxy_ssl_*)
  --proxy-protocol NET,...  balancers of TCP connections in front, which name the client in the PROXY protocol, version 1 or 2;
                      others are refused (default: none, and no such protocol; not with --config, which has listen ... proxy_protocol)
  --status ADDR       serves GET /front/status for operators, and /metrics for Prometheus (build with --features prometheus); it
                      has no login, and refuses pages of other origins and foreign names of this host (default: off)
  --admin ADDR        serves a page for operators at /, the same as JSON at /status, verbs at /action, and /metrics; readable without
                      a token on this machine only (default: off)
  --admin-token-file FILE  the token that verbs need, and readers on other machines: 16 characters or more in one line, such as from
                      openssl rand -hex 32; read again at SIGHUP (default: none, and no verbs)
  --admin-read local|token  who may read that page: users of this machine and who has the token (default), or only who has the
                      token, also on this machine, as behind a proxy that does not show that it forwards
  --admin-host NAME,...  names of this host in URLs of --admin and --status, apart from localhost and IP addresses
  --log LEVEL         off, error, warn, info (default), debug or trace: what it logs to standard error, one line for each change
                      of state; without this option, RUST_LOG may set levels such as kylin_lb=debug
  --log-format F      text (default) or json, one object a line
  --access-log FILE   a line for each request: nginx's combined format, and behind it times, nodes, and how it ended; - is
                      standard output; SIGUSR1 opens the file again (default: off)
  --access-log-format F  combined (default) or json, one object a line
  --query-log FILE    a JSON object for each query: user, project, fingerprint, node and why there, times, outcome
  --log-sql           these logs show SQL; without it, they have its fingerprint, and sql= in a URL is masked
  --grace SECONDS     how long requests in flight may take after a signal to stop (default: as long as the longest query)
  --lame-duck SECONDS how long it serves on after that signal, while the health path says 503, so that a balancer in front
                      sends no more (default: 0)
  --health-path PATH  the path that tells a balancer in front whether to send requests here, 200 or 503; or none
                      (default: /front/health)
  --threads N         accept loops, each on a thread of its own (default: one per core)
  --check             prints the nodes and settings, and exits
  --version           prints the version
  --help              prints this

SIGTERM, SIGINT and SIGQUIT stop it after the requests in flight, a second one at once. SIGHUP reads the configuration, the
secret and certificates again: if all are valid, they are exchanged without a lost request, else nothing changes and the log
says why. Other options need a restart. SIGUSR1 opens log files again. SIGUSR2 has no effect.

Listening sockets that systemd passes (LISTEN_FDS) are used for the addresses that they have; without --listen and --config,
those are the addresses. A second process with the same sockets takes over without a lost request; with --admin or --status it
needs their sockets too.
";

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
    pub response_buffer: Option<NonZeroUsize>,
    pub outlier: bool,
    pub drain: bool,
    pub single_flight: bool,
    /// The settings of nodes for which nothing else is set.
    pub settings: NodeSettings,
    pub panic: bool,
    pub queue: bool,
    pub trusted: TrustedProxies,
    pub client_connections: Option<NonZeroU32>,
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

/// Who reads the page of operators.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AdminRead {
    /// Who has the token, and users of this machine.
    Local,
    /// Who has the token.
    Token,
}

/// What the arguments ask for.
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

/// Options for which nginx and httpd have a directive; httpd not for the last one.
const SET_BY_CONFIG: [&str; 6] =
    ["--proxy-protocol", "--max-conns", "--connect-timeout", "--read-timeout", "--trust", "--response-buffer"];

impl Args {
    /// Returns the settings of nodes for which nothing else is set.
    pub fn default_settings(&self) -> DefaultSettings {
        DefaultSettings { settings: self.settings.clone(), outlier: self.outlier, tls: Arc::clone(&self.tls) }
    }

    /// Returns what clients have to speak at an address of `--listen`, or with `None` at one without TLS.
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
            response_buffer: NonZeroUsize::new(1 << 20),
            outlier: true,
            drain: true,
            single_flight: true,
            settings: NodeSettings::default(),
            panic: true,
            queue: true,
            trusted: TrustedProxies::none(),
            client_connections: NonZeroU32::new(1024),
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
                "--response-buffer" => args.response_buffer = limit(&name, &value()?, usize::MAX)?,
                "--outlier" => args.outlier = switch(&name, &value()?)?,
                "--drain" => args.drain = switch(&name, &value()?)?,
                "--single-flight" => args.single_flight = switch(&name, &value()?)?,
                "--max-conns" => {
                    let count = count(&name, &value()?, u32::MAX as usize)?.get();
                    args.settings.max_conns = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX));
                }
                "--connect-timeout" => args.settings.connect_timeout = Some(time(&name, &value()?)?),
                "--read-timeout" => args.settings.read_timeout = Some(time(&name, &value()?)?),
                "--panic" => args.panic = switch(&name, &value()?)?,
                "--queue" => args.queue = switch(&name, &value()?)?,
                "--trust" => args.trusted = trusted(&value()?).map_err(|error| format!("--trust {error}"))?,
                "--client-connections" => args.client_connections = limit(&name, &value()?, 1 << 30)?,
                "--client-requests" => args.client_requests = limit(&name, &value()?, 1 << 30)?,
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
                return Err(format!("{option} is for {of}, which is not given"));
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

#[cfg(feature = "zookeeper")]
fn zookeeper(text: &str) -> Result<Source, String> {
    let source = kylin_lb::discovery::ZooKeeper::parse(text).map_err(|error| error.to_string())?;
    Ok(Source::ZooKeeper(Box::new(source)))
}

#[cfg(not(feature = "zookeeper"))]
fn zookeeper(_: &str) -> Result<Source, String> {
    Err("this build has no ZooKeeper client: build it with --features zookeeper".into())
}

/// Parses addresses and networks, with commas between them.
fn trusted(text: &str) -> Result<TrustedProxies, String> {
    let network = |text: &str| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map_err(|_| format!("{text}: expected addresses or networks such as 10.0.0.0/8"))
    };
    Ok(TrustedProxies::new(text.split(',').map(network).collect::<Result<Vec<_>, _>>()?))
}

fn count(name: &str, text: &str, max: usize) -> Result<NonZeroUsize, String> {
    text.parse::<NonZeroUsize>()
        .ok()
        .filter(|count| count.get() <= max)
        .ok_or_else(|| format!("{name} {text}: expected a number from 1 to {max}"))
}

fn limit<T: TryFrom<NonZeroUsize>>(name: &str, text: &str, max: usize) -> Result<Option<T>, String> {
    if text == "none" {
        return Ok(None);
    }
    count(name, text, max).map(|limit| T::try_from(limit).ok()).map_err(|error| format!("{error}, or none"))
}

fn time(name: &str, text: &str) -> Result<Duration, String> {
    nodes::time(text).map_err(|error| format!("{name} {text}: {error}"))
}

fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().map_err(|_| format!("{name} {text}: expected a number of seconds"))?;
    Ok(Duration::from_secs(seconds.into()))
}

pub fn switch(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name} {text}: expected on, off")),
    }
}

fn restore(name: &str, text: &str) -> Result<RestoreAfterLoss, String> {
    match text {
        "never" => Ok(RestoreAfterLoss::Never),
        "alone" => Ok(RestoreAfterLoss::Alone),
        "shared" => Ok(RestoreAfterLoss::Shared),
        _ => Err(format!("{name} {text}: expected never, alone or shared")),
    }
}

fn parse<T: FromStr<Err = InvalidOption>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name} {text}: {error}"))
}
