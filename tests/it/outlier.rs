//! Endpoints that fail more than the others are ejected, within limits that keep the cluster in
//! service.

use std::num::{NonZero, NonZeroU32};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http::StatusCode;
use kylin_lb::balance::Attempted;
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::ClusterBuilder;
use kylin_lb::health::{HealthState, Outlier, Reason};
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::testing::kylin::{Fault, FaultScope, Metastore};
use kylin_lb::{Cluster, Endpoint, Outcome, Proxy, RequestView};

use crate::support::cluster::{Nowhere, endpoint};
use crate::support::front::{self, Front, closed_port};
use crate::support::health::{advance, pick, report, shares, state, status};

/// Endpoints `0`, `1`, ...
fn cluster(endpoints: usize, rule: Outlier, clock: &ManualClock) -> Cluster<Nowhere> {
    let endpoints = (0..endpoints).map(|id| endpoint(&id.to_string()));
    Cluster::builder().endpoints(endpoints).outlier(rule).clock(clock.clone()).build().unwrap()
}

fn ejected(cluster: &Cluster<Nowhere>) -> Vec<usize> {
    let endpoints = cluster.status().endpoints;
    (0..).zip(endpoints).filter(|(_, endpoint)| endpoint.ejected).map(|(index, _)| index).collect()
}

fn fail(cluster: &Cluster<Nowhere>, id: &str, times: usize) {
    for _ in 0..times {
        report(cluster, id, Outcome::Failure);
    }
}

#[test]
fn five_failures_in_a_row_eject_for_half_a_minute_and_the_next_time_for_longer() {
    let clock = ManualClock::new();
    let cluster = cluster(3, Outlier::new(), &clock);
    fail(&cluster, "1", 4);
    report(&cluster, "1", Outcome::Slow);
    report(&cluster, "1", Outcome::Success);
    fail(&cluster, "1", 4);
    report(&cluster, "1", Outcome::Unknown);
    assert_eq!(ejected(&cluster), [] as [usize; 0], "other outcomes neither count nor end the row");
    fail(&cluster, "1", 1);
    assert_eq!(state(&cluster, "1"), (HealthState::Ejected, Some(Reason::Consecutive)));
    let since = status(&cluster, "1").since;

    advance(&clock, 29.999);
    assert_eq!((ejected(&cluster), status(&cluster, "1").since), (vec![1], since));
    advance(&clock, 0.001);
    assert_eq!(state(&cluster, "1"), (HealthState::Healthy, None));
    assert_eq!(status(&cluster, "1").since - since, Duration::from_secs(30));
    fail(&cluster, "1", 4);
    assert_eq!(ejected(&cluster), [] as [usize; 0], "the row begins anew");
    fail(&cluster, "1", 1);
    advance(&clock, 59.999);
    assert_eq!(ejected(&cluster), [1], "the second time lasts twice as long");
    advance(&clock, 0.001);
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
    // Two intervals in service later, both are forgotten.
    for _ in 0..3 {
        advance(&clock, 10.001);
        report(&cluster, "1", Outcome::Success);
    }
    fail(&cluster, "1", 5);
    advance(&clock, 30.0);
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
}

#[test]
fn one_of_two_is_ejected_and_the_last_one_never() {
    let clock = ManualClock::new();
    let cluster = cluster(2, Outlier::new(), &clock);
    fail(&cluster, "0", 5);
    assert_eq!(ejected(&cluster), [0]);
    advance(&clock, 11.0);
    fail(&cluster, "1", 50);
    assert_eq!(ejected(&cluster), [0]);
    assert_eq!(pick(&cluster).unwrap().lease.endpoint().as_str(), "1");
}

/// Ends requests of sessions that are bound to `id` with `outcome`, regardless of the health of the
/// other endpoints.
fn report_bound(cluster: &Cluster<Nowhere>, id: &str, outcome: Outcome, times: usize) {
    let request = http::Request::get("/").body(()).unwrap();
    for _ in 0..times {
        let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7]));
        let mut picked = cluster.pick_bound(&view, &Attempted::none(), id).unwrap();
        assert_eq!(picked.lease.endpoint().as_str(), id, "{:?}", cluster.status());
        picked.lease.set_outcome(outcome);
    }
}

