//! In panic mode, when health keeps requests from every endpoint, the one that failed least
//! recently serves.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::{Attempted, Balancer, Candidate, Candidates};
use kylin_lb::clock::ManualClock;
use kylin_lb::endpoint::{Role, Roles};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, Outcome, Proxy, RequestView};

use crate::support::cluster::{InOrder, Nowhere, endpoint, endpoints};
use crate::support::health::{advance, pick, report};

fn cluster(parameters: &[&str], panic: bool, clock: &ManualClock) -> Cluster<Nowhere> {
    let endpoints = endpoints(parameters).into_iter().map(failing_once);
    Cluster::builder().endpoints(endpoints).clock(clock.clone()).panic_mode(panic).build().unwrap()
}

/// The endpoint, which a single failure ejects.
fn failing_once(endpoint: Endpoint<Nowhere>) -> Endpoint<Nowhere> {
    endpoint.max_fails(Some(NonZeroU32::MIN))
}

/// Makes each endpoint that can serve fail once, in this order, one second apart.
fn fail_in_order(cluster: &Cluster<Nowhere>, clock: &ManualClock, ids: &[&str]) {
    for id in ids {
        report(cluster, id, Outcome::Failure);
        advance(clock, 1.0);
    }
}

fn picked(cluster: &Cluster<Nowhere>) -> Option<String> {
    pick(cluster).map(|picked| picked.lease.endpoint().to_string())
}

#[test]
fn without_panic_mode_no_endpoint_serves_when_all_are_ejected() {
    let clock = ManualClock::new();
    let cluster = cluster(&["", ""], false, &clock);
    fail_in_order(&cluster, &clock, &["0", "1"]);
    assert_eq!(picked(&cluster), None);
    assert!(!cluster.status().panicking);
}

#[test]
fn it_is_on_by_default_and_serves_a_retry_where_the_only_other_endpoint_is_ejected() {
    let clock = ManualClock::new();
    let endpoints = endpoints(&["", ""]).into_iter().map(failing_once);
    let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
    fail_in_order(&cluster, &clock, &["0"]);
    // As after a refused connection, the endpoint is not ejected yet, but this request has tried
    // it.
    let mut attempted = Attempted::none();
    attempted.add(&pick(&cluster).unwrap().lease);
    let request = http::Request::get("/").body(()).unwrap();
    let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 1]));
    let retry = cluster.pick(&view, &attempted).unwrap();
    assert_eq!(retry.lease.endpoint().as_str(), "0");
    assert!(!cluster.status().panicking, "other requests have an endpoint");
    attempted.add(&retry.lease);
    assert!(cluster.pick(&view, &attempted).is_err());
}

/// The retry of a login that one node does not know must not go to a dead node.
#[tokio::test]
async fn a_response_is_better_than_an_endpoint_that_is_ejected() {
    let [unknown, dead] =
        [Scripted::responding(StatusCode::UNAUTHORIZED, "{}"), Scripted::failing(SendErrorKind::Connect)];
    let endpoint = |id: &str, node| Endpoint::new(id, node).unwrap().max_fails(Some(NonZeroU32::MIN));
    let cluster = Cluster::builder().endpoints([endpoint("0", unknown), endpoint("1", dead.clone())]).build().unwrap();
    let proxy = Proxy::builder(cluster.clone()).build().unwrap();
    report(&cluster, "1", Outcome::Unreachable);
    for _ in 0..6 {
        let request =
            http::Request::get("/kylin/api/projects").header("host", "kylin").header("cookie", "JSESSIONID=gone");
        let response =
            proxy.forward(std::net::IpAddr::from([192, 0, 2, 1]), request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!((dead.calls(), cluster.status().endpoints[1].ejected), (0, true));
}

/// The node that knows the login may be dead before anything has ejected it.
#[tokio::test]
async fn a_response_is_better_than_an_endpoint_that_cannot_be_reached() {
    let [unknown, dead] =
        [Scripted::responding(StatusCode::UNAUTHORIZED, "{}"), Scripted::failing(SendErrorKind::Connect)];
    let endpoints = [Endpoint::new("0", unknown).unwrap(), Endpoint::new("1", dead.clone()).unwrap()];
    let cluster = Cluster::builder().endpoints(endpoints).balancer(InOrder).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let request = http::Request::get("/kylin/api/projects").header("host", "kylin").header("cookie", "JSESSIONID=gone");
    let response = proxy.forward(std::net::IpAddr::from([192, 0, 2, 1]), request.body(Body::empty()).unwrap()).await;
    assert_eq!((response.status(), dead.calls()), (StatusCode::UNAUTHORIZED, 1));
}

#[test]
fn the_least_recently_failed_serves_until_it_fails_again() {
    let clock = ManualClock::new();
    let cluster = cluster(&["", "", ""], true, &clock);
    fail_in_order(&cluster, &clock, &["2", "0"]);
    assert!(!cluster.status().panicking, "one is healthy");
    fail_in_order(&cluster, &clock, &["1"]);
    assert!(cluster.status().panicking);
    for expected in ["2", "0", "1", "2"] {
        assert_eq!(picked(&cluster).as_deref(), Some(expected));
        assert_eq!(picked(&cluster).as_deref(), Some(expected));
        let mut again = pick(&cluster).unwrap();
        again.lease.set_outcome(Outcome::Failure);
        drop(again);
        advance(&clock, 1.0);
    }
    // When fail_timeout has passed since the last failure, the rule itself lets requests through.
    advance(&clock, 10.0);
    assert!(!cluster.status().panicking);
    report(&cluster, "0", Outcome::Success);
    assert_eq!(cluster.status().in_flight(), 0);
}

#[test]
fn retries_use_endpoints_that_were_not_attempted() {
    let clock = ManualClock::new();
    let cluster = cluster(&["", ""], true, &clock);
    fail_in_order(&cluster, &clock, &["0", "1"]);
    let request = http::Request::get("/").body(()).unwrap();
    let mut attempted = Attempted::none();
    let mut order = Vec::new();
    while let Ok(picked) = cluster.pick(&RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 1])), &attempted)
    {
        attempted.add(&picked.lease);
        order.push(picked.lease.endpoint().to_string());
    }
    assert_eq!(order, ["0", "1"]);
}

