//! Failures of a cluster under load. No request that may be repeated fails, and no build runs
//! twice.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::NonZero;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use kylin_lb::balance::LeastConn;
use kylin_lb::health::{HealthState, Outlier};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::probe::{HealthCheck, HealthChecker};
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, Mode};
use kylin_lb::{Cluster, Proxy};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::support::browser::basic;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{Front, endpoint, eventually};
use crate::support::health::status;
use crate::support::http::{Connection, RawResponse};
use crate::support::kylin::{Demo, sql};

/// The number of clients in each dialect.
const CLIENTS: u64 = 24;
/// The number of clients that build.
const BUILDERS: u64 = 4;
/// No healthy node takes that long, even on a busy machine. Two probes that time out take less
/// time. So when requests to a hanging node time out, it is already known that the node does
/// nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(90);

/// Three demo nodes behind a front end with common settings, but faster.
struct Drill {
    demo: Demo,
    front: Front,
    _checker: HealthChecker,
    crowd: Arc<Crowd>,
    clients: Vec<JoinHandle<()>>,
}

/// The counts of the clients' responses.
#[derive(Default)]
struct Crowd {
    over: AtomicBool,
    /// The rest of the SQL of each query, after its number.
    asks_for: Mutex<&'static str>,
    responded: AtomicU64,
    built: AtomicU64,
    broken: AtomicU64,
    /// Responses to repeatable requests that are not 200, by status and beginning.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Drill {
    async fn begin(dialect: Dialect, asks_for: &'static str) -> Self {
        let demo = Demo::start(dialect, 3).await;
        let endpoints = (0..3).map(|n| {
            let timeouts = |b: kylin_lb::backend::http1::HttpBackendBuilder| b.head_timeout(HEAD_TIMEOUT);
            endpoint(n, demo.address(n), timeouts).outlier(true)
        });
        let outlier =
            Outlier::new().consecutive(NonZeroU32::new(3)).ejection(Duration::from_millis(500), Duration::from_secs(2));
        let cluster =
            Cluster::builder().endpoints(endpoints).balancer(LeastConn::new()).outlier(outlier).panic_mode(true);
        let cluster = cluster.build().unwrap();
        let checks =
            HealthCheck::default().fall(NonZeroU32::new(2).unwrap()).rise(NonZeroU32::MIN).timeout(HEAD_TIMEOUT / 5);
        let checker = checks
            .interval(Duration::from_millis(200))
            .fast_interval(Duration::from_millis(50))
            .start(&cluster)
            .unwrap();
        let front =
            Front::serving(Proxy::builder(cluster).build().unwrap(), |server| server.threads(NonZero::new(2).unwrap()));
        let crowd = Arc::new(Crowd { asks_for: Mutex::new(asks_for), ..Crowd::default() });
        let clients = (0..CLIENTS).map(|n| {
            let (crowd, address) = (crowd.clone(), front.address());
            tokio::spawn(async move { crowd.client(n, dialect, address).await })
        });
        let clients = clients.collect();
        let drill = Drill { demo, front, _checker: checker, crowd, clients };
        drill.go_on().await;
        drill
    }

    /// Waits until each client has had some more responses, on average.
    async fn go_on(&self) {
        let goal = self.crowd.responded.load(Ordering::Relaxed) + 5 * CLIENTS;
        let there = || self.crowd.responded.load(Ordering::Relaxed) >= goal;
        eventually(there, || format!("{:?}", self.front.proxy.cluster().status())).await;
    }

    async fn until(&self, node: usize, state: HealthState) {
        let is = || status(self.front.proxy.cluster(), &node.to_string()).health == state;
        eventually(is, || format!("{state:?}: {:?}", self.front.proxy.cluster().status())).await;
    }

    /// Stops the clients, and checks the invariants of every drill. Returns the clients'
    /// observations.
    async fn end(self) -> Arc<Crowd> {
        let Drill { demo, front, crowd, clients, .. } = self;
        crowd.over.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        front.idle().await;
        let mut builds: BTreeMap<String, usize> = BTreeMap::new();
        for job in demo.metastore.jobs() {
            *builds.entry(job.target).or_default() += 1;
        }
        let twice: Vec<_> = builds.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "builds that were executed twice: {twice:?}");
        let (asked, built) = (crowd.built.load(Ordering::Relaxed), builds.len() as u64);
        assert!(built > 0 && built <= asked, "{built} builds of {asked} that were asked for");
        crowd
    }
}

impl Crowd {
    fn has_failed(&self, what: String) {
        *self.failed.lock().entry(what).or_default() += 1;
    }

    /// Returns the failures, and how many responses were truncated.
    fn failures(&self) -> (BTreeMap<String, u64>, u64) {
        (self.failed.lock().clone(), self.broken.load(Ordering::Relaxed))
    }

