//! Identical queries that wait at the same time are executed once.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::observe::{Finished, Observer, ServedBy, SharedResponse, Termination};
use kylin_lb::proxy::{CancelOnDisconnect, KylinRules, ProxyBuilder};
use kylin_lb::server::{Listen, Server};
use kylin_lb::session::{Affinity, CookieIssue, LoginRelay, Secret, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, KylinNode};
use kylin_lb::{Backend, Body, BufferBudget, ClientAddr, Cluster, Endpoint, Proxy, SendError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::browser::basic;
use crate::support::dialects::in_each_dialect;
use crate::support::front::eventually;
use crate::support::http::Connection;

/// A node that begins each query when the test allows it. Clones share the gate.
#[derive(Clone)]
struct Gated<N> {
    node: N,
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
}

impl<N> Gated<N> {
    fn new(node: N) -> Self {
        Gated { node, gate: Arc::new(Semaphore::new(0)), begun: Arc::default() }
    }

    fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl<N: Backend> Backend for Gated<N> {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        if request.uri().path().split(';').next() == Some("/kylin/api/query") {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
        }
        self.node.send(request).await
    }
}

fn client() -> ClientAddr {
    ClientAddr::Unix
}

fn proxy_over<B: Backend>(node: B, change: impl FnOnce(ProxyBuilder<B>) -> ProxyBuilder<B>) -> Proxy<B> {
    let cluster = Cluster::builder().endpoint(Endpoint::new("q1", node).unwrap().outlier(false)).build().unwrap();
    change(Proxy::builder(cluster)).build().unwrap()
}

/// A node of this dialect, behind a proxy with the defaults.
fn stage(dialect: Dialect) -> (Gated<KylinNode>, Proxy<Gated<KylinNode>>) {
    let node = Gated::new(KylinNode::new("q1").kylin_version(dialect));
    (node.clone(), proxy_over(node, |proxy| proxy))
}

fn request(headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/kylin/api/query").header("host", "kylin").header("user-agent", "test");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body.into()).unwrap()
}

/// Returns the cookie of a new session.
async fn log_in<B: Backend>(proxy: &Proxy<B>, user: &str, password: &str) -> String {
    let login = Request::post("/kylin/api/user/authentication").header("host", "kylin").header("user-agent", "test");
    let login = login.header("authorization", basic(user, password)).body(Body::empty()).unwrap();
    let response = proxy.forward(client(), login).await;
    assert_eq!(response.status(), 200);
    let lines = response.headers().get_all("set-cookie").iter();
    let pairs: Vec<_> = lines.map(|line| line.to_str().unwrap().split(';').next().unwrap().to_owned()).collect();
    pairs.join("; ")
}

type Received = (StatusCode, String, Option<ServedBy>);

/// Sends a request in its own task.
fn spawn<B: Backend>(proxy: &Proxy<B>, request: Request<Body>) -> JoinHandle<Received> {
    let proxy = proxy.clone();
    tokio::spawn(async move {
        let response = proxy.forward(client(), request).await;
        let (status, served_by) = (response.status(), response.extensions().get().cloned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned(), served_by)
    })
}

/// Waits for all responses.
async fn all_get(status: u16, waiting: impl IntoIterator<Item = JoinHandle<Received>>) {
    for response in waiting {
        assert_eq!(response.await.unwrap().0, status);
    }
}

fn followers<B: Backend>(proxy: &Proxy<B>) -> usize {
    proxy.single_flight().unwrap().followers
}

async fn wait_for_followers<B: Backend>(proxy: &Proxy<B>, count: usize) {
    eventually(|| followers(proxy) == count, || format!("{:?}", proxy.single_flight())).await;
}

/// Checks that nothing waits and nothing is in flight.
async fn check_rest<B: Backend>(proxy: &Proxy<B>) {
    let status = || proxy.single_flight().unwrap();
    let at_rest = || (status().leaders, status().followers, proxy.cluster().status().in_flight()) == (0, 0, 0);
    eventually(at_rest, || format!("{:?}", status())).await;
}

const SQL: &str = r#"{"sql":"select 1 from kylin_sales","project":"learn_kylin"}"#;

in_each_dialect!(equal_queries_of_one_session_are_executed_once);
async fn equal_queries_of_one_session_are_executed_once(dialect: Dialect) {
    let (node, proxy) = stage(dialect);
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let other = log_in(&proxy, "ANALYST", "ANALYST").await;
    let bodies = |n: usize| match n % 3 {
        0 => SQL.to_owned(),
        1 => format!(r#" {{ "project":"learn_kylin", "queryId":"id-{n}", "sql" : "select 1 from kylin_sales" }}"#),
        _ => format!(r#"{{"stopId":"s-{n}","sql":"select\u00201 from kylin_sales","project":"learn_kylin"}}"#),
    };
    let of = |cookie: &str, n: usize| {
        spawn(&proxy, request(&[("cookie", cookie), ("x-request-id", &n.to_string())], bodies(n)))
    };
    let waiting: Vec<_> = (0..200).map(|n| of(&cookie, n)).collect();
    wait_for_followers(&proxy, 199).await;
    let of_other = of(&other, 0);
    eventually(|| node.begun() == 2, || format!("{} executions", node.begun())).await;
    node.open();
    for response in waiting {
        let (status, body, _) = response.await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains(r#""results":[["q1","select 1 from kylin_sales"]]"#), "{body}");
    }
    assert_eq!(of_other.await.unwrap().0, 200);
    assert_eq!((node.begun(), node.node.stats().queries), (2, 2));
    assert_eq!(proxy.single_flight().unwrap().shared, 199);
    check_rest(&proxy).await;
}

#[tokio::test]
async fn queries_that_differ_in_anything_that_may_matter_have_their_own_executions() {
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let base = ("authorization", &*user);
    let (wrong, other_case) = (basic("ADMIN", "wrong"), basic("admin", "KYLIN"));
    let with = |member: &str| format!(r#"{{"sql":"select 1 from kylin_sales","project":"learn_kylin",{member}}}"#);
    let mut requests = vec![
        request(&[base], SQL),
        request(&[("authorization", &wrong)], SQL),
        request(&[("authorization", &other_case)], SQL),
        request(&[base, ("cookie", "JSESSIONID=1")], SQL),
        request(&[base, ("cookie", "JSESSIONID=2")], SQL),
        request(&[("cookie", "JSESSIONID=1")], SQL),
        request(&[base, ("accept", "text/csv")], SQL),
        request(&[base, ("accept-encoding", "gzip")], SQL),
        request(&[base, ("auth-token", "t")], SQL),
        request(&[base], with(r#""limit":1"#)),
        request(&[base], with(r#""executeAs":"MARY""#)),
        request(&[base], with(r#""unknown":1"#)),
        request(&[base], with(r#""unknown":2"#)),
        request(&[base], r#"{"sql":"select 1 from kylin_sales","project":"LEARN_KYLIN"}"#),
        request(&[base], r#"{"sql":"select  1 from kylin_sales","project":"learn_kylin"}"#),
    ];
    let mut to_other_host = request(&[base], SQL);
    to_other_host.headers_mut().insert("host", "other.example".parse().unwrap());
    requests.push(to_other_host);
    // These never wait for another query, and no other waits for them.
    for alone in [
        request(&[base, ("cache-control", "max-age=0, No-Cache")], SQL),
        request(&[base, ("pragma", "no-cache")], SQL),
        request(&[], SQL),
        request(&[base], r#"{"sql":"insert into t select 1","project":"other"}"#),
        request(&[base], "no json"),
    ] {
        let (head, body) = alone.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        requests.extend([(); 2].map(|()| Request::from_parts(head.clone(), Body::from(body.clone()))));
    }
    let count = requests.len();
    let waiting: Vec<_> = requests.into_iter().map(|request| spawn(&proxy, request)).collect();
    eventually(|| node.begun() == count, || format!("{} of {count}", node.begun())).await;
    assert_eq!(followers(&proxy), 0);
    node.open();
    all_get(200, waiting).await;
    check_rest(&proxy).await;
}

#[tokio::test]
async fn nothing_is_shared_where_it_is_off_or_the_proxy_does_not_know_kylin() {
    let scripted = || scripted(&[rows]);
    let user = basic("ADMIN", "KYLIN");
    let off = scripted();
    let plain = scripted();
    let cluster = Cluster::builder().endpoint(Endpoint::new("q1", plain.clone()).unwrap()).build().unwrap();
    for (node, proxy) in [
        (off.clone(), proxy_over(off, |proxy| proxy.single_flight(false))),
        (plain, Proxy::plain(cluster).build().unwrap()),
    ] {
        let waiting = [(); 3].map(|()| spawn(&proxy, request(&[("authorization", &user)], SQL)));
        eventually(|| node.begun() == 3, || format!("{}", node.begun())).await;
        assert_eq!(proxy.single_flight(), None);
        node.open();
        all_get(200, waiting).await;
    }
}

#[tokio::test]
async fn a_query_after_a_write_does_not_wait_for_one_before_it() {
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let of_project = |project| format!(r#"{{"sql":"select 1","project":"{project}"}}"#);
    let query = |project| spawn(&proxy, request(&[("authorization", &user)], of_project(project)));
    let write = |method: &str, path: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("host", "kylin");
        request.header("authorization", &user).body(Body::from(body)).unwrap()
    };
    let mut waiting = vec![query("p"), query("other")];
    let mut begun = 2;
    for (method, path, body) in [
        ("PUT", "/kylin/api/cubes/c/build", "{}"),
        ("POST", "/kylin/api/models", "{}"),
        ("PUT", "/kylin/api/admin/config", "{}"),
    ] {
        eventually(|| node.begun() == begun, || format!("{begun}")).await;
        assert_eq!(proxy.forward(client(), write(method, path, body)).await.status(), 200);
        waiting.extend([query("p"), query("other")]);
        begun += 2;
    }
    eventually(|| node.begun() == begun, || format!("{begun}")).await;
    assert_eq!(followers(&proxy), 0);
    // SQL that writes affects its project, in any case of letters, once it has ended. Unknown SQL
    // affects none.
    const INSERT: &str = r#"{"sql":"insert into t values (1)","project":"P"}"#;
    waiting.push(spawn(&proxy, request(&[("authorization", &user)], INSERT)));
    waiting.push(spawn(&proxy, request(&[("authorization", &user)], "no json")));
    eventually(|| node.begun() == begun + 2, || format!("{begun}")).await;
    waiting.extend([query("p"), query("other")]);
    wait_for_followers(&proxy, 2).await;
    // The gate is not at this path.
    assert_eq!(proxy.forward(client(), write("POST", "/kylin/api/query/", INSERT)).await.status(), 200);
    waiting.extend([query("p"), query("other")]);
    eventually(|| node.begun() == begun + 3, || format!("{begun}")).await;
    wait_for_followers(&proxy, 3).await;
    node.open();
    all_get(200, waiting).await;
    check_rest(&proxy).await;
}

/// A client without a login can send writes and logouts too.
#[tokio::test]
async fn what_no_node_has_executed_leaves_equal_queries_together() {
    let node = Gated::new(Scripted::new(|request| async move {
        match request.uri().path().rsplit_once('/').map_or("", |(_, last)| last) {
            "unsent" => Err(SendError::new(SendErrorKind::Connect, "refused")),
            "broken" => Err(SendError::new(SendErrorKind::Broken, "reset")),
            "config" => json(401, "{}"),
            // The node that was chosen may have executed it.
            "transferred" => json(500, r#"{"code":"KE-010021003","data":null,"msg":"timed out"}"#),
            last => json(last.parse().unwrap_or(200), "{}"),
        }
    }));
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let query = || spawn(&proxy, request(&[("authorization", &user)], SQL));
    let send = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let request = Request::builder().method(method).uri(path).header("host", "kylin");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        proxy.forward(client(), request.body(Body::from("{}")).unwrap()).await.status().as_u16()
    };
    let mut waiting = vec![query()];
    eventually(|| node.begun() == 1, || "the first leads".into()).await;
    for (at, (method, path, status)) in [
        ("GET", "/kylin/logout", 200),
        ("GET", "/kylin/j_spring_security_logout", 200),
        ("POST", "/kylin/api/models/401", 401),
        ("PUT", "/kylin/api/cubes/c/build/403", 403),
        ("DELETE", "/kylin/api/cubes/302", 302),
        ("PUT", "/kylin/api/admin/config", 401),
        ("POST", "/kylin/api/models/unsent", 502),
    ]
    .into_iter()
    .enumerate()
    {
        let guess = basic("ADMIN", "guessed");
        for headers in [&[][..], &[("authorization", &*guess)], &[("cookie", "JSESSIONID=guessed; a=1")]] {
            assert_eq!(send(method, path, headers).await, status, "{path}");
        }
        waiting.push(query());
        wait_for_followers(&proxy, at + 1).await;
    }
    assert_eq!(node.begun(), 1);
    // A node may have executed these.
    let may_be_executed = [("200", 200), ("400", 400), ("500", 500), ("broken", 502), ("transferred", 500)];
    for (at, (path, status)) in may_be_executed.into_iter().enumerate() {
        assert_eq!(send("POST", &format!("/kylin/api/models/{path}"), &[]).await, status, "{path}");
        waiting.push(query());
        eventually(|| node.begun() == at + 2, || format!("after {path}: {}", node.begun())).await;
    }
    node.open();
    all_get(200, waiting).await;
    check_rest(&proxy).await;
}

#[tokio::test]
async fn a_logout_and_a_write_whose_client_has_left_concern_the_queries_of_their_client() {
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let of = [("authorization", &*user), ("cookie", "JSESSIONID=one"), ("cookie", "JSESSIONID=two; a=1")];
    let query = |client: usize| spawn(&proxy, request(&of[client..=client], SQL));
    let mut waiting: Vec<_> = (0..3).map(query).collect();
    eventually(|| node.begun() == 3, || format!("{}", node.begun())).await;
    let logout = Request::get("/kylin/logout").header("host", "kylin").header("cookie", "b=2; JSESSIONID=two");
    assert_eq!(proxy.forward(client(), logout.body(Body::empty()).unwrap()).await.status(), 200);
    waiting.extend((0..3).map(query));
    eventually(|| node.begun() == 4, || format!("{}", node.begun())).await;
    wait_for_followers(&proxy, 2).await;
    let write = spawn(&proxy, request(&of[1..2], r#"{"sql":"insert into t values (1)","project":"learn_kylin"}"#));
    eventually(|| node.begun() == 5, || format!("{}", node.begun())).await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    waiting.extend((0..2).map(query));
    eventually(|| node.begun() == 6, || format!("{}", node.begun())).await;
    wait_for_followers(&proxy, 3).await;
    node.open();
    all_get(200, waiting).await;
    check_rest(&proxy).await;
}

/// Readers and writers race. A reader never gets data from before a write that had ended when the
/// reader arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_response_is_older_than_the_writes_before_the_arrival_of_its_query() {
    let version = Arc::new(AtomicU64::new(0));
    let node = Scripted::new({
        let version = Arc::clone(&version);
        move |request| {
            let version = Arc::clone(&version);
            async move {
                if request.uri().path() != "/kylin/api/query" {
                    tokio::task::yield_now().await;
                    let written = version.fetch_add(1, Ordering::SeqCst) + 1;
                    return Ok(Response::new(Body::from(written.to_string())));
                }
                let read = version.load(Ordering::SeqCst);
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                Ok(Response::new(Body::from(format!(r#"{{"results":[["{read}"]],"isException":false}}"#))))
            }
        }
    });
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let seen = Arc::new(AtomicU64::new(0));
    let number = |received: Received| received.1.replace(|c: char| !c.is_ascii_digit(), "").parse::<u64>().unwrap();
    let writer = {
        let (proxy, user, seen) = (proxy.clone(), user.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            for _ in 0..300 {
                let write =
                    Request::put("/kylin/api/cubes/c/build").header("host", "kylin").header("authorization", &user);
                let written = number(spawn(&proxy, write.body(Body::empty()).unwrap()).await.unwrap());
                seen.fetch_max(written, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        })
    };
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (proxy, user, seen) = (proxy.clone(), user.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                for _ in 0..300 {
                    let before = seen.load(Ordering::SeqCst);
                    let read = number(spawn(&proxy, request(&[("authorization", &user)], SQL)).await.unwrap());
                    assert!(read >= before, "read {read} after {before} was written");
                }
            })
        })
        .collect();
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(proxy.single_flight().unwrap().shared > 0 && node.calls() < 16 * 300 + 300, "nothing was shared");
    check_rest(&proxy).await;
}

/// How a node handles a query.
type Step = fn() -> Result<Response<Body>, SendError>;

/// How a node handles the queries, in order. The last step repeats.
type Script = &'static [Step];

/// How a node handles each query: the first, the second, and so on. The last step repeats.
fn scripted(script: Script) -> Gated<Scripted> {
    let count = AtomicUsize::new(0);
    Gated::new(Scripted::new(move |_| {
        let at = count.fetch_add(1, Ordering::SeqCst).min(script.len() - 1);
        async move { script[at]() }
    }))
}

fn json(status: u16, body: impl Into<Body>) -> Result<Response<Body>, SendError> {
    Ok(Response::builder().status(status).header("content-type", "application/json").body(body.into()).unwrap())
}

fn rows() -> Result<Response<Body>, SendError> {
    json(200, r#"{"columnMetas":[{}],"results":[["1"]],"isException":false}"#)
}

fn exception() -> Result<Response<Body>, SendError> {
    json(200, r#"{"code":"000","data":{"columnMetas":[],"results":[],"isException":true,"exceptionMessage":"no"}}"#)
}

fn syntax_error() -> Result<Response<Body>, SendError> {
    json(500, r#"{"code":"999","msg":"Encountered \"x\" at line 1"}"#)
}

fn broken() -> Result<Response<Body>, SendError> {
    Err(SendError::new(SendErrorKind::HeadTimeout, "scripted"))
}

fn refused() -> Result<Response<Body>, SendError> {
    json(401, "{}")
}

fn with_cookie() -> Result<Response<Body>, SendError> {
    let mut response = rows()?;
    response.headers_mut().insert("set-cookie", "JSESSIONID=secret".parse().unwrap());
    Ok(response)
}

fn large() -> Result<Response<Body>, SendError> {
    json(200, format!(r#"{{"columnMetas":[{{}}],"results":[["{}"]],"isException":false}}"#, "x".repeat(1 << 20)))
}

fn exception_after_columns() -> Result<Response<Body>, SendError> {
    json(200, r#"{"columnMetas":[{"label":"A"}],"results":null,"isException":true,"exceptionMessage":"no"}"#)
}

fn page() -> Result<Response<Body>, SendError> {
    Ok(Response::builder().header("content-type", "text/html").body("<html>Sign in</html>".into()).unwrap())
}

fn empty() -> Result<Response<Body>, SendError> {
    json(200, "")
}

fn failure_without_data() -> Result<Response<Body>, SendError> {
    json(200, r#"{"code":"999","data":null,"msg":"no"}"#)
}

fn cut_after_columns() -> Result<Response<Body>, SendError> {
    json(200, r#"{"columnMetas":[{}],"results":[["1"],["2"#)
}

fn cut_at_a_brace() -> Result<Response<Body>, SendError> {
    json(200, r#"{"results":[["1"]],"isException":false,"columnMetas":[{"label":"A"}"#)
}

fn in_unknown_coding() -> Result<Response<Body>, SendError> {
    let mut response = rows()?;
    response.headers_mut().insert("content-encoding", "br".parse().unwrap());
    Ok(response)
}

/// A stream that ends early.
fn truncated() -> Result<Response<Body>, SendError> {
    json(200, Body::new(Truncated(false)))
}

struct Truncated(bool);

impl http_body::Body for Truncated {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        std::task::Poll::Ready(Some(match std::mem::replace(&mut self.0, true) {
            false => Ok(http_body::Frame::data(Bytes::from_static(b"{"))),
            true => Err(std::io::Error::other("scripted")),
        }))
    }
}

/// Sends eight identical queries to a node with this script, and returns their statuses and the
/// number of executions.
async fn eight(script: Script, buffers: BufferBudget) -> (Vec<u16>, usize) {
    let node = scripted(script);
    let proxy = proxy_over(node.clone(), |proxy| proxy.buffers(buffers));
    let user = basic("ADMIN", "KYLIN");
    let waiting: Vec<_> = (0..8).map(|_| spawn(&proxy, request(&[("authorization", &user)], SQL))).collect();
    wait_for_followers(&proxy, 7).await;
    node.open();
    let mut statuses = Vec::new();
    for response in waiting {
        statuses.push(response.await.unwrap().0.as_u16());
    }
    statuses.sort_unstable();
    check_rest(&proxy).await;
    (statuses, node.begun())
}

#[tokio::test]
async fn only_a_complete_result_is_shared_at_once() {
    let budget = || BufferBudget::new(NonZeroUsize::new(64 << 20));
    let all = |status: u16| vec![status; 8];
    let one_and = |first: u16, others: u16| {
        let mut statuses = vec![others; 7];
        statuses.push(first);
        statuses.sort_unstable();
        statuses
    };
    assert_eq!(eight(&[rows], budget()).await, (all(200), 1));
    // One more leads after a failure. After two failures, all get the second one.
    for (failure, status) in [
        (exception as fn() -> _, 200),
        (exception_after_columns, 200),
        (page, 200),
        (empty, 200),
        (failure_without_data, 200),
        (cut_after_columns, 200),
        (cut_at_a_brace, 200),
        (syntax_error, 500),
        (refused, 401),
        (broken, 504),
        (truncated, 502),
    ] {
        assert_eq!(eight_of(&[failure, rows], budget()).await, (one_and(status, 200), 2), "{status}");
        assert_eq!(eight_of(&[failure], budget()).await, (all(status), 2), "{status}");
    }
    // A response that cannot be copied is executed for each client.
    for script in [&[with_cookie as fn() -> _][..], &[large], &[in_unknown_coding]] {
        assert_eq!(eight_of(script, budget()).await, (all(200), 8));
    }
    let small = BufferBudget::new(NonZeroUsize::new(16));
    assert_eq!(eight(&[rows], small.clone()).await, (all(200), 8), "there is no memory for a copy");
    assert_eq!(small.status().used, 0);
}

async fn eight_of(script: &[Step], buffers: BufferBudget) -> (Vec<u16>, usize) {
    eight(script.to_vec().leak(), buffers).await
}

/// Counts the events that observers get for following queries.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Observer for Notes {
    fn shared(&self, event: &SharedResponse<'_>) {
        self.0.lock().unwrap().push(format!("shared {}", event.endpoint));
    }

    fn finished(&self, event: &Finished<'_>) {
        let (attempts, end) = (event.attempts.len(), event.termination);
        self.0.lock().unwrap().push(format!("finished {attempts} {end}"));
    }
}

#[tokio::test]
async fn each_query_has_a_record_of_its_own() {
    let (notes, node) = (Notes::default(), scripted(&[rows]));
    let proxy = proxy_over(node.clone(), |proxy| proxy.observer(notes.clone()));
    let user = basic("ADMIN", "KYLIN");
    let waiting: Vec<_> = (0..3).map(|_| spawn(&proxy, request(&[("authorization", &user)], SQL))).collect();
    wait_for_followers(&proxy, 2).await;
    let gone = spawn(&proxy, request(&[("authorization", &user)], SQL));
    wait_for_followers(&proxy, 3).await;
    gone.abort();
    wait_for_followers(&proxy, 2).await;
    node.open();
    let mut shared = Vec::new();
    for response in waiting {
        let served_by = response.await.unwrap().2.unwrap();
        assert_eq!((served_by.endpoint.as_str(), served_by.attempts), ("q1", 1));
        shared.push(served_by.shared);
    }
    shared.sort_unstable();
    assert_eq!(shared, [false, true, true]);
    check_rest(&proxy).await;
    let mut lines = notes.0.lock().unwrap().clone();
    lines.sort_unstable();
    let gone = format!("finished 0 {}", Termination::ClientGone);
    let complete = ["finished 0 complete", "finished 0 complete", "finished 1 complete"];
    assert_eq!(lines, [&[&*gone][..], &complete, &["shared q1"; 2]].concat());
}

/// The client of the leader leaves, and then the next one, until one is left.
#[tokio::test]
async fn the_execution_goes_on_while_a_client_waits_for_it() {
    let (notes, node) = (Notes::default(), scripted(&[rows]));
    let proxy = proxy_over(node.clone(), |proxy| proxy.observer(notes.clone()));
    let user = basic("ADMIN", "KYLIN");
    let mut waiting = Vec::new();
    for n in 0..5 {
        waiting.push(spawn(&proxy, request(&[("authorization", &user)], SQL)));
        wait_for_followers(&proxy, n).await;
        eventually(|| node.begun() == 1, || "the first is sent".to_owned()).await;
    }
    let last = waiting.pop().unwrap();
    for (left, client) in (0..4).rev().zip(waiting) {
        client.abort();
        wait_for_followers(&proxy, left).await;
        assert_eq!(proxy.cluster().status().in_flight(), 1);
    }
    node.open();
    assert_eq!(last.await.unwrap().0, 200);
    check_rest(&proxy).await;
    assert_eq!(node.begun(), 1);
    let lines = notes.0.lock().unwrap().clone();
    assert_eq!(lines.iter().filter(|line| line.ends_with("client_gone")).count(), 4, "{lines:?}");
    assert!(lines.contains(&"finished 1 complete".to_owned()), "{lines:?}");

    // The last one to leave ends it.
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let waiting = [(); 3].map(|()| spawn(&proxy, request(&[("authorization", &user)], SQL)));
    wait_for_followers(&proxy, 2).await;
    waiting.iter().for_each(JoinHandle::abort);
    check_rest(&proxy).await;
    assert_eq!(node.begun(), 1);
}

in_each_dialect!(a_stop_takes_its_client_out);
async fn a_stop_takes_its_client_out(dialect: Dialect) {
    let is_v5 = crate::support::dialects::is_v5(dialect);
    let (node, proxy) = stage(dialect);
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let other = log_in(&proxy, "ADMIN", "KYLIN").await;
    let query = |id: &str| {
        let member = if is_v5 { "stopId" } else { "queryId" };
        let body = format!(r#"{{"sql":"select 1, sleep_ms(600000)","project":"learn_kylin","{member}":"{id}"}}"#);
        spawn(&proxy, request(&[("cookie", &cookie)], body))
    };
    let stop = |cookie: String, id: &'static str| {
        let (method, path) = match is_v5 {
            true => ("DELETE", format!("/kylin/api/query/{id}")),
            false => ("PUT", format!("/kylin/api/query/{id}/stop")),
        };
        let request = Request::builder().method(method).uri(path).header("host", "kylin").header("cookie", cookie);
        proxy.forward(client(), request.header("user-agent", "test").body(Body::empty()).unwrap())
    };
    node.open();
    let leader = query("first");
    eventually(|| node.node.stats().running == 1, || "it runs".to_owned()).await;
    let second = query("second");
    wait_for_followers(&proxy, 1).await;
    let third = query("third");
    wait_for_followers(&proxy, 2).await;
    // Another session does not stop a waiting query.
    assert_eq!(stop(other, "second").await.status(), 200);
    assert_eq!(followers(&proxy), 2);
    for (id, stopped, left) in [("second", second, 1), ("first", leader, 0)] {
        assert_eq!(stop(cookie.clone(), id).await.status(), 200);
        let (status, body, _) = stopped.await.unwrap();
        assert_eq!(status, 500, "{body}");
        assert!(body.contains("stopped"), "{body}");
        wait_for_followers(&proxy, left).await;
        assert_eq!((node.node.stats().running, node.node.stats().stopped), (1, 0), "{id}");
    }
    // The execution has the id of the first client, and the third client waits for it.
    assert_eq!(stop(cookie.clone(), "first").await.status(), 200);
    assert_eq!((node.node.stats().running, node.begun()), (1, 1));
    third.abort();
    check_rest(&proxy).await;
}

/// A query that runs until it is stopped, with the id `id`, and the request that stops it.
fn stoppable(is_v5: bool, cookie: &str, id: &str) -> (Request<Body>, Request<Body>) {
    let (member, method, path) = match is_v5 {
        true => ("stopId", "DELETE", format!("/kylin/api/query/{id}")),
        false => ("queryId", "PUT", format!("/kylin/api/query/{id}/stop")),
    };
    let body = format!(r#"{{"sql":"select 1, sleep_ms(600000)","project":"learn_kylin","{member}":"{id}"}}"#);
    let stop = Request::builder().method(method).uri(path).header("host", "kylin").header("cookie", cookie);
    (request(&[("cookie", cookie)], body), stop.header("user-agent", "test").body(Body::empty()).unwrap())
}

in_each_dialect!(the_last_client_stops_the_execution_that_another_began);
async fn the_last_client_stops_the_execution_that_another_began(dialect: Dialect) {
    let is_v5 = crate::support::dialects::is_v5(dialect);
    for is_first_stopped in [false, true] {
        let (node, proxy) = stage(dialect);
        node.node.faults().set_queries_outlive_clients(true);
        node.open();
        let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
        let [first, second] = ["first", "second"].map(|id| stoppable(is_v5, &cookie, id));
        let leader = spawn(&proxy, first.0);
        eventually(|| node.node.stats().running == 1, || "it runs".to_owned()).await;
        let follower = spawn(&proxy, second.0);
        wait_for_followers(&proxy, 1).await;
        if is_first_stopped {
            assert_eq!(proxy.forward(client(), first.1).await.status(), 200);
            assert_eq!(leader.await.unwrap().0, 500);
        } else {
            leader.abort();
        }
        wait_for_followers(&proxy, 0).await;
        assert_eq!((node.node.stats().running, node.node.stats().stopped), (1, 0));
        assert_eq!(proxy.forward(client(), second.1).await.status(), 200);
        eventually(|| follower.is_finished(), || "the follower is not stopped".to_owned()).await;
        let (status, body, _) = follower.await.unwrap();
        assert_eq!(status, 500, "{body}");
        assert!(body.contains("stopped"), "{body}");
        let stats = || (node.node.stats().running, node.node.stats().stopped);
        eventually(|| stats() == (0, 1), || format!("running, stopped: {:?}", stats())).await;
        assert_eq!(node.begun(), 1);
        check_rest(&proxy).await;
    }
}

#[tokio::test]
async fn a_stop_ends_an_execution_that_has_no_id() {
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let leader = spawn(&proxy, request(&[("authorization", &user)], SQL));
    eventually(|| node.begun() == 1, || "the first is sent".to_owned()).await;
    let with_id = r#"{"sql":"select 1 from kylin_sales","project":"learn_kylin","queryId":"second"}"#;
    let follower = spawn(&proxy, request(&[("authorization", &user)], with_id));
    wait_for_followers(&proxy, 1).await;
    leader.abort();
    wait_for_followers(&proxy, 0).await;
    let stop = Request::put("/kylin/api/query/second/stop").header("host", "kylin").header("authorization", &user);
    assert_eq!(proxy.forward(client(), stop.body(Body::empty()).unwrap()).await.status(), 200);
    eventually(|| follower.is_finished(), || "the follower is not stopped".to_owned()).await;
    let (status, body, _) = follower.await.unwrap();
    assert!(status == 500 && body.contains("the query was stopped"), "{status} {body}");
    check_rest(&proxy).await;
}

in_each_dialect!(the_last_client_that_disconnects_cancels_the_execution_that_another_began);
async fn the_last_client_that_disconnects_cancels_the_execution_that_another_began(dialect: Dialect) {
    let is_v5 = crate::support::dialects::is_v5(dialect);
    let cancel = match is_v5 {
        true => CancelOnDisconnect::ByStopId,
        false => CancelOnDisconnect::AsAdmin { authorization: basic("ADMIN", "KYLIN").parse().unwrap() },
    };
    let node = Gated::new(KylinNode::new("q1").kylin_version(dialect));
    let rules = KylinRules::default().cancel_on_disconnect(Some(cancel));
    let proxy = proxy_over(node.clone(), |proxy| proxy.rules(rules));
    node.node.faults().set_queries_outlive_clients(true);
    node.open();
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let leader = spawn(&proxy, stoppable(is_v5, &cookie, "first").0);
    eventually(|| node.node.stats().running == 1, || "it runs".to_owned()).await;
    let follower = spawn(&proxy, stoppable(is_v5, &cookie, "second").0);
    wait_for_followers(&proxy, 1).await;
    leader.abort();
    wait_for_followers(&proxy, 0).await;
    assert_eq!(node.node.stats().running, 1);
    follower.abort();
    let stats = || (node.node.stats().running, node.node.stats().stopped);
    eventually(|| stats() == (0, 1), || format!("running, stopped: {:?}", stats())).await;
    check_rest(&proxy).await;
}

/// Regardless of which of three clients leaves, and after how many polls, the others get their
/// responses, and nothing remains.
#[test]
fn a_client_can_leave_at_any_poll() {
    for (script, executions) in
        [([rows as fn() -> _, rows], 1), ([exception, rows], 2), ([with_cookie, with_cookie], 3)]
    {
        for leaver in 0..3 {
            for polls in 0..12 {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                runtime.unwrap().block_on(leave(script.to_vec().leak(), leaver, polls, executions));
            }
        }
    }
}

async fn leave(script: Script, leaver: usize, mut polls: usize, executions: usize) {
    let count = AtomicUsize::new(0);
    let node = Scripted::new(move |_| {
        let at = count.fetch_add(1, Ordering::SeqCst).min(script.len() - 1);
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            Ok(script[at]()?.map(|body| Body::new(Slow { body, pause: None })))
        }
    });
    let one = std::num::NonZeroU32::MIN;
    let endpoint = Endpoint::new("q1", node.clone()).unwrap().outlier(false).max_in_flight(one.checked_add(2));
    let cluster = Cluster::builder().endpoint(endpoint).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let user = basic("ADMIN", "KYLIN");
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let exchange = {
                let (proxy, request) = (proxy.clone(), request(&[("authorization", &user)], SQL));
                async move {
                    let response = proxy.forward(client(), request).await;
                    let status = response.status();
                    response.into_body().collect().await.map(|_| status)
                }
            };
            Some(Box::pin(exchange))
        })
        .collect();
    let mut statuses = Vec::new();
    std::future::poll_fn(|cx| {
        for (n, client) in clients.iter_mut().enumerate() {
            if n == leaver {
                match polls.checked_sub(1) {
                    Some(left) => polls = left,
                    None => *client = None,
                }
            }
            if let Some(exchange) = client
                && let std::task::Poll::Ready(status) = exchange.as_mut().poll(cx)
            {
                statuses.push(status.unwrap());
                *client = None;
            }
        }
        if clients.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert!(statuses.len() >= 2 && statuses.iter().all(|status| *status == 200), "{leaver} {statuses:?}");
    check_rest(&proxy).await;
    assert!(node.calls() <= executions + 1, "{} executions for {executions}, {leaver} left", node.calls());
}

/// A body whose frames come after a pause.
struct Slow {
    body: Body,
    pause: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = kylin_lb::body::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(std::time::Duration::from_millis(1))));
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// Sessions of a login relay are distinguished by the front end's cookie, which no node sees.
#[tokio::test]
async fn sessions_of_a_login_relay_share_nothing_with_each_other() {
    let node = Gated::new(KylinNode::new("q1"));
    let relay = LoginRelay::new(Sessions::in_memory().unwrap(), Secret::new([7; 32]));
    let proxy = proxy_over(node.clone(), |proxy| proxy.affinity(Affinity::login_relay(relay)));
    let mut waiting = Vec::new();
    let mut expected = 0;
    for (user, password) in [("ADMIN", "KYLIN"), ("ADMIN", "KYLIN"), ("ANALYST", "ANALYST")] {
        let cookie = log_in(&proxy, user, password).await;
        let before = node.begun();
        waiting.extend([(); 4].map(|()| spawn(&proxy, request(&[("cookie", &cookie)], SQL))));
        expected += 3;
        wait_for_followers(&proxy, expected).await;
        eventually(|| node.begun() == before + 1, || format!("{}", node.begun())).await;
    }
    node.open();
    all_get(200, waiting).await;
    assert_eq!((node.begun(), proxy.single_flight().unwrap().shared), (3, 9));
    check_rest(&proxy).await;
}

/// Kylin begins a session for each client with Basic credentials and no cookie. The relay keeps its
/// cookie from the client.
#[tokio::test]
async fn clients_of_a_login_relay_share_a_response_whose_cookie_they_do_not_get() {
    for (issue, executions) in [(CookieIssue::AtLogin, 1), (CookieIssue::WithCredentials, 20)] {
        let node = Gated::new(KylinNode::new("q1"));
        let relay = LoginRelay::new(Sessions::in_memory().unwrap(), Secret::new([7; 32])).cookie_issue(issue);
        let proxy = proxy_over(node.clone(), |proxy| proxy.affinity(Affinity::login_relay(relay)));
        let user = basic("ADMIN", "KYLIN");
        let query = || {
            let (proxy, request) = (proxy.clone(), request(&[("authorization", &user)], SQL));
            tokio::spawn(async move {
                let response = proxy.forward(client(), request).await;
                let (status, has_cookie) = (response.status(), response.headers().contains_key("set-cookie"));
                response.into_body().collect().await.unwrap();
                (status.as_u16(), has_cookie)
            })
        };
        let waiting: Vec<_> = (0..20).map(|_| query()).collect();
        wait_for_followers(&proxy, 19).await;
        node.open();
        for response in waiting {
            assert_eq!(response.await.unwrap(), (200, executions > 1), "{issue:?}");
        }
        assert_eq!(node.begun(), executions, "{issue:?}");
        check_rest(&proxy).await;
    }
}

#[tokio::test]
async fn another_cookie_of_a_node_is_not_shared_behind_a_login_relay() {
    let node = scripted(&[|| {
        let mut response = with_cookie()?;
        response.headers_mut().append("set-cookie", "theme=dark".parse().unwrap());
        Ok(response)
    }]);
    let relay = LoginRelay::new(Sessions::in_memory().unwrap(), Secret::new([7; 32]));
    let proxy = proxy_over(node.clone(), |proxy| proxy.affinity(Affinity::login_relay(relay)));
    let user = basic("ADMIN", "KYLIN");
    let waiting = [(); 4].map(|()| spawn(&proxy, request(&[("authorization", &user)], SQL)));
    wait_for_followers(&proxy, 3).await;
    node.open();
    all_get(200, waiting).await;
    assert_eq!((node.begun(), proxy.single_flight().unwrap().shared), (4, 0));
    check_rest(&proxy).await;
}

#[tokio::test]
async fn a_session_of_a_login_relay_that_has_ended_follows_no_query() {
    let node = Gated::new(KylinNode::new("q1"));
    let relay = LoginRelay::new(Sessions::in_memory().unwrap(), Secret::new([7; 32]));
    let proxy = proxy_over(node.clone(), |proxy| proxy.affinity(Affinity::login_relay(relay)));
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let own = cookie.split("; ").find(|pair| pair.starts_with("KYLINLB_SESSION=")).unwrap();
    let cookies = format!("{own}; a=1");
    let first = spawn(&proxy, request(&[("cookie", &cookies)], SQL));
    eventually(|| node.begun() == 1, || format!("{}", node.begun())).await;
    // With another cookie of the application.
    let logout = Request::get("/kylin/j_spring_security_logout").header("host", "kylin");
    let logout = logout.header("cookie", format!("{own}; a=2")).body(Body::empty()).unwrap();
    assert!(proxy.forward(client(), logout).await.status().as_u16() < 400);
    let second = spawn(&proxy, request(&[("cookie", &cookies)], SQL));
    eventually(|| node.begun() == 2, || format!("{:?}", proxy.single_flight())).await;
    node.open();
    assert_eq!(second.await.unwrap().0, 401, "the node does not know it any more");
    first.await.unwrap();
    assert_eq!(proxy.single_flight().unwrap().shared, 0);
    check_rest(&proxy).await;
}

/// Over the crate's server: streams of one HTTP/2 connection, and HTTP/1.1 connections.
#[tokio::test]
async fn clients_of_both_versions_of_http_share_a_response() {
    let node = Gated::new(KylinNode::new("q1"));
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let listen: Listen = "127.0.0.1:0".parse().unwrap();
    let server =
        Server::builder().listen(listen, proxy.clone()).threads(std::num::NonZero::<usize>::MIN).start().unwrap();
    let stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let over_http2: Vec<_> = (0..20)
        .map(|_| {
            let request = Request::post("http://kylin.example/kylin/api/query").header("cookie", &cookie);
            let request = request.body(Full::new(Bytes::from(SQL))).unwrap();
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap().to_bytes()
            })
        })
        .collect();
    let mut over_http1 = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
        let length = SQL.len();
        let head = format!(
            "POST /kylin/api/query HTTP/1.1\r\nHost: kylin.example\r\nCookie: {cookie}\r\nContent-Length: {length}"
        );
        connection.send(format!("{head}\r\n\r\n{SQL}")).await.unwrap();
        over_http1.push(connection);
    }
    wait_for_followers(&proxy, 39).await;
    // One client of each version leaves.
    over_http2[7].abort();
    drop(over_http1.remove(7));
    wait_for_followers(&proxy, 37).await;
    node.open();
    let mut bodies = std::collections::HashSet::new();
    for (n, response) in over_http2.into_iter().enumerate() {
        if n != 7 {
            bodies.insert(response.await.unwrap());
        }
    }
    for mut connection in over_http1 {
        let response = connection.response().await.unwrap();
        assert_eq!(response.status(), 200);
        bodies.insert(response.body);
    }
    assert_eq!((bodies.len(), node.begun()), (1, 1));
    check_rest(&proxy).await;
}

#[tokio::test]
async fn a_client_without_credentials_stops_no_query_of_a_session_in_the_path() {
    let node = scripted(&[rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let of_session = |id: &str| {
        let body = format!(r#"{{"sql":"select 1 from kylin_sales","project":"learn_kylin","queryId":"{id}"}}"#);
        let request = Request::post("/kylin/api/query;jsessionid=0123456789ABCDEF").header("host", "kylin");
        spawn(&proxy, request.body(Body::from(body)).unwrap())
    };
    let leader = of_session("first");
    eventually(|| proxy.single_flight().unwrap().leaders == 1, || "no leader".to_owned()).await;
    let follower = of_session("second");
    wait_for_followers(&proxy, 1).await;
    for id in ["first", "second"] {
        let stop = Request::put(format!("/kylin/api/query/{id}/stop")).header("host", "kylin");
        proxy.forward(client(), stop.body(Body::empty()).unwrap()).await;
    }
    node.open();
    for query in [leader, follower] {
        assert_eq!(query.await.unwrap().0, 200);
    }
    check_rest(&proxy).await;
}

/// Returns a node that, like Kylin, begins a session for each request without one, and counts its
/// queries. It responds to a query with only the head, until `body` is opened.
fn beginning_sessions(body: &Arc<Semaphore>) -> Gated<Scripted> {
    let body = Arc::clone(body);
    Gated::new(Scripted::new(move |request| {
        let mut response = rows().unwrap();
        if !request.headers().contains_key("cookie") {
            response.headers_mut().insert("set-cookie", "JSESSIONID=new; Path=/kylin".parse().unwrap());
        }
        let opened = Arc::clone(&body);
        let response = response.map(|body| {
            Body::new(Held {
                body,
                opened: Box::pin(async move { opened.acquire_owned().await.unwrap().forget() }),
                is_open: false,
            })
        });
        std::future::ready(Ok(response))
    }))
}

/// A body that comes after a signal.
struct Held {
    body: Body,
    opened: std::pin::Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    is_open: bool,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = kylin_lb::body::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if !self.is_open {
            std::task::ready!(self.opened.as_mut().poll(cx));
            self.is_open = true;
        }
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }
}

#[tokio::test]
async fn a_query_that_begins_a_session_is_not_waited_for() {
    let body = Arc::new(Semaphore::new(0));
    let node = beginning_sessions(&body);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let query = |n: usize| {
        spawn(&proxy, request(&[("authorization", &user)], format!(r#"{{"sql":"select {n}","project":"p"}}"#)))
    };
    // At first nothing is known. The followers are sent when the head has arrived, but no body.
    let mut waiting: Vec<_> = [(); 4].map(|()| query(1)).into();
    wait_for_followers(&proxy, 3).await;
    assert_eq!(node.begun(), 1);
    node.gate.add_permits(1);
    eventually(|| node.begun() == 4, || format!("{} executions", node.begun())).await;
    // Others are sent at once, and each has its own execution.
    waiting.extend([(); 4].map(|()| query(2)));
    eventually(|| node.begun() == 8, || format!("{} executions", node.begun())).await;
    assert_eq!(followers(&proxy), 0);
    // Queries with a session are still shared.
    let of_session = || spawn(&proxy, request(&[("authorization", &user), ("cookie", "JSESSIONID=1")], SQL));
    let shared = [(); 3].map(|()| of_session());
    wait_for_followers(&proxy, 2).await;
    node.open();
    body.add_permits(1000);
    all_get(200, waiting.into_iter().chain(shared)).await;
    assert_eq!((node.begun(), proxy.single_flight().unwrap().shared), (9, 2));
    check_rest(&proxy).await;
}

#[tokio::test]
async fn queries_are_shared_again_after_a_result_without_a_cookie() {
    let node = scripted(&[with_cookie, rows, rows]);
    let proxy = proxy_over(node.clone(), |proxy| proxy);
    let user = basic("ADMIN", "KYLIN");
    let query = || spawn(&proxy, request(&[("authorization", &user)], SQL));
    for _ in 0..2 {
        node.gate.add_permits(1);
        assert_eq!(query().await.unwrap().0, 200);
    }
    let waiting = [(); 3].map(|()| query());
    wait_for_followers(&proxy, 2).await;
    node.open();
    all_get(200, waiting).await;
    assert_eq!((node.begun(), proxy.single_flight().unwrap().shared), (3, 2));
    check_rest(&proxy).await;
}

/// The node of the session fails, and the other one does not know the session.
#[tokio::test]
async fn followers_get_the_failure_of_the_node_of_their_session_too() {
    let nodes = ["a", "b"].map(|name| {
        Gated::new(Scripted::new(move |request| async move {
            if request.uri().path() != "/kylin/api/query" {
                let mut login = json(200, "{}")?;
                login.headers_mut().insert("set-cookie", format!("JSESSIONID={name}").parse().unwrap());
                return Ok(login);
            }
            let is_own = request.headers()["cookie"].to_str().unwrap() == format!("JSESSIONID={name}");
            Ok(Response::builder().status(if is_own { 503 } else { 401 }).body(Body::from("page")).unwrap())
        }))
    });
    let endpoints = nodes.iter().zip(["a", "b"]);
    let endpoints = endpoints.map(|(node, id)| Endpoint::new(id, node.clone()).unwrap().outlier(false));
    let proxy = Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap()).build().unwrap();
    let cookie = log_in(&proxy, "ADMIN", "KYLIN").await;
    let waiting = [(); 4].map(|()| spawn(&proxy, request(&[("cookie", &cookie)], SQL)));
    wait_for_followers(&proxy, 3).await;
    nodes.iter().for_each(Gated::open);
    all_get(503, waiting).await;
    assert_eq!(nodes.iter().map(Gated::begun).collect::<Vec<_>>(), [2, 2], "two lead");
    check_rest(&proxy).await;
}
