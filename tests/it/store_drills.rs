//! The session store is killed under load. No user notices it, neither during the outage nor
//! afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{Affinity, Secret, Sessions, SessionsBuilder};
use tokio::task::JoinHandle;

use crate::support::front::{Front, eventually};
use crate::support::http::{Connection, RawResponse};
use crate::support::login::{ADMIN, Nodes, node_of};
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::redis::{Redis, RedisCluster, redis_installed};
use crate::support::sessions::front_end;

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_redis_crash_that_loses_all_sessions() {
    if !redis_installed() {
        return;
    }
    let mut server = Redis::start(&[]).await;
    let mut drill = Drill::start(format!("redis://{}", server.address())).await;
    server.kill();
    drill.survives_the_outage().await;
    server.restart().await;
    drill.recovers(|| number(&server.cli(&["dbsize"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_the_death_of_a_redis_cluster_master() {
    if !redis_installed() {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let mut drill = Drill::start(cluster.url()).await;
    let killed = cluster.master_of("any", &cluster.nodes[0]);
    // Replication is asynchronous. A record is safe once a replica has it.
    assert_eq!(cluster.node(killed).cli(&["wait", "1", "5000"]), "1");
    cluster.node(killed).kill();
    drill.survives_a_partial_outage().await;
    let is_master = |node: &&Redis| node.port() != killed && node.cli(&["role"]).starts_with("master");
    drill.recovers(|| cluster.nodes.iter().filter(is_master).map(|node| number(&node.cli(&["dbsize"]))).sum()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_mariadb_crash() {
    if !mariadb_installed() {
        return;
    }
    let mut server = MariaDb::start(&[]).await;
    let mut drill = Drill::start(server.url()).await;
    server.kill();
    drill.survives_the_outage().await;
    server.restart().await;
    drill.recovers(|| number(&server.sql("SELECT COUNT(*) FROM kylin_lb_sessions"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_memcached_crash_that_loses_all_sessions() {
    if !memcached_installed() {
        return;
    }
    let mut server = Memcached::start(&[]).await;
    let mut drill = Drill::start(format!("memcached://{}", server.address())).await;
    server.kill();
    drill.survives_the_outage().await;
    server.restart().await;
    drill.recovers(|| number(&server.stat("curr_items"))).await;
}

/// The restart is over before any operation fails, because the pool replaces the lost connection.
#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_cache_restart_between_operations() {
    if !memcached_installed() {
        return;
    }
    let mut server = Memcached::start(&[]).await;
    let url = format!("memcached://{}", server.address());
    let nodes = Nodes::of(KylinVersion::V4, 3).await;
    let sessions = sessions(&url).staleness(Duration::ZERO).build().unwrap();
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(User::log_in(front.address()).await);
    }
    server.kill();
    server.restart().await;
    for user in &mut users {
        assert_eq!(user.query().await.map(|response| response.status()).unwrap(), 200);
    }
    assert_eq!(number(&server.stat("curr_items")), USERS);
    assert!(sessions.is_store_available());
}

/// The number of users who query all the time.
const USERS: usize = 64;
/// The number of users who log in during the outage.
const LATE_USERS: usize = 32;
/// The deadline of a store operation.
const DEADLINE: Duration = Duration::from_millis(500);
/// The time between two queries of a user.
const THINK_TIME: Duration = Duration::from_millis(10);

/// Users at a front end whose store is about to fail, with nodes that share nothing.
struct Drill {
    url: String,
    nodes: Nodes,
    sessions: Sessions,
    front: Front,
    tally: Arc<Tally>,
    users: Vec<JoinHandle<User>>,
}

/// The outcomes of all queries.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    responses: AtomicU64,
    /// The number of failed queries, by reason.
    failures: Mutex<BTreeMap<String, usize>>,
}

impl Drill {
    /// Logs all users in and lets them query.
    async fn start(url: String) -> Self {
        let nodes = Nodes::of(KylinVersion::V4, 3).await;
        // A short staleness, which causes many store operations, and a deadline that a busy machine
        // can meet.
        let sessions = sessions(&url).staleness(Duration::from_millis(100)).deadline(DEADLINE).build().unwrap();
        let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
        let mut drill = Drill { url, nodes, sessions, front, tally: Arc::default(), users: Vec::new() };
        drill.log_in(USERS).await;
        drill.wait_for_responses(10 * USERS as u64).await;
        drill
    }

    async fn log_in(&mut self, users: usize) {
        for _ in 0..users {
            let user = User::log_in(self.front.address()).await;
            self.users.push(tokio::spawn(user.work(self.tally.clone())));
        }
    }

    /// Waits for this many more responses.
    async fn wait_for_responses(&self, more: u64) {
        let until = self.tally.responses.load(Ordering::SeqCst) + more;
        let there = || self.tally.responses.load(Ordering::SeqCst) >= until;
        eventually(there, || format!("{:?}", self.tally)).await;
    }

    /// Checks that users keep working after the store was killed.
    async fn survives_the_outage(&mut self) {
        eventually(|| !self.sessions.is_store_available(), || "the outage was not detected".into()).await;
        self.log_in(LATE_USERS).await;
        self.wait_for_responses(2000).await;
        assert!(
            !self.sessions.is_store_available() && self.sessions.pending_writes() >= LATE_USERS,
            "{:?}",
            self.sessions
        );
    }

    /// Checks that users keep working after a part of the store was killed.
    async fn survives_a_partial_outage(&mut self) {
        self.log_in(LATE_USERS).await;
        self.wait_for_responses(2000).await;
    }

    /// Checks that everything is in order after the store recovered. `count` returns its number of
    /// records.
    async fn recovers(self, mut count: impl FnMut() -> usize) {
        let is_recovered = || self.sessions.is_store_available() && self.sessions.pending_writes() == 0;
        eventually(is_recovered, || format!("{:?}", self.sessions)).await;
        self.wait_for_responses(1000).await;
        eventually(|| count() == USERS + LATE_USERS, || "a record of each session is in the store".into()).await;
        self.tally.stop.store(true, Ordering::SeqCst);
        let mut users = Vec::new();
        for user in self.users {
            users.push(user.await.unwrap());
        }
        assert_eq!(*self.tally.failures.lock().unwrap(), BTreeMap::new(), "of {:?}", self.tally.responses);

        // A new front end has only the sessions in the store. Its deadline suits a busy machine.
        let fresh = Affinity::learn(sessions(&self.url).deadline(Duration::from_secs(10)).build().unwrap());
        let other = Front::with(&self.nodes.addresses(), |proxy| proxy.affinity(fresh));
        for mut user in users {
            (user.front, user.connection) = (other.address(), None);
            let response = user.query().await;
            self.tally.record(&user, response);
        }
        assert_eq!(*self.tally.failures.lock().unwrap(), BTreeMap::new(), "at another front end");
    }
}

impl Tally {
    fn record(&self, user: &User, response: std::io::Result<RawResponse>) {
        let failure = match response {
            Ok(response) if response.status() == 200 && node_of(&response) == user.home => None,
            Ok(response) if response.status() == 200 => Some("another node".to_owned()),
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = failure {
            *self.failures.lock().unwrap().entry(failure).or_default() += 1;
        }
        self.responses.fetch_add(1, Ordering::SeqCst);
    }
}

/// A user whose browser keeps its connection open.
struct User {
    front: SocketAddr,
    connection: Option<Connection>,
    cookie: String,
    /// The node of the session.
    home: usize,
}

impl User {
    async fn log_in(front: SocketAddr) -> Self {
        let mut user = User { front, connection: None, cookie: String::new(), home: 0 };
        let headers = format!("Authorization: {ADMIN}\r\n");
        let response = user.send("/kylin/api/user/authentication", &headers, "").await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text());
        let set = response.header("set-cookie").unwrap().split(';').next().unwrap();
        user.cookie = format!("Cookie: {set}\r\n");
        let response = user.query().await.unwrap();
        assert_eq!(response.status(), 200, "the session was lost at once: {}", response.text());
        user.home = node_of(&response);
        user
    }

    async fn query(&mut self) -> std::io::Result<RawResponse> {
        let headers = format!("Content-Type: application/json\r\n{}", self.cookie);
        self.send("/kylin/api/query", &headers, QUERY).await
    }

    async fn send(&mut self, path: &str, headers: &str, body: &str) -> std::io::Result<RawResponse> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        connection.send(request).await?;
        let response = connection.response().await?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    async fn work(mut self, tally: Arc<Tally>) -> Self {
        while !tally.stop.load(Ordering::SeqCst) {
            let response = self.query().await;
            tally.record(&self, response);
            tokio::time::sleep(THINK_TIME).await;
        }
        self
    }
}

const QUERY: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

/// Starts the settings of a front end with an empty near cache.
fn sessions(url: &str) -> SessionsBuilder {
    Sessions::builder(front_end(url), Secret::new([7; 32]))
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}
