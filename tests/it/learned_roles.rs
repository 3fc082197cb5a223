//! Nodes and their roles are learned from Kylin's own lists.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Response, StatusCode};
use kylin_lb::balance::Attempted;
use kylin_lb::discovery::{self, Backoff, DiscoveredNode, DiscoveryHandle, KylinServers, SourceState};
use kylin_lb::endpoint::Role;
use kylin_lb::health::Reason;
use kylin_lb::probe::MetastoreCheck;
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Metastore, Mode, Served};
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, RequestView};
use tokio::time::timeout;

use crate::support::dialects::in_each_dialect;
use crate::support::front::{closed_port, eventually};
use crate::support::health::status;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster that begins with one node and follows the lists of its nodes.
struct Learning {
    cluster: Cluster<HttpBackend>,
    handle: DiscoveryHandle,
}

impl Learning {
    fn from(first: SocketAddr, password: &str) -> Self {
        let cluster = Cluster::builder().build().unwrap();
        let source = KylinServers::new(&cluster, [found(first)]).login("ADMIN", password).unwrap();
        let source = source.interval(Duration::from_millis(20)).unwrap().timeout(Duration::from_millis(500)).unwrap();
        let handle = discovery::watch_with(&cluster, source, DiscoveredNode::http, quick());
        Learning { cluster, handle }
    }

    /// `address role` of every endpoint, in some order.
    fn shown(&self) -> Vec<String> {
        let endpoints = self.cluster.status().endpoints;
        let mut shown: Vec<String> = endpoints.iter().map(|of| format!("{} {}", of.id, of.roles)).collect();
        shown.sort();
        shown
    }

    async fn becomes(&self, nodes: &[(SocketAddr, &str)]) {
        let mut wanted: Vec<String> = nodes.iter().map(|(address, roles)| format!("{address} {roles}")).collect();
        wanted.sort();
        eventually(|| self.shown() == wanted, || format!("{wanted:?}: {:?} {:?}", self.shown(), self.handle)).await;
    }

    async fn fails(&self, what: &str) {
        let failing = |status: &discovery::DiscoveryStatus| {
            status.source == SourceState::Failing && status.error.as_ref().is_some_and(|error| error.contains(what))
        };
        let came = timeout(TIMEOUT, self.handle.wait_until(failing)).await;
        assert!(came.is_ok(), "no {what:?}: {:?}", self.handle.status());
    }
}

/// Short delays after failures.
fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(10), Duration::from_millis(20)).unwrap()
}

fn found(address: SocketAddr) -> DiscoveredNode {
    DiscoveredNode::new(&address.to_string()).unwrap()
}

async fn node(name: &str, dialect: Dialect, mode: Mode, metastore: &Metastore) -> (KylinNode, Served) {
    let node = KylinNode::new(name).kylin_version(dialect).mode(mode).metastore(metastore);
    let served = node.serve(closed_port()).await.unwrap();
    (node, served)
}

