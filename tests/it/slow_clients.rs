//! Clients that send or read slowly, over HTTP/1 and HTTP/2, alongside normal clients, which are
//! served as if they were alone.
//!
//! Set `KYLIN_LB_SLOW=6000` for more clients than the default.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::time::{Duration, Instant};

use kylin_lb::BufferBudget;
use tokio::task::JoinSet;

use crate::support::front::{Front, demo, endpoints, eventually};
use crate::support::http::Connection;

/// The number of clients of all kinds together.
const SLOW: usize = 1002;
const NORMAL: usize = 64;
/// The number of requests of each normal client.
const REQUESTS: usize = 10;

/// The number of bytes that a client sends before it stops.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Head,
    Body,
    /// Reads nothing of a response of 200 KB.
    Reading,
    Http2Head,
    Http2Body,
    Http2Reading,
}

const KINDS: [Slow; 6] = [Slow::Head, Slow::Body, Slow::Reading, Slow::Http2Head, Slow::Http2Body, Slow::Http2Reading];

const READ: &str = "/demo/bytes?n=200000";

impl Slow {
    fn sent(self) -> Vec<u8> {
        match self {
            Slow::Head => format!("GET / HTTP/1.1\r\nHost: kylin\r\nX: {}", "x".repeat(2000)).into(),
            Slow::Body => {
                let head = "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nContent-Length: 100000\r\n\r\n";
                [head.as_bytes(), &[b' '; 50_000]].concat()
            }
            Slow::Reading => format!("GET {READ} HTTP/1.1\r\nHost: kylin\r\n\r\n").into(),
            Slow::Http2Head => http2(&[(frame::HEADERS, 0, head("GET", "/", &[]))]),
            Slow::Http2Body => {
                let fields = head("POST", "/kylin/api/query", b"\x0f\x0d\x06100000");
                http2(&[(frame::HEADERS, frame::END_HEADERS, fields), (frame::DATA, 0, vec![b' '; 15_000])])
            }
            Slow::Http2Reading => {
                http2(&[(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, head("GET", READ, &[]))])
            }
        }
    }
}

/// Types and flags of frames (RFC 9113, 6).
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

/// Returns the start of a connection with one stream.
fn http2(frames: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A window of 1,024 bytes per stream.
    push_frame(&mut bytes, frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 4, 0]);
    for (kind, flags, payload) in frames {
        push_frame(&mut bytes, *kind, *flags, 1, payload);
    }
    bytes
}

fn push_frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    bytes.extend_from_slice(payload);
}

/// Returns a head without the dynamic table (RFC 7541, appendix A).
fn head(method: &str, path: &str, more: &[u8]) -> Vec<u8> {
    let mut fields = vec![if method == "GET" { 0x82 } else { 0x83 }, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    fields.extend_from_slice(path.as_bytes());
    fields.extend_from_slice(b"\x01\x05kylin");
    fields.extend_from_slice(more);
    fields
}

/// Sends the requests of the normal clients. Returns how many had status 200, and the 99th
/// percentile of their times.
async fn normal(front: SocketAddr) -> (usize, Duration) {
    let mut clients = JoinSet::new();
    for number in 0..NORMAL {
        clients.spawn(async move {
            let client = IpAddr::from([127, 0, 2, u8::try_from(number).unwrap()]);
            let mut connection = Connection::open_from(client, front).await.unwrap();
            let mut times = Vec::new();
            for _ in 0..REQUESTS {
                let began = Instant::now();
                connection
                    .send("POST /demo/echo HTTP/1.1\r\nHost: kylin\r\nContent-Length: 4\r\n\r\nbody")
                    .await
                    .unwrap();
                if connection.response().await.unwrap().status() == 200 {
                    times.push(began.elapsed());
                }
            }
            times
        });
    }
    let mut times: Vec<_> = clients.join_all().await.concat();
    times.sort_unstable();
    (times.len(), times.get(times.len() * 99 / 100).copied().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_of_both_protocols_leave_normal_ones_served_and_nodes_free() {
    let slow = std::env::var("KYLIN_LB_SLOW").map_or(SLOW, |count| count.parse().unwrap());
    let nodes = [demo("n1").await, demo("n2").await, demo("n3").await];
    let addresses: Vec<_> = nodes.iter().map(|(_, served)| served.addr()).collect();
    let buffers = BufferBudget::new(NonZero::new(256 << 20));
    // No slow client is cut off, so a request that waits for one never gets its response.
    let hour = Duration::from_secs(3600);
    let proxy =
        Front::of(endpoints(&addresses), |proxy| proxy.buffers(buffers.clone()).body_timeout(hour).body_min_rate(None));
    let front =
        Front::serving(proxy.proxy, |server| server.buffers(buffers.clone()).head_timeout(hour).send_timeout(hour));
    let alone = normal(front.address()).await;
    assert_eq!(alone.0, NORMAL * REQUESTS);
    let mut held = Vec::new();
    for number in 0..slow {
        let client = IpAddr::from([127, 0, 3, u8::try_from(number % 50).unwrap()]);
        let mut connection = Connection::open_from(client, front.address()).await.unwrap();
        connection.send(KINDS[number % KINDS.len()].sent()).await.unwrap();
        held.push(connection);
    }
    let served = || front.proxy.cluster().status().endpoints.iter().map(|endpoint| endpoint.served).sum::<u64>();
    let expected = (NORMAL * REQUESTS + slow / 3) as u64;
    eventually(|| served() >= expected, || format!("{} of {expected}", served())).await;
    let beside = normal(front.address()).await;
    println!("p99 {:?} alone, {:?} beside {slow} slow clients; {:?}", alone.1, beside.1, buffers.status());
    assert_eq!(beside.0, NORMAL * REQUESTS);
    eventually(|| front.in_flight() == 0, || format!("slow clients hold nodes: {}", front.in_flight())).await;
    drop(held);
    eventually(|| buffers.status().clients == 0, || format!("{buffers:?}")).await;
}
