//! Only its own node knows a running query. So the request goes to all nodes, and the client gets
//! one response.

use std::net::IpAddr;
use std::num::{NonZero, NonZeroU32};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use kylin_lb::balance::Attempted;
use kylin_lb::endpoint::{AdminState, Role};
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::observe::Termination;
use kylin_lb::proxy::{KylinRules, ReloadAccess};
use kylin_lb::session::{Affinity, LoginRelay, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Mode};
use kylin_lb::{Body, BufferBudget, ClientAddr, Cluster, Endpoint, Outcome, Proxy, RequestView};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::browser::{Browser, basic};
use crate::support::cluster::InOrder;
use crate::support::dialects::in_each_dialect;
use crate::support::front::{self, Front, refusal};
use crate::support::health::state;
use crate::support::http::RawResponse;
use crate::support::kylin::{Demo, Says, admin, ask, bytes, request, saying, scripted, sql};
use crate::support::login_relay::secret;
use crate::support::raw_node::{RawNode, ok, respond};

const LIST: &str = "GET /kylin/api/query/runningQueries";
const UNCONFIRMED: &str = "1 of 2 nodes did not confirm the stop; the query may run on there";

/// A query that runs on this node until it is stopped, or for far longer than the test.
async fn run_on(node: &KylinNode, address: std::net::SocketAddr) -> JoinHandle<RawResponse> {
    let before = node.stats().running;
    let name = node.name().to_owned();
    let task = tokio::spawn(async move {
        let mut client =
            crate::support::http::Connection::open(address).await.unwrap().read_timeout(Duration::from_secs(60));
        client
            .send(bytes("POST /kylin/api/query", &[], &sql(&format!("select '{name}', sleep_ms(600000)"))))
            .await
            .unwrap();
        client.response().await.unwrap()
    });
    node.wait_until(|stats| stats.running == before + 1).await.unwrap();
    task
}

