//! Nodes that break connections, stall or send invalid HTTP: a truncated response never looks
//! complete, an ambiguous one is refused.

use std::io::ErrorKind;
use std::time::Duration;

use crate::support::front::{Front, demo, endpoint, refusal};
use crate::support::raw_node::{Act, RawNode, find, healthy, respond};
use kylin_lb::testing::kylin::{Fault, FaultScope};

/// All bytes that a client gets for a GET, until the connection is closed.
async fn all_bytes(front: &Front) -> Vec<u8> {
    let mut client = front.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: kylin\r\nConnection: close\r\n\r\n").await.unwrap();
    match client.rest().await {
        Ok(bytes) => bytes.to_vec(),
        Err(error) => panic!("the connection was not closed in order: {error}"),
    }
}

#[tokio::test]
async fn a_response_truncated_at_the_node_is_truncated_at_the_client() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let script = |head: &str, body: &str, end: &[Act]| {
        [&[Act::Read, Act::Write(format!("{head}{body}").into_bytes())], end].concat()
    };
    let breaks: [(&str, Vec<Act>); 8] = [
        ("length, closed", script(LENGTH, "hello", &[])),
        ("length, reset", script(LENGTH, "hello", &[Act::Reset])),
        ("length, stalls", script(LENGTH, "hello", &[Act::UntilClosed])),
        ("chunked, closed between chunks", script(CHUNKED, "5\r\nhello\r\n", &[])),
        ("chunked, closed within a chunk", script(CHUNKED, "9\r\nhello", &[])),
        ("chunked, closed within the end", script(CHUNKED, "5\r\nhello\r\n0\r\n", &[])),
        ("chunked, reset", script(CHUNKED, "5\r\nhello\r\n", &[Act::Reset])),
        ("chunked, stalls", script(CHUNKED, "5\r\nhello\r\n", &[Act::UntilClosed])),
    ];
    for (what, script) in breaks {
        let node = RawNode::start([script]).await;
        let timeout = Duration::from_millis(300);
        let front = Front::of([endpoint(0, node.address(), |backend| backend.body_timeout(timeout))], |proxy| proxy);
        // An error response, if the front end noticed the failure before it wrote the head.
        match front.get("/").await {
            Ok(response) => _ = refusal(&response, 502),
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{what}"),
        }
        front.idle().await;
        let bytes = all_bytes(&front).await;
        let is_error = bytes.starts_with(b"HTTP/1.1 502 ");
        assert!(
            is_error || find(&bytes, b"\r\n0\r\n\r\n").is_none(),
            "{what} looks complete: {}",
            bytes.escape_ascii()
        );
    }
}

#[tokio::test]
async fn a_reset_within_a_long_response_reaches_the_client() {
    let (node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    for fault in [Fault::ResetAfter(1_000_000), Fault::TruncateAfter(1_000_000)] {
        for path in ["/demo/bytes?n=3000000", "/demo/bytes?n=3000000&chunked"] {
            node.faults().inject_times(1, FaultScope::Everything, fault);
            let error = front.get(path).await.expect_err("cut short");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{fault:?} {path}");
        }
    }
    assert_eq!(front.get("/demo/bytes?n=3000000").await.unwrap().body.len(), 3_000_000);
}

#[tokio::test]
async fn ambiguous_framing_is_an_error() {
    let heads = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 18446744073709551617",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        "X-Folded: a\r\n b",
        "No colon",
        ": no name",
        "X-Nul: a\0b",
    ];
    for head in heads {
        for body in ["hello", "5\r\nhello\r\n0\r\n\r\n"] {
            let node = RawNode::start([respond(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}"))]).await;
            let response = Front::over(&[node.address()]).get("/").await;
            let response = response.unwrap_or_else(|error| panic!("{head:?}: {error}"));
            let message = refusal(&response, 502);
            assert!(message.contains("not valid HTTP"), "{head:?}: {message}");
        }
    }
    for version in ["HTTP/0.9 200 OK", "HTTP/2.0 200 OK", "HTTP/1.1 99 X", "HTTP/1.1 2000 X", "HTTP/1.1", "200 OK"] {
        let node = RawNode::start([respond(format!("{version}\r\nContent-Length: 2\r\n\r\nhi"))]).await;
        let response = Front::over(&[node.address()]).get("/").await.unwrap();
        refusal(&response, 502);
    }
}

#[tokio::test]
async fn equal_lengths_twice_are_one_or_an_error() {
    let node = RawNode::start([respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi")]).await;
    let response = Front::over(&[node.address()]).get("/").await.unwrap();
    assert!(response.status() == 502 || response.head.all("content-length") == ["2"], "{response:?}");
}

#[tokio::test]
async fn an_invalid_chunk_truncates_the_response() {
    for chunk in [
        "xyz\r\nhello\r\n",
        "5g\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "5\r\nhelloXX5\r\n",
        "\r\nhello\r\n",
        "10000000000000005\r\nhello\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
        let node = RawNode::start([respond(bytes)]).await;
        let front = Front::over(&[node.address()]);
        match front.get("/").await {
            Ok(response) => _ = refusal(&response, 502),
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{chunk:?}"),
        }
        front.idle().await;
    }
}

#[tokio::test]
async fn bytes_after_a_response_do_not_reach_the_next_client() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let node = RawNode::start([
        vec![
            Act::Read,
            Act::Write(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi{smuggled}").into_bytes()),
            Act::UntilClosed,
        ],
        healthy("next"),
    ])
    .await;
    let front = Front::over(&[node.address()]);
    assert_eq!(front.get("/").await.unwrap().text(), "hi");
    for _ in 0..4 {
        assert_eq!(front.get("/").await.unwrap().text(), "next");
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let bytes = format!("HTTP/1.1 {status}\r\n\r\n{smuggled}").into_bytes();
        let node = RawNode::start([vec![Act::Read, Act::Write(bytes), Act::UntilClosed], healthy("next")]).await;
        let front = Front::over(&[node.address()]);
        assert_eq!(front.get("/").await.unwrap().body.len(), 0);
        assert_eq!(front.get("/").await.unwrap().text(), "next");
    }
}

#[tokio::test]
async fn a_head_without_bounds_is_an_error() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 2\r\n\r\nhi", "x".repeat(100 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nhi", "X-Many: 1\r\n".repeat(1000));
    let endless = format!("HTTP/1.1 200 {}", "x".repeat(200 * 1024));
    for head in [long, many, endless] {
        let node = RawNode::start([respond(head)]).await;
        let response = Front::over(&[node.address()]).get("/").await.unwrap();
        assert!(refusal(&response, 502).contains("over the limits of the front end"), "{}", response.text());
    }
}
