//! Waiting times in real time. The crate's proxy runs in front of 8 servers of this process with 8
//! slots each, over TCP. The queries are those of `benches/simulation`, twenty times as fast.
//! Beside each figure is that of the simulation for the same queries.
//!
//! ```sh
//! cargo bench --bench waiting                    # some minutes
//! cargo bench --bench waiting -- --quick         # a minute
//! cargo bench --bench waiting -- --flood         # what a user with 1,000 queries costs the others
//! cargo bench --bench waiting -- --quick --speed 4   # four times as fast instead of twenty: closer to the simulation
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used, reason = "a program for a terminal")]
#![allow(unreachable_pub, dead_code, reason = "a program has no outside, and uses a part of the simulation")]

#[path = "../simulation/figures.rs"]
mod figures;
#[path = "../simulation/flood.rs"]
mod flood;
#[path = "../simulation/nodes.rs"]
mod nodes;
#[path = "../simulation/served.rs"]
mod served;
#[path = "../simulation/workload.rs"]
mod workload;

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::Request;
use kylin_lb::balance::{Balancer, BalancerExt, LeastConn, QueryAffinity};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr, HttpBackend};

use self::figures::Figures;
use self::flood::{FLOODS, Flood};
use self::nodes::{Completion, NODES};
use self::served::{Node, Pace, Served};
use self::workload::Query;

/// The factor by which the queries arrive and run faster than in the simulation.
const SPEED: f64 = 20.0;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--speed").skip(1);
    let speed = arguments.next().map_or(SPEED, |speed| speed.parse().expect("--speed takes a number"));
    // The duration of a second of the queries.
    let scale = 1.0 / speed;
    if std::env::args().any(|argument| argument == "--flood") {
        return floods(scale);
    }
    let queries = if std::env::args().any(|argument| argument == "--quick") { 6_000 } else { 30_000 };
    let served = |policy, queues, single_flight| Served::of_one_account(policy, queues, single_flight, false);
    let least_conn: Arc<dyn Balancer> = Arc::new(LeastConn::new());
    let affinity: Arc<dyn Balancer> = Arc::new(QueryAffinity::new().or(LeastConn::new()));
    let fronts = [
        ("least-conn", served(Arc::clone(&least_conn), false, false)),
        ("+ single flight", served(Arc::clone(&least_conn), false, true)),
        ("+ queues", served(Arc::clone(&least_conn), true, false)),
        ("+ both", served(least_conn, true, true)),
        ("QueryAffinity + both", served(affinity, true, true)),
    ];
    for load in [0.85, 1.10] {
        let trace = workload::trace(1, queries, load);
        println!("\n| load {:.0} % | mean s | simulated | p99 of quick s | simulated | refused |", load * 100.0);
        println!("|---|--:|--:|--:|--:|--:|");
        for (name, front) in &fronts {
            let simulated = figures_of(&trace, &served::run(&trace, front, scale));
            let lived = figures_of(&trace, &live(None, &trace, front, scale));
            println!(
                "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} % |",
                lived.mean(),
                simulated.mean(),
                lived.quick_within(0.99),
                simulated.quick_within(0.99),
                lived.refused() * 100.0
            );
        }
    }
}

fn figures_of(trace: &[Query], completions: &[Completion]) -> Figures {
    let mut figures = Figures::default();
    figures.add(trace, completions);
    figures
}

/// Prints how long quick queries of other users take while one user always has 1,000 queries in
/// flight. Each of the others is an office with its own account.
fn floods(scale: f64) {
    let front = Served { accounts: true, ..Served::of_one_account(Arc::new(LeastConn::new()), true, false, false) };
    for load in [0.60, 0.88] {
        let traces = [1, 2, 3, 4].map(|seed| workload::trace(seed, 8_000, load));
        println!(
            "\n| load of others {:.0} %, flood | p99 of quick s | simulated | refused | simulated |",
            load * 100.0
        );
        println!("|---|--:|--:|--:|--:|");
        let mut none = None;
        for (name, flood) in FLOODS {
            let (mut lived, mut simulated) = (Figures::default(), Figures::default());
            for trace in &traces {
                simulated.add(trace, &flood.simulate(trace, &front, 1.0).0);
                lived.add(trace, &live(Some(flood), trace, &front, scale));
            }
            let figures = [lived.quick_within(0.99), simulated.quick_within(0.99)];
            let before = *none.get_or_insert(figures);
            let [lived_more, simulated_more] = [0, 1].map(|of| (figures[of] / before[of] - 1.0) * 100.0);
            println!(
                "| {name} | {:.3} ({lived_more:+.0} %) | {:.3} ({simulated_more:+.0} %) | {:.1} % | {:.1} % |",
                figures[0],
                figures[1],
                lived.refused() * 100.0,
                simulated.refused() * 100.0
            );
        }
    }
}

/// Runs the queries in real time.
fn live(flood: Option<Flood>, trace: &[Query], front: &Served, scale: f64) -> Vec<Completion> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (queries, pace) = (Arc::<[Query]>::from(trace), Pace::new(scale));
        let mut servers = Vec::new();
        for _ in 0..NODES {
            let node = Node::new(&queries, pace, front.shared_cores);
            let handler = move |_: ClientAddr, request: Request<Body>| {
                let node = Arc::clone(&node);
                async move { node.respond(&request).await }
            };
            let listen = "127.0.0.1:0".parse().expect("an address");
            let server = Server::builder().listen(listen, handler).threads(NonZeroUsize::MIN);
            servers.push(server.max_connections_per_client(None).start().expect("a server"));
        }
        let backends = servers.iter().map(|server| {
            let address = *server.addresses().first().expect("an address");
            HttpBackend::new(&address.to_string()).expect("an address")
        });
        let proxy = served::proxy(front, backends.collect::<Vec<_>>());
        match flood {
            Some(flood) => flood.drive(proxy, queries, pace, front).await.0,
            None => served::drive(proxy, queries, pace, front).await,
        }
    })
}
