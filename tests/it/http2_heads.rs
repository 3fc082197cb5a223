//! The heads of HTTP/2 requests use memory of the budget, both incomplete ones and those of
//! requests in flight.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::server::Server;
use kylin_lb::{Body, BufferBudget, ClientAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GET_W, HEADERS, MAX_WAIT, connect, connect_from, frame,
    goaway_code, next_frame, tcp_from,
};
use crate::support::front::eventually;

const ENHANCE_YOUR_CALM: u32 = 11;

const SHARE: usize = 1 << 20;

/// The bytes that are reserved for each connection, even if the budget is used up.
const OF_CONNECTION: usize = 8 << 10;

const OTHER_CLIENT: [u8; 4] = [127, 0, 0, 2];

fn budget(share: usize) -> BufferBudget {
    BufferBudget::with_client_share(NonZero::new(8 << 20), NonZero::new(share)).unwrap()
}

/// A server whose handler responds to `/` at once, and to other requests when the gate is closed.
fn start(buffers: &BufferBudget, head_timeout: Duration) -> (Server, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let respond = move |_: ClientAddr, request: Request<Body>| {
        let gate = Arc::clone(&waits);
        async move {
            if request.uri().path() != "/" {
                _ = gate.acquire().await;
            }
            Response::new(Body::from("hello"))
        }
    };
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), respond).buffers(buffers.clone());
    (server.head_timeout(head_timeout).start().unwrap(), gate)
}

/// Returns the frames of a head with a header of `length` bytes. Its last frame is separate.
fn long_head(stream: u32, length: usize) -> (Vec<u8>, Vec<u8>) {
    // A literal header with a new name (RFC 7541, 6.2.2), whose length has 7 bits, then 7 in each
    // byte (5.1).
    let mut block = [GET, b"\x00\x01x\x7f"].concat();
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
    block.resize(block.len() + length, b'v');
    let last = block.split_off(block.len() - 1);
    let mut frames = Vec::new();
    for (number, fragment) in block.chunks(16 << 10).enumerate() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        frames.extend(frame(kind, if number == 0 { END_STREAM } else { 0 }, stream, fragment));
    }
    (frames, frame(CONTINUATION, END_HEADERS, stream, &last))
}

/// Sends the rest of a head, and reads the response.
async fn is_served(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), rest: &[u8]) -> bool {
    stream.write_all(rest).await.unwrap();
    while let Some(frame) = timeout(MAX_WAIT, next_frame(stream)).await.expect("a frame arrives") {
        if frame.kind == DATA {
            return frame.payload == b"hello";
        }
    }
    false
}

#[tokio::test]
async fn incomplete_heads_are_within_the_share_of_their_client_and_other_clients_are_served() {
    const LENGTH: usize = 60 << 10;
    let buffers = budget(SHARE);
    let (server, _gate) = start(&buffers, MAX_WAIT);
    let address = server.addresses()[0];
    // The first 4 KiB of each belong to the connection, and the rest to the share of 1 MiB.
    let mut clients = Vec::new();
    for number in 1..=17 {
        let mut client = connect(address).await;
        client.write_all(&long_head(1, LENGTH).0).await.unwrap();
        clients.push(client);
        let used = number * (OF_CONNECTION + LENGTH);
        eventually(|| buffers.status().used >= used, || format!("{number}: {buffers:?}")).await;
    }
    let mut refused = JoinSet::new();
    for _ in 0..8 {
        let mut client = connect(address).await;
        client.write_all(&long_head(1, LENGTH).0).await.unwrap();
        refused.spawn(async move { goaway_code(&mut client).await });
    }
    while let Some(code) = timeout(MAX_WAIT, refused.join_next()).await.expect("heads are refused") {
        assert_eq!(code.unwrap(), Some(ENHANCE_YOUR_CALM));
    }
    let status = buffers.status();
    assert!(status.clients == 1 && status.refused == 8, "{status:?}");
    assert!(status.used <= SHARE + 25 * OF_CONNECTION, "{status:?}");
    let (first, last) = long_head(1, LENGTH);
    let mut other = connect_from(OTHER_CLIENT, address).await;
    other.write_all(&first).await.unwrap();
    eventually(|| buffers.status().clients == 2, || format!("{buffers:?}")).await;
    assert!(is_served(&mut other, &last).await);
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
    assert!(is_served(&mut connect(address).await, &get).await, "a short head needs no share");
    assert!(is_served(&mut clients[0], &last).await, "a head that was begun in time");
    drop((other, clients));
    let is_empty = || (buffers.status().used, buffers.status().clients) == (0, 0);
    eventually(is_empty, || format!("{buffers:?}")).await;
}

