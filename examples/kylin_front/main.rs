//! A complete front end on the crate's own server: nodes by name, from ZooKeeper, from Kylin's properties, from an nginx
//! configuration, or demo nodes in this process.
//!
//! ```sh
//! cargo run --release --example kylin_front                          # three demo Kylin nodes and the front end
//! cargo run --release --example kylin_front -- --config kylin.conf   # an nginx configuration, as is
//! cargo run --release --example kylin_front -- --nodes q1:7070,q2:7070
//! cargo run --release --example kylin_front --features redis -- --nodes q1:7070 --sessions redis://10.0.0.5 --secret-file secret
//! cargo run --release --example kylin_front -- --help
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]
#![allow(unreachable_pub, reason = "a program has no public API")]

mod args;
mod demo;
mod log_file;
mod logging;
mod members;
mod metrics;
mod nodes;
mod request_log;
mod sessions;
mod signals;
mod status;

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::nginx::{Config, ProbeMode, SessionMode, Site, SiteBuilder};
use kylin_lb::observe::{Observer, Watch};
use kylin_lb::proxy::{KylinRules, ProxyBuilder};
use kylin_lb::server::{Listen, Server};
use kylin_lb::{Cluster, HttpBackend, Proxy};

use self::args::{Args, Command, Source};
use self::log_file::LogFile;
use self::logging::StateLog;
use self::members::Members;
use self::metrics::Exporter;
use self::request_log::{QueryLog, RequestLog};
use self::signals::Signals;
use self::status::{ConnectionCount, Monitored};

