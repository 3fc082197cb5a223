//! The status page, its JSON and its actions: what they show, and who may use them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Method, Request, Response, Version, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use kylin_lb::admin::{Admin, AdminToken, Monitored};
use kylin_lb::endpoint::AdminState;
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::server::Server;
use kylin_lb::session::{Affinity, Sessions};
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::front::{Front, closed_port, demo, until};
use crate::support::health::status;
use crate::support::http;

const TOKEN: &str = "0123456789abcdef0123";
const ELSEWHERE: &str = "192.0.2.7:51000";

/// A cluster of endpoints that no test sends requests to.
fn cluster(ids: &[&str]) -> Cluster {
    let address = closed_port().to_string();
    let endpoints = ids.iter().map(|id| Endpoint::http(*id, &address).unwrap());
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

fn admin(cluster: &Cluster) -> Admin {
    let admin = Admin::builder().token(AdminToken::parse(TOKEN).unwrap()).hosts(["front.example"]).build();
    admin.monitor(Monitored::new().cluster("kylin", cluster));
    admin
}

fn peer(text: &str) -> ClientAddr {
    if text == "unix" { ClientAddr::Unix } else { text.parse::<SocketAddr>().unwrap().into() }
}

/// A request to the host by its address, with these additional headers.
fn request(method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:8081");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

async fn json_of(response: Response<Body>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no JSON: {body:?}"))
}

/// The status code of `GET /status`.
async fn read(admin: &Admin, from: &str, headers: &[(&str, &str)]) -> u16 {
    admin.handle(peer(from), request(Method::GET, "/status", headers, "")).await.status().as_u16()
}

/// The status code of a drain of the endpoint `q1`, and whether it is drained.
async fn drain(admin: &Admin, cluster: &Cluster, from: &str, headers: &[(&str, &str)]) -> (u16, bool) {
    cluster.set_admin_state(&"q1".parse().unwrap(), AdminState::Ready).unwrap();
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let body = r#"{"action": "drain", "endpoint": "q1"}"#;
    let response = admin.handle(peer(from), request(Method::POST, "/action", &headers, body)).await;
    (response.status().as_u16(), status(cluster, "q1").admin_state == AdminState::Drain)
}

fn bearer() -> (&'static str, &'static str) {
    ("authorization", "Bearer 0123456789abcdef0123")
}

#[tokio::test]
async fn the_status_is_readable_without_a_token_on_this_machine_only() {
    let admin = admin(&cluster(&["q1"]));
    let forwarded = [
        "x-forwarded-for",
        "forwarded",
        "via",
        "x-real-ip",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x_forwarded_for",
    ];
    for local in ["127.0.0.1:5000", "127.9.9.9:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000", "unix"] {
        assert_eq!(read(&admin, local, &[]).await, 200, "{local}");
        for name in forwarded {
            assert_eq!(read(&admin, local, &[(name, "192.0.2.7")]).await, 401, "{local} {name}");
        }
    }
    // nginx before 1.29.7 forwards in this way by default, without a header.
    let mut of_nginx = request(Method::GET, "/status", &[], "");
    *of_nginx.version_mut() = Version::HTTP_10;
    assert_eq!(admin.handle(peer("127.0.0.1:5000"), of_nginx).await.status(), 401);
    for remote in [ELSEWHERE, "[2001:db8::1]:5000", "10.0.0.1:5000", "[::ffff:10.0.0.1]:5000", "0.0.0.0:0"] {
        assert_eq!(read(&admin, remote, &[]).await, 401, "{remote}");
        assert_eq!(read(&admin, remote, &[bearer()]).await, 200, "{remote}");
    }
    let response = admin.handle(peer(ELSEWHERE), request(Method::GET, "/status", &[], "")).await;
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    // The page itself contains no data.
    assert_eq!(admin.handle(peer(ELSEWHERE), request(Method::GET, "/", &[], "")).await.status(), 200);
    // Without a token, no setting makes the page readable from elsewhere.
    admin.set_token(None);
    assert_eq!(read(&admin, ELSEWHERE, &[]).await, 403);
    assert_eq!(read(&admin, ELSEWHERE, &[bearer()]).await, 403);
    assert_eq!(read(&admin, "127.0.0.1:1", &[]).await, 200);
}

#[tokio::test]
async fn the_token_may_be_needed_for_reading_on_this_machine_too() {
    let admin = Admin::builder().token_for_reading(true).token(AdminToken::parse(TOKEN).unwrap()).build();
    for local in ["127.0.0.1:5000", "unix"] {
        assert_eq!(read(&admin, local, &[]).await, 401, "{local}");
        assert_eq!(read(&admin, local, &[bearer()]).await, 200, "{local}");
    }
    admin.set_token(None);
    assert_eq!(read(&admin, "unix", &[]).await, 403);
    assert!(AdminToken::parse("================").is_err() && AdminToken::parse("0123456789abcde=").is_err());
    assert!(AdminToken::parse("0123456789abcdef==").is_ok());
}

#[tokio::test]
async fn of_nodes_that_an_operator_took_out_the_status_does_not_say_since_when() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    cluster.set_admin_state(&"q1".parse().unwrap(), AdminState::Maintenance).unwrap();
    let told = &serde_json::from_str::<Value>(&admin.status_json()).unwrap()["clusters"]["kylin"];
    assert_eq!((&told["serving"], &told["not_serving_since"]), (&false.into(), &Value::Null));
}

#[tokio::test]
async fn a_wrong_token_is_refused_everywhere() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    let wrong = [
        "Bearer 0123456789abcdef0124",
        "Bearer 0123456789abcdef012",
        "Bearer 0123456789abcdef01234",
        "Bearer ",
        "Bearer",
        "",
        "0123456789abcdef0123",
        "Basic 0123456789abcdef0123",
        "Bearer 0123456789ABCDEF0123",
    ];
    for value in wrong {
        for from in ["127.0.0.1:1", "unix", ELSEWHERE] {
            assert_eq!(read(&admin, from, &[("authorization", value)]).await, 401, "{value:?} {from}");
            let drained = drain(&admin, &cluster, from, &[("authorization", value)]).await;
            assert_eq!(drained, (401, false), "{value:?} {from}");
        }
    }
    assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &[bearer(), bearer()]).await, (401, false), "given twice");
    assert_eq!(
        drain(&admin, &cluster, "127.0.0.1:1", &[("authorization", "bearer 0123456789abcdef0123")]).await,
        (200, true)
    );
}

