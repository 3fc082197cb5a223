//! One login serves every node, although the nodes do not share their sessions.

use std::time::Duration;

use kylin_lb::balance::{LeastConn, RoundRobin};
use kylin_lb::session::{Affinity, CookieIssue, LoginRelay, SameSite, Secret, Sessions};
use kylin_lb::testing::kylin::Dialect;

use crate::support::browser::{Browser, basic};
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{Front, eventually, until};
use crate::support::login_relay::{COOKIE, Nodes, logged_in, secret, storm};
use crate::support::recording::Recording;

in_each_dialect!(without_the_relay_a_login_is_lost_at_the_next_node);
/// Shows the problem that the login relay solves.
async fn without_the_relay_a_login_is_lost_at_the_next_node(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let addresses: Vec<_> = nodes.served.iter().map(|served| served.as_ref().unwrap().addr()).collect();
    let front = Front::over(&addresses);
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    assert_eq!(browser.query().await.status(), 401);
}

in_each_dialect!(one_login_serves_every_node_under_every_policy);
async fn one_login_serves_every_node_under_every_policy(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    for (n, front) in [nodes.front(), nodes.front_with(LeastConn::new(), |relay| relay)].iter().enumerate() {
        let browser = logged_in(front).await;
        assert_eq!(storm(&browser, 10, 30).await, 0);
        // The client logs in at one node, the front end at the others: one login at each node.
        assert_eq!(nodes.logins(), [n as u64 + 1; 3]);
    }
    assert!(nodes.nodes.iter().all(|node| node.stats().queries > 50), "{:?}", nodes.nodes);
    assert_eq!(nodes.wrong_passwords(), 0);
}

in_each_dialect!(many_requests_at_once_cause_one_login_per_node);
async fn many_requests_at_once_cause_one_login_per_node(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 60, 1).await, 0);
    assert_eq!(nodes.logins(), [1, 1, 1]);
    nodes.forget();
    assert_eq!(storm(&browser, 60, 1).await, 0);
    assert_eq!(nodes.logins(), [2, 2, 2]);
}

in_each_dialect!(a_node_that_lost_its_sessions_gets_a_new_login_without_an_error_for_the_client);
async fn a_node_that_lost_its_sessions_gets_a_new_login_without_an_error_for_the_client(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 1, 4).await, 0);
    nodes.nodes[1].forget_sessions();
    for _ in 0..6 {
        let response = browser.query().await;
        assert_eq!(response.status(), 200, "{}", response.text());
        assert_eq!(response.header("set-cookie"), None);
    }
    assert_eq!(nodes.logins(), [1, 2]);
}

in_each_dialect!(a_killed_node_costs_no_login);
async fn a_killed_node_costs_no_login(dialect: Dialect) {
    let mut nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 5, 5).await, 0);
    let address = nodes.served[1].as_ref().unwrap().addr();
    nodes.served[1].take().unwrap().kill().await;
    assert_eq!(storm(&browser, 5, 20).await, 0);
    // The node restarts without its sessions.
    nodes.nodes[1].forget_sessions();
    nodes.served[1] = Some(nodes.nodes[1].serve(address).await.unwrap());
    assert_eq!(storm(&browser, 5, 20).await, 0);
    assert_eq!(nodes.logins(), [1, 2, 1]);
}

in_each_dialect!(a_session_survives_logins_that_fail_for_other_reasons_than_the_password);
async fn a_session_survives_logins_that_fail_for_other_reasons_than_the_password(dialect: Dialect) {
    use kylin_lb::testing::kylin::{Fault, FaultScope};
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front_with(RoundRobin::new(), |relay| relay.clock(nodes.clock.clone()));
    let browser = logged_in(&front).await;
    nodes.nodes[1].faults().inject(FaultScope::Sessions, Fault::Html(http::StatusCode::BAD_GATEWAY));
    nodes.nodes[2].faults().inject(FaultScope::Sessions, Fault::Close);
    assert_eq!(storm(&browser, 3, 10).await, 0);
    nodes.nodes[1].faults().clear();
    nodes.nodes[2].faults().clear();
    // Several logins have failed.
    nodes.clock.advance(Duration::from_secs(30));
    assert_eq!(storm(&browser, 3, 10).await, 0);
    assert!(nodes.nodes.iter().all(|node| node.stats().queries > 0));
}

