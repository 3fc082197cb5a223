//! A logout ends a relayed session everywhere.

use std::time::Duration;

use kylin_lb::balance::RoundRobin;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope};

use crate::support::browser::Browser;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::login_relay::{COOKIE, Nodes, logged_in, storm};

in_each_dialect!(a_logout_ends_the_session_in_the_store_and_at_every_node);
async fn a_logout_ends_the_session_in_the_store_and_at_every_node(dialect: Dialect) {
    let path = if is_v5(dialect) { "/kylin/api/j_spring_security_logout" } else { "/kylin/j_spring_security_logout" };
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 3, 3).await, 0);
    assert_eq!((nodes.sessions(), nodes.store.len()), (vec![1; 3], 1));

    let mut old = browser.clone();
    let response = browser.get(path).await;
    assert_eq!(response.status(), 302);
    assert!(browser.cookies.is_empty(), "{:?}", response.head);
    assert_eq!(response.head.all("set-cookie").len(), 1, "the node's own cookie is hidden: {:?}", response.head);
    assert_eq!((nodes.sessions(), nodes.store.len()), (vec![0; 3], 0));
    for _ in 0..3 {
        assert_eq!(old.query().await.status(), 401);
        old = Browser { cookies: old.cookies, ..Browser::new(front.address()) };
    }
    assert_eq!(nodes.logins(), [1, 1, 1], "no node sees another login");
}

in_each_dialect!(a_logout_at_one_front_end_ends_the_session_at_the_others);
async fn a_logout_at_one_front_end_ends_the_session_at_the_others(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let (one, two) = (nodes.front(), nodes.front());
    let browser = logged_in(&one).await;
    let mut at_two = Browser { front: two.address(), ..browser.clone() };
    assert_eq!(storm(&browser, 3, 5).await + storm(&at_two, 3, 5).await, 0);
    at_two.get("/kylin/j_spring_security_logout").await;
    assert_eq!(nodes.sessions(), [0, 0, 0]);
    assert_eq!(storm(&browser, 3, 5).await, 15);
    assert_eq!(nodes.logins(), [1, 1, 1]);
    assert_eq!(nodes.sessions(), [0, 0, 0]);
}

in_each_dialect!(a_logout_waits_for_nodes_within_its_timeout);
async fn a_logout_waits_for_nodes_within_its_timeout(dialect: Dialect) {
    let mut nodes = Nodes::start(3, dialect).await;
    let front = nodes.front_with(RoundRobin::new(), |relay| relay.logout_timeout(Duration::from_secs(2)));
    let mut browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 3, 5).await, 0);
    // One node hangs, one is killed. The client's own request goes to the third.
    for id in ["1", "2"] {
        front
            .proxy
            .cluster()
            .set_admin_state(&id.parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance)
            .unwrap();
    }
    nodes.nodes[1].faults().inject(FaultScope::Sessions, Fault::Stall);
    nodes.served[2].take().unwrap().kill().await;
    let mut old = browser.clone();
    assert_eq!(browser.get("/kylin/j_spring_security_logout").await.status(), 302);
    assert_eq!((nodes.sessions()[0], nodes.store.len()), (0, 0));
    assert_eq!(old.query().await.status(), 401);
}

in_each_dialect!(a_logout_without_a_session_is_passed_on);
async fn a_logout_without_a_session_is_passed_on(dialect: Dialect) {
    let nodes = Nodes::start(1, dialect).await;
    let front = nodes.front();
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.get("/kylin/j_spring_security_logout").await.status(), 302);
    browser.cookies.insert(COOKIE.into(), "nonsense".into());
    assert_eq!(browser.get("/kylin/j_spring_security_logout").await.status(), 302);
    assert!(browser.cookies.is_empty());
}
