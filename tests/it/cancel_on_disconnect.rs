//! A query whose client has disconnected is stopped on its node.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use kylin_lb::backend::OwnRequest;
use kylin_lb::endpoint::Outcome;
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::observe::{Finished, Observer};
use kylin_lb::proxy::{CancelOnDisconnect, KylinRules};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Stats};
use kylin_lb::{Backend, Body, BufferBudget, ClientAddr, Cluster, Endpoint, Proxy, SendError};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tracing::Level;

use crate::support::browser::basic;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{self, Front, refusal};
use crate::support::health::state;
use crate::support::http::Connection;
use crate::support::kylin::{Demo, admin, answered_by, ask, bytes, proxy, request, sql};
use crate::support::raw_node::{Act, RawNode, ok};
use crate::support::subscriber::CapturedLog;

const QUERY: &str = "POST /kylin/api/query";
/// Longer than any test runs.
const LONG: &str = "select 'long', sleep_ms(600000)";

fn as_admin() -> CancelOnDisconnect {
    CancelOnDisconnect::AsAdmin { authorization: HeaderValue::from_str(&basic("ADMIN", "KYLIN")).unwrap() }
}

fn rules(dialect: Dialect) -> KylinRules {
    KylinRules::default().cancel_on_disconnect(Some(match dialect.generation() {
        KylinVersion::V5 => CancelOnDisconnect::ByStopId,
        _ => as_admin(),
    }))
}

/// Nodes that run queries to their end when clients disconnect, like Kylin.
async fn stubborn(dialect: Dialect) -> Demo {
    let demo = Demo::start(dialect, 3).await;
    demo.nodes.iter().for_each(|node| node.faults().set_queries_outlive_clients(true));
    demo
}

/// Sends a query of ANALYST, and returns the node that runs it.
async fn begin(demo: &Demo, front: &Front, line: &str, body: &str) -> (Connection, usize) {
    let before: Vec<u64> = demo.nodes.iter().map(|node| node.stats().running).collect();
    let mut client = front.connect().await;
    let user = basic("ANALYST", "ANALYST");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: kylin\r\nUser-Agent: test\r\nAuthorization: {user}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    client.send(request).await.unwrap();
    let now = || demo.nodes.iter().zip(&before).position(|(node, before)| node.stats().running > *before);
    front::eventually(|| now().is_some(), || "the query runs".to_owned()).await;
    let node = now().unwrap();
    (client, node)
}

in_each_dialect!(only_the_query_of_a_disconnected_client_is_stopped);
async fn only_the_query_of_a_disconnected_client_is_stopped(dialect: Dialect) {
    let demo = stubborn(dialect).await;
    let front = demo.front(|proxy| proxy.rules(rules(dialect)));
    let (kept, other) = begin(&demo, &front, QUERY, &sql("select 'other', sleep_ms(600000)")).await;
    // The client may have sent a part of a next request.
    for more in ["", "\r\n", "POST /kylin"] {
        let (mut client, node) = begin(&demo, &front, QUERY, &sql(LONG)).await;
        client.send(more).await.unwrap();
        let stopped = demo.nodes[node].stats().stopped;
        drop(client);
        let left = u64::from(node == other);
        let ended = |stats: &Stats| stats.stopped == stopped + 1 && stats.running == left;
        demo.nodes[node].wait_until(ended).await.unwrap();
    }
    assert_eq!(demo.sum(|stats| stats.stopped), 3);
    assert_eq!((demo.sum(|stats| stats.running), demo.nodes[other].stats().running), (1, 1));
    if !is_v5(dialect) {
        let list = admin(&front, "GET /kylin/api/query/runningQueries", "").await;
        assert!(list.text().contains("'other'") && !list.text().contains("'long'"), "{}", list.text());
    }
    drop(kept);
    demo.nodes[other].wait_until(|stats| stats.running == 0).await.unwrap();
    front.idle().await;
    for node in &demo.nodes {
        node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
    }
}

in_each_dialect!(a_query_that_times_out_is_stopped_and_the_client_gets_504);
async fn a_query_that_times_out_is_stopped_and_the_client_gets_504(dialect: Dialect) {
    let demo = stubborn(dialect).await;
    let endpoints = (0..3).map(|n| front::endpoint(n, demo.address(n), |b| b.head_timeout(Duration::from_secs(3))));
    let front = Front::kylin(endpoints, |proxy| proxy.rules(rules(dialect)));
    refusal(&admin(&front, QUERY, &sql(LONG)).await, 504);
    front::eventually(|| demo.sum(|stats| stats.stopped) == 1, || format!("{:?}", demo.nodes)).await;
    assert_eq!(demo.sum(|stats| stats.queries), 1, "it was begun once");
    let node = demo.nodes.iter().position(|node| node.stats().stopped == 1).unwrap().to_string();
    assert_eq!(state(front.proxy.cluster(), &node), (HealthState::Suspect, Some(Reason::Slow)));
    front.idle().await;
    // A timeout is not a failure of the node.
    assert_ne!(Outcome::Slow, Outcome::Failure);
}

