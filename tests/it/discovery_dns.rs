//! Nodes from DNS, with a scripted DNS server.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::discovery::{self, Backoff, DiscoveryHandle, DiscoveryStatus, Dns, SourceState};
use kylin_lb::endpoint::Role;
use kylin_lb::nginx::{Config, Site};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::support::cluster::Nowhere;
use crate::support::front::eventually;
use crate::support::http;
use crate::support::raw_node::{RawNode, healthy};

const TIMEOUT: Duration = Duration::from_secs(30);
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// A resource record of the queried name.
#[derive(Debug, Clone)]
struct Record {
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

/// The response of the server to a query.
#[derive(Clone)]
enum Reply {
    Records(Vec<Record>),
    /// A response code: 2 is SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    Code(u8),
    /// These bytes after the header and the question, with this number of records.
    Raw(u16, Vec<u8>),
    /// Records under another id, as an attacker would guess it.
    Forged(Vec<Record>),
    /// Bytes that are not a DNS message.
    Junk(Vec<u8>),
    Nothing,
}

/// A DNS server that listens on UDP only.
struct DnsServer {
    address: SocketAddr,
    replies: Arc<Mutex<HashMap<u16, Reply>>>,
    task: AbortHandle,
}

impl DnsServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let replies: Arc<Mutex<HashMap<u16, Reply>>> = Arc::default();
        let shared = Arc::clone(&replies);
        let task = tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let kind = kind_of(&question[..length]);
                let reply = shared.lock().unwrap().get(&kind).cloned().unwrap_or(Reply::Code(0));
                if let Some(response) = response(&question[..length], &reply) {
                    let _ = socket.send_to(&response, from).await;
                }
            }
        });
        DnsServer { address, replies, task: task.abort_handle() }
    }

    fn set(&self, kind: u16, reply: Reply) {
        self.replies.lock().unwrap().insert(kind, reply);
    }

    fn records(&self, kind: u16, records: impl IntoIterator<Item = Record>) {
        self.set(kind, Reply::Records(records.into_iter().collect()));
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the offset after the name of the question.
fn end_of_name(question: &[u8]) -> usize {
    let mut at = 12;
    while question[at] != 0 {
        at += usize::from(question[at]) + 1;
    }
    at + 1
}

fn kind_of(question: &[u8]) -> u16 {
    let end = end_of_name(question);
    u16::from_be_bytes([question[end], question[end + 1]])
}

fn response(question: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    let (code, count, records) = match reply {
        Reply::Nothing => return None,
        Reply::Junk(bytes) => return Some(bytes.clone()),
        Reply::Code(code) => (*code, 0, Vec::new()),
        Reply::Raw(count, bytes) => (0, *count, bytes.clone()),
        Reply::Records(records) | Reply::Forged(records) => {
            let bytes = records.iter().flat_map(|record| {
                // A pointer to the name of the question.
                let mut bytes = vec![0xc0, 12];
                bytes.extend(record.kind.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(record.ttl.to_be_bytes());
                bytes.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
                bytes.extend(&record.data);
                bytes
            });
            (0, u16::try_from(records.len()).unwrap(), bytes.collect())
        }
    };
    let mut response = question[..2].to_vec();
    if matches!(reply, Reply::Forged(_)) {
        response[0] ^= 0xff;
    }
    // A recursive response to one question, without the additional record that may have come with
    // it.
    response.extend([0x81, 0x80 | code, 0, 1]);
    response.extend(count.to_be_bytes());
    response.extend([0, 0, 0, 0]);
    response.extend(&question[12..end_of_name(question) + 4]);
    response.extend(records);
    Some(response)
}

fn a(octet: u8, ttl: u32) -> Record {
    Record { kind: A, ttl, data: vec![10, 0, 0, octet] }
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap()).chain(label.bytes())).collect();
    bytes.push(0);
    bytes
}

fn srv(priority: u16, weight: u16, port: u16, target: &str, ttl: u32) -> Record {
    let mut data = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    data.extend(name(target));
    Record { kind: SRV, ttl, data }
}

/// A cluster that watches DNS.
struct Resolved {
    cluster: Cluster<Nowhere>,
    handle: DiscoveryHandle,
}

