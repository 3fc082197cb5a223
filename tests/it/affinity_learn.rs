//! Learning the cookie of a node keeps a login on it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::endpoint::{AdminState, EndpointId};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{Affinity, MemoryStore, Secret, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope};
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

use crate::support::cluster::InOrder;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{Front, endpoints};
use crate::support::kylin::{Says, request};
use crate::support::login::{ADMIN, Browser, Nodes};
use crate::support::recording::Recording;

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn learning(nodes: &Nodes, store: &MemoryStore) -> Front {
    learning_at(&nodes.addresses(), store)
}

fn learning_at(nodes: &[SocketAddr], store: &MemoryStore) -> Front {
    let sessions = Sessions::local(store.clone(), secret());
    Front::with(nodes, |proxy| proxy.affinity(Affinity::learn(sessions)))
}

fn id(text: &str) -> EndpointId {
    EndpointId::new(text).unwrap()
}

in_each_dialect!(round_robin_loses_logins_and_learning_loses_none);
async fn round_robin_loses_logins_and_learning_loses_none(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let plain = Front::over(&nodes.addresses());
    let mut user = Browser::default();
    user.log_in(&plain).await;
    let mut lost = 0;
    for _ in 0..6 {
        lost += usize::from(user.query(&plain).await.is_none());
    }
    assert_eq!(lost, 4, "two of three nodes do not know the user: {dialect:?}");

    let front = learning(&nodes, &MemoryStore::new());
    let mut homes = BTreeSet::new();
    for _ in 0..6 {
        let mut user = Browser::default();
        user.log_in(&front).await;
        let home = user.query(&front).await.expect("logged in");
        for _ in 0..8 {
            assert_eq!(user.query(&front).await, Some(home), "{dialect:?}");
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3, "new sessions go where the policy has them");
}

in_each_dialect!(a_login_that_changes_the_id_binds_the_new_one_and_forgets_the_old_one);
async fn a_login_that_changes_the_id_binds_the_new_one_and_forgets_the_old_one(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let store = MemoryStore::new();
    let front = learning(&nodes, &store);
    let mut user = Browser::default();
    for _ in 0..5 {
        user.log_in(&front).await;
        for _ in 0..3 {
            assert!(user.query(&front).await.is_some());
        }
    }
    assert_eq!(store.len(), 1, "one session, under its last id");
}

in_each_dialect!(logging_out_forgets_the_session);
async fn logging_out_forgets_the_session(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 2).await;
    let store = MemoryStore::new();
    let front = learning(&nodes, &store);
    let mut user = Browser::default();
    user.log_in(&front).await;
    assert_eq!((store.len(), nodes.sessions()), (1, 1));
    user.get(&front, "/kylin/j_spring_security_logout").await;
    assert_eq!(nodes.sessions(), 0, "it reached the node that had the session");
    // Kylin 5 does not delete its cookie, so the binding stays until it expires.
    assert_eq!((store.is_empty(), user.cookies.is_empty()), (!is_v5(dialect), !is_v5(dialect)));
}

in_each_dialect!(an_id_that_no_node_has_issued_binds_nothing, V4);
/// Session fixation: an id that an attacker plants in a victim's browser must not be bound.
async fn an_id_that_no_node_has_issued_binds_nothing(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let store = MemoryStore::new();
    let front = learning(&nodes, &store);
    let mut user = Browser::default();
    for path in ["/kylin/", "/kylin/api/user/authentication", "/kylin/api/admin/version", "/kylin/api/projects"] {
        for id in ["FIXED", "6465616462656566", "x.0", &"F".repeat(65_000)] {
            user.cookies.insert("JSESSIONID".into(), id.chars().take(7000).collect());
            user.get(&front, path).await;
        }
        user.get(&front, "/kylin/api/projects;jsessionid=FIXED").await;
    }
    assert!(store.is_empty(), "{store:?}");
    user.cookies.insert("JSESSIONID".into(), "FIXED".into());
    user.log_in(&front).await;
    assert_eq!(store.len(), 1, "the node's own id, and not the one that came");
    let mut thief = Browser::default();
    thief.cookies.insert("JSESSIONID".into(), "FIXED".into());
    for _ in 0..3 {
        assert_eq!(thief.query(&front).await, None);
    }
    assert!(user.query(&front).await.is_some());
    assert_eq!(store.len(), 1);
}

