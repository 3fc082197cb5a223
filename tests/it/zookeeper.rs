//! Nodes that register in a real ZooKeeper like each generation of Kylin, and outages of ZooKeeper.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::discovery::zookeeper::Layout;
use kylin_lb::discovery::{self, Backoff, DiscoveredNode, DiscoveryHandle, SourceState, ZooKeeper};
use kylin_lb::endpoint::AdminState;
use kylin_lb::{Cluster, Proxy};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::cluster::Nowhere;
use crate::support::front::{Front, demo};
use crate::support::http::Connection;
use crate::support::zookeeper::{
    ZooKeeperServer, create, create_parent, kylin_3_0, kylin_3_1, kylin_5, require_zookeeper,
};

/// How long the tests wait for an expected change.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster that watches a ZooKeeper.
struct Watched {
    cluster: Cluster<Nowhere>,
    handle: DiscoveryHandle,
}

impl Watched {
    fn with(source: ZooKeeper) -> Self {
        let cluster = Cluster::builder().build().unwrap();
        let handle = discovery::watch_with(&cluster, source, |node| node.endpoint(Nowhere), quick());
        Watched { cluster, handle }
    }

    /// Returns the roles of each endpoint by its id, and its state if it is not ready.
    fn endpoints(&self) -> BTreeMap<String, String> {
        let shown =
            |admin_state| if admin_state == AdminState::Ready { String::new() } else { format!(" {admin_state:?}") };
        let endpoints = self.cluster.status().endpoints;
        endpoints.iter().map(|e| (e.id.to_string(), format!("{}{}", e.roles, shown(e.admin_state)))).collect()
    }

    /// Waits until these are the endpoints: `q1:7070 query`, separated by commas.
    async fn has(&self, expected: &str) {
        let expected: BTreeMap<String, String> = expected
            .split(", ")
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| endpoint.split_once(' ').unwrap())
            .map(|(id, rest)| (id.to_owned(), rest.to_owned()))
            .collect();
        let reached = self.handle.wait_until(|_| self.endpoints() == expected);
        let reached = timeout(TIMEOUT, reached).await;
        assert!(reached.is_ok(), "{:?} did not become {expected:?}: {:?}", self.endpoints(), self.handle.status());
    }

    async fn is(&self, state: SourceState) {
        let reached = timeout(TIMEOUT, self.handle.wait_until(|status| status.source == state)).await;
        assert!(reached.is_ok(), "did not become {state:?}: {:?}", self.handle.status());
    }
}

/// Short delays after failures.
fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(200)).unwrap()
}

fn source(server: &ZooKeeperServer) -> ZooKeeper {
    let source = ZooKeeper::parse(&format!("{}/kylin/prod", server.address())).unwrap();
    source.session_timeout(Duration::from_secs(2)).unwrap()
}

async fn register(client: &Client, path: &str, data: &Value) {
    create(client, &format!("/kylin/prod/{path}"), data.to_string().as_bytes()).await;
}

async fn change(client: &Client, path: &str, data: &Value) {
    client.set_data(&format!("/kylin/prod/{path}"), data.to_string().as_bytes(), None).await.unwrap();
}

#[tokio::test]
async fn nodes_of_kylin_3_0_3_1_and_5_join_and_leave_with_their_session() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    // The parent znodes do not exist before the first node.
    let watched = Watched::with(source(&server));
    watched.is(SourceState::Empty).await;

    let old = server.client().await;
    register(&old, "service/kylin/8f5b-1", &kylin_3_0("k30:7070", "all")).await;
    watched.has("k30:7070 all").await;
    let four = server.client().await;
    register(&four, "service/cluster_servers/8f5b-2", &kylin_3_1("k31:7070", "query")).await;
    watched.has("k30:7070 all, k31:7070 query").await;
    let five = server.mortal_client().await;
    register(&five, "services/query/8f5b-3", &kylin_5("k5q:7070", "query", "UP")).await;
    register(&five, "services/job/8f5b-4", &kylin_5("k5j:7070", "job", "UP")).await;
    watched.has("k30:7070 all, k31:7070 query, k5j:7070 job, k5q:7070 query").await;

    // One session is closed; another times out because its process was killed.
    drop(old);
    watched.has("k31:7070 query, k5j:7070 job, k5q:7070 query").await;
    drop(five);
    watched.has("k31:7070 query").await;
    // The last node stays in the cluster, because an empty list is not applied.
    drop(four);
    watched.is(SourceState::Empty).await;
    watched.has("k31:7070 query").await;
}

