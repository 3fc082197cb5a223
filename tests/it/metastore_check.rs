//! A node of another metastore is quarantined, and serves again when it has the right one.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use kylin_lb::balance::Attempted;
use kylin_lb::health::{HealthState, Mismatch, Reason};
use kylin_lb::kylin::MetadataUrl;
use kylin_lb::probe::{HealthCheck, MetastoreCheck, MetastoreChecker, Probe};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Metastore};
use kylin_lb::{Body, Cluster, Endpoint, Outcome};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{demo, endpoint, eventually};
use crate::support::health::{pick, report, shares, state};
use crate::support::subscriber::ask_every_subscriber;

const HEALTHY: (HealthState, Option<Reason>) = (HealthState::Healthy, None);
const UNVERIFIED: (HealthState, Option<Reason>) = (HealthState::Unhealthy, Some(Reason::Unverified));

fn quarantined(mismatch: Mismatch) -> (HealthState, Option<Reason>) {
    (HealthState::Unhealthy, Some(Reason::Quarantined(mismatch)))
}

fn url(identifier: &str) -> String {
    format!("{identifier}@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=metastore-secret")
}

/// A metastore with its own URL and cookie.
fn metastore(identifier: &str) -> Metastore {
    let cookie = MetadataUrl::parse(&url(identifier)).session_cookie();
    Metastore::new().identity(&url(identifier), &cookie)
}

fn node(name: &str, version: Dialect, metastore: &Metastore) -> KylinNode {
    KylinNode::new(name).kylin_version(version).metastore(metastore)
}

fn of<B>(nodes: impl IntoIterator<Item = (&'static str, B)>) -> Cluster<B> {
    let endpoints = nodes.into_iter().map(|(id, node)| Endpoint::new(id, node).unwrap());
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

fn every_20_ms() -> MetastoreCheck {
    MetastoreCheck::new().interval(Duration::from_millis(20))
}

fn as_administrator() -> MetastoreCheck {
    every_20_ms().login("ADMIN", "KYLIN").unwrap()
}

async fn becomes<B>(cluster: &Cluster<B>, id: &str, wanted: (HealthState, Option<Reason>)) {
    eventually(|| state(cluster, id) == wanted, || format!("{id} {wanted:?}: {:?}", cluster.status())).await;
}

/// Waits until all of these are healthy.
async fn become_healthy<B>(cluster: &Cluster<B>, ids: &[&str]) {
    for id in ids {
        becomes(cluster, id, HEALTHY).await;
    }
}

/// Waits until `node` has got this many more requests.
async fn checked(node: &KylinNode, times: u64) {
    let requests = node.stats().requests;
    node.wait_until(|stats| stats.requests >= requests + times).await.unwrap();
}

in_each_dialect!(a_node_of_another_metastore_gets_no_request_until_it_has_the_right_one);
async fn a_node_of_another_metastore_gets_no_request_until_it_has_the_right_one(dialect: Dialect) {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let [one, two] = ["q1", "q2"].map(|name| node(name, dialect, &right));
    let cluster = of([("q1", one), ("q2", two)]);
    let check = if is_v5(dialect) { every_20_ms() } else { as_administrator() };
    let mismatch = if is_v5(dialect) { Mismatch::SessionCookie } else { Mismatch::MetadataUrl };
    let _checker = check.start(&cluster).unwrap();
    assert_eq!((state(&cluster, "q1"), state(&cluster, "q2")), (UNVERIFIED, UNVERIFIED));
    assert!(pick(&cluster).is_none(), "no endpoint serves before its check");
    become_healthy(&cluster, &["q1", "q2"]).await;

    let foreign = node("q3", dialect, &wrong);
    cluster.add(Endpoint::new("q3", foreign.clone()).unwrap()).unwrap();
    assert_eq!(state(&cluster, "q3"), UNVERIFIED, "at once, before any task has run");
    assert_eq!(shares(&cluster, 90), [45, 45, 0]);
    becomes(&cluster, "q3", quarantined(mismatch)).await;
    checked(&foreign, 6).await;
    assert_eq!(state(&cluster, "q3"), quarantined(mismatch));
    assert_eq!(shares(&cluster, 90), [45, 45, 0]);
    assert_eq!(foreign.stats().queries, 0);

    let _ = foreign.clone().metastore(&right);
    becomes(&cluster, "q3", HEALTHY).await;
    assert_eq!(shares(&cluster, 90), [30, 30, 30]);
    let _ = foreign.metastore(&wrong);
    becomes(&cluster, "q3", quarantined(mismatch)).await;
    assert_eq!(shares(&cluster, 90), [45, 45, 0]);
}

in_each_dialect!(the_ids_of_projects_decide_where_there_is_no_other_evidence, V4);
async fn the_ids_of_projects_decide_where_there_is_no_other_evidence(dialect: Dialect) {
    let (right, wrong) = (Metastore::new(), Metastore::new());
    let nodes = [("q1", &right), ("q2", &wrong), ("q3", &right)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, dialect, metastore))));
    let _checker = every_20_ms().login("ANALYST", "ANALYST").unwrap().start(&cluster).unwrap();
    become_healthy(&cluster, &["q1", "q3"]).await;
    becomes(&cluster, "q2", quarantined(Mismatch::Project)).await;
}