in_each_dialect!(a_draining_node_keeps_its_sessions_and_takes_no_new_ones);
async fn a_draining_node_keeps_its_sessions_and_takes_no_new_ones(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 2).await;
    let front = learning(&nodes, &MemoryStore::new());
    let mut old = Browser::default();
    old.log_in(&front).await;
    let home = old.query(&front).await.unwrap();
    front.proxy.cluster().set_admin_state(&id(&home.to_string()), AdminState::Drain).unwrap();
    for _ in 0..4 {
        let mut new = Browser::default();
        new.log_in(&front).await;
        assert_eq!(new.query(&front).await, Some(1 - home));
        assert_eq!(old.query(&front).await, Some(home));
    }
}

in_each_dialect!(the_session_of_a_dead_node_moves_with_one_login_and_stays_when_the_node_returns);
async fn the_session_of_a_dead_node_moves_with_one_login_and_stays_when_the_node_returns(dialect: Dialect) {
    let mut nodes = Nodes::of(dialect, 3).await;
    let front = learning(&nodes, &MemoryStore::new());
    let mut user = Browser::default();
    user.log_in(&front).await;
    let home = user.query(&front).await.unwrap();
    let address = nodes.served[home].addr();
    nodes.served.remove(home).kill().await;

    assert_eq!(user.query(&front).await, None, "another node responses, and does not know the user");
    user.log_in(&front).await;
    let new_home = user.query(&front).await.unwrap();
    assert_ne!(new_home, home);
    let back = nodes.nodes[home].serve(address).await.unwrap();
    for _ in 0..6 {
        assert_eq!(user.query(&front).await, Some(new_home));
    }
    drop(back);
}

/// Returns a Kylin-aware front end that does not know the nodes' sessions. Its policy always picks
/// the first eligible node, so that only a search finds the others.
fn restarted(nodes: &Nodes, store: &MemoryStore) -> Front {
    let affinity = Affinity::learn(Sessions::local(store.clone(), secret()));
    let front = Front::kylin(endpoints(&nodes.addresses()), |proxy| proxy.affinity(affinity));
    front.proxy.cluster().set_balancer(InOrder);
    front
}

/// Logs in as many users as given at each node, in the order of the nodes.
async fn users_at_each(nodes: &Nodes, count: usize) -> Vec<Browser> {
    let mut users = Vec::new();
    for address in nodes.addresses() {
        let front = learning_at(&[address], &MemoryStore::new());
        for _ in 0..count {
            let mut user = Browser::default();
            user.log_in(&front).await;
            users.push(user);
        }
    }
    users
}

/// Returns how often nodes refused a session because they do not know it.
fn refusals(nodes: &Nodes) -> u64 {
    nodes.nodes.iter().map(|node| node.stats().unauthorized).sum()
}

in_each_dialect!(a_front_end_binds_a_session_of_unknown_origin_to_the_node_that_serves_it);
/// A plain front end does not search.
async fn a_front_end_binds_a_session_of_unknown_origin_to_the_node_that_serves_it(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 2).await;
    let mut user = users_at_each(&nodes, 1).await.remove(1);
    let store = MemoryStore::new();
    let front = learning(&nodes, &store);
    let set = |state| front.proxy.cluster().set_admin_state(&id("0"), state).unwrap();
    front.proxy.cluster().set_balancer(InOrder);
    assert_eq!(user.query(&front).await, None);
    assert!(store.is_empty(), "a node that refuses a session does not have it");
    set(AdminState::Maintenance);
    assert_eq!(user.query(&front).await, Some(1));
    set(AdminState::Ready);
    for _ in 0..3 {
        assert_eq!(user.query(&front).await, Some(1));
    }
}

