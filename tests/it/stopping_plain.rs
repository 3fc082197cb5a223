//! A server that stops ends its applications before it closes its port. A plain proxy has a probe tell its 404 from another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use kylin_lb::backend::{OwnRequest, SendErrorKind};
use kylin_lb::health::HealthState;
use kylin_lb::probe::{HealthCheck, HealthChecker, Probe};
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Proxy};

use crate::support::front::eventually;
use crate::support::kylin::{Says, ask, request, scripted, well};

const PAGE: &str = "<html>HTTP Status 404 - Not Found</html>";
/// No probe is due unless something asks for it.
const NEVER: Duration = Duration::from_secs(3600);

fn page(status: u16) -> Says {
    Says::Html(status, PAGE.to_owned())
}

/// A node that responds to its clients with a page, and to probes as a healthy one until it stops.
struct Node {
    node: Scripted,
    stops: Arc<AtomicBool>,
    probes: Arc<AtomicUsize>,
}

impl Node {
    fn new(status: u16, when_stopping: Says) -> Self {
        let (stops, probes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_stopping, count) = (Arc::clone(&stops), Arc::clone(&probes));
        let node = Scripted::new(move |request: Request<Body>| {
            let says = match request.extensions().get::<OwnRequest>() {
                Some(_) => {
                    count.fetch_add(1, Ordering::SeqCst);
                    if is_stopping.load(Ordering::SeqCst) { when_stopping.clone() } else { page(200) }
                }
                None => page(status),
            };
            async move {
                // Other requests run meanwhile.
                tokio::task::yield_now().await;
                says.say(request)
            }
        });
        Node { node, stops, probes }
    }

    fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    /// The requests of clients.
    fn requests(&self) -> usize {
        self.node.calls() - self.probes()
    }
}

fn proxy(nodes: &[&Scripted], policy: RetryPolicy) -> Proxy<Scripted> {
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    Proxy::plain(Cluster::builder().endpoints(endpoints).build().unwrap()).retry(policy).build().unwrap()
}

/// Starts probes, and waits until each endpoint has succeeded at one.
async fn probed(proxy: &Proxy<Scripted>) -> HealthChecker {
    let check =
        HealthCheck::new(Probe::get("/alive").unwrap()).interval(NEVER).fast_interval(Duration::from_millis(10));
    let checker = check.wait_for_first_success(true).start(proxy.cluster()).unwrap();
    let status = || proxy.cluster().status().endpoints;
    eventually(
        || status().iter().all(|endpoint| endpoint.health == HealthState::Healthy),
        || format!("{:?}", status()),
    )
    .await;
    checker
}

#[tokio::test]
async fn a_404_of_a_node_that_fails_its_probe_is_a_refusal_whatever_the_method() {
    let retries = RetryPolicy::default;
    for (line, status, when_stopping, policy, expected) in [
        ("GET /a", 404, page(404), retries(), 200),
        ("POST /a", 404, page(404), retries(), 200),
        ("PUT /a", 404, page(503), retries(), 200),
        ("POST /a", 404, Says::Nothing(SendErrorKind::Connect), retries(), 200),
        ("POST /a", 404, Says::Nothing(SendErrorKind::Broken), retries(), 200),
        ("GET /a", 503, page(404), retries(), 200),
        // A POST may have been executed before a 503.
        ("POST /a", 503, page(404), retries(), 503),
        ("GET /a", 500, page(404), retries(), 500),
        ("GET /a", 404, page(404), retries().on_error(false), 404),
        ("GET /a", 404, page(404), RetryPolicy::none(), 404),
        // The node serves, so what the client asked for does not exist.
        ("GET /a", 404, page(200), retries(), 404),
        ("POST /a", 404, page(200), retries(), 404),
    ] {
        let case = format!("{line}: {status}, and {when_stopping:?} to probes");
        let (first, second) = (Node::new(status, when_stopping), well("second"));
        let proxy = proxy(&[&first.node, &second], policy);
        let _checker = probed(&proxy).await;
        let probes_of_second = second.calls();
        first.stop();
        let (status, _) = ask(&proxy, request(line, &[], "body")).await;
        let failed = proxy.cluster().status().endpoints[0].failed;
        let repeated = usize::from(expected == 200);
        assert_eq!(status.as_u16(), expected, "{case}");
        let seen = (first.requests(), second.calls() - probes_of_second, failed);
        assert_eq!(seen, (1, repeated, repeated as u64), "{case}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_probed_or_was_never_healthy_keeps_its_404() {
    let (first, second) = (Node::new(404, page(404)), well("second"));
    first.stop();
    let proxy = proxy(&[&first.node, &second], RetryPolicy::default());
    assert_eq!(ask(&proxy, request("GET /a", &[], "")).await.0, 404);
    let check = HealthCheck::new(Probe::get("/alive").unwrap()).interval(NEVER).fall(std::num::NonZeroU32::MIN);
    let _checker = check.start(proxy.cluster()).unwrap();
    let is_down = || proxy.cluster().status().endpoints[0].health == HealthState::Unhealthy;
    eventually(is_down, || format!("{:?}", proxy.cluster().status())).await;
    assert_eq!((first.requests(), first.probes()), (1, 1));
}

#[tokio::test]
async fn where_no_node_serves_the_client_gets_the_404_after_each_node_had_the_request_once() {
    let nodes = [(); 3].map(|()| Node::new(404, page(404)));
    let proxy = proxy(&[&nodes[0].node, &nodes[1].node, &nodes[2].node], RetryPolicy::default());
    let _checker = probed(&proxy).await;
    nodes.iter().for_each(Node::stop);
    let (status, text) = ask(&proxy, request("POST /a", &[], "body")).await;
    assert_eq!((status.as_u16(), text.as_str()), (404, PAGE));
    assert!(nodes.iter().all(|node| node.requests() == 1));
}

#[tokio::test]
async fn many_404s_of_a_node_that_serves_share_few_probes() {
    let node = Node::new(404, page(404));
    let proxy = proxy(&[&node.node], RetryPolicy::default());
    let _checker = probed(&proxy).await;
    let began = Instant::now();
    for round in 1..=3 {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let proxy = proxy.clone();
            clients.spawn(async move { ask(&proxy, request("GET /a", &[], "")).await.0 });
        }
        assert!(clients.join_all().await.iter().all(|status| *status == 404));
        // Ten probes a second at most.
        let longest = 1 + began.elapsed().as_millis() as usize / 100;
        assert!((1 + round..=1 + longest).contains(&node.probes()), "{} probes, at most {longest}", node.probes());
    }
}