in_each_dialect!(a_node_that_cannot_be_compared_is_not_quarantined, V4);
async fn a_node_that_cannot_be_compared_is_not_quarantined(dialect: Dialect) {
    let (one, two) = (metastore("one"), metastore("two"));
    let old = |name, metastore| node(name, dialect, metastore);
    let no_login = of([("q1", old("q1", &one)), ("q2", old("q2", &two))]);
    let _checker = every_20_ms().start(&no_login).unwrap();
    become_healthy(&no_login, &["q1", "q2"]).await;

    let wrong_password = of([("q1", old("q1", &one)), ("q2", old("q2", &two))]);
    let _checker = every_20_ms().login("ADMIN", "wrong").unwrap().start(&wrong_password).unwrap();
    become_healthy(&wrong_password, &["q1", "q2"]).await;

    let nodes = ["q1", "q2", "q3", "q4", "q5"].map(|name| (name, old(name, &two)));
    for ((_, node), fault) in nodes.iter().zip([
        Fault::Unreachable,
        Fault::Close,
        Fault::Html(StatusCode::NOT_FOUND),
        Fault::Html(StatusCode::OK),
        Fault::TruncateAfter(10),
    ]) {
        node.faults().inject(FaultScope::Everything, fault);
    }
    let faulty = of(nodes);
    faulty.add(Endpoint::new("q0", old("q0", &one)).unwrap()).unwrap();
    let _checker = as_administrator().start(&faulty).unwrap();
    become_healthy(&faulty, &["q0", "q1", "q2", "q3", "q4", "q5"]).await;
}

#[tokio::test]
async fn a_node_that_hangs_delays_the_others_no_longer_than_the_timeout_and_is_checked_when_it_is_back() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let hung = node("q1", Dialect::V5_0, &wrong);
    hung.faults().inject(FaultScope::Everything, Fault::Hang);
    let [q2, q3] = ["q2", "q3"].map(|name| node(name, Dialect::V5_0, &right));
    let cluster = of([("q1", hung.clone()), ("q2", q2), ("q3", q3)]);
    let _checker = every_20_ms().timeout(Duration::from_millis(50)).start(&cluster).unwrap();
    become_healthy(&cluster, &["q1", "q2", "q3"]).await;
    hung.faults().clear();
    becomes(&cluster, "q1", quarantined(Mismatch::SessionCookie)).await;
    // No response is no evidence against the node.
    hung.faults().inject(FaultScope::Everything, Fault::Unreachable);
    checked(&hung, 0).await;
    tokio::time::timeout(Duration::from_millis(100), becomes(&cluster, "q1", HEALTHY)).await.unwrap_err();
}

#[tokio::test]
async fn most_nodes_admit_each_other_while_one_hangs() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let hung = node("q1", Dialect::V5_0, &wrong);
    hung.faults().inject(FaultScope::Everything, Fault::Hang);
    let [q2, q3] = ["q2", "q3"].map(|name| node(name, Dialect::V5_0, &right));
    let cluster = of([("q1", hung), ("q2", q2), ("q3", q3)]);
    let _checker = every_20_ms().timeout(Duration::from_secs(3600)).start(&cluster).unwrap();
    become_healthy(&cluster, &["q2", "q3"]).await;
    assert_eq!(state(&cluster, "q1"), UNVERIFIED);
}