#[test]
fn an_endpoint_whose_trial_is_due_takes_the_place_of_no_other() {
    type Setting = fn(Endpoint<Nowhere>) -> Endpoint<Nowhere>;
    let outlier_rule: Setting = |endpoint| endpoint;
    let nginxs_rule: Setting = |endpoint| endpoint.max_fails(NonZeroU32::new(5));
    for (setting, wait) in [(outlier_rule, 0.25), (nginxs_rule, 10.001)] {
        let clock = ManualClock::new();
        let endpoints = [setting(endpoint("0")), endpoint("1")];
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        report_bound(&cluster, "0", Outcome::Unreachable, 5);
        assert_eq!(ejected(&cluster), [0]);
        advance(&clock, wait);
        assert_eq!(state(&cluster, "0").0, HealthState::Suspect, "a request may try it");
        report_bound(&cluster, "1", Outcome::Failure, 20);
        let failing = (HealthState::Suspect, Some(Reason::Failing));
        assert_eq!(state(&cluster, "1"), failing, "it may be the last that lives");
        // The ejected endpoint is back, so the other one can be replaced.
        report_bound(&cluster, "0", Outcome::Success, 1);
        report_bound(&cluster, "1", Outcome::Failure, 1);
        assert_eq!(ejected(&cluster), [1]);
    }
}

#[test]
fn at_most_half_are_ejected_at_once() {
    let clock = ManualClock::new();
    let cluster = cluster(8, Outlier::new(), &clock);
    for id in 0..6 {
        // So far apart that they are not a common failure.
        advance(&clock, 5.1);
        fail(&cluster, &id.to_string(), 5);
    }
    assert_eq!(ejected(&cluster), [0, 1, 2, 3]);
}

#[test]
fn a_common_failure_ejects_no_endpoint() {
    let clock = ManualClock::new();
    let cluster = cluster(4, Outlier::new(), &clock);
    // Requests are distributed in turn, and each fails.
    for _ in 0..100 {
        pick(&cluster).unwrap().lease.set_outcome(Outcome::Failure);
        advance(&clock, 0.01);
    }
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
}

#[test]
fn an_endpoint_returns_when_its_failure_turns_out_to_be_common() {
    let clock = ManualClock::new();
    let cluster = cluster(3, Outlier::new(), &clock);
    fail(&cluster, "2", 5);
    assert_eq!(ejected(&cluster), [2], "so far it is the only one that fails");
    advance(&clock, 2.0);
    fail(&cluster, "0", 5);
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
}

#[test]
fn a_success_rate_below_the_others_ejects_at_the_end_of_the_interval() {
    let clock = ManualClock::new();
    let cluster = cluster(3, Outlier::new(), &clock);
    for round in 0..30 {
        // Never two in a row.
        report(&cluster, "0", if round % 2 == 0 { Outcome::Failure } else { Outcome::Success });
        report(&cluster, "1", Outcome::Success);
        report(&cluster, "2", if round % 10 == 0 { Outcome::Failure } else { Outcome::Success });
    }
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
    advance(&clock, 10.0);
    report(&cluster, "1", Outcome::Success);
    assert_eq!(state(&cluster, "0"), (HealthState::Ejected, Some(Reason::SuccessRate)));
    assert_eq!(ejected(&cluster), [0]);
}

#[test]
fn what_requests_showed_before_a_pause_ejects_nothing_after_it() {
    let clock = ManualClock::new();
    let cluster = cluster(2, Outlier::new(), &clock);
    for _ in 0..20 {
        report(&cluster, "0", Outcome::Failure);
        report(&cluster, "0", Outcome::Success);
        report(&cluster, "1", Outcome::Success);
    }
    advance(&clock, 300.0);
    report(&cluster, "1", Outcome::Success);
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
    // Within an interval it does.
    for _ in 0..20 {
        report(&cluster, "0", Outcome::Failure);
        report(&cluster, "0", Outcome::Success);
        report(&cluster, "1", Outcome::Success);
    }
    advance(&clock, 10.0);
    report(&cluster, "1", Outcome::Success);
    assert_eq!(ejected(&cluster), [0]);
}

