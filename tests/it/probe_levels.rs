//! A probe finds out which requests a node supports, and nodes of every version serve with the
//! default probe.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::endpoint::AdminState;
use kylin_lb::health::{HealthState, ProbeFailure, ProbeLevel, Reason};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, SendError};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, eventually};
use crate::support::health::{pick, status};
use crate::support::kylin::{Demo, admin, sql};
use crate::support::tomcat::Tomcat;
use ProbeLevel::{Authentication, Tcp, Version};

const VERSION: &str = "/kylin/api/admin/version";
const AUTHENTICATION: &str = "/kylin/api/user/authentication";
const PAGE: &str = "<!doctype html><html><title>Kylin</title></html>";

/// How a node handles the requests for the version and for the authentication.
#[derive(Clone, Copy)]
enum Behaviour {
    Responses((u16, &'static str), (u16, &'static str)),
    Fails(SendErrorKind),
}

use Behaviour::{Fails, Responses};

/// Kylin 3.1 and later.
const NEW: Behaviour = Responses((200, r#"{"kylin.version":"3.1.3"}"#), (200, "{}"));
/// Kylin before 3.1.
const OLD: Behaviour = Responses((404, PAGE), (200, "{}"));
/// A Tomcat whose Kylin is stopped, or not deployed yet.
const NOT_DEPLOYED: Behaviour = Responses((404, PAGE), (404, PAGE));

/// A node whose behaviour a test changes.
#[derive(Clone)]
struct Node {
    behaviour: Arc<Mutex<Behaviour>>,
    seen: Arc<Mutex<Vec<Request<()>>>>,
    backend: Scripted,
}

impl Node {
    fn new(behaviour: Behaviour) -> Self {
        let (behaviour, seen) = (Arc::new(Mutex::new(behaviour)), Arc::new(Mutex::new(Vec::new())));
        let (script, log) = (Arc::clone(&behaviour), Arc::clone(&seen));
        let backend = Scripted::new(move |request| std::future::ready(respond(*script.lock(), &log, request)));
        Node { behaviour, seen, backend }
    }

    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    /// Returns the paths of the requests since the last call.
    fn paths(&self) -> Vec<String> {
        self.seen.lock().drain(..).map(|request| request.uri().path().to_owned()).collect()
    }
}

fn respond(
    behaviour: Behaviour,
    log: &Mutex<Vec<Request<()>>>,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let (parts, _) = request.into_parts();
    let is_version = parts.uri.path() == VERSION;
    log.lock().push(Request::from_parts(parts, ()));
    match behaviour {
        Fails(kind) => Err(SendError::new(kind, "scripted")),
        Responses(version, authentication) => {
            let (status, body) = if is_version { version } else { authentication };
            let response = Response::builder().status(status);
            let session = (status == 401).then_some("JSESSIONID=refused; Path=/kylin");
            let response = session.into_iter().fold(response, |response, cookie| response.header("set-cookie", cookie));
            Ok(response.body(Body::from(body)).unwrap())
        }
    }
}

fn cluster(node: &Node) -> Cluster<Scripted> {
    Cluster::builder().endpoint(Endpoint::new("q1", node.backend.clone()).unwrap()).build().unwrap()
}

/// Every second exactly; one failure is enough.
fn every_second() -> HealthCheck {
    let second = Duration::from_secs(1);
    let one = std::num::NonZeroU32::MIN;
    HealthCheck::default().interval(second).fast_interval(second).jitter(0.0).fall(one).rise(one)
}

fn found<B>(cluster: &Cluster<B>) -> (HealthState, Option<ProbeLevel>) {
    let status = status(cluster, "q1");
    (status.health, status.probe_level)
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

const HALF: Duration = Duration::from_millis(500);

fn healthy_at(level: ProbeLevel) -> (HealthState, Option<ProbeLevel>) {
    (HealthState::Healthy, Some(level))
}

fn unhealthy_at(level: ProbeLevel) -> (HealthState, Option<ProbeLevel>) {
    (HealthState::Unhealthy, Some(level))
}

#[tokio::test(start_paused = true)]
async fn at_first_sight_a_node_settles_on_the_best_that_it_offers() {
    let user = r#"{"userDetails":{"username":"ADMIN"}}"#;
    for (behaviour, level) in [
        (NEW, Version),
        (Responses((200, r#"{"code":"000","data":{"kylin.version":"5.0.0"},"msg":""}"#), (401, "")), Version),
        (OLD, Authentication),
        (Responses((404, PAGE), (200, user)), Authentication),
        (Responses((404, PAGE), (401, PAGE)), Authentication),
        (Responses((401, PAGE), (200, "{}")), Authentication),
        (Responses((403, PAGE), (200, "{}")), Authentication),
        // The page for a wrong path, as Kylin maps 404 to its start page.
        (Responses((200, PAGE), (200, "{}")), Authentication),
        // A fault of this path alone.
        (Responses((500, PAGE), (200, "{}")), Authentication),
        // LDAP is unreachable.
        (Responses((404, PAGE), (500, r#"{"code":"999","error_code":"KE-010021006"}"#)), Authentication),
        (NOT_DEPLOYED, Tcp),
        (Responses((200, PAGE), (200, PAGE)), Tcp),
        (Responses((302, ""), (302, "")), Tcp),
        (Responses((404, PAGE), (200, "true")), Tcp),
    ] {
        let node = Node::new(behaviour);
        let cluster = cluster(&node);
        let _checker = every_second().start(&cluster).unwrap();
        sleep(HALF).await;
        assert_eq!(found(&cluster), healthy_at(level), "{:?}", node.paths());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_respond_or_responds_with_a_server_error_is_unhealthy_at_first_sight() {
    let status = |status| ProbeFailure::Status(StatusCode::from_u16(status).unwrap());
    for (behaviour, failure) in [
        (Fails(SendErrorKind::Connect), ProbeFailure::Unreachable),
        (Fails(SendErrorKind::Broken), ProbeFailure::Broken),
        (Fails(SendErrorKind::HeadTimeout), ProbeFailure::Timeout),
        (Responses((502, PAGE), (502, PAGE)), status(502)),
        (Responses((404, PAGE), (503, PAGE)), status(503)),
        (Responses((500, PAGE), (404, PAGE)), status(500)),
        (Responses((404, PAGE), (500, r#"{"code":"999","error_code":"KE-010021007"}"#)), status(500)),
    ] {
        let node = Node::new(behaviour);
        let cluster = cluster(&node);
        let _checker = every_second().start(&cluster).unwrap();
        sleep(HALF).await;
        assert_eq!(found(&cluster), (HealthState::Unhealthy, None));
        assert_eq!(crate::support::health::status(&cluster, "q1").reason, Some(Reason::Probe(failure)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tomcat_that_stops_is_unhealthy_and_not_found_healthy_by_less() {
    for (behaviour, level) in [(NEW, Version), (OLD, Authentication)] {
        let node = Node::new(behaviour);
        let cluster = cluster(&node);
        let _checker = every_second().start(&cluster).unwrap();
        sleep(HALF).await;
        node.set(NOT_DEPLOYED);
        for _ in 0..100 {
            seconds(1).await;
            assert_eq!(found(&cluster), unhealthy_at(level), "{:?}", node.paths());
        }
        // The node closes its port and starts again.
        for behaviour in [Fails(SendErrorKind::Connect), NOT_DEPLOYED, Responses((200, PAGE), (200, PAGE))] {
            node.set(behaviour);
            seconds(3).await;
            assert_eq!(found(&cluster), unhealthy_at(level), "{:?}", node.paths());
        }
        node.set(behaviour);
        seconds(1).await;
        assert_eq!(found(&cluster), healthy_at(level), "{:?}", node.paths());
    }
    // The version of a running node does not vanish, whatever else it sends.
    let node = Node::new(NEW);
    let cluster = cluster(&node);
    let _checker = every_second().start(&cluster).unwrap();
    sleep(HALF).await;
    node.set(OLD);
    seconds(100).await;
    assert_eq!(found(&cluster), unhealthy_at(Version));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_deployed_yet_settles_when_it_is() {
    for (behaviour, level) in [(NEW, Version), (OLD, Authentication)] {
        let node = Node::new(NOT_DEPLOYED);
        let cluster = cluster(&node);
        let _checker = every_second().start(&cluster).unwrap();
        sleep(HALF).await;
        assert_eq!(found(&cluster), healthy_at(Tcp));
        node.set(behaviour);
        seconds(1).await;
        assert_eq!(found(&cluster), healthy_at(level));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_the_version_is_asked_for_it_once_a_minute_and_settles_on_it_after_an_upgrade() {
    let node = Node::new(OLD);
    let cluster = cluster(&node);
    let _checker = every_second().start(&cluster).unwrap();
    sleep(HALF).await;
    assert_eq!(node.paths(), [VERSION, AUTHENTICATION]);
    seconds(1).await;
    assert_eq!(node.paths(), [VERSION, AUTHENTICATION], "it may have been deployed between the two");
    seconds(59).await;
    assert_eq!(node.paths(), vec![AUTHENTICATION; 59]);
    seconds(60).await;
    let paths = node.paths();
    assert_eq!(paths.iter().filter(|path| *path == VERSION).count(), 1, "{paths:?}");
    // Upgraded while it serves, for example behind its own proxy.
    node.set(NEW);
    seconds(61).await;
    assert_eq!(found(&cluster), healthy_at(Version));
    node.paths();
    seconds(3).await;
    assert_eq!(node.paths(), [VERSION; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_is_found_at_once_in_its_new_version_whether_newer_or_older() {
    let node = Node::new(OLD);
    let cluster = cluster(&node);
    let _checker = every_second().start(&cluster).unwrap();
    sleep(HALF).await;
    for (behaviour, level) in [(NEW, Version), (OLD, Authentication), (NEW, Version)] {
        node.set(Fails(SendErrorKind::Connect));
        seconds(1).await;
        assert_eq!(found(&cluster).0, HealthState::Unhealthy);
        node.set(behaviour);
        seconds(1).await;
        assert_eq!(found(&cluster), healthy_at(level));
    }
    // The front end does not see a restart during maintenance, so it tries all levels again
    // afterwards.
    let id = "q1".parse().unwrap();
    cluster.set_admin_state(&id, AdminState::Maintenance).unwrap();
    seconds(1).await;
    node.set(OLD);
    cluster.set_admin_state(&id, AdminState::Ready).unwrap();
    seconds(1).await;
    assert_eq!(found(&cluster), healthy_at(Authentication));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_at_another_address_is_another_node() {
    let [node, other] = [NEW, Responses((200, PAGE), (200, PAGE))].map(Node::new);
    let at = |address: &str, node: &Node| Endpoint::new("q1", node.backend.clone()).unwrap().placement(address);
    let cluster = Cluster::builder().endpoint(at("a:7070", &node)).build().unwrap();
    let checker = every_second().start(&cluster).unwrap();
    sleep(HALF).await;
    cluster.replace(vec![at("a:7070", &other)]).unwrap();
    seconds(1).await;
    assert_eq!(found(&cluster), unhealthy_at(Version), "the same node by another backend");
    cluster.replace(vec![at("b:7070", &node)]).unwrap();
    seconds(1).await;
    cluster.replace(vec![at("c:7070", &other)]).unwrap();
    seconds(1).await;
    assert_eq!(found(&cluster), healthy_at(Tcp));
    drop(checker);
    seconds(1).await;
    assert_eq!(found(&cluster), (HealthState::Healthy, None));
    let _checker = HealthCheck::new(Probe::kylin_version()).start(&cluster).unwrap();
    seconds(1).await;
    assert_eq!(status(&cluster, "q1").probe_level, None, "a probe of one request has no level");
}

#[tokio::test(start_paused = true)]
async fn a_refused_probe_makes_one_session_at_its_node() {
    let node = Node::new(Responses((401, PAGE), (401, PAGE)));
    let cluster = cluster(&node);
    let probe = Probe::kylin().header("x-probe".parse().unwrap(), "yes".parse().unwrap());
    let _checker = HealthCheck::new(probe).start(&cluster).unwrap();
    seconds(20).await;
    assert!(pick(&cluster).is_some());
    let seen = node.seen.lock();
    assert!(seen.len() > 3 && seen.iter().all(|request| request.headers()["x-probe"] == "yes"), "{seen:?}");
    let cookies: Vec<_> = seen.iter().map(|request| request.headers().get("cookie")).collect();
    assert_eq!(cookies[0], None);
    assert!(
        cookies[1..].iter().all(|cookie| cookie.is_some_and(|cookie| cookie == "JSESSIONID=refused")),
        "{cookies:?}"
    );
}

#[tokio::test]
async fn a_real_tomcat_is_healthy_by_its_port_until_kylin_is_deployed_and_unhealthy_when_kylin_is_stopped() {
    if !Tomcat::required() {
        return;
    }
    let tomcats = Tomcat::start(&["q1"]).await;
    let tomcat = &tomcats[0];
    tomcat.set_deployed(false).await;
    let backend = HttpBackend::new(&tomcat.address().to_string()).unwrap();
    let cluster = Cluster::builder().endpoint(Endpoint::new("q1", backend).unwrap()).build().unwrap();
    let often = Duration::from_millis(20);
    let _checker = HealthCheck::default().interval(often).fast_interval(often).start(&cluster).unwrap();
    for (deployed, expected) in [
        (false, healthy_at(Tcp)),
        (true, healthy_at(Version)),
        (false, unhealthy_at(Version)),
        (true, healthy_at(Version)),
    ] {
        tomcat.set_deployed(deployed).await;
        eventually(|| found(&cluster) == expected, || format!("{deployed}: {:?}", cluster.status())).await;
    }
}

in_each_dialect!(nodes_of_every_version_serve_under_the_default_probe);
async fn nodes_of_every_version_serve_under_the_default_probe(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let front = Front::kylin(demo.endpoints(), |proxy| proxy);
    let cluster = front.proxy.cluster();
    let often = Duration::from_millis(20);
    let _checker = HealthCheck::default().interval(often).fast_interval(often).start(cluster).unwrap();
    for node in &demo.nodes {
        // Many times `fall`.
        node.wait_until(|stats| stats.requests > 12).await.unwrap();
    }
    let mut served = 0;
    for n in 0..60 {
        let response = admin(&front, "POST /kylin/api/query", &sql(&format!("select {n}"))).await;
        served += usize::from(response.status() == 200);
    }
    assert_eq!(served, 60);
    let level = if dialect.reported_version().is_some() { Version } else { Authentication };
    for endpoint in &cluster.status().endpoints {
        assert_eq!((endpoint.health, endpoint.probe_level), healthy_at(level), "{endpoint:?}");
    }
    assert_eq!(demo.sum(|stats| stats.queries), 60);
}
