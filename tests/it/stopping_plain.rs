//! A stopping server ends its applications before it closes its port. A plain proxy uses a probe to
//! tell its 404 from others.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use kylin_lb::backend::{OwnRequest, SendErrorKind};
use kylin_lb::health::HealthState;
use kylin_lb::probe::{HealthCheck, HealthChecker, Probe};
use kylin_lb::proxy::{RetryBudget, RetryPolicy};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Proxy};
use tokio::sync::Semaphore;

use crate::support::clock::PausedClock;
use crate::support::front::eventually;
use crate::support::kylin::{Says, ask, request, scripted, well};

const PAGE: &str = "<html>HTTP Status 404 - Not Found</html>";
/// No probe is due unless something requests it.
const NEVER: Duration = Duration::from_secs(3600);

fn page(status: u16) -> Says {
    Says::Html(status, PAGE.to_owned())
}

fn json(status: u16) -> Says {
    Says::Json(status, r#"{"message":"no such thing"}"#.to_owned())
}

/// A node that responds in one way to its clients. To probes it responds like a healthy node until
/// it stops.
struct Node {
    node: Scripted,
    stops: Arc<AtomicBool>,
    probes: Arc<AtomicUsize>,
    /// A request to `/gated` waits for a permit.
    gate: Arc<Semaphore>,
}

impl Node {
    /// `when_stopping` is the response to a probe then; `None` if there is none.
    fn new(to_clients: Says, when_stopping: impl Into<Option<Says>>) -> Self {
        let (stops, probes, gate) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::new(Semaphore::new(0)));
        let (is_stopping, count, gated) = (Arc::clone(&stops), Arc::<AtomicUsize>::clone(&probes), Arc::clone(&gate));
        let when_stopping = when_stopping.into();
        let node = Scripted::new(move |request: Request<Body>| {
            let says = match request.extensions().get::<OwnRequest>() {
                Some(_) => {
                    count.fetch_add(1, Ordering::SeqCst);
                    if is_stopping.load(Ordering::SeqCst) { when_stopping.clone() } else { Some(page(200)) }
                }
                None => Some(to_clients.clone()),
            };
            let gated = (request.uri().path() == "/gated").then(|| Arc::clone(&gated));
            async move {
                // Other requests run meanwhile.
                tokio::task::yield_now().await;
                if let Some(gate) = gated {
                    gate.acquire().await.unwrap().forget();
                }
                match says {
                    Some(says) => says.say(request),
                    None => pending().await,
                }
            }
        });
        Node { node, stops, probes, gate }
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

/// Returns a proxy that sends requests to the first node, and to the others only after that.
fn proxy(nodes: &[&Scripted], policy: RetryPolicy) -> Proxy<Scripted> {
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node).backup(id > 0));
    let cluster = Cluster::builder().endpoints(endpoints).clock(PausedClock).build().unwrap();
    Proxy::plain(cluster).retry(policy).build().unwrap()
}

fn check() -> HealthCheck {
    HealthCheck::new(Probe::get("/alive").unwrap()).interval(NEVER).fast_interval(Duration::from_millis(10))
}

/// Starts probes, and waits until each endpoint has succeeded at one.
async fn probed(proxy: &Proxy<Scripted>, check: HealthCheck) -> HealthChecker {
    let checker = check.wait_for_first_success(true).start(proxy.cluster()).unwrap();
    let status = || proxy.cluster().status().endpoints;
    eventually(
        || status().iter().all(|endpoint| endpoint.health == HealthState::Healthy),
        || format!("{:?}", status()),
    )
    .await;
    checker
}

fn no_budget() -> RetryPolicy {
    RetryPolicy::default().budget(Some(RetryBudget::default().ratio(0.0).unwrap().min_per_second(0)))
}

