//! Nodes that close a connection while it is idle, while a request is on its way, or before the
//! request is read. If the order of events matters, the test blocks the only thread of its runtime
//! until the kernel has all events.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::{Backend, Body, Endpoint, HttpBackend};

use crate::support::front::{Front, endpoint, eventually};
use crate::support::http::RawResponse;
use crate::support::raw_node::{Act, RawNode, healthy, ok};

async fn send(front: &Front, method: &str) -> RawResponse {
    let response = match method {
        "GET" => front.get("/").await,
        _ => front.post("/", "body").await,
    };
    response.unwrap()
}

#[tokio::test]
async fn a_kept_connection_that_the_node_has_closed_fails_no_request() {
    for method in ["GET", "POST"] {
        // Responds once on each connection and closes it later, without `Connection: close`.
        let node = RawNode::start([vec![Act::Read, Act::Write(ok("fine")), Act::WaitForGo]]).await;
        let backend = HttpBackend::new(&node.address().to_string()).unwrap();
        let front = Front::of([Endpoint::new("0", backend.clone()).unwrap()], |proxy| proxy);
        for round in 1..=3 {
            assert_eq!(send(&front, method).await.text(), "fine");
            assert_eq!(node.seen().requests.len(), round, "{method}: each request is received once");
            node.go();
            eventually(|| backend.connections() == 0, || "the close noticed".to_owned()).await;
        }
        assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 0);
    }
}

#[tokio::test]
async fn a_get_on_a_kept_connection_that_breaks_is_retried_on_a_new_one_and_a_post_is_not() {
    for (method, status) in [("GET", 200), ("POST", 502)] {
        // The node reads the second request on the first connection and closes, as if the request
        // and the close had crossed.
        let first = vec![Act::Read, Act::Write(ok("fine")), Act::Read];
        let node = RawNode::start([first, healthy("fresh")]).await;
        let front = Front::over(&[node.address()]);
        assert_eq!(send(&front, method).await.text(), "fine");
        let response = send(&front, method).await;
        assert_eq!(response.status(), status, "{method}: {}", response.text());
        let seen = node.seen();
        assert_eq!((seen.requests.len(), seen.connections), if method == "GET" { (3, 2) } else { (2, 1) });
    }
}

/// A stopping node cuts off its running requests, whose connections are not idle.
#[tokio::test]
async fn a_node_that_closes_late_was_executing_the_request() {
    let cut = RawNode::start([vec![Act::Read, Act::Write(ok("fine")), Act::Read, Act::WaitForGo]]).await;
    let other = RawNode::start([healthy("other")]).await;
    let front = Front::over(&[cut.address(), other.address()]);
    assert_eq!((send(&front, "GET").await.text(), send(&front, "GET").await.text()), ("fine", "other"));
    let response = async {
        eventually(|| cut.seen().requests.len() == 2, || "the second request".to_owned()).await;
        // Longer than an idle connection takes to close.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        cut.go();
    };
    let (response, ()) = tokio::join!(send(&front, "GET"), response);
    assert_eq!(response.text(), "other");
    assert_eq!(cut.seen().connections, 1);
    assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 1);
}

/// Reads until the bytes end with `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {}", read.escape_ascii());
        read.push(byte[0]);
    }
}

/// Waits until the kernel has the close of the other side for the socket of `client`. It may arrive
/// a moment after the other side has closed, even on one machine.
fn wait_for_close(client: SocketAddr) {
    const ESTABLISHED: &str = "01";
    let local = format!("0100007F:{:04X}", client.port());
    let is_open = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&*local) && words.nth(1) == Some(ESTABLISHED)
    };
    while std::fs::read_to_string("/proc/net/tcp").unwrap_or_default().lines().any(is_open) {
        std::thread::yield_now();
    }
}

/// Starts a node in its own thread, independent of the test's runtime.
fn node(serve: impl FnOnce(TcpListener) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener));
    address
}

