//! Nodes that register in a real ZooKeeper, as each generation of Kylin does, and a ZooKeeper that dies.

use std::collections::BTreeMap;
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
    ZooKeeperServer, create, kylin_3_0, kylin_3_1, kylin_5, make_folder, require_zookeeper,
};

/// How long a change that must come may take.
const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_millis(200) };

/// A cluster that follows a ZooKeeper.
struct Followed {
    cluster: Cluster<Nowhere>,
    follow: DiscoveryHandle,
}

impl Followed {
    fn by(source: ZooKeeper) -> Self {
        let cluster = Cluster::builder().build().unwrap();
        let follow = discovery::watch_with(&cluster, source, |found| found.endpoint(Nowhere), QUICK);
        Followed { cluster, follow }
    }

    /// Endpoints by id: roles and, where it is not ready, what else.
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
        let come = self.follow.wait_until(|_| self.endpoints() == expected);
        let came = timeout(PATIENCE, come).await;
        assert!(came.is_ok(), "{:?} did not become {expected:?}: {:?}", self.endpoints(), self.follow.status());
    }

    async fn is(&self, state: SourceState) {
        let came = timeout(PATIENCE, self.follow.wait_until(|status| status.source == state)).await;
        assert!(came.is_ok(), "did not become {state:?}: {:?}", self.follow.status());
    }
}

fn source(server: &ZooKeeperServer) -> ZooKeeper {
    let source = ZooKeeper::parse(&format!("{}/kylin/prod", server.address())).unwrap();
    source.session_timeout(Duration::from_secs(2))
}

async fn register(client: &Client, path: &str, data: &Value) {
    create(client, &format!("/kylin/prod/{path}"), data.to_string().as_bytes()).await;
}

async fn change(client: &Client, path: &str, data: &Value) {
    client.set_data(&format!("/kylin/prod/{path}"), data.to_string().as_bytes(), None).await.unwrap();
}

#[tokio::test]
async fn nodes_of_kylin_3_0_3_1_and_5_come_and_leave_with_their_session() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    // Before the first node there are no folders at all.
    let followed = Followed::by(source(&server));
    followed.is(SourceState::Empty).await;

    let old = server.client().await;
    register(&old, "service/kylin/8f5b-1", &kylin_3_0("k30:7070", "all")).await;
    followed.has("k30:7070 all").await;
    let four = server.client().await;
    register(&four, "service/cluster_servers/8f5b-2", &kylin_3_1("k31:7070", "query")).await;
    followed.has("k30:7070 all, k31:7070 query").await;
    let five = server.mortal_client().await;
    register(&five, "services/query/8f5b-3", &kylin_5("k5q:7070", "query", "UP")).await;
    register(&five, "services/job/8f5b-4", &kylin_5("k5j:7070", "job", "UP")).await;
    followed.has("k30:7070 all, k31:7070 query, k5j:7070 job, k5q:7070 query").await;

    // A session that is closed, and one that times out because its process is dead.
    drop(old);
    followed.has("k31:7070 query, k5j:7070 job, k5q:7070 query").await;
    drop(five);
    followed.has("k31:7070 query").await;
    // The last node that leaves stays in the cluster: it may be ZooKeeper that errs.
    drop(four);
    followed.is(SourceState::Empty).await;
    followed.has("k31:7070 query").await;
}

#[tokio::test]
async fn a_new_node_is_in_the_cluster_within_a_second() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let followed = Followed::by(source(&server));
    followed.is(SourceState::Empty).await;
    let client = server.client().await;
    let mut taken = Vec::new();
    for node in 0..9 {
        let begun = SystemClock.now();
        let data = kylin_3_1(&format!("k{node}:7070"), "query");
        register(&client, &format!("service/cluster_servers/{node}"), &data).await;
        timeout(PATIENCE, followed.follow.wait_until(|status| status.endpoints == node + 1)).await.unwrap();
        taken.push(SystemClock.now() - begun);
    }
    // Of the middle one, for a machine that does other things as well.
    taken.sort();
    assert!(taken[4] < Duration::from_secs(1), "{taken:?}");
}

