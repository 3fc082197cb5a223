//! The conformance suite of [`Backend`], for tests of implementations.
//!
//! ```
//! use kylin_lb::HttpBackend;
//! use kylin_lb::testing::backend::conformance;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! conformance(|node| HttpBackend::new(&node.to_string()).expect("an address")).await;
//! # });
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::backend::{Backend, SendErrorKind};
use crate::body::{Body, BoxError};

/// How long the suite waits for a single event.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Checks the guarantees of [`Backend`]. `open` makes a backend for the node at an address. The
/// nodes speak HTTP/1.1 without TLS.
///
/// # Panics
/// Panics if the backend breaks a guarantee; the message names it.
pub async fn conformance<B: Backend>(open: impl Fn(SocketAddr) -> B) {
    the_request_arrives_unchanged(&open).await;
    a_copy_is_sent_as_the_request(&open).await;
    a_response_of_any_status_is_returned(&open).await;
    redirects_cookies_and_codings_are_left_to_the_client(&open).await;
    the_body_streams_and_a_truncated_body_fails(&open).await;
    a_failure_tells_how_far_the_request_got(&open).await;
    dropping_the_request_or_the_response_closes_the_connection(&open).await;
}

async fn the_request_arrives_unchanged<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let mut node = Node::start(&[OK], false).await;
    let headers = [("host", "kylin.example"), ("accept", "*/*"), ("cookie", "a=b; c=d"), ("x-own", "1")];
    let mut request = Request::post("/kylin/api/query?a=%2F+b");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    receive(&open(node.address), request.body(Body::from("{\"sql\":1}")).expect("a valid request")).await;
    let request = node.request().await;
    assert!(
        request.starts_with("POST /kylin/api/query?a=%2F+b HTTP/1.1\r\n"),
        "the target is sent as it is: {request}"
    );
    let head = request.to_ascii_lowercase();
    for (name, value) in headers {
        assert_eq!(head.matches(&format!("\r\n{name}: {value}\r\n")).count(), 1, "{name} is sent as it is: {request}");
    }
    assert!(!head.contains("\r\naccept-encoding:"), "no Accept-Encoding is added: {request}");
    assert!(request.contains("{\"sql\":1}"), "the body is sent as it is: {request}");
}

async fn a_copy_is_sent_as_the_request<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let mut node = Node::start(&[OK], false).await;
    let backend = open(node.address);
    // A body that is copied into the head, and one that is not.
    for length in [9, 100_000] {
        let body = format!("{{{}}}", "x".repeat(length));
        let request = Request::post("/kylin/api/query").header("host", "kylin").header("x-own", "1");
        let request = request.body(Body::from(body.clone())).expect("a valid request");
        let mut sent = Vec::new();
        // On a new connection, and on one that is kept.
        for _ in 0..2 {
            let response = timeout(TIMEOUT, backend.send_copy(&request)).await.expect("a response in time");
            response.expect("a response").into_body().collect().await.expect("a body");
            sent.push(node.request().await);
        }
        receive(&backend, request).await;
        sent.push(node.request().await);
        assert!(sent[0].ends_with(&body) && sent[0].starts_with("POST /kylin/api/query"), "{}", sent[0]);
        assert!(sent.iter().all(|one| *one == sent[0]), "a copy is sent as the request would be: {sent:?}");
    }
    let request =
        Request::post("/").header("host", "kylin").body(Body::new(FailingBody(false))).expect("a valid request");
    let sent = timeout(TIMEOUT, backend.send_copy(&request)).await.expect("a stream is not waited for");
    assert!(sent.is_err(), "a stream cannot be copied");
}

async fn a_response_of_any_status_is_returned<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    for status in ["201 Created", "400 Bad Request", "404 Not Found", "500 Internal Server Error", "503 Busy"] {
        let response = format!("HTTP/1.1 {status}\r\nX-Own: a\r\nX-Own: b\r\nContent-Length: 0\r\n\r\n");
        let node = Node::start(&[&response], false).await;
        let (response, _) = receive(&open(node.address), get()).await;
        assert_eq!(response.status().as_str(), &status[..3], "the status is returned as it is");
        assert_eq!(response.headers().get_all("x-own").iter().count(), 2, "repeated headers are kept");
    }
}

async fn redirects_cookies_and_codings_are_left_to_the_client<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let found = "HTTP/1.1 302 Found\r\nLocation: /b\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\n\
                 Content-Length: 8\r\n\r\nnot gzip";
    let mut node = Node::start(&[found], false).await;
    let backend = open(node.address);
    for _ in 0..2 {
        let (response, body) = receive(&backend, get()).await;
        assert_eq!(response.status(), StatusCode::FOUND, "redirects are not followed");
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip", "the content coding stays");
        assert_eq!(body, "not gzip", "the body is not decompressed");
        let request = node.request().await.to_ascii_lowercase();
        assert!(!request.contains("\r\ncookie:"), "cookies are not stored: {request}");
    }
}

