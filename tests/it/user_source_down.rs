//! The user source (LDAP) is unreachable, so no node can check a password. That says nothing about
//! sessions or nodes.

use std::num::NonZero;
use std::time::Duration;

use http::StatusCode;
use kylin_lb::balance::RoundRobin;
use kylin_lb::clock::{Clock as _, ManualClock};
use kylin_lb::health::HealthState;
use kylin_lb::kylin::KylinVersion;
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::session::{Affinity, LoginRelay, Sessions};
use kylin_lb::testing::kylin::{Fault, FaultScope, KylinNode};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};

use crate::support::browser::{Browser, basic};
use crate::support::front::{Front, refusal};
use crate::support::health::state;
use crate::support::login_relay::{COOKIE, Nodes, logged_in, secret, storm};

const BOTH: [KylinVersion; 2] = [KylinVersion::V4, KylinVersion::V5];
/// The time between two logins with the same credentials.
const DELAY: Duration = Duration::from_secs(30);

/// A front end with login relay, whose delays follow the clock of the store.
fn front(nodes: &Nodes) -> Front {
    nodes.front_with(RoundRobin::new(), |relay| relay.clock(nodes.clock.clone()))
}

fn set_down(nodes: &Nodes, down: bool) {
    nodes.nodes.iter().for_each(|node| node.faults().set_user_source_down(down));
}

/// Logins that reached a node and failed.
fn failed_logins(nodes: &Nodes) -> u64 {
    nodes.nodes.iter().map(|node| node.stats().unchecked_logins + node.stats().wrong_passwords).sum()
}