/// Returns the nodes to which a request that needs `role` may go.
fn goes_to<B>(cluster: &Cluster<B>, role: Role) -> Vec<String> {
    let request = http::Request::get("/").body(()).unwrap();
    let view = RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7])).with_role(Some(role));
    let mut ids: Vec<String> = (0..20)
        .map(|_| cluster.pick(&view, &Attempted::none()).unwrap().lease.endpoint().as_str().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Returns whether the nodes list each other.
fn lists_nodes(dialect: Dialect) -> bool {
    !matches!(dialect, Dialect::Kap2_4 | Dialect::V2_6)
}

in_each_dialect!(nodes_and_their_roles_are_learned_from_any_node_of_either_generation, super::lists_nodes);
async fn nodes_and_their_roles_are_learned_from_any_node_of_either_generation(dialect: Dialect) {
    let metastore = Metastore::new();
    let (_q1, s1) = node("q1", dialect, Mode::Query, &metastore).await;
    let (q2, s2) = node("q2", dialect, Mode::All, &metastore).await;
    let (_j1, s3) = node("j1", dialect, Mode::Job, &metastore).await;
    let learning = Learning::from(s1.addr(), "KYLIN");
    learning.becomes(&[(s1.addr(), "query"), (s2.addr(), "all"), (s3.addr(), "job")]).await;
    let mut queries = [s1.addr().to_string(), s2.addr().to_string()];
    queries.sort();
    assert_eq!(goes_to(&learning.cluster, Role::Query), queries);
    assert!(!goes_to(&learning.cluster, Role::Job).contains(&s1.addr().to_string()));

    q2.set_mode(Mode::Job);
    learning.becomes(&[(s1.addr(), "query"), (s2.addr(), "job"), (s3.addr(), "job")]).await;
    let (_q4, s4) = node("q4", dialect, Mode::Query, &metastore).await;
    learning.becomes(&[(s1.addr(), "query"), (s2.addr(), "job"), (s3.addr(), "job"), (s4.addr(), "query")]).await;
    // The first node is removed, and the others are asked.
    drop(s1);
    learning.becomes(&[(s2.addr(), "job"), (s3.addr(), "job"), (s4.addr(), "query")]).await;
}

in_each_dialect!(the_cluster_keeps_its_nodes_whatever_the_nodes_respond, V5);
async fn the_cluster_keeps_its_nodes_whatever_the_nodes_respond(dialect: Dialect) {
    let metastore = Metastore::new();
    let (q1, s1) = node("q1", dialect, Mode::Query, &metastore).await;
    let (q2, s2) = node("q2", dialect, Mode::Query, &metastore).await;
    let learning = Learning::from(s1.addr(), "KYLIN");
    let all = [(s1.addr(), "query"), (s2.addr(), "query")];
    learning.becomes(&all).await;
    for (fault, what) in [
        (Fault::Html(StatusCode::OK), "not a list of nodes"),
        (Fault::Html(StatusCode::NOT_FOUND), "not a list of nodes"),
        (Fault::Hang, "in time"),
        (Fault::Close, "unavailable"),
        (Fault::TruncateAfter(20), "ended within the response"),
    ] {
        for node in [&q1, &q2] {
            node.faults().clear();
            node.faults().inject(FaultScope::Everything, fault);
        }
        learning.fails(what).await;
        learning.becomes(&all).await;
    }
    // One node that lists them is enough.
    q2.faults().clear();
    q2.set_mode(Mode::All);
    learning.becomes(&[(s1.addr(), "query"), (s2.addr(), "all")]).await;
    metastore.set_down(true);
    learning.fails("not a list of nodes").await;
}

in_each_dialect!(a_rejected_login_is_not_sent_until_the_user_is_locked);
async fn a_rejected_login_is_not_sent_until_the_user_is_locked(dialect: Dialect) {
    let metastore = Metastore::new();
    let (q1, s1) = node("q1", dialect, Mode::Query, &metastore).await;
    let learning = Learning::from(s1.addr(), "wrong");
    learning.fails("denies access").await;
    // Many times the backoff.
    tokio::time::timeout(Duration::from_millis(300), q1.wait_until(|stats| stats.requests > 1)).await.unwrap_err();
    assert_eq!(q1.stats().wrong_passwords, 1);
    let shown = format!("{:?} {:?}", learning.handle.status(), learning.cluster);
    assert!(!shown.contains("wrong\""), "{shown}");
}

/// A source with one in-process node that always sends this list.
fn listing(list: &'static str, id: &str) -> (Cluster<Scripted>, DiscoveryHandle) {
    let node = Scripted::new(move |_| async move { Ok(Response::new(Body::from(list))) });
    let cluster = Cluster::builder().endpoint(Endpoint::new(id, node).unwrap()).build().unwrap();
    let source = KylinServers::new(&cluster, []).interval(Duration::from_millis(10)).unwrap();
    let handle = discovery::watch_with(
        &cluster,
        source,
        |found| found.endpoint(Scripted::responding(StatusCode::OK, "")),
        quick(),
    );
    (cluster, handle)
}

#[tokio::test]
async fn a_list_that_does_not_fit_is_not_used() {
    for (list, what) in [
        (r#"[{"host":"other:7070","mode":"all"}]"#, "as Kylin names them"),
        (r#"[{"host":"q1:7070","mode":"all"},{"host":"localhost:7070","mode":"all"}]"#, "kylin.server.host-address"),
        (r#"[{"host":"q1:7070","mode":"all"},{"host":"q2:7070","mode":"chief"}]"#, "mode of entry 2"),
        (r#"[{"host":"q1:7070","mode":"all"},{"host":"http://q2","mode":"all"}]"#, "entry 2"),
    ] {
        let (cluster, handle) = listing(list, "q1:7070");
        let failing =
            |status: &discovery::DiscoveryStatus| status.error.as_ref().is_some_and(|error| error.contains(what));
        let came = timeout(TIMEOUT, handle.wait_until(failing)).await;
        assert!(came.is_ok(), "no {what:?}: {:?}", handle.status());
        assert_eq!(cluster.status().endpoints.len(), 1);
    }
    let (cluster, handle) = listing("[]", "q1:7070");
    timeout(TIMEOUT, handle.wait_until(|status| status.source == SourceState::Empty)).await.unwrap();
    assert_eq!(cluster.status().endpoints.len(), 1);
    let (cluster, _handle) = listing(r#"[{"host":"Q1:7070","mode":"job"},{"host":"q2:7070","mode":"job"}]"#, "q1:7070");
    eventually(|| cluster.status().endpoints.len() == 2, || format!("{:?}", cluster.status())).await;
    assert_eq!(status(&cluster, "q1:7070").roles.to_string(), "all", "what the operator configured stays");
    assert_eq!(status(&cluster, "q2:7070").roles.to_string(), "job");
}

in_each_dialect!(a_node_of_another_metastore_is_not_asked_for_its_list, V5);
async fn a_node_of_another_metastore_is_not_asked_for_its_list(dialect: Dialect) {
    let cookie = |digit: &str| digit.repeat(64);
    let right = Metastore::new().identity("right@jdbc", &cookie("a"));
    let wrong = Metastore::new().identity("wrong@jdbc", &cookie("b"));
    let (q1, s1) = node("q1", dialect, Mode::Query, &right).await;
    let (_x, sx) = node("x", dialect, Mode::Query, &wrong).await;
    let (_y, sy) = node("y", dialect, Mode::Query, &wrong).await;
    let cluster: Cluster<HttpBackend> = Cluster::builder().build().unwrap();
    let _checker = MetastoreCheck::new().interval(Duration::from_millis(20)).start(&cluster).unwrap();
    cluster.add(found(s1.addr()).http().unwrap()).unwrap();
    let serves = || status(&cluster, &s1.addr().to_string()).reason.is_none();
    eventually(serves, || format!("{:?}", cluster.status())).await;
    cluster.add(found(sx.addr()).http().unwrap()).unwrap();
    let source = KylinServers::new(&cluster, []).login("ADMIN", "KYLIN").unwrap();
    let source = source.interval(Duration::from_millis(10)).unwrap();
    let _handle = discovery::watch_with(&cluster, source, DiscoveredNode::http, quick());
    let is_foreign = || matches!(status(&cluster, &sx.addr().to_string()).reason, Some(Reason::Quarantined(_)));
    eventually(is_foreign, || format!("{:?}", cluster.status())).await;
    let requests = q1.stats().requests;
    q1.wait_until(|stats| stats.requests > requests + 30).await.unwrap();
    assert!(is_foreign(), "{:?}", cluster.status());
    let foreign = cluster.status().endpoints.iter().any(|endpoint| endpoint.id.as_str() == sy.addr().to_string());
    assert!(!foreign, "{:?}", cluster.status());
}
