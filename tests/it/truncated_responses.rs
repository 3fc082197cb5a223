//! Responses that end early. The client gets an error response if no byte of the response has been
//! sent, and otherwise a truncated response. It never gets a close without a byte, after which
//! curl, the JDK and browsers repeat a POST on a kept connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::server::Server;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use tokio::net::{TcpListener, TcpStream};

use crate::support::front::{Front, endpoint, refusal};
use crate::support::http::{Connection, RawResponse};
use crate::support::raw_node::{Act, RawNode, find, ok};

/// The response that a client got.
#[derive(Debug)]
enum Got {
    Response(RawResponse),
    /// Some bytes of a response.
    Truncated,
    /// The connection closed without a byte.
    Nothing,
}

/// Reads the response to a request that was sent.
async fn read(connection: &mut Connection) -> Got {
    let before = connection.received();
    match connection.response().await {
        Ok(response) => Got::Response(response),
        Err(error) if error.kind() == ErrorKind::TimedOut => panic!("the connection stays open"),
        Err(_) if connection.received() > before => Got::Truncated,
        Err(_) => Got::Nothing,
    }
}

/// Sends a request on a kept connection, and on a new one if that closes without a byte, like curl,
/// the JDK and browsers.
async fn send_and_repeat(front: &Front, mut kept: Connection, request: &str) -> Got {
    _ = kept.send(request).await;
    match read(&mut kept).await {
        Got::Nothing => {
            let mut fresh = front.connect().await;
            fresh.send(request).await.unwrap();
            read(&mut fresh).await
        }
        got => got,
    }
}

const LENGTH: &str = "Content-Length: 100000\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// The parts of a response that nodes send before they die, and whether the front end must notice
/// this before it responds.
fn beginnings() -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for (status, media) in [
        ("200 OK", "application/octet-stream"),
        ("200 OK", "application/json"),
        ("400 Bad Request", "application/json"),
        ("500 Internal Server Error", "application/json"),
        ("500 Internal Server Error", "text/html"),
    ] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {media}\r\n");
        // The proxy reads such responses to classify them.
        let is_read = !status.starts_with("200");
        for (framing, body) in [
            (LENGTH, String::new()),
            (LENGTH, "{\"code\":".to_owned()),
            (LENGTH, "x".repeat(20_000)),
            (CHUNKED, String::new()),
            (CHUNKED, "5\r\nhello\r\n".to_owned()),
            (CHUNKED, "5\r\nhello\r\n5\r\nhello\r\n5".to_owned()),
            (CHUNKED, "9\r\nhello".to_owned()),
            (CHUNKED, "5\r\nhello\r\n0\r\n".to_owned()),
            (CHUNKED, "5\r\nhello\r\nxyz\r\n".to_owned()),
        ] {
            all.push((format!("{head}{framing}\r\n{body}"), is_read));
        }
    }
    all
}

