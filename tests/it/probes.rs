//! Nodes are probed, and the results decide whether they serve.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::endpoint::{AdminState, TrafficKind};
use kylin_lb::health::{HealthState, ProbeFailure, Reason};
use kylin_lb::probe::{HealthCheck, Probe, ResponseMatcher};
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Mode};
use kylin_lb::testing::{Scripted, Step};
use kylin_lb::{Backend, Body, Cluster, Endpoint, HttpBackend, Outcome};
use tokio::time::{Instant, sleep};

use crate::support::cluster::nonzero;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{self, Front, closed_port, demo, eventually};
use crate::support::health::{pick, report, state, status};
use crate::support::raw_node::{RawNode, respond};

const HEALTHY: (HealthState, Option<Reason>) = (HealthState::Healthy, None);

fn unhealthy(failure: ProbeFailure) -> (HealthState, Option<Reason>) {
    (HealthState::Unhealthy, Some(Reason::Probe(failure)))
}

fn suspect(failure: ProbeFailure) -> (HealthState, Option<Reason>) {
    (HealthState::Suspect, Some(Reason::Probe(failure)))
}

/// Every second exactly, `fall` 3, `rise` 2.
fn every_second(probe: Probe) -> HealthCheck {
    HealthCheck::new(probe).interval(Duration::from_secs(1)).fast_interval(Duration::from_secs(1)).jitter(0.0)
}

