//! How long connections to nodes are made, kept and used again, and how many there may be.

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

/// Sends a request and reads its answer.
async fn ask(backend: &HttpBackend) {
    let answer = backend.send(post("body")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "fine");
    // Turns in which the connection learns that it is idle.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// A node, and a backend for it with changes.
async fn node(change: impl FnOnce(HttpBackendBuilder) -> HttpBackendBuilder) -> (RawNode, HttpBackend) {
    let node = RawNode::start([healthy("fine")]).await;
    let backend = change(HttpBackend::builder(&node.address().to_string()).unwrap()).build();
    (node, backend)
}

#[tokio::test]
async fn a_connection_that_idled_too_long_is_not_used_again() {
    let clock = ManualClock::new();
    let (node, backend) = node(|backend| backend.idle_timeout(Duration::from_secs(10)).clock(clock.clone())).await;
    ask(&backend).await;
    clock.advance(Duration::from_secs(10));
    ask(&backend).await;
    assert_eq!(node.seen().connections, 1, "used again at the limit");
    clock.advance(Duration::from_millis(10_001));
    ask(&backend).await;
    assert_eq!(node.seen().connections, 2, "and not beyond it");
    eventually(|| backend.connections() == 1, || "the old connection closed".to_owned()).await;
}

#[tokio::test]
async fn a_connection_carries_so_many_requests() {
    let (node, backend) = node(|backend| backend.max_uses(NonZero::new(2))).await;
    for requests in 1..=5_usize {
        ask(&backend).await;
        assert_eq!(node.seen().connections, requests.div_ceil(2), "after {requests} requests");
    }
    node.wait_until(|seen| seen.closed == 2).await;
}

#[tokio::test]
async fn a_connection_becomes_so_old() {
    let clock = ManualClock::new();
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    let (node, backend) = node(|backend| backend.max_age(Some(minute)).idle_timeout(hour).clock(clock.clone())).await;
    ask(&backend).await;
    clock.advance(minute);
    ask(&backend).await;
    assert_eq!(node.seen().connections, 1);
    clock.advance(Duration::from_secs(1));
    // The first of these may still be its last.
    ask(&backend).await;
    ask(&backend).await;
    assert_eq!(node.seen().connections, 2);
    node.wait_until(|seen| seen.closed == 1).await;
}

#[tokio::test]
async fn a_request_beyond_the_limit_of_connections_goes_elsewhere() {
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
    assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 0, "no fault of the node's");
}

#[tokio::test]
async fn a_request_beyond_the_limit_of_connections_comes_back_unsent() {
    let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("late"))]]).await;
    let backend = HttpBackend::builder(&node.address().to_string()).unwrap().max_connections(NonZero::new(1)).build();
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

/// A listener whose queue is full: the kernel answers no more clients.
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
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let queued = std::iter::from_fn(connect).take(16).collect::<Vec<_>>();
        assert!(queued.len() < 16, "the queue has no end");
        Full { address, _open: (listener, queued) }
    }
}

#[tokio::test]
async fn a_node_that_takes_no_connection_in_time_is_passed_over_with_the_request_unsent() {
    let full = Full::new();
    let timeout = Duration::from_millis(100);
    let backend = HttpBackend::builder(&full.address.to_string()).unwrap().connect_timeout(timeout).build();
    let mut error = backend.send(post("body")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::ConnectTimeout);
    assert!(error.take_request().is_some());
    eventually(|| backend.connections() == 0, || "the attempt given up".to_owned()).await;

    let other = RawNode::start([healthy("other")]).await;
    let slow = endpoint(0, full.address, |backend| backend.connect_timeout(timeout));
    let front = Front::of([slow, endpoint(1, other.address(), |backend| backend)], |proxy| proxy);
    for turn in 1..=2 {
        assert_eq!(front.post("/", "body").await.unwrap().text(), "other");
        assert_eq!(other.seen().requests.len(), turn);
        assert_eq!(front.proxy.cluster().status().endpoints[0].failed, turn as u64, "asked first and to blame");
    }
}

/// A host may have several runtimes, and end one while the others go on sending through the same backend.
#[test]
fn a_connection_whose_runtime_has_ended_is_in_nobodys_way() {
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
        let answer = runtime.block_on(async {
            let request = http::Request::post("/").header("host", "kylin").body(Body::from("x")).unwrap();
            let answer = backend.send(request).await.unwrap();
            http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes()
        });
        assert_eq!(answer, "hello");
    }
}
