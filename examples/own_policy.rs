//! A policy in ten lines, combined with one of the crate's.
//!
//! ```sh
//! cargo run --example own_policy
//! ```

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

use std::net::{IpAddr, Ipv4Addr};

use kylin_lb::balance::{Attempted, Balancer, BalancerExt, Candidate, Candidates, LeastConn};
use kylin_lb::testing::KylinNode;
use kylin_lb::{Cluster, Endpoint, RequestView};

/// Sends reports, which one batch machine requests, to the last endpoint, and abstains for other
/// requests.
#[derive(Debug)]
struct ReportsLast;

impl Balancer for ReportsLast {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let is_report = request.headers().get("user-agent").is_some_and(|agent| agent == "nightly-report");
        is_report.then(|| from.at(from.len() - 1))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::builder()
        .endpoints(
            (1..=3)
                .map(|n| Endpoint::new(format!("q{n}"), KylinNode::new(format!("q{n}"))))
                .collect::<Result<Vec<_>, _>>()?,
        )
        .balancer(ReportsLast.or(LeastConn::new()))
        .build()?;
    let client = IpAddr::from(Ipv4Addr::LOCALHOST);
    for agent in ["nightly-report", "dashboard", "dashboard", "nightly-report"] {
        let request = http::Request::get("/kylin/api/query").header("user-agent", agent).body(())?;
        let picked = cluster.pick(&RequestView::of(&request, client), &Attempted::none())?;
        println!("{agent:>14} -> {}", picked.lease.endpoint());
    }
    Ok(())
}