#[test]
fn the_rule_is_the_default_and_nginxs_rule_takes_its_place_where_it_is_written() {
    let of = |endpoint: Endpoint<Nowhere>| Cluster::builder().endpoints([endpoint, self::endpoint("1")]);
    /// Returns why the endpoint `0` is ejected after one failure fewer than given, and after the
    /// given failures.
    fn reasons(builder: ClusterBuilder<Nowhere>, failures: usize) -> [Option<Reason>; 2] {
        let cluster = builder.build().unwrap();
        [failures - 1, 1].map(|failures| {
            fail(&cluster, "0", failures);
            status(&cluster, "0").reason
        })
    }
    let (one, two) = (NonZeroU32::new(1), NonZeroU32::new(2));
    let minute = Duration::from_secs(60);
    for (endpoint, least, expected) in [
        (endpoint("0"), 5, Reason::Consecutive),
        (endpoint("0").max_fails(None), 5, Reason::Consecutive),
        (endpoint("0").max_fails(None).fail_timeout(minute), 5, Reason::Consecutive),
        (endpoint("0").fail_timeout(minute).max_fails(None), 5, Reason::Consecutive),
        (endpoint("0").max_fails(two), 2, Reason::MaxFails),
        (endpoint("0").fail_timeout(minute), 1, Reason::MaxFails),
        (endpoint("0").max_fails(two).fail_timeout(minute), 2, Reason::MaxFails),
        (endpoint("0").fail_timeout(minute).max_fails(two), 2, Reason::MaxFails),
        (endpoint("0").outlier(false).max_fails(one), 1, Reason::MaxFails),
    ] {
        let shown = format!("{endpoint:?}");
        assert_eq!(reasons(of(endpoint), least), [None, Some(expected)], "{shown}");
    }
    let suspect = [Some(Reason::Failing); 2];
    assert_eq!(reasons(of(endpoint("0")).outlier(None), 50), suspect);
    assert_eq!(reasons(of(endpoint("0").max_fails(None).outlier(false)), 50), suspect);
    assert_eq!(reasons(of(endpoint("0").max_fails(NonZeroU32::new(20))), 19), suspect, "one rule governs an endpoint");
}

#[test]
fn an_endpoint_that_was_not_reached_is_tried_by_one_request_at_a_time_and_returns_with_the_first_success() {
    let clock = ManualClock::new();
    let cluster = cluster(3, Outlier::new(), &clock);
    for _ in 0..5 {
        report(&cluster, "0", Outcome::Unreachable);
    }
    assert_eq!(state(&cluster, "0"), (HealthState::Ejected, Some(Reason::Unreachable)));
    // Each trial that fails doubles the time until the next.
    for millis in [250, 500, 1_000, 2_000] {
        clock.advance(Duration::from_millis(millis - 1));
        assert_eq!(shares(&cluster, 30)[0], 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(state(&cluster, "0"), (HealthState::Suspect, Some(Reason::Unreachable)));
        let mut trial = std::iter::repeat_with(|| pick(&cluster).unwrap())
            .find(|picked| picked.lease.endpoint().as_str() == "0")
            .unwrap();
        assert_eq!(shares(&cluster, 30)[0], 0, "one request is on trial");
        trial.lease.set_outcome(Outcome::Unreachable);
    }
    clock.advance(Duration::from_secs(4));
    report(&cluster, "0", Outcome::Success);
    assert_eq!(state(&cluster, "0"), (HealthState::Healthy, None));
    assert_eq!(shares(&cluster, 30)[0], 10);
    assert_eq!(cluster.status().in_flight(), 0);
}

#[test]
fn a_burst_of_refused_connections_ejects_no_endpoint_that_works_on_more_requests() {
    let clock = ManualClock::new();
    let cluster = cluster(2, Outlier::new(), &clock);
    let held: Vec<_> = std::iter::repeat_with(|| pick(&cluster).unwrap()).take(80).collect();
    for _ in 0..20 {
        report(&cluster, "0", Outcome::Unreachable);
    }
    assert_eq!(ejected(&cluster), [] as [usize; 0], "it works on 40");
    clock.advance(Duration::from_millis(999));
    report(&cluster, "0", Outcome::Unreachable);
    assert_eq!(ejected(&cluster), [] as [usize; 0]);
    clock.advance(Duration::from_millis(1));
    report(&cluster, "0", Outcome::Unreachable);
    assert_eq!(ejected(&cluster), [0], "nothing has succeeded for a second");
    drop(held);
}

#[test]
fn endpoints_that_are_not_reached_are_ejected_beyond_the_share_while_another_serves() {
    let clock = ManualClock::new();
    let cluster = cluster(3, Outlier::new(), &clock);
    report(&cluster, "2", Outcome::Success);
    for id in ["0", "1"] {
        for _ in 0..5 {
            report(&cluster, id, Outcome::Unreachable);
        }
    }
    assert_eq!(ejected(&cluster), [0, 1]);
    for _ in 0..50 {
        pick(&cluster).unwrap().lease.set_outcome(Outcome::Unreachable);
        assert!(ejected(&cluster).len() < 3, "never all");
    }
}

#[test]
fn no_outcome_is_lost_and_an_endpoint_always_serves_while_threads_report() {
    const THREADS: u64 = 4;
    const EACH: u64 = 20_000;
    let clock = ManualClock::new();
    let cluster = cluster(6, Outlier::new().ejection(Duration::from_millis(50), Duration::from_millis(400)), &clock);
    let done = AtomicBool::new(false);
    let failures = AtomicU64::new(0);
    let max = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut max = 0;
            while !done.load(Ordering::Relaxed) {
                clock.advance(Duration::from_millis(7));
                max = max.max(ejected(&cluster).len());
            }
            max
        });
        let reporters: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (cluster, failures) = (&cluster, &failures);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    for _ in 0..EACH {
                        let mut picked = pick(cluster).expect("an endpoint can serve");
                        let faulty = matches!(picked.lease.endpoint().as_str(), "1" | "4");
                        let outcome = if faulty && random.u8(..10) > 0 { Outcome::Failure } else { Outcome::Success };
                        failures.fetch_add(u64::from(outcome == Outcome::Failure), Ordering::Relaxed);
                        picked.lease.set_outcome(outcome);
                    }
                })
            })
            .collect();
        for reporter in reporters {
            reporter.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert!((1..=3).contains(&max), "{max} of six at once");
    let endpoints = cluster.status().endpoints;
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.served).sum::<u64>(), THREADS * EACH);
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.failed).sum::<u64>(), failures.into_inner());
    assert_eq!(cluster.status().in_flight(), 0);
}

