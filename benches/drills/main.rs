//! Restarts and outages under client load: this crate's front end in each of its modes, HAProxy and
//! nginx.
//!
//! ```sh
//! cargo build --release --all-features --example kylin_front
//! cargo bench --all-features --bench drills                      # about a quarter of an hour
//! cargo bench --all-features --bench drills -- --runs 1 --drills rolling-0,kill --modes "default;HAProxy, cookie"
//! ```
//!
//! `benches/README.md` explains what is measured and how to read it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may stop"
)]

mod report;
mod scenario;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "it serves the tests too")]
mod support;

use self::report::Report;
use self::scenario::{DRILLS, front_ends};

struct Options {
    runs: usize,
    drills: Option<Vec<String>>,
    modes: Option<Vec<String>>,
}

fn main() {
    let options = options();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted =
        |list: &Option<Vec<String>>, name: &str| list.as_ref().is_none_or(|list| list.iter().any(|n| n == name));
    let mut report = Report::default();
    for run in 1..=options.runs {
        for drill in DRILLS.iter().filter(|drill| wanted(&options.drills, drill.name)) {
            eprintln!("run {run} of {}: {}", options.runs, drill.name);
            let modes = front_ends(drill).into_iter().filter(|mode| wanted(&options.modes, mode.name));
            let mut runs: Vec<_> = Vec::new();
            for mode in modes {
                runs.push((mode, runtime.spawn(scenario::run(drill.name, mode))));
                // All front ends run at the same time, so that the machine is the same for all,
                // except for the runs with a dozen Tomcats.
                if drill.name != "tomcat" {
                    continue;
                }
                runs.drain(..)
                    .for_each(|(mode, run)| report.add(drill.name, mode.name, runtime.block_on(run).unwrap()));
            }
            runs.into_iter().for_each(|(mode, run)| report.add(drill.name, mode.name, runtime.block_on(run).unwrap()));
        }
    }
    print!("{report}");
}

fn options() -> Options {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        Some(words.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")).clone())
    };
    // The names of modes contain commas.
    let list = |name: &str, between: char| {
        value(name).map(|list| list.split(between).map(|name| name.trim().to_owned()).collect())
    };
    Options {
        runs: value("--runs").map_or(5, |runs| runs.parse().unwrap()),
        drills: list("--drills", ','),
        modes: list("--modes", ';'),
    }
}