#[tokio::test]
async fn a_new_node_is_in_the_cluster_soon() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let watched = Watched::with(source(&server));
    watched.is(SourceState::Empty).await;
    let client = server.client().await;
    let mut taken = Vec::new();
    for node in 0..9 {
        let data = kylin_3_1(&format!("k{node}:7070"), "query");
        register(&client, &format!("service/cluster_servers/{node}"), &data).await;
        let started = SystemClock.now();
        timeout(TIMEOUT, watched.handle.wait_until(|status| status.endpoints == node + 1)).await.unwrap();
        taken.push(SystemClock.now() - started);
    }
    // A watch reports it, and not the end of the session or a timer. The machine may be busy.
    taken.sort();
    assert!(taken[4] < Duration::from_secs(5), "{taken:?}");
}

#[tokio::test]
async fn a_node_changes_its_role_drains_and_registers_again() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k4:7070", "all")).await;
    register(&client, "services/all/1", &kylin_5("k5:7070", "all", "UP")).await;
    let watched = Watched::with(source(&server));
    watched.has("k4:7070 all, k5:7070 all").await;

    change(&client, "service/cluster_servers/1", &kylin_3_1("k4:7070", "job")).await;
    watched.has("k4:7070 job, k5:7070 all").await;
    change(&client, "services/all/1", &kylin_5("k5:7070", "all", "OUT_OF_SERVICE")).await;
    watched.has("k4:7070 job, k5:7070 all Drain").await;
    change(&client, "services/all/1", &kylin_5("k5:7070", "all", "UP")).await;
    watched.has("k4:7070 job, k5:7070 all").await;

    // The node restarts while the session of its old process lasts, so two registrations are one
    // node.
    let updates = watched.handle.status().updates;
    let again = server.client().await;
    register(&again, "services/all/2", &kylin_5("k5:7070", "all", "UP")).await;
    client.delete("/kylin/prod/services/all/1", None).await.unwrap();
    register(&again, "service/cluster_servers/2", &kylin_3_1("k6:7070", "query")).await;
    watched.has("k4:7070 job, k5:7070 all, k6:7070 query").await;
    assert!(watched.handle.status().updates > updates);

    // Invalid data removes the node until it is valid again.
    change(&again, "services/all/2", &Value::Null).await;
    watched.has("k4:7070 job, k6:7070 query").await;
    change(&again, "services/all/2", &kylin_5("k5:7070", "all", "UP")).await;
    watched.has("k4:7070 job, k5:7070 all, k6:7070 query").await;
}

