//! Logins that a node refuses, or that break off, are repeated so rarely that no user is locked.
//! They end no session that a node knows.

use std::time::Duration;

use kylin_lb::balance::RoundRobin;
use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{CookieIssue, LoginRelay, Secret, Sessions};
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Metastore};

use crate::support::browser::Browser;
use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, closed_port};
use crate::support::login_relay::{COOKIE, Nodes, logged_in, secret, storm};
use crate::support::recording::Recording;

/// The time between two logins with the same credentials.
const DELAY: Duration = Duration::from_secs(30);
const WHO_AM_I: &str = "/kylin/api/user/authentication";

/// A front end with login relay, whose delays follow the clock of the store.
fn front(nodes: &Nodes) -> Front {
    nodes.front_with(RoundRobin::new(), |relay| relay.clock(nodes.clock.clone()))
}

fn at(front: &Front, browser: &Browser) -> Browser {
    Browser { front: front.address(), ..browser.clone() }
}

/// Changes the password of the user at all nodes. Their sessions stay.
fn change_password(nodes: &Nodes) {
    let _ = nodes.metastore.clone().user("ADMIN", "changed", true);
}

/// Adds a node with its own users, for which the others' password is wrong.
async fn add_other_node(nodes: &mut Nodes, dialect: Dialect) -> Metastore {
    let metastore = Metastore::new().user("ADMIN", "other", true);
    let node = KylinNode::new("other").kylin_version(dialect).metastore(&metastore);
    nodes.served.push(Some(node.serve(closed_port()).await.unwrap()));
    nodes.nodes.push(node);
    metastore
}

/// Sends requests of one session at each front end at the same time. Returns the number of
/// failures.
async fn storm_at(fronts: &[Front], browser: &Browser) -> usize {
    let browsers: Vec<_> = fronts.iter().map(|front| at(front, browser)).collect();
    let storms: Vec<_> =
        browsers.into_iter().map(|browser| tokio::spawn(async move { storm(&browser, 4, 2).await })).collect();
    let mut failed = 0;
    for storm in storms {
        failed += storm.await.unwrap();
    }
    failed
}

