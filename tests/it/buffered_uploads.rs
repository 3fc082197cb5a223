//! Bodies that are buffered in memory: their total is bounded, and one client cannot use the memory
//! of the others.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, BufferBudget, ClientAddr, Cluster, Endpoint, Proxy};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::node_codec::Slow;
use crate::support::example::start;
use crate::support::front::{Front, demo, endpoints, eventually, refusal};
use crate::support::http::{Connection, RawResponse};
use crate::support::raw_node::{Act, RawNode, ok};
use crate::support::resources::Memory;

const MIB: usize = 1 << 20;
/// The number that took 7.8 GiB when copies were bounded only individually:
/// `KYLIN_LB_UPLOADS=8000`.
const UPLOADS: usize = 600;

static BLANKS: [u8; MIB] = [b' '; MIB];

fn budget(limit: usize, share: usize) -> BufferBudget {
    BufferBudget::with_client_share(NonZero::new(limit), NonZero::new(share)).unwrap()
}

fn post(length: usize) -> String {
    format!("POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n\r\n")
}

/// Sends a request from `client` whose last byte does not arrive: as much of it as the server
/// accepts.
async fn send_one_byte_short(client: IpAddr, front: SocketAddr, length: usize) -> io::Result<Connection> {
    let mut connection = Connection::open_from(client, front).await?.read_timeout(Duration::from_secs(100));
    // A server that responds before it has the whole body may close.
    connection.send(post(length)).await?;
    _ = connection.send(&BLANKS[..length - 1]).await;
    Ok(connection)
}

/// Returns the response to a request whose last byte does not arrive.
async fn one_byte_short(client: IpAddr, front: SocketAddr, length: usize) -> io::Result<RawResponse> {
    send_one_byte_short(client, front, length).await?.response().await
}

fn client(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    [127, 1, high, low].into()
}