#[tokio::test]
async fn an_action_needs_the_token_on_this_machine_too() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    for from in ["127.0.0.1:1", "[::1]:1", "unix", ELSEWHERE] {
        assert_eq!(drain(&admin, &cluster, from, &[]).await, (401, false), "{from}");
        assert_eq!(drain(&admin, &cluster, from, &[bearer()]).await, (200, true), "{from}");
    }
    admin.set_token(None);
    assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &[]).await, (403, false));
    assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &[bearer()]).await, (403, false));
    let renewed = AdminToken::parse("another-token-of-16").unwrap();
    admin.set_token(Some(renewed));
    assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &[bearer()]).await, (401, false));
}

#[tokio::test]
async fn a_page_of_another_origin_can_neither_read_nor_act() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    let foreign: [&[(&str, &str)]; 9] = [
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "http://127.0.0.1:9999")],
        &[("origin", "http://127.0.0.1:8081.evil.example")],
        &[("origin", "file://127.0.0.1:8081")],
        &[("origin", "http://127.0.0.1:8081"), ("origin", "http://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:8081")],
    ];
    for headers in foreign {
        assert_eq!(read(&admin, "127.0.0.1:1", headers).await, 403, "{headers:?}");
        let headers = [headers, &[bearer()]].concat();
        assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &headers).await, (403, false), "{headers:?}");
    }
    let own: [&[(&str, &str)]; 3] = [
        &[("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin")],
        &[("host", "FRONT.example:81"), ("origin", "https://front.example:81")],
        &[("sec-fetch-site", "same-origin")],
    ];
    for headers in own {
        assert_eq!(read(&admin, "127.0.0.1:1", headers).await, 200, "{headers:?}");
        let headers = [headers, &[bearer()]].concat();
        assert_eq!(drain(&admin, &cluster, "127.0.0.1:1", &headers).await, (200, true), "{headers:?}");
    }
    // An address that the user types is not an action of another page.
    assert_eq!(read(&admin, "127.0.0.1:1", &[("sec-fetch-site", "none")]).await, 200);
    assert_eq!(drain(&admin, &cluster, "unix", &[bearer(), ("sec-fetch-site", "none")]).await, (403, false));
}