/// A third front end starts after the refusals.
#[tokio::test(flavor = "multi_thread")]
async fn all_front_ends_together_send_a_refused_password_once_in_each_delay() {
    let nodes = Nodes::start(4, KylinVersion::V4).await;
    let mut fronts = vec![front(&nodes), front(&nodes)];
    let browser = logged_in(&fronts[0]).await;
    change_password(&nodes);
    assert_eq!(storm(&browser, 4, 2).await, 0, "one refusal");
    let (mut sent, mut last) = (nodes.wrong_passwords(), None::<u32>);
    assert_eq!(sent, 1);
    for tick in 1..=300 {
        nodes.clock.advance(DELAY / 6);
        if tick == 100 {
            fronts.push(front(&nodes));
        }
        assert_eq!(storm_at(&fronts, &browser).await, 0, "a node knows the session");
        let before = std::mem::replace(&mut sent, nodes.wrong_passwords());
        assert!(sent - before <= 1, "{} at once", sent - before);
        if sent > before {
            assert!(last.replace(tick).is_none_or(|last| tick - last >= 6), "{last:?}, then {tick}");
        }
    }
    assert!((4..=5).contains(&sent), "{sent} in 25 minutes, as with one front end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_accepted_ends_the_pause_of_all_front_ends() {
    let nodes = Nodes::start(4, KylinVersion::V4).await;
    let fronts = [front(&nodes), front(&nodes)];
    let browser = logged_in(&fronts[0]).await;
    nodes.nodes.iter().for_each(|node| node.faults().set_user_source_down(true));
    assert_eq!(storm_at(&fronts, &browser).await, 0);
    nodes.nodes.iter().for_each(|node| node.faults().set_user_source_down(false));
    for _ in 0..2 {
        nodes.clock.advance(DELAY);
        assert_eq!(storm_at(&fronts, &browser).await, 0);
    }
    assert_eq!(nodes.sessions(), [1; 4]);
}

/// Sets whether the user source (LDAP) of the nodes is down.
fn set_user_source_down(nodes: &Nodes, down: bool) {
    nodes.nodes.iter().for_each(|node| node.faults().set_user_source_down(down));
}

/// The nodes restart, and their user source is down for so long that two of them refuse the login
/// of the session. So it ends.
async fn end_in_an_outage(nodes: &Nodes, browser: &mut Browser) {
    nodes.forget();
    set_user_source_down(nodes, true);
    for _ in 0..2 {
        storm(browser, 3, 2).await;
        nodes.clock.advance(2 * DELAY);
    }
    assert_eq!(browser.query().await.status(), 401, "the session has ended");
    set_user_source_down(nodes, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_another_front_end_saw_accepted_end_no_session() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let fronts = [front(&nodes), front(&nodes)];
    let mut browser = logged_in(&fronts[0]).await;
    end_in_an_outage(&nodes, &mut browser).await;
    let browser = at(&fronts[0], &logged_in(&fronts[1]).await);
    for restarts in 1..4 {
        nodes.forget();
        assert_eq!(browser.clone().query().await.status(), 200, "restart {restarts}");
        assert_eq!(storm(&browser, 3, 2).await, 0, "restart {restarts}");
    }
    nodes.forget();
    assert_eq!(storm(&at(&front(&nodes), &browser), 3, 2).await, 0, "nothing is marked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_its_session_without_a_login_ends_a_refusal_too() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let change = |relay: LoginRelay| relay.cookie_issue(CookieIssue::WithCredentials).clock(nodes.clock.clone());
    let fronts = [0; 2].map(|_| nodes.front_with(RoundRobin::new(), change));
    let mut browser = logged_in(&fronts[0]).await;
    end_in_an_outage(&nodes, &mut browser).await;
    let mut browser = Browser::insistent(fronts[1].address(), "ADMIN", "KYLIN");
    assert_eq!(browser.query().await.status(), 200);
    browser.authorization = None;
    for front in fronts.iter().rev() {
        nodes.forget();
        assert_eq!(storm(&at(front, &browser), 3, 4).await, 0);
    }
}

/// The session is logged in at no node, so it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_another_front_end_saw_accepted_ends_a_delay() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let fronts = [front(&nodes), front(&nodes)];
    let mut browser = logged_in(&fronts[0]).await;
    nodes.forget();
    set_user_source_down(&nodes, true);
    assert_eq!(browser.query().await.status(), 503, "a node has refused the login");
    set_user_source_down(&nodes, false);
    assert_eq!(browser.query().await.status(), 503, "the login is not repeated for 30 s");
    logged_in(&fronts[1]).await;
    assert_eq!(browser.query().await.status(), 200);
}

/// Another front end has seen the login accepted between the two refusals.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_confirm_one_that_is_over() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let fronts = [front(&nodes), front(&nodes)];
    let mut browser = logged_in(&fronts[0]).await;
    for _ in 0..3 {
        nodes.forget();
        set_user_source_down(&nodes, true);
        assert_eq!(browser.query().await.status(), 503, "the session waits");
        set_user_source_down(&nodes, false);
        logged_in(&fronts[1]).await;
        nodes.clock.advance(2 * DELAY);
    }
    assert_eq!(browser.query().await.status(), 200);
}

/// The mark of the credentials would last as long as an unused session.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_stays_marked_while_sessions_with_it_are_used() {
    let mut nodes = Nodes::start(1, KylinVersion::V5).await;
    let _ = add_other_node(&mut nodes, KylinVersion::V5.into()).await;
    let fronts = [0; 2].map(|_| {
        let sessions = Sessions::builder(nodes.store.clone(), secret()).clock(nodes.clock.clone()).build().unwrap();
        nodes.front_over(sessions, secret(), RoundRobin::new(), |relay| relay.clock(nodes.clock.clone()))
    });
    let browser = logged_in(&fronts[0]).await;
    assert_eq!((storm(&browser, 1, 2).await, nodes.wrong_passwords()), (0, 1));
    for hours in 0..24 {
        assert_eq!(storm_at(&fronts, &browser).await, 0, "after {hours} hours");
        nodes.clock.advance(Duration::from_secs(3600));
    }
    assert_eq!(nodes.wrong_passwords(), 1);
}

/// The store has no mark of the credentials before.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_refusal_is_written_once() {
    let nodes = Nodes::start(2, KylinVersion::V4).await;
    let store = Recording::over(nodes.store.clone());
    let clock = nodes.clock.clone();
    let sessions = Sessions::remote(store.clone(), secret());
    let front = nodes.front_over(sessions, secret(), RoundRobin::new(), |relay| relay.clock(clock));
    let browser = logged_in(&front).await;
    change_password(&nodes);
    let before = store.saves();
    assert_eq!((storm(&browser, 1, 4).await, nodes.wrong_passwords()), (0, 1));
    assert_eq!(store.saves() - before, 1);
}

/// Without the store, it is unknown which front ends also send the password, unless this one is
/// alone.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_only_a_front_end_that_is_alone_repeats_a_refused_login() {
    for (secret, attempts) in [(secret(), 1), (Secret::random().unwrap(), 2)] {
        let nodes = Nodes::start(3, KylinVersion::V4).await;
        let store = Recording::over(nodes.store.clone());
        let sessions = Sessions::remote(store.clone(), secret.clone());
        let clock = nodes.clock.clone();
        let front = nodes.front_over(sessions, secret, RoundRobin::new(), |relay| relay.clock(clock));
        let browser = logged_in(&front).await;
        change_password(&nodes);
        assert_eq!((storm(&browser, 3, 3).await, nodes.wrong_passwords()), (0, 1));
        store.set_unavailable(true);
        nodes.clock.advance(DELAY);
        assert_eq!((storm(&browser, 3, 3).await, nodes.wrong_passwords()), (0, attempts));
    }
}