/// Three demo nodes with one metastore behind a front end that retries after gateway errors.
async fn front_over_three(
    metastore: &Metastore,
) -> (Vec<(kylin_lb::testing::kylin::KylinNode, kylin_lb::testing::kylin::Served)>, Front) {
    let mut nodes = Vec::new();
    for name in ["q0", "q1", "q2"] {
        let node = kylin_lb::testing::kylin::KylinNode::new(name).metastore(metastore);
        let served = node.serve(closed_port()).await.unwrap();
        nodes.push((node, served));
    }
    let endpoints = nodes
        .iter()
        .enumerate()
        .map(|(id, (_, served))| front::endpoint(id, served.addr(), |backend| backend).outlier(true));
    let cluster = Cluster::builder().endpoints(endpoints).outlier(Outlier::new()).build().unwrap();
    let retry = RetryPolicy::default().on_status(StatusCode::BAD_GATEWAY);
    let front = Front::serving(Proxy::plain(cluster).retry(retry).build().unwrap(), |server| {
        server.threads(NonZero::new(1).unwrap())
    });
    (nodes, front)
}

#[tokio::test]
async fn a_node_with_gateway_errors_is_ejected_and_a_lost_metastore_ejects_no_node() {
    let metastore = Metastore::new();
    let (nodes, front) = front_over_three(&metastore).await;
    nodes[1].0.faults().inject(FaultScope::Everything, Fault::Html(StatusCode::BAD_GATEWAY));
    for _ in 0..30 {
        assert_eq!(front.get("/kylin/api/admin/version").await.unwrap().status(), 200);
    }
    front.idle().await;
    assert_eq!(state(front.proxy.cluster(), "1"), (HealthState::Ejected, Some(Reason::Consecutive)));
    assert_eq!(nodes[1].0.stats().requests, 5);

    metastore.set_down(true);
    for _ in 0..30 {
        // An error of Kylin in JSON is a response, and is passed on.
        let query = r#"{"sql":"select 1","project":"learn_kylin"}"#;
        assert!(front.post("/kylin/api/query", query).await.unwrap().status() >= 400);
    }
    front.idle().await;
    for id in ["0", "2"] {
        assert_eq!(state(front.proxy.cluster(), id), (HealthState::Healthy, None));
    }
}

#[tokio::test]
async fn when_all_nodes_have_gateway_errors_none_is_ejected() {
    let (nodes, front) = front_over_three(&Metastore::new()).await;
    for (node, _) in &nodes {
        node.faults().inject(FaultScope::Everything, Fault::Close);
    }
    for _ in 0..40 {
        assert_eq!(front.get("/kylin/api/admin/version").await.unwrap().status(), 502);
    }
    front.idle().await;
    let endpoints = front.proxy.cluster().status().endpoints;
    assert!(endpoints.iter().all(|endpoint| endpoint.health == HealthState::Healthy && endpoint.failed > 5));
    for (node, _) in &nodes {
        node.faults().clear();
    }
    assert_eq!(front.get("/kylin/api/admin/version").await.unwrap().status(), 200, "back at once");
}
