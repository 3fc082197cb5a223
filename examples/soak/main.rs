//! Runs a front end with clients while nodes are killed, paused and slowed, the store fails, and
//! the membership changes.
//!
//! ```sh
//! cargo run --release --example soak -- --minutes 30
//! cargo run --release --example soak -- --seconds 20 --clients 16
//! ```
//!
//! Prints the clients' results. Fails (exit status 1) if a response was wrong or a build was
//! executed twice. Also fails if anything is in flight or open at the end, or if the memory grows.
//! The nodes and the clients are in the same process, so its memory is that of all three.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may stop"
)]

mod client;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::server::{Listen, Server};
use kylin_lb::session::{Affinity, Secret, Sessions};
use kylin_lb::testing::kylin::{Fault, FaultScope, KylinNode, Metastore, Served};
use kylin_lb::testing::{FailingStore, StoreFault};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};
use tokio::time::{sleep, timeout};

use self::client::{Client, Tally, USERS};

const NODES: usize = 3;
/// How long a client may take for its last response, once everything works again.
const LAST_RESPONSE: Duration = Duration::from_secs(60);
/// By how much the memory may grow after the first fifth of the time. The nodes keep a record of
/// each build.
const GROWTH: u64 = 48 << 20;

/// A node at a fixed address.
struct Node {
    node: KylinNode,
    address: SocketAddr,
    served: Option<Served>,
}

impl Node {
    async fn boot(&mut self) {
        self.served = Some(self.node.serve(self.address).await.expect("the port of the node is free"));
    }

    async fn kill(&mut self) {
        if let Some(served) = self.served.take() {
            served.kill().await;
        }
        self.node.forget_sessions();
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (time, clients) = options();
    let users =
        (0..USERS).fold(Metastore::new(), |all, number| all.user(&client::user(number), client::PASSWORD, true));
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let node = KylinNode::new(format!("n{number}")).metastore(&users);
        let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a free port");
        nodes.push(Node { node, address: served.addr(), served: Some(served) });
    }
    let cluster = Cluster::builder().endpoints(nodes.iter().map(endpoint)).build().unwrap();
    let checker = HealthCheck::new(Probe::kylin()).start(&cluster).unwrap();
    let store = FailingStore::default();
    let sessions = Sessions::remote(store.clone(), Secret::random().unwrap());
    let proxy = Proxy::builder(cluster.clone()).affinity(Affinity::learn(sessions.clone())).build().unwrap();
    // All clients have the same address.
    let server = Server::builder()
        .max_connections_per_client(None)
        .listen(Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into()), proxy)
        .start()
        .unwrap();
    let front = server.addresses()[0];
    println!("{clients} clients, {NODES} nodes, front end on {front}, for {time:?}");

    let over = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = (0..clients)
        .map(|number| tokio::spawn(Client::new(number, front, Arc::clone(&over), users.clone()).run()))
        .collect();
    let began = SystemClock.now();
    let mut memory_at_start = 0;
    while SystemClock.now() - began < time {
        if memory_at_start == 0 && SystemClock.now() - began > time / 5 {
            memory_at_start = resident_bytes();
        }
        happens(&mut nodes, &store, &cluster).await;
    }
    over.store(true, Ordering::SeqCst);
    for node in &mut nodes {
        node.node.faults().clear();
    }
    let mut tally = Tally::default();
    for (number, client) in running.into_iter().enumerate() {
        match timeout(LAST_RESPONSE, client).await {
            Ok(ended) => tally += ended.expect("a client does not panic"),
            Err(_) => tally.wrong.push(format!("client {number} still waits for a response")),
        }
    }
    sleep(Duration::from_secs(2)).await;
    let in_flight = cluster.status().in_flight();
    let at_nodes: u64 = nodes.iter().map(|node| node.node.stats().in_flight).sum();
    let memory = resident_bytes();
    server.stop(Duration::from_secs(5)).await;
    drop((checker, cluster));
    sleep(Duration::from_secs(1)).await;
    let connections: u64 = nodes.iter().map(|node| node.node.stats().open_connections).sum();
    let leaked = in_flight + at_nodes + connections + sessions.pending_writes() as u64;

    println!("sent {}", tally.sent);
    println!("right {}", tally.right);
    println!("logins that ended with their node {}", tally.lost);
    println!("honest 5xx {}", tally.honest);
    println!("truncated {}", tally.truncated);
    println!("wrong {}", tally.wrong.len());
    tally.wrong.iter().take(20).for_each(|what| println!("  {what}"));
    println!("leaked {leaked} (in flight {in_flight}, at nodes {at_nodes}, connections {connections})");
    println!("memory {} KiB after a fifth of the time, {} KiB at the end", memory_at_start >> 10, memory >> 10);
    let grew = memory > memory_at_start + GROWTH;
    if tally.wrong.is_empty() && leaked == 0 && !grew { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn endpoint(node: &Node) -> Endpoint<HttpBackend> {
    Endpoint::http(node.node.name(), &node.address.to_string()).unwrap()
}

/// Makes one random event happen, for some time.
async fn happens(nodes: &mut [Node], store: &FailingStore, cluster: &Cluster) {
    let index = fastrand::usize(..nodes.len());
    let lasts = Duration::from_millis(fastrand::u64(100..3_000));
    let node = &mut nodes[index];
    let id = node.node.name().parse().unwrap();
    match fastrand::u8(..6) {
        0 => {
            node.kill().await;
            sleep(lasts).await;
            node.boot().await;
        }
        1 => {
            // The requests that it does not respond to end with it, because a query may take as
            // long as it likes.
            node.node.faults().inject_times(fastrand::u64(1..30), FaultScope::Everything, Fault::Hang);
            sleep(lasts).await;
            node.node.faults().clear();
            node.kill().await;
            node.boot().await;
        }
        2 => {
            node.node.faults().set_query_latency(lasts / 4);
            sleep(lasts).await;
            node.node.faults().set_query_latency(Duration::ZERO);
        }
        3 => {
            let cut = if fastrand::bool() { Fault::ResetAfter(20) } else { Fault::TruncateAfter(20) };
            node.node.faults().inject_times(fastrand::u64(1..10), FaultScope::Queries, cut);
        }
        4 => {
            cluster.remove(&id).unwrap();
            sleep(lasts).await;
            cluster.add(endpoint(node)).unwrap();
        }
        _ => {
            store.set_fault(Some(if fastrand::bool() { StoreFault::Fails } else { StoreFault::Hangs }));
            sleep(lasts).await;
            store.set_fault(None);
        }
    }
    // Everything works for a moment.
    sleep(Duration::from_millis(fastrand::u64(..2_000))).await;
}

fn options() -> (Duration, usize) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        Some(words.get(at + 1)?.parse::<u64>().unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    let seconds = value("--seconds").unwrap_or_else(|| 60 * value("--minutes").unwrap_or(30));
    (Duration::from_secs(seconds), value("--clients").unwrap_or(64) as usize)
}

/// Returns the resident memory of the process; 0 if the system does not report it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
