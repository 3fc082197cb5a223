//! Processes of the example front end with the same store. Two of them see a new session at the
//! same moment. After that, both of them and a third process must send the session to the same
//! node. 2,000 sessions by default:
//!
//! ```sh
//! KYLIN_LB_RACES=10000 cargo test --all-features --test it first_sights
//! ```

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::support::example::{secret, start};
use crate::support::http::{Connection, get};
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::process::Process;
use crate::support::raw_node::{RawNode, healthy};
use crate::support::redis::{Redis, redis_installed};

/// Returns the number of sessions that both see for the first time at once.
fn races() -> usize {
    std::env::var("KYLIN_LB_RACES").map_or(2_000, |number| number.parse().unwrap())
}

/// The number of concurrent races, which keeps all processes busy on few cores.
const CONCURRENT: usize = 32;
/// A long deadline of the store. A front end that mistakes a busy machine for an unavailable store
/// decides alone, which would then be correct.
const DEADLINE: &str = "--store-deadline=20000";

#[tokio::test(flavor = "multi_thread")]
async fn processes_over_one_redis_settle_first_sights() {
    if !redis_installed() {
        return;
    }
    let server = Redis::start(&[]).await;
    settle(&format!("redis://{}", server.address())).await;
    assert_eq!(server.cli(&["dbsize"]), races().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_over_one_mariadb_settle_first_sights() {
    if !mariadb_installed() {
        return;
    }
    // Without a flush to disk at each commit, because the test does not depend on it.
    let server = MariaDb::start(&["--innodb-flush-log-at-trx-commit=0"]).await;
    settle(&server.url()).await;
    assert_eq!(server.sql("SELECT COUNT(*) FROM kylin_lb_sessions"), races().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_over_one_memcached_settle_first_sights() {
    if !memcached_installed() {
        return;
    }
    let server = Memcached::start(&[]).await;
    settle(&format!("memcached://{}", server.address())).await;
    assert_eq!(server.stat("curr_items"), races().to_string());
}

/// The outcome of races.
#[derive(Debug, Default)]
struct Outcome {
    /// The two chose differently when they first saw the session.
    contested: usize,
    /// Later requests of the session went to different nodes.
    disagreements: usize,
}

/// Runs the races with nodes that accept every session, like nodes with shared sessions.
async fn settle(store: &str) {
    let nodes = [
        RawNode::start([healthy("0")]).await,
        RawNode::start([healthy("1")]).await,
        RawNode::start([healthy("2")]).await,
    ];
    let named: Vec<_> = (0..).zip(&nodes).map(|(name, node)| format!("n{name}@{}", node.address())).collect();
    let fronts = FrontEnds::start(&named.join(","), store).await;
    // One extra request, so that the two choose differently.
    get(fronts.addresses[0], "/kylin/api/cubes", &[]).await.unwrap();
    let tasks = (0..CONCURRENT).map(|first| tokio::spawn(race(fronts.addresses, first)));
    let mut sum = Outcome::default();
    for first in tasks.collect::<Vec<_>>() {
        let Outcome { contested, disagreements } = first.await.unwrap();
        sum.contested += contested;
        sum.disagreements += disagreements;
    }
    assert_eq!(sum.disagreements, 0, "of {}", races());
    assert!(sum.contested > 0, "these were races: {sum:?}");
    for process in &fronts.processes {
        let log = process.file("stderr");
        assert!(!log.contains("store fails"), "{log}");
    }
}

/// Runs every `CONCURRENT`th race, each with its own session.
async fn race([one, two, later]: [SocketAddr; 3], first: usize) -> Outcome {
    let mut one = Connection::open(one).await.unwrap();
    let mut two = Connection::open(two).await.unwrap();
    let mut later = Connection::open(later).await.unwrap();
    let mut outcome = Outcome::default();
    for race in (first..races()).step_by(CONCURRENT) {
        let id = format!("{race:032X}");
        let (at_one, at_two) = tokio::join!(served_by(&mut one, &id), served_by(&mut two, &id));
        outcome.contested += usize::from(at_one != at_two);
        let (at_one, at_two, at_later) =
            tokio::join!(served_by(&mut one, &id), served_by(&mut two, &id), served_by(&mut later, &id));
        outcome.disagreements += usize::from(at_one != at_two || at_one != at_later);
    }
    outcome
}

/// Returns the node that serves a request that needs a login.
async fn served_by(connection: &mut Connection, id: &str) -> String {
    let request = format!("GET /kylin/api/cubes HTTP/1.1\r\nHost: kylin\r\nCookie: JSESSIONID={id}\r\n\r\n");
    connection.send(request).await.unwrap();
    let response = connection.response().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text());
    response.text().to_owned()
}

/// Three processes with the same nodes, store and secret.
struct FrontEnds {
    processes: [Process; 3],
    addresses: [SocketAddr; 3],
}

impl FrontEnds {
    async fn start(nodes: &str, store: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let secret = secret(&folder);
        let secret = ["--secret-file", secret.to_str().unwrap()];
        let what = ["--nodes", nodes, "--sessions", store, "--policy=round-robin", "--kylin=off", "--probe=none"];
        let args = [&what[..], &secret, &[DEADLINE]].concat();
        let [(one, first), (two, second), (later, third)] =
            [start(&args).await, start(&args).await, start(&args).await];
        FrontEnds { processes: [one, two, later], addresses: [first, second, third] }
    }
}
