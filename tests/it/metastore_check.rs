//! A node of another cluster is kept out, whatever brought it here, and let in when it is right.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use kylin_lb::balance::Attempted;
use kylin_lb::health::{HealthState, Mismatch, Reason};
use kylin_lb::kylin::metadata_url::MetadataUrl;
use kylin_lb::probe::{HealthCheck, MetastoreCheck, MetastoreChecker, Probe};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Fault, KylinNode, KylinVersion, Metastore, Reach};
use kylin_lb::{Body, Cluster, Endpoint, Outcome};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::front::{demo, endpoint, eventually};
use crate::support::health::{pick, report, shares, state};

const UP: (HealthState, Option<Reason>) = (HealthState::Healthy, None);
const UNCHECKED: (HealthState, Option<Reason>) = (HealthState::Unhealthy, Some(Reason::Unchecked));

fn out(sign: Mismatch) -> (HealthState, Option<Reason>) {
    (HealthState::Unhealthy, Some(Reason::OtherMetastore(sign)))
}

fn url(identifier: &str) -> String {
    format!("{identifier}@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=metastore-secret")
}

/// A metastore whose URL and cookie are its own.
fn metastore(identifier: &str) -> Metastore {
    let cookie = MetadataUrl::parse(&url(identifier)).session_cookie();
    Metastore::new().identity(&url(identifier), &cookie)
}

fn node(name: &str, dialect: KylinVersion, metastore: &Metastore) -> KylinNode {
    KylinNode::new(name).dialect(dialect).metastore(metastore)
}

fn of<B>(nodes: impl IntoIterator<Item = (&'static str, B)>) -> Cluster<B> {
    let endpoints = nodes.into_iter().map(|(id, node)| Endpoint::new(id, node).unwrap());
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

fn quick() -> MetastoreCheck {
    MetastoreCheck::new().interval(Duration::from_millis(20)).fast_interval(Duration::from_millis(20))
}

fn as_admin() -> MetastoreCheck {
    quick().login("ADMIN", "KYLIN").unwrap()
}

async fn becomes<B>(cluster: &Cluster<B>, id: &str, wanted: (HealthState, Option<Reason>)) {
    eventually(|| state(cluster, id) == wanted, || format!("{id} {wanted:?}: {:?}", cluster.status())).await;
}

/// All of these are up.
async fn are_up<B>(cluster: &Cluster<B>, ids: &[&str]) {
    for id in ids {
        becomes(cluster, id, UP).await;
    }
}

async fn looked_at(node: &KylinNode, times: u64) {
    let requests = node.stats().requests;
    node.wait_until(|stats| stats.requests >= requests + times).await.unwrap();
}

#[tokio::test]
async fn a_node_of_another_cluster_never_gets_a_request_and_is_let_in_when_it_is_right() {
    for dialect in [KylinVersion::V4, KylinVersion::V5] {
        let (right, wrong) = (metastore("right"), metastore("wrong"));
        let [one, two] = ["q1", "q2"].map(|name| node(name, dialect, &right));
        let cluster = of([("q1", one), ("q2", two)]);
        let checks = match dialect {
            KylinVersion::V5 => quick(),
            _ => as_admin(),
        };
        let sign = if dialect == KylinVersion::V5 { Mismatch::SessionCookie } else { Mismatch::MetadataUrl };
        let _checker = checks.start(&cluster);
        assert_eq!((state(&cluster, "q1"), state(&cluster, "q2")), (UNCHECKED, UNCHECKED));
        assert!(pick(&cluster).is_none(), "nobody serves before the first look");
        are_up(&cluster, &["q1", "q2"]).await;

        let stranger = node("q3", dialect, &wrong);
        cluster.add(Endpoint::new("q3", stranger.clone()).unwrap()).unwrap();
        assert_eq!(state(&cluster, "q3"), UNCHECKED, "at once, before any task has run");
        assert_eq!(shares(&cluster, 90), [45, 45, 0]);
        becomes(&cluster, "q3", out(sign)).await;
        looked_at(&stranger, 6).await;
        assert_eq!(state(&cluster, "q3"), out(sign));
        assert_eq!(shares(&cluster, 90), [45, 45, 0]);
        assert_eq!(stranger.stats().queries, 0);

        let _ = stranger.clone().metastore(&right);
        becomes(&cluster, "q3", UP).await;
        assert_eq!(shares(&cluster, 90), [30, 30, 30]);
        let _ = stranger.metastore(&wrong);
        becomes(&cluster, "q3", out(sign)).await;
        assert_eq!(shares(&cluster, 90), [45, 45, 0]);
    }
}

#[tokio::test]
async fn projects_tell_where_nothing_else_does() {
    let (right, wrong) = (Metastore::new(), Metastore::new());
    let nodes = [("q1", &right), ("q2", &wrong), ("q3", &right)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, KylinVersion::V4, metastore))));
    let _checker = quick().login("ANALYST", "ANALYST").unwrap().start(&cluster);
    are_up(&cluster, &["q1", "q3"]).await;
    becomes(&cluster, "q2", out(Mismatch::Project)).await;
}

