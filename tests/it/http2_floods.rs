//! HTTP/2 clients that flood the server with frames, or keep a connection and accept nothing.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::frames::{
    ACK, CONTINUATION, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, MAX_WAIT, PING, RST_STREAM, connect, frame,
    kinds_until_closed,
};

/// A handler that counts its concurrent requests, and holds them until the test releases them.
struct Requests {
    now: AtomicUsize,
    most: AtomicUsize,
    gate: Semaphore,
}

impl Requests {
    /// `open`: responds at once.
    fn new(open: bool) -> Arc<Self> {
        let gate = Semaphore::new(0);
        if open {
            gate.close();
        }
        Arc::new(Requests { now: AtomicUsize::new(0), most: AtomicUsize::new(0), gate })
    }

    async fn respond(self: Arc<Self>, body: Body) -> Response<Body> {
        struct Ends(Arc<Requests>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.now.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let _ends = Ends(Arc::clone(&self));
        _ = self.gate.acquire().await;
        Response::new(body)
    }
}

/// A server whose limits are lower than usual, and whose responses have `length` bytes.
fn start(requests: &Arc<Requests>, length: usize) -> Server {
    let requests = Arc::clone(requests);
    let body = Bytes::from(vec![b'x'; length]);
    let respond = move |_: ClientAddr, _: Request<Body>| Arc::clone(&requests).respond(body.clone().into());
    Server::builder()
        .listen("127.0.0.1:0".parse().unwrap(), respond)
        .max_streams(NonZero::new(8).unwrap())
        .head_timeout(Duration::from_millis(200))
        .send_timeout(Duration::from_millis(200))
        .start()
        .unwrap()
}

async fn get(address: SocketAddr) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://kylin.example/").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes().len()
}

/// Sends `frames` of the streams 1, 3, 5 and so on until the server ends the connection. Returns
/// the frames that it sent, and the number of streams. The server may still read after the end, to
/// drop what it reads.
async fn flood(server: &Server, frames: impl Fn(u32) -> Vec<u8> + Send + 'static) -> (Vec<u8>, u32) {
    let (mut read, mut write) = connect(server.addresses()[0]).await.into_split();
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for stream in (1..200_001).step_by(2) {
            if write.write_all(&frames(stream)).await.is_err() {
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
            // So that the end is seen before many more frames are sent.
            tokio::task::yield_now().await;
        }
    });
    let kinds = timeout(MAX_WAIT, kinds_until_closed(&mut read)).await.expect("the server closes the connection");
    sending.abort();
    (kinds, sent.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_flood_of_streams_that_are_reset_at_once_ends_its_connection_only() {
    let requests = Requests::new(false);
    let server = start(&requests, 1);
    let reset = |stream| {
        let cancel = 8_u32.to_be_bytes();
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, GET), frame(RST_STREAM, 0, stream, &cancel)].concat()
    };
    let (kinds, streams) = flood(&server, reset).await;
    assert!(kinds.contains(&GOAWAY) && streams < 100_000, "{streams} streams, {kinds:?}");
    assert!(requests.most.load(Ordering::Relaxed) <= 8, "{:?}", requests.most);
    crate::support::front::eventually(|| requests.now.load(Ordering::Relaxed) == 0, || format!("{:?}", requests.now))
        .await;
    requests.gate.close();
    assert_eq!(get(server.addresses()[0]).await, 1);
}

#[tokio::test]
async fn no_more_streams_than_the_limit_reach_the_handler() {
    let requests = Requests::new(false);
    let server = start(&requests, 1);
    let mut client = connect(server.addresses()[0]).await;
    for stream in (1..41).step_by(2) {
        client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)).await.unwrap();
    }
    // 12 streams are refused; then the 8 are released.
    let mut refused = 0;
    let mut responses = 0;
    timeout(MAX_WAIT, async {
        while responses < 8 {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.read_exact(&mut vec![0; length as usize]).await.unwrap();
            refused += usize::from(head[3] == RST_STREAM);
            responses += usize::from(head[3] == HEADERS);
            if refused == 12 && !requests.gate.is_closed() {
                let most = || requests.most.load(Ordering::Relaxed);
                crate::support::front::eventually(|| most() >= 8, || format!("{} handlers", most())).await;
                requests.gate.close();
            }
        }
    })
    .await
    .expect("each stream is refused or gets a response");
    assert_eq!((refused, requests.most.load(Ordering::Relaxed)), (12, 8));
}

/// A head without an end, in many frames.
#[tokio::test]
async fn a_head_without_end_is_refused_before_it_takes_memory() {
    let requests = Requests::new(true);
    let server = start(&requests, 1);
    let begin = frame(HEADERS, END_STREAM, 1, GET);
    let field = [&b"\x00\x7f\x81\x1f"[..], &[b'a'; 4_000]].concat();
    let more = move |stream| match stream {
        1 => begin.clone(),
        _ => frame(CONTINUATION, 0, 1, &field),
    };
    let (kinds, frames) = flood(&server, more).await;
    assert!(kinds.contains(&GOAWAY) && frames < 10_000, "{frames} frames of 4,004 bytes, {kinds:?}");
    assert_eq!(requests.most.load(Ordering::Relaxed), 0);
    assert_eq!(get(server.addresses()[0]).await, 1);
}

/// Each one requests a frame in response.
#[tokio::test]
async fn pings_of_a_client_that_reads_nothing_end_its_connection() {
    let requests = Requests::new(true);
    let server = start(&requests, 1);
    let mut client = connect(server.addresses()[0]).await;
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let mut sent = 0;
    // 1.7 GB would be more than all buffers of both sides.
    while sent < 100_000 && timeout(MAX_WAIT, client.write_all(&pings)).await.expect("it is closed").is_ok() {
        sent += 1;
    }
    assert!(sent < 100_000);
    assert_eq!(get(server.addresses()[0]).await, 1);
}

/// The client reads its socket and acknowledges pings, but grants no window.
#[tokio::test]
async fn a_client_that_accepts_nothing_of_a_response_is_closed() {
    let requests = Requests::new(true);
    let server = start(&requests, 1 << 20);
    let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1_024);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://kylin.example/").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    _ = timeout(MAX_WAIT, connection).await.expect("the server closes the connection");
    assert!(response.into_body().collect().await.is_err(), "a part is no response");
    assert_eq!(get(server.addresses()[0]).await, 1 << 20);
}

/// The client does not close its connection after GOAWAY.
#[tokio::test]
async fn an_idle_client_that_acknowledges_pings_only_is_closed() {
    let requests = Requests::new(true);
    let server = start(&requests, 1);
    let mut client = connect(server.addresses()[0]).await;
    let mut kinds = Vec::new();
    let closed = async {
        loop {
            let mut head = [0; 9];
            let Ok(_) = client.read_exact(&mut head).await else { break };
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            let Ok(_) = client.read_exact(&mut payload).await else { break };
            kinds.push(head[3]);
            if head[3] == PING && head[4] & ACK == 0 && client.write_all(&frame(PING, ACK, 0, &payload)).await.is_err()
            {
                break;
            }
        }
    };
    timeout(MAX_WAIT, closed).await.expect("the server closes the connection");
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}