#[tokio::test]
async fn nodes_that_join_do_not_outvote_those_that_serve_but_a_configured_url_does() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let cluster = of([("q1", node("q1", Dialect::V5_0, &right))]);
    let checker = every_20_ms().start(&cluster).unwrap();
    become_healthy(&cluster, &["q1"]).await;
    for name in ["x1", "x2", "x3"] {
        cluster.add(Endpoint::new(name, node(name, Dialect::V5_0, &wrong)).unwrap()).unwrap();
        becomes(&cluster, name, quarantined(Mismatch::SessionCookie)).await;
    }
    assert_eq!(state(&cluster, "q1"), HEALTHY);

    let reference = MetadataUrl::parse(&url("right").replace("metastore-secret", "other"));
    let again = every_20_ms().reference(reference).start(&cluster).unwrap();
    drop(checker);
    become_healthy(&cluster, &["q1"]).await;
    becomes(&cluster, "x1", quarantined(Mismatch::SessionCookie)).await;
    drop(again);
    become_healthy(&cluster, &["q1", "x1", "x2", "x3"]).await;

    // Most of the first nodes have the other metastore.
    let _checker = every_20_ms().start(&cluster).unwrap();
    becomes(&cluster, "q1", quarantined(Mismatch::SessionCookie)).await;
    become_healthy(&cluster, &["x1", "x2", "x3"]).await;
}

#[tokio::test]
async fn a_tie_quarantines_no_node_and_warns() {
    let log = Log::default();
    let _guard = log.record();
    let (one, two) = (metastore("one"), metastore("two"));
    let nodes = [("q1", &one), ("q2", &two)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, Dialect::V5_0, metastore))));
    let _checker = every_20_ms().start(&cluster).unwrap();
    become_healthy(&cluster, &["q1", "q2"]).await;
    let warned =
        || log.text().lines().filter(|line| line.contains("WARN") && line.contains("as many endpoints")).count();
    eventually(|| warned() == 1, || log.text()).await;

    cluster.add(Endpoint::new("q3", node("q3", Dialect::V5_0, &two)).unwrap()).unwrap();
    becomes(&cluster, "q1", quarantined(Mismatch::SessionCookie)).await;
    become_healthy(&cluster, &["q2", "q3"]).await;
    assert_eq!(warned(), 1, "{}", log.text());
}

#[tokio::test]
async fn a_named_node_is_the_reference_even_against_the_majority() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("x1", &wrong), ("x2", &wrong), ("q1", &right)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, Dialect::V5_0, metastore))));
    let _checker = every_20_ms().reference_node("q1".parse().unwrap()).start(&cluster).unwrap();
    becomes(&cluster, "q1", HEALTHY).await;
    for name in ["x1", "x2"] {
        becomes(&cluster, name, quarantined(Mismatch::SessionCookie)).await;
    }
    assert_eq!(shares(&cluster, 10), [0, 0, 10]);
}

#[tokio::test]
async fn a_configured_url_is_the_reference_even_against_the_majority() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("x1", &wrong), ("x2", &wrong), ("q1", &right)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, Dialect::V5_0, metastore))));
    let _checker = every_20_ms().reference(MetadataUrl::parse(&url("right"))).start(&cluster).unwrap();
    becomes(&cluster, "q1", HEALTHY).await;
    for name in ["x1", "x2"] {
        becomes(&cluster, name, quarantined(Mismatch::SessionCookie)).await;
    }
}

#[tokio::test]
async fn a_configured_url_that_no_node_has_leaves_the_decision_to_the_majority() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("q1", &right), ("q2", &right), ("q3", &wrong)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, Dialect::V5_0, metastore))));
    let _checker = every_20_ms().reference(MetadataUrl::parse(&url("mistyped"))).start(&cluster).unwrap();
    become_healthy(&cluster, &["q1", "q2"]).await;
    becomes(&cluster, "q3", quarantined(Mismatch::SessionCookie)).await;
}

