//! The cost of a pick in other libraries, measured as in `cargo bench --bench pick`.
//!
//! The libraries differ in what a pick includes. pingora-load-balancing does not count requests in
//! flight, and returns a copy of the endpoint's address. tower's balance and every policy of poise
//! take `&mut self`, so an application with several threads needs a lock or a channel around them.
//! A policy of poise only returns an index. If the row says so, its in-flight guard is taken and
//! dropped too.

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use measure::{Options, SIZES, Subject, Worker};
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, FNVHash, Random, RoundRobin};
use pingora_load_balancing::{Backend, Backends, LoadBalancer, discovery};
use poise_core::{InFlight, Policy, Weight, policy as poise};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Load, PeakEwma, PendingRequests};

#[path = "../../../pick/measure.rs"]
mod measure;

const REQUESTS: usize = 2048;

type Keys = &'static [String; REQUESTS];

fn main() {
    let options = Options::from_args();
    let keys: Keys = Box::leak(Box::new(std::array::from_fn(|n| format!("/kylin/api/query?id={n}"))));
    let mut subjects = Vec::new();
    for endpoints in SIZES {
        let mut add = |name: &'static str, most_threads: usize, worker: &dyn Fn() -> MakeWorker| {
            if options.wants(name, endpoints) {
                subjects.push(Subject { name, endpoints, most_threads, worker: worker() });
            }
        };
        add("pingora round_robin", 4, &|| pingora::<RoundRobin>(endpoints, keys));
        add("pingora fnv hash", 4, &|| pingora::<FNVHash>(endpoints, keys));
        add("pingora consistent (ketama)", 4, &|| pingora::<Consistent>(endpoints, keys));
        add("pingora random", 4, &|| pingora::<Random>(endpoints, keys));
        add("tower p2c, pending requests", 1, &|| {
            Box::new(move |_| tower(endpoints, || PendingRequests::new(Nowhere, CompleteOnResponse::default())))
        });
        add("tower p2c, peak ewma", 1, &|| {
            let (default_rtt, decay_nanos) = (Duration::from_millis(30), 10e9);
            let service = move || PeakEwma::new(Nowhere, default_rtt, decay_nanos, CompleteOnResponse::default());
            Box::new(move |_| tower(endpoints, service))
        });
        add("poise round_robin", 1, &|| poise_alone(endpoints, poise::RoundRobin::new));
        add("poise smooth weighted", 1, &|| poise_alone(endpoints, poise::SmoothWeightedRoundRobin::new));
        add("poise weighted random", 1, &|| poise_alone(endpoints, poise::WeightedRandom::new));
        add("poise least loaded", 1, &|| poise_alone(endpoints, poise::LeastLoaded::new));
        add("poise least loaded + guard", 1, &|| poise_with_guard(endpoints, poise::LeastLoaded::new));
        add("poise two choices", 1, &|| poise_alone(endpoints, poise::PowerOfTwoChoices::new));
        add("poise two choices + guard", 1, &|| poise_with_guard(endpoints, poise::PowerOfTwoChoices::new));
        add("poise ring hash", 1, &|| Box::new(move |_| poise_ring(endpoints, keys)));
    }
    measure::run("peers", &options, &subjects);
}

type MakeWorker = Box<dyn Fn(usize) -> Worker + Sync>;

fn address(n: usize) -> String {
    format!("10.{}.{}.{}:7070", n >> 16, (n >> 8) & 0xff, n & 0xff)
}

/// The weights are 1, 2, 3, 1, 2, 3 and so on, as for kylin-lb.
fn weight(n: usize) -> usize {
    1 + n % 3
}

fn pingora<S>(endpoints: usize, keys: Keys) -> MakeWorker
where
    S: BackendSelection + Send + Sync + 'static,
    S::Iter: BackendIter,
{
    let backend = |n| Backend::new_with_weight(&address(n), weight(n)).expect("an address");
    let members: BTreeSet<Backend> = (0..endpoints).map(backend).collect();
    let balancer = LoadBalancer::<S>::from_backends(Backends::new(discovery::Static::new(members)));
    balancer.update().now_or_never().expect("static discovery is ready").expect("static discovery succeeds");
    let balancer = Arc::new(balancer);
    Box::new(move |thread| {
        let balancer = Arc::clone(&balancer);
        let mut next = thread * (REQUESTS / 4);
        assert!(balancer.select(b"", 256).is_some());
        Box::new(move |count| {
            for _ in 0..count {
                drop(black_box(balancer.select(keys[next % REQUESTS].as_bytes(), 256)));
                next += 1;
            }
        })
    })
}

/// A service that is always ready and responds at once.
struct Nowhere;

impl Service<()> for Nowhere {
    type Response = ();
    type Error = std::convert::Infallible;
    type Future = Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// Measures `poll_ready`, `call` and the end of the response. tower has no weights.
fn tower<S>(endpoints: usize, service: impl Fn() -> S) -> Worker
where
    S: Service<(), Response = (), Error = std::convert::Infallible> + Load + 'static,
    S::Metric: std::fmt::Debug,
{
    let services: Vec<S> = (0..endpoints).map(|_| service()).collect();
    let mut balance = Balance::new(ServiceList::new::<()>(services));
    let mut context = Context::from_waker(Waker::noop());
    while !balance.poll_ready(&mut context).is_ready() {}
    Box::new(move |count| {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..count {
            assert!(balance.poll_ready(&mut context).is_ready());
            drop(black_box(balance.call(())));
        }
    })
}

type Candidate = poise_core::Backend<String, (), InFlight>;

fn candidates(endpoints: usize) -> Vec<Candidate> {
    let candidate = |n| {
        let weight = Weight::new(weight(n) as u32).expect("not zero");
        poise_core::Backend::new(address(n)).with_load(InFlight::new()).with_weight(weight)
    };
    (0..endpoints).map(candidate).collect()
}

fn poise_alone<P: Policy<Candidate> + 'static>(
    endpoints: usize,
    policy: impl Fn() -> P + Sync + 'static,
) -> MakeWorker {
    Box::new(move |_| {
        let (candidates, mut policy) = (candidates(endpoints), policy());
        Box::new(move |count| {
            for _ in 0..count {
                let chosen = policy.pick(black_box(&candidates), &()).expect("all are eligible");
                black_box(chosen);
            }
        })
    })
}

fn poise_with_guard<P: Policy<Candidate> + 'static>(
    endpoints: usize,
    policy: impl Fn() -> P + Sync + 'static,
) -> MakeWorker {
    Box::new(move |_| {
        let (candidates, mut policy) = (candidates(endpoints), policy());
        Box::new(move |count| {
            for _ in 0..count {
                let chosen = policy.pick(black_box(&candidates), &()).expect("all are eligible");
                drop(black_box(candidates[chosen.index()].load().start()));
            }
        })
    })
}

/// Measures a ring with as many points as ketama.
fn poise_ring(endpoints: usize, keys: Keys) -> Worker {
    let points = NonZeroU32::new(160).expect("not zero");
    let config = poise::RingHashConfig::new(points, NonZeroUsize::MAX).expect("no limit");
    let (candidates, mut policy) = (candidates(endpoints), poise::RingHash::new(config));
    let mut next = 0;
    Box::new(move |count| {
        for _ in 0..count {
            let chosen = policy.pick(black_box(&candidates[..]), &keys[next % REQUESTS]).expect("all are eligible");
            black_box(chosen);
            next += 1;
        }
    })
}