#[tokio::test]
async fn what_cannot_be_known_keeps_nobody_out() {
    let (one, two) = (metastore("one"), metastore("two"));
    let old = |name, metastore| node(name, KylinVersion::V4, metastore);
    let blind = of([("q1", old("q1", &one)), ("q2", old("q2", &two))]);
    let _checker = quick().start(&blind);
    are_up(&blind, &["q1", "q2"]).await;

    let locked = of([("q1", old("q1", &one)), ("q2", old("q2", &two))]);
    let _checker = quick().login("ADMIN", "wrong").unwrap().start(&locked);
    are_up(&locked, &["q1", "q2"]).await;

    let nodes = ["q1", "q2", "q3", "q4", "q5"].map(|name| (name, old(name, &two)));
    for ((_, node), fault) in nodes.iter().zip([
        Fault::Unreachable,
        Fault::Close,
        Fault::Html(StatusCode::NOT_FOUND),
        Fault::Html(StatusCode::OK),
        Fault::TruncateAfter(10),
    ]) {
        node.faults().inject(Reach::Everything, fault);
    }
    let ill = of(nodes);
    ill.add(Endpoint::new("q0", old("q0", &one)).unwrap()).unwrap();
    let _checker = as_admin().start(&ill);
    are_up(&ill, &["q0", "q1", "q2", "q3", "q4", "q5"]).await;
}

#[tokio::test]
async fn a_node_that_hangs_holds_nobody_up_for_longer_than_the_timeout_and_is_looked_at_when_it_is_back() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let hung = node("q1", KylinVersion::V5, &wrong);
    hung.faults().inject(Reach::Everything, Fault::Hang);
    let cluster = of([("q1", hung.clone()), ("q2", node("q2", KylinVersion::V5, &right))]);
    let _checker = quick().timeout(Duration::from_millis(50)).start(&cluster);
    are_up(&cluster, &["q1", "q2"]).await;
    hung.faults().clear();
    becomes(&cluster, "q1", out(Mismatch::SessionCookie)).await;
    // Silence afterwards is no proof of the contrary.
    hung.faults().inject(Reach::Everything, Fault::Unreachable);
    looked_at(&hung, 0).await;
    tokio::time::timeout(Duration::from_millis(100), becomes(&cluster, "q1", UP)).await.unwrap_err();
}

#[tokio::test]
async fn the_first_nodes_are_not_outvoted_by_those_that_join_but_a_reference_outvotes_all() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let cluster = of([("q1", node("q1", KylinVersion::V5, &right))]);
    let checker = quick().start(&cluster);
    are_up(&cluster, &["q1"]).await;
    for name in ["x1", "x2", "x3"] {
        cluster.add(Endpoint::new(name, node(name, KylinVersion::V5, &wrong)).unwrap()).unwrap();
        becomes(&cluster, name, out(Mismatch::SessionCookie)).await;
    }
    assert_eq!(state(&cluster, "q1"), UP);

    let reference = MetadataUrl::parse(&url("right").replace("metastore-secret", "other"));
    let again = quick().reference(reference).start(&cluster);
    drop(checker);
    are_up(&cluster, &["q1"]).await;
    becomes(&cluster, "x1", out(Mismatch::SessionCookie)).await;
    drop(again);
    are_up(&cluster, &["q1", "x1", "x2", "x3"]).await;

    // Counted now, most are of the other one.
    let _checker = quick().start(&cluster);
    becomes(&cluster, "q1", out(Mismatch::SessionCookie)).await;
    are_up(&cluster, &["x1", "x2", "x3"]).await;
}