#[tokio::test]
async fn panic_mode_never_overrides_a_quarantine_and_neither_does_a_bound_session() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("q1", &right), ("q2", &right), ("x", &wrong)];
    let endpoints = nodes.map(|(name, metastore)| {
        Endpoint::new(name, node(name, Dialect::V5_0, metastore)).unwrap().fail_timeout(Duration::MAX)
    });
    let cluster = Cluster::builder().endpoints(endpoints).panic_mode(true).build().unwrap();
    let _checker = every_20_ms().start(&cluster).unwrap();
    assert!(pick(&cluster).is_none(), "panic mode uses no node that is not verified");
    become_healthy(&cluster, &["q1", "q2"]).await;
    becomes(&cluster, "x", quarantined(Mismatch::SessionCookie)).await;
    for id in ["q1", "q2"] {
        report(&cluster, id, Outcome::Failure);
    }
    assert!(cluster.status().panicking);
    for _ in 0..20 {
        assert_ne!(pick(&cluster).unwrap().lease.endpoint().as_str(), "x");
    }
    let request = http::Request::get("/").body(()).unwrap();
    let view = kylin_lb::RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7]));
    assert_ne!(cluster.pick_bound(&view, &Attempted::none(), "x").unwrap().lease.endpoint().as_str(), "x");

    for id in ["q1", "q2"] {
        cluster.remove(&id.parse().unwrap()).unwrap();
    }
    assert_eq!(state(&cluster, "x"), quarantined(Mismatch::SessionCookie));
    assert!(pick(&cluster).is_none(), "not even where no other endpoint is left");
}

#[tokio::test]
async fn probes_and_the_metastore_check_are_independent() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let foreign = node("x", Dialect::V5_0, &wrong);
    let nodes =
        [("q1", node("q1", Dialect::V5_0, &right)), ("q2", node("q2", Dialect::V5_0, &right)), ("x", foreign.clone())];
    let cluster = of(nodes);
    let probes = HealthCheck::new(Probe::kylin5_health())
        .interval(Duration::from_millis(10))
        .rise(NonZeroU32::MIN)
        .fall(NonZeroU32::MIN);
    let _probes = probes.start(&cluster).unwrap();
    let _checker = every_20_ms().start(&cluster).unwrap();
    becomes(&cluster, "x", quarantined(Mismatch::SessionCookie)).await;
    checked(&foreign, 5).await;
    assert_eq!(state(&cluster, "x"), quarantined(Mismatch::SessionCookie), "good probes end no quarantine");
    foreign.faults().set_metastore_down(true);
    let _ = foreign.metastore(&right);
    let unhealthy =
        |cluster: &Cluster<KylinNode>| matches!(state(cluster, "x"), (HealthState::Unhealthy, Some(Reason::Probe(_))));
    eventually(|| unhealthy(&cluster), || format!("{:?}", cluster.status())).await;
    assert_eq!(shares(&cluster, 10), [5, 5, 0]);
}

#[tokio::test]
async fn an_endpoint_that_returns_from_maintenance_or_at_another_address_is_checked_first() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let (q1, s1) = demo("q1").await;
    let (q2, s2) = demo("q2").await;
    let (x, sx) = demo("x").await;
    for (node, metastore) in [(&q1, &right), (&q2, &right), (&x, &wrong)] {
        let _ = node.clone().kylin_version(Dialect::V5_0).metastore(metastore);
    }
    let at = |served: &kylin_lb::testing::kylin::Served| Endpoint::http("q2", &served.addr().to_string()).unwrap();
    let cluster =
        Cluster::builder().endpoint(endpoint(1, s1.addr(), |backend| backend)).endpoint(at(&s2)).build().unwrap();
    let _checker = every_20_ms().start(&cluster).unwrap();
    become_healthy(&cluster, &["1", "q2"]).await;

    let id = at(&s2).id().clone();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    let _ = q2.clone().metastore(&wrong);
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    assert_eq!(state(&cluster, "q2"), UNVERIFIED, "at once");
    becomes(&cluster, "q2", quarantined(Mismatch::SessionCookie)).await;
    let _ = q2.metastore(&right);
    become_healthy(&cluster, &["1", "q2"]).await;

    cluster.replace(vec![endpoint(1, s1.addr(), |backend| backend), at(&s2)]).unwrap();
    assert_eq!((state(&cluster, "1"), state(&cluster, "q2")), (HEALTHY, HEALTHY), "they are the same nodes");
    cluster.replace(vec![endpoint(1, s1.addr(), |backend| backend), at(&sx)]).unwrap();
    assert_eq!(state(&cluster, "q2"), UNVERIFIED, "the id is that of another node now");
    becomes(&cluster, "q2", quarantined(Mismatch::SessionCookie)).await;
}

