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
mod members;
mod nodes;
mod sessions;
mod status;

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::{Listen, Server};
use kylin_lb::{Cluster, Proxy};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::args::{Args, Source};
use self::members::Members;
use self::sessions::{Keep, Kept};
use self::status::Monitored;

/// How long requests in flight may take to finish after a signal.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    log_to_stderr();
    // The server has threads of its own. This runtime serves signals, probes, stores and the demo nodes.
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let _entered = runtime.enter();
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kylin_front: {error}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
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

/// Logs to standard error at the levels that `RUST_LOG` sets, such as `info` or `kylin_lb=debug`; errors without it.
fn log_to_stderr() {
    let levels = std::env::var("RUST_LOG").ok().and_then(|levels| levels.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(output.with_filter(levels)).init();
}

async fn run(mut args: Args) -> Result<(), Box<dyn Error>> {
    let (secret, is_random) = sessions::secret(args.secret_file.as_deref())?;
    if is_random && args.sessions.needs_secret() {
        eprintln!(
            "kylin_front: without --secret-file the secret is random: several front ends need a common one, and restarts need the same"
        );
    }
    if let Source::Config(path) = &args.source {
        return configured(path, &args, secret).await;
    }
    let source = std::mem::replace(&mut args.source, Source::Nodes(Vec::new()));
    let Members { cluster, discovery, demo, metastore: _metastore } = Members::find(source, &args).await?;
    let Kept { affinity, sessions } = args.sessions.affinity(&secret, args.store_deadline)?;
    let proxy = match args.kylin {
        true => Proxy::builder(cluster.clone()).affinity(affinity).build()?,
        false => Proxy::plain(cluster.clone()).affinity(affinity).build()?,
    };
    if args.check {
        print!("{}{}", summary(&args), table(&cluster));
        return Ok(());
    }
    let _checker = args.probe.start(&cluster)?;
    let listen = match &args.listen {
        Some(listen) => listen.clone(),
        None => "127.0.0.1:8080".parse()?,
    };
    let server = Server::builder().listen(listen.clone(), proxy).threads(args.threads).start()?;
    greet(&server, &[listen]);
    let monitored = Monitored { clusters: vec![("kylin".into(), cluster.clone())], sessions, discovery };
    let _status = status(&args, monitored)?;
    print!("{}{}", summary(&args), table(&cluster));
    if let (Some(_), Some(address)) = (&demo, server.addresses().first()) {
        print!("{}", demo::commands(*address));
    }
    until_signal(server).await
}

/// Serves an nginx configuration.
async fn configured(path: &Path, args: &Args, secret: kylin_lb::session::Secret) -> Result<(), Box<dyn Error>> {
    let config = Config::read(path)?;
    if args.check {
        print!("{}", config.report());
    }
    let mut site = Site::builder(config);
    let mut store = None;
    if let Keep::Learn(given) = &args.sessions {
        let sessions = store.insert(given.sessions(secret.clone(), args.store_deadline)?);
        site = site.sessions(sessions.clone());
    }
    let site = site.secret(secret).build()?;
    if args.check {
        println!("{}: the configuration is valid", path.display());
        return Ok(());
    }
    let _checkers: Vec<_> = site.clusters().map(|(_, cluster)| args.probe.start(cluster)).collect::<Result<_, _>>()?;
    let configured: Vec<Listen> = site.listeners().map(|listener| listener.listen()).collect();
    let server = match &args.listen {
        Some(listen) => site.server_on(listen.clone()),
        None => site.server(),
    };
    let server = server.threads(args.threads).start()?;
    greet(&server, args.listen.as_ref().map_or(&configured, std::slice::from_ref));
    if args.listen.is_some() {
        for listen in configured {
            println!("not listening on {listen}, which --listen replaces");
        }
    }
    let clusters = site.clusters().map(|(name, cluster)| (name.to_owned(), cluster.clone())).collect();
    let _status = status(args, Monitored { clusters, sessions: store, discovery: None })?;
    for (name, cluster) in site.clusters() {
        print!("\nupstream {name}{}", table(cluster));
    }
    until_signal(server).await
}

fn greet(server: &Server, listens: &[Listen]) {
    for address in server.addresses() {
        println!("listening on http://{address}");
    }
    for unix in listens.iter().filter(|listen| matches!(listen, Listen::Unix(_))) {
        println!("listening on {unix}");
    }
}

/// Starts the listener for operators, where one is wanted. Discovery runs as long as the returned state lives.
fn status(args: &Args, monitored: Monitored) -> Result<(Option<Server>, Arc<Monitored>), Box<dyn Error>> {
    let monitored = Arc::new(monitored);
    let server = args.status.clone().map(|listen| status::serve(listen, Arc::clone(&monitored))).transpose()?;
    for address in server.iter().flat_map(Server::addresses) {
        println!("status on http://{address}/front/status");
    }
    Ok((server, monitored))
}

/// Returns the chosen options, one a line.
fn summary(args: &Args) -> String {
    let on = |on| if on { "on" } else { "off" };
    format!(
        "sessions: {}\nkylin rules: {}\nprobes: {}\noutlier ejection: {}\npanic mode: {}\n",
        args.sessions,
        on(args.kylin),
        args.probe.name(),
        on(args.outlier),
        on(args.panic)
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

/// Serves until SIGTERM or SIGINT, then waits for requests in flight. A second signal ends the wait.
async fn until_signal(server: Server) -> Result<(), Box<dyn Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    println!("stopping: requests in flight have {} s", GRACE.as_secs());
    tokio::select! {
        stopped = server.stop(GRACE) => println!("stopped; {} connections were cut", stopped.cut),
        _ = terminate.recv() => println!("stopped at once"),
        _ = interrupt.recv() => println!("stopped at once"),
    }
    Ok(())
}
