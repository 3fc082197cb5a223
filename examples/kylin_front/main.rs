//! A complete front end on the crate's own server. The nodes are given by name, or come from
//! ZooKeeper, from Kylin's properties, or from a configuration of nginx or httpd. Without any of
//! these, they are demo nodes in this process.
//!
//! ```sh
//! cargo run --release --example kylin_front                          # three demo Kylin nodes and the front end
//! cargo run --release --example kylin_front -- --config kylin.conf   # an nginx configuration, as is
//! cargo run --release --example kylin_front -- --httpd kylin.conf    # a configuration of Apache httpd, as is
//! cargo run --release --example kylin_front -- --nodes q1:7070,q2:7070
//! cargo run --release --example kylin_front --features redis -- --nodes q1:7070 --sessions redis://10.0.0.5 --secret-file secret
//! cargo run --release --example kylin_front -- --help
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]
#![allow(unreachable_pub, reason = "a program has no public API")]

mod args;
mod configured;
mod ctl;
mod demo;
mod doctor;
mod front;
mod groups;
mod httpd;
mod listed;
mod log_file;
mod log_paths;
mod logging;
mod members;
mod metrics;
mod nodes;
mod request_log;
mod running;
mod sessions;
mod signals;
mod status;
mod systemd;
mod tls;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::admin::Admin;
use kylin_lb::nginx::{ProbeMode, SessionMode, Site};
use kylin_lb::observe::{Observer, Watch};
use kylin_lb::server::{Listen, Server};
use kylin_lb::session::{Secret, Sessions};
use listenfd::ListenFd;

use self::args::{Args, Command, Source};
use self::configured::{Configured, FileSite};
use self::front::Health;
use self::listed::Listed;
use self::log_file::LogFile;
use self::logging::{Levels, StateLog};
use self::metrics::Exporter;
use self::request_log::{QueryLog, RequestLog};
use self::running::{Stop, until_signal};
use self::signals::Signals;
use self::status::Monitored;