/// The client has a request in flight, so that the connection is not idle.
#[tokio::test]
async fn a_head_that_does_not_end_in_time_ends_its_connection() {
    let buffers = budget(SHARE);
    let (server, gate) = start(&buffers, Duration::from_millis(200));
    let waits = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET_W);
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 3, GET);
    let (first, last) = long_head(3, 20 << 10);
    for incomplete in [&get[..5], &get[..12], &first, &[first.clone(), last[..9].to_vec()].concat()] {
        let mut client = connect(server.addresses()[0]).await;
        client.write_all(&[&waits, incomplete].concat()).await.unwrap();
        let code = timeout(MAX_WAIT, goaway_code(&mut client)).await.expect("the server closes the connection");
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{} bytes", incomplete.len());
    }
    gate.close();
    eventually(|| buffers.status().used == 0, || format!("{buffers:?}")).await;
}

#[tokio::test]
async fn a_head_may_arrive_in_any_pieces_between_other_frames() {
    let buffers = budget(SHARE);
    let (server, _gate) = start(&buffers, MAX_WAIT);
    let mut client = connect(server.addresses()[0]).await;
    client.set_nodelay(true).unwrap();
    for (stream, pieces) in [(1, 1), (3, 7), (5, 1000), (7, 16_393), (9, 100_000)] {
        let (first, last) = long_head(stream, 40 << 10);
        let bytes = [frame(0xfa, 0, 0, &[7; 300]), first, last].concat();
        let (start, rest) = bytes.split_at(if pieces == 1 { bytes.len() - 400 } else { 0 });
        client.write_all(start).await.unwrap();
        for piece in rest.chunks(pieces) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(is_served(&mut client, &[]).await, "in pieces of {pieces}");
    }
    eventually(|| buffers.status().used == OF_CONNECTION, || format!("{buffers:?}")).await;
}

