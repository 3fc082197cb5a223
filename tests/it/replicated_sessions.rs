//! Nodes that replicate their sessions, and write a new one only after the response that begins it.

use std::time::Duration;

use kylin_lb::balance::RoundRobin;
use kylin_lb::clock::ManualClock;
use kylin_lb::session::{Affinity, MemoryStore, ReplicatedSessions, Sessions};
use kylin_lb::testing::kylin::Dialect;

use crate::support::browser::{Browser, basic};
use crate::support::dialects::in_each_dialect;
use crate::support::front::Front;
use crate::support::login_relay::{Nodes, secret};

async fn nodes(dialect: Dialect) -> Nodes {
    let mut nodes = Nodes::start(3, dialect).await;
    nodes.nodes = nodes.nodes.into_iter().map(|node| node.share_sessions(true).writes_sessions_late(true)).collect();
    nodes
}

fn front(nodes: &Nodes, change: impl FnOnce(ReplicatedSessions) -> ReplicatedSessions) -> Front {
    nodes.front_of(RoundRobin::new(), Affinity::replicated(change(ReplicatedSessions::new())), 1 << 20)
}

in_each_dialect!(without_grace_the_next_request_finds_a_placeholder, V4);
/// The failure that the grace time prevents.
async fn without_grace_the_next_request_finds_a_placeholder(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let addresses: Vec<_> = nodes.served.iter().map(|served| served.as_ref().unwrap().addr()).collect();
    let front = Front::over(&addresses);
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    assert_eq!(browser.query().await.status(), 500);
}

in_each_dialect!(a_session_stays_with_its_node_for_the_grace_time_only, V4);
async fn a_session_stays_with_its_node_for_the_grace_time_only(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let clock = ManualClock::new();
    let front = front(&nodes, |share| share.clock(clock.clone()));
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    let home = nodes.logins().iter().position(|logins| *logins == 1).unwrap();
    for _ in 0..6 {
        let response = browser.query().await;
        assert_eq!(response.status(), 200);
        assert!(response.text().contains(&format!("node-{home}")), "{}", response.text());
    }
    nodes.metastore.write_sessions();
    clock.advance(Duration::from_secs(3));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let response = browser.query().await;
        assert_eq!(response.status(), 200);
        seen.insert(response.text().find("node-").map(|at| response.text()[at..at + 6].to_owned()));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

in_each_dialect!(another_front_end_knows_of_a_new_session_through_the_store, V4);
async fn another_front_end_knows_of_a_new_session_through_the_store(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let store = MemoryStore::new();
    let with_store = |share: ReplicatedSessions| share.sessions(Sessions::remote(store.clone(), secret()));
    let (one, two) = (front(&nodes, with_store), front(&nodes, with_store));
    let alone = front(&nodes, |share| share);
    for _ in 0..5 {
        let mut browser = Browser::new(one.address());
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        let mut there = Browser { front: two.address(), ..browser.clone() };
        for _ in 0..4 {
            assert_eq!(there.query().await.status(), 200);
        }
        // A front end that does not know of new sessions picks the wrong node in two of three
        // cases.
        let mut astray = Browser { front: alone.address(), ..browser.clone() };
        let statuses = [astray.query().await.status(), astray.query().await.status(), astray.query().await.status()];
        assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "{statuses:?}");
    }
}

in_each_dialect!(a_poisoned_cookie_is_removed_if_there_are_credentials, V4);
async fn a_poisoned_cookie_is_removed_if_there_are_credentials(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let front = front(&nodes, |share| share.heal(true));
    // A session whose write failed: its node has forgotten it, and only the placeholder remains.
    let mut browser = poisoned(&nodes).await;
    browser.front = front.address();
    browser.authorization = Some(basic("ADMIN", "KYLIN"));
    let before = browser.cookies.clone();
    for _ in 0..6 {
        let response = browser.query().await;
        assert_eq!(response.status(), 200, "{}", response.text());
    }
    assert_ne!(browser.cookies, before, "the client has another session");
}

in_each_dialect!(a_poisoned_cookie_is_deleted_if_there_are_no_credentials, V4);
async fn a_poisoned_cookie_is_deleted_if_there_are_no_credentials(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let front = front(&nodes, |share| share.heal(true));
    let mut browser = poisoned(&nodes).await;
    browser.front = front.address();
    while browser.query().await.status() != 500 {}
    assert!(browser.cookies.is_empty());
    assert_eq!(browser.query().await.status(), 401);
}

in_each_dialect!(a_session_that_is_being_written_is_waited_for, V4);
async fn a_session_that_is_being_written_is_waited_for(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let front = front(&nodes, |share| share.heal(true));
    let mut browser = poisoned(&nodes).await;
    browser.front = front.address();
    let before = browser.cookies.clone();
    assert!(browser.query().await.text().contains("node-0"), "round robin begins where the session is known");
    let failed = || nodes.nodes.iter().map(|node| node.stats().requests).sum::<u64>();
    let asked = failed();
    // Written as soon as a request has found the placeholder.
    let metastore = nodes.metastore.clone();
    let write = async {
        crate::support::front::eventually(|| failed() > asked, || "no request came".into()).await;
        metastore.write_sessions();
    };
    let (response, ()) = tokio::join!(browser.query(), write);
    assert_eq!((response.status(), &browser.cookies), (200, &before));
}

in_each_dialect!(without_healing_the_client_gets_the_failure, V4);
async fn without_healing_the_client_gets_the_failure(dialect: Dialect) {
    let nodes = nodes(dialect).await;
    let front = front(&nodes, |share| share);
    let mut browser = poisoned(&nodes).await;
    browser.front = front.address();
    browser.authorization = Some(basic("ADMIN", "KYLIN"));
    let before = browser.cookies.clone();
    let statuses = [browser.query().await.status(), browser.query().await.status(), browser.query().await.status()];
    assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "{statuses:?}");
    assert_eq!(browser.cookies, before);
}

/// A client with a session that only one node can read.
async fn poisoned(nodes: &Nodes) -> Browser {
    let mut browser = Browser::new(nodes.served[0].as_ref().unwrap().addr());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    browser
}