in_each_dialect!(a_refused_login_is_not_used_again, V4);
/// A few wrong passwords lock a user.
async fn a_refused_login_is_not_used_again(dialect: Dialect) {
    for login in [basic("ADMIN", "wrong"), basic("ANALYST", "ANALYST")] {
        let demo = stubborn(dialect).await;
        let stop = CancelOnDisconnect::AsAdmin { authorization: HeaderValue::from_str(&login).unwrap() };
        let front = demo.front(|proxy| proxy.rules(KylinRules::default().cancel_on_disconnect(Some(stop))));
        for n in 1..4 {
            let (client, _) = begin(&demo, &front, QUERY, &sql(LONG)).await;
            drop(client);
            // One request for the name of the user and one for the list, after the first.
            front::eventually(|| demo.sum(|stats| stats.requests) == n + 2, || format!("{:?}", demo.nodes)).await;
            front.idle().await;
        }
        assert!(demo.sum(|stats| stats.wrong_passwords) <= 1);
        assert_eq!((demo.sum(|stats| stats.running), demo.sum(|stats| stats.requests)), (3, 5));
    }
}

in_each_dialect!(an_abandoned_export_is_stopped_too, V4);
async fn an_abandoned_export_is_stopped_too(dialect: Dialect) {
    let demo = stubborn(dialect).await;
    let front = demo.front(|proxy| proxy.rules(rules(dialect)));
    let target = "GET /kylin/api/query/format/csv?project=learn_kylin&sql=select+1%2C+sleep_ms(600000)";
    let (client, node) = begin(&demo, &front, target, "").await;
    drop(client);
    demo.nodes[node].wait_until(|stats| stats.stopped == 1 && stats.running == 0).await.unwrap();
    front.idle().await;
}

in_each_dialect!(a_query_with_a_response_is_not_stopped);
async fn a_query_with_a_response_is_not_stopped(dialect: Dialect) {
    let demo = stubborn(dialect).await;
    let front = demo.front(|proxy| proxy.rules(rules(dialect)));
    for n in 0..12 {
        answered_by(&admin(&front, QUERY, &sql(&format!("select {n}"))).await);
        // A failed query is over too, and so is one whose client leaves while it reads the
        // response.
        admin(&front, QUERY, &sql(&format!("select {n} SYNTAX ERROR"))).await;
        let mut client = front.connect().await;
        client.send(bytes(QUERY, &[], &sql(&format!("select {n}, repeat_bytes(3000000)")))).await.unwrap();
        assert_eq!(client.final_head().await.unwrap().status, 200);
    }
    // The cancellations come after all of these, and are the only other requests.
    let (client, node) = begin(&demo, &front, QUERY, &sql(LONG)).await;
    drop(client);
    demo.nodes[node].wait_until(|stats| stats.stopped == 1 && stats.running == 0).await.unwrap();
    let to_stop = if is_v5(dialect) { 1 } else { 3 };
    assert_eq!(demo.sum(|stats| stats.requests), 36 + 1 + to_stop, "{dialect:?}");
    front.idle().await;
}

in_each_dialect!(no_query_is_stopped_by_default);
async fn no_query_is_stopped_by_default(dialect: Dialect) {
    let demo = stubborn(dialect).await;
    let front = demo.front(|proxy| proxy);
    let (client, node) = begin(&demo, &front, QUERY, &sql(LONG)).await;
    drop(client);
    front.idle().await;
    assert_eq!((demo.nodes[node].stats().running, demo.nodes[node].stats().stopped), (1, 0));
    assert_eq!(demo.sum(|stats| stats.requests), 1);
}

