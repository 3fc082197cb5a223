//! A complete front end: an nginx configuration, or demo nodes in this process, behind the crate's own server.
//!
//! ```sh
//! cargo run --release --example kylin_front                          # three demo Kylin nodes and the front end
//! cargo run --release --example kylin_front -- --config kylin.conf   # an nginx configuration, as is
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]
#![allow(unreachable_pub, reason = "a program has no outside")]

mod args;
mod demo;

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::{Listen, Server};
use tokio::signal::unix::{SignalKind, signal};

use self::args::Args;
use self::demo::Demo;

/// How long requests in flight may take to finish after a signal.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
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
    // The front end has threads of its own; this runtime serves the signals and the demo nodes.
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
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

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    match &args.config {
        Some(path) => configured(path, &args).await,
        None => demonstrated(&args).await,
    }
}

/// An nginx configuration.
async fn configured(path: &Path, args: &Args) -> Result<(), Box<dyn Error>> {
    let config = Config::read(path)?;
    if args.check {
        print!("{}", config.report());
    }
    let site = Site::new(config)?;
    if args.check {
        println!("{}: the configuration is valid", path.display());
        return Ok(());
    }
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
    for (name, cluster) in site.clusters() {
        print!("\nupstream {name}{}", table(cluster));
    }
    until_signal(server).await
}

/// Demo nodes in this process.
async fn demonstrated(args: &Args) -> Result<(), Box<dyn Error>> {
    let demo = Demo::start(args.demo).await?;
    let proxy = demo.proxy()?;
    if args.check {
        print!("{} demo nodes{}", args.demo, table(proxy.cluster()));
        return Ok(());
    }
    let listen = match &args.listen {
        Some(listen) => listen.clone(),
        None => "127.0.0.1:8080".parse()?,
    };
    let server = Server::builder().listen(listen.clone(), proxy.clone()).threads(args.threads).start()?;
    greet(&server, &[listen]);
    print!("{}", table(proxy.cluster()));
    if let Some(address) = server.addresses().first() {
        print!("{}", demo::commands(*address));
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

/// The endpoints of a cluster, one a line.
fn table<B>(cluster: &Cluster<B>) -> String {
    let status = cluster.status();
    let mut table = format!("\n{:<28} {:>6} {:<8} {:<9} {:>9}\n", "endpoint", "weight", "group", "intent", "in flight");
    for endpoint in &status.endpoints {
        let group = if endpoint.backup { "backup" } else { "primary" };
        let intent = format!("{:?}", endpoint.intent).to_lowercase();
        let (id, weight, in_flight) = (endpoint.id.as_str(), endpoint.weight, endpoint.in_flight);
        _ = writeln!(table, "{id:<28} {weight:>6} {group:<8} {intent:<9} {in_flight:>9}");
    }
    _ = writeln!(table, "policy: {}", status.balancer);
    table
}

/// Serves until SIGTERM or SIGINT, then finishes what is in flight; a second signal cuts it short.
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
