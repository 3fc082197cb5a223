//! The membership of a cluster under updates and failures of its source.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kylin_lb::balance::Attempted;
use kylin_lb::discovery::{
    self, Backoff, DiscoveredNode, Discovery, DiscoveryError, DiscoveryHandle, DiscoveryStatus, SourceState, StaticList,
};
use kylin_lb::endpoint::{AdminState, Role, Roles};
use kylin_lb::{Cluster, Endpoint, EndpointId, Proxy};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::cluster::{Nowhere, endpoint, nonzero, request};
use crate::support::front::{Front, demo};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A source that runs a script.
struct Scripted(mpsc::UnboundedReceiver<Step>);

#[derive(Debug)]
enum Step {
    Update(Vec<DiscoveredNode>),
    Fail(&'static str),
    Panic,
}

impl Discovery for Scripted {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        match self.0.recv().await {
            Some(Step::Update(nodes)) => Ok(nodes),
            Some(Step::Fail(why)) => {
                Err(DiscoveryError::Unavailable { location: "the source".into(), source: why.into() })
            }
            Some(Step::Panic) => panic!("a bug in the source"),
            None => std::future::pending().await,
        }
    }
}

/// A cluster that watches a scripted source.
struct Watched {
    cluster: Cluster<Nowhere>,
    handle: DiscoveryHandle,
    script: mpsc::UnboundedSender<Step>,
}

impl Watched {
    fn new() -> Self {
        Watched::with(Cluster::builder().build().unwrap(), |node| node.endpoint(Nowhere).map_err(Into::into))
    }

    fn with(
        cluster: Cluster<Nowhere>,
        make_endpoint: impl FnMut(&DiscoveredNode) -> Result<Endpoint<Nowhere>, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + 'static,
    ) -> Self {
        let (script, steps) = mpsc::unbounded_channel();
        let handle = discovery::watch_with(&cluster, Scripted(steps), make_endpoint, quick());
        Watched { cluster, handle, script }
    }

    /// Makes the source list these nodes, and waits until the cluster has them.
    async fn update(&self, nodes: impl IntoIterator<Item = DiscoveredNode>) -> DiscoveryStatus {
        let updates = self.handle.status().updates;
        self.step(Step::Update(nodes.into_iter().collect()), |status| status.updates == updates + 1).await
    }

    async fn step(&self, step: Step, test: impl Fn(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        self.script.send(step).expect("the source is watched");
        let reached = timeout(TIMEOUT, self.handle.wait_until(test)).await;
        reached.unwrap_or_else(|_| panic!("{:?}", self.handle.status()))
    }

    fn ids(&self) -> Vec<String> {
        self.cluster.status().endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect()
    }

    fn admin_state(&self, id: &str) -> AdminState {
        let status = self.cluster.status();
        status.endpoints.iter().find(|endpoint| endpoint.id.as_str() == id).expect(id).admin_state
    }
}

/// Short delays after failures.
fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(10), Duration::from_millis(20)).unwrap()
}

fn node(address: &str) -> DiscoveredNode {
    DiscoveredNode::new(address).unwrap()
}

fn id(text: &str) -> EndpointId {
    EndpointId::new(text).unwrap()
}

#[tokio::test]
async fn an_empty_failing_or_panicking_source_keeps_the_endpoints_and_recovers() {
    let watched = Watched::new();
    assert_eq!(watched.handle.status().source, SourceState::Waiting);
    watched.update([node("a:1"), node("b:1")]).await;
    assert_eq!(watched.handle.status().source, SourceState::Current);

    watched.step(Step::Update(vec![]), |status| status.source == SourceState::Empty).await;
    assert_eq!(watched.ids(), ["a:1", "b:1"]);
    let failing = watched.step(Step::Fail("cable cut"), |status| status.source == SourceState::Failing).await;
    assert_eq!(failing.error.as_deref(), Some("the source is unavailable: cable cut"));
    assert_eq!((failing.failures, failing.endpoints, failing.updates), (1, 2, 1));
    let panicked = watched.step(Step::Panic, |status| status.failures == 2).await;
    assert_eq!(panicked.error.as_deref(), Some("the source panicked"));
    assert_eq!(watched.ids(), ["a:1", "b:1"]);

    let status = watched.update([node("b:1"), node("c:1")]).await;
    assert_eq!((status.source, status.failures, status.error), (SourceState::Current, 0, None));
    assert_eq!(watched.ids(), ["b:1", "c:1"]);
}

