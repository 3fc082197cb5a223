#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used, unreachable_pub, reason = "a program")]
mod nodes;
mod workload;

use std::sync::Arc;
use kylin_lb::balance::*;
use nodes::{Front, run};

fn fronts() -> Vec<(&'static str, Front)> {
    fn p(b: impl Balancer) -> Front { Front::Policy(Arc::new(b)) }
    vec![
        ("round robin", p(RoundRobin::new())),
        ("ip_hash", p(IpHash::new())),
        ("random two", p(RandomTwo::new())),
        ("least-conn", p(LeastConn::new())),
        ("LeastWork", p(LeastWork::new())),
        ("QA.or(LC)", p(QueryAffinity::new().or(LeastConn::new()))),
        ("central", Front::Central{one_cache:false}),
        ("central, one cache", Front::Central{one_cache:true}),
    ]
}
fn main() {
    let n: usize = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(60_000);
    let only = std::env::var("ONLY").ok();
    for load in [0.7, 0.85, 0.95] {
        let traces: Vec<_> = (1..=4u64).map(|seed| (seed, workload::trace(seed, n, load))).collect();
        let t0 = &traces[0].1;
        let fast = t0.iter().filter(|q| q.fresh < 300_000).count() as f64 / t0.len() as f64;
        let slow = t0.iter().filter(|q| q.fresh > 40_000_000).count() as f64 / t0.len() as f64;
        println!("load {load} span {} s, fast {fast:.3} slow {slow:.4} mean fresh {:.2}", t0.last().unwrap().at / 1_000_000, t0.iter().map(|q| q.fresh as f64).sum::<f64>()/t0.len() as f64/1e6);
        let mut lines = vec![];
        for (i, (name, _)) in fronts().iter().enumerate() {
            if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) { continue; }
            let mut took = vec![]; let mut hits = 0; let mut wait = 0.0; let mut fastt=vec![]; let mut means=vec![];
            for (seed, trace) in &traces {
                fastrand::seed(*seed);
                let front = &fronts()[i].1;
                let r = run(trace, front, *seed);
                let a = &r.answers[n/10..];
                let mut m=0.0;
                for (x,q) in a.iter().zip(&trace[n/10..]) { took.push(x.took); m+=x.took as f64; hits += usize::from(x.hit); wait += x.waited as f64; if q.fresh<300_000 || x.hit {fastt.push(x.took)} }
                means.push(m/a.len() as f64/1e6);
            }
            took.sort(); fastt.sort();
            let k = took.len();
            lines.push(format!("{name:20} mean {:7.3} p50 {:7.3} p99 {:7.3} p99fast {:7.3} wait {:7.3} hit {:.3} {means:.2?}", took.iter().sum::<u64>() as f64/k as f64/1e6, took[k/2] as f64/1e6, took[k*99/100] as f64/1e6, fastt[fastt.len()*99/100] as f64/1e6, wait/k as f64/1e6, hits as f64/k as f64));
        }
        for l in lines { println!("{l}"); }
    }
}
