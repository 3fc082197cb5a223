//! What allocates, counted. A test binary of its own, because counting replaces the allocator of the process.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::IpAddr;

use allocation_counter::measure;
use http::{HeaderName, Request, Response};
use kylin_lb::balance::{Balancer, BalancerExt, Hash, IpHash, LeastConn, RandomTwo, RequestKey, RoundRobin, Tried};
use kylin_lb::{Backend, Body, Cluster, Endpoint, RequestView, SendError};

struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        panic!("nothing is sent in this test")
    }
}

fn allocations_of_1000_picks(policy: impl Balancer) -> u64 {
    let endpoints = (0..16).map(|n| Endpoint::new(format!("n{n}"), Nowhere).unwrap().weight(1 + n % 3));
    let cluster = Cluster::builder().endpoints(endpoints).balancer(policy).build().unwrap();
    let request = Request::get("/kylin/api/query?x=1").header("x-key", "k").body(()).unwrap();
    let client: IpAddr = "2001:db8::7".parse().unwrap();
    let pick_1000 = || {
        for _ in 0..250 {
            // Three tries of the same request, then one that has been tried on three before.
            let mut tried = Tried::none();
            for _ in 0..4 {
                let picked = cluster.pick(&RequestView::of(&request, client), &tried).unwrap();
                tried.add(&picked.lease);
                black_box(&picked);
            }
        }
    };
    // A thread's first read of a view registers the thread, once.
    pick_1000();
    measure(pick_1000).count_total
}

#[test]
fn a_pick_allocates_nothing_whatever_the_policy() {
    let by_key = || RequestKey::Header(HeaderName::from_static("x-key"));
    assert_eq!(allocations_of_1000_picks(RoundRobin::new()), 0);
    assert_eq!(allocations_of_1000_picks(IpHash::new()), 0);
    assert_eq!(allocations_of_1000_picks(IpHash::whole_address()), 0);
    assert_eq!(allocations_of_1000_picks(LeastConn::new()), 0);
    assert_eq!(allocations_of_1000_picks(RandomTwo::new()), 0);
    assert_eq!(allocations_of_1000_picks(Hash::new(by_key())), 0);
    assert_eq!(allocations_of_1000_picks(Hash::new(RequestKey::ClientIp)), 0);
    assert_eq!(allocations_of_1000_picks(Hash::consistent(by_key())), 0);
    assert_eq!(allocations_of_1000_picks(Hash::consistent(by_key()).or(IpHash::new())), 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1);
}