#[tokio::test]
async fn a_post_is_executed_once_however_its_response_ends_early() {
    let ends: [(&str, Vec<Act>); 3] =
        [("closes", vec![]), ("resets", vec![Act::Reset]), ("stalls", vec![Act::UntilClosed])];
    let insert = "{\"sql\":\"insert into t values (1)\",\"project\":\"p\"}";
    for (beginning, is_read) in beginnings() {
        for (end, acts) in &ends {
            for (aware, version) in [(true, "1.1"), (false, "1.1"), (true, "1.0")] {
                let script = [
                    vec![Act::Read, Act::Write(ok("warm")), Act::Read, Act::Write(beginning.clone().into())],
                    acts.clone(),
                ];
                let node = RawNode::start([script.concat(), script.concat()]).await;
                let nodes = [endpoint(0, node.address(), |backend| backend.body_timeout(Duration::from_millis(100)))];
                let front = if aware { Front::kylin(nodes, |proxy| proxy) } else { Front::of(nodes, |proxy| proxy) };
                let mut kept = front.connect().await;
                kept.send("GET /kylin/x HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
                assert_eq!(kept.response().await.unwrap().text(), "warm");

                let head = format!("POST /kylin/api/query HTTP/{version}\r\nHost: kylin\r\nConnection: keep-alive\r\n");
                let request = format!("{head}Content-Length: {}\r\n\r\n{insert}", insert.len());
                let got = send_and_repeat(&front, kept, &request).await;
                let case = format!("{beginning:.120?} {end}, HTTP/{version}, Kylin-aware: {aware}: {got:?}");
                match got {
                    Got::Response(response) => _ = refusal(&response, 502),
                    Got::Truncated => assert!(!(aware && is_read), "the failure was known: {case}"),
                    Got::Nothing => panic!("{case}"),
                }
                let executed = node.seen().texts().iter().filter(|request| request.starts_with("POST")).count();
                assert_eq!(executed, 1, "{case}");
                front.idle().await;
            }
        }
    }
}

/// A step of the body of an application's backend.
#[derive(Debug, Clone, Copy)]
enum Step {
    Data(&'static str),
    Wait,
    Fail,
}
use Step::{Data, Fail, Wait};

struct Steps(VecDeque<Step>);

impl http_body::Body for Steps {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Data(text)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
            Some(Fail) => Poll::Ready(Some(Err(ErrorKind::ConnectionReset.into()))),
            Some(Wait) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// A body that never yields a byte.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn response(length: Option<u64>, steps: &[Step]) -> Response<Body> {
    let mut response = Response::new(Body::new(Steps(steps.iter().copied().collect())));
    if let Some(length) = length {
        response.headers_mut().insert("content-length", length.into());
    }
    response
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    Whole,
    Refused,
    /// The node dies after a part of the response, which may be only the head.
    Truncated,
}
use Expected::{Refused, Truncated, Whole};

const WAITS: [Step; 4] = [Wait; 4];

/// Bodies of an application's backend: declared length, steps, and the client's result.
fn bodies() -> Vec<(Option<u64>, Vec<Step>, Expected)> {
    let later = |steps: &[Step]| [&WAITS, steps].concat();
    vec![
        (None, vec![Data("hello")], Whole),
        (None, later(&[Data("hello")]), Whole),
        (Some(10), [&[Data("hello")], &WAITS[..], &[Data("world")]].concat(), Whole),
        (None, vec![Fail], Refused),
        (None, vec![Data("hello"), Fail], Refused),
        (None, vec![Data("hello"), Data("world"), Fail], Refused),
        (Some(10), vec![Data("hello"), Fail], Refused),
        (Some(10), vec![Data("hello")], Refused),
        (Some(3), vec![Data("hello")], Refused),
        (Some(5), vec![Data("hello"), Data("world")], Refused),
        (Some(0), vec![Data("hello")], Refused),
        (None, later(&[Fail]), Truncated),
        (None, [&[Data("hello")], &WAITS[..], &[Fail]].concat(), Truncated),
        (Some(10), later(&[Data("hello"), Fail]), Truncated),
        (Some(10), later(&[Data("hello")]), Truncated),
        (Some(3), later(&[Data("hello")]), Truncated),
        (Some(5), later(&[Data("hello"), Data("world")]), Truncated),
        (Some(5), later(&[Data("hello"), Fail]), Truncated),
    ]
}

fn proxy_over(length: Option<u64>, steps: Vec<Step>) -> Proxy<Scripted> {
    let node = Scripted::new(move |_| std::future::ready(Ok(response(length, &steps))));
    let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node).unwrap().max_fails(None)).build().unwrap();
    Proxy::plain(cluster).build().unwrap()
}

fn serve<H: kylin_lb::server::Handler>(handler: H) -> Server {
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler);
    server.threads(NonZero::new(1).unwrap()).start().unwrap()
}

async fn ask(address: SocketAddr, version: &str) -> Got {
    let mut connection = Connection::open(address).await.unwrap();
    connection.send(format!("GET / HTTP/{version}\r\nHost: kylin\r\n\r\n")).await.unwrap();
    read(&mut connection).await
}

fn check(got: &Got, expected: Expected, case: &str) {
    match (got, expected) {
        (Got::Response(response), Whole) => assert!(response.text().starts_with("hello"), "{case}: {got:?}"),
        (Got::Response(response), Refused) => _ = refusal(response, 502),
        (Got::Truncated, Truncated) => {}
        _ => panic!("{case}: {got:?}"),
    }
}

#[tokio::test]
async fn a_body_of_a_backend_that_fails_or_has_another_length_than_declared_never_looks_complete() {
    for (length, steps, expected) in bodies() {
        let case = format!("{length:?} {steps:?}");
        let server = serve(proxy_over(length, steps));
        for version in ["1.1", "1.0"] {
            check(&ask(server.addresses()[0], version).await, expected, &format!("{case} HTTP/{version}"));
        }
    }
}

