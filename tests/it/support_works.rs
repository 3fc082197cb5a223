//! Tests of the test support, for faults that would let other tests pass wrongly.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::http::{self, Connection};
use crate::support::port::free_port;
use crate::support::process::Process;
use crate::support::resources::Memory;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Starts a server that sends these bytes on each connection, a few at a time, and closes it.
async fn wire(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            for piece in bytes.chunks(3) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    address
}

#[tokio::test]
async fn client_ends_a_body_where_its_framing_says() {
    let counted = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No Content\r\n\r\n").await;
    let mut connection = Connection::open(counted).await.unwrap();
    connection.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().text(), "hello");
    assert_eq!(connection.response().await.unwrap().status(), 204);
    assert_eq!(connection.response().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);

    let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;note=1\r\nhello\r\nB\r\n, the world\r\n0\r\nX-Sum: 16\r\n\r\n";
    let response = http::get(wire(chunked).await, "/", &[]).await.unwrap();
    assert_eq!(response.text(), "hello, the world");
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "16".to_owned())]);

    let closed = wire(b"HTTP/1.0 200 OK\r\nX-A: 1\r\nx-a:2\r\n\r\nuntil the end").await;
    let response = http::get(closed, "/", &[]).await.unwrap();
    assert_eq!(response.text(), "until the end");
    assert_eq!(response.head.all("X-A"), ["1", "2"]);
}

#[tokio::test]
async fn client_tells_a_cut_response_from_a_complete_one() {
    let cut: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for bytes in cut {
        let error = http::get(wire(bytes).await, "/", &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn client_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connection = Connection::open(silent.local_addr().unwrap()).await.unwrap();
    let error = connection.read_timeout(Duration::from_millis(20)).response().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn process_ends_by_signal_and_leaves_its_output() {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn("script", folder, Command::new("sh").args(["-c", script])).unwrap();
    process.wait_ready(TIMEOUT, |process| process.file("stdout").contains("ready")).await.unwrap();
    process.signal("TERM");
    assert_eq!(process.ended(TIMEOUT).await.and_then(|status| status.code()), Some(7));
    assert!(process.log().contains("bye"));
}

#[tokio::test]
async fn process_that_ends_while_starting_shows_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut process =
        Process::spawn("script", folder, Command::new("sh").args(["-c", "echo no such port >&2; exit 3"])).unwrap();
    let failure = process.wait_ready(TIMEOUT, |_| false).await.unwrap_err().to_string();
    assert!(failure.contains("exit status: 3") && failure.contains("no such port"), "{failure}");
}

#[tokio::test]
async fn process_and_folder_go_with_the_guard() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::spawn("sleep", folder, Command::new("sleep").arg("600")).unwrap();
    let (pid, path) = (process.id(), process.folder().to_owned());
    assert!(Memory::of(pid).resident <= Memory::of(pid).peak);
    drop(process);
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap() && !path.exists());
}

#[test]
fn ports_are_given_once() {
    let ports: HashSet<u16> = (0..100).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 100);
}
