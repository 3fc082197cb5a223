//! Clients that read slowly do not make a node wait.
//!
//! They connect to unix sockets, because the kernel buffers some megabytes of a TCP connection for
//! a client that reads nothing.

use std::io::ErrorKind;
use std::num::NonZero;
use std::path::PathBuf;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::server::Server;
use kylin_lb::testing::kylin::demo_bytes_at;
use kylin_lb::{BufferBudget, Cluster, Endpoint, HttpBackend, Proxy};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::support::front::{demo, endpoint, endpoints, eventually};
use crate::support::raw_node::{Act, RawNode};

const MIB: usize = 1 << 20;
const SLOW: usize = 60;
/// The number of requests that a node accepts at a time.
const THREADS: u32 = 20;

struct Front {
    proxy: Proxy,
    socket: PathBuf,
    _server: Server,
    _folder: TempDir,
}

impl Front {
    fn over(endpoints: Vec<Endpoint<HttpBackend>>, ahead: usize, budget: &BufferBudget) -> Self {
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let proxy = Proxy::plain(cluster).buffers(budget.clone()).response_buffer(ahead).build().unwrap();
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("front");
        let server = Server::builder().listen(format!("unix:{}", socket.display()).parse().unwrap(), proxy.clone());
        let server = server.buffers(budget.clone()).start().unwrap();
        Front { proxy, socket, _server: server, _folder: folder }
    }

    /// A client that has read the head of the response to a GET, and the length of its body.
    async fn get(&self, path: &str) -> Client {
        let mut stream = BufReader::with_capacity(512, UnixStream::connect(&self.socket).await.unwrap());
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n").as_bytes()).await.unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0);
            assert!(!line.starts_with("HTTP/") || line.starts_with("HTTP/1.1 200 "), "{line}");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        Client { stream, length }
    }

    fn in_flight(&self) -> u64 {
        self.proxy.cluster().status().in_flight()
    }

    async fn idle(&self) {
        eventually(|| self.in_flight() == 0, || format!("{:?}", self.proxy.cluster().status())).await;
    }
}

struct Client {
    stream: BufReader<UnixStream>,
    length: usize,
}

impl Client {
    /// Reads the body.
    async fn body(mut self) -> std::io::Result<Vec<u8>> {
        let mut body = vec![0; self.length];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }
}

/// A front end with three nodes that have 20 threads each.
async fn front(ahead: usize, budget: &BufferBudget) -> (Front, Vec<impl Drop>) {
    let (mut endpoints, mut nodes) = (Vec::new(), Vec::new());
    for id in 0..3 {
        let (_, served) = demo("n").await;
        endpoints.push(endpoint(id, served.addr(), |backend| backend).max_in_flight(NonZero::new(THREADS)));
        nodes.push(served);
    }
    (Front::over(endpoints, ahead, budget), nodes)
}

/// Clients that have read the heads of their responses, which have 200 KB to 1 MB.
async fn slow_readers(front: &Front) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..SLOW {
        clients.push(front.get(&format!("/demo/bytes?n={}", 200_000 + number * 800_000 / SLOW)).await);
    }
    clients
}

async fn all_arrives(clients: Vec<Client>) {
    for client in clients {
        assert!(are_demo_bytes(0, &client.body().await.unwrap()));
    }
}

