//! A long response and a long upload take little memory.
//!
//! It is a separate binary, because the kernel counts memory per process. This process holds the
//! front end, the node and the client, and all of them stream.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, also in its helper functions")]

use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::server::Server;
use kylin_lb::testing::kylin::{KylinNode, demo_bytes_at};
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

#[allow(dead_code, reason = "the tests of `it` use the rest")]
#[path = "it/support/http.rs"]
mod client;
#[allow(dead_code, reason = "the tests of `it` use the rest")]
#[path = "it/support/resources.rs"]
mod resources;

use client::Connection;
use resources::Memory;

const DOWN: u64 = 2 << 30;
const UP: u64 = 256 << 20;
const MAX_MEMORY: u64 = 64 << 20;
/// A slow reader reads this much and then pauses. Without back pressure, more than the bound would
/// arrive during that pause.
const BURST: u64 = 64 << 20;
const READ_PAUSE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gib_down_and_256_mib_up_pass_byte_for_byte_in_less_than_64_mib() {
    let node = KylinNode::new("q1");
    let served = node.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = front_of(served.addr());
    let front = server.addresses()[0];
    let slow = Server::builder()
        .listen("127.0.0.1:0".parse().unwrap(), digest_in_bursts)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap();
    let to_slow = front_of(slow.addresses()[0]);
    // The pattern and the buffers that any request needs.
    download(front, 1 << 20, 1 << 20).await;
    upload(front, 1 << 20).await;
    upload(to_slow.addresses()[0], 1 << 20).await;

    let before = Memory::of_this_process();
    download(front, DOWN, BURST).await;
    upload(front, UP).await;
    upload(to_slow.addresses()[0], UP).await;
    let after = Memory::of_this_process();
    println!("resident {} KiB before, {} KiB at most", before.resident >> 10, after.peak >> 10);
    assert!(after.peak - before.resident < MAX_MEMORY, "{} bytes more", after.peak - before.resident);
    server.stop(Duration::from_secs(5)).await;
    to_slow.stop(Duration::from_secs(5)).await;
    slow.stop(Duration::from_secs(5)).await;
}

fn front_of(node: SocketAddr) -> Server {
    let endpoint = Endpoint::http("q1", &node.to_string()).unwrap();
    let proxy = Proxy::plain(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap();
    Server::builder().listen("127.0.0.1:0".parse().unwrap(), proxy).threads(NonZero::new(1).unwrap()).start().unwrap()
}

/// A node that responds like `/demo/digest`, but reads a burst and then nothing for a while.
async fn digest_in_bursts(_peer: ClientAddr, request: Request<Body>) -> Response<Body> {
    let mut body = request.into_body();
    let (mut read, mut pause_at, mut crc) = (0, BURST / 2, crc32fast::Hasher::new());
    while let Some(frame) = body.frame().await {
        let part = frame.unwrap().into_data().unwrap();
        crc.update(&part);
        read += part.len() as u64;
        if read >= pause_at {
            pause_at += BURST;
            tokio::time::sleep(READ_PAUSE).await;
        }
    }
    Response::new(Body::from(format!("{{\"bytes\":{read},\"crc32\":\"{:08x}\"}}", crc.finalize())))
}

async fn download(front: SocketAddr, length: u64, burst: u64) {
    let mut client = Connection::open(front).await.unwrap();
    client.send(format!("GET /demo/bytes?n={length} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
    let head = client.final_head().await.unwrap();
    let mut body = client.body(&head).unwrap();
    let (mut read, mut pause_at) = (0, burst);
    while let Some(part) = body.next().await.unwrap() {
        let mut part = &part[..];
        while !part.is_empty() {
            let expected = demo_bytes_at(read);
            let same = part.len().min(expected.len());
            assert!(part[..same] == expected[..same], "other bytes from {read} on");
            part = &part[same..];
            read += same as u64;
        }
        if read >= pause_at {
            pause_at += burst;
            tokio::time::sleep(READ_PAUSE).await;
        }
    }
    assert_eq!(read, length);
}

async fn upload(front: SocketAddr, length: u64) {
    let mut client = Connection::open(front).await.unwrap();
    client
        .send(format!("POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n\r\n"))
        .await
        .unwrap();
    let (mut sent, mut crc) = (0, crc32fast::Hasher::new());
    while sent < length {
        let mut piece = demo_bytes_at(sent);
        piece.truncate(usize::try_from(length - sent).unwrap());
        crc.update(&piece);
        client.send(&piece).await.unwrap();
        sent += piece.len() as u64;
    }
    let response = client.response().await.unwrap();
    let expected = format!("{{\"bytes\":{length},\"crc32\":\"{:08x}\"}}", crc.finalize());
    assert_eq!(response.text(), expected);
}
