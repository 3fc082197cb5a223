//! Endpoints that are new or return grow into their share of traffic.

use std::time::Duration;

use kylin_lb::balance::{Balancer, HashKeyed, IpHash, LeastConn, RandomOne, RandomTwo, RoundRobin};
use kylin_lb::clock::ManualClock;
use kylin_lb::health::SlowStart;
use kylin_lb::{Cluster, Endpoint, Outcome};

use crate::policies::by_key;
use crate::support::cluster::{Nowhere, choose, endpoint, nonzero};
use crate::support::health::{advance, pick, report, shares, status};

const RAMP: Duration = Duration::from_secs(100);

fn ramping(id: &str) -> Endpoint<Nowhere> {
    failing_once(id).slow_start(RAMP)
}

/// An endpoint that a single failure ejects.
fn failing_once(id: &str) -> Endpoint<Nowhere> {
    endpoint(id).max_fails(Some(nonzero(1)))
}

fn cluster(policy: impl Balancer, clock: &ManualClock) -> Cluster<Nowhere> {
    let endpoints = ["0", "1", "2"].map(ramping);
    Cluster::builder().endpoints(endpoints).balancer(policy).clock(clock.clone()).build().unwrap()
}

/// The share of the endpoint that was added last, relative to that of each of the other three.
fn relative(counts: &[usize]) -> f64 {
    counts[3] as f64 * 3.0 / counts[..3].iter().sum::<usize>() as f64
}

fn added_to(policy: impl Balancer) -> (Cluster<Nowhere>, ManualClock) {
    let clock = ManualClock::new();
    let cluster = cluster(policy, &clock);
    cluster.add(ramping("3")).unwrap();
    (cluster, clock)
}

#[test]
fn round_robin_gives_a_new_endpoint_exactly_the_share_of_its_ramp() {
    let (cluster, clock) = added_to(RoundRobin::new());
    for (seconds, share) in [(0.0, 0.1), (30.0, 0.3), (20.0, 0.5), (40.0, 0.9), (10.0, 1.0)] {
        advance(&clock, seconds);
        let counts = shares(&cluster, 12_000);
        assert!((relative(&counts) - share).abs() < 0.01, "{counts:?} at {share}");
        assert_eq!(status(&cluster, "3").ramp, (share * 100.0_f64).round() as u32);
        assert!(counts[..3].iter().max().unwrap() - counts[..3].iter().min().unwrap() < 300, "{counts:?}");
    }
}

#[test]
fn random_gives_a_new_endpoint_the_share_of_its_ramp() {
    for draws_one in [true, false] {
        let (cluster, clock) = if draws_one { added_to(RandomOne::new()) } else { added_to(RandomTwo::new()) };
        for (seconds, share) in [(0.0, 0.1), (50.0, 0.5), (50.0, 1.0)] {
            advance(&clock, seconds);
            let relative = relative(&shares(&cluster, 40_000));
            assert!((relative / share - 1.0).abs() < 0.15, "{relative} at {share}");
        }
    }
}

#[test]
fn least_conn_fills_a_new_endpoint_in_proportion_to_its_ramp() {
    let (cluster, clock) = added_to(LeastConn::new());
    for (seconds, share) in [(0.0, 0.1), (50.0, 0.5), (50.0, 1.0)] {
        advance(&clock, seconds);
        let held: Vec<_> = (0..310).map(|_| pick(&cluster).unwrap()).collect();
        let in_flight: Vec<_> = cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight as usize).collect();
        assert!((relative(&in_flight) - share).abs() < 0.02, "{in_flight:?} at {share}");
        drop(held);
        // If nothing is in flight, rotation decides.
        let idle = relative(&shares(&cluster, 12_000));
        assert!((idle - share).abs() < 0.01, "{idle} at {share}");
    }
}

#[test]
fn hash_policies_use_the_whole_weight() {
    fn placements(policy: impl Balancer, ramp: bool) -> Vec<usize> {
        let clock = ManualClock::new();
        let with = |endpoint: Endpoint<Nowhere>| if ramp { endpoint.slow_start(RAMP) } else { endpoint };
        let endpoints = ["0", "1", "2"].map(|id| with(endpoint(id)));
        let cluster = Cluster::builder().endpoints(endpoints).balancer(policy).clock(clock).build().unwrap();
        cluster.add(with(endpoint("3").weight(nonzero(3)))).unwrap();
        (0..500_u32)
            .map(|n| choose(&cluster, std::net::IpAddr::from((n * 65_537).to_be_bytes()), &n.to_string()))
            .collect()
    }
    assert_eq!(placements(IpHash::new(), true), placements(IpHash::new(), false));
    assert_eq!(placements(IpHash::whole_address(), true), placements(IpHash::whole_address(), false));
    assert_eq!(placements(HashKeyed::modulo(by_key()), true), placements(HashKeyed::modulo(by_key()), false));
    assert_eq!(placements(HashKeyed::consistent(by_key()), true), placements(HashKeyed::consistent(by_key()), false));
}

#[test]
fn the_first_endpoints_of_a_cluster_do_not_ramp_and_returning_ones_do() {
    let clock = ManualClock::new();
    let cluster = cluster(RoundRobin::new(), &clock);
    let ramp = |id: &str| status(&cluster, id).ramp;
    assert_eq!(["0", "1", "2"].map(ramp), [100; 3]);
    report(&cluster, "1", Outcome::Failure);
    advance(&clock, 10.001);
    report(&cluster, "1", Outcome::Success);
    assert_eq!(["0", "1", "2"].map(ramp), [100, 10, 100], "readmitted by nginx's rule");
    let id = "2".parse().unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Drain).unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    assert_eq!(ramp("2"), 100, "a drained node stays warm");
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    advance(&clock, 50.0);
    assert_eq!(["0", "1", "2"].map(ramp), [100, 50, 50]);
    cluster.set_weight(&id, nonzero(5)).unwrap();
    assert_eq!(ramp("2"), 50, "a change of weight begins no ramp");
    advance(&clock, 50.0);
    assert_eq!(["0", "1", "2"].map(ramp), [100; 3]);
}

#[test]
fn a_ramp_rejects_no_request() {
    let clock = ManualClock::new();
    let steep = SlowStart::over(RAMP).floor(0.01).unwrap();
    let cluster = Cluster::builder().endpoint(endpoint("0")).clock(clock.clone()).build().unwrap();
    cluster.add(endpoint("1").slow_start(steep)).unwrap();
    cluster.set_admin_state(&"0".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    assert_eq!(shares(&cluster, 1_000), [0, 1_000]);
    // The endpoint also serves if it is the only one left of many, although rotation rarely offers
    // it.
    for id in 2..40 {
        cluster.add(failing_once(&id.to_string())).unwrap();
        report(&cluster, &id.to_string(), Outcome::Failure);
    }
    assert_eq!(shares(&cluster, 1_000)[1], 1_000);
}

#[test]
fn shares_stay_right_when_most_endpoints_cannot_serve_and_one_ramps() {
    let clock = ManualClock::new();
    let endpoints = (0..150).map(|id| ramping(&id.to_string()));
    let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
    for id in 3..150 {
        report(&cluster, &id.to_string(), Outcome::Failure);
    }
    let id = "2".parse().unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    clock.advance(Duration::from_secs(5));
    let counts = shares(&cluster, 21_000);
    assert!((counts[0] as f64 / counts[1] as f64 - 1.0).abs() < 0.05, "{:?}", &counts[..3]);
    assert!((counts[2] as f64 / counts[1] as f64 - 0.1).abs() < 0.05, "{:?}", &counts[..3]);
}
