//! A response that requests the end of its HTTP/2 connection, for example when clients must
//! reconnect.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::frames::{
    END_HEADERS, END_STREAM, GET, GET_W, GOAWAY, HEADERS, MAX_WAIT, connect, frame, next_frame,
};
use crate::support::front::Front;
use crate::support::raw_node::{RawNode, respond};

const LENGTH: usize = 1_000;

/// Headers about a connection (RFC 9113, 8.2.2), and one that `Connection` names.
const OF_CONNECTION: [(&str, &str); 6] = [
    ("connection", "x-hop, close"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("x-hop", "1"),
];

/// A server whose handler requests the end of the connection in response to `/`. Other requests
/// wait for the gate.
fn start() -> (Server, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let handler = move |_: ClientAddr, request: Request<Body>| {
        let gate = Arc::clone(&waits);
        async move {
            let body = Body::from(vec![b'x'; LENGTH]);
            if request.uri().path() != "/" {
                _ = gate.acquire().await;
                return Response::new(body);
            }
            let response =
                OF_CONNECTION.iter().fold(Response::builder(), |all, (name, value)| all.header(*name, *value));
            response.body(body).unwrap()
        }
    };
    (Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler).start().unwrap(), gate)
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://kylin.example{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn connection_close_ends_the_connection_after_the_requests_in_flight_and_does_not_reach_the_client() {
    let (server, gate) = start();
    let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let in_flight = sender.send_request(get("/waits"));
    let response = sender.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    for (name, _) in OF_CONNECTION {
        assert!(!response.headers().contains_key(name), "{name}: {response:?}");
    }
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), LENGTH);
    gate.close();
    let response = in_flight.await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), LENGTH);
    timeout(MAX_WAIT, connection).await.expect("the connection ends").unwrap().unwrap();
    assert!(sender.is_closed());
}

#[tokio::test]
async fn goaway_is_sent_while_a_request_is_in_flight() {
    let (server, gate) = start();
    let mut client = connect(server.addresses()[0]).await;
    let [waits, get] =
        [(1, GET_W), (3, GET)].map(|(stream, block)| frame(HEADERS, END_HEADERS | END_STREAM, stream, block));
    client.write_all(&[waits, get].concat()).await.unwrap();
    let mut responses = Vec::new();
    let mut next = async || {
        let frame =
            timeout(MAX_WAIT, next_frame(&mut client)).await.expect("a frame arrives").expect("the connection is open");
        responses.extend((frame.kind == HEADERS).then_some(frame.stream));
        (frame.kind, responses.clone())
    };
    let before = loop {
        if let (GOAWAY, responses) = next().await {
            break responses;
        }
    };
    assert_eq!(before, [3]);
    gate.close();
    while next().await.1 != [3, 1] {}
}

#[tokio::test]
async fn connection_headers_of_a_node_neither_reach_an_http2_client_nor_end_its_connection() {
    let node = RawNode::start([respond(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nUpgrade: h2c\r\n\r\nok",
    )])
    .await;
    let front = Front::over(&[node.address()]);
    let stream = TcpStream::connect(front.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let response = sender.send_request(get("/")).await.expect("the connection is open");
        for (name, _) in OF_CONNECTION {
            assert!(!response.headers().contains_key(name), "{name}: {response:?}");
        }
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
}
