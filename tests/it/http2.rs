//! HTTP/2 clients without TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::front::{Front, demo};
use crate::support::raw_node::{Act, RawNode, healthy};

/// The bytes that are reserved for each connection.
const OF_CONNECTION: usize = 8 << 10;

pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let uri = format!("http://kylin.example{path}");
    Request::builder().method(method).uri(uri).body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = connect(front.address()).await;
    for length in [0, 5, 3 << 20] {
        let response = client.send_request(request("POST", "/demo/echo", vec![b'x'; length])).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() == length && body.iter().all(|byte| *byte == b'x'));
    }
    let response = client.send_request(request("HEAD", "/demo/bytes?n=7", "")).await.unwrap();
    assert_eq!(response.headers()["content-length"], "7");
}

#[tokio::test]
async fn a_node_sees_a_plain_http_1_1_request() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = connect(front.address()).await;
    let mut request = request("GET", "/demo/head", "");
    for cookie in ["JSESSIONID=1", "a=b", "c=d"] {
        request.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    request.headers_mut().append("te", "trailers".parse().unwrap());
    let response = client.send_request(request).await.unwrap();
    let seen: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let values = |name: &str| {
        let headers = seen["headers"].as_array().unwrap().iter().filter(|header| header[0] == name);
        headers.map(|header| header[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((seen["version"].as_str(), seen["target"].as_str()), (Some("HTTP/1.1"), Some("/demo/head")));
    assert_eq!(values("host"), ["kylin.example"]);
    assert_eq!(values("cookie"), ["JSESSIONID=1; a=b; c=d"], "RFC 9113, 8.2.3: one line on HTTP/1.1");
    assert!(values("te").is_empty());
}

#[tokio::test]
async fn requests_share_a_connection_and_do_not_wait_for_each_other() {
    let slow = RawNode::start([
        vec![Act::Read, Act::WaitForGo, Act::Write(crate::support::raw_node::ok("slow"))],
        healthy("fast"),
    ])
    .await;
    let front = Front::over(&[slow.address()]);
    let client = connect(front.address()).await;
    let send = || {
        let mut client = client.clone();
        async move {
            let response = client.send_request(request("GET", "/", "")).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        }
    };
    let first = tokio::spawn(send());
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    let many = futures_all((0..20).map(|_| send())).await;
    assert!(many.iter().all(|body| body == "fast"));
    slow.go();
    assert_eq!(first.await.unwrap(), "slow");
}

async fn futures_all<F>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    futures.for_each(|future| _ = tasks.spawn(future));
    tasks.join_all().await
}

#[tokio::test]
async fn a_stream_that_is_reset_cancels_its_request_only() {
    let (node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = connect(front.address()).await;
    let response = client.send_request(request("GET", "/demo/bytes?n=1000000000", "")).await.unwrap();
    assert_eq!(node.stats().in_flight, 1);
    drop(response);
    node.wait_until(|stats| stats.cancelled == 1).await.unwrap();
    front.idle().await;
    let response = client.send_request(request("GET", "/demo/bytes?n=3", "")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 3);
}

#[tokio::test]
async fn a_truncated_response_resets_the_stream_or_is_replaced_by_an_error() {
    let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec();
    let node = RawNode::start([vec![Act::Read, Act::Write(cut)]]).await;
    let front = Front::over(&[node.address()]);
    let mut client = connect(front.address()).await;
    let response = client.send_request(request("GET", "/", "")).await.unwrap();
    let is_replaced = response.status() == StatusCode::BAD_GATEWAY;
    assert_eq!(response.into_body().collect().await.is_ok(), is_replaced);
}

/// A body with a declared length whose last byte does not arrive.
struct OneByteShort(usize);

impl http_body::Body for OneByteShort {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let length = self.0 - 1;
        self.0 = 1;
        if length == 0 {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(vec![b' '; length].into()))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0 as u64)
    }
}

/// A server with capacity for two connections.
#[tokio::test]
async fn a_full_server_closes_idle_http2_connections_and_no_other() {
    let slow = vec![Act::Read, Act::WaitForGo, Act::Write(crate::support::raw_node::ok("slow"))];
    let node = RawNode::start([slow, healthy("fast")]).await;
    let proxy = Front::over(&[node.address()]).proxy;
    let front = Front::serving(proxy, |server| server.max_connections(std::num::NonZero::new(2)));
    let get = || request("GET", "/", "");
    let mut busy = connect(front.address()).await;
    let held = tokio::spawn(busy.send_request(get()));
    node.wait_until(|seen| seen.requests.len() == 1).await;
    let mut idle = connect(front.address()).await;
    let fetched = async |client: &mut SendRequest<Full<Bytes>>| {
        let response = client.send_request(get()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    assert_eq!(fetched(&mut idle).await, "fast");
    assert_eq!(fetched(&mut connect(front.address()).await).await, "fast");
    assert!(idle.send_request(get()).await.is_err(), "it gave its place to the new one");
    node.go();
    assert_eq!(held.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes(), "slow");
}

/// Bodies that a handler does not read, like a handler that waits for a node.
#[tokio::test]
async fn what_is_received_of_bodies_that_are_not_read_is_within_the_share_of_their_client() {
    use kylin_lb::server::Server;
    use kylin_lb::{Body, BufferBudget, ClientAddr};

    // 16 windows and the heads.
    let share = (1 << 20) + (32 << 10);
    let buffers = BufferBudget::with_client_share(std::num::NonZero::new(8 << 20), std::num::NonZero::new(share));
    let buffers = buffers.unwrap();
    let waits = |_: ClientAddr, _body: Request<Body>| std::future::pending::<http::Response<Body>>();
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), waits).buffers(buffers.clone());
    let server = server.start().unwrap();
    let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let request = Request::post("http://kylin.example/").body(OneByteShort(512 << 10)).unwrap();
        uploads.spawn(sender.send_request(request));
    }
    // 16 streams have the share.
    for _ in 0..60 - 16 {
        let refused = uploads.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let status = buffers.status();
    assert!(status.clients == 1 && status.refused == 60 - 16, "{status:?}");
    // Once the refusals are sent.
    crate::support::front::eventually(
        || (1 << 20..=share + OF_CONNECTION).contains(&buffers.status().used),
        || format!("{buffers:?}"),
    )
    .await;
    uploads.shutdown().await;
    drop(sender);
    crate::support::front::eventually(|| buffers.status().used == 0, || format!("{buffers:?}")).await;
}

/// Each response is short enough for the codec to take it whole at once, so that none is in flight.
#[tokio::test]
async fn responses_that_clients_do_not_read_are_within_the_share_of_their_client() {
    use kylin_lb::server::Server;
    use kylin_lb::{Body, BufferBudget, ClientAddr};

    const LENGTH: usize = 48 << 10;
    const SHARE: usize = 1 << 20;
    let buffers = BufferBudget::with_client_share(std::num::NonZero::new(8 << 20), std::num::NonZero::new(SHARE));
    let buffers = buffers.unwrap();
    let respond = |_: ClientAddr, _body: Request<Body>| async { http::Response::new(Body::from(vec![b'x'; LENGTH])) };
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), respond).buffers(buffers.clone());
    let server = server.start().unwrap();
    let (mut senders, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(512);
        let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..20 {
            responses.push(sender.send_request(request("GET", "/", "")).await.unwrap().into_body());
        }
        senders.push(sender);
    }
    let mut most = 0;
    let mut read = tokio::task::JoinSet::new();
    // The bytes of 80 responses that the codec holds, before and while they are read.
    for response in responses {
        most = most.max(buffers.status().used);
        read.spawn(response.collect());
    }
    assert!((SHARE / 2..=SHARE + 4 * (LENGTH + OF_CONNECTION)).contains(&most), "{most}");
    while let Some(body) = read.join_next().await {
        assert_eq!(body.unwrap().unwrap().to_bytes().len(), LENGTH);
    }
    drop(senders);
    crate::support::front::eventually(|| buffers.status().used == 0, || format!("{buffers:?}")).await;
}

