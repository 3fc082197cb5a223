//! Logins on real Tomcat nodes that do not share sessions. Plain round robin loses them; every
//! affinity keeps them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;

use kylin_lb::balance::{LeastConn, RoundRobin};
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::support::browser::basic;
use crate::support::front::Front;
use crate::support::http::{Connection, RawResponse};
use crate::support::tomcat::Tomcat;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const USERS: usize = 200;
const QUERIES: usize = 50;
/// Users who query at the same time.
const CONCURRENCY: usize = 16;

/// A user with a connection and cookies.
struct User {
    name: String,
    connection: Connection,
    cookies: BTreeMap<String, String>,
}

impl User {
    async fn new(number: usize, front: SocketAddr) -> Self {
        let connection = Connection::open(front).await.unwrap();
        User { name: format!("user{number}"), connection, cookies: BTreeMap::new() }
    }

    async fn send(&mut self, line: &str, headers: &str, body: &str) -> RawResponse {
        let mut request = format!("{line} HTTP/1.1\r\nHost: kylin\r\n{headers}Content-Length: {}\r\n", body.len());
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        self.connection.send(format!("{request}\r\n{body}")).await.unwrap();
        let response = self.connection.response().await.unwrap();
        for line in response.head.all("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        response
    }

    async fn log_in(&mut self) {
        let authorization = format!("Authorization: {}\r\n", basic(&self.name, "KYLIN"));
        let response = self.send("POST /kylin/api/user/authentication", &authorization, "").await;
        assert_eq!(response.status(), 200, "{}", response.text());
    }

    /// Sends a query as this user. Returns the node that responded, or `None` if the login was
    /// lost.
    async fn query(&mut self) -> Option<String> {
        let response = self.send("POST /kylin/api/query", "Content-Type: application/json\r\n", QUERY).await;
        if response.status() == 401 {
            return None;
        }
        assert_eq!(response.status(), 200, "{}", response.text());
        let response: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        let row = &response["results"][0];
        assert_eq!(row[1], self.name.as_str(), "the session of another user");
        Some(row[0].as_str().unwrap().to_owned())
    }
}

const QUERY: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

/// The outcomes of the queries of all users.
#[derive(Debug, Default)]
struct Tally {
    lost: usize,
    by_node: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, node: Option<String>) {
        match node {
            Some(node) => *self.by_node.entry(node).or_default() += 1,
            None => self.lost += 1,
        }
    }

    fn total(&self) -> usize {
        self.lost + self.by_node.values().sum::<usize>()
    }

    /// Checks that every node is within a tenth of the mean.
    fn assert_even(&self, affinity: &str) {
        let mean = self.total() as f64 / NODES.len() as f64;
        for name in NODES {
            let share = self.by_node.get(name).copied().unwrap_or_default() as f64;
            assert!((share - mean).abs() <= mean / 10.0, "{affinity}: {self:?}");
        }
    }
}

/// Logs users in, one after another, and lets them query, [`CONCURRENCY`] at a time.
///
/// No query runs while sessions are placed, so the policy alone decides how evenly they are spread.
/// Otherwise least-conn would rightly give fewer sessions to a node that a busy machine slows down.
async fn run_users(front: &Front, users: usize, queries: usize) -> Tally {
    let mut queue = Vec::new();
    for number in 0..users {
        let mut user = User::new(number, front.address()).await;
        user.log_in().await;
        queue.push(user);
    }
    let queue = Arc::new(Mutex::new(queue));
    let mut workers = JoinSet::new();
    for _ in 0..CONCURRENCY.min(users) {
        let queue = Arc::clone(&queue);
        workers.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let Some(mut user) = queue.lock().pop() else { return tally };
                for _ in 0..queries {
                    tally.add(user.query().await);
                }
            }
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = workers.join_next().await {
        let tally = tally.unwrap();
        all.lost += tally.lost;
        tally.by_node.into_iter().for_each(|(node, count)| *all.by_node.entry(node).or_default() += count);
    }
    all
}

fn endpoints(nodes: &[Tomcat]) -> Vec<Endpoint<HttpBackend>> {
    let endpoint =
        |(name, node): (&&str, &Tomcat)| Endpoint::http(name, &node.address().to_string()).unwrap().route(name);
    NODES.iter().zip(nodes).map(endpoint).collect()
}

/// Starts a front end with least-conn and this affinity.
fn front(nodes: &[Tomcat], affinity: Affinity) -> Front {
    let cluster = Cluster::builder().endpoints(endpoints(nodes)).balancer(LeastConn::new()).build().unwrap();
    Front::serving(Proxy::builder(cluster).affinity(affinity).build().unwrap(), |server| {
        server.threads(NonZero::new(2).unwrap())
    })
}

fn login_relay() -> Affinity {
    Affinity::login_relay(LoginRelay::new(Sessions::in_memory().unwrap(), Secret::random().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_affinity_keeps_all_logins_and_plain_round_robin_loses_them() {
    if !Tomcat::required() {
        return;
    }
    let nodes = Tomcat::start(&NODES).await;

    let cluster = Cluster::builder().endpoints(endpoints(&nodes)).balancer(RoundRobin::new()).build().unwrap();
    let plain =
        Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(NonZero::new(2).unwrap()));
    let tally = run_users(&plain, 4, 6).await;
    assert!(tally.lost > 0, "round robin loses logins, or the nodes share sessions: {tally:?}");
    drop(plain);

    let affinities = [
        ("learned", Affinity::learn(Sessions::in_memory().unwrap())),
        ("cookie", Affinity::cookie(Secret::random().unwrap())),
        ("route", Affinity::route()),
        ("login relay", login_relay()),
    ];
    for (name, affinity) in affinities {
        let front = front(&nodes, affinity);
        let tally = run_users(&front, USERS, QUERIES).await;
        assert_eq!((tally.lost, tally.total()), (0, USERS * QUERIES), "{name}: {tally:?}");
        tally.assert_even(name);
        front.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_login_relay_a_killed_node_loses_no_login() {
    if !Tomcat::required() {
        return;
    }
    let mut nodes = Tomcat::start(&NODES).await;
    let front = front(&nodes, login_relay());
    let mut users = Vec::new();
    for number in 0..30 {
        let mut user = User::new(number, front.address()).await;
        user.log_in().await;
        users.push(user);
    }
    let mut before = Tally::default();
    for user in &mut users {
        for _ in 0..3 {
            before.add(user.query().await);
        }
    }
    assert_eq!((before.lost, before.by_node.len()), (0, 3), "{before:?}");

    nodes[1].kill();
    let mut after = Tally::default();
    for user in &mut users {
        for _ in 0..3 {
            after.add(user.query().await);
        }
    }
    assert_eq!((after.lost, after.total()), (0, 90), "{after:?}");
    assert_eq!(after.by_node.keys().map(String::as_str).collect::<Vec<_>>(), ["n1", "n3"]);
}
