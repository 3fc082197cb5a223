//! The cost of a pick: every policy x 3 to 10,000 endpoints x 1, 2 and 4 threads.
//!
//! A pick is `Cluster::pick` and the end of its lease.
//!
//! - The rows `... alone` are the policy without the cluster around it. The difference is the cost
//!   of the view, the count in flight and the lease.
//! - `chooses the first` is a policy that does nothing.
//! - Nothing is in flight when a pick starts, so the first endpoint that is read is picked.
//! - In `all busy` no endpoint is idle, so endpoints must be compared, which is the worst case of
//!   `least_conn` and `random two`.
//! - `64 in flight` holds leases and ends them in random order, as traffic does.
//! - `one has failed` is a cluster with a counted failure that ejects none, so the health of each
//!   endpoint is read.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, reason = "a program, not the library")]

mod measure;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use kylin_lb::balance::{
    Attempted, Balancer, BalancerExt, Candidate, Candidates, HashKeyed, IpHash, LeastConn, QueryAffinity, RandomOne,
    RandomTwo, RequestKey, RoundRobin, Table,
};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Outcome, QueryKeys, RequestView, SendError};
use measure::{MIN_PICKS, Options, SIZES, Subject, Worker};

fn main() {
    let options = Options::from_args();
    let views = views();
    let mut subjects = Vec::new();
    for endpoints in SIZES {
        let mut plan = Plan { options: &options, endpoints, views, subjects: &mut subjects };
        plan.add("chooses the first", || First);
        plan.add_both("round_robin", "round_robin alone", RoundRobin::new);
        plan.add_both("ip_hash", "ip_hash alone", IpHash::new);
        plan.add_both("ip_hash whole_address", "ip_hash whole_address alone", IpHash::whole_address);
        plan.add_both("least_conn", "least_conn alone", LeastConn::new);
        plan.add_loaded("least_conn, 64 in flight", LeastConn::new);
        plan.add_busy("least_conn alone, all busy", LeastConn::new);
        plan.add_with_failed("least_conn alone, one has failed", LeastConn::new);
        plan.add_with_failed("round_robin alone, one has failed", RoundRobin::new);
        plan.add_both("query affinity", "query affinity alone", QueryAffinity::new);
        plan.add_both("hash", "hash alone", || HashKeyed::modulo(RequestKey::PathAndQuery));
        plan.add_both("hash consistent", "hash consistent alone", || HashKeyed::consistent(RequestKey::PathAndQuery));
        plan.add_both("random", "random alone", RandomOne::new);
        plan.add_both("random two", "random two alone", RandomTwo::new);
        plan.add_loaded("random two, 64 in flight", RandomTwo::new);
        plan.add_busy("random two alone, all busy", RandomTwo::new);
        plan.add_both("abstains or round_robin", "abstains or round_robin alone", || Abstains.or(RoundRobin::new()));
    }
    measure::run("kylin-lb", &options, &subjects);
}

/// The number of distinct requests: enough to reach every endpoint of a usual cluster, but few
/// enough for a core's own cache.
const REQUESTS: usize = 2048;

type Views = &'static [RequestView<'static>; REQUESTS];

fn views() -> Views {
    let view = |n: usize| {
        let request = Request::get(format!("/kylin/api/query?id={n}")).body(()).expect("a valid request");
        // Addresses spread over the whole space, so that neither /24s nor buckets repeat in step
        // with the endpoints.
        let client = Ipv4Addr::from((n as u32).wrapping_mul(0x9e37_79b9));
        RequestView::of(Box::leak(Box::new(request)), IpAddr::from(client))
            .with_query(QueryKeys::new(n as u64, n as u64 % 64))
    };
    Box::leak(Box::new(std::array::from_fn(view)))
}

/// The subjects for one number of endpoints.
struct Plan<'p> {
    options: &'p Options,
    endpoints: usize,
    views: Views,
    subjects: &'p mut Vec<Subject>,
}

