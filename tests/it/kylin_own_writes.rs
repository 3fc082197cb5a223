//! A client that wrote reads from the node that took the write, until the other nodes know of it.

use std::time::Duration;

use kylin_lb::clock::ManualClock;
use kylin_lb::proxy::{KylinRules, ProxyBuilder};
use kylin_lb::session::{Affinity, LoginRelay, Sessions};
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Cluster, HttpBackend, Proxy};

use crate::support::browser::{Browser, basic};
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::Front;
use crate::support::kylin::{Demo, Says, admin, ask, request, saying, scripted, sql, well};
use crate::support::login_relay::secret;

const BUILD: &str = "PUT /kylin/api/cubes/c/build";
const READ: &str = "GET /kylin/api/projects";
const WINDOW: Duration = Duration::from_secs(8);

/// Returns the node that has got requests since `before`, and their number.
fn asked_since(demo: &Demo, before: &[u64]) -> Vec<u64> {
    counts(demo).iter().zip(before).map(|(now, before)| now - before).collect()
}

fn counts(demo: &Demo) -> Vec<u64> {
    demo.nodes.iter().map(|node| node.stats().requests).collect()
}

/// The number of the node that took the last build.
fn builder(demo: &Demo) -> usize {
    demo.metastore.jobs().last().unwrap().node[1..].parse().unwrap()
}

/// All of `requests` on one of three nodes.
fn only(node: usize, requests: u64) -> Vec<u64> {
    (0..3).map(|n| if n == node { requests } else { 0 }).collect()
}

fn front(
    demo: &Demo,
    clock: &ManualClock,
    change: impl FnOnce(ProxyBuilder<HttpBackend>) -> ProxyBuilder<HttpBackend>,
) -> Front {
    demo.front(|proxy| change(proxy.affinity(None).clock(clock.clone())))
}

/// Sends six reads of a client. Returns the nodes that got them.
async fn reads(demo: &Demo, browser: &mut Browser) -> Vec<u64> {
    let before = counts(demo);
    for _ in 0..6 {
        assert_eq!(browser.ask(READ, &[], "").await.status(), 200);
    }
    asked_since(demo, &before)
}

/// A client without cookies, like kylinpy.
async fn cookieless_reads(demo: &Demo, front: &Front, user: &str, password: &str) -> Vec<u64> {
    let before = counts(demo);
    for _ in 0..6 {
        let mut browser = Browser::insistent(front.address(), user, password);
        assert_eq!(browser.ask(READ, &[], "").await.status(), 200);
    }
    asked_since(demo, &before)
}

in_each_dialect!(a_user_without_a_session_reads_what_it_wrote_within_the_window_and_not_after);
async fn a_user_without_a_session_reads_what_it_wrote_within_the_window_and_not_after(dialect: Dialect) {
    let (demo, clock) = (Demo::start(dialect, 3).await, ManualClock::new());
    let front = front(&demo, &clock, |proxy| proxy);
    for _ in 0..4 {
        assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, [2, 2, 2], "before it has written");
        assert_eq!(admin(&front, BUILD, "").await.status(), 200);
        let node = builder(&demo);
        assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, only(node, 6));
        assert_eq!(cookieless_reads(&demo, &front, "ANALYST", "ANALYST").await, [2, 2, 2], "who has written nothing");
        clock.advance(WINDOW - Duration::from_millis(1));
        assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, only(node, 6));
        // Another write restarts the window, regardless of where it goes.
        assert_eq!(admin(&front, BUILD, "").await.status(), 200);
        let node = builder(&demo);
        clock.advance(WINDOW - Duration::from_millis(1));
        assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, only(node, 6));
        clock.advance(Duration::from_millis(1));
    }
}

in_each_dialect!(a_session_reads_what_it_wrote_and_another_of_the_same_user_does_not_have_to);
async fn a_session_reads_what_it_wrote_and_another_of_the_same_user_does_not_have_to(dialect: Dialect) {
    let (demo, clock) = (Demo::start(dialect, 3).await, ManualClock::new());
    let demo = Demo { nodes: demo.nodes.into_iter().map(|node| node.share_sessions(true)).collect(), ..demo };
    let front = front(&demo, &clock, |proxy| proxy);
    let mut one = Browser::new(front.address());
    let mut other = Browser::new(front.address());
    for browser in [&mut one, &mut other] {
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    }
    let build = if is_v5(dialect) { "POST /kylin/api/models/m/segments" } else { BUILD };
    assert_eq!(one.ask(build, &[], "{}").await.status(), 200);
    let node = builder(&demo);
    assert_eq!(reads(&demo, &mut one).await, only(node, 6));
    assert_eq!(reads(&demo, &mut other).await, [2, 2, 2]);
    clock.advance(WINDOW);
    assert_eq!(reads(&demo, &mut one).await, [2, 2, 2]);
}