in_each_dialect!(a_refused_login_is_attempted_once_across_sessions_and_front_ends);
async fn a_refused_login_is_attempted_once_across_sessions_and_front_ends(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let [front, other_front] =
        [(); 2].map(|()| nodes.front_with(RoundRobin::new(), |relay| relay.clock(nodes.clock.clone())));
    let (mut one, two) = (logged_in(&front).await, logged_in(&other_front).await);
    assert_eq!(storm(&one, 3, 3).await + storm(&two, 3, 3).await, 0);
    let _ = nodes.metastore.clone().user("ADMIN", "changed", true);
    nodes.forget();
    // Twenty concurrent requests of one session at three nodes, then another session of the same
    // user at another front end.
    assert_eq!(storm(&one, 20, 1).await, 20);
    assert_eq!(nodes.wrong_passwords(), 1);
    assert_eq!(storm(&two, 20, 1).await, 20);
    assert_eq!(nodes.wrong_passwords(), 1);
    let mut refusals = 1;
    if !is_v5(dialect) {
        // LDAP may have been down, so a second node is asked later.
        nodes.clock.advance(Duration::from_secs(60));
        assert_eq!(storm(&one, 20, 1).await, 20);
        assert_eq!(storm(&two, 20, 1).await, 20);
        refusals = 2;
    }
    assert_eq!(nodes.wrong_passwords(), refusals);

    let response = one.query().await;
    assert_eq!(response.status(), 401);
    assert!(!one.cookies.contains_key(COOKIE), "the cookie of an ended session is deleted");
    assert_eq!(one.log_in("ADMIN", "changed").await.status(), 200);
    assert_eq!(storm(&one, 3, 10).await, 0);
    assert_eq!(nodes.wrong_passwords(), refusals);
}

in_each_dialect!(refused_credentials_are_used_again_once_a_client_has_logged_in_with_them, V5);
async fn refused_credentials_are_used_again_once_a_client_has_logged_in_with_them(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let browser = logged_in(&front).await;
    let _ = nodes.metastore.clone().user("ADMIN", "changed", true);
    assert_eq!(storm(&browser, 1, 4).await, 0, "refused at the other node, it stays at the one that knows it");
    nodes.forget();
    assert_eq!((storm(&browser, 1, 2).await, nodes.wrong_passwords()), (2, 1), "no node knows it, it has ended");
    let _ = nodes.metastore.clone().user("ADMIN", "KYLIN", true);
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 3, 10).await, 0);
}

in_each_dialect!(a_wrong_password_of_a_client_affects_no_session);
async fn a_wrong_password_of_a_client_affects_no_session(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let mut other = Browser::new(front.address());
    assert_eq!(other.log_in("ADMIN", "guess").await.status(), 401);
    assert!(other.cookies.is_empty() && nodes.store.is_empty());
    assert_eq!(nodes.wrong_passwords(), 1);

    let mut browser = logged_in(&front).await;
    let before = browser.cookies.clone();
    assert_eq!(browser.log_in("ADMIN", "guess").await.status(), 401);
    assert_eq!(browser.cookies, before, "the session continues");
    assert_eq!(storm(&browser, 2, 10).await, 0);
    assert_eq!(nodes.wrong_passwords(), 2);
}

in_each_dialect!(a_login_with_other_credentials_starts_another_session_and_ends_the_old_one);
async fn a_login_with_other_credentials_starts_another_session_and_ends_the_old_one(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 1, 4).await, 0);
    let mut old = browser.clone();
    assert_eq!(browser.log_in("ANALYST", "ANALYST").await.status(), 200);
    assert_ne!(browser.cookies, old.cookies);
    for _ in 0..4 {
        let response = browser.get("/kylin/api/user/authentication").await;
        assert!(response.text().contains("ANALYST"), "{}", response.text());
    }
    assert_eq!(old.query().await.status(), 401);
    assert_eq!(nodes.sessions(), [1, 1], "of the new session only");
    assert_eq!(nodes.store.len(), 1);
}

in_each_dialect!(a_login_with_the_same_credentials_renews_the_session);
async fn a_login_with_the_same_credentials_renews_the_session(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    let before = browser.cookies.clone();
    for _ in 0..6 {
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    }
    assert_eq!(browser.cookies, before);
    assert_eq!(storm(&browser, 2, 10).await, 0);
    assert_eq!(nodes.store.len(), 1);
}

