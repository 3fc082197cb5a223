//! A cluster that follows a source of membership, whatever the source does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kylin_lb::balance::Attempted;
use kylin_lb::discovery::{
    self, Backoff, DiscoveredNode, Discovery, DiscoveryError, DiscoveryHandle, DiscoveryStatus, SourceState, Static,
};
use kylin_lb::endpoint::{AdminState, Role, Roles};
use kylin_lb::{Cluster, Endpoint, EndpointId, Proxy};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::cluster::{Nowhere, endpoint, nonzero, request};
use crate::support::front::{Front, demo};

const PATIENCE: Duration = Duration::from_secs(20);
const QUICK: Backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_millis(20) };

/// A source that does as it is told.
struct Scripted(mpsc::UnboundedReceiver<Step>);

#[derive(Debug)]
enum Step {
    Tell(Vec<DiscoveredNode>),
    Fail(&'static str),
    Panic,
}

impl Discovery for Scripted {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        match self.0.recv().await {
            Some(Step::Tell(found)) => Ok(found),
            Some(Step::Fail(what)) => {
                Err(DiscoveryError::Unavailable { place: "the source".into(), source: what.into() })
            }
            Some(Step::Panic) => panic!("a source with a fault"),
            None => std::future::pending().await,
        }
    }
}

/// A cluster, and the hand that moves its source.
struct Followed {
    cluster: Cluster<Nowhere>,
    follow: DiscoveryHandle,
    script: mpsc::UnboundedSender<Step>,
}

impl Followed {
    fn new() -> Self {
        Followed::by(Cluster::builder().build().unwrap(), |found| found.endpoint(Nowhere).map_err(Into::into))
    }

    fn by(
        cluster: Cluster<Nowhere>,
        make: impl FnMut(&DiscoveredNode) -> Result<Endpoint<Nowhere>, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + 'static,
    ) -> Self {
        let (script, steps) = mpsc::unbounded_channel();
        let follow = discovery::watch_with(&cluster, Scripted(steps), make, QUICK);
        Followed { cluster, follow, script }
    }

    /// The source tells this, and the cluster has taken it when this returns.
    async fn tell(&self, found: impl IntoIterator<Item = DiscoveredNode>) -> DiscoveryStatus {
        let told = self.follow.status().told;
        self.step(Step::Tell(found.into_iter().collect()), |status| status.told == told + 1).await
    }

    async fn step(&self, step: Step, test: impl Fn(&DiscoveryStatus) -> bool) -> DiscoveryStatus {
        self.script.send(step).expect("the source is followed");
        let came = timeout(PATIENCE, self.follow.wait_until(test)).await;
        came.unwrap_or_else(|_| panic!("{:?}", self.follow.status()))
    }

    fn ids(&self) -> Vec<String> {
        self.cluster.status().endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect()
    }

    fn admin_state(&self, id: &str) -> AdminState {
        let status = self.cluster.status();
        status.endpoints.iter().find(|endpoint| endpoint.id.as_str() == id).expect(id).admin_state
    }
}

fn found(address: &str) -> DiscoveredNode {
    DiscoveredNode::new(address).unwrap()
}

fn id(text: &str) -> EndpointId {
    EndpointId::new(text).unwrap()
}

#[tokio::test]
async fn a_source_that_is_empty_fails_or_panics_empties_no_cluster_and_is_followed_again() {
    let followed = Followed::new();
    assert_eq!(followed.follow.status().source, SourceState::Waiting);
    followed.tell([found("a:1"), found("b:1")]).await;
    assert_eq!(followed.follow.status().source, SourceState::Current);

    followed.step(Step::Tell(vec![]), |status| status.source == SourceState::Empty).await;
    assert_eq!(followed.ids(), ["a:1", "b:1"]);
    let failing = followed.step(Step::Fail("cable cut"), |status| status.source == SourceState::Failing).await;
    assert_eq!(failing.error.as_deref(), Some("the source is unavailable: cable cut"));
    assert_eq!((failing.failures, failing.endpoints, failing.told), (1, 2, 1));
    let panicked = followed.step(Step::Panic, |status| status.failures == 2).await;
    assert_eq!(panicked.error.as_deref(), Some("the source panicked"));
    assert_eq!(followed.ids(), ["a:1", "b:1"]);

    let status = followed.tell([found("b:1"), found("c:1")]).await;
    assert_eq!((status.source, status.failures, status.error), (SourceState::Current, 0, None));
    assert_eq!(followed.ids(), ["b:1", "c:1"]);
}