#[test]
fn admin_states_and_limits_never_cause_panic_mode_and_apply_in_it() {
    let clock = ManualClock::new();
    let cluster = cluster(&["max_conns=1", "down", ""], true, &clock);
    fail_in_order(&cluster, &clock, &["2"]);
    let held = pick(&cluster).unwrap();
    assert_eq!(held.lease.endpoint().as_str(), "0");
    assert_eq!(picked(&cluster), None, "an endpoint at its limit is healthy");
    assert!(!cluster.status().panicking);
    drop(held);
    fail_in_order(&cluster, &clock, &["0"]);
    assert!(cluster.status().panicking);
    let (first, second) = (pick(&cluster).unwrap(), pick(&cluster).unwrap());
    assert_eq!([&first, &second].map(|picked| picked.lease.endpoint().as_str()), ["2", "2"]);
    drop((first, second));
    report(&cluster, "2", Outcome::Failure);
    let _full = pick(&cluster).unwrap();
    assert_eq!(picked(&cluster).as_deref(), Some("2"), "the limit of the least recently failed is reached");
    cluster.set_admin_state(&"2".parse().unwrap(), kylin_lb::endpoint::AdminState::Drain).unwrap();
    assert_eq!(picked(&cluster), None, "one is at its limit, the others are not ready");
}

#[test]
fn panic_mode_is_for_one_role_when_only_its_endpoints_are_unhealthy() {
    let clock = ManualClock::new();
    let of = |id: &str, role| failing_once(endpoint(id).roles(Roles::only(role)));
    let endpoints = [of("0", Role::Query), of("1", Role::Job), of("2", Role::Query)];
    let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).panic_mode(true).build().unwrap();
    fail_in_order(&cluster, &clock, &["2", "0"]);
    assert!(cluster.status().panicking);
    let request = http::Request::get("/").body(()).unwrap();
    let picked = |role| {
        let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 1])).with_role(Some(role));
        cluster.pick(&view, &Attempted::none()).unwrap().lease.endpoint().to_string()
    };
    assert_eq!([picked(Role::Query), picked(Role::Job)], ["2", "1"]);
}

#[test]
fn panic_mode_uses_backups_too() {
    let clock = ManualClock::new();
    let cluster = cluster(&["", "backup"], true, &clock);
    fail_in_order(&cluster, &clock, &["0", "1"]);
    assert_eq!(picked(&cluster).as_deref(), Some("0"));
    report(&cluster, "0", Outcome::Failure);
    assert_eq!(picked(&cluster).as_deref(), Some("1"));
}

/// A policy that abstains. If it is `armed` and is asked for a backup, time passes until the
/// ejection of the primary endpoint ends.
#[derive(Debug)]
struct SlowForBackups {
    clock: ManualClock,
    armed: Arc<AtomicBool>,
}

impl Balancer for SlowForBackups {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        if from.at(0).id().as_str() == "1" && self.armed.swap(false, Ordering::SeqCst) {
            advance(&self.clock, 6.0);
        }
        None
    }
}

#[test]
fn an_endpoint_that_is_readmitted_between_the_steps_of_a_pick_serves() {
    let (clock, armed) = (ManualClock::new(), Arc::new(AtomicBool::new(false)));
    let policy = SlowForBackups { clock: clock.clone(), armed: armed.clone() };
    let endpoints = endpoints(&["", "backup"]).into_iter().map(failing_once);
    let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).balancer(policy).build().unwrap();
    fail_in_order(&cluster, &clock, &["0"]);
    advance(&clock, 4.0);
    fail_in_order(&cluster, &clock, &["1"]);
    assert!(cluster.status().panicking);
    armed.store(true, Ordering::SeqCst);
    assert_eq!(picked(&cluster).as_deref(), Some("0"));
    assert!(!armed.load(Ordering::SeqCst), "no time has passed");
}

#[test]
fn concurrent_picks_in_panic_mode_keep_to_the_limit() {
    let clock = ManualClock::new();
    let cluster = Cluster::builder()
        .endpoints(["0", "1"].map(|id| failing_once(endpoint(id)).max_in_flight(NonZeroU32::new(3))))
        .clock(clock.clone())
        .build()
        .unwrap();
    fail_in_order(&cluster, &clock, &["0", "1"]);
    let max = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut max = 0;
                    for _ in 0..5_000 {
                        let held: Vec<_> = (0..3).filter_map(|_| pick(&cluster)).collect();
                        let status = cluster.status().endpoints;
                        max = max.max(status.iter().map(|endpoint| endpoint.in_flight).max().unwrap());
                        drop(held);
                    }
                    max
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max()
    });
    assert_eq!(max, Some(3));
    assert_eq!(cluster.status().in_flight(), 0);
}