#[tokio::test]
async fn a_reference_that_no_node_has_keeps_nobody_out_that_the_majority_would_not() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("q1", &right), ("q2", &right), ("q3", &wrong)];
    let cluster = of(nodes.map(|(name, metastore)| (name, node(name, KylinVersion::V5, metastore))));
    let _checker = quick().reference(MetadataUrl::parse(&url("mistyped"))).start(&cluster);
    are_up(&cluster, &["q1", "q2"]).await;
    becomes(&cluster, "q3", out(Mismatch::SessionCookie)).await;
}

#[tokio::test]
async fn a_stranger_serves_nobody_in_panic_mode_nor_a_session_that_is_bound_to_it() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let nodes = [("q1", &right), ("q2", &right), ("x", &wrong)];
    let endpoints = nodes.map(|(name, metastore)| {
        Endpoint::new(name, node(name, KylinVersion::V5, metastore)).unwrap().fail_timeout(Duration::MAX)
    });
    let cluster = Cluster::builder().endpoints(endpoints).panic_mode(true).build().unwrap();
    let _checker = quick().start(&cluster);
    assert!(pick(&cluster).is_none(), "no panic over nodes that nobody has looked at");
    are_up(&cluster, &["q1", "q2"]).await;
    becomes(&cluster, "x", out(Mismatch::SessionCookie)).await;
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
}

#[tokio::test]
async fn probes_have_their_say_beside_it_and_neither_takes_back_what_the_other_said() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let stranger = node("x", KylinVersion::V5, &wrong);
    let nodes = [
        ("q1", node("q1", KylinVersion::V5, &right)),
        ("q2", node("q2", KylinVersion::V5, &right)),
        ("x", stranger.clone()),
    ];
    let cluster = of(nodes);
    let probes = HealthCheck::new(Probe::kylin5_health()).interval(Duration::from_millis(10)).rise(1).fall(1);
    let _probes = probes.start(&cluster);
    let _checker = quick().start(&cluster);
    becomes(&cluster, "x", out(Mismatch::SessionCookie)).await;
    looked_at(&stranger, 5).await;
    assert_eq!(state(&cluster, "x"), out(Mismatch::SessionCookie), "good probes let nobody in");
    stranger.faults().set_metastore_down(true);
    let _ = stranger.metastore(&right);
    let down =
        |cluster: &Cluster<KylinNode>| matches!(state(cluster, "x"), (HealthState::Unhealthy, Some(Reason::Probe(_))));
    eventually(|| down(&cluster), || format!("{:?}", cluster.status())).await;
    assert_eq!(shares(&cluster, 10), [5, 5, 0]);
}

#[tokio::test]
async fn one_that_comes_back_from_maintenance_or_at_another_address_is_looked_at_first() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let (q1, s1) = demo("q1").await;
    let (q2, s2) = demo("q2").await;
    let (x, sx) = demo("x").await;
    for (node, metastore) in [(&q1, &right), (&q2, &right), (&x, &wrong)] {
        let _ = node.clone().dialect(KylinVersion::V5).metastore(metastore);
    }
    let at = |served: &kylin_lb::testing::kylin::Served| Endpoint::http("q2", &served.addr().to_string()).unwrap();
    let cluster =
        Cluster::builder().endpoint(endpoint(1, s1.addr(), |backend| backend)).endpoint(at(&s2)).build().unwrap();
    let _checker = quick().start(&cluster);
    are_up(&cluster, &["1", "q2"]).await;

    let id = at(&s2).id().clone();
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    becomes(&cluster, "q2", UNCHECKED).await;
    let _ = q2.clone().metastore(&wrong);
    cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    becomes(&cluster, "q2", out(Mismatch::SessionCookie)).await;
    let _ = q2.metastore(&right);
    are_up(&cluster, &["1", "q2"]).await;

    cluster.replace(vec![endpoint(1, s1.addr(), |backend| backend), at(&s2)]).unwrap();
    assert_eq!((state(&cluster, "1"), state(&cluster, "q2")), (UP, UP), "the same nodes again");
    cluster.replace(vec![endpoint(1, s1.addr(), |backend| backend).placement(s1.addr().to_string()), at(&sx)]).unwrap();
    assert_eq!(state(&cluster, "q2"), UNCHECKED, "the id stands for another node now");
    becomes(&cluster, "q2", out(Mismatch::SessionCookie)).await;
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_until_the_user_is_locked() {
    let store = metastore("right");
    let nodes = ["q1", "q2", "q3", "q4"].map(|name| (name, node(name, KylinVersion::V5, &store)));
    let cluster = of(nodes.clone());
    let _checker = quick().login("ADMIN", "wrong").unwrap().start(&cluster);
    are_up(&cluster, &["q1", "q2", "q3", "q4"]).await;
    for (_, node) in &nodes {
        looked_at(node, 5).await;
    }
    let wrong: u64 = nodes.iter().map(|(_, node)| node.stats().wrong_passwords).sum();
    assert_eq!(wrong, 2, "Kylin 5 locks at the third");
}