#[tokio::test]
async fn what_is_known_of_a_node_stays_when_it_changes_or_registers_anew() {
    let followed = Followed::new();
    followed.tell([found("a:1").with_source("/8f5b"), found("b:1")]).await;
    let (request, client) = (request("x"), std::net::IpAddr::from([192, 0, 2, 7]));
    let picked = followed.cluster.pick(&kylin_lb::RequestView::of(&request, client), &Attempted::none()).unwrap();
    let taken = picked.lease.endpoint().clone();
    let in_flight = |cluster: &Cluster<Nowhere>| {
        let flights = cluster.status().endpoints.into_iter().map(|e| (e.id.to_string(), e.in_flight));
        flights.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(in_flight(&followed.cluster)[taken.as_str()], 1);

    followed
        .tell([found("A:01").with_source("/other"), found("b:1").with_weight(nonzero(7)).with_roles(Role::Job)])
        .await;
    assert_eq!(in_flight(&followed.cluster)[taken.as_str()], 1);
    let status = followed.cluster.status();
    assert_eq!((status.endpoints[1].weight, status.endpoints[1].roles), (7, Roles::only(Role::Job)));

    // It leaves with its request under way, and comes back.
    followed.tell([found("c:1")]).await;
    assert_eq!(followed.ids(), ["c:1"]);
    followed.tell([found("a:1"), found("b:1")]).await;
    assert_eq!(in_flight(&followed.cluster)[taken.as_str()], 1);
    drop(picked);
    assert_eq!(followed.cluster.status().in_flight(), 0);
}

#[tokio::test]
async fn a_node_that_changes_its_settings_keeps_its_backend() {
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let followed = Followed::by(Cluster::builder().build().unwrap(), move |found| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(found.endpoint(Nowhere)?)
    });
    let (request, client) = (request("x"), std::net::IpAddr::from([192, 0, 2, 7]));
    let backend = || {
        followed
            .cluster
            .pick(&kylin_lb::RequestView::of(&request, client), &Attempted::none())
            .unwrap()
            .backend()
            .clone()
    };
    followed.tell([found("a:1")]).await;
    let before = backend();
    followed.tell([found("a:1").with_weight(nonzero(3))]).await;
    assert!(Arc::ptr_eq(&before, &backend()));
    assert_eq!(made.load(Ordering::SeqCst), 2);
    // What is not news is not made again.
    followed.tell([found("a:1").with_weight(nonzero(3)).with_source("elsewhere"), found("b:1")]).await;
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_word_of_the_operator_holds_through_changes_of_membership() {
    let followed = Followed::new();
    let cluster = &followed.cluster;
    followed.tell([found("a:1"), found("b:1"), found("c:1")]).await;
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id("b:1"), kylin_lb::endpoint::AdminState::Drain).unwrap();
    cluster.set_weight(&id("c:1"), nonzero(9)).unwrap();
    // New settings, a restart, another node: none of it puts them in service.
    followed.tell([found("a:1").with_weight(nonzero(5)), found("c:1"), found("d:1")]).await;
    followed.tell([found("a:1"), found("b:1").with_weight(nonzero(2)), found("c:1")]).await;
    assert_eq!(
        (followed.admin_state("a:1"), followed.admin_state("b:1")),
        (AdminState::Maintenance, AdminState::Drain)
    );
    assert_eq!(cluster.status().endpoints[2].weight, 9, "a weight holds until the source has another");
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Ready).unwrap();
    followed.tell([found("a:1").with_weight(nonzero(5)), found("b:1"), found("c:1").with_weight(nonzero(3))]).await;
    assert_eq!((followed.admin_state("a:1"), followed.admin_state("b:1")), (AdminState::Ready, AdminState::Drain));
    assert_eq!(cluster.status().endpoints[2].weight, 3);

    // The stricter of both words counts: the source's draining does not lift maintenance, nor its end the operator's draining.
    followed.tell([found("a:1").draining(true), found("b:1").draining(true)]).await;
    assert_eq!((followed.admin_state("a:1"), followed.admin_state("b:1")), (AdminState::Drain, AdminState::Drain));
    cluster.set_admin_state(&id("a:1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    followed.tell([found("a:1"), found("b:1")]).await;
    assert_eq!(
        (followed.admin_state("a:1"), followed.admin_state("b:1")),
        (AdminState::Maintenance, AdminState::Drain)
    );
}

#[test]
fn the_word_of_the_operator_holds_when_the_host_replaces_the_membership() {
    let cluster = Cluster::builder().endpoint(endpoint("a")).endpoint(endpoint("b")).build().unwrap();
    cluster.set_admin_state(&id("a"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id("b"), kylin_lb::endpoint::AdminState::Drain).unwrap();
    let intents = || cluster.status().endpoints.iter().map(|endpoint| endpoint.admin_state).collect::<Vec<_>>();
    cluster
        .replace(vec![endpoint("a").admin_state(AdminState::Drain), endpoint("b").admin_state(AdminState::Maintenance)])
        .unwrap();
    assert_eq!(intents(), [AdminState::Maintenance, AdminState::Maintenance]);
    cluster.replace(vec![endpoint("a"), endpoint("b")]).unwrap();
    assert_eq!(intents(), [AdminState::Maintenance, AdminState::Drain]);
    // One that the host takes out is forgotten.
    cluster.remove(&id("a")).unwrap();
    cluster.replace(vec![endpoint("a")]).unwrap();
    cluster.add(endpoint("b")).unwrap();
    assert_eq!(intents(), [AdminState::Ready, AdminState::Ready]);
}

#[tokio::test]
async fn endpoints_of_the_operator_stay_stand_first_and_win() {
    let cluster = Cluster::builder().endpoint(endpoint("static")).endpoint(endpoint("b:1")).build().unwrap();
    cluster.add(Endpoint::new("named", Nowhere).unwrap().placement("C:1")).unwrap();
    let followed = Followed::by(cluster, |found| Ok(found.endpoint(Nowhere)?));
    let status = followed.tell([found("c:1"), found("a:1"), found("b:1")]).await;
    assert_eq!(followed.ids(), ["static", "b:1", "named", "a:1"]);
    assert_eq!((status.endpoints, status.refused), (1, 2));
    followed.tell([found("d:1")]).await;
    assert_eq!(followed.ids(), ["static", "b:1", "named", "d:1"]);
    // The operator's endpoint makes way: the one that was found takes its place.
    followed.cluster.remove(&id("b:1")).unwrap();
    followed.tell([found("d:1"), found("b:1")]).await;
    assert_eq!(followed.ids(), ["static", "named", "d:1", "b:1"]);
}

#[tokio::test]
async fn a_node_comes_once_and_one_without_a_role_for_clients_not_at_all() {
    let followed = Followed::new();
    let twice = found("A:1").with_id("other").unwrap().with_weight(nonzero(9));
    followed.tell([found("a:1"), twice, found("stream:1").with_roles(Roles::NONE), found("b:1")]).await;
    assert_eq!(followed.ids(), ["a:1", "b:1"]);
    // Two nodes of one name: the first has it.
    let status = followed.tell([found("a:1"), found("b:1").with_id("a:1").unwrap(), found("c:1")]).await;
    assert_eq!((followed.ids(), status.refused), (vec!["a:1".to_owned(), "c:1".to_owned()], 1));
    // A membership of nodes that serve no client is one without nodes.
    let nothing = Step::Tell(vec![found("stream:1").with_roles(Roles::NONE)]);
    followed.step(nothing, |status| status.source == SourceState::Empty).await;
    assert_eq!(followed.ids(), ["a:1", "c:1"]);
}

#[tokio::test]
async fn a_node_of_which_no_endpoint_can_be_made_is_in_nobodys_way_and_tried_again() {
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = Arc::clone(&bad);
    let followed = Followed::by(Cluster::builder().build().unwrap(), move |found| {
        match (found.address(), is_bad.load(Ordering::SeqCst)) {
            ("err:1", true) => Err("no".into()),
            ("panic:1", true) => panic!("a host with a fault"),
            _ => Ok(found.endpoint(Nowhere)?),
        }
    });
    let status = followed.tell([found("err:1"), found("a:1"), found("panic:1")]).await;
    assert_eq!((followed.ids(), status.refused), (vec!["a:1".to_owned()], 2));
    // A membership of which nothing can be used takes nothing away.
    followed.step(Step::Tell(vec![found("err:1")]), |status| status.source == SourceState::Empty).await;
    assert_eq!(followed.ids(), ["a:1"]);
    bad.store(false, Ordering::SeqCst);
    let status = followed.tell([found("err:1"), found("a:1"), found("panic:1")]).await;
    assert_eq!((followed.ids().len(), status.refused), (3, 0));
    // One whose news cannot be used stays as it was.
    bad.store(true, Ordering::SeqCst);
    followed.tell([found("err:1").with_weight(nonzero(7)), found("a:1").with_weight(nonzero(7))]).await;
    let weights = followed.cluster.status().endpoints.iter().map(|e| e.weight).collect::<Vec<_>>();
    assert_eq!(weights, [1, 7]);
    bad.store(false, Ordering::SeqCst);
    followed.tell([found("err:1").with_weight(nonzero(7))]).await;
    assert_eq!(followed.cluster.status().endpoints[0].weight, 7);
}

#[tokio::test]
async fn dropping_the_handle_ends_the_following_and_leaves_the_cluster() {
    let followed = Followed::new();
    followed.tell([found("a:1")]).await;
    let Followed { cluster, follow, script } = followed;
    drop(follow);
    // The source goes with the task.
    timeout(PATIENCE, script.closed()).await.expect("the task has ended");
    assert_eq!(cluster.status().endpoints.len(), 1);
}

#[tokio::test]
async fn two_sources_and_a_fixed_list_fill_one_cluster() {
    let cluster = Cluster::builder().build().unwrap();
    let make = |found: &DiscoveredNode| found.endpoint(Nowhere);
    let fixed = discovery::watch(&cluster, Static::new([found("a:1"), found("b:1")]), make);
    timeout(PATIENCE, fixed.wait_until(|status| status.endpoints == 2)).await.unwrap();
    let second = Followed::by(cluster.clone(), |found| Ok(found.endpoint(Nowhere)?));
    second.tell([found("b:1"), found("c:1")]).await;
    assert_eq!(second.ids(), ["a:1", "b:1", "c:1"]);
    second.tell([found("d:1")]).await;
    assert_eq!(second.ids(), ["a:1", "b:1", "d:1"]);
}

#[tokio::test]
async fn a_request_in_flight_on_a_node_that_leaves_is_answered() {
    let ((slow, slow_served), (_other, other_served)) = (demo("slow").await, demo("other").await);
    let address = |served: &kylin_lb::testing::kylin::Served| found(&served.addr().to_string());
    let cluster = Cluster::builder().build().unwrap();
    let (script, steps) = mpsc::unbounded_channel();
    let follow = discovery::watch_with(&cluster, Scripted(steps), DiscoveredNode::http, QUICK);
    script.send(Step::Tell(vec![address(&slow_served)])).unwrap();
    timeout(PATIENCE, follow.wait_until(|status| status.endpoints == 1)).await.unwrap();
    let front = Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(1));

    let mut connection = front.connect().await;
    let body = r#"{"sql":"select sleep_ms(600)","project":"learn_kylin","limit":1}"#;
    let fields = "Host: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\nContent-Type: application/json\r\n";
    let head = format!("POST /kylin/api/query HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    connection.send(format!("{head}{body}")).await.unwrap();
    slow.wait_until(|stats| stats.in_flight > 0).await.unwrap();
    script.send(Step::Tell(vec![address(&other_served)])).unwrap();
    timeout(PATIENCE, follow.wait_until(|status| status.told == 2)).await.unwrap();
    assert_eq!(front.get("/demo/bytes?n=3").await.unwrap().status(), 200);
    assert_eq!(connection.answer().await.unwrap().status(), 200);
    front.idle().await;
}