#[tokio::test]
async fn invalid_registrations_are_skipped_and_the_leader_of_jobs_is_known() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let client = server.client().await;
    let parent = "/kylin/prod/service/cluster_servers";
    let long = vec![b' '; 100 * 1024];
    let deep = "[".repeat(60_000);
    for (n, data) in
        [&b""[..], b"{", b"\xff\xfe", b"{\"address\":\"a b\",\"port\":1}", &long, deep.as_bytes()].iter().enumerate()
    {
        create(&client, &format!("{parent}/bad-{n}"), data).await;
    }
    register(&client, "service/cluster_servers/mode", &kylin_3_1("what:7070", "what")).await;
    register(&client, "service/cluster_servers/stream", &kylin_3_1("stream:7070", "stream_coordinator")).await;
    register(&client, "service/cluster_servers/good", &kylin_3_1("good:7070", "query,stream_coordinator")).await;
    create_parent(&client, "/kylin/prod/services/query/a-folder/deep").await;

    let source = source(&server);
    let leader = source.leader();
    let watched = Watched::with(source);
    watched.has("good:7070 query").await;
    assert_eq!(leader.address(), None);

    let wait = |address: &'static str| {
        let leader = leader.clone();
        async move { timeout(TIMEOUT, leader.wait_until(|now| now == Some(address))).await.expect(address) }
    };
    create(&client, "/kylin/prod/job_engine/leader/_c_1a-lock-0000000007", b"job2:7070").await;
    wait("job2:7070").await;
    create(&client, "/kylin/prod/job_engine/leader/_c_2b-lock-0000000003", b"job1:7070").await;
    wait("job1:7070").await;
    client.delete("/kylin/prod/job_engine/leader/_c_2b-lock-0000000003", None).await.unwrap();
    wait("job2:7070").await;
    watched.has("good:7070 query").await;
}

#[tokio::test]
async fn registrations_behind_an_acl_are_read_with_credentials_only() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let client = server.connect(Client::connector().with_auth("digest", b"ADMIN:KYLIN")).await;
    let acl = [Acl::new(Permission::ALL, AuthId::authed())];
    let folder = CreateMode::Persistent.with_acls(Acls::creator_all());
    client.mkdir("/secret/prod/services/query", &folder).await.unwrap();
    let node = kylin_5("k5:7070", "query", "UP").to_string();
    let options = CreateMode::Ephemeral.with_acls(Acls::new(&acl));
    client.create("/secret/prod/services/query/1", node.as_bytes(), &options).await.unwrap();

    let source = || ZooKeeper::parse(&format!("{}/secret/prod", server.address())).unwrap().layouts([Layout::Kylin5]);
    let stranger = Watched::with(source());
    stranger.is(SourceState::Failing).await;
    let error = stranger.handle.status().error.unwrap();
    assert!(error.contains("/secret/prod denies access") && error.contains("not authorized"), "{error}");

    let source = source().digest("ADMIN", "KYLIN");
    assert!(!format!("{source:?}").contains("KYLIN"), "{source:?}");
    let friend = Watched::with(source);
    friend.has("k5:7070 query").await;
}

#[tokio::test]
async fn a_zookeeper_that_lost_its_registrations_keeps_the_endpoints() {
    require_zookeeper!();
    let mut server = ZooKeeperServer::start().await;
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k1:7070", "all")).await;
    register(&client, "service/cluster_servers/2", &kylin_3_1("k2:7070", "all")).await;
    let patient = Watched::with(source(&server).grace(TIMEOUT * 10));
    let hasty = Watched::with(source(&server).grace(Duration::ZERO));
    patient.has("k1:7070 all, k2:7070 all").await;
    hasty.has("k1:7070 all, k2:7070 all").await;

    server.kill();
    drop(client);
    patient.is(SourceState::Failing).await;
    hasty.is(SourceState::Failing).await;
    server.wipe();
    server.restart().await;
    hasty.is(SourceState::Empty).await;
    hasty.has("k1:7070 all, k2:7070 all").await;

    // One node is back with another role. The other may be about to reconnect.
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k1:7070", "job")).await;
    patient.has("k1:7070 job, k2:7070 all").await;
    // Without a grace period the other node is removed.
    hasty.has("k1:7070 job").await;
    patient.has("k1:7070 job, k2:7070 all").await;
    register(&client, "service/cluster_servers/2", &kylin_3_1("k2:7070", "query")).await;
    patient.has("k1:7070 job, k2:7070 query").await;
}

