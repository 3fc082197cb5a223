//! One client cannot take the connections and requests of others.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZero, NonZeroU32};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::BufferBudget;
use kylin_lb::proxy::TrustedProxies;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::example::{address, spawn_with};
use crate::support::front::{Front, eventually, refusal, until};
use crate::support::http::Connection;
use crate::support::raw_node::{Act, RawNode, healthy, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";
const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const TIMEOUT: Duration = Duration::from_secs(30);

fn limit(limit: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(limit)
}

/// Sends the rest of a request that has begun. Returns false if the server has closed the
/// connection.
async fn is_served(client: &mut Connection) -> bool {
    if client.send(&GET[1..]).await.is_err() {
        return false;
    }
    match client.response().await {
        Ok(response) => response.status() == 200,
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::TimedOut, "neither served nor closed");
            false
        }
    }
}

/// Connections from one address that each send one byte of a head, more than the server serves in
/// total.
#[tokio::test]
async fn connections_of_one_address_leave_the_others_theirs() {
    const CONNECTIONS: usize = 1_500;
    let node = RawNode::start([healthy("node")]).await;
    let proxy = Front::over(&[node.address()]).proxy;
    let front = Front::serving(proxy, |server| {
        server.max_connections(NonZero::new(200)).max_connections_per_client(limit(100))
    });
    let mut greedy = Vec::new();
    for _ in 0..CONNECTIONS {
        if let Ok(mut connection) = Connection::open_from(GREEDY, front.address()).await {
            // May fail, because the connection is already closed.
            _ = connection.send("G").await;
            greedy.push(connection);
        }
    }
    let others: Vec<_> = (0..50)
        .map(|_| {
            let address = front.address();
            tokio::spawn(async move {
                let mut client = Connection::open(address).await.unwrap();
                client.send(GET).await.unwrap();
                client.response().await.unwrap().status()
            })
        })
        .collect();
    for other in others {
        assert_eq!(timeout(TIMEOUT, other).await.expect("others do not wait for the greedy client").unwrap(), 200);
    }
    // The share is free again when the connections are closed.
    drop(greedy);
    until("the share is free", async || {
        let mut client = Connection::open_from(GREEDY, front.address()).await.unwrap();
        client.send(GET).await.is_ok() && client.response().await.is_ok_and(|response| response.status() == 200)
    })
    .await;
}

/// By default, the limit of a client is higher than the total that this server serves.
#[tokio::test]
async fn one_address_never_takes_all_connections_of_a_server_that_serves_few() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::serving(Front::over(&[node.address()]).proxy, |server| {
        server.max_connections(NonZero::new(100)).threads(NonZero::<usize>::MIN)
    });
    let mut busy = Vec::new();
    for _ in 0..100 {
        let mut connection = Connection::open_from(GREEDY, front.address()).await.unwrap();
        // The beginning of another request, so that the connection is not idle after the response.
        // May fail, because it is already closed.
        _ = connection.send(format!("{GET}G")).await;
        if connection.response().await.is_ok_and(|response| response.status() == 200) {
            busy.push(connection);
        }
    }
    assert_eq!(busy.len(), 75, "three quarters");
    for _ in 0..20 {
        let mut other = front.connect().await;
        other.send(format!("{GET}G")).await.unwrap();
        assert_eq!(timeout(TIMEOUT, other.response()).await.expect("others are served").unwrap().status(), 200);
        busy.push(other);
    }
    for connection in &mut busy {
        assert!(is_served(connection).await, "a busy connection was closed");
    }
}

/// A client behind one address with idle connections, such as an office with many browsers, gets
/// new connections in place of old ones.
#[tokio::test]
async fn a_client_with_half_of_the_connections_loses_its_idlest_one_for_each_new_one() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::serving(Front::over(&[node.address()]).proxy, |server| {
        server.max_connections(NonZero::new(256)).threads(NonZero::<usize>::MIN)
    });
    let mut other = front.connect().await;
    let mut idle = Vec::new();
    for number in 0..400 {
        let mut connection = Connection::open_from(GREEDY, front.address()).await.unwrap();
        // Connections that send nothing are idle from the start.
        if number % 2 == 0 {
            connection.send(GET).await.unwrap();
            let response = connection.response().await;
            assert_eq!(response.unwrap_or_else(|error| panic!("{number}: {error}")).status(), 200);
        }
        idle.push(connection);
    }
    other.send(GET).await.unwrap();
    assert_eq!(other.response().await.unwrap().status(), 200, "the connection of the other client was not closed");
}

