//! The cost of a front end: nginx, HAProxy, a plain TCP relay and kylin-lb in front of the same
//! node, in one run.
//!
//! ```sh
//! cargo bench --bench proxy                      # about ten minutes
//! cargo bench --bench proxy -- --quick           # about one
//! cargo bench --bench proxy -- --json FILE --only nginx,kylin-lb --cases post
//! ```
//!
//! `benches/README.md` explains what is measured and how to read it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may stop"
)]
#![allow(unreachable_pub, reason = "a program has no outside")]

mod child;
mod forward;
mod load;
mod peers;
mod report;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use self::load::Case;
use self::peers::{Node, Peer};
use self::report::{Report, Row};

/// The number of connections in the idle case.
const IDLE_CONNECTIONS: usize = 4_000;

struct Options {
    rounds: usize,
    /// The number of threads of each front end.
    threads: usize,
    /// The number of connections of the load generator.
    connections: usize,
    seconds: Duration,
    json: Option<PathBuf>,
    only: Option<Vec<String>>,
    cases: Option<Vec<String>>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.first().is_some_and(|word| word == "--serve") {
        return serve::serve(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--forward") {
        return forward::run(&words[1..]);
    }
    let options = options(&words);
    let node = Node::start();
    let peers = peers::start(&node, options.threads, |name| {
        options.only.as_ref().is_none_or(|only| only.iter().any(|o| o == name))
    });
    let mut report = Report::default();
    for round in 0..options.rounds {
        for case in Case::ALL {
            if options.cases.as_ref().is_some_and(|cases| !cases.iter().any(|c| c == case.name())) {
                continue;
            }
            for peer in peers.iter().filter(|peer| peer.takes(case)) {
                report.add(measure(peer, case, &options));
                eprint!("\rround {} of {}: {:<8} {:<22}", round + 1, options.rounds, case.name(), peer.name);
            }
        }
    }
    eprintln!();
    print!("{report}");
    if let Some(file) = options.json {
        std::fs::write(file, report.json()).unwrap();
    }
}

fn measure(peer: &Peer, case: Case, options: &Options) -> Row {
    let before = peer.usage();
    let done = match case {
        Case::Idle => {
            let held = load::idle(peer.address, IDLE_CONNECTIONS);
            // kylin-lb parks a connection only after a while.
            std::thread::sleep(Duration::from_secs(1));
            let after = peer.usage();
            let bytes = after.resident.saturating_sub(before.resident) as f64;
            let row = Row::new(peer, case).figure("KiB/idle", bytes / 1024.0 / held.len() as f64);
            drop(held);
            peer.settle();
            return row;
        }
        Case::Gigabyte => load::download(peer.address, "/1g"),
        _ => load::wrk(&peer.origin(), &peer.clients, peer.repeats(), case, options.connections, options.seconds),
    };
    let cpu = peer.usage().cpu.saturating_sub(before.cpu);
    let mut row = Row::new(peer, case);
    match case {
        Case::Post | Case::Get | Case::Page => {
            row = row
                .figure("req/s", done.requests as f64 / done.time.as_secs_f64())
                .figure("p50 us", done.p50)
                .figure("p99 us", done.p99)
                .figure("CPU us/req", cpu.as_secs_f64() * 1e6 / done.requests as f64);
        }
        _ => {
            let gib = done.bytes as f64 / f64::from(1 << 30);
            row =
                row.figure("GiB/s", gib / done.time.as_secs_f64()).figure("CPU ms/GiB", cpu.as_secs_f64() * 1e3 / gib);
        }
    }
    assert_eq!(done.errors, 0, "{} had errors in {}", peer.name, case.name());
    row
}

fn options(words: &[String]) -> Options {
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        Some(words.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")).clone())
    };
    let list = |name: &str| value(name).map(|list| list.split(',').map(str::to_owned).collect());
    let quick = words.iter().any(|word| word == "--quick");
    let number = |name: &str, default| value(name).map_or(default, |number| number.parse().unwrap());
    Options {
        threads: number("--threads", 1),
        connections: number("--connections", 32),
        rounds: value("--rounds").map_or(if quick { 1 } else { 5 }, |rounds| rounds.parse().unwrap()),
        seconds: Duration::from_millis(
            value("--millis").map_or(if quick { 700 } else { 3_000 }, |ms| ms.parse().unwrap()),
        ),
        json: value("--json").map(Into::into),
        only: list("--only"),
        cases: list("--cases"),
    }
}