#[tokio::test]
async fn a_body_of_a_handler_that_fails_or_has_another_length_than_declared_never_looks_complete() {
    for (length, steps, expected) in bodies().into_iter().filter(|(length, ..)| *length != Some(0)) {
        let case = format!("{length:?} {steps:?}");
        let handler = move |_: ClientAddr, _: Request<Body>| std::future::ready(response(length, &steps));
        check(&ask(serve(handler).addresses()[0], "1.1").await, expected, &case);
    }
}

#[tokio::test]
async fn an_http2_client_gets_an_error_response_or_a_reset_after_the_head() {
    for (length, steps, expected) in bodies() {
        let case = format!("{length:?} {steps:?}");
        let server = serve(proxy_over(length, steps));
        let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        let (mut send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://kylin/").body(Empty::<Bytes>::new()).unwrap();
        let response = send.send_request(request).await.unwrap_or_else(|error| panic!("no head: {case}: {error}"));
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        match expected {
            Whole => assert!(status == 200 && body.is_ok_and(|body| body.to_bytes().starts_with(b"hello")), "{case}"),
            Refused => assert!(status == 502 && body.is_ok(), "{case}: {status}"),
            Truncated => assert!(status == 200 && body.is_err(), "{case}: {status}"),
        }
    }
}

/// hyper drops what it has not written yet when a body fails.
#[tokio::test]
async fn the_server_of_an_application_writes_a_byte_before_it_closes() {
    for (length, steps, expected) in bodies() {
        let case = format!("{length:?} {steps:?}");
        let proxy = proxy_over(length, steps);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.forward(IpAddr::from([192, 0, 2, 7]), request).await) }
            });
            _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        check(&ask(address, "1.1").await, expected, &case);
    }
}

#[tokio::test]
async fn an_http_1_0_client_sees_a_reset_where_a_response_without_a_length_is_truncated() {
    for (steps, is_whole) in [(vec![Data("hello")], true), (vec![Data("hello"), Wait, Wait, Wait, Wait, Fail], false)] {
        let steps = [&WAITS, &steps[..]].concat();
        let server = serve(proxy_over(None, steps));
        for _ in 0..5 {
            let mut client = Connection::open(server.addresses()[0]).await.unwrap();
            client.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
            match client.rest().await {
                Ok(bytes) => assert!(is_whole && bytes.ends_with(b"\r\n\r\nhello"), "{}", bytes.escape_ascii()),
                Err(error) => assert!(!is_whole && error.kind() == ErrorKind::ConnectionReset, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn an_http_1_0_client_sees_a_reset_where_the_server_ends_within_a_response_without_a_length() {
    let server = serve(|_: ClientAddr, _: Request<Body>| async { Response::new(Body::new(Endless)) });
    let mut client = Connection::open(server.addresses()[0]).await.unwrap();
    client.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    client.final_head().await.unwrap();
    assert_eq!(server.stop(Duration::ZERO).await.cut, 1);
    assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_handler_that_panics_gets_an_error_response_in_its_place() {
    let handler = |_: ClientAddr, request: Request<Body>| async move {
        assert!(request.uri().path() != "/panics", "as the test wants");
        Response::new(Body::from("fine"))
    };
    let server = serve(handler);
    let mut client = Connection::open(server.addresses()[0]).await.unwrap();
    client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "fine");
    client.send("POST /panics HTTP/1.1\r\nHost: kylin\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!(response.header("connection"), Some("close"));
    refusal(&response, 500);
}

#[tokio::test]
async fn an_upload_that_fails_does_not_look_complete_to_the_node() {
    for (framing, body) in [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")] {
        let node = RawNode::start([vec![Act::ReadHead, Act::UntilClosed]]).await;
        let front = Front::with(&[node.address()], |proxy| proxy.replay_limit(0));
        let mut client = front.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: kylin\r\n{framing}\r\n\r\n{body}")).await.unwrap();
        node.wait_until(|seen| seen.bytes.iter().any(|bytes| find(bytes, b"hello").is_some())).await;
        drop(client);
        let seen = node.wait_until(|seen| seen.closed == 1).await;
        assert!(seen.bytes[0].ends_with(b"hello"), "{}", seen.bytes[0].escape_ascii());
        front.idle().await;
    }
}