in_each_dialect!(after_a_restart_a_page_still_learns_who_is_logged_in);
async fn after_a_restart_a_page_still_learns_who_is_logged_in(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 4).await;
    let mut users = users_at_each(&nodes, 1).await;
    let store = MemoryStore::new();
    let front = restarted(&nodes, &store);
    for user in &mut users {
        // The first request of Kylin's web interface when its page is reloaded.
        let response = user.get(&front, "/kylin/api/user/authentication").await;
        assert!(response.text().contains("\"ADMIN\""), "{dialect:?}: {}", response.text());
    }
    let stranger =
        Browser { cookies: users[0].cookies.keys().map(|name| (name.clone(), "UNKNOWN".to_owned())).collect() };
    let response = stranger.clone().get(&front, "/kylin/api/user/authentication").await;
    assert!(!response.text().contains("ADMIN"), "{dialect:?}: {}", response.text());
    assert!(store.is_empty(), "a call that needs no login binds nothing");
}

in_each_dialect!(asking_who_is_logged_in_changes_no_binding);
/// A node that does not know the session responds with 200 and no user.
async fn asking_who_is_logged_in_changes_no_binding(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let mut user = users_at_each(&nodes, 1).await.remove(2);
    let store = MemoryStore::new();
    let front = restarted(&nodes, &store);
    assert_eq!(user.query(&front).await, Some(2));
    front.proxy.cluster().set_admin_state(&id("2"), AdminState::Maintenance).unwrap();
    let response = user.get(&front, "/kylin/api/user/authentication").await;
    assert!(!response.text().contains("ADMIN"), "{dialect:?}: {}", response.text());
    front.proxy.cluster().set_admin_state(&id("2"), AdminState::Ready).unwrap();
    let refused = refusals(&nodes);
    assert_eq!((user.query(&front).await, refusals(&nodes), store.len()), (Some(2), refused, 1), "{dialect:?}");
}

in_each_dialect!(after_a_restart_a_logout_ends_the_session_at_its_node);
async fn after_a_restart_a_logout_ends_the_session_at_its_node(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 4).await;
    let mut users = users_at_each(&nodes, 2).await;
    let front = restarted(&nodes, &MemoryStore::new());
    for (left, user) in (0..users.len()).rev().zip(&mut users) {
        let mut thief = user.clone();
        let response = user.get(&front, "/kylin/j_spring_security_logout").await;
        assert_eq!(response.status(), 302, "{dialect:?}");
        assert_eq!(user.cookies.is_empty(), !is_v5(dialect), "the cookie is deleted as by one node");
        assert_eq!((nodes.sessions(), thief.query(&front).await), (left, None), "{dialect:?}");
    }
}

in_each_dialect!(after_a_restart_all_sessions_are_found_and_bound_at_once);
async fn after_a_restart_all_sessions_are_found_and_bound_at_once(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 5).await;
    // More than the budget for retries of failed requests.
    let mut users = users_at_each(&nodes, 30).await;
    let store = MemoryStore::new();
    let front = restarted(&nodes, &store);
    for (n, user) in users.iter_mut().enumerate() {
        assert_eq!(user.query(&front).await, Some(n / 30), "{dialect:?}");
    }
    let refused = refusals(&nodes);
    for (n, user) in users.iter_mut().enumerate() {
        assert_eq!(user.query(&front).await, Some(n / 30), "{dialect:?}");
    }
    assert_eq!((refusals(&nodes), store.len()), (refused, users.len()), "{dialect:?}");
}

in_each_dialect!(after_a_restart_a_session_at_a_draining_node_is_found);
async fn after_a_restart_a_session_at_a_draining_node_is_found(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let mut user = users_at_each(&nodes, 1).await.remove(2);
    let front = restarted(&nodes, &MemoryStore::new());
    front.proxy.cluster().set_admin_state(&id("2"), AdminState::Drain).unwrap();
    assert_eq!(user.query(&front).await, Some(2), "{dialect:?}");
    let refused = refusals(&nodes);
    assert_eq!((user.query(&front).await, refusals(&nodes)), (Some(2), refused), "bound: {dialect:?}");
}

in_each_dialect!(two_front_ends_over_one_store_send_a_session_to_one_node);
async fn two_front_ends_over_one_store_send_a_session_to_one_node(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let store = MemoryStore::new();
    let fronts = [(); 2].map(|()| {
        let sessions = Sessions::remote(store.clone(), secret());
        Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions)))
    });
    for n in 0..20 {
        let mut user = Browser::default();
        user.log_in(&fronts[n % 2]).await;
        let home = user.query(&fronts[(n + 1) % 2]).await.expect("known at the other front end at once");
        for front in &fronts {
            assert_eq!(user.query(front).await, Some(home));
        }
    }
}