#[tokio::test]
async fn a_wrong_password_is_not_sent_until_the_user_is_locked() {
    let store = metastore("right");
    let nodes = ["q1", "q2", "q3", "q4"].map(|name| (name, node(name, Dialect::V5_0, &store)));
    let cluster = of(nodes.clone());
    let _checker = every_20_ms().login("ADMIN", "wrong").unwrap().start(&cluster).unwrap();
    become_healthy(&cluster, &["q1", "q2", "q3", "q4"]).await;
    for (_, node) in &nodes {
        checked(node, 5).await;
    }
    let wrong: u64 = nodes.iter().map(|(_, node)| node.stats().wrong_passwords).sum();
    assert_eq!(wrong, 2, "Kylin 5 locks at the third");
}

in_each_dialect!(all_checks_of_a_node_share_one_session);
async fn all_checks_of_a_node_share_one_session(dialect: Dialect) {
    let store = metastore("right");
    let node = node("q1", dialect, &store);
    let cluster = of([("q1", node.clone())]);
    let _checker = as_administrator().start(&cluster).unwrap();
    checked(&node, 30).await;
    assert_eq!((node.stats().logins, node.sessions()), (1, 1));
}

#[tokio::test]
async fn hostile_responses_and_backends_that_panic_do_no_harm() {
    let huge = Scripted::new(|_| async { Ok(http::Response::new(Body::from("[".repeat(2_000_000)))) });
    let deep = Scripted::new(|_| async { Ok(http::Response::new(Body::from("[".repeat(100_000)))) });
    let panics = Scripted::new(|_| async { panic!("this panic is part of the test") });
    let cluster = of([("huge", huge), ("deep", deep), ("panics", panics)]);
    let _checker = as_administrator().start(&cluster).unwrap();
    become_healthy(&cluster, &["huge", "deep", "panics"]).await;
}

#[tokio::test]
async fn it_ends_with_its_handle_and_all_endpoints_may_serve() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let [q1, q2] = ["q1", "q2"].map(|name| node(name, Dialect::V5_0, &right));
    let cluster = of([("q1", q1), ("q2", q2), ("x", node("x", Dialect::V5_0, &wrong))]);
    let checker: MetastoreChecker = every_20_ms().start(&cluster).unwrap();
    becomes(&cluster, "x", quarantined(Mismatch::SessionCookie)).await;
    drop(checker);
    become_healthy(&cluster, &["q1", "x"]).await;
    cluster.add(Endpoint::new("x2", node("x2", Dialect::V5_0, &wrong)).unwrap()).unwrap();
    assert_eq!(state(&cluster, "x2"), HEALTHY);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Writes all events of this thread to the log.
    fn record(&self) -> tracing::subscriber::DefaultGuard {
        ask_every_subscriber();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[tokio::test]
async fn the_log_shows_the_difference_once_and_no_secret() {
    let log = Log::default();
    let _guard = log.record();
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let foreign = node("x", Dialect::V3_1, &wrong);
    let [q1, q2] = ["q1", "q2"].map(|name| node(name, Dialect::V3_1, &right));
    let cluster = of([("q1", q1), ("q2", q2), ("x", foreign.clone())]);
    let check = as_administrator();
    let mut shown = format!("{check:?}");
    let checker = check.start(&cluster).unwrap();
    becomes(&cluster, "x", quarantined(Mismatch::MetadataUrl)).await;
    checked(&foreign, 6).await;
    shown += &format!("{checker:?} {:?} {}", cluster.status(), state(&cluster, "x").1.unwrap());
    let text = log.text();
    let quarantined: Vec<&str> = text.lines().filter(|line| line.contains("quarantined")).collect();
    assert_eq!(quarantined.len(), 1, "{text}");
    for word in ["WARN", "endpoint=x", "wrong@jdbc", "right@jdbc", "jdbc:mysql://db:3306/kylin", "password=***"] {
        assert!(quarantined[0].contains(word), "{word}: {}", quarantined[0]);
    }
    shown += &text;
    let session = format!("{}=", MetadataUrl::parse(&url("right")).session_cookie());
    for secret in ["metastore-secret", "KYLIN\"", "QURNSU46S1lMSU4", "JSESSIONID", &session] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}