/// The names of the nodes in a list of running queries, and the ids.
fn listed(response: &RawResponse) -> Vec<(String, String)> {
    assert_eq!(response.status(), 200, "{}", response.text());
    let list: Vec<Value> = serde_json::from_slice(&response.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(|query| (text(&query["server"]), text(&query["queryId"]))).collect()
}

fn servers(response: &RawResponse) -> Vec<String> {
    listed(response).into_iter().map(|(server, _)| server).collect()
}

in_each_dialect!(the_queries_of_all_nodes_are_listed_and_a_stop_reaches_the_one_that_runs_it, V4);
async fn the_queries_of_all_nodes_are_listed_and_a_stop_reaches_the_one_that_runs_it(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let front = demo.front(|proxy| proxy);
    let mut running = Vec::new();
    for n in 0..3 {
        running.push(run_on(&demo.nodes[n], demo.address(n)).await);
    }
    assert_eq!(servers(&admin(&front, LIST, "").await), ["q0", "q1", "q2"]);
    for n in [1, 2, 0] {
        let list = listed(&admin(&front, LIST, "").await);
        let (_, id) = list.iter().find(|(server, _)| *server == format!("q{n}")).unwrap();
        assert_eq!(admin(&front, &format!("PUT /kylin/api/query/{id}/stop"), "").await.status(), 200);
        demo.nodes[n].wait_until(|stats| stats.running == 0).await.unwrap();
    }
    assert_eq!(demo.sum(|stats| stats.stopped), 3, "each was stopped by itself");
    for task in running {
        assert!(task.await.unwrap().text().contains("stopped by an administrator"));
    }
    assert!(servers(&admin(&front, LIST, "").await).is_empty());
    front.idle().await;
}

in_each_dialect!(nodes_that_are_dead_or_slow_or_serve_no_queries_are_left_out, V4);
async fn nodes_that_are_dead_or_slow_or_serve_no_queries_are_left_out(dialect: Dialect) {
    let mut demo = Demo::start(dialect, 5).await;
    let mut endpoints = demo.endpoints();
    endpoints[1] = front::endpoint(1, demo.address(1), |b| b.head_timeout(Duration::from_secs(3)));
    demo.nodes[3].set_mode(Mode::Job);
    endpoints[3] = demo.endpoints().remove(3).roles(kylin_lb::endpoint::Role::Job);
    endpoints[4] = demo.endpoints().remove(4).admin_state(AdminState::Maintenance);
    let front = Front::kylin(endpoints, |proxy| proxy);
    let mut running = Vec::new();
    for n in [0, 1, 2] {
        running.push(run_on(&demo.nodes[n], demo.address(n)).await);
    }
    demo.served[0].take().unwrap().kill().await;
    demo.nodes[1].faults().inject(FaultScope::Queries, Fault::Stall);
    assert_eq!(servers(&admin(&front, LIST, "").await), ["q2"]);
    let status = front.proxy.cluster().status();
    assert_eq!(status.endpoints.iter().map(|endpoint| endpoint.failed).collect::<Vec<_>>(), [1, 0, 0, 0, 0]);
    assert_eq!(state(front.proxy.cluster(), "1"), (HealthState::Suspect, Some(Reason::Slow)), "slow is no failure");
    assert_eq!((demo.nodes[3].stats().requests, demo.nodes[4].stats().requests), (0, 0));
    let response = admin(&front, "PUT /kylin/api/query/unknown/stop", "").await;
    assert_eq!(refusal(&response, 502), "1 of 3 nodes did not confirm the stop; the query may run on there");
    demo.nodes[1].faults().clear();
    assert_eq!(admin(&front, "PUT /kylin/api/query/unknown/stop", "").await.status(), 200, "as Kylin has it");
    running.iter().for_each(JoinHandle::abort);
    for served in demo.served.iter_mut().filter_map(Option::take) {
        served.kill().await;
    }
    refusal(&admin(&front, LIST, "").await, 502);
    front.idle().await;
}

#[tokio::test]
async fn no_node_is_left_out_because_it_is_ejected_drained_or_full() {
    let one = NonZeroU32::new(1);
    for (line, job_node_calls) in
        [(LIST, 0), ("PUT /kylin/api/query/x/stop", 0), ("POST /kylin/api/cache/announce/config", 1)]
    {
        let nodes: Vec<Scripted> = (0..5).map(|_| saying(Says::Json(200, "[]".to_owned()))).collect();
        let endpoint = |n: usize| Endpoint::new(n.to_string(), nodes[n].clone()).unwrap();
        let endpoints = [
            endpoint(0).max_fails(one),
            endpoint(1).max_in_flight(one),
            endpoint(2).admin_state(AdminState::Drain),
            endpoint(3).roles(Role::Job),
            endpoint(4).admin_state(AdminState::Maintenance),
        ];
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let rules = KylinRules::default().reload(ReloadAccess::Everyone);
        let proxy = Proxy::builder(cluster.clone()).queue(None).rules(rules).build().unwrap();
        let head = http::Request::new(());
        let view = RequestView::of(&head, ClientAddr::Unix);
        let bound = |id| cluster.pick_bound(&view, &Attempted::none(), id).unwrap();
        bound("0").lease.set_outcome(Outcome::Failure);
        let held = bound("1");
        let (status, text) = ask(&proxy, request(line, &[], "")).await;
        assert_eq!(status, 200, "{line}: {text}");
        let calls: Vec<usize> = nodes.iter().map(Scripted::calls).collect();
        assert_eq!(calls, [1, 1, 1, job_node_calls, 0], "{line}");
        drop(held);
    }
}

in_each_dialect!(a_client_without_permission_gets_the_refusal, V4);
async fn a_client_without_permission_gets_the_refusal(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let front = demo.front(|proxy| proxy);
    let ask = async |line: &str, authorization: Option<String>| {
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        front.ask(format!("{line} HTTP/1.1\r\nHost: kylin\r\n{authorization}\r\n")).await.unwrap().status()
    };
    for line in [LIST, "PUT /kylin/api/query/x/stop"] {
        assert_eq!(ask(line, Some(basic("ANALYST", "ANALYST"))).await, 403, "{line}");
        assert_eq!(ask(line, None).await, 401, "{line}");
        assert_eq!(ask(line, Some(basic("ADMIN", "wrong"))).await, 401, "{line}");
        assert_eq!(ask(line, Some(basic("ADMIN", "KYLIN"))).await, 200, "{line}");
    }
    // The session that one of the nodes has begun is not the client's session.
    assert_eq!(admin(&front, LIST, "").await.header("set-cookie"), None);
}

#[tokio::test]
async fn a_response_that_is_not_a_list_is_returned_as_it_is() {
    let envelope = r#"{"code":"000","data":[],"msg":""}"#;
    for (first, second, third, merged) in [
        (envelope, "{}", "<html>", envelope),
        ("<html>", envelope, "[3]", "[3]"),
        ("[1, {\"a\": 1.50}]", "[]", " [ \"x\"]\n", "[1,{\"a\": 1.50},\"x\"]"),
        ("[]", "[]", "[]", "[]"),
    ] {
        let mut nodes = Vec::new();
        for body in [first, second, third] {
            nodes.push(RawNode::start([respond(ok(body))]).await);
        }
        let addresses: Vec<_> = nodes.iter().map(RawNode::address).collect();
        let front = Front::kylin(front::endpoints(&addresses), |proxy| proxy);
        let list = format!("{LIST} HTTP/1.1\r\nHost: kylin\r\nAccept-Encoding: gzip\r\n\r\n");
        let response = front.ask(list).await.unwrap();
        assert_eq!((response.status(), response.text()), (200, merged));
        assert_eq!(response.header("content-length"), Some(&*merged.len().to_string()));
        for node in &nodes {
            let seen = node.seen().texts().concat().to_ascii_lowercase();
            assert!(!seen.contains("accept-encoding"), "lists that are compressed cannot be joined: {seen}");
        }
    }
}

in_each_dialect!(requests_to_kylin_5_do_not_fan_out, V5);
async fn requests_to_kylin_5_do_not_fan_out(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let front = demo.front(|proxy| proxy);
    let task = run_on(&demo.nodes[2], demo.address(2)).await;
    let id = "select";
    assert_eq!(admin(&front, &format!("DELETE /kylin/api/query/{id}"), "").await.status(), 200);
    assert_eq!(demo.sum(|stats| stats.requests), 2, "the query and one request to stop another");
    task.abort();
    // If nodes are known to be Kylin 5, a path of older versions goes to one node.
    let front = demo.front(|proxy| proxy.rules(KylinRules::default().version(dialect.generation())));
    let before = demo.sum(|stats| stats.requests);
    admin(&front, LIST, "").await;
    assert_eq!(demo.sum(|stats| stats.requests), before + 1);
    let front = demo.front(|proxy| proxy.rules(KylinRules::default().fan_out(false)));
    admin(&front, LIST, "").await;
    assert_eq!(demo.sum(|stats| stats.requests), before + 2);
}

in_each_dialect!(a_relayed_login_is_valid_at_all_nodes, V4);
/// The client has a cookie of the front end, which logs in at each node.
async fn a_relayed_login_is_valid_at_all_nodes(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let sessions = LoginRelay::new(Sessions::in_memory().unwrap(), secret());
    let front = demo.front(|proxy| proxy.affinity(Affinity::login_relay(sessions)));
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    let mut running = Vec::new();
    for n in 0..3 {
        running.push(run_on(&demo.nodes[n], demo.address(n)).await);
    }
    let response = browser.ask(LIST, &[], "").await;
    assert_eq!(servers(&response), ["q0", "q1", "q2"]);
    assert_eq!(response.header("set-cookie"), None, "a node's cookie is not the client's to see");
    let (_, id) = listed(&response).remove(1);
    assert_eq!(browser.ask(&format!("PUT /kylin/api/query/{id}/stop"), &[], "").await.status(), 200);
    demo.nodes[1].wait_until(|stats| stats.stopped == 1).await.unwrap();
    running.iter().for_each(JoinHandle::abort);
}

in_each_dialect!(a_node_at_which_a_relayed_login_fails_has_not_confirmed_a_stop, V4);
/// The query may run there. A node whose process is gone runs none.
async fn a_node_at_which_a_relayed_login_fails_has_not_confirmed_a_stop(dialect: Dialect) {
    let mut demo = Demo::start(dialect, 2).await;
    let sessions = LoginRelay::new(Sessions::in_memory().unwrap(), secret());
    let front = demo.front(|proxy| proxy.affinity(Affinity::login_relay(sessions)));
    let mut browser = logged_in_at_first(&front).await;
    let running = run_on(&demo.nodes[1], demo.address(1)).await;
    let (_, id) = listed(&admin(&demo.front(|proxy| proxy), LIST, "").await).remove(0);
    let stop = format!("PUT /kylin/api/query/{id}/stop");
    for fault in [Fault::Html(StatusCode::SERVICE_UNAVAILABLE), Fault::Html(StatusCode::NOT_FOUND), Fault::Close] {
        demo.nodes[1].faults().inject(FaultScope::Sessions, fault);
        let response = browser.ask(&stop, &[], "").await;
        assert_eq!(refusal(&response, 502), UNCONFIRMED, "{fault:?}");
        demo.nodes[1].faults().clear();
    }
    assert_eq!(demo.nodes[1].stats().running, 1);
    demo.served[1].take().unwrap().kill().await;
    assert_eq!(browser.ask(&stop, &[], "").await.status(), 200);
    running.abort();
}

in_each_dialect!(a_node_that_does_not_know_the_session_has_not_confirmed_a_stop, V4);
async fn a_node_that_does_not_know_the_session_has_not_confirmed_a_stop(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let front = demo.front(|proxy| proxy.affinity(Affinity::learn(Sessions::in_memory().unwrap())));
    let mut browser = logged_in_at_first(&front).await;
    let running = run_on(&demo.nodes[1], demo.address(1)).await;
    let (_, id) = listed(&admin(&front, LIST, "").await).remove(0);
    let stop = format!("PUT /kylin/api/query/{id}/stop");
    let response = browser.ask(&stop, &[], "").await;
    let advice = ". A node that does not know the session needs a user name and password";
    assert_eq!(refusal(&response, 502), format!("{UNCONFIRMED}{advice}"));
    assert_eq!(demo.nodes[1].stats().running, 1);
    let mut insistent = Browser { authorization: Some(basic("ADMIN", "KYLIN")), ..browser };
    assert_eq!(insistent.ask(&stop, &[], "").await.status(), 200);
    assert!(running.await.unwrap().text().contains("stopped by an administrator"));
}

/// With SAML, nodes redirect to the login.
#[tokio::test]
async fn a_redirect_to_a_login_does_not_confirm_a_stop() {
    let stops = async |statuses: [u16; 2]| {
        let nodes = statuses.map(|status| saying(Says::Html(status, String::new())));
        let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
        let proxy = Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap()).build().unwrap();
        let response = proxy.forward(ClientAddr::Unix, request("PUT /kylin/api/query/x/stop", &[], "")).await;
        let told = response.extensions().get::<Termination>().copied();
        // Each node responded: no connection has failed.
        assert_eq!(told, (response.status() == 502).then_some(Termination::Unconfirmed));
        response.status().as_u16()
    };
    for (statuses, merged) in [([200, 302], 502), ([200, 403], 502), ([302, 302], 302), ([302, 401], 302)] {
        assert_eq!(stops(statuses).await, merged, "{statuses:?}");
    }
}