#[tokio::test]
async fn a_foreign_name_of_this_host_is_refused() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    for host in
        ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost"]
    {
        let expected = if host.contains('@') { 400 } else { 403 };
        assert_eq!(read(&admin, "127.0.0.1:1", &[("host", host)]).await, expected, "{host}");
        let drained = drain(&admin, &cluster, "127.0.0.1:1", &[("host", host), bearer()]).await;
        assert_eq!(drained, (expected, false), "{host}");
        let page = admin.handle(peer("127.0.0.1:1"), request(Method::GET, "/", &[("host", host)], "")).await;
        assert_eq!(page.status(), expected, "{host}");
    }
    for host in ["localhost", "LOCALHOST:8081", "127.0.0.1", "[::1]:8081", "10.1.2.3:8081", "front.example"] {
        assert_eq!(read(&admin, "127.0.0.1:1", &[("host", host)]).await, 200, "{host}");
    }
    for headers in [&[("host", "localhost"), ("host", "localhost")][..], &[("host", "")], &[("host", "a b")]] {
        assert_eq!(read(&admin, "127.0.0.1:1", headers).await, 400, "{headers:?}");
    }
    let none = Request::get("/status").body(Body::empty()).unwrap();
    assert_eq!(admin.handle(peer("unix"), none).await.status(), 400);
    let differing = request(Method::GET, "http://evil.example/status", &[], "");
    assert_eq!(admin.handle(peer("unix"), differing).await.status(), 400);
}

#[tokio::test]
async fn an_action_is_a_post_of_a_little_json() {
    let cluster = cluster(&["q1"]);
    let admin = admin(&cluster);
    let json = ("content-type", "application/json");
    let body = r#"{"action": "drain", "endpoint": "q1"}"#;
    let huge = format!("{body}{}", " ".repeat(5000));
    for (method, headers, body, expected) in [
        (Method::GET, &[bearer(), json][..], body, 405),
        (Method::HEAD, &[bearer(), json], body, 405),
        (Method::PUT, &[bearer(), json], body, 405),
        (Method::DELETE, &[bearer(), json], body, 405),
        (Method::OPTIONS, &[bearer(), json], body, 405),
        (Method::POST, &[bearer()], body, 415),
        (Method::POST, &[bearer(), ("content-type", "text/plain")], body, 415),
        (Method::POST, &[bearer(), ("content-type", "application/x-www-form-urlencoded")], body, 415),
        (Method::POST, &[bearer(), json, json], body, 415),
        (Method::POST, &[bearer(), json], &huge, 413),
        (Method::POST, &[bearer(), json, ("content-length", "99999999999")], body, 413),
        (Method::POST, &[bearer(), json], "", 400),
        (Method::POST, &[bearer(), json], "[]", 400),
        (Method::POST, &[bearer(), json], r#"{"action": "drain"}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "drain", "endpoint": "q1", "then": "more"}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "destroy", "endpoint": "q1"}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "drain", "endpoint": "q2"}"#, 404),
        (Method::POST, &[bearer(), json], r#"{"action": "drain", "endpoint": "q1", "cluster": "other"}"#, 404),
        (Method::POST, &[bearer(), json], r#"{"action": "weight", "endpoint": "q1", "weight": 0}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "weight", "endpoint": "q1", "weight": 65536}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "weight", "endpoint": "q1", "weight": -1}"#, 400),
        (Method::POST, &[bearer(), json], r#"{"action": "reload"}"#, 501),
        (Method::POST, &[bearer(), json], r#"{"action": "log-level", "level": "info"}"#, 501),
    ] {
        let what = format!("{method} {headers:?} {}", &body[..body.len().min(80)]);
        let response = admin.handle(peer("127.0.0.1:1"), request(method, "/action", headers, body)).await;
        assert_eq!(response.status(), expected, "{what}");
        let now = status(&cluster, "q1");
        assert_eq!((now.admin_state, now.weight), (AdminState::Ready, 1), "{what}");
    }
    for path in ["/status", "/"] {
        let response = admin.handle(peer("unix"), request(Method::POST, path, &[bearer(), json], body)).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::ALLOW]),
            (405, &"GET, HEAD".parse().unwrap())
        );
    }
    for path in ["/action/", "//action", "/ACTION", "/action/drain", "/drain", "/status/", "/%73tatus", "/metrics"] {
        let response = admin.handle(peer("unix"), request(Method::POST, path, &[bearer(), json], body)).await;
        assert_eq!(response.status(), 404, "{path}");
    }
}

/// A body without an end, which counts the pieces that are read from it.
struct Endless(Arc<AtomicUsize>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 1024])))))
    }
}

