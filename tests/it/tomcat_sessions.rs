//! Logins on real Tomcat nodes that do not share sessions: lost under plain round robin, kept by each way of keeping them.

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
const AT_ONCE: usize = 16;

/// A user with a connection and the cookies that the answers have set.
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

    async fn ask(&mut self, line: &str, headers: &str, body: &str) -> RawResponse {
        let mut request = format!("{line} HTTP/1.1\r\nHost: kylin\r\n{headers}Content-Length: {}\r\n", body.len());
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        self.connection.send(format!("{request}\r\n{body}")).await.unwrap();
        let answer = self.connection.response().await.unwrap();
        for field in answer.head.all("set-cookie") {
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    async fn log_in(&mut self) {
        let authorization = format!("Authorization: {}\r\n", basic(&self.name, "KYLIN"));
        let answer = self.ask("POST /kylin/api/user/authentication", &authorization, "").await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    /// The node that answered a query as this user; none when the login was lost.
    async fn query(&mut self) -> Option<String> {
        let answer = self.ask("POST /kylin/api/query", "Content-Type: application/json\r\n", QUERY).await;
        if answer.status() == 401 {
            return None;
        }
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let row = &answer["results"][0];
        assert_eq!(row[1], self.name.as_str(), "somebody else's session");
        Some(row[0].as_str().unwrap().to_owned())
    }
}

const QUERY: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

/// What came of the queries of all users.
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

    /// Every node within a tenth of the mean.
    fn assert_even(&self, way: &str) {
        let mean = self.total() as f64 / NODES.len() as f64;
        for name in NODES {
            let share = self.by_node.get(name).copied().unwrap_or_default() as f64;
            assert!((share - mean).abs() <= mean / 10.0, "{way}: {self:?}");
        }
    }
}

/// Every user logs in, one after the other, and then they query, [`AT_ONCE`] at a time.
///
/// With nobody waiting for an answer when a session is placed, how evenly sessions spread is the policy's doing alone.
/// Were they placed while others query, least-conn would rightly give fewer to the node that a busy machine slows down.
async fn work(front: &Front, users: usize, queries: usize) -> Tally {
    let mut waiting = Vec::new();
    for number in 0..users {
        let mut user = User::new(number, front.address()).await;
        user.log_in().await;
        waiting.push(user);
    }
    let waiting = Arc::new(Mutex::new(waiting));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE.min(users) {
        let waiting = Arc::clone(&waiting);
        workers.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let Some(mut user) = waiting.lock().pop() else { return tally };
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

/// A front end that balances by least-conn and keeps sessions in this way.
fn front(nodes: &[Tomcat], affinity: Affinity) -> Front {
    let cluster = Cluster::builder().endpoints(endpoints(nodes)).balancer(LeastConn::new()).build().unwrap();
    Front::serving(Proxy::builder(cluster).affinity(affinity).build().unwrap(), |server| {
        server.threads(NonZero::new(2).unwrap())
    })
}

fn shared() -> Affinity {
    Affinity::login_relay(LoginRelay::new(Sessions::in_memory().unwrap(), Secret::random().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_keeps_all_logins_and_round_robin_alone_loses_them() {
    if !Tomcat::required() {
        return;
    }
    let nodes = Tomcat::start(&NODES).await;

    let cluster = Cluster::builder().endpoints(endpoints(&nodes)).balancer(RoundRobin::new()).build().unwrap();
    let plain =
        Front::serving(Proxy::plain(cluster).build().unwrap(), |server| server.threads(NonZero::new(2).unwrap()));
    let tally = work(&plain, 4, 6).await;
    assert!(tally.lost > 0, "round robin loses logins, or the nodes share sessions: {tally:?}");
    drop(plain);

    let ways = [
        ("learned", Affinity::learn(Sessions::in_memory().unwrap())),
        ("cookie", Affinity::cookie(Secret::random().unwrap())),
        ("route", Affinity::route()),
        ("shared", shared()),
    ];
    for (name, affinity) in ways {
        let front = front(&nodes, affinity);
        let tally = work(&front, USERS, QUERIES).await;
        assert_eq!((tally.lost, tally.total()), (0, USERS * QUERIES), "{name}: {tally:?}");
        tally.assert_even(name);
        front.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_takes_no_login_with_it_where_the_front_end_shares_sessions() {
    if !Tomcat::required() {
        return;
    }
    let mut nodes = Tomcat::start(&NODES).await;
    let front = front(&nodes, shared());
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