in_each_dialect!(cookies_of_nodes_and_of_the_front_end_are_kept_apart);
async fn cookies_of_nodes_and_of_the_front_end_are_kept_apart(dialect: Dialect) {
    let nodes = Nodes::start(1, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    assert_eq!(browser.cookies.len(), 1, "{:?}", browser.cookies);
    let id = browser.cookies[COOKIE].clone();
    browser.cookies.insert("theme".into(), "dark".into());
    browser.cookies.insert("JSESSIONID".into(), "planted".into());
    let response = browser.get("/demo/head").await;
    let seen = response.text();
    assert!(seen.contains("theme=dark; "), "{seen}");
    assert!(!seen.contains(COOKIE) && !seen.contains(&id) && !seen.contains("planted"), "{seen}");
    assert!(!seen.to_lowercase().contains("authorization"), "{seen}");
}

in_each_dialect!(the_cookie_has_the_attributes_that_were_chosen);
async fn the_cookie_has_the_attributes_that_were_chosen(dialect: Dialect) {
    let nodes = Nodes::start(1, dialect).await;
    let front = nodes.front_with(RoundRobin::new(), |relay| {
        relay.name("SID").unwrap().path("/").unwrap().secure(true).same_site(Some(SameSite::Strict))
    });
    let response = Browser::new(front.address()).log_in("ADMIN", "KYLIN").await;
    let lines = response.head.all("set-cookie");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("SID=") && lines[0].ends_with("; Path=/; HttpOnly; Secure; SameSite=Strict"),
        "{lines:?}"
    );
}

in_each_dialect!(a_client_that_sends_credentials_and_cookies_has_one_login_per_node);
async fn a_client_that_sends_credentials_and_cookies_has_one_login_per_node(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    // JDBC logs in, then sends Basic credentials and the cookie with each request.
    let mut driver = Browser::insistent(front.address(), "ADMIN", "KYLIN");
    assert_eq!(driver.log_in("ADMIN", "KYLIN").await.status(), 200);
    assert_eq!(storm(&driver, 10, 10).await, 0);
    assert_eq!(nodes.logins(), [1, 1, 1]);
    assert_eq!(nodes.sessions(), [1, 1, 1]);
}

in_each_dialect!(a_client_without_cookies_leaves_no_sessions_in_the_store);
async fn a_client_without_cookies_leaves_no_sessions_in_the_store(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    for _ in 0..60 {
        let response = Browser::insistent(front.address(), "ADMIN", "KYLIN").query().await;
        assert_eq!((response.status(), response.header("set-cookie")), (200, None));
    }
    assert!(nodes.store.is_empty());
    assert_eq!(nodes.sessions(), [1, 1, 1], "one session at each node, which is reused");
    // A wrong password does not reuse the session of the right one.
    for _ in 0..2 {
        assert_eq!(Browser::insistent(front.address(), "ADMIN", "guess").query().await.status(), 401);
    }
    nodes.forget();
    for _ in 0..6 {
        assert_eq!(Browser::insistent(front.address(), "ADMIN", "KYLIN").query().await.status(), 200);
    }
}

in_each_dialect!(sessions_can_be_issued_to_all_clients_that_send_credentials);
async fn sessions_can_be_issued_to_all_clients_that_send_credentials(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front_with(RoundRobin::new(), |relay| relay.cookie_issue(CookieIssue::WithCredentials));
    let mut curl = Browser::insistent(front.address(), "ADMIN", "KYLIN");
    assert_eq!(curl.query().await.status(), 200);
    curl.authorization = None;
    assert_eq!(storm(&curl, 2, 10).await, 0);
}

in_each_dialect!(two_front_ends_over_one_store_serve_the_same_sessions);
async fn two_front_ends_over_one_store_serve_the_same_sessions(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let (one, two) = (nodes.front(), nodes.front());
    let browser = logged_in(&one).await;
    let at_two = Browser { front: two.address(), ..browser.clone() };
    let (failed_one, failed_two) = tokio::join!(storm(&browser, 10, 20), storm(&at_two, 10, 20));
    assert_eq!(failed_one + failed_two, 0);
    // Two front ends may log in at the same time. One of the two sessions at the node is then
    // dropped.
    assert!(nodes.logins().iter().all(|logins| (1..=2).contains(logins)), "{:?}", nodes.logins());
    assert_eq!(nodes.sessions(), [1, 1, 1]);
    assert_eq!(nodes.store.len(), 1);
}

in_each_dialect!(a_front_end_with_a_new_secret_serves_the_sessions_of_the_old_one);
async fn a_front_end_with_a_new_secret_serves_the_sessions_of_the_old_one(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let browser = logged_in(&nodes.front()).await;
    let rotated = Secret::new([8; 32]).with_previous(secret());
    let sessions = || Sessions::remote(nodes.store.clone(), Secret::new([8; 32]));
    let front = nodes.front_over(sessions(), rotated, RoundRobin::new(), |relay| relay);
    let browser = Browser { front: front.address(), ..browser };
    assert_eq!(storm(&browser, 3, 10).await, 0);
    assert_eq!(nodes.logins(), [1, 1]);

    // Without the old secret its sessions are unknown and their cookies are deleted.
    let front = nodes.front_over(sessions(), Secret::new([8; 32]), RoundRobin::new(), |relay| relay);
    let mut browser = Browser { front: front.address(), ..browser };
    assert_eq!(browser.query().await.status(), 401);
    assert!(browser.cookies.is_empty());
}

