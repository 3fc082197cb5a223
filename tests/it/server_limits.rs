//! The limits of the server on its clients.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use kylin_lb::clock::InvalidDuration;
use kylin_lb::server::{Server, ServerBuilder};
use kylin_lb::{Body, ClientAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::support::front::{Front, demo};
use crate::support::http::Connection;

async fn hello(_peer: ClientAddr, _request: Request<Body>) -> Response<Body> {
    Response::new(Body::from("hello"))
}

fn server(
    change: impl FnOnce(
        ServerBuilder<fn(ClientAddr, Request<Body>) -> Hello>,
    ) -> ServerBuilder<fn(ClientAddr, Request<Body>) -> Hello>,
) -> Server {
    let handler: fn(ClientAddr, Request<Body>) -> Hello = |peer, request| Box::pin(hello(peer, request));
    change(Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler).threads(NonZero::new(1).unwrap()))
        .start()
        .unwrap()
}

type Hello = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

async fn connect(server: &Server) -> Connection {
    Connection::open(server.addresses()[0]).await.unwrap()
}

/// Reads until the server closes or resets the connection. Fails if it does neither.
async fn closed(client: &mut Connection) -> Bytes {
    client.rest().await.unwrap_or_else(|error| {
        assert_ne!(error.kind(), ErrorKind::TimedOut, "still open");
        Bytes::new()
    })
}

const GET: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";

#[tokio::test]
async fn a_client_that_never_completes_its_head_is_closed() {
    let head_timeout = Duration::from_millis(500);
    let server = server(|server| server.head_timeout(head_timeout));
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: kylin\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut client = Connection::open_promptly(server.addresses()[0], beginning, head_timeout).await.unwrap();
        let rest = closed(&mut client).await;
        assert_eq!(rest.is_empty(), beginning.is_empty(), "an idle client gets nothing: {beginning:?}: {rest:?}");
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "), "{beginning:?}: {rest:?}");
        let text = String::from_utf8_lossy(&rest).to_ascii_lowercase();
        assert!(rest.is_empty() || text.contains("\r\nconnection: close\r\n"), "{text}");
    }
    // A byte from time to time does not extend the time limit.
    let mut client = connect(&server).await;
    let mut sent = 0;
    while client.send(if sent == 0 { "GET / HTTP/1.1\r\nX: " } else { "x" }).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        sent += 1;
        assert!(sent < 1_000, "still open");
    }
}

#[tokio::test]
async fn an_idle_client_is_closed_without_a_reset() {
    let head_timeout = Duration::from_millis(500);
    let server = server(|server| server.head_timeout(head_timeout));
    let mut client = Connection::open_promptly(server.addresses()[0], GET, head_timeout).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "hello");
    assert!(client.rest().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_timeout_of_zero_is_an_error_at_the_start_and_changes_no_running_server() {
    let handler = |_: ClientAddr, _: Request<Body>| async { Response::new(Body::from("new")) };
    let builder = || Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler);
    let mut running = builder().start().unwrap();
    for (name, builder) in [
        ("head timeout", builder().head_timeout(Duration::ZERO)),
        ("send timeout", builder().send_timeout(Duration::ZERO)),
    ] {
        let error = running.replace(builder).unwrap_err();
        let invalid = error.get_ref().and_then(|error| error.downcast_ref::<InvalidDuration>());
        assert_eq!((error.kind(), invalid.unwrap().setting), (std::io::ErrorKind::InvalidInput, name));
    }
    assert!(builder().head_timeout(Duration::ZERO).start().is_err());
    let mut client = connect(&running).await;
    client.send(GET).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "new");
}

