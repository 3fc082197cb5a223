//! The effect of policies and queues on waiting times, in virtual time. The crate's own policies
//! run through `Cluster::pick`, and so does its whole proxy, in front of 8 simulated nodes with 8
//! slots each. The nodes serve the queries of dashboards.
//!
//! ```sh
//! cargo bench --bench simulation                 # the whole, some minutes
//! cargo bench --bench simulation -- --quick      # seconds
//! cargo bench --bench simulation -- --write      # the whole, into benches/simulation/README.md and results.svg
//! cargo bench --bench simulation -- --check      # a short run twice: both must come out alike
//! cargo bench --bench simulation -- --proxy      # only the tables of the whole proxy; with --write, proxy.svg and users.svg too
//! cargo bench --bench simulation -- --flood      # only the tables of a user with 1,000 queries beside others
//! ```
//!
//! `benches/simulation/README.md` explains the model and how to read the figures.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used, reason = "a program for a terminal")]
#![allow(unreachable_pub, reason = "a program has no outside")]

mod figures;
mod flood;
mod nodes;
mod plot;
mod served;
mod table;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use kylin_lb::balance::{Balancer, BalancerExt, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};

use self::figures::Figures;
use self::flood::{FLOODS, Flood};
use self::nodes::Front;
use self::served::Served;

/// The load at which round robin would keep this share of all slots busy.
const LOADS: [f64; 3] = [0.70, 0.85, 0.95];
/// This load, for the rows of the whole proxy.
const PROXY_LOADS: [f64; 4] = [0.70, 0.85, 0.95, 1.10];
/// The load of the other users alongside a flood.
const FLOOD_LOADS: [f64; 4] = [0.70, 0.85, 0.88, 0.95];
/// The numbers of users in the tables about affinity.
const USERS: [usize; 3] = [5, 40, 500];