in_each_dialect!(an_invented_cookie_is_deleted);
async fn an_invented_cookie_is_deleted(dialect: Dialect) {
    let nodes = Nodes::start(1, dialect).await;
    let front = nodes.front();
    for value in ["nonsense", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "\"\""] {
        let mut browser = Browser::new(front.address());
        browser.cookies.insert(COOKIE.into(), value.into());
        assert_eq!(browser.query().await.status(), 401);
        assert!(browser.cookies.is_empty(), "{value}");
        // A client that keeps cookies and sends credentials gets a session.
        browser.cookies.insert(COOKIE.into(), value.into());
        browser.authorization = Some(basic("ADMIN", "KYLIN"));
        assert_eq!(browser.query().await.status(), 200);
        assert_ne!(browser.cookies[COOKIE], value);
    }
}

in_each_dialect!(a_request_with_a_body_beyond_the_replay_limit_finds_its_session);
async fn a_request_with_a_body_beyond_the_replay_limit_finds_its_session(dialect: Dialect) {
    let nodes = Nodes::start(1, dialect).await;
    let relay = LoginRelay::new(Sessions::remote(nodes.store.clone(), secret()), secret());
    let front = nodes.front_of(RoundRobin::new(), Affinity::login_relay(relay), 10);
    let browser = logged_in(&front).await;
    assert_eq!(storm(&browser, 1, 2).await, 0);
    nodes.forget();
    assert_eq!(storm(&browser, 1, 2).await, 0);
    assert_eq!(nodes.logins(), [2]);
}

in_each_dialect!(a_node_that_lost_the_session_still_names_the_user);
/// Without a login, 2.x-4.x respond with `{}` there, which would send the user to the login page.
async fn a_node_that_lost_the_session_still_names_the_user(dialect: Dialect) {
    let nodes = Nodes::start(2, dialect).await;
    let front = nodes.front();
    let mut browser = logged_in(&front).await;
    nodes.forget();
    for _ in 0..4 {
        let response = browser.get("/kylin/api/user/authentication").await;
        assert!(response.text().contains("ADMIN"), "{}", response.text());
    }
}

in_each_dialect!(a_login_form_logs_in_at_every_node_and_a_wrong_one_nowhere);
async fn a_login_form_logs_in_at_every_node_and_a_wrong_one_nowhere(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let front = nodes.front();
    let mut browser = Browser::new(front.address());
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let response = browser.ask("POST /kylin/login", &form, "username=ADMIN&password=wrong").await;
    assert_eq!((response.status(), browser.cookies.len()), (302, 0));
    let response = browser.ask("POST /kylin/login", &form, "username=ADMIN&password=K%59LIN").await;
    assert_eq!((response.status(), browser.cookies.len()), (302, 1));
    assert_eq!(storm(&browser, 3, 10).await, 0);
    assert_eq!(nodes.wrong_passwords(), 1);
}

in_each_dialect!(an_unavailable_store_costs_no_login);
async fn an_unavailable_store_costs_no_login(dialect: Dialect) {
    let nodes = Nodes::start(3, dialect).await;
    let store = Recording::over(nodes.store.clone());
    let front =
        || nodes.front_over(Sessions::remote(store.clone(), secret()), secret(), RoundRobin::new(), |relay| relay);
    let (one, two) = (front(), front());
    let mut before = logged_in(&one).await;
    // Not every node knows the session, so logins occur while the store is unavailable.
    assert_eq!(before.query().await.status(), 200);
    store.set_unavailable(true);
    assert_eq!(storm(&before, 5, 10).await, 0);
    nodes.forget();
    assert_eq!(storm(&before, 5, 10).await, 0);
    let meanwhile = logged_in(&one).await;
    assert_eq!(storm(&meanwhile, 5, 10).await, 0);
    let mut gone = logged_in(&one).await;
    assert_eq!(gone.get("/kylin/j_spring_security_logout").await.status(), 302);

    // A front end that cannot look a session up keeps its cookie.
    let mut at_two = Browser { front: two.address(), ..meanwhile.clone() };
    assert_eq!(at_two.query().await.status(), 401);
    assert_eq!(at_two.cookies, meanwhile.cookies);

    store.set_unavailable(false);
    eventually(|| nodes.store.len() == 2, || format!("{} sessions in the store", nodes.store.len())).await;
    for browser in [before, meanwhile] {
        let at_two = Browser { front: two.address(), ..browser };
        // The circuit breaker of the other front end closes on its own.
        until("the session at the other front end", async || at_two.clone().query().await.status() == 200).await;
        assert_eq!(storm(&at_two, 5, 10).await, 0);
    }
}
