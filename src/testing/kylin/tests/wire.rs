//! The node over TCP, with hyper's own client.

use std::net::SocketAddr;

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{Fault, FaultScope, Served};
use super::*;

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn connect(served: &Served) -> SendRequest<Body> {
    let stream = TcpStream::connect(served.addr()).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Body>, text: &str) -> Read {
    let request = admin("POST", "/kylin/api/query").body(sql(text).into()).unwrap();
    Read::of(sender.send_request(request).await.unwrap().map(Body::from)).await
}

#[tokio::test]
async fn connections_are_kept_alive_and_bodies_framed() {
    let node = KylinNode::new("q1");
    let served = node.serve(any_port()).await.unwrap();
    let mut sender = connect(&served).await;
    let first = ask(&mut sender, "select repeat_bytes(200000)").await;
    assert!(first.head.headers.contains_key(header::CONTENT_LENGTH));
    let second = ask(&mut sender, "select repeat_bytes_chunked(200000)").await;
    assert_eq!(second.head.headers[header::TRANSFER_ENCODING], "chunked");
    assert_eq!(second.json()["results"][0][1].as_str().unwrap().len(), 200_000);
    let stats = node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
    assert_eq!((stats.connections, stats.queries, stats.cancelled), (1, 2, 0));
}

#[tokio::test]
async fn a_killed_node_drops_its_connections_and_may_serve_again_at_once() {
    let node = KylinNode::new("q1");
    let mut served = node.serve(any_port()).await.unwrap();
    let addr = served.addr();
    for round in 0..20 {
        let mut sender = connect(&served).await;
        let cut = tokio::spawn(async move {
            let request = admin("POST", "/kylin/api/query").body(sql("select sleep_ms(600000)").into()).unwrap();
            sender.send_request(request).await
        });
        node.wait_until(|stats| stats.running == 1).await.unwrap();
        // Every other time, the node is dropped without waiting.
        if round % 2 == 0 {
            served.kill().await
        } else {
            drop(served)
        }
        assert!(cut.await.unwrap().is_err());
        let stats = node.wait_until(|stats| stats.in_flight == 0 && stats.open_connections == 0).await.unwrap();
        assert_eq!(stats.cancelled, round + 1);
        if round % 2 == 0 {
            assert!(TcpStream::connect(addr).await.is_err(), "the listener is closed");
        }
        served = node.serve(addr).await.unwrap();
        assert_eq!(node.cluster().servers().len(), 1);
    }
    let mut sender = connect(&served).await;
    assert_eq!(ask(&mut sender, "select 1").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_it_waits_and_while_it_reads() {
    let node = KylinNode::new("q1");
    let served = node.serve(any_port()).await.unwrap();
    let mut waiting = TcpStream::connect(served.addr()).await.unwrap();
    let body = sql("select sleep_ms(600000)");
    let auth = basic("ADMIN", "KYLIN");
    let head = format!("POST /kylin/api/query HTTP/1.1\r\nhost: a\r\nauthorization: {auth}\r\n");
    waiting.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    node.wait_until(|stats| stats.running == 1).await.unwrap();
    drop(waiting);
    node.wait_until(|stats| stats.running == 0 && stats.in_flight == 0 && stats.cancelled == 1).await.unwrap();

    let mut reading = TcpStream::connect(served.addr()).await.unwrap();
    reading.write_all(b"GET /demo/bytes?n=1000000000000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    reading.read_exact(&mut [0; 100_000]).await.unwrap();
    assert_eq!(node.stats().in_flight, 1);
    drop(reading);
    node.wait_until(|stats| stats.in_flight == 0 && stats.cancelled == 2).await.unwrap();
}

/// Returns all bytes that come back for a request to `path`, and how the connection ended.
async fn raw(served: &Served, path: &str) -> (Vec<u8>, std::io::Result<usize>) {
    let mut stream = TcpStream::connect(served.addr()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return (bytes, Ok(0)),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

fn body_of(response: &[u8]) -> &[u8] {
    let at = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    &response[at + 4..]
}

#[tokio::test]
async fn a_response_that_is_cut_off_arrives_up_to_the_cut_and_then_the_connection_ends() {
    let node = KylinNode::new("q1");
    let served = node.serve(any_port()).await.unwrap();
    node.faults().inject_times(1, FaultScope::Everything, Fault::ResetAfter(1024));
    let (response, end) = raw(&served, "/demo/bytes?n=100000").await;
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n"), "{response:?}");
    assert_eq!(body_of(&response).len(), 1024);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    node.faults().inject_times(1, FaultScope::Everything, Fault::TruncateAfter(10));
    let (response, end) = raw(&served, "/demo/bytes?n=100000").await;
    assert_eq!((body_of(&response).len(), end.unwrap()), (10, 0));

    node.faults().inject_times(1, FaultScope::Everything, Fault::TruncateAfter(10));
    let (response, end) = raw(&served, "/demo/bytes?n=100000&chunked").await;
    assert_eq!((body_of(&response).len(), end.unwrap()), ("a\r\n".len() + 10 + "\r\n".len(), 0));

    for fault in [Fault::Close, Fault::Unreachable] {
        node.faults().inject_times(1, FaultScope::Everything, fault);
        let (response, _) = raw(&served, "/kylin/").await;
        assert_eq!(response, b"");
    }
}

#[tokio::test]
async fn an_upload_is_digested_as_it_comes() {
    let node = KylinNode::new("q1");
    let served = node.serve(any_port()).await.unwrap();
    let mut sender = connect(&served).await;
    let source = KylinNode::new("source");
    let bytes =
        source.send(at("GET", "/demo/bytes?n=20000000").body(Body::empty()).unwrap()).await.unwrap().into_body();
    let request = at("POST", "/demo/digest").body(bytes).unwrap();
    let response = Read::of(sender.send_request(request).await.unwrap().map(Body::from)).await.json();
    let again = source.send(at("GET", "/demo/bytes?n=20000000").body(Body::empty()).unwrap()).await.unwrap();
    let local = send(&source, at("POST", "/demo/digest"), again.into_body()).await.json();
    assert_eq!(response["bytes"], 20_000_000);
    assert_eq!(response, local);
}

#[tokio::test]
async fn an_upload_may_be_refused_before_it_is_there() {
    let node = KylinNode::new("q1");
    let served = node.serve(any_port()).await.unwrap();
    let mut stream = TcpStream::connect(served.addr()).await.unwrap();
    stream.write_all(b"POST /demo/early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test]
async fn nodes_that_listen_know_each_other_with_their_roles() {
    let metastore = super::super::Metastore::new();
    let nodes = ["q1", "q2"].map(|name| v5(name).metastore(&metastore));
    let mut served = Vec::new();
    for node in &nodes {
        served.push(node.serve(any_port()).await.unwrap());
    }
    nodes[1].set_mode(super::super::Mode::Job);
    let list = send(&nodes[0], admin("GET", "/kylin/api/system/servers?ext=true"), "").await.json();
    assert_eq!(list["data"][1]["host"], served[1].addr().to_string());
    assert_eq!(list["data"][1]["mode"], "job");
    served.pop();
    let list = send(&nodes[0], admin("GET", "/kylin/api/system/servers"), "").await.json();
    assert_eq!(list["data"]["servers"], json!([served[0].addr().to_string()]));
}