async fn the_body_streams_and_a_truncated_body_fails<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let node = Node::start(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "first", ""], true).await;
    let sent = timeout(TIMEOUT, open(node.address).send(get())).await.expect("the head is returned before the body");
    let mut body = sent.expect("a response").into_body();
    node.next();
    let first = timeout(TIMEOUT, body.frame()).await.expect("the body streams").expect("data").expect("data");
    assert_eq!(first.into_data().ok().as_deref(), Some(&b"first"[..]), "the body is returned as it is");
    node.next();
    let rest = timeout(TIMEOUT, body.collect()).await.expect("the end of the connection ends the body");
    assert!(rest.is_err(), "a truncated body ends with an error");
}

async fn a_failure_tells_how_far_the_request_got<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    assert_eq!(failure(&open(address), get()).await, SendErrorKind::Connect, "a refused connection is `Connect`");
    for (response, name) in [("", "no response"), ("HTTP/1.1 200", "half a head"), ("what?\r\n\r\n", "not HTTP")] {
        let node = Node::start(&[response], true).await;
        let kind = failure(&open(node.address), get()).await;
        assert!(!kind.is_unsent() && kind != SendErrorKind::RequestBody, "{name} after the request is not {kind:?}");
    }
    let node = Node::start(&[], false).await;
    let request = Request::post("/").header("host", "kylin").body(Body::new(FailingBody(false)));
    let kind = failure(&open(node.address), request.expect("a valid request")).await;
    assert_eq!(kind, SendErrorKind::RequestBody, "a request body that fails is `RequestBody`");
}

async fn dropping_the_request_or_the_response_closes_the_connection<B: Backend>(open: &impl Fn(SocketAddr) -> B) {
    let mut node = Node::start(&[], false).await;
    let backend = open(node.address);
    tokio::select! {
        _ = backend.send(get()) => panic!("the node has not responded"),
        _ = node.request() => {}
    }
    node.closed("a request").await;
    let mut node = Node::start(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst"], false).await;
    let backend = open(node.address);
    drop(backend.send(get()).await.expect("a response"));
    node.closed("a response").await;
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get() -> Request<Body> {
    Request::get("/a").header("host", "kylin").body(Body::empty()).expect("a valid request")
}

async fn receive<B: Backend>(backend: &B, request: Request<Body>) -> (Response<()>, Bytes) {
    let response = timeout(TIMEOUT, backend.send(request)).await.expect("a response in time").expect("a response");
    let (head, body) = response.into_parts();
    let body = timeout(TIMEOUT, body.collect()).await.expect("a body in time").expect("a whole body").to_bytes();
    (Response::from_parts(head, ()), body)
}

async fn failure<B: Backend>(backend: &B, request: Request<Body>) -> SendErrorKind {
    timeout(TIMEOUT, backend.send(request)).await.expect("an error in time").expect_err("no response").kind()
}

/// A node that responds to each request with the same pieces. All but the first wait for
/// [`Node::next`].
struct Node {
    address: SocketAddr,
    /// The requests as text; `None` marks the end of a connection.
    requests: mpsc::UnboundedReceiver<Option<String>>,
    next: Arc<Semaphore>,
}

impl Node {
    async fn start(pieces: &[&str], close: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, requests) = mpsc::unbounded_channel();
        let next = Arc::new(Semaphore::new(0));
        let (pieces, gate) = (pieces.iter().map(|piece| (*piece).to_owned()).collect::<Vec<_>>(), Arc::clone(&next));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, pieces.clone(), close, sender.clone(), Arc::clone(&gate)));
            }
        });
        Node { address, requests, next }
    }

    /// Lets the node write the next piece.
    fn next(&self) {
        self.next.add_permits(1);
    }

    async fn request(&mut self) -> String {
        loop {
            let event = timeout(TIMEOUT, self.requests.recv()).await.expect("the node receives a request");
            if let Some(request) = event.expect("the node runs") {
                return request;
            }
        }
    }

    async fn closed(&mut self, dropped: &str) {
        let closed = async { while self.requests.recv().await.flatten().is_some() {} };
        timeout(TIMEOUT, closed).await.unwrap_or_else(|_| panic!("dropping {dropped} closes its connection"));
    }
}

async fn respond(
    mut stream: TcpStream,
    pieces: Vec<String>,
    close: bool,
    requests: mpsc::UnboundedSender<Option<String>>,
    next: Arc<Semaphore>,
) {
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|length| length > 0) {
        if !is_complete(&read) {
            continue;
        }
        _ = requests.send(Some(String::from_utf8_lossy(&read).into_owned()));
        read.clear();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                next.acquire().await.expect("never closed").forget();
            }
            _ = stream.write_all(piece.as_bytes()).await;
        }
        if close {
            break;
        }
    }
    _ = requests.send(None);
}

/// Returns true if `request` has its head and the body that this suite sends.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| !head.starts_with("POST") || body.contains("}"))
}

/// A body that fails after its first piece.
struct FailingBody(bool);

impl http_body::Body for FailingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let is_first = !std::mem::replace(&mut self.0, true);
        Poll::Ready(Some(if is_first { Ok(Frame::data(Bytes::from_static(b"part"))) } else { Err("cut".into()) }))
    }
}