impl Plan<'_> {
    fn add<P: Balancer>(&mut self, name: &'static str, policy: impl Fn() -> P) {
        let views = self.views;
        self.push(name, 4, policy, move |cluster, thread| picks(cluster, views, thread));
    }

    /// In a cluster, and alone.
    fn add_both<P: Balancer>(&mut self, name: &'static str, alone: &'static str, policy: impl Fn() -> P) {
        let views = self.views;
        self.add(name, &policy);
        self.push(alone, 1, repeat(policy, views), move |cluster, thread| {
            let mut work = picks(cluster, views, thread);
            Box::new(move |count| work(count / MIN_PICKS))
        });
    }

    /// Alone, while every endpoint has twice its weight in flight.
    fn add_busy<P: Balancer>(&mut self, name: &'static str, policy: impl Fn() -> P) {
        let views = self.views;
        self.push(name, 1, repeat(policy, views), move |cluster, thread| {
            let attempted = Attempted::none();
            let endpoints = cluster.status().endpoints;
            let each_twice = endpoints.iter().flat_map(|one| std::iter::repeat_n(&one.id, 2 * one.weight as usize));
            let held: Vec<_> = each_twice.map(|id| cluster.pick_bound(&views[0], &attempted, id.as_str())).collect();
            let mut work = picks(cluster, views, thread);
            Box::new(move |count| {
                work(count / MIN_PICKS);
                black_box(&held);
            })
        });
    }

    /// Adds the policy alone in a cluster with a counted failure, so the health of each endpoint is
    /// read.
    fn add_with_failed<P: Balancer>(&mut self, name: &'static str, policy: impl Fn() -> P) {
        let views = self.views;
        self.push(name, 1, repeat(policy, views), move |cluster, thread| {
            let first = &cluster.status().endpoints[0].id;
            let failed = cluster.pick_bound(&views[0], &Attempted::none(), first.as_str());
            failed.unwrap().lease.set_outcome(Outcome::Failure);
            let mut work = picks(cluster, views, thread);
            Box::new(move |count| work(count / MIN_PICKS))
        });
    }

    fn add_loaded<P: Balancer>(&mut self, name: &'static str, policy: impl Fn() -> P) {
        let views = self.views;
        self.push(name, 4, policy, move |cluster, thread| picks_under_load(cluster, views, thread));
    }

    fn push<P: Balancer>(
        &mut self,
        name: &'static str,
        max_threads: usize,
        policy: impl Fn() -> P,
        worker: impl Fn(Cluster<Nowhere>, usize) -> Worker + Sync + 'static,
    ) {
        if self.options.wants(name, self.endpoints) {
            let cluster = cluster(self.endpoints, policy());
            let worker = Box::new(move |thread| worker(cluster.clone(), thread));
            self.subjects.push(Subject { name, endpoints: self.endpoints, max_threads, worker });
        }
    }
}

struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        unreachable!("nothing is sent")
    }
}

/// Weights 1, 2, 3, 1, 2, 3 and so on.
fn cluster(endpoints: usize, policy: impl Balancer) -> Cluster<Nowhere> {
    let endpoints = (0..endpoints).map(|n| {
        let name = format!("10.{}.{}.{}:7070", n >> 16, (n >> 8) & 0xff, n & 0xff);
        Endpoint::new(name, Nowhere)
            .expect("a valid id")
            .weight(NonZeroU32::MIN.saturating_add(n as u32 % 3))
            .max_fails(None)
    });
    Cluster::builder().endpoints(endpoints).balancer(policy).build().expect("distinct ids")
}

fn picks(cluster: Cluster<Nowhere>, views: Views, thread: usize) -> Worker {
    let attempted = Attempted::none();
    let mut next = first_of(thread);
    Box::new(move |count| {
        for _ in 0..count {
            black_box(&cluster.pick(&views[next % REQUESTS], &attempted));
            next += 1;
        }
    })
}

fn picks_under_load(cluster: Cluster<Nowhere>, views: Views, thread: usize) -> Worker {
    let attempted = Attempted::none();
    let mut next = first_of(thread);
    let mut held: Vec<_> = (0..64).map(|n| cluster.pick(&views[n], &attempted)).collect();
    let mut random = xorshift(thread as u64);
    Box::new(move |count| {
        for _ in 0..count {
            held[random() as usize % 64] = cluster.pick(&views[next % REQUESTS], &attempted);
            next += 1;
        }
    })
}

/// Returns the first request of a thread. Each thread starts with a different one.
fn first_of(thread: usize) -> usize {
    thread * (REQUESTS / 4)
}

/// xorshift64 (Marsaglia 2003), which selects the lease that ends next.
fn xorshift(thread: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ thread;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A policy that does nothing.
#[derive(Debug)]
struct First;

impl Balancer for First {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        Some(from.at(0))
    }
}

/// A policy that always abstains.
#[derive(Debug)]
struct Abstains;

impl Balancer for Abstains {
    fn pick<'c>(&self, _request: &RequestView<'_>, _from: &Candidates<'c>) -> Option<Candidate<'c>> {
        None
    }
}

/// Calls a policy [`MIN_PICKS`] times for each call of the cluster, so the cluster's own cost
/// vanishes.
#[derive(Debug)]
struct Repeat<P> {
    policy: P,
    views: Views,
    next: AtomicUsize,
}

fn repeat<P>(policy: impl Fn() -> P, views: Views) -> impl Fn() -> Repeat<P> {
    move || Repeat { policy: policy(), views, next: AtomicUsize::new(0) }
}

impl<P: Balancer> Balancer for Repeat<P> {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let next = self.next.fetch_add(MIN_PICKS as usize, Ordering::Relaxed) % REQUESTS;
        let views = &self.views[next..next + MIN_PICKS as usize];
        views.iter().map(|view| black_box(self.policy.pick(view, from))).last().flatten()
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        self.policy.prepare(members)
    }
}