in_each_dialect!(a_stop_id_is_added_to_a_query_and_nothing_else_changes, V5);
async fn a_stop_id_is_added_to_a_query_and_nothing_else_changes(dialect: Dialect) {
    let node = RawNode::start([vec![Act::Serve(ok("x"))]]).await;
    let front = Front::kylin([front::endpoint(0, node.address(), |b| b)], |proxy| proxy.rules(rules(dialect)));
    let own = r#"{"sql":"select 1","stopId":"mine"}"#;
    let null = r#"{"sql":"select '\"stopId\":null'","x":{"stopId":null}, "stopId" : null ,"y":"ä"}"#;
    let empty = r#"{"stopId":"","sql":"select 1"}"#;
    for body in [r#" { "sql" : "select 'ä'" , "x" : [1] } "#, own, null, empty, r#"{"sql":"","x":1}"#, "not json", ""]
    {
        let before = node.seen().requests.len();
        front.ask(bytes(QUERY, &[], body)).await.unwrap();
        let seen = node.wait_until(|seen| seen.requests.len() > before).await.texts().pop().unwrap();
        let (head, sent) = seen.split_once("\r\n\r\n").unwrap();
        assert!(head.to_ascii_lowercase().contains(&format!("content-length: {}", sent.len())), "{head}");
        assert!(sent.matches("stopId").count() <= body.matches("stopId").count().max(1), "{sent}");
        let (Ok(Value::Object(mut sent)), Ok(was)) = (serde_json::from_str(sent), serde_json::from_str::<Value>(body))
        else {
            assert_eq!(sent, body, "what is no query passes as it is");
            continue;
        };
        let id = sent.remove("stopId");
        match was.get("stopId").filter(|id| id.as_str().is_some_and(|id| !id.is_empty())) {
            Some(_) => assert_eq!(id.as_ref(), was.get("stopId")),
            None if was["sql"] == "" => assert_eq!(id, None),
            None => assert!(id.unwrap().as_str().unwrap().starts_with("kylin-lb-")),
        }
        let mut was = was.as_object().unwrap().clone();
        was.remove("stopId");
        assert_eq!(sent, was);
    }
}

in_each_dialect!(a_stop_id_is_added_to_a_chunked_body, V5);
/// The client sends its body in chunks, and the proxy sends it with its length.
async fn a_stop_id_is_added_to_a_chunked_body(dialect: Dialect) {
    let node = RawNode::start([vec![Act::Serve(ok("x"))]]).await;
    let front = Front::kylin([front::endpoint(0, node.address(), |b| b)], |proxy| proxy.rules(rules(dialect)));
    let body = r#"{"sql":"select 1"}"#;
    let head = format!("{QUERY} HTTP/1.1\r\nHost: kylin\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = front.ask(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await.unwrap();
    assert_eq!(response.text(), "x");
    let seen = node.seen().texts().pop().unwrap();
    let (head, sent) = seen.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("content-length: {}", sent.len())) && !head.contains("transfer-encoding"), "{head}");
    assert!(serde_json::from_str::<Value>(sent).unwrap()["stopId"].is_string(), "{sent}");
}

/// Reports how long connecting took.
struct Connecting(mpsc::UnboundedSender<Duration>);

impl Observer for Connecting {
    fn finished(&self, event: &Finished<'_>) {
        self.0.send(event.times.connecting).unwrap();
    }
}

in_each_dialect!(an_observer_learns_how_long_the_connection_of_a_query_with_a_stop_id_took, V5);
async fn an_observer_learns_how_long_the_connection_of_a_query_with_a_stop_id_took(dialect: Dialect) {
    let node = RawNode::start([vec![Act::Serve(ok("x"))]]).await;
    let (sender, mut times) = mpsc::unbounded_channel();
    let observed = Connecting(sender);
    let endpoints = [front::endpoint(0, node.address(), |b| b)];
    let front = Front::kylin(endpoints, |proxy| proxy.rules(rules(dialect)).observer(observed));
    front.ask(bytes(QUERY, &[], &sql("select 1"))).await.unwrap();
    assert!(node.seen().texts().pop().unwrap().contains("stopId"));
    assert_ne!(times.recv().await.unwrap(), Duration::ZERO);
}

/// Responds to no query, and reports each request with whether it is marked as the crate's own.
struct Silent(mpsc::UnboundedSender<(Method, bool)>);

impl Backend for Silent {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let is_own = request.extensions().get::<OwnRequest>().is_some();
        self.0.send((request.method().clone(), is_own)).unwrap();
        if request.method() == Method::POST {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Body::empty()))
    }
}

/// Responds to no query, names a user, and lists queries. Reports each request.
struct Listing {
    requests: mpsc::UnboundedSender<String>,
    user: (u16, &'static str),
    list: &'static str,
}

impl Backend for Listing {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        self.requests.send(format!("{} {}", request.method(), request.uri().path())).unwrap();
        let (status, body) = match request.uri().path() {
            "/kylin/api/query" => std::future::pending().await,
            "/kylin/api/user/authentication" => self.user,
            "/kylin/api/query/runningQueries" => (200, self.list),
            _ => (200, ""),
        };
        Ok(Response::builder().status(status).body(body.into()).unwrap())
    }
}

