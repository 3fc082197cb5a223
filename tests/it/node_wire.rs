//! The bytes of HTTP/1.1 between the backend and a node.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::{Backend, Body, HttpBackend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::front::eventually;
use crate::support::raw_node::{Act, RawNode, ok};

fn get() -> Request<Body> {
    Request::get("/").header("host", "kylin").body(Body::empty()).unwrap()
}

async fn text(response: http::Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Every framing of a body, each byte in its own segment, on one connection.
#[tokio::test]
async fn a_response_that_arrives_byte_by_byte_is_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = HttpBackend::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ];
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        for response in responses {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            for byte in response.bytes() {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in responses {
        assert_eq!(text(backend.send(get()).await.unwrap()).await, "hello");
    }
    node.await.unwrap();
    assert_eq!(backend.connections(), 0, "the last body ended with the connection");
}

/// A body with the pieces that the test sends.
struct Pieces(mpsc::UnboundedReceiver<&'static str>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

#[tokio::test]
async fn an_upload_continues_while_its_response_is_read() {
    let first = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab".to_vec();
    let script = vec![Act::ReadHead, Act::Write(first), Act::Read, Act::Write(b"cd".to_vec()), Act::UntilClosed];
    let node = RawNode::start([script]).await;
    let backend = HttpBackend::new(&node.address().to_string()).unwrap();
    let (pieces, body) = mpsc::unbounded_channel();
    let request = Request::post("/").header("host", "kylin").body(Body::new(Pieces(body))).unwrap();
    let mut response = backend.send(request).await.unwrap().into_body();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    // Reading the response drives the upload.
    let reading = tokio::spawn(async move { response.collect().await.unwrap().to_bytes() });
    pieces.send("hello").unwrap();
    pieces.send("!").unwrap();
    drop(pieces);
    node.wait_until(|seen| seen.bytes[0].ends_with(b"\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")).await;
    assert_eq!(reading.await.unwrap(), "cd");
    assert_eq!(backend.connections(), 1, "both are complete");
}

#[tokio::test]
async fn a_connection_with_an_incomplete_request_is_not_reused() {
    let node = RawNode::start([vec![Act::ReadHead, Act::Write(ok("early")), Act::UntilClosed]]).await;
    let backend = HttpBackend::new(&node.address().to_string()).unwrap();
    let (pieces, body) = mpsc::unbounded_channel();
    let request = Request::post("/").header("host", "kylin").body(Body::new(Pieces(body))).unwrap();
    assert_eq!(text(backend.send(request).await.unwrap()).await, "early");
    assert!(pieces.is_closed(), "the rest of the body is dropped");
    assert_eq!(backend.connections(), 0);
    node.wait_until(|seen| seen.closed == 1).await;
}

#[tokio::test]
async fn a_body_that_differs_from_its_declared_length_is_the_clients_fault() {
    for (declared, sent) in [("3", "long"), ("9", "short")] {
        let node = RawNode::start([vec![Act::ReadHead, Act::UntilClosed]]).await;
        let backend = HttpBackend::new(&node.address().to_string()).unwrap();
        let (pieces, body) = mpsc::unbounded_channel();
        pieces.send(sent).unwrap();
        drop(pieces);
        let request = Request::post("/").header("host", "kylin").header("content-length", declared);
        let error = backend.send(request.body(Body::new(Pieces(body))).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::RequestBody, "{declared} {sent}");
        assert_eq!(backend.connections(), 0);
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = HttpBackend::new(&listener.local_addr().unwrap().to_string()).unwrap();
    const LENGTH: usize = 8 << 20;
    let node = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.unwrap();
            all
        });
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'a'; LENGTH]).await.unwrap();
        echo.await.unwrap()
    });
    let request = Request::put("/").header("host", "kylin").body(Body::from(vec![b'u'; LENGTH])).unwrap();
    let response = backend.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), LENGTH);
    drop(backend);
    let seen = node.await.unwrap();
    assert!(seen.iter().filter(|byte| **byte == b'u').count() <= LENGTH + 1);
}

#[tokio::test]
async fn an_idle_connection_that_its_node_closes_is_freed_without_a_request() {
    let node = RawNode::start([vec![Act::Read, Act::Write(ok("fine")), Act::WaitForGo]]).await;
    let backend = HttpBackend::new(&node.address().to_string()).unwrap();
    assert_eq!(text(backend.send(get()).await.unwrap()).await, "fine");
    assert_eq!(backend.connections(), 1, "kept");
    node.go();
    eventually(|| backend.connections() == 0, || "the socket closed".to_owned()).await;
}

#[tokio::test]
async fn an_idle_connection_times_out_without_a_request() {
    let node = RawNode::start([vec![Act::Serve(ok("fine"))]]).await;
    let idle = Duration::from_millis(100);
    let backend = HttpBackend::builder(&node.address().to_string()).unwrap().idle_timeout(idle).build().unwrap();
    assert_eq!(text(backend.send(get()).await.unwrap()).await, "fine");
    eventually(|| backend.connections() == 0, || "the socket closed".to_owned()).await;
}