/// The block of a request is followed by as many empty frames as hyper's codec accepts, and by one
/// more.
#[tokio::test]
async fn a_head_in_too_many_frames_is_refused_at_the_first_frame_too_many() {
    // For heads of 64 KiB.
    const MAX_FRAMES: usize = 11;
    let buffers = budget(SHARE);
    let (server, _gate) = start(&buffers, 2 * MAX_WAIT);
    let headers = frame(HEADERS, END_STREAM, 1, GET);
    let empty = frame(CONTINUATION, 0, 1, &[]);
    let begun = [headers, empty.repeat(MAX_FRAMES - 1)].concat();
    let mut client = connect(server.addresses()[0]).await;
    client.write_all(&begun).await.unwrap();
    assert!(is_served(&mut client, &frame(CONTINUATION, END_HEADERS, 1, &[])).await);
    let mut client = connect(server.addresses()[0]).await;
    client.write_all(&[begun, empty].concat()).await.unwrap();
    let code = timeout(MAX_WAIT, goaway_code(&mut client)).await.expect("the server waits for no more frames");
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_client_that_still_sends_a_head_that_is_too_long_gets_goaway() {
    let buffers = budget(SHARE);
    let (server, _gate) = start(&buffers, 2 * MAX_WAIT);
    let mut client = connect(server.addresses()[0]).await;
    // Twice the limit of 64 KiB, and more than a frame.
    client.write_all(&long_head(1, 160 << 10).0).await.unwrap();
    let code = timeout(MAX_WAIT, goaway_code(&mut client)).await.expect("the head is refused");
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    // More than the send buffer of the client.
    let rest = vec![0; 8 << 20];
    timeout(MAX_WAIT, client.write_all(&rest)).await.expect("the server reads").expect("the connection is not reset");
    assert_eq!(buffers.status().refused, 0, "the budget had bytes");
}

/// The second head gets 32 KiB and then waits, because the rest of the share is less than the next
/// 32 KiB.
#[tokio::test]
async fn a_head_waits_until_another_connection_frees_the_share_of_the_client() {
    const LENGTH: usize = 60 << 10;
    let buffers = budget(100 << 10);
    let (server, _gate) = start(&buffers, 2 * MAX_WAIT);
    let uses = async |connections: usize, heads: usize| {
        // The first 4 KiB of a head are of its connection.
        let used = connections * (OF_CONNECTION - (4 << 10)) + heads;
        eventually(|| buffers.status().used == used, || format!("{used} bytes: {buffers:?}")).await;
    };
    let (begun, last) = long_head(1, LENGTH);
    let mut first = connect(server.addresses()[0]).await;
    first.write_all(&begun).await.unwrap();
    uses(1, 64 << 10).await;
    let mut second = connect(server.addresses()[0]).await;
    second.write_all(&begun).await.unwrap();
    uses(2, 96 << 10).await;
    drop(first);
    uses(1, 64 << 10).await;
    assert!(is_served(&mut second, &last).await);
    assert_eq!(buffers.status().refused, 0);
}

async fn client_from(local: [u8; 4], server: &Server) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(tcp_from(local, server.addresses()[0]).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str, headers: usize, length: usize) -> Request<Full<Bytes>> {
    let mut request = Request::get(format!("http://kylin.example{path}")).body(Full::default()).unwrap();
    for number in 0..headers {
        let name = HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, HeaderValue::try_from("v".repeat(length)).unwrap());
    }
    request
}

#[tokio::test]
async fn heads_of_requests_in_flight_are_within_the_share_of_their_client() {
    // A header costs 128 bytes in addition to its name and value.
    for (share, headers, length, of_head) in [(SHARE / 4, 1, 3_000, 3_160), (SHARE, 90, 0, 90 * 132)] {
        let buffers = budget(share);
        let (server, gate) = start(&buffers, MAX_WAIT);
        let mut sender = client_from([127, 0, 0, 1], &server).await;
        let mut sent = JoinSet::new();
        for _ in 0..120 {
            sent.spawn(sender.send_request(get("/waits", headers, length)));
        }
        let most = share / of_head;
        for _ in 0..120 - most - 2 {
            let response = timeout(MAX_WAIT, sent.join_next()).await.expect("heads are refused");
            assert_eq!(response.unwrap().unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        // Once the refusals are sent.
        let within = share / 2..=share + OF_CONNECTION;
        eventually(|| within.contains(&buffers.status().used), || format!("{buffers:?}")).await;
        assert_eq!(buffers.status().clients, 1);
        let mut other = client_from(OTHER_CLIENT, &server).await;
        assert_eq!(other.send_request(get("/", headers, length)).await.unwrap().status(), StatusCode::OK);
        gate.close();
        let mut served = 0;
        while let Some(response) = sent.join_next().await {
            served += usize::from(response.unwrap().unwrap().status() == StatusCode::OK);
        }
        assert!((most - 2..=most + 2).contains(&served), "{served} of {most}");
        eventually(|| buffers.status().used == 2 * OF_CONNECTION, || format!("{buffers:?}")).await;
        drop((sender, other));
        eventually(|| buffers.status().used == 0, || format!("{buffers:?}")).await;
    }
}