/// The store is emptied, and its connections stay open.
#[tokio::test]
async fn bindings_that_the_store_lost_are_written_again_when_they_are_used() {
    let nodes = Nodes::of(KylinVersion::V4, 3).await;
    let store = Recording::over(MemoryStore::new());
    let sessions = Sessions::builder(store.clone(), secret()).staleness(Duration::ZERO).build().unwrap();
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions)));
    let mut users = vec![Browser::default(); 6];
    let mut homes = Vec::new();
    for user in &mut users {
        user.log_in(&front).await;
        homes.push(user.query(&front).await);
    }
    for _ in 0..2 {
        store.lose_all().await;
        for (user, home) in users.iter_mut().zip(&homes) {
            assert_eq!(user.query(&front).await, *home);
        }
        assert_eq!((refusals(&nodes), store.len()), (0, users.len()));
    }
}

/// The response of a node, by the path of the request.
fn scripted(name: &'static str) -> Endpoint<Scripted> {
    let node = Scripted::new(move |request: Request<Body>| async move {
        let mut response = Response::new(Body::from(name));
        match request.uri().path() {
            "/kylin/api/issue" => _ = response.headers_mut().insert("set-cookie", "JSESSIONID=A1".parse().unwrap()),
            "/kylin/api/refuse" => *response.status_mut() = StatusCode::UNAUTHORIZED,
            // Spring keeps the refused request in a session, to continue with it after the login.
            "/kylin/api/401" | "/kylin/api/500" => {
                *response.status_mut() = request.uri().path()[11..].parse().unwrap();
                response.headers_mut().insert("set-cookie", "JSESSIONID=B1".parse().unwrap());
            }
            _ => {}
        }
        Ok(response)
    });
    Endpoint::new(name, node).unwrap()
}

async fn ask(proxy: &Proxy<Scripted>, path: &str, cookie: &str) -> String {
    let request = Request::get(path).header("host", "kylin").header("cookie", cookie).body(Body::empty()).unwrap();
    let response = proxy.forward(ClientAddr::Unix, request).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn ids_are_found_in_cookies_and_in_paths() {
    let cluster = Cluster::builder().endpoints(["a", "b", "c"].map(scripted)).build().unwrap();
    let proxy = Proxy::plain(cluster).affinity(Affinity::learn(Sessions::in_memory().unwrap())).build().unwrap();
    let home = ask(&proxy, "/kylin/api/issue", "x=y").await;
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await, home);
        assert_eq!(ask(&proxy, "/kylin/api/x", "JSESSIONID=other; JSESSIONID=\"A1\"").await, home, "any that is known");
        assert_eq!(ask(&proxy, "/kylin/api/x;jsessionid=A1", "x=y").await, home);
    }
}

/// LDAP may be down.
#[tokio::test]
async fn a_failed_login_does_not_unbind_a_session() {
    let cluster = Cluster::builder().endpoints(["a", "b", "c"].map(scripted)).build().unwrap();
    let proxy = Proxy::plain(cluster).affinity(Affinity::learn(Sessions::in_memory().unwrap())).build().unwrap();
    let home = ask(&proxy, "/kylin/api/issue", "x=y").await;
    for status in ["401", "500"] {
        ask(&proxy, &format!("/kylin/api/{status}"), "JSESSIONID=A1").await;
        for _ in 0..4 {
            assert_eq!(ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await, home, "{status}");
        }
    }
}

#[tokio::test]
async fn a_session_whose_node_is_only_full_is_not_moved() {
    let cluster = Cluster::builder()
        .endpoints(["a", "b"].map(scripted).map(|e| e.max_in_flight(NonZeroU32::new(1))))
        .build()
        .unwrap();
    let proxy =
        Proxy::plain(cluster.clone()).affinity(Affinity::learn(Sessions::in_memory().unwrap())).build().unwrap();
    let home = ask(&proxy, "/kylin/api/issue", "x=y").await;
    let view = Request::new(());
    let view = kylin_lb::RequestView::of(&view, ClientAddr::Unix);
    let held = cluster.pick_bound(&view, &Default::default(), &home).unwrap();
    assert_ne!(ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await, home);
    drop(held);
    assert_eq!(ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await, home);

    // After maintenance, the endpoint that served the session meanwhile keeps it.
    cluster.set_admin_state(&id(&home), AdminState::Maintenance).unwrap();
    let new_home = ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await;
    assert_ne!(new_home, home);
    cluster.set_admin_state(&id(&home), AdminState::Ready).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "/kylin/api/x", "JSESSIONID=A1").await, new_home);
    }
}