/// A monitor that lists running queries must not hide that a node fails.
#[tokio::test]
async fn a_response_to_a_request_for_all_nodes_says_of_its_node_what_other_responses_say() {
    let page = |status| Says::Html(status, "<html>".to_owned());
    // One failure came before.
    for (says, in_row) in [
        (page(503), 2),
        (page(500), 2),
        (page(404), 1),
        (Says::error(500, "no"), 0),
        (page(401), 0),
        (Says::Json(200, "[]".to_owned()), 0),
    ] {
        for line in [LIST, "PUT /kylin/api/query/x/stop", "POST /kylin/api/cache/announce/config"] {
            let nodes = [saying(says.clone()), saying(Says::Json(200, "[]".to_owned()))];
            let endpoints = nodes.iter().enumerate();
            let endpoints = endpoints.map(|(n, node)| Endpoint::new(n.to_string(), node.clone()).unwrap());
            let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
            let rules = KylinRules::default().reload(ReloadAccess::Everyone);
            let proxy = Proxy::builder(cluster.clone()).rules(rules).build().unwrap();
            let head = http::Request::new(());
            let view = RequestView::of(&head, ClientAddr::Unix);
            cluster.pick_bound(&view, &Attempted::none(), "0").unwrap().lease.set_outcome(Outcome::Failure);
            ask(&proxy, request(line, &[], "")).await;
            assert_eq!(cluster.status().endpoints[0].fails, in_row, "{line}: {says:?}");
        }
    }
}