/// Regardless of the status of the client's response, the probe has been counted, and the response
/// has not.
#[tokio::test(start_paused = true)]
async fn the_method_counts_unless_the_probe_and_the_404_show_that_no_application_runs() {
    let retries = RetryPolicy::default;
    for (line, response, when_stopping, policy, expected) in [
        // No application can have executed the request.
        ("GET /a", page(404), page(404), retries(), 200),
        ("POST /a", page(404), page(404), retries(), 200),
        ("PUT /a", page(404), page(503), retries(), 200),
        ("POST /a", page(404), json(503), retries(), 200),
        ("POST /a", page(404), page(404), retries().on_error(false), 200),
        ("POST /a", page(404), page(404), RetryPolicy::none().on_stopping(true), 200),
        // An application may have written this 404 after it executed the request.
        ("POST /a", json(404), page(404), retries(), 404),
        ("GET /a", json(404), page(404), retries(), 200),
        ("POST /a", json(404), page(404), retries().non_idempotent(true), 200),
        // A stopping node closes its port soon.
        ("POST /a", page(404), Says::Nothing(SendErrorKind::Connect), retries(), 200),
        ("POST /a", json(404), Says::Nothing(SendErrorKind::Connect), retries(), 404),
        // An application may still be running.
        ("PATCH /a", page(404), Says::Nothing(SendErrorKind::Broken), retries(), 404),
        ("POST /a", page(404), page(500), retries(), 404),
        ("GET /a", page(404), Says::Nothing(SendErrorKind::Broken), retries(), 200),
        ("GET /a", json(404), page(500), retries(), 200),
        // A request may have been executed before a 503.
        ("GET /a", page(503), page(404), retries(), 200),
        ("POST /a", page(503), page(404), retries(), 503),
        // Not a sign of a stopping node, or the rule is off.
        ("GET /a", page(500), page(404), retries(), 500),
        ("GET /a", page(404), page(404), retries().on_stopping(false), 404),
        ("POST /a", page(404), page(404), retries().on_stopping(false), 404),
        ("GET /a", page(404), page(404), RetryPolicy::none(), 404),
        // The node serves, so the requested resource does not exist.
        ("GET /a", page(404), page(200), retries(), 404),
        ("POST /a", page(404), page(200), retries(), 404),
        // The budget counts only requests that an application may have executed.
        ("POST /a", page(404), page(404), no_budget(), 200),
        ("GET /a", json(404), page(404), no_budget(), 404),
        ("GET /a", page(404), Says::Nothing(SendErrorKind::Broken), no_budget(), 404),
        ("GET /a", page(503), page(404), no_budget(), 503),
    ] {
        let case = format!("{line}: {response:?}, and {when_stopping:?} to probes, {policy:?}");
        let (first, second) = (Node::new(response, when_stopping), well("second"));
        let proxy = proxy(&[&first.node, &second], policy);
        let _checker = probed(&proxy, check()).await;
        let probes_of_second = second.calls();
        first.stop();
        let (status, _) = ask(&proxy, request(line, &[], "body")).await;
        let endpoint = &proxy.cluster().status().endpoints[0];
        assert_eq!(status.as_u16(), expected, "{case}");
        let repeated = usize::from(expected == 200);
        assert_eq!((first.requests(), second.calls() - probes_of_second), (1, repeated), "{case}");
        assert_eq!(endpoint.failed, 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_a_probe_and_does_not_respond_holds_a_404_half_a_second_at_most() {
    let (first, second) = (Node::new(page(404), None), well("second"));
    let proxy = proxy(&[&first.node, &second], RetryPolicy::default());
    let _checker = probed(&proxy, check()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.stop();
    for (line, expected, longest) in [
        ("GET /a", 200, 500),
        // It is already known that the probe has no response.
        ("GET /a", 200, 0),
        ("POST /a", 404, 0),
        ("POST /a", 404, 0),
    ] {
        let began = tokio::time::Instant::now();
        let (status, _) = ask(&proxy, request(line, &[], "body")).await;
        // Tokio's timers have a resolution of 1 ms.
        let held = began.elapsed().as_millis();
        assert_eq!(status.as_u16(), expected, "{line}");
        assert!((longest..=longest + 1).contains(&held), "{line} took {held} ms");
    }
    assert_eq!(first.probes(), 2, "the last one has no response yet");
}

/// Requests are in flight when the probe of another one finds that the node has ended its
/// applications.
#[tokio::test(start_paused = true)]
async fn a_404_to_a_request_that_was_in_flight_when_the_endpoint_became_unhealthy_is_repeated_too() {
    for (later, expected) in [(Duration::from_millis(100), 200), (Duration::from_secs(1), 404)] {
        let (first, second) = (Node::new(page(404), page(404)), well("second"));
        let proxy = proxy(&[&first.node, &second], RetryPolicy::default());
        let _checker = probed(&proxy, check().fall(std::num::NonZeroU32::MIN)).await;
        let gated = tokio::spawn({
            let proxy = proxy.clone();
            async move { ask(&proxy, request("POST /gated", &[], "body")).await.0 }
        });
        eventually(|| first.requests() == 1, String::new).await;
        first.stop();
        assert_eq!(ask(&proxy, request("POST /a", &[], "body")).await.0, 200);
        assert_eq!(proxy.cluster().status().endpoints[0].health, HealthState::Unhealthy);
        tokio::time::sleep(later).await;
        first.gate.add_permits(1);
        assert_eq!(gated.await.unwrap(), expected, "{later:?} after the probe");
    }
}

#[tokio::test]
async fn a_node_that_is_not_probed_or_was_never_healthy_keeps_its_404() {
    let (first, second) = (Node::new(page(404), page(404)), well("second"));
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
    let nodes = [(); 3].map(|()| Node::new(page(404), page(404)));
    let proxy = proxy(&[&nodes[0].node, &nodes[1].node, &nodes[2].node], RetryPolicy::default());
    let _checker = probed(&proxy, check()).await;
    nodes.iter().for_each(Node::stop);
    let (status, text) = ask(&proxy, request("POST /a", &[], "body")).await;
    assert_eq!((status.as_u16(), text.as_str()), (404, PAGE));
    assert!(nodes.iter().all(|node| node.requests() == 1));
}

#[tokio::test]
async fn many_404s_of_a_node_that_serves_share_few_probes() {
    let node = Node::new(page(404), page(404));
    let proxy = proxy(&[&node.node], RetryPolicy::default());
    let _checker = probed(&proxy, check()).await;
    let began = Instant::now();
    for round in 1..=3 {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let proxy = proxy.clone();
            clients.spawn(async move { ask(&proxy, request("GET /a", &[], "")).await.0 });
        }
        assert!(clients.join_all().await.iter().all(|status| *status == 404));
        // At most ten probes a second.
        let longest = 1 + began.elapsed().as_millis() as usize / 100;
        assert!((1 + round..=1 + longest).contains(&node.probes()), "{} probes, at most {longest}", node.probes());
    }
}