#[tokio::test]
async fn connections_of_trusted_proxies_are_not_limited_and_none_is_no_limit() {
    let node = RawNode::start([healthy("node")]).await;
    let trusted = TrustedProxies::new(["127.0.0.2/32".parse().unwrap()]);
    let proxy = Front::with(&[node.address()], |proxy| proxy.trusted_proxies(trusted)).proxy;
    for (per_client, from, is_limited) in
        [(limit(2), "127.0.0.1", true), (limit(2), "127.0.0.2", false), (None, "127.0.0.1", false)]
    {
        // One accept loop, which accepts the connections in order.
        let front = Front::serving(proxy.clone(), |server| {
            server.threads(NonZero::<usize>::MIN).max_connections_per_client(per_client)
        });
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Connection::open_from(from.parse().unwrap(), front.address()).await.unwrap();
            // May fail, because the connection is already closed.
            _ = client.send("G").await;
            clients.push(client);
        }
        assert_eq!(is_served(&mut clients[2]).await, !is_limited, "{per_client:?} {from}");
        assert!(is_served(&mut clients[1]).await);
    }
}

/// A front end for a node that holds each request, with a limit of two requests per client.
async fn holding(change: impl FnOnce(TrustedProxies) -> TrustedProxies) -> (RawNode, Front) {
    let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("node"))]]).await;
    let trusted = change(TrustedProxies::none());
    let front =
        Front::with(&[node.address()], |proxy| proxy.trusted_proxies(trusted).max_requests_per_client(limit(2)));
    (node, front)
}