#[tokio::test]
async fn a_node_changes_its_role_drains_and_registers_anew() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k4:7070", "all")).await;
    register(&client, "services/all/1", &kylin_5("k5:7070", "all", "UP")).await;
    let followed = Followed::by(source(&server));
    followed.has("k4:7070 all, k5:7070 all").await;

    change(&client, "service/cluster_servers/1", &kylin_3_1("k4:7070", "job")).await;
    followed.has("k4:7070 job, k5:7070 all").await;
    change(&client, "services/all/1", &kylin_5("k5:7070", "all", "OUT_OF_SERVICE")).await;
    followed.has("k4:7070 job, k5:7070 all Drain").await;
    change(&client, "services/all/1", &kylin_5("k5:7070", "all", "UP")).await;
    followed.has("k4:7070 job, k5:7070 all").await;

    // The node restarts while the session of its old process goes on: two registrations, one node, as it was.
    let told = followed.follow.status().told;
    let again = server.client().await;
    register(&again, "services/all/2", &kylin_5("k5:7070", "all", "UP")).await;
    client.delete("/kylin/prod/services/all/1", None).await.unwrap();
    register(&again, "service/cluster_servers/2", &kylin_3_1("k6:7070", "query")).await;
    followed.has("k4:7070 job, k5:7070 all, k6:7070 query").await;
    assert!(followed.follow.status().told > told);

    // A registration whose data is replaced by one that makes no sense is one node less, and mends.
    change(&again, "services/all/2", &Value::Null).await;
    followed.has("k4:7070 job, k6:7070 query").await;
    change(&again, "services/all/2", &kylin_5("k5:7070", "all", "UP")).await;
    followed.has("k4:7070 job, k5:7070 all, k6:7070 query").await;
}

#[tokio::test]
async fn what_is_no_registration_is_skipped_and_the_leader_of_jobs_is_told() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let client = server.client().await;
    let folder = "/kylin/prod/service/cluster_servers";
    let long = vec![b' '; 100 * 1024];
    let deep = "[".repeat(60_000);
    for (n, data) in
        [&b""[..], b"{", b"\xff\xfe", b"{\"address\":\"a b\",\"port\":1}", &long, deep.as_bytes()].iter().enumerate()
    {
        create(&client, &format!("{folder}/bad-{n}"), data).await;
    }
    register(&client, "service/cluster_servers/mode", &kylin_3_1("what:7070", "what")).await;
    register(&client, "service/cluster_servers/stream", &kylin_3_1("stream:7070", "stream_coordinator")).await;
    register(&client, "service/cluster_servers/good", &kylin_3_1("good:7070", "query,stream_coordinator")).await;
    make_folder(&client, "/kylin/prod/services/query/a-folder/deep").await;

    let source = source(&server);
    let leader = source.leader();
    let followed = Followed::by(source);
    followed.has("good:7070 query").await;
    assert_eq!(leader.address(), None);

    let wait = |address: &'static str| {
        let leader = leader.clone();
        async move { timeout(PATIENCE, leader.wait_until(|now| now == Some(address))).await.expect(address) }
    };
    create(&client, "/kylin/prod/job_engine/leader/_c_1a-lock-0000000007", b"job2:7070").await;
    wait("job2:7070").await;
    create(&client, "/kylin/prod/job_engine/leader/_c_2b-lock-0000000003", b"job1:7070").await;
    wait("job1:7070").await;
    client.delete("/kylin/prod/job_engine/leader/_c_2b-lock-0000000003", None).await.unwrap();
    wait("job2:7070").await;
    followed.has("good:7070 query").await;
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
    let stranger = Followed::by(source());
    stranger.is(SourceState::Failing).await;
    let error = stranger.follow.status().error.unwrap();
    assert!(error.contains("/secret/prod refuses") && error.contains("not authorized"), "{error}");

    let source = source().digest("ADMIN", "KYLIN");
    assert!(!format!("{source:?}").contains("KYLIN"), "{source:?}");
    let friend = Followed::by(source);
    friend.has("k5:7070 query").await;
}