/// Returns how many requests each node has served.
fn queries(nodes: &Nodes) -> Vec<u64> {
    nodes.nodes.iter().map(|node| node.stats().queries).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_with_the_nodes_that_know_it_and_returns_to_the_others() {
    for version in BOTH {
        let nodes = Nodes::start(4, version).await;
        let front = front(&nodes);
        let mut browser = logged_in(&front).await;
        assert_eq!(browser.query().await.status(), 200, "two nodes know the session");
        assert_eq!(nodes.logins().iter().sum::<u64>(), 2);
        set_down(&nodes, true);
        assert_eq!(storm(&browser, 10, 10).await, 0, "{version:?}");
        assert_eq!(failed_logins(&nodes), 1, "{version:?}");
        assert_eq!(
            queries(&nodes).iter().filter(|queries| **queries > 20).count(),
            2,
            "both serve: {:?}",
            queries(&nodes)
        );

        // A long outage.
        for attempts in 2..5 {
            nodes.clock.advance(Duration::from_secs(3600));
            assert_eq!(storm(&browser, 10, 10).await, 0, "{version:?}");
            assert_eq!(failed_logins(&nodes), attempts, "one login a delay: {version:?}");
        }
        set_down(&nodes, false);
        nodes.clock.advance(Duration::from_secs(3600));
        assert_eq!(storm(&browser, 10, 10).await, 0, "{version:?}");
        assert_eq!(nodes.logins(), [1; 4], "{version:?}");
        assert!(queries(&nodes).iter().all(|queries| *queries > 5), "{:?}", queries(&nodes));
        assert_eq!(nodes.store.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_answer_logins_with_401_or_500_change_no_session() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::INTERNAL_SERVER_ERROR] {
        let nodes = Nodes::start(3, KylinVersion::V4).await;
        let front = front(&nodes);
        let browser = logged_in(&front).await;
        for node in &nodes.nodes {
            node.faults().inject(FaultScope::Sessions, Fault::Html(status));
        }
        assert_eq!(storm(&browser, 6, 1).await, 0, "{status}");
        let requests: u64 = nodes.nodes.iter().map(|node| node.stats().requests).sum();
        assert_eq!(requests, 1 + 6 + 1, "{status}: the client's login, its queries, one more login");
        for node in &nodes.nodes {
            node.faults().clear();
        }
        nodes.clock.advance(DELAY);
        assert_eq!(storm(&browser, 6, 4).await, 0, "{status}");
        assert_eq!(nodes.logins(), [1; 3], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_no_node_knows_survives_and_its_client_is_told_why() {
    for version in BOTH {
        let nodes = Nodes::start(3, version).await;
        let front = front(&nodes);
        let mut browser = logged_in(&front).await;
        assert_eq!(storm(&browser, 3, 3).await, 0);
        nodes.forget();
        set_down(&nodes, true);
        for _ in 0..6 {
            let message = refusal(&browser.query().await, 503);
            assert!(message.contains("check the login"), "{message}");
        }
        assert_eq!(failed_logins(&nodes), 1, "{version:?}");
        assert!(browser.cookies.contains_key(COOKIE));
        set_down(&nodes, false);
        assert_eq!(browser.query().await.status(), 503, "the delay is not over");
        nodes.clock.advance(2 * DELAY);
        assert_eq!(storm(&browser, 3, 3).await, 0, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_confirms_a_wrong_password_of_an_old_kylin() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let front = front(&nodes);
    let mut browser = logged_in(&front).await;
    let _ = nodes.metastore.clone().user("ADMIN", "changed", true);
    nodes.forget();
    assert_eq!(storm(&browser, 20, 1).await, 20);
    assert_eq!((nodes.wrong_passwords(), nodes.store.len()), (1, 2), "the session, and the mark of the credentials");
    nodes.clock.advance(2 * DELAY);
    assert_eq!(storm(&browser, 20, 1).await, 20);
    assert_eq!(browser.query().await.status(), 401);
    assert_eq!(nodes.wrong_passwords(), 2);
    assert!(browser.cookies.is_empty(), "the session has ended");
    nodes.clock.advance(100 * DELAY);
    assert_eq!(browser.log_in("ADMIN", "changed").await.status(), 200);
    assert_eq!(storm(&browser, 3, 4).await, 0);
    assert_eq!(nodes.wrong_passwords(), 2);
}

/// The third wrong password locks a user of Kylin 5.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_sent_rarely_while_a_node_still_knows_the_session() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let front = front(&nodes);
    let browser = logged_in(&front).await;
    let _ = nodes.metastore.clone().user("ADMIN", "changed", true);
    for _ in 0..60 {
        assert_eq!(storm(&browser, 4, 2).await, 0);
        nodes.clock.advance(DELAY);
    }
    assert_eq!(nodes.wrong_passwords(), 4, "in half an hour");
    // Its node restarts.
    nodes.forget();
    assert_eq!(storm(&browser, 4, 2).await, 8);
    assert_eq!((nodes.wrong_passwords(), browser.clone().query().await.status()), (4, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_the_client_itself_is_answered_at_once() {
    for version in BOTH {
        let nodes = Nodes::start(3, version).await;
        let front = front(&nodes);
        set_down(&nodes, true);
        let expected = if version == KylinVersion::V4 { 401 } else { 500 };
        for attempts in 1..4 {
            let response = Browser::new(front.address()).log_in("ADMIN", "KYLIN").await;
            assert_eq!((response.status(), failed_logins(&nodes)), (expected, attempts), "{}", response.text());
            assert_eq!(response.text().contains("KE-010021006"), version == KylinVersion::V5);
        }
        set_down(&nodes, false);
        let mut browser = logged_in(&front).await;
        // A repeated login that fails leaves the session as it was.
        set_down(&nodes, true);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), expected);
        assert!(browser.cookies.contains_key(COOKIE));
        assert_eq!(storm(&browser, 4, 4).await, 0, "{version:?}");
    }
}

/// A node that loses its sessions during the outage, with requests that cannot be sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_carry_credentials_to_a_node_end_no_session() {
    for version in BOTH {
        let nodes = Nodes::start(2, version).await;
        let sessions = Sessions::remote(nodes.store.clone(), secret());
        let relay = LoginRelay::new(sessions, secret()).clock(nodes.clock.clone());
        let front = nodes.front_of(RoundRobin::new(), Affinity::login_relay(relay), 10);
        let mut browser = logged_in(&front).await;
        assert_eq!(storm(&browser, 1, 4).await, 0);
        set_down(&nodes, true);
        nodes.nodes[0].forget_sessions();
        let mut failed = 0;
        for _ in 0..10 {
            failed += usize::from(browser.query().await.status() != 200);
            let who = browser.get("/kylin/api/user/authentication").await;
            assert!(who.text().contains("ADMIN"), "{version:?} {}", who.text());
        }
        assert!(failed <= 1, "{failed} of 10, {version:?}");
        assert!(browser.cookies.contains_key(COOKIE) && failed_logins(&nodes) <= 2, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_source_that_does_not_respond_ejects_no_node_and_delays_one_request() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let endpoints = nodes.served.iter().enumerate().map(|(id, served)| {
        let backend = HttpBackend::new(&served.as_ref().unwrap().addr().to_string()).unwrap();
        Endpoint::new(id.to_string(), backend).unwrap()
    });
    let cluster = Cluster::builder().endpoints(endpoints).balancer(RoundRobin::new()).build().unwrap();
    let relay = LoginRelay::new(Sessions::remote(nodes.store.clone(), secret()), secret());
    let relay = relay.clock(ManualClock::new()).login_timeout(Duration::from_secs(3)).unwrap();
    // With the rules of Kylin. The queries are counted at the nodes.
    let proxy = Proxy::builder(cluster).affinity(Affinity::login_relay(relay)).single_flight(false).build().unwrap();
    let front = Front::serving(proxy, |server| server.threads(NonZero::new(2).unwrap()));
    let browser = logged_in(&front).await;
    nodes.nodes.iter().for_each(|node| node.faults().inject(FaultScope::Sessions, Fault::Stall));
    assert_eq!(storm(&browser, 6, 10).await, 0);
    for id in ["0", "1", "2"] {
        assert_eq!(state(front.proxy.cluster(), id).0, HealthState::Healthy);
    }
    assert_eq!(nodes.nodes.iter().map(|node| node.stats().requests).sum::<u64>(), 1 + 60 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_delays_the_logins_of_all_front_ends() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let (one, two) = (front(&nodes), front(&nodes));
    let (first, second) = (logged_in(&one).await, logged_in(&two).await);
    set_down(&nodes, true);
    assert_eq!(storm(&first, 3, 3).await + storm(&second, 3, 3).await, 0);
    assert_eq!(failed_logins(&nodes), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_login_cannot_be_checked_leaves_the_node_healthy() {
    for version in BOTH {
        let node = KylinNode::new("q0").kylin_version(version);
        let cluster = Cluster::builder().endpoint(Endpoint::new("0", node.clone()).unwrap()).build().unwrap();
        node.faults().set_user_source_down(true);
        let probe = Probe::query("select 1", "learn_kylin", "ADMIN", "KYLIN").unwrap();
        let _checker = HealthCheck::new(probe).fall(NonZero::<u32>::MIN).start(&cluster).unwrap();
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(state(&cluster, "0").0, HealthState::Healthy, "{version:?}");
        let attempts = node.stats().unchecked_logins;
        assert!((1..=3).contains(&attempts), "one a minute: {attempts}, {version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_since_when_kylin_5_can_check_no_login() {
    for version in BOTH {
        let nodes = Nodes::start(2, version).await;
        let clock = ManualClock::new();
        let endpoints = nodes.served.iter().enumerate().map(|(id, served)| {
            let backend = HttpBackend::new(&served.as_ref().unwrap().addr().to_string()).unwrap();
            Endpoint::new(id.to_string(), backend).unwrap()
        });
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        let front = Front::serving(Proxy::builder(cluster.clone()).build().unwrap(), |server| server);
        let since = || cluster.status().user_source_down_since;
        let mut browser = Browser::new(front.address());
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        clock.advance(Duration::from_secs(5));
        let began = clock.now();
        set_down(&nodes, true);
        for _ in 0..3 {
            assert_ne!(Browser::new(front.address()).log_in("ADMIN", "KYLIN").await.status(), 200);
            clock.advance(Duration::from_secs(5));
        }
        // Requests of a session show nothing, even with credentials.
        assert_eq!(browser.query().await.status(), 200);
        browser.authorization = Some(basic("ADMIN", "KYLIN"));
        assert_eq!(browser.query().await.status(), 200);
        assert_eq!(Browser::new(front.address()).get("/kylin/api/admin/version").await.status(), 200);
        assert_eq!(since(), (version == KylinVersion::V5).then_some(began), "{version:?}");
        assert!(["0", "1"].iter().all(|id| state(&cluster, id).0 == HealthState::Healthy), "{version:?}");
        set_down(&nodes, false);
        assert_eq!(Browser::insistent(front.address(), "ADMIN", "KYLIN").query().await.status(), 200);
        assert_eq!(since(), None);
    }
}