#[tokio::test]
async fn requests_for_all_nodes_do_not_keep_a_node_that_fails_from_ejection() {
    let nodes = [saying(Says::Html(503, "<html>".to_owned())), saying(Says::Json(200, "[]".to_owned()))];
    let endpoints = nodes.iter().enumerate().map(|(n, node)| Endpoint::new(n.to_string(), node.clone()).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints).balancer(InOrder).build().unwrap();
    let proxy = Proxy::builder(cluster.clone()).build().unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&proxy, request("GET /kylin/api/projects", &[], "")).await.0, 200);
        assert_eq!(ask(&proxy, request(LIST, &[], "")).await.0, 200);
    }
    assert!(cluster.status().endpoints[0].ejected);
}

/// Logs ADMIN in at the first of two nodes.
async fn logged_in_at_first(front: &Front) -> Browser {
    let set = |state| front.proxy.cluster().set_admin_state(&"1".parse().unwrap(), state).unwrap();
    set(AdminState::Maintenance);
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    set(AdminState::Ready);
    browser
}

in_each_dialect!(a_node_that_needs_no_login_does_not_wait_for_one_at_another, V4);
async fn a_node_that_needs_no_login_does_not_wait_for_one_at_another(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    // Longer than any test runs.
    let sessions = LoginRelay::new(Sessions::in_memory().unwrap(), secret());
    let sessions = sessions.login_timeout(Duration::from_secs(600)).unwrap();
    let front = demo.front(|proxy| proxy.affinity(Affinity::login_relay(sessions)));
    let set = |node: &str, state| front.proxy.cluster().set_admin_state(&node.parse().unwrap(), state).unwrap();
    ["0", "1"].iter().for_each(|node| set(node, AdminState::Maintenance));
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    ["0", "1"].iter().for_each(|node| set(node, AdminState::Ready));
    demo.nodes[0].faults().inject(FaultScope::Sessions, Fault::Stall);
    let running = run_on(&demo.nodes[2], demo.address(2)).await;
    let (_, id) = listed(&admin(&demo.front(|proxy| proxy), LIST, "").await).remove(0);
    let stops = tokio::spawn(async move { browser.ask(&format!("PUT /kylin/api/query/{id}/stop"), &[], "").await });
    demo.nodes[2].wait_until(|stats| stats.stopped == 1).await.unwrap();
    stops.abort();
    assert!(running.await.unwrap().text().contains("stopped by an administrator"));
}