/// How long requests in flight may take to finish after a signal.
const GRACE: Duration = Duration::from_secs(30);
/// How long `--check` waits for nodes.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the program waits for nodes before it prints them.
const START_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // The server has threads of its own. This runtime serves signals, probes, stores and the demo nodes.
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let _entered = runtime.enter();
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Command::Run(args)) => *args,
        Ok(Command::Help) => {
            say(format_args!("{}", args::HELP));
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            say(format_args!("kylin_front {}\n", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kylin_front: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    logging::start(args.log, args.log_format);
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kylin_front: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(mut args: Args) -> Result<(), Box<dyn Error>> {
    // First, because a signal without a handler kills the process.
    let mut signals = Signals::new()?;
    let logs = Logs::open(&args)?;
    signals.reopen(logs.files.clone());
    let (secret, is_random) = sessions::secret(args.secret_file.as_deref())?;
    if is_random && args.sessions.as_ref().is_some_and(SessionMode::needs_secret) {
        eprintln!(
            "kylin_front: without --secret-file the secret is random: several front ends need a common one, and restarts need the same"
        );
    }
    if let Source::Config(path) = &args.source {
        return configured(path, &args, secret, signals, &logs).await;
    }
    raise_open_files_limit(None);
    let source = std::mem::replace(&mut args.source, Source::Nodes(Vec::new()));
    let members = Members::find(source, &args).await?;
    let cluster = members.cluster.clone();
    let mode = args.sessions.get_or_insert(SessionMode::MEMORY);
    let sessions = mode.sessions(&secret, args.store_deadline)?;
    let affinity = mode.affinity(&secret, sessions.as_ref());
    let proxy = match args.kylin {
        true => {
            let proxy = Proxy::builder(cluster.clone()).rules(KylinRules::default().reload(args.reload));
            configure(logs.observe(proxy), &args).affinity(affinity).build()?
        }
        false => configure(logs.observe(Proxy::plain(cluster.clone())), &args).affinity(affinity).build()?,
    };
    if args.check {
        members.wait(CHECK_TIMEOUT).await;
        if let Some(why) = members.missing() {
            eprintln!("kylin_front: there are no nodes yet: {why}");
        }
        say(format_args!("{}{}", summary(&args), table(&cluster)));
        return Ok(());
    }
    let _watches = logs.watches(|watch| match &sessions {
        Some(sessions) => members.watch_state(watch).sessions("sessions", sessions),
        None => members.watch_state(watch),
    });
    let _checker = args.probe.unwrap_or(ProbeMode::Auto).start(&cluster)?;
    let listen = match &args.listen {
        Some(listen) => listen.clone(),
        None => "127.0.0.1:8080".parse()?,
    };
    let server = Server::builder()
        .listen(listen.clone(), proxy)
        .threads(args.threads)
        .buffers(args.buffers.clone())
        .max_connections_per_client(args.client_connections)
        .start()?;
    greet(&server, &[listen]);
    // It listens meanwhile: a client learns why it is refused.
    members.wait(START_TIMEOUT).await;
    let Members { discovery, demo, metastore: _metastore, .. } = members;
    let clusters = vec![("kylin".into(), cluster.clone())];
    let (buffers, exporter) = (args.buffers.clone(), logs.exporter.clone());
    let connections: Option<ConnectionCount> = Some(Box::new(server.connection_count()));
    let monitored = Monitored { clusters, sessions, discovery, buffers, exporter, connections };
    let _status = status(&args, monitored)?;
    say(format_args!("{}{}", summary(&args), table(&cluster)));
    if let (Some(_), Some(address)) = (&demo, server.addresses().first()) {
        say(format_args!("{}", demo::commands(*address)));
    }
    until_signal(server, signals, &logs).await
}

/// Raises the limit of open files, because each connection is one.
fn raise_open_files_limit(files: Option<NonZeroU64>) {
    if let Err(error) = kylin_lb::server::raise_open_files_limit(files) {
        eprintln!("kylin_front: the limit of open files is not raised: {error}");
    }
}

/// Applies the options about clients.
fn configure<B, K>(builder: ProxyBuilder<B, K>, args: &Args) -> ProxyBuilder<B, K> {
    builder
        .trusted_proxies(args.trusted.clone())
        .buffers(args.buffers.clone())
        .response_buffer(args.response_buffer)
        .max_requests_per_client(args.client_requests)
}

/// Serves an nginx configuration.
async fn configured(
    path: &Path,
    args: &Args,
    secret: kylin_lb::session::Secret,
    signals: Signals,
    logs: &Logs,
) -> Result<(), Box<dyn Error>> {
    let config = Config::read(path)?;
    raise_open_files_limit(config.open_files());
    let mut site = Site::builder(config).secret(secret).store_deadline(args.store_deadline);
    site = site.buffers(args.buffers.clone()).max_requests_per_client(args.client_requests).reload(args.reload);
    site = logs.observers.iter().fold(site, |site, observer| site.observer(Arc::clone(observer)));
    // What was not given is left to the defaults, so that the report says so.
    for (on, set) in [
        (args.kylin, SiteBuilder::kylin as fn(SiteBuilder, bool) -> SiteBuilder),
        (args.outlier, SiteBuilder::outlier),
        (args.drain, SiteBuilder::drain),
        (args.panic, SiteBuilder::panic_mode),
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
    if args.check {
        say(format_args!("{}", site.report()));
    }
    let site = site.build()?;
    if args.check {
        say(format_args!("{}: the configuration is valid\n", path.display()));
        return Ok(());
    }
    let _checkers = site.start_probes()?;
    let configured: Vec<Listen> = site.listeners().map(|listener| listener.listen()).collect();
    let server = match &args.listen {
        Some(listen) => site.server_on(listen.clone()),
        None => site.server(),
    };
    let server = server.threads(args.threads).max_connections_per_client(args.client_connections).start()?;
    greet(&server, args.listen.as_ref().map_or(&configured, std::slice::from_ref));
    if args.listen.is_some() {
        for listen in configured {
            say(format_args!("not listening on {listen}, which --listen replaces\n"));
        }
    }
    let clusters = site.clusters().map(|(name, cluster)| (name.to_owned(), cluster.clone())).collect();
    let (sessions, buffers) = (site.sessions().cloned(), args.buffers.clone());
    let _watches = logs.watches(|watch| {
        let watch = site.clusters().fold(watch, |watch, (name, cluster)| watch.cluster(name, cluster));
        match &sessions {
            Some(sessions) => watch.sessions("sessions", sessions),
            None => watch,
        }
    });
    let exporter = logs.exporter.clone();
    let connections: Option<ConnectionCount> = Some(Box::new(server.connection_count()));
    let _status = status(args, Monitored { clusters, sessions, discovery: None, buffers, exporter, connections })?;
    for (name, cluster) in site.clusters() {
        say(format_args!("\nupstream {name}{}", table(cluster)));
    }
    until_signal(server, signals, logs).await
}

/// The logs of requests that are wanted.
#[derive(Default)]
struct Logs {
    observers: Vec<Arc<dyn Observer>>,
    files: Vec<LogFile>,
    exporter: Option<Exporter>,
}

impl Logs {
    fn open(args: &Args) -> Result<Self, Box<dyn Error>> {
        let mut logs = Logs::default();
        if args.check {
            return Ok(logs);
        }
        if let Some(path) = &args.access_log {
            let file = LogFile::open(path).map_err(|error| format!("--access-log: {error}"))?;
            logs.files.push(file.clone());
            logs.observers.push(Arc::new(RequestLog { file, format: args.access_log_format }));
        }
        if let Some(path) = &args.query_log {
            let file = LogFile::open(path).map_err(|error| format!("--query-log: {error}"))?;
            logs.files.push(file.clone());
            logs.observers.push(Arc::new(QueryLog { file, with_sql: args.log_sql }));
        }
        if args.status.is_some() {
            logs.exporter = Exporter::install()?;
            logs.observers.extend(logs.exporter.as_ref().map(Exporter::observer));
        }
        Ok(logs)
    }

    /// Returns the watches of state: for the log, and for the metrics.
    fn watches(&self, watched: impl Fn(Watch) -> Watch) -> Vec<Watch> {
        let metrics = self.exporter.iter().map(|exporter| Watch::new(exporter.observer()));
        [Watch::new(StateLog)].into_iter().chain(metrics).map(watched).collect()
    }

    /// Has them learn of the requests of a proxy.
    fn observe<K>(&self, proxy: ProxyBuilder<HttpBackend, K>) -> ProxyBuilder<HttpBackend, K> {
        self.observers.iter().fold(proxy, |proxy, observer| proxy.observer(Arc::clone(observer)))
    }
}

fn greet(server: &Server, listens: &[Listen]) {
    for address in server.addresses() {
        say(format_args!("listening on http://{address}\n"));
    }
    for unix in listens.iter().filter(|listen| matches!(listen, Listen::Unix(_))) {
        say(format_args!("listening on {unix}\n"));
    }
}

/// Starts the listener for operators, where one is wanted. Discovery runs as long as the returned state lives.
fn status(args: &Args, monitored: Monitored) -> Result<(Option<Server>, Arc<Monitored>), Box<dyn Error>> {
    let monitored = Arc::new(monitored);
    let server = args.status.clone().map(|listen| status::serve(listen, Arc::clone(&monitored))).transpose()?;
    for address in server.iter().flat_map(Server::addresses) {
        say(format_args!("status on http://{address}/front/status\n"));
        if monitored.exporter.is_some() {
            say(format_args!("metrics on http://{address}/metrics\n"));
        }
    }
    Ok((server, monitored))
}

/// Prints to standard output. Nothing reads it any more if the write fails, which must not end the front end.
fn say(text: std::fmt::Arguments<'_>) {
    _ = std::io::stdout().write_fmt(text);
}

/// Returns the chosen options, one a line.
fn summary(args: &Args) -> String {
    let on = |on| if on { "on" } else { "off" };
    let limit = |limit: Option<NonZeroU32>| limit.map_or("any number of".to_owned(), |limit| limit.to_string());
    let sessions = args.sessions.as_ref().unwrap_or(&SessionMode::MEMORY);
    let warnings: String = sessions.warnings().iter().map(|warning| format!("  warning: {warning}\n")).collect();
    format!(
        "sessions: {sessions}\n{warnings}kylin rules: {}\nprobes: {}\noutlier ejection: {}\ndrain by signs: {}\npanic mode: {}\n\
         limits of a client: {} connections, {} requests\n",
        on(args.kylin),
        args.probe.unwrap_or(ProbeMode::Auto),
        on(args.outlier),
        on(args.drain),
        on(args.panic),
        limit(args.client_connections),
        limit(args.client_requests)
    )
}

/// Returns the endpoints of a cluster, one a line.
fn table<B>(cluster: &Cluster<B>) -> String {
    let status = cluster.status();
    let mut table = format!(
        "\n{:<28} {:>6} {:<8} {:<6} {:<9} {:>9}\n",
        "endpoint", "weight", "group", "roles", "state", "in flight"
    );
    for endpoint in &status.endpoints {
        let group = if endpoint.backup { "backup" } else { "primary" };
        let admin_state = format!("{:?}", endpoint.admin_state).to_lowercase();
        let (id, weight, in_flight) = (endpoint.id.as_str(), endpoint.weight, endpoint.in_flight);
        let roles = endpoint.roles.to_string();
        _ = writeln!(table, "{id:<28} {weight:>6} {group:<8} {roles:<6} {admin_state:<9} {in_flight:>9}");
    }
    _ = writeln!(table, "policy: {}", status.balancer);
    table
}

/// Serves until a signal to stop, then waits for requests in flight. A second one ends the wait.
async fn until_signal(server: Server, mut signals: Signals, logs: &Logs) -> Result<(), Box<dyn Error>> {
    signals.stop().await;
    say(format_args!("stopping: requests in flight have {} s\n", GRACE.as_secs()));
    tokio::select! {
        stopped = server.stop(GRACE) => say(format_args!("stopped; {} connections were cut\n", stopped.cut)),
        () = signals.stop() => say(format_args!("stopped at once\n")),
    }
    logs.files.iter().for_each(LogFile::flush);
    Ok(())
}
