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
use std::process::ExitCode;
use std::time::Duration;

use kylin_lb::server::Server;
use tokio::signal::unix::{SignalKind, signal};

use self::args::Args;

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
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let demo = demo::Demo::start(args.demo).await?;
    let proxy = demo.proxy()?;
    if args.check {
        print!("{}", demo::table(proxy.cluster()));
        return Ok(());
    }
    let listen = args.listen.unwrap_or_else(|| "127.0.0.1:8080".parse().expect("an address"));
    let server = Server::builder().listen(listen, proxy.clone()).threads(args.threads).start()?;
    for address in server.addresses() {
        println!("listening on http://{address}");
    }
    print!("{}", demo::table(proxy.cluster()));
    if let Some(address) = server.addresses().first() {
        print!("{}", demo::commands(*address));
    }
    until_signal(server).await
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
