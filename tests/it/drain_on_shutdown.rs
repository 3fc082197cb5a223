//! A node that shows that it is stopping gets no new sessions, but keeps those that are bound to
//! it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::Attempted;
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::Picked;
use kylin_lb::health::{HealthState, Outlier, Reason};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, Outcome, Proxy, RequestView, SendError};
use parking_lot::Mutex;

use crate::support::front::{Front, eventually};
use crate::support::health::{advance, pick, shares, state};
use crate::support::raw_node::{Act, RawNode, healthy, ok};

#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Keeps,
    /// Closes the connection after a response with this status.
    Closes(u16),
    RetryAfter,
    Refuses,
}

use Behaviour::{Closes, Keeps, Refuses, RetryAfter};

fn respond(behaviour: Behaviour, request: Request<Body>) -> Result<Response<Body>, SendError> {
    let response = Response::builder();
    let response = match behaviour {
        Keeps => response,
        Closes(status) => response.status(status).header("connection", "close"),
        RetryAfter => response.status(503).header("retry-after", "5"),
        Refuses => return Err(SendError::new(SendErrorKind::Connect, "scripted").with_request(request)),
    };
    Ok(response.header("content-type", "application/json").body(Body::from("{}")).unwrap())
}

/// Nodes `0`, `1`, ... behind a proxy.
struct Nodes {
    behaviours: Vec<Arc<Mutex<Behaviour>>>,
    cluster: Cluster<Scripted>,
    proxy: Proxy<Scripted>,
    clock: ManualClock,
}

impl Nodes {
    fn new(count: usize) -> Self {
        Nodes::with(count, Outlier::new())
    }

    fn with(count: usize, outlier: Outlier) -> Self {
        let behaviours: Vec<_> = (0..count).map(|_| Arc::new(Mutex::new(Keeps))).collect();
        let endpoints = behaviours.iter().enumerate().map(|(id, behaviour)| {
            let behaviour = Arc::clone(behaviour);
            let node = Scripted::new(move |request| std::future::ready(respond(*behaviour.lock(), request)));
            Endpoint::new(id.to_string(), node).unwrap()
        });
        let clock = ManualClock::new();
        let cluster = Cluster::builder().endpoints(endpoints).outlier(outlier).clock(clock.clone()).build().unwrap();
        let proxy = Proxy::plain(cluster.clone()).clock(clock.clone()).build().unwrap();
        Nodes { behaviours, cluster, proxy, clock }
    }

    fn set(&self, node: usize, behaviour: Behaviour) {
        *self.behaviours[node].lock() = behaviour;
    }

    /// Sends a request of each of these clients.
    async fn ask(&self, clients: impl IntoIterator<Item = u8>) {
        for client in clients {
            let request = Request::get("/x").header("host", "kylin").body(Body::empty()).unwrap();
            self.proxy.forward(IpAddr::V4(Ipv4Addr::new(192, 0, 2, client)), request).await;
        }
    }

    fn state(&self, node: usize) -> (HealthState, Option<Reason>) {
        state(&self.cluster, &node.to_string())
    }

    fn pick_bound(&self, node: &str) -> Picked<Scripted> {
        let request = Request::get("/x").body(()).unwrap();
        let view = RequestView::of(&request, IpAddr::V4(Ipv4Addr::LOCALHOST));
        self.cluster.pick_bound(&view, &Attempted::none(), node).unwrap()
    }

    /// Returns which node gets a request of a session that is bound to `node`, and ends the request
    /// without an outcome.
    fn bound_to(&self, node: &str) -> String {
        self.pick_bound(node).lease.endpoint().to_string()
    }

    fn bound_to_and_served(&self, node: &str) -> String {
        let mut picked = self.pick_bound(node);
        picked.lease.set_outcome(Outcome::Success);
        picked.lease.endpoint().to_string()
    }
}