#[tokio::test]
async fn requests_of_one_client_are_limited_until_their_responses_end() {
    let (node, front) = holding(|trusted| trusted).await;
    let mut held = [front.connect().await, front.connect().await];
    for client in &mut held {
        client.send(GET).await.unwrap();
    }
    node.wait_until(|seen| seen.requests.len() == 2).await;
    let refused = front.get("/").await.unwrap();
    refusal(&refused, 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Another client is served meanwhile.
    let mut other = Connection::open_from(GREEDY, front.address()).await.unwrap();
    other.send(GET).await.unwrap();
    node.wait_until(|seen| seen.requests.len() == 3).await;
    (0..3).for_each(|_| node.go());
    for client in held.iter_mut().chain([&mut other]) {
        assert_eq!(client.response().await.unwrap().status(), 200);
    }
    // A client that leaves frees its share.
    let (mut leaving, mut staying) = (front.connect().await, front.connect().await);
    leaving.send(GET).await.unwrap();
    staying.send(GET).await.unwrap();
    node.wait_until(|seen| seen.requests.len() == 5).await;
    drop(leaving);
    eventually(|| front.in_flight() == 1, || "the request is still in flight".to_owned()).await;
    let mut next = front.connect().await;
    next.send(GET).await.unwrap();
    node.wait_until(|seen| seen.requests.len() == 6).await;
}

#[tokio::test]
async fn streams_of_http2_count_as_requests() {
    let (node, front) = holding(|trusted| trusted).await;
    let stream = TcpStream::connect(front.address()).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let get = || http::Request::get("http://kylin/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let held = [tokio::spawn(sender.send_request(get())), tokio::spawn(sender.send_request(get()))];
    node.wait_until(|seen| seen.requests.len() == 2).await;
    let refused = sender.send_request(get()).await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    refused.into_body().collect().await.unwrap();
    (0..2).for_each(|_| node.go());
    for held in held {
        assert_eq!(held.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_share() {
    let (node, front) = holding(|_| TrustedProxies::new(["127.0.0.0/8".parse().unwrap()])).await;
    let ask = |forwarded: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: kylin\r\nX-Forwarded-For: {forwarded}\r\n\r\n");
        let address = front.address();
        async move {
            let mut client = Connection::open(address).await.unwrap();
            client.send(head).await.unwrap();
            client
        }
    };
    let mut held = Vec::new();
    // Two of one client, two of another whose first entries are forged, and three of the proxy
    // itself.
    for client in [
        "192.0.2.1",
        "192.0.2.1",
        "192.0.2.1, 192.0.2.2",
        "192.0.2.1, 192.0.2.2",
        "127.0.0.9",
        "127.0.0.9",
        "127.0.0.9",
    ] {
        held.push(ask(client).await);
    }
    node.wait_until(|seen| seen.requests.len() == 7).await;
    for client in ["192.0.2.1", "192.0.2.9, 192.0.2.2"] {
        assert_eq!(ask(client).await.response().await.unwrap().status(), 429, "{client}");
    }
}

/// Heads of 60,000 bytes that never end, from one address and from a trusted proxy.
#[tokio::test]
async fn heads_that_do_not_end_count_for_the_share_of_their_client() {
    const HEAD: usize = 60_000;
    let node = RawNode::start([healthy("node")]).await;
    for (trusted, clients, heads) in
        [(TrustedProxies::none(), 1, 4), (TrustedProxies::new(["127.0.0.2/32".parse().unwrap()]), 0, 10)]
    {
        let buffers = BufferBudget::with_client_share(NonZero::new(1 << 20), NonZero::new(256 << 10)).unwrap();
        let proxy =
            Front::with(&[node.address()], |proxy| proxy.trusted_proxies(trusted).buffers(buffers.clone())).proxy;
        let front = Front::serving(proxy, |server| server.buffers(buffers.clone()));
        let mut slow = Vec::new();
        for _ in 0..10 {
            let mut connection = Connection::open_from(GREEDY, front.address()).await.unwrap();
            let head = format!("GET / HTTP/1.1\r\nHost: kylin\r\nX: {}", "x".repeat(HEAD));
            // The server may have refused the head before all of it was sent.
            _ = connection.send(head).await;
            slow.push(connection);
        }
        eventually(|| buffers.status().used >= heads * HEAD, || format!("{buffers:?}")).await;
        eventually(|| buffers.status().refused as usize >= 10 - heads, || format!("{buffers:?}")).await;
        assert_eq!(buffers.status().clients, clients, "{buffers:?}");
        assert!(buffers.status().used <= heads * (HEAD + 16_384) + 10 * 4096, "{buffers:?}");
        let mut other = front.connect().await;
        other.send(format!("GET / HTTP/1.1\r\nHost: kylin\r\nX: {}\r\n\r\n", "x".repeat(HEAD))).await.unwrap();
        assert_eq!(other.response().await.unwrap().status(), 200);
        drop(slow);
        eventually(|| buffers.status().clients == 0, || format!("{buffers:?}")).await;
    }
}

/// The log names the client and the option, once.
#[tokio::test]
async fn the_example_names_a_client_at_its_limit_once() {
    let args = ["--demo", "1", "--listen", "127.0.0.1:0", "--client-connections", "2"];
    let process = spawn_with(&args, |command| command.env_remove("RUST_LOG")).await;
    let front: SocketAddr = address(&process, "listening on http://");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Connection::open_from(GREEDY, front).await.unwrap());
    }
    eventually(|| process.file("stderr").contains("--trust"), || process.log()).await;
    assert_eq!(process.file("stderr").matches("client=127.0.0.2").count(), 1, "{}", process.log());
    drop(clients);

    // A trusted proxy has no limit, but its clients do.
    let args = ["--demo=1", "--listen=127.0.0.1:0", "--client-connections=2", "--trust=10.0.0.0/8,127.0.0.2"];
    let process = spawn_with(&args, |command| command).await;
    let front = address(&process, "listening on http://");
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Connection::open_from(GREEDY, front).await.unwrap();
        client.send("GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), 200);
        clients.push(client);
    }
}
