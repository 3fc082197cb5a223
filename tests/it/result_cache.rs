//! Results of queries are cached for a minute, and never used if they may be wrong.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::admission::CacheRules;
use kylin_lb::observe::{CacheLookup, CacheOutcome, Observer};
use kylin_lb::proxy::{ProxyBuildError, ProxyBuilder};
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore};
use kylin_lb::{Backend, Body, BufferBudget, ClientAddr, Cluster, Endpoint, Proxy, SendError};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::support::browser::basic;
use crate::support::clock::PausedClock;

const SQL: &str = r#"{"sql":"select a from t","project":"p"}"#;

/// A node whose data, jobs and users the test controls. Clones are the same node.
#[derive(Clone, Default)]
struct Node(Arc<NodeState>);

/// Makes the response of a node.
type Script = fn() -> Response<Body>;

#[derive(Default)]
struct NodeState {
    /// The version of the data, which is in each result.
    data: AtomicU64,
    /// The number of the last job, which changes with each build.
    job: AtomicU64,
    queries: AtomicUsize,
    polls: AtomicUsize,
    /// A project for which it has no list of jobs.
    unlisted: Mutex<Option<&'static str>>,
    /// The response to a request for the list of jobs, if it is not the list.
    poll_response: Mutex<Option<(u16, &'static str)>>,
    /// The credentials that it rejects.
    rejected: Mutex<Vec<String>>,
    /// The response to a query, if it is not a result.
    script: Mutex<Option<Script>>,
    /// The number of queries to which the node may still respond; `None` is no limit.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Node {
    /// Data changes, and the list of jobs shows it.
    fn build(&self) {
        self.0.data.fetch_add(1, Ordering::SeqCst);
        self.0.job.fetch_add(1, Ordering::SeqCst);
    }

    fn queries(&self) -> usize {
        self.0.queries.load(Ordering::SeqCst)
    }

    fn polls(&self) -> usize {
        self.0.polls.load(Ordering::SeqCst)
    }

    fn respond_with(&self, script: Script) {
        *self.0.script.lock().unwrap() = Some(script);
    }
}

impl Backend for Node {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let node = &*self.0;
        let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let is_rejected = authorization.is_some_and(|value| node.rejected.lock().unwrap().contains(&value));
        let respond = |status: u16, body: String| {
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok(response.body(Body::from(body)).unwrap())
        };
        match request.uri().path() {
            "/kylin/api/jobs" => {
                node.polls.fetch_add(1, Ordering::SeqCst);
                let job = node.job.load(Ordering::SeqCst);
                let scripted = *node.poll_response.lock().unwrap();
                let unlisted = *node.unlisted.lock().unwrap();
                let target = request.uri().query().unwrap();
                match scripted {
                    _ if unlisted.is_some_and(|prefix| target.contains(prefix)) => respond(404, String::new()),
                    Some((status, body)) => respond(status, body.to_owned()),
                    None => {
                        respond(200, format!(r#"[{{"uuid":"{job}","last_modified":{job},"job_status":"FINISHED"}}]"#))
                    }
                }
            }
            _ if is_rejected => respond(401, "{}".to_owned()),
            "/kylin/api/query" => {
                node.queries.fetch_add(1, Ordering::SeqCst);
                let data = node.data.load(Ordering::SeqCst);
                let gate = node.gate.lock().unwrap().clone();
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
                let script = *node.script.lock().unwrap();
                match script {
                    Some(script) => Ok(script()),
                    None => respond(200, result(&data.to_string())),
                }
            }
            _ => respond(200, "{}".to_owned()),
        }
    }
}

fn result(cell: &str) -> String {
    format!(r#"{{"columnMetas":[{{}}],"results":[["{cell}"]],"isException":false,"pushDown":false,"partial":false}}"#)
}

fn rules() -> CacheRules {
    CacheRules::new().login("MONITOR", "secret").unwrap()
}

fn stage_with(rules: CacheRules, change: impl FnOnce(ProxyBuilder<Node>) -> ProxyBuilder<Node>) -> (Node, Proxy<Node>) {
    let node = Node::default();
    let cluster =
        Cluster::builder().endpoint(Endpoint::new("q1", node.clone()).unwrap().outlier(false)).build().unwrap();
    let proxy = change(Proxy::builder(cluster).cache(rules).clock(PausedClock).affinity(None)).build().unwrap();
    (node, proxy)
}

fn stage() -> (Node, Proxy<Node>) {
    stage_with(rules(), |proxy| proxy)
}

fn request(headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let request = Request::post("/kylin/api/query").header("host", "kylin").header("user-agent", "test");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(body.to_owned())).unwrap()
}

/// The head and the body of a response.
struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Received {
    /// `HIT`, `MISS`, or nothing.
    fn cache(&self) -> &str {
        self.headers.get("x-cache").map_or("", |value| value.to_str().unwrap())
    }
}

async fn send<B: Backend>(proxy: &Proxy<B>, request: Request<Body>) -> Received {
    let (head, body) = proxy.forward(ClientAddr::Unix, request).await.into_parts();
    let body = body
        .collect()
        .await
        .map_or_else(|error| format!("{error}"), |body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    Received { status: head.status, headers: head.headers, body }
}

/// Sends a query of a user. The password is the name.
async fn query<B: Backend>(proxy: &Proxy<B>, user: &str, sql: &str) -> Received {
    send(proxy, request(&[("authorization", &basic(user, user))], &body(sql))).await
}

fn body(sql: &str) -> String {
    format!(r#"{{"sql":"{sql}","project":"p"}}"#)
}

/// Makes the proxy follow the builds of project p. Time passes only when all tasks wait.
async fn follow<B: Backend>(proxy: &Proxy<B>) {
    query(proxy, "FIRST", "select first").await;
    sleep(Duration::from_millis(5)).await;
    assert_eq!(proxy.cache().unwrap().projects, 1);
}

/// Stores the result of a user's query, and checks that it is returned.
async fn store<B: Backend>(proxy: &Proxy<B>, user: &str, sql: &str) {
    assert_eq!(query(proxy, user, sql).await.cache(), "MISS");
    assert_eq!(query(proxy, user, sql).await.cache(), "HIT");
}

/// Two identical queries are executed, and the first of them ends last, with older data.
#[tokio::test(start_paused = true)]
async fn an_older_result_never_takes_the_place_of_a_newer_one() {
    for wants_new in [false, true] {
        let (node, proxy) = stage_with(rules(), |proxy| proxy.single_flight(false));
        follow(&proxy).await;
        let gate = Arc::new(Semaphore::new(0));
        *node.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let (slow, before) = (proxy.clone(), node.queries());
        let slow = tokio::spawn(async move { query(&slow, "ADMIN", "select a from t").await.body });
        while node.queries() == before {
            sleep(Duration::from_millis(1)).await;
        }
        *node.0.gate.lock().unwrap() = None;
        // The list of jobs does not show it.
        node.0.data.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(1)).await;
        let user = basic("ADMIN", "ADMIN");
        let mut headers = vec![("authorization", &*user)];
        headers.extend(wants_new.then_some(("cache-control", "no-cache")));
        assert_eq!(send(&proxy, request(&headers, &body("select a from t"))).await.body, result("1"));
        gate.add_permits(1);
        assert_eq!(slow.await.unwrap(), result("0"));
        let next = query(&proxy, "ADMIN", "select a from t").await;
        assert_eq!((&*next.body, next.cache()), (&*result("1"), if wants_new { "MISS" } else { "HIT" }));
        // New results are stored again.
        assert_eq!(query(&proxy, "ADMIN", "select a from t").await.cache(), "HIT");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_is_the_same_response_with_its_age_and_asks_no_node() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    let user = basic("ADMIN", "KYLIN");
    let headers = [("authorization", &*user)];
    let first = send(&proxy, request(&headers, SQL)).await;
    assert_eq!((first.cache(), first.headers.get("age")), ("MISS", None));
    sleep(Duration::from_millis(7_900)).await;
    let before = node.queries();
    let second = send(&proxy, request(&headers, r#" {"project":"p", "queryId":"7", "sql":"select a from t"}"#)).await;
    assert_eq!((second.status, second.cache(), &second.body), (first.status, "HIT", &first.body));
    assert_eq!(second.headers["age"], "7");
    let mut others = second.headers.clone();
    others.remove("age");
    others.insert("x-cache", "MISS".parse().unwrap());
    assert_eq!((others, node.queries()), (first.headers, before));
    let status = proxy.cache().unwrap();
    assert_eq!((status.hits, status.misses, status.stale, status.entries, status.error), (1, 2, 0, 1, None));
    assert_eq!(proxy.cluster().status().in_flight(), 0);
}

/// The jobs are listed as each dialect lists them.
#[tokio::test(start_paused = true)]
async fn every_version_shows_its_builds() {
    for dialect in Dialect::ALL {
        let metastore = Metastore::new().user("MONITOR", "secret", false);
        let node = |name: &str| KylinNode::new(name).kylin_version(dialect).metastore(&metastore);
        let (node, elsewhere) = (node("q1"), node("q2"));
        let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node.clone()).unwrap()).build().unwrap();
        let proxy = Proxy::builder(cluster).cache(rules()).clock(PausedClock).build().unwrap();
        let login =
            Request::post("/kylin/api/user/authentication").header("host", "kylin").header("user-agent", "test");
        let login = login.header("authorization", basic("ADMIN", "KYLIN")).body(Body::empty()).unwrap();
        let logged_in = send(&proxy, login).await;
        let cookie = logged_in.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let ask = || {
            let body = r#"{"sql":"select 1 from kylin_sales","project":"learn_kylin"}"#;
            send(&proxy, request(&[("cookie", &cookie)], body))
        };
        assert_eq!(ask().await.cache(), "MISS", "{dialect:?}");
        sleep(Duration::from_millis(5)).await;
        assert_eq!(proxy.cache().unwrap().error, None, "{dialect:?}");
        assert_eq!(ask().await.cache(), "MISS", "{dialect:?}");
        assert_eq!(ask().await.cache(), "HIT", "{dialect:?}");
        // A build that passes another front end.
        let (method, path) = match dialect {
            Dialect::V5_0 => ("POST", "/kylin/api/models/m/segments"),
            _ => ("PUT", "/kylin/api/cubes/c/build"),
        };
        let build = Request::builder().method(method).uri(path).header("user-agent", "test");
        let build = build.header("authorization", basic("ADMIN", "KYLIN")).body(Body::from("{}")).unwrap();
        assert_eq!(elsewhere.send(build).await.unwrap().status(), 200, "{dialect:?}");
        assert_eq!(ask().await.cache(), "HIT", "{dialect:?}");
        sleep(Duration::from_millis(10_005)).await;
        assert_eq!(ask().await.cache(), "MISS", "{dialect:?}");
        // One session for all checks.
        assert!(node.sessions() <= 2, "{dialect:?}: {} sessions", node.sessions());
    }
}

#[tokio::test(start_paused = true)]
async fn writes_and_builds_that_pass_end_the_entries_of_their_projects() {
    let (_node, proxy) = stage();
    follow(&proxy).await;
    let user = basic("ADMIN", "ADMIN");
    for (method, path, body, ends) in [
        ("PUT", "/kylin/api/cubes/c/build", "{}", true),
        ("POST", "/kylin/api/models", "{}", true),
        ("PUT", "/kylin/api/cubes/c/purge", "{}", true),
        ("POST", "/kylin/api/query", r#"{"sql":"insert into t select 1","project":"P"}"#, true),
        ("POST", "/kylin/api/query", r#"{"sql":"insert into t select 1","project":"other"}"#, false),
        ("POST", "/kylin/api/query", "no json", false),
        ("GET", "/kylin/api/cubes", "", false),
    ] {
        // Right after a change nothing is stored.
        sleep(Duration::from_secs(11)).await;
        query(&proxy, "ADMIN", "select a").await;
        sleep(Duration::from_secs(11)).await;
        query(&proxy, "ADMIN", "select a").await;
        assert_eq!(query(&proxy, "ADMIN", "select a").await.cache(), "HIT", "before {path}");
        let write = Request::builder().method(method).uri(path).header("host", "kylin").header("authorization", &user);
        assert_eq!(send(&proxy, write.body(Body::from(body)).unwrap()).await.status, 200);
        let after = query(&proxy, "ADMIN", "select a").await;
        assert_eq!(after.cache(), if ends { "MISS" } else { "HIT" }, "after {method} {path} {body}");
        let next = query(&proxy, "ADMIN", "select a").await;
        assert_eq!(next.cache(), if ends { "MISS" } else { "HIT" }, "nodes may not know of it yet: {path}");
    }
}

/// Clients send a query every 100 ms for 10 min, while a build by others changes the data every 97
/// s. The guide has the figure.
#[tokio::test(start_paused = true)]
async fn a_result_is_older_than_a_build_of_others_for_the_interval_of_the_checks_at_most() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    let (mut asked, mut hits, mut stale, mut oldest) = (0, 0, 0, Duration::ZERO);
    let mut built = tokio::time::Instant::now();
    for step in 1..=6_000_u64 {
        sleep(Duration::from_millis(100)).await;
        if step % 970 == 0 {
            node.build();
            built = tokio::time::Instant::now();
        }
        let received = query(&proxy, "ADMIN", "select a").await;
        asked += 1;
        hits += u32::from(received.cache() == "HIT");
        if received.body != result(&node.0.data.load(Ordering::SeqCst).to_string()) {
            assert_eq!(received.cache(), "HIT");
            stale += 1;
            oldest = oldest.max(built.elapsed());
        }
    }
    eprintln!("{asked} queries, {hits} hits, {stale} stale, the oldest {oldest:?} after its build");
    assert!(oldest <= Duration::from_millis(10_100) && stale <= asked / 10, "{stale} of {asked}, {oldest:?}");
    assert!(hits > asked * 3 / 4, "{hits} of {asked}");
}

#[tokio::test(start_paused = true)]
async fn a_query_that_was_sent_before_a_change_is_not_stored_after_it() {
    for change in ["write", "build of others", "nothing"] {
        let (node, proxy) = stage();
        follow(&proxy).await;
        let gate = Arc::new(Semaphore::new(0));
        *node.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let before = {
            let proxy = proxy.clone();
            tokio::spawn(async move { query(&proxy, "ADMIN", "select a").await })
        };
        sleep(Duration::from_millis(1)).await;
        match change {
            "write" => {
                let write = Request::put("/kylin/api/cubes/c/build").header("host", "kylin");
                let write = write.header("authorization", basic("ADMIN", "ADMIN")).body(Body::empty()).unwrap();
                assert_eq!(send(&proxy, write).await.status, 200);
            }
            "build of others" => node.build(),
            _ => {}
        }
        sleep(Duration::from_secs(12)).await;
        gate.add_permits(100);
        assert_eq!(before.await.unwrap().cache(), "MISS");
        let after = query(&proxy, "ADMIN", "select a").await;
        assert_eq!(after.cache(), if change == "nothing" { "HIT" } else { "MISS" }, "{change}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_get_nothing_that_was_stored_before() {
    for status in ["401", "403"] {
        let (node, proxy) = stage();
        follow(&proxy).await;
        store(&proxy, "MARY", "select a").await;
        sleep(Duration::from_millis(1)).await;
        match status {
            "401" => node.0.rejected.lock().unwrap().push(basic("MARY", "MARY")),
            _ => node.respond_with(|| Response::builder().status(403).body(Body::from("{}")).unwrap()),
        }
        assert_eq!(query(&proxy, "MARY", "select other").await.status.as_str(), status);
        assert_eq!(query(&proxy, "MARY", "select a").await.status.as_str(), status);
        // The login is accepted again, and may have other rights.
        node.0.rejected.lock().unwrap().clear();
        *node.0.script.lock().unwrap() = None;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(query(&proxy, "MARY", "select other").await.cache(), "MISS");
        assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "MISS", "from before the rejection");
        assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "HIT");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_ended_gets_nothing() {
    let (_node, proxy) = stage();
    follow(&proxy).await;
    let of = |cookies: &str| send(&proxy, request(&[("cookie", cookies)], &body("select a")));
    let [session, more, other] =
        ["JSESSIONID=0123456789ABCDEF", "x=y; JSESSIONID=0123456789ABCDEF", "JSESSIONID=FEDCBA9876543210"];
    for cookies in [session, more, other] {
        assert_eq!(of(cookies).await.cache(), "MISS");
        assert_eq!(of(cookies).await.cache(), "HIT");
    }
    sleep(Duration::from_millis(1)).await;
    let logout = Request::get("/kylin/j_spring_security_logout").header("host", "kylin").header("cookie", session);
    assert_eq!(send(&proxy, logout.body(Body::empty()).unwrap()).await.status, 200);
    for (cookies, expected) in [(session, "MISS"), (more, "MISS"), (other, "HIT")] {
        assert_eq!(of(cookies).await.cache(), expected, "{cookies}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_while_its_first_query_runs_gets_nothing() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    let ask = || request(&[("cookie", "JSESSIONID=0123456789ABCDEF")], &body("select a"));
    let gate = Arc::new(Semaphore::new(0));
    *node.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let first = tokio::spawn({
        let (proxy, request) = (proxy.clone(), ask());
        async move { send(&proxy, request).await.status }
    });
    sleep(Duration::from_millis(10)).await;
    let logout = Request::get("/kylin/j_spring_security_logout").header("host", "kylin");
    let logout = logout.header("cookie", "JSESSIONID=0123456789ABCDEF").body(Body::empty()).unwrap();
    assert_eq!(send(&proxy, logout).await.status, 200);
    gate.add_permits(9);
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(send(&proxy, ask()).await.cache(), "MISS", "the node is asked whether the session lives");
}

#[tokio::test(start_paused = true)]
async fn another_user_gets_a_result_only_where_rows_do_not_depend_on_the_user() {
    let (_node, proxy) = stage();
    follow(&proxy).await;
    store(&proxy, "MARY", "select a").await;
    for headers in [
        vec![("authorization", basic("JOHN", "JOHN"))],
        vec![("authorization", basic("MARY", "other"))],
        vec![("authorization", basic("MARY", "MARY")), ("cookie", "JSESSIONID=1".to_owned())],
        vec![("cookie", "JSESSIONID=1".to_owned())],
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(send(&proxy, request(&headers, &body("select a"))).await.cache(), "MISS", "{headers:?}");
    }
    assert_eq!(send(&proxy, request(&[], &body("select a"))).await.cache(), "", "without credentials");

    let (node, proxy) = stage_with(rules().across_users(true), |proxy| proxy);
    follow(&proxy).await;
    store(&proxy, "MARY", "select a").await;
    assert_eq!(query(&proxy, "JOHN", "select b").await.cache(), "MISS");
    assert_eq!(query(&proxy, "JOHN", "select a").await.cache(), "HIT", "a node has accepted his credentials");
    node.0.rejected.lock().unwrap().push(basic("EVE", "EVE"));
    assert_eq!(query(&proxy, "EVE", "select a").await.status, 401);
    // An entry that was stored after the last sign of a user's credentials.
    sleep(Duration::from_millis(1)).await;
    store(&proxy, "MARY", "select c").await;
    node.0.rejected.lock().unwrap().push(basic("JOHN", "JOHN"));
    assert_eq!(query(&proxy, "JOHN", "select c").await.status, 401);
    assert_eq!(send(&proxy, request(&[], &body("select a"))).await.cache(), "", "without credentials");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wants_another_response_gets_it_and_then_no_older_one() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    let user = basic("MARY", "MARY");
    for header in [("cache-control", "no-cache"), ("pragma", "no-cache"), ("cache-control", "max-age=0, No-Store")] {
        store(&proxy, "MARY", "select a").await;
        let before = node.queries();
        let fresh = send(&proxy, request(&[("authorization", &user), header], &body("select a"))).await;
        assert_eq!((fresh.status, fresh.cache(), node.queries()), (StatusCode::OK, "", before + 1));
    }
    store(&proxy, "MARY", "select a").await;
    sleep(Duration::from_millis(5_500)).await;
    for (accepted, expected) in
        [("max-age=6", "HIT"), ("private, Max-Age=5", "MISS"), ("max-age=0", "HIT"), ("max-age=x", "HIT")]
    {
        let headers = [("authorization", &*user), ("cache-control", accepted)];
        assert_eq!(send(&proxy, request(&headers, &body("select a"))).await.cache(), expected, "{accepted}");
    }
    sleep(Duration::from_millis(1)).await;
    for accepted in ["max-age=0", "max-age=x"] {
        let headers = [("authorization", &*user), ("cache-control", accepted)];
        assert_eq!(send(&proxy, request(&headers, &body("select a"))).await.cache(), "MISS", "{accepted}");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_whole_results_are_stored() {
    fn json(body: impl Into<Body>) -> Response<Body> {
        Response::builder().header("content-type", "application/json").body(body.into()).unwrap()
    }
    let scripts: [(&str, Script); 10] = [
        ("Set-Cookie", || {
            let mut response = json(result("x"));
            response.headers_mut().insert("set-cookie", "JSESSIONID=1; Path=/kylin".parse().unwrap());
            response
        }),
        ("exception", || json(r#"{"results":null,"isException":true,"exceptionMessage":"no"}"#)),
        ("envelope", || json(r#"{"code":"000","data":{"results":[],"isException":true},"msg":""}"#)),
        ("pushed down", || json(result("x").replace(r#""pushDown":false"#, r#""pushDown":true"#))),
        ("partial", || json(result("x").replace(r#""partial":false"#, r#""partial":true"#))),
        ("no result", || json("{}")),
        ("cut", || json(result("x").trim_end_matches('}').to_owned())),
        ("another status", || {
            let mut response = json(result("x"));
            *response.status_mut() = StatusCode::CREATED;
            response
        }),
        ("too large", || json(result(&"x".repeat(1 << 20)))),
        ("ends early", || {
            json(Body::new(Pieces(vec![
                Err(std::io::Error::other("reset")),
                Ok(Bytes::from_static(b"{\"results\":[[")),
            ])))
        }),
    ];
    for (what, script) in scripts {
        let (node, proxy) = stage();
        follow(&proxy).await;
        node.respond_with(script);
        let entries = proxy.cache().unwrap().entries;
        for _ in 0..3 {
            let before = node.queries();
            assert_eq!(query(&proxy, "MARY", "select a").await.headers.get("age"), None, "{what}");
            assert!(node.queries() > before, "{what}");
        }
        assert_eq!(proxy.cache().unwrap().entries, entries, "{what}");
    }
    // A query without a project, and a body that is not JSON.
    let (node, proxy) = stage();
    follow(&proxy).await;
    for body in [r#"{"sql":"select a"}"#, r#"{"sql":"select a","project":""}"#, "no json"] {
        for _ in 0..3 {
            let before = node.queries();
            send(&proxy, request(&[("authorization", "Basic x")], body)).await;
            assert_eq!(node.queries(), before + 1, "{body}");
        }
    }
}

/// A body of pieces, of which the last one arrives first.
struct Pieces(Vec<Result<Bytes, std::io::Error>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(self.0.pop().map(|piece| piece.map(http_body::Frame::data)))
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_stored_too_and_arrive_as_they_are() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    node.respond_with(|| {
        let pieces: Vec<_> = result(&"y".repeat(1000)).bytes().collect();
        let pieces = pieces.chunks(100).rev().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Response::builder().header("content-type", "application/json").body(Body::new(Pieces(pieces))).unwrap()
    });
    for expected in ["MISS", "HIT", "HIT"] {
        let received = query(&proxy, "MARY", "select a").await;
        assert_eq!((received.cache(), &received.body), (expected, &result(&"y".repeat(1000))));
    }
    // A result that is too long is passed on.
    node.respond_with(|| {
        let pieces: Vec<_> = result(&"z".repeat(3 << 20)).bytes().collect();
        let pieces = pieces.chunks(100_000).rev().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Response::builder().header("content-type", "application/json").body(Body::new(Pieces(pieces))).unwrap()
    });
    for _ in 0..2 {
        let received = query(&proxy, "MARY", "select b").await;
        assert_eq!((received.cache(), &received.body), ("MISS", &result(&"z".repeat(3 << 20))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_given_for_60_seconds_and_its_memory_is_freed_soon_after() {
    let buffers = BufferBudget::new(NonZeroUsize::new(1 << 20));
    let (_node, proxy) = stage_with(rules(), |proxy| proxy.buffers(buffers.clone()));
    follow(&proxy).await;
    store(&proxy, "MARY", "select a").await;
    let used = buffers.status().used;
    assert!(used >= result("0").len() && proxy.cache().unwrap().bytes >= used, "{used}");
    sleep(Duration::from_secs(59)).await;
    let late = query(&proxy, "MARY", "select a").await;
    assert_eq!((late.cache(), late.headers["age"].to_str().unwrap()), ("HIT", "59"));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "MISS");
    assert_eq!(proxy.cache().unwrap().stale, 1);
    sleep(Duration::from_secs(75)).await;
    assert_eq!((proxy.cache().unwrap().entries, buffers.status().used), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn entries_stay_within_their_bytes_and_leave_half_of_the_budget() {
    let bound = 20_000;
    let buffers = BufferBudget::new(NonZeroUsize::new(1 << 20));
    let small = rules().max_bytes(NonZeroUsize::new(bound).unwrap());
    let (_node, proxy) = stage_with(small, |proxy| proxy.buffers(buffers.clone()));
    follow(&proxy).await;
    for number in 0..200 {
        query(&proxy, "MARY", &format!("select {number}")).await;
        let status = proxy.cache().unwrap();
        assert!(status.bytes <= bound && buffers.status().used <= bound, "{status:?}");
    }
    let status = proxy.cache().unwrap();
    assert!(status.entries > 5 && status.evicted >= 100, "{status:?}");
    drop(proxy);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(buffers.status().used, 0);

    let buffers = BufferBudget::new(NonZeroUsize::new(20_000));
    let (_node, proxy) = stage_with(rules(), |proxy| proxy.buffers(buffers.clone()));
    follow(&proxy).await;
    for number in 0..200 {
        assert_eq!(query(&proxy, "MARY", &format!("select {number}")).await.status, 200);
        assert!(buffers.status().used <= 10_000, "{:?}", buffers.status());
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_4096_entries_at_most() {
    let (_node, proxy) = stage();
    follow(&proxy).await;
    for number in 0..5_000 {
        query(&proxy, "MARY", &format!("select {number}")).await;
    }
    let status = proxy.cache().unwrap();
    assert!(status.entries <= 4096 && status.entries > 3000, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_cached_while_builds_cannot_be_followed() {
    for (response, expected) in [
        ((401, ""), "rejects the login"),
        ((403, ""), "does not let the login"),
        ((404, ""), "has no list of jobs"),
        ((200, "<html>"), "has no list of jobs"),
        ((500, "{}"), "has no list of jobs"),
    ] {
        let (node, proxy) = stage();
        *node.0.poll_response.lock().unwrap() = Some(response);
        follow(&proxy).await;
        for _ in 0..3 {
            assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "MISS");
        }
        let error = proxy.cache().unwrap().error.unwrap();
        assert!(error.contains(expected) && error.contains("q1") && !error.contains("secret"), "{error}");
        *node.0.poll_response.lock().unwrap() = None;
        let before = node.polls();
        sleep(Duration::from_secs(35)).await;
        query(&proxy, "MARY", "select a").await;
        if response.0 == 401 {
            // Kylin 5 locks a user after three wrong passwords.
            assert_eq!(node.polls(), before, "the login was sent again");
            for _ in 0..30 {
                sleep(Duration::from_secs(20)).await;
                query(&proxy, "MARY", "select a").await;
            }
        }
        assert_eq!(proxy.cache().unwrap().error, None);
        store(&proxy, "MARY", "select b").await;
    }
}

/// The order in which projects are checked is not fixed.
#[tokio::test(start_paused = true)]
async fn projects_without_a_list_of_jobs_do_not_keep_others_from_being_followed() {
    let (node, proxy) = stage();
    *node.0.unlisted.lock().unwrap() = Some("=gone");
    for number in 0..8 {
        let body = format!(r#"{{"sql":"select a","project":"gone{number}"}}"#);
        send(&proxy, request(&[("authorization", &basic("MARY", "MARY"))], &body)).await;
    }
    query(&proxy, "MARY", "select first").await;
    sleep(Duration::from_millis(5)).await;
    store(&proxy, "MARY", "select a").await;
    sleep(Duration::from_secs(40)).await;
    assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "HIT");
    assert!(proxy.cache().unwrap().error.unwrap().contains("has no list of jobs"));
}

#[tokio::test(start_paused = true)]
async fn a_query_that_outlives_the_following_of_its_project_stores_nothing() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    let gate = Arc::new(Semaphore::new(0));
    *node.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let slow = tokio::spawn({
        let proxy = proxy.clone();
        async move { query(&proxy, "MARY", "select a").await.body }
    });
    sleep(Duration::from_secs(140)).await;
    assert_eq!(proxy.cache().unwrap().projects, 0);
    // A build that no check sees.
    node.build();
    gate.add_permits(100);
    let old = slow.await.unwrap();
    assert_eq!(old, result("0"));
    sleep(Duration::from_millis(5)).await;
    assert_eq!(proxy.cache().unwrap().projects, 1);
    let new = query(&proxy, "MARY", "select a").await;
    assert_eq!((new.cache(), &new.body), ("MISS", &result("1")));
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_not_given_when_the_list_of_jobs_is_too_old() {
    let (node, proxy) = stage();
    follow(&proxy).await;
    store(&proxy, "MARY", "select a").await;
    *node.0.poll_response.lock().unwrap() = Some((503, ""));
    sleep(Duration::from_secs(14)).await;
    assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "HIT");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "MISS");
    assert_eq!(proxy.cache().unwrap().stale, 1);
}

#[tokio::test]
async fn without_a_login_there_is_no_cache() {
    let cluster = || Cluster::builder().endpoint(Endpoint::new("q1", Node::default()).unwrap()).build().unwrap();
    let without = Proxy::builder(cluster()).cache(CacheRules::new()).build();
    assert!(matches!(without, Err(ProxyBuildError::CacheWithoutLogin)));
    assert!(CacheRules::new().login("a:b", "c").is_err());
    let shown = format!("{:?}", rules());
    assert!(!shown.contains("secret") && !shown.contains(&basic("MONITOR", "secret")), "{shown}");
    assert_eq!(Proxy::builder(cluster()).build().unwrap().cache(), None);
}

#[tokio::test(start_paused = true)]
async fn observers_learn_what_was_found() {
    #[derive(Default)]
    struct Outcomes(Mutex<Vec<(CacheOutcome, Option<Duration>)>>);
    impl Observer for Outcomes {
        fn cache(&self, event: &CacheLookup<'_>) {
            self.0.lock().unwrap().push((event.outcome, event.age));
        }
    }
    let outcomes = Arc::new(Outcomes::default());
    let (_node, proxy) = stage_with(rules(), |proxy| proxy.observer(Arc::clone(&outcomes)));
    follow(&proxy).await;
    store(&proxy, "MARY", "select a").await;
    sleep(Duration::from_secs(61)).await;
    query(&proxy, "MARY", "select a").await;
    let miss = (CacheOutcome::Miss, None);
    let hit = (CacheOutcome::Hit, Some(Duration::ZERO));
    assert_eq!(*outcomes.0.lock().unwrap(), [miss, miss, hit, (CacheOutcome::Stale, None)]);
}

/// Identical queries that wait together store one result. With single flight off, each is sent, and
/// the cache still works.
#[tokio::test(start_paused = true)]
async fn followers_store_nothing_and_single_flight_may_be_off() {
    for single_flight in [true, false] {
        let (node, proxy) = stage_with(rules(), |proxy| proxy.single_flight(single_flight));
        follow(&proxy).await;
        let gate = Arc::new(Semaphore::new(0));
        *node.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let proxy = proxy.clone();
                tokio::spawn(async move { query(&proxy, "MARY", "select a").await })
            })
            .collect();
        sleep(Duration::from_millis(1)).await;
        gate.add_permits(100);
        for received in waiting {
            let received = received.await.unwrap();
            assert_eq!((received.cache(), &received.body), ("MISS", &result("0")));
        }
        assert_eq!(node.queries(), if single_flight { 2 } else { 21 });
        assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "HIT");
    }
}

/// Regardless of which of three clients leaves, and after how many polls, the others get their
/// responses, and nothing remains.
#[test]
fn a_client_can_leave_at_any_poll() {
    for leaver in 0..3 {
        for polls in 0..16 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.unwrap().block_on(leave(leaver, polls));
        }
    }
}

async fn leave(leaver: usize, mut polls: usize) {
    let buffers = BufferBudget::new(NonZeroUsize::new(1 << 20));
    let (node, proxy) = stage_with(rules(), |proxy| proxy.buffers(buffers.clone()));
    follow(&proxy).await;
    node.respond_with(|| {
        let pieces: Vec<_> = result(&"y".repeat(1000)).bytes().collect();
        let pieces = pieces.chunks(300).rev().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Response::builder().header("content-type", "application/json").body(Body::new(Paused::new(pieces))).unwrap()
    });
    let mut clients: Vec<Option<Pin<Box<dyn Future<Output = Received>>>>> = (0..3)
        .map(|_| {
            let proxy = proxy.clone();
            Some(Box::pin(async move { query(&proxy, "MARY", "select a").await }) as _)
        })
        .collect();
    let mut received = Vec::new();
    std::future::poll_fn(|cx| {
        for (number, client) in clients.iter_mut().enumerate() {
            if number == leaver {
                match polls.checked_sub(1) {
                    Some(left) => polls = left,
                    None => *client = None,
                }
            }
            if let Some(exchange) = client
                && let Poll::Ready(response) = exchange.as_mut().poll(cx)
            {
                received.push(response);
                *client = None;
            }
        }
        if clients.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!(received.len() >= 2 && received.iter().all(|received| received.body == result(&"y".repeat(1000))));
    let single_flight = proxy.single_flight().unwrap();
    assert_eq!((single_flight.leaders, single_flight.followers, proxy.cluster().status().in_flight()), (0, 0, 0));
    let next = query(&proxy, "MARY", "select a").await;
    assert_eq!((next.status, &next.body), (StatusCode::OK, &result(&"y".repeat(1000))));
    assert_eq!(query(&proxy, "MARY", "select a").await.cache(), "HIT");
    drop((received, next, proxy));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(buffers.status().used, 0);
}

/// [`Pieces`] with a pause before each.
struct Paused {
    pieces: Pieces,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Paused {
    fn new(pieces: Vec<Result<Bytes, std::io::Error>>) -> Self {
        Paused { pieces: Pieces(pieces), pause: None }
    }
}

impl http_body::Body for Paused {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(1))));
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Pin::new(&mut self.pieces).poll_frame(cx)
    }
}