const HEALTHY: (HealthState, Option<Reason>) = (HealthState::Healthy, None);
const CLOSING: (HealthState, Option<Reason>) = (HealthState::Draining, Some(Reason::Closing));

#[tokio::test]
async fn a_node_that_closes_the_connections_of_different_clients_serves_bound_sessions_only_until_it_stays() {
    let nodes = Nodes::new(2);
    nodes.ask(0..4).await;
    nodes.set(0, Closes(200));
    nodes.ask([9; 20]).await;
    assert_eq!(nodes.state(0), HEALTHY, "it may be due to the client");
    nodes.ask(1..5).await;
    assert_eq!(nodes.state(0), CLOSING);
    assert_eq!(shares(&nodes.cluster, 20), [0, 20]);
    assert_eq!(nodes.bound_to("0"), "0");
    assert!(!nodes.cluster.status().panicking);

    nodes.set(0, Keeps);
    advance(&nodes.clock, 0.999);
    assert_eq!(shares(&nodes.cluster, 20), [0, 20], "it has a second to stop");
    advance(&nodes.clock, 0.001);
    nodes.ask(1..3).await;
    assert_eq!(nodes.state(0), HEALTHY, "a request on trial was served");
    assert_eq!(shares(&nodes.cluster, 20), [10, 10]);
}

#[tokio::test]
async fn errors_that_close_and_nodes_that_always_close_are_no_indication() {
    for status in [400, 404, 500, 503] {
        let nodes = Nodes::new(2);
        nodes.ask(0..4).await;
        nodes.set(0, Closes(status));
        nodes.ask(0..40).await;
        assert_eq!(nodes.state(0), HEALTHY, "{status}");
    }
    let nodes = Nodes::new(2);
    nodes.set(0, Closes(200));
    nodes.ask(0..100).await;
    assert_eq!(nodes.state(0), HEALTHY);
}

#[tokio::test]
async fn a_node_that_closes_connections_from_some_time_on_is_drained_once() {
    let nodes = Nodes::new(2);
    nodes.ask(0..4).await;
    nodes.set(0, Closes(200));
    let mut drains = 0;
    for round in 0..100 {
        let before = nodes.state(0).0;
        nodes.ask(0..10).await;
        drains += usize::from(before != HealthState::Draining && nodes.state(0).0 == HealthState::Draining);
        advance(&nodes.clock, 0.5);
        assert!(round < 4 || nodes.state(0) == HEALTHY, "{:?} in round {round}", nodes.state(0));
    }
    assert_eq!(drains, 1);
}

#[tokio::test]
async fn the_last_endpoint_is_not_drained_and_responses_drain_half_at_most() {
    let nodes = Nodes::new(4);
    nodes.ask(0..8).await;
    (0..4).for_each(|node| nodes.set(node, Closes(200)));
    nodes.ask(0..200).await;
    let draining = (0..4).filter(|node| nodes.state(*node) == CLOSING).count();
    assert_eq!(draining, 2);
    let one = Nodes::new(1);
    one.ask(0..2).await;
    one.set(0, RetryAfter);
    one.ask(0..20).await;
    assert_eq!(one.state(0), HEALTHY);
}

#[tokio::test]
async fn a_503_with_retry_after_to_two_clients_in_a_row_drains_the_node() {
    let nodes = Nodes::new(3);
    nodes.set(1, RetryAfter);
    nodes.ask([9; 30]).await;
    assert_eq!(nodes.state(1), HEALTHY, "a request of this client may cause it");
    nodes.ask(0..3).await;
    assert_eq!(nodes.state(1), (HealthState::Draining, Some(Reason::RetryAfter)));
    assert_eq!(nodes.bound_to("1"), "1");
    advance(&nodes.clock, 1.0);
    nodes.ask(0..3).await;
    assert_eq!(nodes.state(1).0, HealthState::Draining, "the request on trial got the same");
    nodes.set(1, Keeps);
    advance(&nodes.clock, 1.0);
    nodes.ask(0..3).await;
    assert_eq!(nodes.state(1), HEALTHY);
}