fn of<B>(nodes: impl IntoIterator<Item = B>) -> Cluster<B> {
    let endpoints = (0..).zip(nodes).map(|(id, node): (usize, B)| Endpoint::new(id.to_string(), node).unwrap());
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

/// Returns the state and its reason after the first probe of `backend`.
async fn first<B: Backend>(backend: B, probe: Probe) -> (HealthState, Option<Reason>) {
    let cluster = of([backend]);
    let checks = HealthCheck::new(probe).timeout(Duration::from_millis(500)).wait_for_first_success(true);
    let _checker = checks.start(&cluster).unwrap();
    let known = || state(&cluster, "0") != (HealthState::Unhealthy, Some(Reason::Unproven));
    eventually(known, || format!("{:?}", cluster.status())).await;
    state(&cluster, "0")
}

/// Returns the result of the first probe of the node at `address`, over a socket.
async fn first_at(address: SocketAddr, probe: Probe) -> (HealthState, Option<Reason>) {
    first(HttpBackend::new(&address.to_string()).unwrap(), probe).await
}

fn query(sql: &str) -> Probe {
    Probe::query(sql, "learn_kylin", "ADMIN", "KYLIN").unwrap()
}

in_each_dialect!(the_ready_made_probes_accept_kylin_nodes_of_every_version_and_role_over_a_socket);
async fn the_ready_made_probes_accept_kylin_nodes_of_every_version_and_role_over_a_socket(dialect: Dialect) {
    for mode in [Mode::All, Mode::Query, Mode::Job] {
        let (node, served) = demo("q1").await;
        let _ = node.clone().kylin_version(dialect).mode(mode);
        let at = served.addr();
        let version = match dialect.reported_version() {
            Some(_) => HEALTHY,
            None => unhealthy(ProbeFailure::Status(StatusCode::NOT_FOUND)),
        };
        assert_eq!(first_at(at, Probe::kylin()).await, HEALTHY, "{mode:?}");
        assert_eq!(first_at(at, Probe::kylin_version()).await, version, "{mode:?}");
        assert_eq!(first_at(at, query("select 1")).await, HEALTHY, "{mode:?}");
        assert_eq!(first_at(at, Probe::tcp()).await, HEALTHY);
        let health = if is_v5(dialect) { HEALTHY } else { unhealthy(ProbeFailure::Status(StatusCode::UNAUTHORIZED)) };
        assert_eq!(first_at(at, Probe::kylin5_health()).await, health);
    }
}

#[tokio::test]
async fn a_probe_reports_why_it_failed() {
    let (node, served) = demo("q1").await;
    let at = served.addr();
    assert_eq!(
        first_at(at, Probe::active_job_node()).await,
        unhealthy(ProbeFailure::Status(StatusCode::INTERNAL_SERVER_ERROR))
    );
    let _ = node.clone().active_job_node(Some(true));
    assert_eq!(first_at(at, Probe::active_job_node()).await, HEALTHY);
    let _ = node.clone().active_job_node(Some(false));
    assert_eq!(first_at(at, Probe::active_job_node()).await, unhealthy(ProbeFailure::Body));

    assert_eq!(
        first_at(at, query("SYNTAX ERROR")).await,
        unhealthy(ProbeFailure::Status(StatusCode::INTERNAL_SERVER_ERROR))
    );
    let _ = node.clone().kylin_version(Dialect::V5_0);
    assert_eq!(first_at(at, query("SYNTAX ERROR")).await, unhealthy(ProbeFailure::Body), "200 with isException");
    node.faults().set_metastore_down(true);
    let unavailable = unhealthy(ProbeFailure::Status(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(first_at(at, Probe::kylin5_health()).await, unavailable);
    assert_eq!(first_at(at, Probe::kylin_version()).await, HEALTHY, "this probe needs no metastore");

    for (fault, failure) in [
        (Fault::Hang, ProbeFailure::Timeout),
        (Fault::Stall, ProbeFailure::Timeout),
        (Fault::Close, ProbeFailure::Broken),
        (Fault::ResetAfter(10), ProbeFailure::Broken),
        (Fault::TruncateAfter(10), ProbeFailure::Broken),
        (Fault::Html(StatusCode::OK), ProbeFailure::Body),
        (Fault::Html(StatusCode::BAD_GATEWAY), ProbeFailure::Status(StatusCode::BAD_GATEWAY)),
    ] {
        node.faults().clear();
        node.faults().inject(FaultScope::Everything, fault);
        assert_eq!(first_at(at, Probe::kylin_version()).await, unhealthy(failure), "{fault:?}");
    }
    assert_eq!(first_at(closed_port(), Probe::kylin_version()).await, unhealthy(ProbeFailure::Unreachable));
    assert_eq!(first_at(closed_port(), Probe::tcp()).await, unhealthy(ProbeFailure::Unreachable));
}

#[tokio::test]
async fn a_server_with_a_page_for_every_path_is_no_kylin() {
    let page = "<!doctype html><html><title>kylin.version</title></html>";
    for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
        assert_ne!(first(Scripted::responding(status, page), Probe::kylin_version()).await, HEALTHY);
    }
    let huge = Scripted::new(|_| async { Ok(Response::new(Body::from(" ".repeat(70_000) + "true"))) });
    assert_eq!(
        first(huge.clone(), Probe::active_job_node()).await,
        unhealthy(ProbeFailure::Body),
        "no more is read than 64 KiB"
    );
    assert_eq!(first(huge, Probe::get("/").unwrap()).await, HEALTHY, "where the body does not matter");
}

#[tokio::test]
async fn a_probe_is_a_complete_request_on_the_wire() {
    let node = RawNode::start([respond("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let probe = Probe::get("/own?deep=1")
        .unwrap()
        .header("x-probe".parse().unwrap(), "yes".parse().unwrap())
        .expect(ResponseMatcher::status(StatusCode::NO_CONTENT));
    let endpoint = Endpoint::http("0", &node.address().to_string()).unwrap();
    let cluster = Cluster::builder().endpoint(endpoint).build().unwrap();
    let _checker = HealthCheck::new(probe).start(&cluster).unwrap();
    let seen = node.wait_until(|seen| !seen.requests.is_empty()).await;
    let request = seen.texts()[0].to_lowercase();
    assert!(request.starts_with("get /own?deep=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {}\r\n", node.address())), "{request}");
    assert!(request.contains("\r\nuser-agent: kylin-lb/") && request.contains("\r\nx-probe: yes\r\n"), "{request}");
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_make_unhealthy_and_two_successes_make_healthy() {
    let nodes = ["q0", "q1"].map(KylinNode::new);
    let cluster = of(nodes.clone());
    let begun = Instant::now();
    let _checker = every_second(Probe::kylin_version()).start(&cluster).unwrap();
    let at = |millis| tokio::time::sleep_until(begun + Duration::from_millis(millis));
    at(100).await;
    assert_eq!(nodes.each_ref().map(|node| node.stats().requests), [1, 0], "the first probes are spread over a second");
    at(700).await;
    assert_eq!(nodes.each_ref().map(|node| node.stats().requests), [1, 1]);

    nodes[0].faults().inject(FaultScope::Everything, Fault::Html(StatusCode::SERVICE_UNAVAILABLE));
    let failure = ProbeFailure::Status(StatusCode::SERVICE_UNAVAILABLE);
    at(1_100).await;
    assert_eq!(state(&cluster, "0"), suspect(failure));
    assert_eq!(state(&cluster, "1"), HEALTHY);
    at(2_900).await;
    assert_eq!(state(&cluster, "0"), suspect(failure));
    at(3_100).await;
    assert_eq!(state(&cluster, "0"), unhealthy(failure));
    for _ in 0..4 {
        assert_eq!(pick(&cluster).unwrap().lease.endpoint().as_str(), "1");
    }
    nodes[0].faults().clear();
    at(4_100).await;
    assert_eq!(state(&cluster, "0"), unhealthy(failure));
    nodes[0].faults().inject_times(1, FaultScope::Everything, Fault::Close);
    at(6_100).await;
    assert_eq!(state(&cluster, "0"), unhealthy(ProbeFailure::Broken), "good, bad, good is not two in a row");
    at(7_100).await;
    assert_eq!(state(&cluster, "0"), HEALTHY);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_endpoint_is_probed_at_the_fast_interval() {
    let node = KylinNode::new("q0");
    node.faults().inject(FaultScope::Everything, Fault::Close);
    let cluster = of([node.clone()]);
    let begun = Instant::now();
    let _checker =
        HealthCheck::new(Probe::kylin_version()).interval(Duration::from_secs(60)).jitter(0.0).start(&cluster).unwrap();
    sleep(Duration::from_millis(2_100)).await;
    assert_eq!((state(&cluster, "0"), node.stats().requests), (unhealthy(ProbeFailure::Broken), 3));
    node.faults().clear();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY, "one success after a minute, the second a second later");
    assert!(begun.elapsed() < Duration::from_secs(64));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_times_out_or_fails_has_its_node_probed_soon_and_ejects_no_endpoint() {
    let nodes = ["q0", "q1"].map(KylinNode::new);
    let endpoints = (0..).zip(nodes.clone()).map(|(id, node): (usize, _)| Endpoint::new(id.to_string(), node).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints.map(|endpoint| endpoint.max_fails(None))).build().unwrap();
    let checks = HealthCheck::new(Probe::kylin_version()).interval(Duration::from_secs(3_600)).jitter(0.0);
    let _checker = checks.start(&cluster).unwrap();
    sleep(Duration::from_secs(10)).await;
    let requests = || nodes.each_ref().map(|node| node.stats().requests);
    assert_eq!(requests(), [1, 1]);

    for _ in 0..20 {
        report(&cluster, "0", Outcome::Slow);
    }
    assert_eq!(state(&cluster, "0"), (HealthState::Suspect, Some(Reason::Slow)));
    assert_eq!((status(&cluster, "0").timed_out, status(&cluster, "0").failed), (20, 0));
    assert!(pick(&cluster).is_some_and(|_| pick(&cluster).is_some()), "it still serves");
    sleep(Duration::from_secs(1)).await;
    assert_eq!((requests(), state(&cluster, "0")), ([2, 1], HEALTHY), "the success of the probe ends it");

    report(&cluster, "1", Outcome::Failure);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(requests(), [2, 2]);
    // Regardless of how many come, there is one probe per fast interval.
    for _ in 0..100 {
        report(&cluster, "1", Outcome::Slow);
        sleep(Duration::from_millis(50)).await;
    }
    assert!((6..=8).contains(&requests()[1]), "{:?}", requests());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_not_reached_serves_a_quarter_of_a_second_after_it_accepts_connections() {
    for rule in [None, Some(NonZeroU32::MIN)] {
        let nodes = ["q0", "q1"].map(KylinNode::new);
        let endpoints = (0..).zip(nodes.clone()).map(|(id, node): (usize, _)| {
            Endpoint::new(id.to_string(), node).unwrap().max_fails(rule).fail_timeout(Duration::from_secs(3_600))
        });
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let check = HealthCheck::new(Probe::kylin_version()).interval(Duration::from_secs(3_600)).jitter(0.0);
        let _checker = check.start(&cluster).unwrap();
        sleep(Duration::from_secs(10)).await;
        let eject = |outcome| {
            while !status(&cluster, "0").ejected {
                report(&cluster, "0", outcome);
            }
        };
        eject(Outcome::Unreachable);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(state(&cluster, "0"), HEALTHY, "the first probe comes at once, and no request was needed");
        report(&cluster, "0", Outcome::Success);

        nodes[0].faults().inject(FaultScope::Everything, Fault::Unreachable);
        eject(Outcome::Unreachable);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(state(&cluster, "0"), unhealthy(ProbeFailure::Unreachable));
        sleep(Duration::from_secs(600)).await;
        nodes[0].faults().clear();
        sleep(Duration::from_millis(251)).await;
        assert_eq!(state(&cluster, "0"), HEALTHY, "one success suffices");
        report(&cluster, "0", Outcome::Success);

        eject(Outcome::Failure);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(state(&cluster, "0").0, HealthState::Ejected, "a probe says nothing about what the node responded");
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_of_concurrent_probes_is_bounded() {
    let under_way = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let node = |_| {
        let under_way = Arc::clone(&under_way);
        Scripted::new(move |_| {
            let under_way = Arc::clone(&under_way);
            async move {
                let now = under_way.0.fetch_add(1, Ordering::SeqCst) + 1;
                under_way.1.fetch_max(now, Ordering::SeqCst);
                sleep(Duration::from_millis(900)).await;
                under_way.0.fetch_sub(1, Ordering::SeqCst);
                Ok(Response::new(Body::empty()))
            }
        })
    };
    let nodes: Vec<_> = (0..12).map(node).collect();
    let cluster = of(nodes.clone());
    let _checker =
        HealthCheck::new(Probe::get("/").unwrap()).concurrency(NonZeroUsize::new(3).unwrap()).start(&cluster).unwrap();
    sleep(Duration::from_secs(4)).await;
    assert!(nodes.iter().all(|node| node.calls() == 1), "each was probed");
    assert_eq!(under_way.1.load(Ordering::SeqCst), 3);
    // From now on, jitter spreads the probes.
    sleep(Duration::from_secs(60)).await;
    assert!(
        nodes.iter().all(|node| (8..=12).contains(&node.calls())),
        "{:?}",
        nodes.iter().map(Scripted::calls).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_is_probed_at_once_and_admitted_by_its_first_success() {
    let nodes = ["q0", "q1"].map(KylinNode::new);
    let cluster = of([nodes[0].clone()]);
    let checker = every_second(Probe::kylin_version()).wait_for_first_success(true).start(&cluster).unwrap();
    assert!(pick(&cluster).is_none(), "no probe has ended");
    assert_eq!(state(&cluster, "0"), (HealthState::Unhealthy, Some(Reason::Unproven)));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY);

    nodes[1].faults().inject_times(2, FaultScope::Everything, Fault::Unreachable);
    cluster.add(Endpoint::new("1", nodes[1].clone()).unwrap()).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&cluster, "1"), unhealthy(ProbeFailure::Unreachable));
    assert!((0..4).all(|_| pick(&cluster).unwrap().lease.endpoint().as_str() == "0"));
    sleep(Duration::from_millis(2_000)).await;
    assert_eq!(state(&cluster, "1"), HEALTHY);

    // The result belongs to the id, so it survives a change of weight and a replacement of all
    // endpoints.
    nodes[1].faults().inject(FaultScope::Everything, Fault::Close);
    sleep(Duration::from_secs(3)).await;
    cluster.set_weight(&"1".parse().unwrap(), nonzero(3)).unwrap();
    cluster
        .replace(vec![Endpoint::new("1", nodes[1].clone()).unwrap(), Endpoint::new("0", nodes[0].clone()).unwrap()])
        .unwrap();
    assert_eq!(state(&cluster, "1"), unhealthy(ProbeFailure::Broken));
    cluster.remove(&"0".parse().unwrap()).unwrap();
    sleep(Duration::from_millis(10)).await;
    let probed = nodes[0].stats().requests;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(nodes[0].stats().requests, probed, "a removed endpoint is not probed");

    drop(checker);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&cluster, "1"), HEALTHY, "the result is forgotten, because nothing would ever withdraw it");
    let probed = nodes[1].stats().requests;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(nodes[1].stats().requests, probed);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_does_not_end_the_probing() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let node = Scripted::new(move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(call != 1, "this panic is part of the test");
            Ok(Response::new(Body::empty()))
        }
    });
    let cluster = of([node]);
    let _checker = every_second(Probe::get("/").unwrap()).start(&cluster).unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!((8..=11).contains(&calls.load(Ordering::SeqCst)), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_ends_during_a_probe_is_no_failure() {
    let node = Scripted::steps([
        Step::Fail(SendErrorKind::Stale),
        Step::Respond(StatusCode::OK, ""),
        Step::Fail(SendErrorKind::Limit),
    ]);
    let cluster = of([node.clone()]);
    let _checker = every_second(Probe::get("/").unwrap()).fall(NonZeroU32::MIN).start(&cluster).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!((node.calls(), state(&cluster, "0")), (2, HEALTHY));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY, "a full pool of connections says nothing about the node");
    assert_eq!(node.calls(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_probe_logs_in_once_and_a_rejected_login_is_not_repeated_soon() {
    let node = KylinNode::new("q0");
    let cluster = of([node.clone()]);
    let checker = every_second(query("select 1")).start(&cluster).unwrap();
    sleep(Duration::from_millis(20_500)).await;
    assert_eq!((node.stats().queries, node.stats().logins, node.sessions()), (21, 1, 1));
    node.forget_sessions();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        (node.stats().logins, state(&cluster, "0")),
        (2, HEALTHY),
        "and again when the node has forgotten the session"
    );
    drop(checker);

    let wrong = Probe::query("select 1", "learn_kylin", "ADMIN", "wrong").unwrap();
    let node = KylinNode::new("q1");
    let cluster = of([node.clone()]);
    let _checker = every_second(wrong).fall(NonZeroU32::MIN).start(&cluster).unwrap();
    sleep(Duration::from_secs(59)).await;
    assert_eq!(
        (node.stats().unauthorized, state(&cluster, "0")),
        (1, HEALTHY),
        "a rejected login says nothing about the node"
    );
    sleep(Duration::from_secs(59)).await;
    assert_eq!(node.stats().unauthorized, 2);
}

#[test]
fn no_debug_output_shows_credentials() {
    let probe = query("select 'hidden'").header("x-key".parse().unwrap(), "hidden".parse().unwrap());
    let text = format!("{:?} {:?}", probe, HealthCheck::new(probe.clone()));
    assert!(text.contains("/kylin/api/query") && text.contains("x-key"), "{text}");
    for secret in ["hidden", "KYLIN", "QURNSU46S1lMSU4", "Basic"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(Probe::get("kylin").is_err() && Probe::get("/a b").is_err() && Probe::get("http://x/").is_err());
    assert!(Probe::tcp().login("a:b", "").is_err());
}

#[tokio::test(start_paused = true)]
async fn traffic_follows_the_table_of_admin_state_and_health() {
    for (operational, admin_state) in
        [HealthState::Healthy, HealthState::Suspect, HealthState::Unhealthy, HealthState::Ejected].into_iter().flat_map(
            |operational| {
                [AdminState::Ready, AdminState::Drain, AdminState::Maintenance]
                    .map(|admin_state| (operational, admin_state))
            },
        )
    {
        let (node, other) = (KylinNode::new("q0"), KylinNode::new("q1"));
        let endpoints = [("0", node.clone()), ("1", other)]
            .map(|(id, node)| Endpoint::new(id, node).unwrap().max_fails(Some(NonZeroU32::MIN)));
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let _checker = every_second(Probe::kylin_version()).start(&cluster).unwrap();
        match operational {
            HealthState::Suspect => {
                node.faults().inject(FaultScope::Everything, Fault::Close);
                sleep(Duration::from_millis(500)).await;
            }
            HealthState::Unhealthy => {
                node.faults().inject(FaultScope::Everything, Fault::Close);
                sleep(Duration::from_secs(3)).await;
            }
            HealthState::Ejected => report(&cluster, "0", Outcome::Failure),
            _ => sleep(Duration::from_millis(500)).await,
        }
        assert_eq!(state(&cluster, "0").0, operational);
        let id = "0".parse().unwrap();
        match admin_state {
            AdminState::Drain => cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Drain).unwrap(),
            AdminState::Maintenance => {
                cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap()
            }
            _ => {}
        }
        assert_eq!(state(&cluster, "0").0, operational, "the axes are independent");
        let new = (0..8).any(|_| pick(&cluster).unwrap().lease.endpoint() == &id);
        assert_eq!(new, admin_state.admits(TrafficKind::New, operational), "{operational:?} {admin_state:?}");
        sleep(Duration::from_millis(1)).await;
        let before = node.stats().requests;
        sleep(Duration::from_secs(3)).await;
        let probed = node.stats().requests > before;
        assert_eq!(probed, admin_state.admits(TrafficKind::Probe, operational), "{operational:?} {admin_state:?}");
        let bound = admin_state != AdminState::Maintenance
            && matches!(operational, HealthState::Healthy | HealthState::Suspect);
        assert_eq!(admin_state.admits(TrafficKind::Bound, operational), bound);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_back_from_maintenance_waits_for_its_first_success() {
    let node = KylinNode::new("q0");
    let cluster = of([node.clone()]);
    let checker = every_second(Probe::kylin_version()).wait_for_first_success(true).start(&cluster).unwrap();
    sleep(Duration::from_millis(1)).await;
    let id = "0".parse().unwrap();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    node.faults().inject(FaultScope::Everything, Fault::Unreachable);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY, "it is not probed");
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&cluster, "0"), unhealthy(ProbeFailure::Unreachable));
    node.faults().clear();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY);

    node.faults().inject(FaultScope::Everything, Fault::Unreachable);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&cluster, "0").0, HealthState::Unhealthy);
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(checker);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(state(&cluster, "0"), HEALTHY, "the end of the probing also frees endpoints in maintenance");
}

#[tokio::test]
async fn a_killed_node_is_unhealthy_before_a_request_reaches_it_and_healthy_when_it_listens_again() {
    let (node, served) = demo("q0").await;
    let (_other, other) = demo("q1").await;
    let at = served.addr();
    let endpoints =
        [at, other.addr()].into_iter().enumerate().map(|(id, at)| front::endpoint(id, at, |backend| backend));
    let front = Front::of(endpoints, |proxy| proxy);
    let cluster = front.proxy.cluster().clone();
    let fast = Duration::from_millis(10);
    let checks = HealthCheck::new(Probe::kylin_version()).interval(fast).fast_interval(fast);
    let checker = checks.timeout(Duration::from_secs(5)).start(&cluster).unwrap();
    node.wait_until(|stats| stats.requests > 3).await.unwrap();
    served.kill().await;
    let what = || format!("{:?}", cluster.status());
    eventually(|| state(&cluster, "0") == unhealthy(ProbeFailure::Unreachable), what).await;
    for _ in 0..10 {
        assert_eq!(front.get("/kylin/api/admin/version").await.unwrap().status(), 200);
    }
    assert_eq!(status(&cluster, "0").failed, 0, "no request reached it");
    let served = node.serve(at).await.unwrap();
    eventually(|| state(&cluster, "0") == HEALTHY, what).await;
    drop((checker, served));
}

#[tokio::test(start_paused = true)]
async fn the_probing_ends_with_its_handle() {
    let node = KylinNode::new("q0");
    let cluster = of([node.clone()]);
    let checker = every_second(Probe::kylin_version()).start(&cluster).unwrap();
    // Half an interval after a probe, none is in flight.
    sleep(Duration::from_millis(10_500)).await;
    let probes = node.stats().requests;
    assert!(probes >= 10, "{probes}");
    drop(checker);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(node.stats().requests, probes);
}