fn are_demo_bytes(offset: usize, bytes: &[u8]) -> bool {
    let expected = demo_bytes_at(offset as u64);
    let (first, rest) = bytes.split_at(expected.len().min(bytes.len()));
    expected.starts_with(first) && (rest.is_empty() || are_demo_bytes(offset + first.len(), rest))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_no_node_and_others_are_served() {
    let budget = BufferBudget::new(NonZero::new(256 * MIB));
    let (front, _nodes) = front(MIB, &budget).await;
    let clients = slow_readers(&front).await;
    front.idle().await;
    for _ in 0..SLOW {
        front.get("/demo/bytes?n=1000").await;
    }
    let used = budget.status().used;
    println!("{SLOW} slow readers: {} requests in flight, {used} bytes kept", front.in_flight());
    assert!(used > 0 && used <= SLOW * MIB, "{used}");
    all_arrives(clients).await;
    eventually(|| budget.status().used <= SLOW * 4096, || format!("{budget:?}")).await;
    drop(front);
    eventually(|| budget.status().used == 0, || format!("{budget:?}")).await;
}

/// Responses of 1 MB on one HTTP/2 connection, of each of which the client accepts a kilobyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_streams_of_http2_hold_no_node_and_get_all_bytes_in_order() {
    const LENGTH: usize = 1_000_000;
    let budget = BufferBudget::new(NonZero::new(256 * MIB));
    for (ahead, held) in [(MIB, 0), (0, THREADS as usize)] {
        let (front, _nodes) = front(ahead, &budget).await;
        let stream = TokioIo::new(UnixStream::connect(&front.socket).await.unwrap());
        let mut client = http2::Builder::new(TokioExecutor::new());
        let client = client.initial_stream_window_size(1024).initial_connection_window_size(MIB as u32);
        let (mut sender, connection) = client.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut responses = Vec::new();
        for _ in 0..THREADS {
            let uri = format!("http://kylin/demo/bytes?n={LENGTH}");
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            responses.push(sender.send_request(request).await.unwrap());
        }
        eventually(|| front.in_flight() == held as u64, || format!("{:?}", front.proxy.cluster().status())).await;
        let used = budget.status().used;
        // Without reading ahead, only the codec holds bytes.
        let most = THREADS as usize * if held == 0 { MIB + 128 * 1024 } else { 128 * 1024 };
        assert!(used > 0 && used <= most, "{used}");
        for response in responses {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.len() == LENGTH && are_demo_bytes(0, &body));
        }
        front.idle().await;
        // The connection itself has a reservation.
        drop(sender);
        eventually(|| budget.status().used == 0, || format!("{budget:?}")).await;
    }
}

#[tokio::test]
async fn a_response_that_breaks_while_it_is_read_ahead_of_an_http2_client_resets_its_stream_after_what_came() {
    let response = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"[..], &[b'x'; 900_000]].concat();
    let node = RawNode::start([vec![Act::Read, Act::Write(response)]]).await;
    let front = Front::over(endpoints(&[node.address()]), MIB, &BufferBudget::process());
    let stream = TokioIo::new(UnixStream::connect(&front.socket).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://kylin/").body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    front.idle().await;
    let mut received = 0;
    // The reset overtakes the last bytes, which wait to be written.
    let error = loop {
        match body.frame().await.expect("the response is not complete") {
            Ok(frame) => received += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(format!("{error:?}").contains("Reset("), "{error:?}");
    assert!((1..=900_000).contains(&received), "{received}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_buffer_or_without_memory_the_node_waits_for_its_client() {
    for (ahead, memory) in [(0, 256 * MIB), (MIB, MIB), (40_000, 256 * MIB)] {
        let budget = BufferBudget::with_client_share(NonZero::new(memory), NonZero::new(memory)).unwrap();
        let (front, _nodes) = front(ahead, &budget).await;
        let clients = slow_readers(&front).await;
        let held = front.in_flight();
        println!("{ahead} a response, {memory} in all: {held} requests in flight, {budget:?}");
        assert!(held > 10, "{held}");
        assert!(budget.status().used <= memory.min(SLOW * 60_000) + SLOW * 4096, "{budget:?}");
        all_arrives(clients).await;
        front.idle().await;
    }
}

#[tokio::test]
async fn a_node_can_forbid_that_its_response_is_read_ahead() {
    for (header, in_flight) in [("X-Accel-Buffering: no\r\n", 1), ("", 0)] {
        let head = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 1000000\r\n\r\n");
        let response = [head.as_bytes(), &[b'x'; 1_000_000]].concat();
        let node = RawNode::start([vec![Act::Read, Act::Write(response), Act::UntilClosed]]).await;
        let front = Front::over(endpoints(&[node.address()]), MIB, &BufferBudget::process());
        let client = front.get("/").await;
        if in_flight == 0 {
            front.idle().await;
        }
        assert_eq!(front.in_flight(), in_flight, "{header}");
        client.body().await.unwrap();
        front.idle().await;
    }
}

#[tokio::test]
async fn a_response_that_breaks_while_it_is_read_ahead_is_truncated_at_its_client_after_what_came() {
    let response = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"[..], &[b'x'; 900_000]].concat();
    let node = RawNode::start([vec![Act::Read, Act::Write(response)]]).await;
    let front = Front::over(endpoints(&[node.address()]), MIB, &BufferBudget::process());
    let mut client = front.get("/").await;
    front.idle().await;
    let mut body = Vec::new();
    let read = client.stream.read_to_end(&mut body).await;
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert_eq!(body.len(), 900_000);
}