#[tokio::test]
async fn a_503_with_retry_after_between_responses_that_keep_their_connections_drains_no_node() {
    let nodes = Nodes::new(2);
    for client in 0..40 {
        nodes.set(0, if client % 4 < 2 { RetryAfter } else { Keeps });
        nodes.ask([client]).await;
        assert_eq!(nodes.state(0), HEALTHY);
    }
}

#[tokio::test]
async fn a_drain_that_no_request_tries_ends_by_itself() {
    for no_requests_at_all in [true, false] {
        let nodes = Nodes::new(2);
        nodes.ask(0..4).await;
        nodes.set(0, Closes(200));
        nodes.ask(1..9).await;
        assert_eq!(nodes.state(0), CLOSING);
        for _ in 0..60 {
            advance(&nodes.clock, 1.0);
            if !no_requests_at_all {
                assert_eq!(nodes.bound_to_and_served("1"), "1");
            }
        }
        assert_eq!(nodes.state(0), HEALTHY);
        nodes.set(0, Keeps);
        nodes.ask(0..4).await;
        assert_eq!(shares(&nodes.cluster, 20), [10, 10]);
    }
}

#[tokio::test]
async fn without_the_rule_no_sign_drains() {
    for behaviour in [Closes(200), RetryAfter] {
        let nodes = Nodes::with(2, Outlier::new().drain(false));
        nodes.ask(0..4).await;
        nodes.set(0, behaviour);
        nodes.ask(0..40).await;
        assert_eq!(nodes.state(0), HEALTHY);
    }
}

#[tokio::test]
async fn refused_connections_drain_before_they_eject_and_a_probe_that_succeeds_ends_it() {
    let nodes = Nodes::new(2);
    let millis = Duration::from_millis(2);
    let check =
        HealthCheck::new(Probe::get("/x").unwrap()).interval(millis).fast_interval(millis).reconnect_interval(millis);
    let _checker = check.fall(std::num::NonZeroU32::new(1_000_000).unwrap()).start(&nodes.cluster).unwrap();
    nodes.set(0, Refuses);
    let shown = || format!("{:?}", nodes.cluster.status());
    eventually(|| nodes.state(0) == (HealthState::Draining, Some(Reason::Refusing)), shown).await;
    assert_eq!(nodes.bound_to("0"), "0");
    assert_eq!(shares(&nodes.cluster, 20), [0, 20]);
    nodes.set(0, Keeps);
    advance(&nodes.clock, 1.0);
    eventually(|| nodes.state(0) == HEALTHY, shown).await;
    assert!(pick(&nodes.cluster).is_some());
}

/// Tomcat closes a connection after `maxKeepAliveRequests`, and connections that were opened
/// together reach that number together.
#[tokio::test]
async fn connections_that_have_carried_their_number_of_requests_are_closed_without_a_drain() {
    let closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec();
    let mut script: Vec<Act> = (0..9).flat_map(|_| [Act::Read, Act::Write(ok("a"))]).collect();
    script.extend([Act::Read, Act::Write(closing)]);
    let (limited, other) = (RawNode::start([script]).await, RawNode::start([healthy("b")]).await);
    let endpoint =
        |id: &str, node: &RawNode| Endpoint::new(id, HttpBackend::new(&node.address().to_string()).unwrap()).unwrap();
    let cluster = Cluster::builder().endpoints([endpoint("0", &limited), endpoint("1", &other)]).build().unwrap();
    let proxy = Proxy::plain(cluster.clone()).build().unwrap();
    let front = Front::serving(proxy, |server| server.threads(std::num::NonZero::new(1).unwrap()));
    for _ in 0..200 {
        assert_eq!(front.get("/x").await.unwrap().status(), 200);
        assert_eq!(state(&cluster, "0"), HEALTHY);
    }
    assert!(limited.seen().connections >= 10);
}