#[tokio::test]
async fn a_server_that_is_not_zookeeper_is_an_error_and_is_retried() {
    // Responses to a connect request: invalid, endless, truncated, none.
    let nonsense: [&[u8]; 4] = [&[0xff; 64], &[0x7f, 0xff, 0xff, 0xff, 0, 0], &[0, 0, 0, 37, 0, 0], &[]];
    for bytes in nonsense {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await;
                kept.push(stream);
            }
        });
        let source = ZooKeeper::parse(&address.to_string()).unwrap().session_timeout(Duration::from_secs(1)).unwrap();
        let watched = Watched::with(source);
        let failed = watched.handle.wait_until(|status| status.failures > 2);
        let status = timeout(TIMEOUT, failed).await.unwrap_or_else(|_| panic!("{:?}", watched.handle.status()));
        assert_eq!((status.source, watched.endpoints().len()), (SourceState::Failing, 0));
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_that_is_killed_and_restarted_under_load_fails_no_request() {
    require_zookeeper!();
    let mut server = ZooKeeperServer::start().await;
    let client = server.client().await;
    let mut nodes = Vec::new();
    for name in ["q1", "q2", "q3", "q4"] {
        nodes.push(demo(name).await);
    }
    let entry = |n: usize| kylin_3_1(&nodes[n].1.addr().to_string(), "all");
    for n in 0..3 {
        register(&client, &format!("service/cluster_servers/{n}"), &entry(n)).await;
    }
    let cluster = Cluster::builder().build().unwrap();
    let handle = discovery::watch_with(&cluster, source(&server), DiscoveredNode::http, quick());
    let wait = |what: &'static str, test: fn(&discovery::DiscoveryStatus) -> bool| {
        let handle = &handle;
        async move {
            let reached = timeout(TIMEOUT, handle.wait_until(test)).await;
            assert!(reached.is_ok(), "{what}: {:?}", handle.status());
        }
    };
    wait("three nodes", |status| status.endpoints == 3).await;
    let front =
        Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(NonZero::new(1).unwrap()));

    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..16 {
        load.spawn(requests(front.address(), Arc::clone(&over), Arc::clone(&done)));
    }
    // Each step lasts until every node has served 50 more requests.
    let work = async |nodes: &[_]| {
        for (node, _) in nodes {
            let node: &kylin_lb::testing::KylinNode = node;
            let before = node.stats().requests;
            node.wait_until(|stats| stats.requests > before + 50).await.unwrap();
        }
    };
    work(&nodes[..3]).await;
    for round in 0..3 {
        server.kill();
        wait("ZooKeeper is unavailable", |status| status.source == SourceState::Failing).await;
        work(&nodes[..3]).await;
        let status = handle.status();
        assert_eq!(status.source, SourceState::Failing, "round {round}: the status reports the outage");
        assert_eq!(status.endpoints, 3, "round {round}: the last known nodes are kept");
        server.restart().await;
        wait("ZooKeeper is available again", |status| status.source == SourceState::Current).await;
        work(&nodes[..3]).await;
    }
    register(&client, "service/cluster_servers/3", &entry(3)).await;
    wait("a node that joins afterwards", |status| status.endpoints == 4).await;
    work(&nodes).await;

    over.store(true, Ordering::SeqCst);
    while let Some(client) = load.join_next().await {
        let failed = client.unwrap();
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), done.load(Ordering::SeqCst), failed[0]);
    }
    front.idle().await;
}

/// Sends GET and POST requests until `over` is set. Returns the failures.
async fn requests(front: std::net::SocketAddr, over: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
    let mut connection = Connection::open(front).await.unwrap();
    let mut failed = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let get = "GET /demo/bytes?n=200 HTTP/1.1\r\nHost: kylin\r\n\r\n";
        let post = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: 3\r\n\r\nabc";
        for request in [get, post] {
            connection.send(request).await.unwrap();
            let response = connection.response().await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
            if response.status() != 200 {
                failed.push(format!("{} {}", response.status(), response.text()));
            }
        }
    }
    failed
}