    async fn client(&self, n: u64, dialect: Dialect, address: std::net::SocketAddr) {
        let mut connection = None;
        for round in 0_u64.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let builds = n < BUILDERS;
            let (line, body) = match round % 4 {
                0 if builds => (build(dialect, &format!("cube-{n}-{round}")), "{}".to_owned()),
                1 => ("GET /kylin/api/projects".to_owned(), String::new()),
                _ => {
                    let asks_for = *self.asks_for.lock();
                    ("POST /kylin/api/query".to_owned(), sql(&format!("select '{n}-{round}' {asks_for}")))
                }
            };
            let is_build = builds && round % 4 == 0;
            let user = if builds { basic("ADMIN", "KYLIN") } else { basic("ANALYST", "ANALYST") };
            let request = format!(
                "{line} HTTP/1.1\r\nHost: kylin\r\nUser-Agent: test\r\nAuthorization: {user}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            match response(&mut connection, n, address, &request).await {
                Got::Whole(response) => {
                    self.responded.fetch_add(1, Ordering::Relaxed);
                    self.built.fetch_add(u64::from(is_build), Ordering::Relaxed);
                    if !is_build && response.status() != 200 {
                        self.has_failed(format!("{} {line}: {:.200}", response.status(), response.text()));
                    }
                }
                Got::Cut => {
                    connection = None;
                    self.responded.fetch_add(1, Ordering::Relaxed);
                    self.built.fetch_add(u64::from(is_build), Ordering::Relaxed);
                    self.broken.fetch_add(1, Ordering::Relaxed);
                }
                Got::Nothing(error) => {
                    connection = None;
                    self.built.fetch_add(u64::from(is_build), Ordering::Relaxed);
                    self.has_failed(format!("{line}: {error}"));
                }
            }
        }
    }
}

enum Got {
    Whole(RawResponse),
    /// The connection ended within a response, possibly in its head, because the failure of a body
    /// may overtake its head.
    Cut,
    Nothing(std::io::Error),
}

async fn response(connection: &mut Option<Connection>, n: u64, address: std::net::SocketAddr, request: &str) -> Got {
    let client = match connection {
        Some(client) => client,
        // Each client has its own address, which Linux lets it choose, because failures of one
        // client that cannot be compared eject no node.
        None => match Connection::open_from([127, 0, 1, u8::try_from(n).unwrap()].into(), address).await {
            Ok(client) => connection.insert(client.read_timeout(RESPONSE_TIMEOUT)),
            Err(error) => return Got::Nothing(error),
        },
    };
    if let Err(error) = client.send(request).await {
        return Got::Nothing(error);
    }
    let cut = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Got::Cut,
        _ => Got::Nothing(error),
    };
    let head = match client.final_head().await {
        Ok(head) => head,
        Err(error) => return cut(error),
    };
    let mut whole = Vec::new();
    let mut body = client.body(&head).unwrap();
    loop {
        match body.next().await {
            Ok(Some(part)) => whole.extend_from_slice(&part),
            Ok(None) => return Got::Whole(RawResponse { head, body: whole.into(), trailers: Vec::new() }),
            Err(error) => return cut(error),
        }
    }
}

fn build(dialect: Dialect, target: &str) -> String {
    match dialect.generation() {
        KylinVersion::V5 => format!("POST /kylin/api/models/{target}/segments"),
        _ => format!("PUT /kylin/api/cubes/{target}/build"),
    }
}

fn none() -> (BTreeMap<String, u64>, u64) {
    (BTreeMap::new(), 0)
}

in_each_dialect!(a_rolling_restart_fails_no_request);
async fn a_rolling_restart_fails_no_request(dialect: Dialect) {
    let mut drill = Drill::begin(dialect, ", sleep_ms(2)").await;
    for n in 0..3 {
        let address = drill.demo.address(n);
        drill.demo.served[n].take().unwrap().kill().await;
        drill.demo.nodes[n].forget_sessions();
        drill.go_on().await;
        drill.demo.served[n] = Some(drill.demo.nodes[n].serve(address).await.unwrap());
        let before = drill.demo.nodes[n].stats().queries;
        drill.until(n, HealthState::Healthy).await;
        drill.demo.nodes[n].wait_until(|stats| stats.queries > before).await.unwrap();
        drill.go_on().await;
    }
    assert_eq!(drill.end().await.failures(), none());
}