#[tokio::test]
async fn of_a_huge_body_little_is_read_and_nothing_without_the_token() {
    let admin = admin(&cluster(&["q1"]));
    for (headers, expected, most) in [(&[bearer()][..], 413, 6), (&[], 401, 0)] {
        let polls = Arc::new(AtomicUsize::new(0));
        let endless = Endless(Arc::clone(&polls));
        let (parts, _) =
            request(Method::POST, "/action", &[headers, &[("content-type", "application/json")]].concat(), "")
                .into_parts();
        let response = admin.handle(peer("127.0.0.1:1"), Request::from_parts(parts, endless)).await;
        assert_eq!(response.status(), expected);
        assert!(polls.load(Ordering::Relaxed) <= most, "{polls:?}");
    }
}

#[tokio::test]
async fn the_page_is_whole_and_framed_nowhere() {
    assert!(Admin::builder().path("front/admin").is_err());
    let admin = Admin::builder().path("/front/admin/").unwrap().build();
    for path in ["/front/admin", "/front/admin/"] {
        let response = admin.handle(peer("127.0.0.1:1"), request(Method::GET, path, &[], "")).await;
        assert_eq!(response.status(), 200);
        let headers = response.headers().clone();
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'sha256-",
            "style-src 'sha256-",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in
            [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")]
        {
            assert_eq!(headers[name], value);
        }
        let page = response.into_body().collect().await.unwrap().to_bytes();
        let page = std::str::from_utf8(&page).unwrap();
        for elsewhere in
            ["http://", "https://", "src=", "href=", "innerHTML", "localStorage", "sessionStorage", "document.cookie"]
        {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }
    for path in ["/", "/status", "/front/adminstatus", "/front"] {
        let response = admin.handle(peer("127.0.0.1:1"), request(Method::GET, path, &[], "")).await;
        assert_eq!(response.status(), 404, "{path}");
    }
    assert_eq!(admin.handle(peer("unix"), request(Method::GET, "/front/admin/status", &[], "")).await.status(), 200);
    let head = admin.handle(peer("unix"), request(Method::HEAD, "/front/admin", &[], "")).await;
    assert!(head.status() == 200 && head.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn verbs_do_what_they_say() {
    let (one, two) = (cluster(&["q1", "both"]), cluster(&["both"]));
    let admin = Admin::builder()
        .token(AdminToken::parse(TOKEN).unwrap())
        .on_reload(|| async { Err("kylin.conf:2: unknown directive".to_owned()) })
        .on_log_level(|level| if level == "debug" { Ok(()) } else { Err(format!("no level is named {level}")) })
        .build();
    admin.monitor(Monitored::new().cluster("one", &one).cluster("two", &two));
    let act = async |action: Value| {
        let headers = [bearer(), ("content-type", "application/json; charset=utf-8")];
        let request = request(Method::POST, "/action", &headers, &action.to_string());
        let response = admin.handle(peer(ELSEWHERE), request).await;
        (response.status().as_u16(), json_of(response).await)
    };
    for (verb, state) in
        [("drain", AdminState::Drain), ("maintenance", AdminState::Maintenance), ("ready", AdminState::Ready)]
    {
        let (code, done) = act(json!({"action": verb, "endpoint": "q1"})).await;
        assert_eq!((code, status(&one, "q1").admin_state), (200, state), "{done}");
        assert_eq!(done["endpoint"]["admin_state"], verb);
        assert_eq!(done["endpoint"]["waits_for"]["drained"], if verb == "ready" { Value::Null } else { true.into() });
    }
    assert_eq!(act(json!({"action": "weight", "endpoint": "q1", "weight": 7})).await.0, 200);
    assert_eq!(status(&one, "q1").weight, 7);

    let (code, refused) = act(json!({"action": "drain", "endpoint": "both"})).await;
    assert!(code == 409 && refused["error"].as_str().unwrap().contains("name the cluster"), "{refused}");
    assert_eq!(act(json!({"action": "drain", "endpoint": "both", "cluster": "two"})).await.0, 200);
    let states = [&one, &two].map(|cluster| status(cluster, "both").admin_state);
    assert_eq!(states, [AdminState::Ready, AdminState::Drain]);

    let (code, refused) = act(json!({"action": "reload"})).await;
    assert_eq!((code, &refused["error"]), (422, &"kylin.conf:2: unknown directive".into()));
    assert_eq!(act(json!({"action": "log-level", "level": "loud"})).await.0, 400);
    assert_eq!(act(json!({"action": "log-level", "level": "debug"})).await.0, 200);
    let told: Value = serde_json::from_str(&admin.status_json()).unwrap();
    assert_eq!(told["log_level"], "debug");
}

/// A front end of demo nodes with a status.
struct Observed {
    front: Front,
    operators: Server,
    admin: Admin,
}

impl Observed {
    fn over(addresses: &[SocketAddr]) -> Self {
        let ids = (1..).map(|number| format!("n{number}"));
        let endpoints = ids.zip(addresses).map(|(id, address)| Endpoint::http(id, &address.to_string()).unwrap());
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let sessions = Sessions::in_memory().unwrap();
        let admin = Admin::builder().token(AdminToken::parse(TOKEN).unwrap()).build();
        admin.monitor(Monitored::new().cluster("kylin", &cluster).sessions("sessions", &sessions));
        let proxy =
            Proxy::builder(cluster).observer(admin.clone()).affinity(Affinity::learn(sessions)).build().unwrap();
        let threads = NonZero::new(1).unwrap();
        let operators = Server::builder().listen("127.0.0.1:0".parse().unwrap(), admin.clone());
        Observed {
            front: Front::serving(proxy, |server| server.threads(threads)),
            operators: operators.threads(threads).start().unwrap(),
            admin,
        }
    }

    /// The status as an operator on this machine reads it.
    async fn status(&self) -> Value {
        let response = http::get(self.operators.addresses()[0], "/status", &[]).await.unwrap();
        assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")));
        serde_json::from_slice(&response.body).unwrap()
    }

    async fn endpoint(&self, id: &str) -> Value {
        let told = self.status().await;
        let endpoints = told["clusters"]["kylin"]["endpoints"].as_array().unwrap();
        endpoints.iter().find(|endpoint| endpoint["id"] == id).unwrap().clone()
    }
}

#[tokio::test]
async fn the_status_shows_what_requests_were_like() {
    let (_node, served) = demo("n1").await;
    let observed = Observed::over(&[served.addr()]);
    let before = observed.endpoint("n1").await;
    assert!(before["rates"].is_null() && before["last_failure"].is_null() && before["bound_sessions"] == 0, "{before}");
    let mut browser = Browser::insistent(observed.front.address(), "ADMIN", "KYLIN");
    for _ in 0..20 {
        assert_eq!(browser.query().await.status(), 200);
    }
    observed.front.idle().await;
    let after = observed.endpoint("n1").await;
    assert!(
        after["rates"]["requests_per_s"].as_f64().unwrap() > 0.0 && after["rates"]["failures_per_s"] == 0.0,
        "{after}"
    );
    let latency = &after["rates"]["latency_ms"];
    let [p50, p90, p99] = ["p50", "p90", "p99"].map(|name| latency[name].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p90 && p90 <= p99, "{after}");
    assert!(after["served"].as_u64() >= Some(20) && after["bound_sessions"] == 1, "{after}");
    let told = observed.status().await;
    assert!(told["requests"]["requests_per_s"].as_f64().unwrap() > 0.0 && told["requests"]["in_flight"] == 0, "{told}");
    assert_eq!(told["session_stores"]["sessions"]["in_memory"], 1, "{told}");
    assert_eq!(told["clusters"]["kylin"]["serving"], true);
}

#[tokio::test]
async fn a_drain_shows_what_it_waits_for() {
    let (node, served) = demo("n1").await;
    let (_other, other) = demo("n2").await;
    let observed = Observed::over(&[served.addr(), other.addr()]);
    let cluster = observed.front.proxy.cluster().clone();
    cluster.set_admin_state(&"n2".parse().unwrap(), AdminState::Maintenance).unwrap();
    let mut browser = Browser::insistent(observed.front.address(), "ADMIN", "KYLIN");
    assert_eq!(browser.query().await.status(), 200);
    node.faults().set_query_latency(Duration::from_secs(600));
    let query = tokio::spawn(async move { browser.query().await });
    until("the query", async || observed.endpoint("n1").await["in_flight"] == 1).await;
    cluster.set_admin_state(&"n1".parse().unwrap(), AdminState::Drain).unwrap();
    let draining = observed.endpoint("n1").await;
    let waits_for = json!({"in_flight": 1, "waiting": 0, "bound_sessions": 1, "drained": false});
    assert_eq!(draining["waits_for"], waits_for, "{draining}");
    query.abort();
    until("the end of the drain", async || observed.endpoint("n1").await["waits_for"]["drained"] == true).await;
    assert_eq!(observed.endpoint("n1").await["waits_for"]["bound_sessions"], 1);
}

#[tokio::test]
async fn with_all_nodes_dead_the_status_says_which_why_and_since_when() {
    let observed = Observed::over(&[closed_port(), closed_port()]);
    let interval = Duration::from_millis(50);
    let check = HealthCheck::new(Probe::tcp()).interval(interval).fast_interval(interval);
    let _checker = check.start(observed.front.proxy.cluster()).unwrap();
    let began = observed.status().await["now"].as_str().unwrap().to_owned();
    let mut told = Value::Null;
    until("a cluster without a node", async || {
        Browser::insistent(observed.front.address(), "ADMIN", "KYLIN").query().await;
        told = observed.status().await;
        let cluster = &told["clusters"]["kylin"];
        let has_failed = |endpoint: &Value| endpoint["rates"]["failures_per_s"].as_f64() > Some(0.0);
        cluster["serving"] == false && cluster["endpoints"].as_array().unwrap().iter().all(has_failed)
    })
    .await;
    let cluster = &told["clusters"]["kylin"];
    // Times in the same format, so that their texts compare like the times.
    let since = |of: &Value| of.as_str() >= Some(began.as_str());
    assert!(since(&cluster["not_serving_since"]), "{told}");
    for endpoint in cluster["endpoints"].as_array().unwrap() {
        assert!(endpoint["up"] == false && endpoint["reason"].is_string() && since(&endpoint["since"]), "{endpoint}");
        let failure = &endpoint["last_failure"];
        assert!(failure["reason"].is_string() && since(&failure["at"]), "{endpoint}");
    }
    assert!(told["requests"]["failures_per_s"].as_f64().unwrap() > 0.0, "{told}");
    assert_eq!(
        serde_json::from_str::<Value>(&observed.admin.status_json()).unwrap()["clusters"]["kylin"]["serving"],
        false
    );
}
