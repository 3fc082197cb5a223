//! Bodies are streamed, and only as fast as the receiver reads them.

use std::io::ErrorKind;
use std::time::Duration;

use crate::support::front::Front;
use crate::support::http::Connection;
use crate::support::raw_node::{Act, RawNode, ok};

/// More than all kernel buffers on the path can hold.
const MORE_THAN_BUFFERS: usize = 256 << 20;

#[tokio::test]
async fn a_node_that_does_not_read_holds_the_client_back() {
    let node = RawNode::start([vec![Act::ReadHead, Act::Stall]]).await;
    let front = Front::over(&[node.address()]);
    let mut client = Connection::open(front.address()).await.unwrap().read_timeout(Duration::from_millis(300));
    let head = format!("POST / HTTP/1.1\r\nHost: kylin\r\nContent-Length: {MORE_THAN_BUFFERS}\r\n\r\n");
    client.send(head).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    let stopped = loop {
        match client.send(&piece).await {
            Ok(()) => sent += piece.len(),
            Err(error) => break error,
        }
        assert!(sent < MORE_THAN_BUFFERS / 4, "something buffers the whole body");
    };
    assert_eq!(stopped.kind(), ErrorKind::TimedOut, "after {sent} bytes");
    assert_eq!(front.in_flight(), 1);
}

#[tokio::test]
async fn a_long_upload_reaches_the_node_before_it_ends() {
    let node = RawNode::start([vec![Act::ReadHead, Act::UntilClosed]]).await;
    let front = Front::over(&[node.address()]);
    let mut client = front.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: kylin\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    // More than is kept for a retry, and then one byte at a time.
    client.send(format!("{:x}\r\n{}\r\n", 2 << 20, "x".repeat(2 << 20))).await.unwrap();
    for count in 1..=3 {
        client.send("1\r\ny\r\n").await.unwrap();
        node.wait_until(|seen| seen.bytes.iter().flatten().filter(|byte| **byte == b'y').count() >= count + 2).await;
    }
}

#[tokio::test]
async fn a_short_upload_reaches_the_node_only_when_it_is_whole() {
    let node = RawNode::start([vec![Act::Read, Act::Write(ok("fine"))]]).await;
    let front = Front::over(&[node.address()]);
    let mut client = front.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: kylin\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 100, "the proxy waits for the body");
    assert_eq!(node.seen().connections, 0, "a slow client occupies no node");
    client.send("body").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "fine");
}
