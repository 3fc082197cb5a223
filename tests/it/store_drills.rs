//! The store of sessions is killed under load: no user notices, neither then nor afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{Affinity, Secret, Sessions};
use tokio::task::JoinHandle;

use crate::support::front::{Front, eventually};
use crate::support::http::{Connection, RawResponse};
use crate::support::login::{ADMIN, Nodes, node_of};
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::redis::{Redis, RedisCluster, redis_installed};
use crate::support::sessions::front_end;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_redis_crashes_and_comes_back_empty() {
    if !redis_installed() {
        return;
    }
    let mut server = Redis::start(&[]).await;
    let mut drill = Drill::begin(format!("redis://{}", server.address())).await;
    server.kill();
    drill.goes_on_without_it().await;
    server.restart().await;
    drill.ends_well(|| number(&server.cli(&["dbsize"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_a_master_of_a_redis_cluster_dies() {
    if !redis_installed() {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let mut drill = Drill::begin(cluster.url()).await;
    let dead = cluster.master_of("any", &cluster.nodes[0]);
    // Replication is asynchronous: a record is safe once a replica has it.
    assert_eq!(cluster.node(dead).cli(&["wait", "1", "5000"]), "1");
    cluster.node(dead).kill();
    drill.meets_a_partial_outage().await;
    let is_master = |node: &&Redis| node.port() != dead && node.cli(&["role"]).starts_with("master");
    drill.ends_well(|| cluster.nodes.iter().filter(is_master).map(|node| number(&node.cli(&["dbsize"]))).sum()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_mariadb_crashes() {
    if !mariadb_installed() {
        return;
    }
    let mut server = MariaDb::start(&[]).await;
    let mut drill = Drill::begin(server.url()).await;
    server.kill();
    drill.goes_on_without_it().await;
    server.restart().await;
    drill.ends_well(|| number(&server.sql("SELECT COUNT(*) FROM kylin_lb_sessions"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_memcached_crashes_and_comes_back_empty() {
    if !memcached_installed() {
        return;
    }
    let mut server = Memcached::start(&[]).await;
    let mut drill = Drill::begin(format!("memcached://{}", server.address())).await;
    server.kill();
    drill.goes_on_without_it().await;
    server.restart().await;
    drill.ends_well(|| number(&server.stat("curr_items"))).await;
}

/// Too soon for any operation to fail: the one that finds the connection gone gets a new one by itself.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_a_cache_is_restarted_while_nobody_asks_it() {
    if !memcached_installed() {
        return;
    }
    let mut server = Memcached::start(&[]).await;
    let url = format!("memcached://{}", server.address());
    let nodes = Nodes::of(KylinVersion::V4, 3).await;
    let sessions = sessions(&url).staleness(Duration::ZERO);
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(User::log_in(front.address()).await);
    }
    server.kill();
    server.restart().await;
    for user in &mut users {
        assert_eq!(user.query().await.map(|answer| answer.status()).unwrap(), 200);
    }
    assert_eq!(number(&server.stat("curr_items")), USERS);
    assert!(!sessions.is_store_unavailable());
}

/// Users who work all the time.
const USERS: usize = 64;
/// Users who log in while the store is away.
const LATE: usize = 32;
/// How long an operation on the store may take.
const DEADLINE: Duration = Duration::from_millis(500);
/// How long a user looks at an answer.
const THOUGHT: Duration = Duration::from_millis(10);

/// Users who work at a front end whose store is about to be lost, with nodes that share nothing.
struct Drill {
    url: String,
    nodes: Nodes,
    sessions: Sessions,
    front: Front,
    tally: Arc<Tally>,
    users: Vec<JoinHandle<User>>,
}

/// What the users saw.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    answers: AtomicU64,
    /// By what went wrong.
    wrong: Mutex<BTreeMap<String, usize>>,
}

impl Drill {
    /// All users have logged in, and work.
    async fn begin(url: String) -> Self {
        let nodes = Nodes::of(KylinVersion::V4, 3).await;
        // So that the store is asked often, and a busy machine is not taken for a store that is away.
        let sessions = sessions(&url).staleness(Duration::from_millis(100)).deadline(DEADLINE);
        let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
        let mut drill = Drill { url, nodes, sessions, front, tally: Arc::default(), users: Vec::new() };
        drill.log_in(USERS).await;
        drill.answers(10 * USERS as u64).await;
        drill
    }

    async fn log_in(&mut self, users: usize) {
        for _ in 0..users {
            let user = User::log_in(self.front.address()).await;
            self.users.push(tokio::spawn(user.work(self.tally.clone())));
        }
    }

    /// Waits until so many more requests were answered.
    async fn answers(&self, more: u64) {
        let until = self.tally.answers.load(Ordering::SeqCst) + more;
        let there = || self.tally.answers.load(Ordering::SeqCst) >= until;
        eventually(there, || format!("{:?}", self.tally)).await;
    }

    /// The store was killed.
    async fn goes_on_without_it(&mut self) {
        eventually(|| self.sessions.is_store_unavailable(), || "nobody misses the store".into()).await;
        self.log_in(LATE).await;
        self.answers(2000).await;
        assert!(self.sessions.is_store_unavailable() && self.sessions.backlog() >= LATE, "{:?}", self.sessions);
    }

    /// A part of the store was killed.
    async fn meets_a_partial_outage(&mut self) {
        self.log_in(LATE).await;
        self.answers(2000).await;
    }

    /// The store is back. `kept` says how many records it has.
    async fn ends_well(self, mut kept: impl FnMut() -> usize) {
        let calm = || !self.sessions.is_store_unavailable() && self.sessions.backlog() == 0;
        eventually(calm, || format!("{:?}", self.sessions)).await;
        self.answers(1000).await;
        eventually(|| kept() == USERS + LATE, || "a record of each session is in the store".into()).await;
        self.tally.stop.store(true, Ordering::SeqCst);
        let mut users = Vec::new();
        for user in self.users {
            users.push(user.await.unwrap());
        }
        assert_eq!(*self.tally.wrong.lock().unwrap(), BTreeMap::new(), "of {:?}", self.tally.answers);

        // A front end that knows nothing but what is in the store, and has the patience that the machine may need.
        let fresh = Affinity::learn(sessions(&self.url).deadline(Duration::from_secs(10)));
        let other = Front::with(&self.nodes.addresses(), |proxy| proxy.affinity(fresh));
        for mut user in users {
            (user.front, user.connection) = (other.address(), None);
            let answer = user.query().await;
            self.tally.note(&user, answer);
        }
        assert_eq!(*self.tally.wrong.lock().unwrap(), BTreeMap::new(), "at another front end");
    }
}

impl Tally {
    fn note(&self, user: &User, answer: std::io::Result<RawResponse>) {
        let wrong = match answer {
            Ok(answer) if answer.status() == 200 && node_of(&answer) == user.home => None,
            Ok(answer) if answer.status() == 200 => Some("another node".to_owned()),
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            *self.wrong.lock().unwrap().entry(wrong).or_default() += 1;
        }
        self.answers.fetch_add(1, Ordering::SeqCst);
    }
}

/// A browser that keeps its connection.
struct User {
    front: SocketAddr,
    connection: Option<Connection>,
    cookie: String,
    /// The node that knows the session.
    home: usize,
}

impl User {
    async fn log_in(front: SocketAddr) -> Self {
        let mut user = User { front, connection: None, cookie: String::new(), home: 0 };
        let fields = format!("Authorization: {ADMIN}\r\n");
        let answer = user.ask("/kylin/api/user/authentication", &fields, "").await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let set = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        user.cookie = format!("Cookie: {set}\r\n");
        let answer = user.query().await.unwrap();
        assert_eq!(answer.status(), 200, "lost at once: {}", answer.text());
        user.home = node_of(&answer);
        user
    }

    async fn query(&mut self) -> std::io::Result<RawResponse> {
        let fields = format!("Content-Type: application/json\r\n{}", self.cookie);
        self.ask("/kylin/api/query", &fields, QUERY).await
    }

    async fn ask(&mut self, path: &str, fields: &str, body: &str) -> std::io::Result<RawResponse> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n{fields}\r\n{body}");
        connection.send(request).await?;
        let answer = connection.response().await?;
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    async fn work(mut self, tally: Arc<Tally>) -> Self {
        while !tally.stop.load(Ordering::SeqCst) {
            let answer = self.query().await;
            tally.note(&self, answer);
            tokio::time::sleep(THOUGHT).await;
        }
        self
    }
}

const QUERY: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

/// What a front end has of its own: a handle on the store, and an empty memory.
fn sessions(url: &str) -> Sessions {
    Sessions::remote(front_end(url), Secret::new([7; 32]))
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}