/// The nodes redirect to themselves, as if a client could reach them.
#[tokio::test]
async fn a_redirect_to_a_node_is_hidden_unless_the_application_rewrites_it() {
    for (hides_nodes, expected) in [(true, "/kylin/login"), (false, "http://127.0.0.1:7070/kylin/login")] {
        let node = || {
            Scripted::new(|_| async {
                let response =
                    http::Response::builder().status(302).header("location", "http://127.0.0.1:7070/kylin/login");
                Ok(response.body(Body::empty()).unwrap())
            })
        };
        let endpoints = ["q1", "q2"].map(|id| Endpoint::new(id, node()).unwrap().placement("127.0.0.1:7070"));
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let proxy = Proxy::builder(cluster).hide_nodes(hides_nodes).build().unwrap();
        let logout = request("GET /kylin/j_spring_security_logout", &[("cookie", "JSESSIONID=0123456789ABCDEF")], "");
        let response = proxy.forward(ClientAddr::Unix, logout).await;
        assert_eq!(response.headers()["location"], expected, "hide_nodes({hides_nodes})");
    }
}

/// A list of running queries with this many bytes.
fn list_of(length: usize) -> String {
    format!("[\"{}\"]", "x".repeat(length - 4))
}

#[tokio::test]
async fn a_list_over_the_limit_is_an_error_that_says_so_and_counts_against_no_node() {
    let long = 5 << 20;
    for lengths in [[long, long, long], [long, 4, long], [4, 4, long]] {
        // With a declared length, and without.
        for is_chunked in [false, true] {
            let mut nodes = Vec::new();
            for length in lengths {
                let body = list_of(length);
                nodes.push(
                    RawNode::start([respond(match is_chunked {
                        false => ok(&body),
                        true => format!(
                            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                            body.len()
                        )
                        .into_bytes(),
                    })])
                    .await,
                );
            }
            let addresses: Vec<_> = nodes.iter().map(RawNode::address).collect();
            let buffers = BufferBudget::new(NonZero::new(256 << 20));
            let front = Front::kylin(front::endpoints(&addresses), |proxy| proxy.buffers(buffers.clone()));
            let response = admin(&front, LIST, "").await;
            let message =
                "a Kylin node responded with more than 4 MiB, the limit of the front end for responses that it merges";
            assert_eq!(refusal(&response, 502), message, "{lengths:?}");
            let endpoints = front.proxy.cluster().status().endpoints;
            assert!(endpoints.iter().all(|endpoint| endpoint.failed == 0), "{endpoints:?}");
            assert_eq!(buffers.status().used, 0);
        }
    }
}