#[tokio::test]
async fn a_post_is_not_sent_on_a_connection_whose_close_has_arrived() {
    for _ in 0..20 {
        let (close, closing) = channel();
        let (closed, is_closed) = channel();
        let address = node(move |listener| {
            for _ in 0..2 {
                let (mut stream, client) = listener.accept().unwrap();
                read_until(&mut stream, b"body");
                stream.write_all(&ok("fine")).unwrap();
                _ = closing.recv();
                drop(stream);
                wait_for_close(client);
                _ = closed.send(());
            }
        });
        let backend = HttpBackend::new(&address.to_string()).unwrap();
        let post = || Request::post("/").header("host", "kylin").body(Body::from("body")).unwrap();
        let response = backend.send(post()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "fine");
        close.send(()).unwrap();
        // The kernel has the close and the runtime does not know it, as when a core is busy with
        // other requests.
        is_closed.recv().unwrap();
        let response = backend.send(post()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "fine");
    }
}

/// An upload whose second piece arrives after the node has closed, followed by more pieces.
struct Late {
    is_closed: Receiver<()>,
    pieces: usize,
}

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.pieces += 1;
        if self.pieces == 2 {
            self.is_closed.recv().unwrap();
        }
        let piece = Bytes::from_static(&[b'x'; 100_000]);
        Poll::Ready((self.pieces <= 50).then(|| Ok(Frame::data(piece))))
    }
}

#[tokio::test]
async fn a_response_is_read_though_the_node_has_closed_before_the_rest_of_the_upload() {
    for _ in 0..20 {
        let (closed, is_closed) = channel();
        let address = node(move |listener| {
            let (mut stream, client) = listener.accept().unwrap();
            read_until(&mut stream, b"x");
            stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig").unwrap();
            // Unread bytes make the kernel reset the connection.
            drop(stream);
            wait_for_close(client);
            closed.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            read_until(&mut stream, b"\r\n\r\n");
            stream.write_all(&ok("fine")).unwrap();
        });
        let backend = HttpBackend::new(&address.to_string()).unwrap();
        let upload = Request::post("/").header("host", "kylin").body(Body::new(Late { is_closed, pieces: 0 })).unwrap();
        let response = backend.send(upload).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "big");
        let next = backend.send(Request::get("/").header("host", "kylin").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(next.into_body().collect().await.unwrap().to_bytes(), "fine", "on another connection");
    }
}

/// A firewall drops idle connections, and resets them when bytes arrive afterwards.
#[tokio::test]
async fn a_query_is_repeated_on_a_new_connection_to_whichever_node() {
    let rows = r#"{"columnMetas":[{}],"results":[["1"]],"isException":false}"#;
    let json =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{rows}", rows.len());
    let once = vec![Act::Read, Act::Write(json.into_bytes()), Act::Read, Act::Reset];
    for (fields, max_open) in [
        ("Authorization: Basic QURNSU46S1lMSU4=", None),
        ("Authorization: Basic QURNSU46S1lMSU4=", NonZeroUsize::new(1)),
        ("Cookie: JSESSIONID=1", None),
    ] {
        let nodes = [RawNode::start([once.clone()]).await, RawNode::start([once.clone()]).await];
        let endpoints = nodes
            .iter()
            .enumerate()
            .map(|(id, node)| endpoint(id, node.address(), |backend| backend.max_connections(max_open)));
        let front = Front::kylin(endpoints, |proxy| proxy.retry(RetryPolicy::default().budget(None)));
        for n in 0..20 {
            let body = format!(r#"{{"sql":"select {n}","project":"p"}}"#);
            let length = body.len();
            let head = format!(
                "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\n{fields}\r\nContent-Length: {length}\r\n\r\n"
            );
            let response = front.ask(head + &body).await.unwrap();
            assert_eq!(response.status(), 200, "{fields}, query {n}: {}", response.text());
        }
        let requests: usize = nodes.iter().map(|node| node.seen().requests.len()).sum();
        assert!(requests > 20, "{requests}: some met an ended connection");
    }
}
