//! The limits on connections to nodes: their number, age, idle time and uses.

use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::backend::http1::HttpBackendBuilder;
use kylin_lb::clock::ManualClock;
use kylin_lb::{Backend, Body, HttpBackend};
use socket2::{Domain, Socket, Type};

use crate::support::front::{Front, endpoint, eventually};
use crate::support::raw_node::{Act, RawNode, healthy, ok};

fn post(body: &'static str) -> Request<Body> {
    Request::post("/").header("host", "kylin").body(Body::from(body)).unwrap()
}

/// Sends a request and reads its response.
async fn exchange(backend: &HttpBackend) {
    let response = backend.send(post("body")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "fine");
    // Lets the runtime poll the idle connection.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Starts a node and a backend for it.
async fn node(change: impl FnOnce(HttpBackendBuilder) -> HttpBackendBuilder) -> (RawNode, HttpBackend) {
    let node = RawNode::start([healthy("fine")]).await;
    let backend = change(HttpBackend::builder(&node.address().to_string()).unwrap()).build().unwrap();
    (node, backend)
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_not_reused() {
    let clock = ManualClock::new();
    let (node, backend) = node(|backend| backend.idle_timeout(Duration::from_secs(10)).clock(clock.clone())).await;
    exchange(&backend).await;
    clock.advance(Duration::from_secs(10));
    exchange(&backend).await;
    assert_eq!(node.seen().connections, 1, "reused at the limit");
    clock.advance(Duration::from_millis(10_001));
    exchange(&backend).await;
    assert_eq!(node.seen().connections, 2, "but not beyond it");
    eventually(|| backend.connections() == 1, || "the old connection closed".to_owned()).await;
}

#[tokio::test]
async fn a_connection_carries_a_limited_number_of_requests() {
    let (node, backend) = node(|backend| backend.max_uses(NonZero::new(2))).await;
    for requests in 1..=5_usize {
        exchange(&backend).await;
        assert_eq!(node.seen().connections, requests.div_ceil(2), "after {requests} requests");
    }
    node.wait_until(|seen| seen.closed == 2).await;
}

#[tokio::test]
async fn a_connection_has_a_maximum_age() {
    let clock = ManualClock::new();
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    let (node, backend) = node(|backend| backend.max_age(Some(minute)).idle_timeout(hour).clock(clock.clone())).await;
    exchange(&backend).await;
    clock.advance(minute);
    exchange(&backend).await;
    assert_eq!(node.seen().connections, 1);
    clock.advance(Duration::from_secs(1));
    // The first of these may still use the old connection.
    exchange(&backend).await;
    exchange(&backend).await;
    assert_eq!(node.seen().connections, 2);
    node.wait_until(|seen| seen.closed == 1).await;
}

#[tokio::test]
async fn a_request_beyond_the_limit_of_connections_goes_to_another_node() {
    let busy = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("late"))]]).await;
    let other = RawNode::start([healthy("other")]).await;
    let limited = endpoint(0, busy.address(), |backend| backend.max_connections(NonZero::new(1)));
    let front = Front::of([limited, endpoint(1, other.address(), |backend| backend)], |proxy| proxy);
    let first = front.get("/");
    let others = async {
        busy.wait_until(|seen| seen.requests.len() == 1).await;
        for _ in 0..4 {
            assert_eq!(front.post("/", "body").await.unwrap().text(), "other");
        }
        busy.go();
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.unwrap().text(), "late");
    assert_eq!(busy.seen().connections, 1);
    assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 0, "the node is not at fault");
}

#[tokio::test]
async fn a_request_beyond_the_limit_of_connections_is_returned_unsent() {
    let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("late"))]]).await;
    let backend =
        HttpBackend::builder(&node.address().to_string()).unwrap().max_connections(NonZero::new(1)).build().unwrap();
    let others = async {
        node.wait_until(|seen| seen.requests.len() == 1).await;
        let mut error = backend.send(post("second")).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::Limit);
        let request = error.take_request().unwrap();
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "second");
        node.go();
    };
    let (first, ()) = tokio::join!(backend.send(post("first")), others);
    assert_eq!(first.unwrap().into_body().collect().await.unwrap().to_bytes(), "late");
    assert_eq!(node.seen().requests.len(), 1);
}

#[test]
fn a_timeout_of_zero_is_an_error_that_names_it() {
    for setting in ["connect timeout", "head timeout", "body timeout"] {
        let builder = HttpBackend::builder("10.0.0.1:7070").unwrap();
        let builder = match setting {
            "connect timeout" => builder.connect_timeout(Duration::ZERO),
            "head timeout" => builder.head_timeout(Duration::ZERO),
            _ => builder.body_timeout(Duration::ZERO),
        };
        let error = builder.build().unwrap_err();
        assert_eq!((error.setting, error.value, error.min), (setting, Duration::ZERO, Duration::from_millis(1)));
    }
}

/// A listener whose accept queue is full, so that the kernel accepts no more clients.
struct Full {
    address: SocketAddr,
    _open: (Socket, Vec<TcpStream>),
}

impl Full {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(800)).ok();
        let queued = std::iter::from_fn(connect).take(16).collect::<Vec<_>>();
        assert!(queued.len() < 16, "the queue has no end");
        Full { address, _open: (listener, queued) }
    }
}

#[tokio::test]
async fn a_node_that_does_not_accept_in_time_is_skipped_with_the_request_unsent() {
    let full = Full::new();
    let timeout = Duration::from_millis(100);
    let backend = HttpBackend::builder(&full.address.to_string()).unwrap().connect_timeout(timeout).build().unwrap();
    let mut error = backend.send(post("body")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::ConnectTimeout);
    assert!(error.take_request().is_some());
    eventually(|| backend.connections() == 0, || "the attempt cancelled".to_owned()).await;

    let other = RawNode::start([healthy("other")]).await;
    let slow = endpoint(0, full.address, |backend| backend.connect_timeout(timeout));
    let front = Front::of([slow, endpoint(1, other.address(), |backend| backend)], |proxy| proxy);
    for round in 1..=2 {
        assert_eq!(front.post("/", "body").await.unwrap().text(), "other");
        assert_eq!(other.seen().requests.len(), round);
        assert_eq!(
            front.proxy.cluster().status().endpoints[0].failed,
            round as u64,
            "the node was tried first and is at fault"
        );
    }
}

/// An application may have several runtimes, and end one while the others use the same backend.
#[test]
fn a_connection_whose_runtime_has_ended_is_not_reused() {
    use kylin_lb::{Backend, Body, ClientAddr, HttpBackend};

    let hello = |_: ClientAddr, _: http::Request<Body>| async { http::Response::new(Body::from("hello")) };
    let node = kylin_lb::server::Server::builder()
        .listen("127.0.0.1:0".parse().unwrap(), hello)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap();
    let backend = HttpBackend::new(&node.addresses()[0].to_string()).unwrap();
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let body = runtime.block_on(async {
            let request = http::Request::post("/").header("host", "kylin").body(Body::from("x")).unwrap();
            let response = backend.send(request).await.unwrap();
            http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes()
        });
        assert_eq!(body, "hello");
    }
}