/// How long `--check` waits for nodes.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the program waits for nodes before it accepts clients.
const START_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // The server has its own threads. This runtime serves signals, probes, stores and the demo
    // nodes.
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kylin_front: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let _entered = runtime.enter();
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if_eq("ctl").is_some() {
        return ctl::run(words);
    }
    if words.next_if_eq("doctor").is_some() {
        return doctor::run(&runtime, words);
    }
    let args = match Args::parse(words) {
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
    let (levels, log) = match logging::start(args.log, args.log_format) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("kylin_front: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(args, levels));
    LogFile::flush(&[log]);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kylin_front: {error}");
            let mut said = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                // Some errors show their cause themselves.
                let text = error.to_string();
                if !said.contains(&text) {
                    eprintln!("  because {text}");
                }
                said += &text;
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args, levels: Levels) -> Result<(), Box<dyn Error>> {
    // This comes first, because a signal without a handler kills the process.
    let signals = Signals::new()?;
    let logs = Logs::open(&args, status::admin(&args, signals.reloads(), levels)?)?;
    let (secret, is_random) = sessions::secret(args.secret_file.as_deref())?;
    if is_random && args.sessions.as_ref().is_some_and(SessionMode::needs_secret) {
        eprintln!(
            "kylin_front: without --secret-file the secret is random: several front ends need a common one, and restarts need the same"
        );
    }
    if let Some(file) = args.resource_groups.as_ref().filter(|_| !args.check) {
        file.follow();
    }
    let (grace, lame_duck) = (args.grace, args.lame_duck);
    let stop =
        |longest, health: &Arc<Health>| Stop { grace: grace.unwrap_or(longest), lame_duck, health: Arc::clone(health) };
    match &args.source {
        Source::Config(path) if args.check => return check(path, &args, secret),
        Source::Httpd(path) if args.check => return check_httpd(path, &args, &secret),
        Source::Config(path) => {
            let started = Configured::<Site>::start(path.clone(), args, secret, logs.clone(), inherited()?)?;
            serve(started, signals, stop).await;
            return Ok(());
        }
        Source::Httpd(path) => {
            let started = Configured::<httpd::Site>::start(path.clone(), args, secret, logs.clone(), inherited()?)?;
            serve(started, signals, stop).await;
            return Ok(());
        }
        _ => {}
    }
    raise_open_files_limit(None);
    let inherited = if args.check { Vec::new() } else { inherited()? };
    if let Some((mut front, server)) = Listed::start(args, secret, &logs, inherited).await? {
        let stop = stop(front.longest_query(), front.health());
        until_signal(server, signals, &mut front, stop).await;
    }
    Ok(())
}

/// Serves the site that a file describes, until a signal.
async fn serve<S: FileSite>(
    (mut front, server): (Configured<S>, Server),
    signals: Signals,
    stop: impl Fn(Duration, &Arc<Health>) -> Stop,
) {
    let stop = stop(front.longest_query(), front.health());
    until_signal(server, signals, &mut front, stop).await;
}

/// Prints how a configuration of httpd is understood, and whether it can be served.
fn check_httpd(path: &Path, args: &Args, secret: &Secret) -> Result<(), Box<dyn Error>> {
    say(format_args!("{}", httpd::report(path, args)?));
    httpd::Site::load(path, args, secret, &[])?;
    say(format_args!("{}: the configuration is valid\n", path.display()));
    Ok(())
}

/// Prints how a configuration is understood, and whether it can be served.
fn check(path: &Path, args: &Args, secret: Secret) -> Result<(), Box<dyn Error>> {
    let config = configured::read(path, args)?;
    let site = configured::builder(config.clone(), args, secret, &[], &HashMap::new());
    say(format_args!("{}", site.report()));
    site.build()?;
    log_paths::check_config(args, &config)?;
    if let Some(error) = config.unservable() {
        return Err(error.to_string().into());
    }
    say(format_args!("{}: the configuration is valid\n", path.display()));
    Ok(())
}

/// Takes the listening sockets that were passed to the process (systemd: `LISTEN_FDS`). They can be
/// taken only once.
fn inherited() -> Result<Vec<OwnedFd>, Box<dyn Error>> {
    let mut given = ListenFd::from_env();
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for index in 0..given.len() {
        match given.take_tcp_listener(index) {
            Ok(socket) => sockets.extend(socket.map(OwnedFd::from)),
            Err(_) => sockets.extend(given.take_unix_listener(index)?.map(OwnedFd::from)),
        }
    }
    Ok(sockets)
}

/// Raises the limit of open files, because each connection is one.
fn raise_open_files_limit(files: Option<NonZeroU64>) {
    if let Err(error) = kylin_lb::server::raise_open_files_limit(files) {
        eprintln!("kylin_front: the limit of open files is not raised: {error}");
    }
}

/// The observers of requests: the logs that the options name, the status page and the metrics.
#[derive(Clone)]
struct Logs {
    admin: Admin,
    observers: Vec<Arc<dyn Observer>>,
    files: Vec<LogFile>,
    exporter: Option<Exporter>,
}

impl Logs {
    fn open(args: &Args, admin: Admin) -> Result<Self, Box<dyn Error>> {
        let mut logs = Logs { admin, observers: Vec::new(), files: Vec::new(), exporter: None };
        log_paths::check_distinct(args)?;
        if args.check {
            log_paths::check(args)?;
            return Ok(logs);
        }
        log_paths::take_stdout(args);
        if let Some(path) = &args.access_log {
            let file = LogFile::open(path, 0o644).map_err(|error| format!("--access-log: {error}"))?;
            logs.files.push(file.clone());
            logs.observers.push(Arc::new(RequestLog { file, format: args.access_log_format }));
        }
        if let Some(path) = &args.query_log {
            // The query log shows the queries of each user, so other users must not read it.
            let file = LogFile::open(path, 0o640).map_err(|error| format!("--query-log: {error}"))?;
            logs.files.push(file.clone());
            logs.observers.push(Arc::new(QueryLog { file, with_sql: args.log_sql, with_flags: args.log_flags }));
        }
        if args.status.is_some() || args.admin.is_some() {
            logs.observers.push(Arc::new(logs.admin.clone()));
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

    /// Returns the watches of the store of sessions. Sessions with another secret need new watches.
    fn store_watches(&self, sessions: Option<&Sessions>) -> Vec<Watch> {
        let of_store = |sessions| self.watches(|watch| watch.sessions("sessions", sessions));
        sessions.map(of_store).unwrap_or_default()
    }
}

/// Prints where a server listens. `listens` has its addresses, each with whether clients use TLS
/// there.
fn greet(server: &Server, listens: &[(Listen, bool)]) {
    let mut tcp = listens.iter().filter(|(listen, _)| !matches!(listen, Listen::Unix(_)));
    for address in server.addresses() {
        // The address that redirects comes after those of `listens`.
        let is_tls = tcp.next().is_some_and(|(_, is_tls)| *is_tls);
        say(format_args!("listening on {}://{address}\n", if is_tls { "https" } else { "http" }));
    }
    for (unix, _) in listens.iter().filter(|(listen, _)| matches!(listen, Listen::Unix(_))) {
        say(format_args!("listening on {unix}\n"));
    }
}

/// Starts the listeners for operators that the options name, on their sockets among `inherited`.
/// Call it before clients are served. Then a second process whose address is in use ends before it
/// has accepted a client.
fn operators(
    args: &Args,
    monitored: &Arc<Monitored>,
    inherited: &mut Vec<OwnedFd>,
) -> Result<Vec<Server>, Box<dyn Error>> {
    let mut servers = Vec::new();
    if let Some(listen) = args.status.clone() {
        let server = status::serve(listen, Arc::clone(monitored), inherited)?;
        for address in server.addresses() {
            say(format_args!("status on http://{address}/front/status\n"));
            if monitored.exporter.is_some() {
                say(format_args!("metrics on http://{address}/metrics\n"));
            }
        }
        servers.push(server);
    }
    if let Some(listen) = args.admin.clone() {
        let server = status::serve_admin(listen.clone(), Arc::clone(monitored), inherited)?;
        match server.addresses().first() {
            Some(address) => say(format_args!("admin on http://{address}/\n")),
            None => say(format_args!("admin on {listen}\n")),
        }
        servers.push(server);
    }
    Ok(servers)
}

/// Prints to standard output, or to standard error if a log uses standard output. A failed write is
/// ignored, because a closed output must not end the front end.
fn say(text: std::fmt::Arguments<'_>) {
    _ = match log_paths::is_stdout_taken() {
        true => std::io::stderr().write_fmt(text),
        false => std::io::stdout().write_fmt(text),
    };
}

/// Returns the chosen options, one per line.
fn summary(args: &Args) -> String {
    let on = |on| if on { "on" } else { "off" };
    let limit = |limit: Option<NonZeroU32>| limit.map_or("any number of".to_owned(), |limit| limit.to_string());
    let sessions = args.sessions.as_ref().unwrap_or(&SessionMode::MEMORY);
    let tls = args.tls.warning().map(|warning| format!("TLS: {warning}\n")).unwrap_or_default();
    let warnings: String = sessions.warnings().iter().map(|warning| format!("  warning: {warning}\n")).collect();
    let groups = args.resource_groups.as_ref();
    let groups = groups.map(|file| format!("resource groups of {}:\n{}\n", file.path.display(), file.groups));
    let groups = groups.unwrap_or_default().replace('\n', "\n  ");
    format!(
        "{tls}sessions: {sessions}\n{warnings}{}kylin rules: {}\nprobes: {}\noutlier ejection: {}\ndrain on shutdown indications: {}\nsingle flight: {}\npanic mode: {}\nqueues: {}\n{}\
         limits of a client: {} connections, {} requests\n",
        groups.trim_end_matches(' '),
        on(args.kylin),
        args.probe.unwrap_or(ProbeMode::Auto),
        on(args.outlier),
        on(args.drain),
        on(args.kylin && args.single_flight),
        on(args.panic),
        on(args.queue),
        if args.cache.is_some() { "result cache: on\n" } else { "" },
        limit(args.client_connections),
        limit(args.client_requests)
    )
}

/// Returns the endpoints of a cluster, one per line.
fn table<B>(cluster: &Cluster<B>) -> String {
    let status = cluster.status();
    let mut table = format!(
        "\n{:<28} {:>6} {:<8} {:<6} {:<9} {:>9}\n",
        "endpoint", "weight", "group", "roles", "state", "in flight"
    );
    for endpoint in &status.endpoints {
        let group = if endpoint.backup { "backup" } else { "primary" };
        let admin_state = endpoint.admin_state.as_str();
        let (id, weight, in_flight) = (endpoint.id.as_str(), endpoint.weight, endpoint.in_flight);
        let roles = endpoint.roles.to_string();
        _ = writeln!(table, "{id:<28} {weight:>6} {group:<8} {roles:<6} {admin_state:<9} {in_flight:>9}");
    }
    _ = writeln!(table, "policy: {}", status.balancer);
    table
}