#[tokio::test]
async fn live_state_survives_a_change_and_a_new_registration_of_a_node() {
    let watched = Watched::new();
    watched.update([node("a:1").with_source("/8f5b"), node("b:1")]).await;
    let (request, client) = (request("x"), std::net::IpAddr::from([192, 0, 2, 7]));
    let picked = watched.cluster.pick(&kylin_lb::RequestView::of(&request, client), &Attempted::none()).unwrap();
    let taken = picked.lease.endpoint().clone();
    let in_flight = |cluster: &Cluster<Nowhere>| {
        let flights = cluster.status().endpoints.into_iter().map(|e| (e.id.to_string(), e.in_flight));
        flights.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(in_flight(&watched.cluster)[taken.as_str()], 1);

    watched
        .update([node("A:01").with_source("/other"), node("b:1").with_weight(nonzero(7)).with_roles(Role::Job)])
        .await;
    assert_eq!(in_flight(&watched.cluster)[taken.as_str()], 1);
    let status = watched.cluster.status();
    assert_eq!((status.endpoints[1].weight, status.endpoints[1].roles), (7, Roles::only(Role::Job)));

    // The node leaves while a request is in flight, and comes back.
    watched.update([node("c:1")]).await;
    assert_eq!(watched.ids(), ["c:1"]);
    watched.update([node("a:1"), node("b:1")]).await;
    assert_eq!(in_flight(&watched.cluster)[taken.as_str()], 1);
    drop(picked);
    assert_eq!(watched.cluster.status().in_flight(), 0);
}

#[tokio::test]
async fn a_node_that_changes_its_settings_keeps_its_backend() {
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let watched = Watched::with(Cluster::builder().build().unwrap(), move |node| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(node.endpoint(Nowhere)?)
    });
    let (request, client) = (request("x"), std::net::IpAddr::from([192, 0, 2, 7]));
    let backend = || {
        watched
            .cluster
            .pick(&kylin_lb::RequestView::of(&request, client), &Attempted::none())
            .unwrap()
            .backend()
            .clone()
    };
    watched.update([node("a:1")]).await;
    let before = backend();
    watched.update([node("a:1").with_weight(nonzero(3))]).await;
    assert!(Arc::ptr_eq(&before, &backend()));
    assert_eq!(made.load(Ordering::SeqCst), 2);
    // An unchanged node gets no new endpoint.
    watched.update([node("a:1").with_weight(nonzero(3)).with_source("elsewhere"), node("b:1")]).await;
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn administrative_settings_survive_updates_of_the_membership() {
    let watched = Watched::new();
    let cluster = &watched.cluster;
    watched.update([node("a:1"), node("b:1"), node("c:1")]).await;
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id("b:1"), kylin_lb::endpoint::AdminState::Drain).unwrap();
    cluster.set_weight(&id("c:1"), nonzero(9)).unwrap();
    // New settings, a restart or another node do not put them in service.
    watched.update([node("a:1").with_weight(nonzero(5)), node("c:1"), node("d:1")]).await;
    watched.update([node("a:1"), node("b:1").with_weight(nonzero(2)), node("c:1")]).await;
    assert_eq!((watched.admin_state("a:1"), watched.admin_state("b:1")), (AdminState::Maintenance, AdminState::Drain));
    assert_eq!(cluster.status().endpoints[2].weight, 9, "a weight holds until the source changes it");
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Ready).unwrap();
    watched.update([node("a:1").with_weight(nonzero(5)), node("b:1"), node("c:1").with_weight(nonzero(3))]).await;
    assert_eq!((watched.admin_state("a:1"), watched.admin_state("b:1")), (AdminState::Ready, AdminState::Drain));
    assert_eq!(cluster.status().endpoints[2].weight, 3);

    // The stricter state wins: a drain of the source does not end maintenance, and its end does not
    // end a drain by the operator.
    watched.update([node("a:1").with_drain(true), node("b:1").with_drain(true)]).await;
    assert_eq!((watched.admin_state("a:1"), watched.admin_state("b:1")), (AdminState::Drain, AdminState::Drain));
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    watched.update([node("a:1"), node("b:1")]).await;
    assert_eq!((watched.admin_state("a:1"), watched.admin_state("b:1")), (AdminState::Maintenance, AdminState::Drain));
}