#[tokio::test]
async fn a_zookeeper_that_comes_back_without_the_nodes_empties_no_cluster() {
    require_zookeeper!();
    let mut server = ZooKeeperServer::start().await;
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k1:7070", "all")).await;
    register(&client, "service/cluster_servers/2", &kylin_3_1("k2:7070", "all")).await;
    let patient = Followed::by(source(&server).grace(PATIENCE * 10));
    let hasty = Followed::by(source(&server).grace(Duration::ZERO));
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

    // One of the nodes is back, with news that show that it was seen. The other may still be on its way.
    let client = server.client().await;
    register(&client, "service/cluster_servers/1", &kylin_3_1("k1:7070", "job")).await;
    patient.has("k1:7070 job, k2:7070 all").await;
    // Without a grace it is believed.
    hasty.has("k1:7070 job").await;
    patient.has("k1:7070 job, k2:7070 all").await;
    register(&client, "service/cluster_servers/2", &kylin_3_1("k2:7070", "query")).await;
    patient.has("k1:7070 job, k2:7070 query").await;
}

#[tokio::test]
async fn a_server_that_is_no_zookeeper_is_an_error_and_is_tried_again() {
    // An answer to a connect request that is nonsense, one that never ends, one that is cut, none.
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
        let source = ZooKeeper::parse(&address.to_string()).unwrap().session_timeout(Duration::from_millis(200));
        let followed = Followed::by(source);
        let again = followed.follow.wait_until(|status| status.failures > 2);
        let status = timeout(PATIENCE, again).await.unwrap_or_else(|_| panic!("{:?}", followed.follow.status()));
        assert_eq!((status.source, followed.endpoints().len()), (SourceState::Failing, 0));
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
    let follow = discovery::watch_with(&cluster, source(&server), DiscoveredNode::http, QUICK);
    let wait = |what: &'static str, test: fn(&discovery::DiscoveryStatus) -> bool| {
        let follow = &follow;
        async move {
            let came = timeout(PATIENCE, follow.wait_until(test)).await;
            assert!(came.is_ok(), "{what}: {:?}", follow.status());
        }
    };
    wait("three nodes", |status| status.endpoints == 3).await;
    let front = Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(1));

    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..16 {
        load.spawn(requests(front.address(), Arc::clone(&over), Arc::clone(&done)));
    }
    // Each step lasts until every node, and the front end, has done some more work.
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
        wait("ZooKeeper is lost", |status| status.source == SourceState::Failing).await;
        work(&nodes[..3]).await;
        let status = follow.status();
        assert_eq!(status.source, SourceState::Failing, "round {round}: it is said that ZooKeeper is gone");
        assert_eq!(status.endpoints, 3, "round {round}: the last known nodes are kept");
        server.restart().await;
        wait("ZooKeeper is followed again", |status| status.source == SourceState::Current).await;
        work(&nodes[..3]).await;
    }
    register(&client, "service/cluster_servers/3", &entry(3)).await;
    wait("a node that came after all that", |status| status.endpoints == 4).await;
    work(&nodes).await;

    over.store(true, Ordering::SeqCst);
    while let Some(client) = load.join_next().await {
        let failed = client.unwrap();
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), done.load(Ordering::SeqCst), failed[0]);
    }
    front.idle().await;
}

/// GETs and POSTs until all is over; returns what failed.
async fn requests(front: std::net::SocketAddr, over: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
    let mut connection = Connection::open(front).await.unwrap();
    let mut failed = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let get = "GET /demo/bytes?n=200 HTTP/1.1\r\nHost: kylin\r\n\r\n";
        let post = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: 3\r\n\r\nabc";
        for request in [get, post] {
            connection.send(request).await.unwrap();
            let answer = connection.answer().await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
            if answer.status() != 200 {
                failed.push(format!("{} {}", answer.status(), answer.text()));
            }
        }
    }
    failed
}