#[tokio::test]
async fn a_node_is_asked_with_one_session_however_often() {
    let store = metastore("right");
    for dialect in [KylinVersion::V4, KylinVersion::V5] {
        let node = node("q1", dialect, &store);
        let cluster = of([("q1", node.clone())]);
        let _checker = as_admin().start(&cluster);
        looked_at(&node, 30).await;
        assert_eq!((node.stats().logins, node.sessions()), (1, 1), "{dialect:?}");
    }
}

#[tokio::test]
async fn hostile_answers_and_backends_that_panic_harm_nobody() {
    let huge = Scripted::new(|_| async { Ok(http::Response::new(Body::from("[".repeat(2_000_000)))) });
    let deep = Scripted::new(|_| async { Ok(http::Response::new(Body::from("[".repeat(100_000)))) });
    let panics = Scripted::new(|_| async { panic!("a host's fault") });
    let cluster = of([("huge", huge), ("deep", deep), ("panics", panics)]);
    let _checker = as_admin().start(&cluster);
    are_up(&cluster, &["huge", "deep", "panics"]).await;
}

#[tokio::test]
async fn it_ends_with_its_handle_and_everybody_may_serve() {
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let cluster = of([("q1", node("q1", KylinVersion::V5, &right)), ("x", node("x", KylinVersion::V5, &wrong))]);
    let checker: MetastoreChecker = quick().start(&cluster);
    becomes(&cluster, "x", out(Mismatch::SessionCookie)).await;
    drop(checker);
    are_up(&cluster, &["q1", "x"]).await;
    cluster.add(Endpoint::new("x2", node("x2", KylinVersion::V5, &wrong)).unwrap()).unwrap();
    assert_eq!(state(&cluster, "x2"), UP);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
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
async fn the_log_says_what_differs_in_one_line_and_no_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (right, wrong) = (metastore("right"), metastore("wrong"));
    let stranger = node("x", KylinVersion::V4, &wrong);
    let cluster = of([("q1", node("q1", KylinVersion::V4, &right)), ("x", stranger.clone())]);
    let checks = as_admin();
    let mut shown = format!("{checks:?}");
    let checker = checks.start(&cluster);
    becomes(&cluster, "x", out(Mismatch::MetadataUrl)).await;
    looked_at(&stranger, 6).await;
    shown += &format!("{checker:?} {:?} {}", cluster.status(), state(&cluster, "x").1.unwrap());
    let said = log.text();
    let kept_out: Vec<&str> = said.lines().filter(|line| line.contains("kept out")).collect();
    assert_eq!(kept_out.len(), 1, "{said}");
    for word in ["WARN", "endpoint=x", "wrong@jdbc", "right@jdbc", "jdbc:mysql://db:3306/kylin", "password=***"] {
        assert!(kept_out[0].contains(word), "{word}: {}", kept_out[0]);
    }
    shown += &said;
    let session = format!("{}=", MetadataUrl::parse(&url("right")).session_cookie());
    for secret in ["metastore-secret", "KYLIN\"", "QURNSU46S1lMSU4", "JSESSIONID", &session] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}