in_each_dialect!(a_password_whose_logins_break_is_sent_rarely, V4);
/// The node checks the password, and then its connection breaks.
async fn a_password_whose_logins_break_is_sent_rarely(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = front(&nodes);
    let browser = logged_in(&front).await;
    change_password(&nodes);
    nodes.nodes.iter().for_each(|node| node.faults().inject(FaultScope::Sessions, Fault::Close));
    for delays in 0..4 {
        assert_eq!(storm(&browser, 6, 10).await, 0);
        assert_eq!(nodes.wrong_passwords(), 2 + delays, "a node that restarts breaks the first: {dialect:?}");
        nodes.clock.advance(DELAY + Duration::from_secs(1));
    }
}

in_each_dialect!(nodes_that_restart_one_after_the_other_delay_no_login);
async fn nodes_that_restart_one_after_the_other_delay_no_login(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = front(&nodes);
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 3, 3).await, 0);
    for round in 1..4 {
        for node in &nodes.nodes {
            // The node breaks one login when it ends, and has no sessions when it has restarted.
            node.forget_sessions();
            node.faults().inject_times(1, FaultScope::Sessions, Fault::Close);
            assert_eq!(storm(&browser, 6, 4).await, 0, "{dialect:?}");
        }
        // The login that broke was accepted by its node.
        assert_eq!(nodes.logins(), [1 + 2 * round; 3], "{dialect:?}");
    }
}

/// Kylin responds to a login with 200, 400, 401 or 500. With any other status, the password was not
/// checked, so it does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_process_logins_delays_none() {
    use http::StatusCode;
    for status in [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND] {
        let nodes = Nodes::start(3, KylinVersion::V5).await;
        let front = front(&nodes);
        let browser = logged_in(&front).await;
        for node in &nodes.nodes[1..] {
            node.faults().inject(FaultScope::Sessions, Fault::Html(status));
        }
        assert_eq!(storm(&browser, 3, 10).await, 0, "{status}");
        nodes.nodes.iter().for_each(|node| node.faults().clear());
        assert_eq!(storm(&browser, 3, 10).await, 0, "{status}");
        assert_eq!(nodes.logins(), [1; 3], "{status}");
    }
}

/// Kylin 5 says in JSON that the password is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_a_login_for_certain_ends_no_session_that_another_node_knows() {
    let mut nodes = Nodes::start(2, KylinVersion::V5).await;
    let _ = add_other_node(&mut nodes, KylinVersion::V5.into()).await;
    let fronts = [front(&nodes), front(&nodes)];
    let browser = logged_in(&fronts[0]).await;
    assert_eq!(storm(&browser, 4, 2).await, 0);
    for _ in 0..10 {
        assert_eq!(storm_at(&fronts, &browser).await, 0);
        nodes.clock.advance(10 * DELAY);
    }
    assert_eq!(nodes.wrong_passwords(), 1, "it is not sent again");
    // The nodes that know the session restart, so it ends as in Kylin itself.
    nodes.forget();
    let mut browser = at(&fronts[1], &browser);
    assert_eq!((browser.query().await.status(), nodes.wrong_passwords()), (401, 1));
    assert!(!browser.cookies.contains_key(COOKIE));
}

in_each_dialect!(a_node_that_refuses_the_login_of_a_client_ends_no_session_that_another_node_knows);
async fn a_node_that_refuses_the_login_of_a_client_ends_no_session_that_another_node_knows(dialect: Dialect) {
    let mut nodes = Nodes::start(1, dialect).await;
    let _ = add_other_node(&mut nodes, dialect).await;
    let front = front(&nodes);
    let mut browser = logged_in(&front).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(browser.log_in("ADMIN", "KYLIN").await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "each node is asked once: {dialect:?}");
    assert!(browser.cookies.contains_key(COOKIE), "{dialect:?}");
    assert_eq!(storm(&browser, 3, 4).await, 0, "{dialect:?}");
}

in_each_dialect!(a_page_that_asks_for_its_user_sends_a_changed_password_once);
/// The node has lost its sessions, and the password has changed.
async fn a_page_that_asks_for_its_user_sends_a_changed_password_once(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = front(&nodes);
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 2, 4).await, 0);
    change_password(&nodes);
    nodes.nodes[0].forget_sessions();
    let pages: Vec<_> = (0..20)
        .map(|_| {
            let mut browser = browser.clone();
            tokio::spawn(async move { browser.get(WHO_AM_I).await.text().contains("ADMIN") })
        })
        .collect();
    for page in pages {
        assert!(page.await.unwrap(), "the other node knows the user: {dialect:?}");
    }
    assert_eq!(nodes.wrong_passwords(), 1, "{dialect:?}");
}