impl Resolved {
    fn with(server: &DnsServer, source: Dns) -> Self {
        let source = source.servers([server.address]).timeout(Duration::from_millis(600)).unwrap();
        let source = source.ttl_between(Duration::from_millis(20), Duration::from_millis(50)).unwrap();
        let cluster = Cluster::builder().build().unwrap();
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(20)).unwrap();
        let handle = discovery::watch_with(&cluster, source, |node| node.endpoint(Nowhere), backoff);
        Resolved { cluster, handle }
    }

    /// Endpoints as `address weight`, and ` backup`.
    fn endpoints(&self) -> Vec<String> {
        let shown = |backup| if backup { " backup" } else { "" };
        let endpoints = self.cluster.status().endpoints;
        endpoints.iter().map(|e| format!("{} {}{}", e.id, e.weight, shown(e.backup))).collect()
    }

    async fn has(&self, expected: &[&str]) {
        self.until(|_| self.endpoints() == expected, &format!("{expected:?}")).await;
    }

    async fn until(&self, test: impl FnMut(&DiscoveryStatus) -> bool, what: &str) {
        let reached = timeout(TIMEOUT, self.handle.wait_until(test)).await;
        assert!(reached.is_ok(), "not {what}: {:?} {:?}", self.endpoints(), self.handle.status());
    }
}

#[tokio::test]
async fn services_become_weighted_endpoints_and_backups_and_are_resolved_again() {
    let server = DnsServer::start().await;
    // An hour, which the maximum time to live shortens.
    server.records(SRV, [srv(10, 3, 7070, "Q1.example.", 3600), srv(20, 5, 7071, "q2.example.", 3600)]);
    let resolved = Resolved::with(&server, Dns::services("_kylin._tcp.example.").unwrap().roles(Role::Query));
    resolved.has(&["q1.example:7070 3", "q2.example:7071 5 backup"]).await;
    assert!(resolved.cluster.status().endpoints.iter().all(|endpoint| endpoint.roles.to_string() == "query"));

    // Another order, which is not a change, and one more node.
    server.records(
        SRV,
        [srv(20, 5, 7071, "q2.example.", 0), srv(10, 3, 7070, "q1.example.", 0), srv(10, 0, 1, "q3.", 0)],
    );
    resolved.has(&["q1.example:7070 3", "q3:1 1", "q2.example:7071 5 backup"]).await;
    server.records(SRV, [srv(20, 9, 7071, "q2.example.", 0)]);
    resolved.has(&["q2.example:7071 9"]).await;
}

#[tokio::test]
async fn addresses_of_both_families_become_endpoints() {
    let server = DnsServer::start().await;
    server.records(A, [a(2, 0), a(1, 0)]);
    let v6 = Record { kind: AAAA, ttl: 0, data: Ipv6Addr::LOCALHOST.octets().to_vec() };
    server.records(AAAA, [v6]);
    let resolved = Resolved::with(&server, Dns::addresses("kylin.example.", 7070).unwrap());
    resolved.has(&["10.0.0.1:7070 1", "10.0.0.2:7070 1", "[::1]:7070 1"]).await;
    server.records(AAAA, []);
    resolved.has(&["10.0.0.1:7070 1", "10.0.0.2:7070 1"]).await;
    // A failure for one address family does not affect nodes of the other family,
    server.set(AAAA, Reply::Code(2));
    server.records(A, [a(1, 0), a(3, 0)]);
    resolved.has(&["10.0.0.1:7070 1", "10.0.0.3:7070 1"]).await;
    // and does not remove the nodes of its own family.
    server.records(AAAA, [Record { kind: AAAA, ttl: 0, data: Ipv6Addr::LOCALHOST.octets().to_vec() }]);
    resolved.has(&["10.0.0.1:7070 1", "10.0.0.3:7070 1", "[::1]:7070 1"]).await;
    server.set(A, Reply::Code(2));
    resolved.until(|status| status.source == SourceState::Failing, "failing").await;
    resolved.has(&["10.0.0.1:7070 1", "10.0.0.3:7070 1", "[::1]:7070 1"]).await;
}

#[tokio::test]
async fn a_missing_name_and_a_failing_server_keep_the_endpoints() {
    let server = DnsServer::start().await;
    server.records(SRV, [srv(1, 1, 7070, "q1.", 0)]);
    let resolved = Resolved::with(&server, Dns::services("_kylin._tcp.example.").unwrap());
    resolved.has(&["q1:7070 1"]).await;
    let mut weight = 1;
    for (reply, state) in [
        (Reply::Code(3), SourceState::Empty),
        (Reply::Records(vec![]), SourceState::Empty),
        (Reply::Records(vec![srv(0, 0, 0, ".", 0)]), SourceState::Empty),
        (Reply::Code(2), SourceState::Failing),
        (Reply::Code(5), SourceState::Failing),
        (Reply::Nothing, SourceState::Failing),
    ] {
        server.set(SRV, reply);
        resolved.until(|status| status.source == state, &format!("{state:?}")).await;
        assert_eq!(resolved.endpoints(), [format!("q1:7070 {weight}")]);
        weight += 1;
        server.records(SRV, [srv(1, weight, 7070, "q1.", 0)]);
        resolved.has(&[&format!("q1:7070 {weight}")]).await;
    }
}