/// A body in one buffer is longer than the whole budget, while other streams have clients that read
/// slowly.
#[tokio::test]
async fn a_long_body_arrives_though_memory_is_short() {
    use kylin_lb::server::Server;
    use kylin_lb::{Body, BufferBudget, ClientAddr};

    const LIMIT: usize = 128 << 10;
    let buffers =
        BufferBudget::with_client_share(std::num::NonZero::new(LIMIT), std::num::NonZero::new(LIMIT)).unwrap();
    let respond = |_: ClientAddr, _body: Request<Body>| async { http::Response::new(Body::from(vec![b'x'; 1 << 20])) };
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), respond).buffers(buffers.clone());
    let server = server.start().unwrap();
    let mut client = connect(server.addresses()[0]).await;
    let mut bodies = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut body, buffers) =
            (client.send_request(request("GET", "/", "")).await.unwrap().into_body(), buffers.clone());
        bodies.spawn(async move {
            let (mut length, mut most) = (0, 0);
            while let Some(frame) = body.frame().await {
                most = most.max(buffers.status().used);
                length += frame.unwrap().into_data().unwrap().len();
            }
            (length, most)
        });
    }
    let mut most = 0;
    while let Some(read) = bodies.join_next().await {
        let (length, used) = read.unwrap();
        assert_eq!(length, 1 << 20);
        most = most.max(used);
    }
    assert!(most <= LIMIT + (64 << 10) + OF_CONNECTION, "{most}");
    drop(client);
    crate::support::front::eventually(|| buffers.status().used == 0, || format!("{buffers:?}")).await;
}

#[tokio::test]
async fn uploads_one_byte_short_on_one_connection_are_within_the_share_of_their_client() {
    use kylin_lb::BufferBudget;
    use std::num::NonZero;

    let (_node, served) = demo("q1").await;
    let buffers = BufferBudget::with_client_share(NonZero::new(8 << 20), NonZero::new(1 << 20)).unwrap();
    let front = Front::of(crate::support::front::endpoints(&[served.addr()]), |proxy| {
        proxy.buffers(buffers.clone()).streamed_bodies(NonZero::new(4))
    });
    let stream = TcpStream::connect(front.address()).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let request = Request::post("http://kylin.example/demo/echo").body(OneByteShort(512 << 10)).unwrap();
        uploads.spawn(sender.send_request(request));
    }
    // The node responds to streaming requests before it has all of them.
    let (mut refused, mut streamed) = (0, Vec::new());
    while refused < 50 {
        let response = uploads.join_next().await.unwrap().unwrap().unwrap();
        match response.status() {
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            _ => streamed.push(response),
        }
    }
    assert!(streamed.len() <= 2, "{streamed:?}");
    assert!(buffers.status().used <= 2 << 20, "{buffers:?}");
    let mut other = connect(front.address()).await;
    let response = other.send_request(request("POST", "/demo/echo", "x")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