#[test]
fn administrative_settings_survive_a_replacement_of_the_membership() {
    let cluster = Cluster::builder().endpoint(endpoint("a")).endpoint(endpoint("b")).build().unwrap();
    cluster.set_admin_state(&id("a"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id("b"), kylin_lb::endpoint::AdminState::Drain).unwrap();
    let states = || cluster.status().endpoints.iter().map(|endpoint| endpoint.admin_state).collect::<Vec<_>>();
    cluster
        .replace(vec![endpoint("a").admin_state(AdminState::Drain), endpoint("b").admin_state(AdminState::Maintenance)])
        .unwrap();
    assert_eq!(states(), [AdminState::Maintenance, AdminState::Maintenance]);
    cluster.replace(vec![endpoint("a"), endpoint("b")]).unwrap();
    assert_eq!(states(), [AdminState::Maintenance, AdminState::Drain]);
    // The state of a removed endpoint is forgotten.
    cluster.remove(&id("a")).unwrap();
    cluster.replace(vec![endpoint("a")]).unwrap();
    cluster.add(endpoint("b")).unwrap();
    assert_eq!(states(), [AdminState::Ready, AdminState::Ready]);
}

#[tokio::test]
async fn endpoints_of_the_application_stay_first_and_take_precedence() {
    let cluster = Cluster::builder().endpoint(endpoint("static")).endpoint(endpoint("b:1")).build().unwrap();
    cluster.add(Endpoint::new("named", Nowhere).unwrap().placement("C:1")).unwrap();
    let watched = Watched::with(cluster, |node| Ok(node.endpoint(Nowhere)?));
    let status = watched.update([node("c:1"), node("a:1"), node("b:1")]).await;
    assert_eq!(watched.ids(), ["static", "b:1", "named", "a:1"]);
    assert_eq!((status.endpoints, status.rejected), (1, 2));
    watched.update([node("d:1")]).await;
    assert_eq!(watched.ids(), ["static", "b:1", "named", "d:1"]);
    // Once the application removes its endpoint, the discovered node takes its place.
    watched.cluster.remove(&id("b:1")).unwrap();
    watched.update([node("d:1"), node("b:1")]).await;
    assert_eq!(watched.ids(), ["static", "named", "d:1", "b:1"]);
}

#[tokio::test]
async fn duplicates_and_nodes_without_a_role_for_clients_are_left_out() {
    let watched = Watched::new();
    let twice = node("A:1").with_id("other").unwrap().with_weight(nonzero(9));
    watched.update([node("a:1"), twice, node("stream:1").with_roles(Roles::NONE), node("b:1")]).await;
    assert_eq!(watched.ids(), ["a:1", "b:1"]);
    // If two nodes have the same id, the first keeps it.
    let status = watched.update([node("a:1"), node("b:1").with_id("a:1").unwrap(), node("c:1")]).await;
    assert_eq!((watched.ids(), status.rejected), (vec!["a:1".to_owned(), "c:1".to_owned()], 1));
    // A membership of nodes that serve no clients counts as empty.
    let empty = Step::Update(vec![node("stream:1").with_roles(Roles::NONE)]);
    watched.step(empty, |status| status.source == SourceState::Empty).await;
    assert_eq!(watched.ids(), ["a:1", "c:1"]);
}

#[tokio::test]
async fn a_node_without_an_endpoint_does_not_affect_others_and_is_retried() {
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = Arc::clone(&bad);
    let watched = Watched::with(Cluster::builder().build().unwrap(), move |node| {
        match (node.address(), is_bad.load(Ordering::SeqCst)) {
            ("err:1", true) => Err("no".into()),
            ("panic:1", true) => panic!("a bug in the application"),
            _ => Ok(node.endpoint(Nowhere)?),
        }
    });
    let status = watched.update([node("err:1"), node("a:1"), node("panic:1")]).await;
    assert_eq!((watched.ids(), status.rejected), (vec!["a:1".to_owned()], 2));
    // A membership without a usable node removes no endpoint.
    watched.step(Step::Update(vec![node("err:1")]), |status| status.source == SourceState::Empty).await;
    assert_eq!(watched.ids(), ["a:1"]);
    bad.store(false, Ordering::SeqCst);
    let status = watched.update([node("err:1"), node("a:1"), node("panic:1")]).await;
    assert_eq!((watched.ids().len(), status.rejected), (3, 0));
    // A node whose update cannot be used stays as it was.
    bad.store(true, Ordering::SeqCst);
    watched.update([node("err:1").with_weight(nonzero(7)), node("a:1").with_weight(nonzero(7))]).await;
    let weights = watched.cluster.status().endpoints.iter().map(|e| e.weight).collect::<Vec<_>>();
    assert_eq!(weights, [1, 7]);
    bad.store(false, Ordering::SeqCst);
    watched.update([node("err:1").with_weight(nonzero(7))]).await;
    assert_eq!(watched.cluster.status().endpoints[0].weight, 7);
}

#[tokio::test]
async fn dropping_the_handle_stops_updates_and_keeps_the_endpoints() {
    let watched = Watched::new();
    watched.update([node("a:1")]).await;
    let Watched { cluster, handle, script } = watched;
    drop(handle);
    // The task drops the source.
    timeout(TIMEOUT, script.closed()).await.expect("the task has ended");
    assert_eq!(cluster.status().endpoints.len(), 1);
}

#[tokio::test]
async fn two_sources_and_a_fixed_list_fill_one_cluster() {
    let cluster = Cluster::builder().build().unwrap();
    let make_endpoint = |node: &DiscoveredNode| node.endpoint(Nowhere);
    let fixed = discovery::watch(&cluster, StaticList::new([node("a:1"), node("b:1")]), make_endpoint);
    timeout(TIMEOUT, fixed.wait_until(|status| status.endpoints == 2)).await.unwrap();
    let second = Watched::with(cluster.clone(), |node| Ok(node.endpoint(Nowhere)?));
    second.update([node("b:1"), node("c:1")]).await;
    assert_eq!(second.ids(), ["a:1", "b:1", "c:1"]);
    second.update([node("d:1")]).await;
    assert_eq!(second.ids(), ["a:1", "b:1", "d:1"]);
}

#[tokio::test]
async fn a_request_in_flight_to_a_node_that_leaves_completes() {
    let ((slow, slow_served), (_other, other_served)) = (demo("slow").await, demo("other").await);
    let address = |served: &kylin_lb::testing::kylin::Served| node(&served.addr().to_string());
    let cluster = Cluster::builder().build().unwrap();
    let (script, steps) = mpsc::unbounded_channel();
    let handle = discovery::watch_with(&cluster, Scripted(steps), DiscoveredNode::http, quick());
    script.send(Step::Update(vec![address(&slow_served)])).unwrap();
    timeout(TIMEOUT, handle.wait_until(|status| status.endpoints == 1)).await.unwrap();
    let front =
        Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(NonZero::new(1).unwrap()));

    let mut connection = front.connect().await;
    let body = r#"{"sql":"select sleep_ms(600)","project":"learn_kylin","limit":1}"#;
    let headers = "Host: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\nContent-Type: application/json\r\n";
    let head = format!("POST /kylin/api/query HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    connection.send(format!("{head}{body}")).await.unwrap();
    slow.wait_until(|stats| stats.in_flight > 0).await.unwrap();
    script.send(Step::Update(vec![address(&other_served)])).unwrap();
    timeout(TIMEOUT, handle.wait_until(|status| status.updates == 2)).await.unwrap();
    assert_eq!(front.get("/demo/bytes?n=3").await.unwrap().status(), 200);
    assert_eq!(connection.response().await.unwrap().status(), 200);
    front.idle().await;
}