/// The list of a failing node is left out, regardless of the length of its page.
#[tokio::test]
async fn a_long_page_of_a_node_that_fails_hides_no_list() {
    let page = Says::Html(500, "x".repeat(5 << 20));
    let nodes = [saying(page), saying(Says::Json(200, "[1]".to_owned()))];
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let proxy = Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap()).build().unwrap();
    assert_eq!(ask(&proxy, request(LIST, &[], "")).await, (StatusCode::OK, "[1]".to_owned()));
}

/// Four nodes with lists of 1 MB, and clients that do not read.
#[tokio::test]
async fn merged_responses_stay_within_the_budget_and_the_share_of_their_client() {
    const LENGTH: usize = 1_000_000;
    let buffers = BufferBudget::with_client_share(NonZero::new(64 << 20), NonZero::new(20 << 20)).unwrap();
    let nodes: Vec<Scripted> = (0..4).map(|_| saying(Says::Json(200, list_of(LENGTH)))).collect();
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    let proxy = Proxy::builder(cluster.clone()).buffers(buffers.clone()).build().unwrap();
    let list = async |last: u8| proxy.forward(IpAddr::from([192, 0, 2, last]), request(LIST, &[], "")).await;
    let merged = 4 * (LENGTH - 2) + 3 + 2;
    let mut held = Vec::new();
    let refused = loop {
        let response = list(1).await;
        if response.status() != StatusCode::OK {
            break response;
        }
        held.push(response);
        let used = buffers.status().used;
        assert!((held.len() * merged..=held.len() * (4 * LENGTH)).contains(&used), "{used}");
        assert!(used <= 20 << 20);
    };
    // The lists of the nodes and the merged one are held at the same time.
    assert_eq!(held.len(), 4, "{buffers:?}");
    assert_eq!(
        (refused.status(), &refused.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("no memory for the responses of the Kylin nodes"), "{text:?}");
    assert!(cluster.status().endpoints.iter().all(|endpoint| endpoint.failed == 0));
    let other = list(2).await;
    assert_eq!(other.status(), StatusCode::OK, "another client has its own share");
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes().len(), merged);
    assert_eq!(held.pop().unwrap().into_body().collect().await.unwrap().to_bytes().len(), merged);
    assert_eq!(list(1).await.status(), StatusCode::OK, "a response that was read holds nothing");
    held.clear();
    assert_eq!(buffers.status().used, 0);
}

#[tokio::test]
async fn a_stop_that_nodes_have_confirmed_needs_no_memory_for_their_responses() {
    let none = BufferBudget::new(NonZero::new(1));
    let nodes = [saying(Says::Json(200, "{}".to_owned())), saying(Says::Json(200, "{}".to_owned()))];
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    let proxy = Proxy::builder(cluster)
        .buffers(none)
        .rules(KylinRules::default().reload(ReloadAccess::Everyone))
        .build()
        .unwrap();
    let (status, text) = ask(&proxy, request("PUT /kylin/api/query/x/stop", &[], "")).await;
    assert_eq!((status, &*text), (StatusCode::OK, ""));
    let (status, text) = ask(&proxy, request("POST /kylin/api/cache/announce/config", &[], "")).await;
    assert!(status == 503 && text.contains("no memory for the responses"), "{status} {text}");
}