in_each_dialect!(a_failure_of_the_node_of_a_session_is_not_hidden_by_a_refusal_of_another_node);
async fn a_failure_of_the_node_of_a_session_is_not_hidden_by_a_refusal_of_another_node(dialect: Dialect) {
    for count in [2, 3] {
        let nodes = Nodes::of(dialect, count).await;
        let store = MemoryStore::new();
        let front = restarted(&nodes, &store);
        let mut user = Browser::default();
        user.log_in(&front).await;
        let home = user.query(&front).await.unwrap();
        for status in [500, 502, 503, 504] {
            let page = Fault::Html(StatusCode::from_u16(status).unwrap());
            nodes.nodes[home].faults().inject_times(1, FaultScope::Queries, page);
            let (before, refused) = (user.cookies.clone(), refusals(&nodes));
            let response = user.send(&front, "POST", "/kylin/api/query", JSON, SELECT).await;
            assert_eq!(response.status(), status, "{dialect:?}: {}", response.text());
            assert!(response.text().contains(&status.to_string()), "the page of the node: {}", response.text());
            assert!(refusals(&nodes) > refused, "it was retried");
            assert_eq!(user.cookies, before, "no cookie of the other node");
            assert_eq!(user.query(&front).await, Some(home), "{dialect:?}: the session stays");
        }
        assert_eq!(store.len(), 1);
    }
}

const JSON: &str = "Content-Type: application/json\r\nUser-Agent: test\r\n";
const SELECT: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

/// Returns a node that sets a session cookie at a login. It responds to queries with `says` if the
/// session is its own, and otherwise like a node that does not know the session.
fn of_session(name: &'static str, says: Says, redirects: bool) -> Endpoint<Scripted> {
    let node = Scripted::new(move |request: Request<Body>| {
        let is_own = request.headers().get("cookie").is_some_and(|cookie| cookie.to_str().unwrap().contains(name));
        let response = match request.uri().path() {
            "/kylin/api/query" if is_own => says.say(request),
            "/kylin/api/query" if redirects => {
                Ok(Response::builder().status(302).header("location", "/kylin/login").body(Body::empty()).unwrap())
            }
            "/kylin/api/query" => Ok(Response::builder().status(401).body(Body::empty()).unwrap()),
            _ => {
                let cookie = format!("JSESSIONID={name}; Path=/kylin");
                Ok(Response::builder().header("set-cookie", cookie).body(Body::from("{}")).unwrap())
            }
        };
        std::future::ready(response)
    });
    Endpoint::new(name, node).unwrap().outlier(false)
}

#[tokio::test]
async fn the_client_gets_the_failure_that_the_node_of_its_session_responded_with() {
    let page = |length: usize| Says::Html(503, "x".repeat(length));
    for redirects in [false, true] {
        // A node that gives no response may be gone with its sessions, so the client must log in.
        let asked_for_login = if redirects { 302 } else { 401 };
        for (says, status) in [
            (page(10), 503),
            (Says::Nothing(SendErrorKind::Broken), asked_for_login),
            (Says::Nothing(SendErrorKind::Connect), asked_for_login),
        ] {
            let nodes = ["a", "b"].map(|name| of_session(name, says.clone(), redirects));
            let proxy = Proxy::builder(Cluster::builder().endpoints(nodes).build().unwrap()).build().unwrap();
            let login = request("POST /kylin/api/user/authentication", &[("authorization", ADMIN)], "");
            let response = proxy.forward(ClientAddr::Unix, login).await;
            let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
            let query = || request("POST /kylin/api/query", &[("cookie", &cookie)], SELECT);
            let (got, text) = crate::support::kylin::ask(&proxy, query()).await;
            assert_eq!(got, status, "{says:?}: {text}");
        }
    }
}