#[tokio::test]
async fn a_head_is_bounded_in_headers_and_bytes() {
    let server =
        server(|server| server.max_headers(NonZero::new(20).unwrap()).max_head_bytes(NonZero::new(8192).unwrap()));
    for (headers, status) in [
        ("X: 1\r\n".repeat(19), 200),
        ("X: 1\r\n".repeat(20), 431),
        (format!("X: {}\r\n", "x".repeat(7_000)), 200),
        (format!("X: {}\r\n", "x".repeat(9_000)), 431),
    ] {
        let mut client = connect(&server).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: kylin\r\n{headers}\r\n")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), status, "{} bytes", headers.len());
        if status != 200 {
            assert!(closed(&mut client).await.is_empty(), "and closed");
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end_on_any_number_of_threads() {
    for threads in [1, 2, 4] {
        let server = server(|server| server.max_connections(NonZero::new(2)).threads(NonZero::new(threads).unwrap()));
        // The kernel chooses the loop. A loop without connections must not hold a permit that
        // another loop needs.
        for _ in 0..8 {
            let (mut first, mut second) = (connect(&server).await, connect(&server).await);
            for client in [&mut first, &mut second] {
                // The beginning of another request: the connection is not idle.
                client.send(format!("{GET}G")).await.unwrap();
                assert_eq!(client.response().await.unwrap().text(), "hello");
            }
            let mut third = connect(&server).await;
            third.send(GET).await.unwrap();
            assert!(timeout(Duration::from_millis(20), third.head()).await.is_err(), "the third waits");
            drop(first);
            assert_eq!(third.response().await.unwrap().text(), "hello");
        }
    }
}

#[tokio::test]
async fn a_full_server_closes_idle_connections_of_any_thread_and_no_other() {
    for threads in [1, 2] {
        let server = server(|server| server.max_connections(NonZero::new(3)).threads(NonZero::new(threads).unwrap()));
        let mut busy = connect(&server).await;
        busy.send("G").await.unwrap();
        // One has sent nothing, the other has had a response.
        let silent = connect(&server).await;
        let mut idle = connect(&server).await;
        idle.send(GET).await.unwrap();
        assert_eq!(idle.response().await.unwrap().text(), "hello");
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = connect(&server).await;
            client.send(format!("{GET}G")).await.unwrap();
            assert_eq!(client.response().await.unwrap().text(), "hello");
            clients.push(client);
        }
        for idle in [silent, idle] {
            assert!({ idle }.rest().await.unwrap().is_empty());
        }
        busy.send(&GET[1..]).await.unwrap();
        assert_eq!(busy.response().await.unwrap().text(), "hello");
    }
}

#[test]
fn the_backlog_limits_the_connections_that_wait_in_the_kernel() {
    const CLIENTS: usize = 30;
    let fit = |backlog| {
        let server = server(|server| server.max_connections(NonZero::new(1)).backlog(NonZero::new(backlog).unwrap()));
        let connect = || TcpStream::connect_timeout(&server.addresses()[0], Duration::from_secs(1)).ok();
        let busy = || {
            connect().filter(|client| {
                let mut client = client;
                std::io::Write::write_all(&mut client, b"G").is_ok()
            })
        };
        std::iter::from_fn(busy).take(CLIENTS).collect::<Vec<_>>().len()
    };
    // One is served, one waits for its permit, and Linux lets one more wait than the backlog
    // specifies.
    assert!(fit(2) <= 5, "{}", fit(2));
    assert_eq!(fit(100), CLIENTS);
}

#[tokio::test]
async fn a_client_that_accepts_nothing_of_its_response_is_cut() {
    let (node, served) = demo("q1").await;
    let inner = Front::over(&[served.addr()]);
    let send_timeout = Duration::from_millis(300);
    let front = Front::serving(inner.proxy.clone(), |server| {
        server.threads(NonZero::new(1).unwrap()).send_timeout(send_timeout)
    });
    let lots = "GET /demo/bytes?n=1000000000 HTTP/1.1\r\nHost: kylin\r\n\r\n";
    let mut client = front.connect().await;
    client.send(lots).await.unwrap();
    node.wait_until(|stats| stats.cancelled == 1).await.unwrap();
    front.idle().await;
    let error = client.response().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}

/// Sends two requests, closes the sending side, and returns the received bytes. The server sees the
/// close before the first response.
async fn half_closed(half_close: bool) -> String {
    let permits = Arc::new(Semaphore::new(0));
    let waits_for = Arc::clone(&permits);
    let handler = move |_: ClientAddr, request: Request<Body>| {
        let permits = Arc::clone(&waits_for);
        async move {
            permits.acquire().await.unwrap().forget();
            // The server checks the client.
            yield_now().await;
            Response::new(Body::from(request.uri().path().to_owned()))
        }
    };
    let builder = Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler);
    let server = builder.threads(NonZero::new(1).unwrap()).half_close(half_close).start().unwrap();
    let mut client = tokio::net::TcpStream::connect(server.addresses()[0]).await.unwrap();
    client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    if half_close {
        permits.add_permits(2);
    }
    let mut received = String::new();
    timeout(Duration::from_secs(30), client.read_to_string(&mut received)).await.expect("the server closes").unwrap();
    received
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_responses_where_that_is_set() {
    let received = half_closed(true).await;
    assert_eq!(received.matches("HTTP/1.1 200 OK").count(), 2, "{received}");
    assert!(received.contains("/1HTTP") && received.ends_with("/2"), "{received}");
    assert_eq!(half_closed(false).await, "");
}

#[tokio::test]
async fn keep_alive_can_be_disabled() {
    let server = server(|server| server.keep_alive(false));
    let mut client = connect(&server).await;
    client.send(GET).await.unwrap();
    assert_eq!(client.response().await.unwrap().header("connection"), Some("close"));
    assert!(client.rest().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_dropped_stops() {
    let server = server(|server| server.threads(NonZero::new(2).unwrap()));
    let address = server.addresses()[0];
    let mut client = connect(&server).await;
    client.send(GET).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "hello");
    drop(server);
    assert!(closed(&mut client).await.is_empty(), "open connections are closed");
    let refused = async {
        while !matches!(Connection::open(address).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {}
    };
    timeout(Duration::from_secs(30), refused).await.expect("the address is free");
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let server = server(|server| server);
    let handler = |_: ClientAddr, _: Request<Body>| async { Response::new(Body::empty()) };
    let error = Server::builder().listen(server.addresses()[0].into(), handler).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&server.addresses()[0].to_string()), "{error}");
}