#[tokio::test]
async fn hostile_responses_change_nothing() {
    let server = DnsServer::start().await;
    server.records(SRV, [srv(1, 1, 7070, "q1.", 0)]);
    let resolved = Resolved::with(&server, Dns::services("_kylin._tcp.example.").unwrap());
    resolved.has(&["q1:7070 1"]).await;

    let header = |kind: u16, length: u16| {
        let mut bytes = vec![0xc0, 12];
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes
    };
    let with = |mut bytes: Vec<u8>, rest: &[u8]| {
        bytes.extend(rest);
        bytes
    };
    let evil = "evil.".to_owned();
    let hostile = [
        ("a count of answers that is too high", Reply::Raw(65_535, header(SRV, 0))),
        ("data that ends before it should", Reply::Raw(1, with(header(SRV, 300), &[0, 1, 0, 1]))),
        ("no data", Reply::Raw(1, header(SRV, 0))),
        // The name of the response points to itself.
        ("a name without end", Reply::Raw(1, with(vec![0xc0, 38, 0, 33, 0, 1], &[0xc0, 38, 0, 0, 0, 0, 0, 0]))),
        (
            "a target that points beyond the end",
            Reply::Raw(1, with(header(SRV, 8), &[0, 1, 0, 1, 27, 158, 0xff, 0xff])),
        ),
        ("junk", Reply::Junk(vec![0xff; 700])),
        ("one byte", Reply::Junk(vec![0])),
        ("a forged id", Reply::Forged(vec![srv(1, 1, 7070, &evil, 0)])),
        ("an alias of itself", Reply::Records(vec![Record { kind: CNAME, ttl: 0, data: vec![0xc0, 12] }])),
        ("a record of another type", Reply::Records(vec![a(66, 0)])),
        ("a target that is not a host name", Reply::Records(vec![srv(1, 1, 7070, "evil\n/x.", 0)])),
        ("port 0", Reply::Records(vec![srv(1, 1, 0, &evil, 0)])),
    ];
    let mut weight = 1;
    for (what, reply) in hostile {
        server.set(SRV, reply);
        resolved.until(|status| status.source != SourceState::Current, what).await;
        assert_eq!(resolved.endpoints(), [format!("q1:7070 {weight}")], "{what}");
        weight += 1;
        server.records(SRV, [srv(1, weight, 7070, "q1.", 0)]);
        resolved.has(&[&format!("q1:7070 {weight}")]).await;
    }
}

/// nginx also asks the servers of `resolver`, of which the system knows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_asks_its_resolver_for_the_servers_with_resolve() {
    let node = RawNode::start([healthy("node")]).await;
    let (dns, port) = (DnsServer::start().await, node.address().port());
    let loopback = |last| Record { kind: A, ttl: 0, data: vec![127, 0, 0, last] };
    dns.records(A, [loopback(1)]);
    let text = |resolve: &str| {
        format!(
            "resolver {} ipv6=off valid=1s;
            upstream kylin {{ zone kylin 64k; server kylin.test:{port} {resolve}; }}
            server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://kylin; }} }}",
            dns.address
        )
    };
    // It waits for the lookups.
    let build = |text: String| {
        tokio::task::spawn_blocking(move || Site::builder(Config::parse("kylin.conf", &text).unwrap()).build())
    };
    assert!(build(text("")).await.unwrap().is_err(), "the system does not know the name");
    let site = build(text("resolve")).await.unwrap().unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).start().unwrap();
    assert_eq!(http::get(server.addresses()[0], "/", &[]).await.unwrap().text(), "node");
    let _lookups = site.start_name_lookups(Duration::from_millis(10));
    dns.records(A, [loopback(1), loopback(2)]);
    let ids = || {
        let status = site.clusters().next().unwrap().1.status();
        status.endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect::<Vec<_>>()
    };
    let both = [format!("kylin.test:{port}"), format!("kylin.test:{port}/127.0.0.2:{port}")];
    eventually(|| ids() == both, || format!("{:?}", ids())).await;
}