/// The node names the user, so a client cannot stop another user's query with a false claim.
#[tokio::test]
async fn only_the_one_query_of_the_user_whom_the_node_names_is_stopped() {
    const ADA: (u16, &str) = (200, r#"{"userDetails":{"username":"ADA"}}"#);
    const USER: &str = "GET /kylin/api/user/authentication";
    const RUNNING: &str = "GET /kylin/api/query/runningQueries";
    let both =
        r#"[{"queryId":"b","username":"BOB","sql":"select 1"},{"queryId":"a","username":"ada","sql":" select 1 "}]"#;
    let of_bob =
        r#"[{"queryId":"b","username":"BOB","sql":"select 1"},{"queryId":"a","username":"ADA","sql":"select 2"}]"#;
    let two =
        r#"[{"queryId":"a","username":"ADA","sql":"select 1"},{"queryId":"c","username":"ADA","sql":"select 1"}]"#;
    let bob = basic("BOB", "guessed");
    let cookie = ("cookie", "JSESSIONID=1");
    for (what, credentials, user, list, expected) in [
        ("a session", Some(cookie), ADA, both, &[USER, RUNNING, "PUT /kylin/api/query/a/stop"][..]),
        ("the query of another", Some(cookie), ADA, of_bob, &[USER, RUNNING][..]),
        ("two equal queries", Some(cookie), ADA, two, &[USER, RUNNING][..]),
        ("a session that has ended", Some(cookie), (200, "{}"), both, &[USER][..]),
        ("a wrong password", Some(("authorization", &*bob)), (401, ""), both, &[USER][..]),
        ("no credentials", None, ADA, both, &[][..]),
    ] {
        let (requests, mut seen) = mpsc::unbounded_channel();
        let node = Listing { requests, user, list };
        let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node).unwrap()).build().unwrap();
        let rules = KylinRules::default().cancel_on_disconnect(Some(as_admin()));
        let proxy = Proxy::builder(cluster).rules(rules).build().unwrap();
        let query = Request::post("/kylin/api/query").header("host", "kylin");
        let query = credentials.iter().fold(query, |query, (name, value)| query.header(*name, *value));
        let query = query.body(Body::from(sql("select 1"))).unwrap();
        tokio::select! {
            _ = proxy.forward(ClientAddr::Unix, query) => panic!("the node does not respond"),
            sent = seen.recv() => assert_eq!(sent.as_deref(), Some(QUERY)),
        }
        for expected in expected {
            assert_eq!(seen.recv().await.as_deref(), Some(*expected), "{what}");
        }
        // The task that stops a query runs on this thread, and the node responds at once.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen.try_recv().ok(), None, "{what}");
    }
}

in_each_dialect!(the_request_that_stops_a_query_is_marked_as_the_crates_own, V5);
async fn the_request_that_stops_a_query_is_marked_as_the_crates_own(dialect: Dialect) {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let cluster = Cluster::builder().endpoint(Endpoint::new("q1", Silent(sender)).unwrap()).build().unwrap();
    let proxy = Proxy::builder(cluster).rules(rules(dialect)).build().unwrap();
    let query = Request::post("/kylin/api/query").header("host", "kylin").body(Body::from(sql(LONG))).unwrap();
    tokio::select! {
        _ = proxy.forward(ClientAddr::Unix, query) => panic!("the node does not respond"),
        sent = requests.recv() => assert_eq!(sent, Some((Method::POST, false))),
    }
    assert_eq!(requests.recv().await, Some((Method::DELETE, true)));
}

/// The front end reads no list without a bound, and a query that is not found continues.
#[tokio::test]
async fn a_list_of_running_queries_over_the_limit_is_not_read_and_the_log_says_so() {
    for (length, budget, message) in [(5 << 20, 256 << 20, "more than 4194304 bytes"), (3 << 20, 1 << 20, "no memory")]
    {
        let runs = Arc::new(Notify::new());
        let begun = Arc::clone(&runs);
        let node = Scripted::new(move |request: Request<Body>| {
            let begun = Arc::clone(&begun);
            async move {
                let text = match request.uri().path() {
                    "/kylin/api/query" => {
                        begun.notify_one();
                        std::future::pending().await
                    }
                    "/kylin/api/user/authentication" => r#"{"userDetails":{"username":"ADMIN"}}"#.to_owned(),
                    _ => format!("[\"{}\"]", "x".repeat(length)),
                };
                Ok(Response::new(Body::from(text)))
            }
        });
        let log = CapturedLog::default();
        let _set = tracing::subscriber::set_default(log.subscriber(Level::WARN));
        let rules = KylinRules::default().cancel_on_disconnect(Some(as_admin()));
        let buffers = BufferBudget::new(NonZero::new(budget));
        let proxy = proxy(&[&node], |proxy| proxy.rules(rules).buffers(buffers));
        let login = basic("ADMIN", "KYLIN");
        let query = request(QUERY, &[("authorization", &login)], &sql("select 1"));
        tokio::select! {
            (status, text) = ask(&proxy, query) => panic!("{status} {text}"),
            // The client leaves.
            () = runs.notified() => {}
        }
        front::eventually(|| log.text().contains(message), || log.text()).await;
        assert!(log.text().contains("runs to its end"), "{}", log.text());
    }
}