in_each_dialect!(a_node_that_hangs_fails_no_request);
/// Neither its clients nor the probes hear from it. Requests that wait for it go to another node
/// when their time is over, because it is known by then that the node does nothing for them.
async fn a_node_that_hangs_fails_no_request(dialect: Dialect) {
    let drill = Drill::begin(dialect, ", sleep_ms(2)").await;
    drill.demo.nodes[1].faults().inject(FaultScope::Everything, Fault::Stall);
    drill.until(1, HealthState::Unhealthy).await;
    // Clients wait for it as long as for any response.
    eventually(|| drill.demo.nodes[1].stats().in_flight == 0, || format!("{:?}", drill.demo.nodes[1])).await;
    drill.go_on().await;
    drill.demo.nodes[1].faults().clear();
    let before = drill.demo.nodes[1].stats().queries;
    drill.demo.nodes[1].wait_until(|stats| stats.queries > before).await.unwrap();
    drill.go_on().await;
    assert_eq!(drill.end().await.failures(), none());
}

in_each_dialect!(a_node_that_responds_with_pages_of_500_fails_no_request);
async fn a_node_that_responds_with_pages_of_500_fails_no_request(dialect: Dialect) {
    let status = if is_v5(dialect) { StatusCode::BAD_GATEWAY } else { StatusCode::INTERNAL_SERVER_ERROR };
    let drill = Drill::begin(dialect, "").await;
    drill.demo.nodes[1].faults().inject(FaultScope::Queries, Fault::Html(status));
    drill.until(1, HealthState::Ejected).await;
    drill.go_on().await;
    drill.go_on().await;
    drill.demo.nodes[1].faults().clear();
    let before = drill.demo.nodes[1].stats().queries;
    drill.demo.nodes[1].wait_until(|stats| stats.queries > before + 20).await.unwrap();
    assert_eq!(drill.end().await.failures(), none());
}

in_each_dialect!(a_reset_within_a_response_reaches_the_client);
/// A node may have executed the query, so it is not retried. The client must see that the response
/// is truncated: by a 502 if no byte of the response was sent yet, otherwise by the end of its
/// connection.
async fn a_reset_within_a_response_reaches_the_client(dialect: Dialect) {
    for fault in [Fault::ResetAfter(1024), Fault::TruncateAfter(1024)] {
        let drill = Drill::begin(dialect, ", repeat_bytes(20000)").await;
        drill.demo.nodes[1].faults().inject(FaultScope::Queries, fault);
        drill.until(1, HealthState::Ejected).await;
        drill.go_on().await;
        let spoilt = drill.demo.nodes[1].stats().queries;
        drill.demo.nodes[1].faults().clear();
        let crowd = drill.end().await;
        let (failed, broken) = crowd.failures();
        assert!(failed.keys().all(|failure| failure.contains("ended early")), "{failed:?}");
        let seen = broken + failed.values().sum::<u64>();
        assert!(seen >= 3 && seen <= spoilt, "{seen} of {spoilt}");
    }
}

in_each_dialect!(an_unknown_job_node_fails_no_request);
async fn an_unknown_job_node_fails_no_request(dialect: Dialect) {
    let drill = Drill::begin(dialect, "").await;
    drill.demo.nodes[1].set_mode(Mode::Job);
    let refused = drill.demo.nodes[1].stats().requests;
    drill.demo.nodes[1].wait_until(|stats| stats.requests > refused + 100).await.unwrap();
    assert_eq!(status(drill.front.proxy.cluster(), "1").health, HealthState::Healthy, "it is no worse a node");
    assert_eq!(drill.end().await.failures(), none());
}

in_each_dialect!(an_unavailable_metastore_ejects_no_node);
/// No node fails, none is ejected, and the client gets Kylin's response.
async fn an_unavailable_metastore_ejects_no_node(dialect: Dialect) {
    let drill = Drill::begin(dialect, "").await;
    drill.demo.metastore.set_down(true);
    drill.go_on().await;
    drill.go_on().await;
    for endpoint in drill.front.proxy.cluster().status().endpoints {
        assert_eq!((endpoint.failed, endpoint.ejected, endpoint.health), (0, false, HealthState::Healthy));
    }
    drill.demo.metastore.set_down(false);
    // The clients that had to see failures have seen them; from now on, everything works.
    drill.go_on().await;
    drill.crowd.failed.lock().retain(|what, _| !what.starts_with("500 ") || !what.contains(r#""code":"999""#));
    drill.go_on().await;
    assert_eq!(drill.end().await.failures(), none(), "all errors were Kylin's own");
}

in_each_dialect!(a_node_that_closes_its_connections_fails_no_request);
async fn a_node_that_closes_its_connections_fails_no_request(dialect: Dialect) {
    let drill = Drill::begin(dialect, "").await;
    drill.demo.nodes[1].faults().inject(FaultScope::Queries, Fault::Close);
    drill.until(1, HealthState::Ejected).await;
    drill.go_on().await;
    drill.demo.nodes[1].faults().clear();
    drill.go_on().await;
    assert_eq!(drill.end().await.failures(), none());
}