/// A name, its kind, and the function that makes it.
type Subject = (&'static str, Kind, fn() -> Front);

/// The model sends each of several identical queries to a node.
fn query_affinity() -> QueryAffinity {
    QueryAffinity::new().load_factor(1.25).expect("a valid load factor")
}

/// The fronts that are compared. Each is created anew for every run, so that none has learned from
/// another.
const FRONTS: [Subject; 7] = [
    ("round robin", Kind::Common, || policy(RoundRobin::new())),
    ("ip_hash", Kind::Common, || policy(IpHash::new())),
    ("random two", Kind::Common, || policy(RandomTwo::new())),
    ("least-conn", Kind::Common, || policy(LeastConn::new())),
    ("QueryAffinity.or(LeastConn)", Kind::KnowsQueries, || policy(query_affinity().or(LeastConn::new()))),
    ("ideal: one queue", Kind::Ideal, || Front::Central { one_cache: false }),
    ("ideal: one queue, one cache", Kind::Ideal, || Front::Central { one_cache: true }),
];

/// The whole proxy, with and without queues and single flight.
const PROXIES: [Subject; 8] = [
    ("proxy, least-conn", Kind::Common, || least_conn(false, false, false)),
    ("+ single flight", Kind::Common, || least_conn(false, true, false)),
    ("+ queues", Kind::Common, || least_conn(true, false, false)),
    ("+ both", Kind::Common, || least_conn(true, true, false)),
    ("proxy, QueryAffinity", Kind::KnowsQueries, || affinity(false, false)),
    ("+ single flight", Kind::KnowsQueries, || affinity(false, true)),
    ("+ queues, stays home", Kind::KnowsQueries, || affinity(true, false)),
    ("+ both", Kind::KnowsQueries, || affinity(true, true)),
];

/// The whole proxy, with users who each have an account and a session.
const AFFINITIES: [Subject; 6] = [
    ("ip_hash", Kind::Common, || of_users(IpHash::new(), false, false)),
    ("learned sessions", Kind::Common, || of_users(LeastConn::new(), true, false)),
    ("free, least-conn", Kind::Common, || of_users(LeastConn::new(), false, false)),
    ("ip_hash + both", Kind::Ideal, || of_users(IpHash::new(), false, true)),
    ("learned sessions + both", Kind::Ideal, || of_users(LeastConn::new(), true, true)),
    ("free, least-conn + both", Kind::Ideal, || of_users(LeastConn::new(), false, true)),
];

/// The whole proxy at nodes whose queries share cores.
const SHARED: [Subject; 3] = [
    ("proxy, least-conn", Kind::Common, || least_conn(false, false, true)),
    ("+ queues", Kind::Common, || least_conn(true, false, true)),
    ("+ both", Kind::Common, || least_conn(true, true, true)),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Common,
    KnowsQueries,
    /// Not a policy. No front end can do this, because it does not know when a node becomes idle.
    Ideal,
}

/// The size of the runs.
#[derive(Clone, Copy)]
struct Size {
    seeds: u64,
    queries: usize,
}

const WHOLE: Size = Size { seeds: 8, queries: 150_000 };
const QUICK: Size = Size { seeds: 2, queries: 40_000 };
const PROXY: Size = Size { seeds: 2, queries: 20_000 };
const OF_USERS: Size = Size { seeds: 2, queries: 10_000 };
const BESIDE_FLOODS: Size = Size { seeds: 8, queries: 20_000 };

const USAGE: &str = "[--quick] [--write] [--check] [--proxy]

  --quick  a smaller run
  --write  puts the results into benches/simulation/README.md and its pictures
  --check  makes a short run twice and fails unless both come out alike
  --proxy  the tables of the whole proxy only
  --flood  the tables of a user with 1,000 queries only";

fn main() -> ExitCode {
    let (mut size, mut write, mut check, mut proxy_only, mut flood_only) = (WHOLE, false, false, false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => {} // passed by `cargo bench`
            "--quick" => size = QUICK,
            "--write" => write = true,
            "--check" => check = true,
            "--proxy" => proxy_only = true,
            "--flood" => flood_only = true,
            "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{argument}: not understood\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if check {
        return repeats();
    }
    if flood_only {
        println!("{}", floods(BESIDE_FLOODS));
        return ExitCode::SUCCESS;
    }
    let proxies = PROXY_LOADS.map(|load| (load, measure(&PROXIES, load, PROXY, None)));
    let shared = PROXY_LOADS.map(|load| (load, measure(&SHARED, load, PROXY, None)));
    let of_users =
        USERS.map(|users| (users, PROXY_LOADS.map(|load| (load, measure(&AFFINITIES, load, OF_USERS, Some(users))))));
    let mut tables = table::markdown(&proxies, ", whole proxy");
    tables += &table::markdown(&shared, ", whole proxy, shared cores");
    for (users, results) in &of_users {
        tables += &table::markdown(results, &format!(", {users} users"));
    }
    println!("{tables}");
    if write {
        put("--proxy --write", &tables, "proxy.svg", &by_load(&proxies));
        // At the load of 85 %.
        let results = of_users.each_ref().map(|(users, results)| (format!("{users} users"), &results[1].1));
        put("--proxy --write", &tables, "users.svg", &results);
    }
    if proxy_only {
        return ExitCode::SUCCESS;
    }
    let results = LOADS.map(|load| (load, measure(&FRONTS, load, size, None)));
    let tables = table::markdown(&results, "");
    println!("{tables}");
    if write {
        put("--write", &tables, "results.svg", &by_load(&results));
    }
    ExitCode::SUCCESS
}

fn by_load(results: &[(f64, Results)]) -> Vec<(String, &Results)> {
    results.iter().map(|(load, results)| (format!("load {:.0} %", load * 100.0), results)).collect()
}

/// Puts tables into the README, and draws results as a picture.
fn put(options: &str, tables: &str, picture: &str, results: &[(String, &Results)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/simulation");
    table::put_into(&folder.join("README.md"), options, tables).expect("README.md can be written");
    std::fs::write(folder.join(picture), plot::svg(results)).expect("the picture can be written");
}

fn least_conn(queues: bool, single_flight: bool, shared_cores: bool) -> Front {
    Front::Proxy(Served::of_one_account(Arc::new(LeastConn::new()), queues, single_flight, shared_cores))
}

fn affinity(queues: bool, single_flight: bool) -> Front {
    let policy = Arc::new(QueryAffinity::new().or(LeastConn::new()));
    Front::Proxy(Served::of_one_account(policy, queues, single_flight, false))
}

fn of_users(policy: impl Balancer, sessions: bool, both: bool) -> Front {
    Front::Proxy(Served { accounts: true, sessions, ..Served::of_one_account(Arc::new(policy), both, both, false) })
}

fn policy(policy: impl Balancer) -> Front {
    Front::Policy(Arc::new(policy))
}

/// The figures of all fronts, in their order.
pub(crate) type Results = Vec<(&'static str, Kind, Figures)>;

/// `users` is the number of clients, if it differs from the model's.
fn measure(fronts: &[Subject], load: f64, size: Size, users: Option<usize>) -> Results {
    let trace = |seed| match users {
        Some(users) => workload::trace_of(users, seed, size.queries, load),
        None => workload::trace(seed, size.queries, load),
    };
    let traces: Vec<_> = (1..=size.seeds).map(|seed| (seed, trace(seed))).collect();
    fronts
        .iter()
        .map(|(name, kind, front)| {
            let mut figures = Figures::default();
            for (seed, queries) in &traces {
                // Everything that a policy draws at random comes from this thread's generator.
                fastrand::seed(*seed);
                figures.add(queries, &nodes::run(queries, &front()));
            }
            (*name, *kind, figures)
        })
        .collect()
}

/// Returns the tables about a user with 1,000 queries alongside others. Either each user has an
/// account, and so a share of the slots, or all queries come from one account.
fn floods(size: Size) -> String {
    let shares = Served { accounts: true, ..Served::of_one_account(Arc::new(LeastConn::new()), true, false, false) };
    let no_shares = Served { accounts: false, ..shares.clone() };
    let mut text = String::new();
    for load in FLOOD_LOADS {
        let traces: Vec<_> = (1..=size.seeds).map(|seed| workload::trace(seed, size.queries, load)).collect();
        let row = |name: String, flood: Flood, front: &Served| {
            let (mut figures, mut served) = (Figures::default(), 0);
            for (seed, queries) in (1..).zip(&traces) {
                fastrand::seed(seed);
                let (completions, of_flood) = flood.simulate(queries, front, 1.0);
                figures.add(queries, &completions);
                served += of_flood;
            }
            (name, figures, served)
        };
        let (name, flood) = FLOODS[2];
        let last = std::iter::once_with(|| row(format!("{name}, no shares"), flood, &no_shares));
        let rows = FLOODS.iter().map(|(name, flood)| row((*name).to_owned(), *flood, &shares)).chain(last);
        text += &table::floods(load, rows);
    }
    text
}

/// Runs a short comparison twice. Equal seeds must yield equal figures, because otherwise figures
/// of different days could not be compared.
fn repeats() -> ExitCode {
    let size = Size { seeds: 1, queries: 15_000 };
    let checksums =
        || measure(&FRONTS, 0.85, size, None).iter().map(|(name, _, figures)| (*name, figures.checksum())).collect();
    let (first, second): (Vec<_>, Vec<_>) = (checksums(), checksums());
    for ((name, first), (_, second)) in first.iter().zip(&second) {
        println!("{first:016x} {} {name}", if first == second { "twice" } else { "and something else" });
    }
    if first == second { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