in_each_dialect!(a_relayed_session_is_a_writer_too);
async fn a_relayed_session_is_a_writer_too(dialect: Dialect) {
    let (demo, clock) = (Demo::start(dialect, 3).await, ManualClock::new());
    let sessions = LoginRelay::new(Sessions::in_memory().unwrap(), secret());
    let front = front(&demo, &clock, |proxy| proxy.affinity(Affinity::login_relay(sessions)));
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    // Logs in at each node once, so that only reads follow.
    reads(&demo, &mut browser).await;
    assert_eq!(reads(&demo, &mut browser).await, [2, 2, 2]);
    assert_eq!(browser.ask(BUILD, &[], "").await.status(), 200);
    assert_eq!(reads(&demo, &mut browser).await, only(builder(&demo), 6));
    clock.advance(WINDOW);
    assert_eq!(reads(&demo, &mut browser).await, [2, 2, 2]);
}

in_each_dialect!(a_bound_session_stays_with_its_node);
async fn a_bound_session_stays_with_its_node(dialect: Dialect) {
    let (demo, clock) = (Demo::start(dialect, 3).await, ManualClock::new());
    let front = front(&demo, &clock, |proxy| proxy.affinity(Affinity::learn(Sessions::in_memory().unwrap())));
    let mut bound = Browser::new(front.address());
    assert_eq!(bound.log_in("ADMIN", "KYLIN").await.status(), 200);
    assert_eq!(bound.ask(BUILD, &[], "").await.status(), 200);
    let home = builder(&demo);
    assert_eq!(reads(&demo, &mut bound).await, only(home, 6));
    assert_eq!(admin(&front, BUILD, "").await.status(), 200);
    let node = builder(&demo);
    assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, only(node, 6));
    clock.advance(WINDOW);
    assert_eq!(reads(&demo, &mut bound).await, only(home, 6), "it is bound, window or not");
    assert_eq!(cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await, [2, 2, 2]);
}

in_each_dialect!(a_removed_node_pins_no_writer);
async fn a_removed_node_pins_no_writer(dialect: Dialect) {
    let (mut demo, clock) = (Demo::start(dialect, 3).await, ManualClock::new());
    let front = front(&demo, &clock, |proxy| proxy);
    assert_eq!(admin(&front, BUILD, "").await.status(), 200);
    let node = builder(&demo);
    demo.served[node].take().unwrap().kill().await;
    let asked = cookieless_reads(&demo, &front, "ADMIN", "KYLIN").await;
    assert_eq!((asked[node], asked.iter().sum::<u64>()), (0, 6), "{asked:?}");
}

fn proxy(window: Option<Duration>, nodes: &[&kylin_lb::testing::Scripted]) -> Proxy<kylin_lb::testing::Scripted> {
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    let rules = KylinRules::default().read_your_writes(window);
    Proxy::builder(cluster).clock(ManualClock::new()).rules(rules).build().unwrap()
}

#[tokio::test]
async fn only_successful_writes_pin() {
    let user = basic("ADMIN", "KYLIN");
    let headers = [("authorization", &*user)];
    let query = "POST /kylin/api/query";
    for (line, body, pins) in [
        (query, sql("insert into t values (1)"), true),
        (query, sql("create table t as select 1"), true),
        (query, sql("select 1"), false),
        ("POST /kylin/api/saved_queries", "{}".to_owned(), true),
        ("PUT /kylin/api/projects/p", "{}".to_owned(), true),
        ("DELETE /kylin/api/jobs/1/drop", String::new(), true),
        ("GET /kylin/api/tables/reload_hive_table_name", String::new(), true),
        ("GET /kylin/api/projects", String::new(), false),
        ("POST /kylin/api/user/authentication", String::new(), false),
    ] {
        for window in [Some(WINDOW), None] {
            let (first, second) = (well("first"), well("second"));
            let proxy = proxy(window, &[&first, &second]);
            assert_eq!(ask(&proxy, request(line, &headers, &body)).await.0, 200);
            for _ in 0..6 {
                ask(&proxy, request(query, &headers, &sql("select 2"))).await;
            }
            let pins = pins && window.is_some();
            assert_eq!((first.calls(), second.calls()), if pins { (7, 0) } else { (4, 3) }, "{line} {body}");
        }
    }
    // A write that was refused has changed nothing.
    let (first, second) = (saying(Says::error(500, "no")), well("second"));
    let proxy = proxy(Some(WINDOW), &[&first, &second]);
    assert_eq!(ask(&proxy, request("PUT /kylin/api/projects/p", &headers, "{}")).await.0, 500);
    for _ in 0..6 {
        ask(&proxy, request(READ, &headers, "")).await;
    }
    assert_eq!((first.calls(), second.calls()), (4, 3));
    // A write without session and credentials has no related requests that could be directed.
    let (first, second) = (well("first"), well("second"));
    let proxy = self::proxy(Some(WINDOW), &[&first, &second]);
    ask(&proxy, request("PUT /kylin/api/projects/p", &[], "{}")).await;
    for _ in 0..6 {
        ask(&proxy, request(READ, &[], "")).await;
    }
    assert_eq!((first.calls(), second.calls()), (4, 3));
}