/// Queries of other clients, one with a body that arrives with its head, and one with a body that
/// does not.
async fn others_are_served(front: SocketAddr, rounds: usize) {
    for round in 0..rounds {
        for length in [40, 40_000] {
            let mut connection = Connection::open_from(client(60_000 + round), front).await.unwrap();
            connection.send(post(length)).await.unwrap();
            // The demo node responds to a query without SQL with 400 or 401, which no front end
            // does.
            connection.send(vec![b' '; length]).await.unwrap();
            let response = connection.response().await.unwrap();
            assert!(!response.text().contains("memory") && response.status() < 500, "{}", response.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_one_byte_short_take_no_more_memory_than_the_budget_and_others_are_served() {
    let uploads = std::env::var("KYLIN_LB_UPLOADS").map_or(UPLOADS, |count| count.parse().unwrap());
    let nodes: Vec<_> = [demo("n1").await, demo("n2").await].into();
    let named: Vec<_> = nodes.iter().map(|(node, served)| format!("{}@{}", node.name(), served.addr())).collect();
    let (process, front) = start(&["--nodes", &named.join(","), "--sessions=none", "--probe=none"]).await;
    let (mut slow, sent) = (JoinSet::new(), Arc::new(Semaphore::new(0)));
    for number in 0..uploads {
        let sent = Arc::clone(&sent);
        slow.spawn(async move {
            // They come from many addresses, so that the budget limits them, and not the share of
            // one client.
            let connection = send_one_byte_short(client(number % 64), front, MIB).await;
            sent.add_permits(1);
            connection?.response().await
        });
    }
    // Each upload is received except for its last byte, or refused.
    loop {
        others_are_served(front, 8).await;
        if sent.available_permits() == uploads {
            break;
        }
    }
    let Memory { resident, peak } = Memory::of(process.id());
    let (resident, peak) = (resident >> 20, peak >> 20);
    println!("{uploads} uploads one byte short of 1 MiB: {resident} MiB resident, {peak} MiB at most");
    assert!(peak < 512, "{peak} MiB");
    slow.shutdown().await;
}

#[tokio::test]
async fn a_client_has_a_share_of_the_memory_and_the_rest_is_for_the_others() {
    let (_node, served) = demo("n1").await;
    let buffers = budget(8 * MIB, MIB);
    let front =
        Front::of(endpoints(&[served.addr()]), |proxy| proxy.buffers(buffers.clone()).streamed_bodies(NonZero::new(4)));
    let greedy: IpAddr = client(1);
    let mut uploads = JoinSet::new();
    for _ in 0..20 {
        uploads.spawn(one_byte_short(greedy, front.address(), MIB / 2));
    }
    // One or two have the share, two stream, and the rest are refused with the reason.
    for _ in 0..16 {
        let response = timeout(Duration::from_secs(30), uploads.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        let reason = refusal(&response, 503);
        assert!(reason.contains("request bodies"), "{reason}");
    }
    let status = buffers.status();
    assert!(status.used <= 2 * MIB && status.used >= MIB / 2, "{status:?}");
    assert_eq!(front.proxy.streamed_bodies(), 2, "half of those that may stream to the node");
    others_are_served(front.address(), 4).await;
    uploads.shutdown().await;
    eventually(|| buffers.status().used == 0 && front.proxy.streamed_bodies() == 0, || format!("{buffers:?}")).await;
    front.idle().await;
}

#[tokio::test]
async fn a_node_gets_no_more_streamed_bodies_than_its_limit_from_all_clients_together() {
    let (_node, served) = demo("n1").await;
    let front = Front::of(endpoints(&[served.addr()]), |proxy| {
        proxy.buffers(budget(MIB, 16_000)).streamed_bodies(NonZero::new(4))
    });
    let streamed = async |count: usize| {
        eventually(|| front.proxy.streamed_bodies() == count, || format!("{count} streamed bodies")).await;
    };
    let mut uploads = Vec::new();
    for number in 1..=4 {
        uploads.push(send_one_byte_short(client(number), front.address(), MIB / 2).await.unwrap());
        streamed(number).await;
    }
    let response = one_byte_short(client(5), front.address(), MIB / 2).await.unwrap();
    let reason = refusal(&response, 503);
    assert!(reason.contains("request bodies"), "{reason}");
    streamed(4).await;
    // One that ends frees its bytes.
    drop(uploads.pop());
    streamed(3).await;
    uploads.push(send_one_byte_short(client(5), front.address(), MIB / 2).await.unwrap());
    streamed(4).await;
}

#[tokio::test]
async fn a_body_for_which_there_is_no_memory_streams_and_is_not_repeated() {
    let body = vec![b'x'; 200_000];
    let broken = RawNode::start([vec![Act::ReadHead, Act::Reset]]).await;
    let good = RawNode::start([vec![Act::Read, Act::Write(ok("fine"))]]).await;
    for (memory, status) in [(MIB, 200), (64_000, 502)] {
        let front =
            Front::of(endpoints(&[broken.address(), good.address()]), |proxy| proxy.buffers(budget(memory, memory)));
        let mut connection = front.connect().await;
        let head = format!("PUT /x HTTP/1.1\r\nHost: kylin\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.send([head.as_bytes(), &body].concat()).await.unwrap();
        let response = connection.response().await.unwrap();
        assert_eq!(response.status(), status, "{}", response.text());
        eventually(|| front.proxy.buffers().status().used < 16_000, || format!("{:?}", front.proxy.buffers())).await;
    }
}

#[tokio::test]
async fn a_declared_length_takes_no_memory_and_a_body_no_longer_than_it_is_needed() {
    let node = RawNode::start([vec![Act::Read, Act::Stall]]).await;
    let buffers = budget(64 * MIB, 64 * MIB);
    let front = Front::of(endpoints(&[node.address()]), |proxy| proxy.buffers(buffers.clone()));
    let mut connection = front.connect().await;
    connection.send(post(MIB)).await.unwrap();
    connection.send(vec![b'x'; 3000]).await.unwrap();
    eventually(|| buffers.status().used >= 3000, || format!("{buffers:?}")).await;
    assert!(buffers.status().used < 32_000, "{buffers:?}");
    // A plain proxy does not repeat a POST. While the node works on it, no copy is needed.
    connection.send(vec![b'x'; MIB - 3000]).await.unwrap();
    node.wait_until(|seen| seen.bytes.iter().map(Vec::len).sum::<usize>() > MIB).await;
    eventually(|| buffers.status().used < 32_000, || format!("{buffers:?}")).await;
    assert_eq!(front.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_in_all_ends_with_408() {
    for (min_rate, status) in [(NonZero::new(1000), 408), (None, 200)] {
        let node = Scripted::new(|request: Request<Body>| async {
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), 25);
            Ok(Response::new(Body::empty()))
        });
        let cluster = Cluster::builder().endpoint(Endpoint::new("n1", node).unwrap()).build().unwrap();
        let timeout = Duration::from_millis(500);
        let proxy = Proxy::plain(cluster).body_timeout(timeout).body_min_rate(min_rate).build().unwrap();
        // Each byte arrives in time, but the whole body does not.
        let body = Slow::body(25, 1, timeout / 10);
        let request = Request::put("/x").header("host", "kylin").header("content-length", 25).body(body).unwrap();
        assert_eq!(proxy.forward(ClientAddr::Unix, request).await.status(), status);
    }
}
