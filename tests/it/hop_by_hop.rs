//! Headers: which ones the proxy removes, adds, or leaves as they are.

use std::net::SocketAddr;

use http::header::{HOST, HeaderValue};
use http_body_util::BodyExt;
use kylin_lb::proxy::{HeaderEdits, TrustedProxies};
use kylin_lb::{Body, Cluster, Endpoint, Proxy};
use serde_json::Value;

use crate::support::example::check;
use crate::support::front::{Front, demo};
use crate::support::http::RawResponse;
use crate::support::raw_node::{RawNode, healthy, respond};

/// The values of a header as the node got it.
fn at_node(response: &RawResponse, name: &str) -> Vec<String> {
    values(&serde_json::from_slice(&response.body).unwrap(), name)
}

fn values(seen: &Value, name: &str) -> Vec<String> {
    let headers = seen["headers"].as_array().unwrap().iter();
    headers.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn headers_of_the_clients_connection_do_not_reach_the_node() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let request = "GET /demo/head?a=%20b HTTP/1.1\r\nHost: kylin.example:8080\r\nConnection: keep-alive, X-Secret\r\n\
        Connection: x-other,Cookie, HOST, X-Forwarded-For, Authorization\r\nX-Secret: 1\r\nX-Other: 2\r\n\
        Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\
        Proxy-Authorization: Basic eA==\r\nTrailer: X-T\r\nCookie: JSESSIONID=1\r\nAuthorization: Basic eA==\r\n\
        Accept: a\r\nAccept: b\r\n\r\n";
    let response = front.ask(request).await.unwrap();
    let seen: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((seen["method"].as_str(), seen["target"].as_str()), (Some("GET"), Some("/demo/head?a=%20b")));
    for gone in [
        "connection",
        "x-secret",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "trailer",
        "transfer-encoding",
    ] {
        assert!(values(&seen, gone).is_empty(), "{gone}: {seen}");
    }
    assert_eq!(values(&seen, "host"), ["kylin.example:8080"]);
    assert_eq!(values(&seen, "cookie"), ["JSESSIONID=1"], "Connection cannot name it");
    assert_eq!(values(&seen, "authorization"), ["Basic eA=="], "Connection cannot name it");
    assert_eq!(values(&seen, "accept"), ["a", "b"]);
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["kylin.example:8080"]);
}

#[tokio::test]
async fn forwarded_headers_are_replaced_unless_a_trusted_proxy_sent_them() {
    let (_node, served) = demo("q1").await;
    let request = "GET /demo/head HTTP/1.1\r\nHost: kylin\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\r\n";
    let front = Front::over(&[served.addr()]);
    let response = front.ask(request).await.unwrap();
    assert_eq!(at_node(&response, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(at_node(&response, "x-forwarded-proto"), ["http"]);
    assert_eq!(at_node(&response, "x-forwarded-host"), ["kylin"]);
    assert!(at_node(&response, "forwarded").is_empty());

    let trusted = TrustedProxies::new(["127.0.0.0/8".parse().unwrap()]);
    let front = Front::with(&[served.addr()], |proxy| proxy.trusted_proxies(trusted));
    let response = front.ask(request).await.unwrap();
    assert_eq!(at_node(&response, "x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(at_node(&response, "x-forwarded-proto"), ["https"]);
    assert_eq!(at_node(&response, "x-forwarded-host"), ["evil"]);

    let front = Front::with(&[served.addr()], |proxy| proxy.forwarded_headers(false).secure(true));
    let response = front.get("/demo/head").await.unwrap();
    assert!(at_node(&response, "x-forwarded-for").is_empty());
}

/// Nodes behind another load balancer read more headers of that family, and a client could name a
/// prefix or a scheme of its own.
#[tokio::test]
async fn no_header_of_the_forwarded_family_of_a_stranger_reaches_the_node() {
    let node = RawNode::start([healthy("node")]).await;
    let names = [
        "X-Forwarded",
        "X-Forwarded-Prefix",
        "X-Forwarded-Ssl",
        "X-Forwarded-Port",
        "X-Forwarded-User",
        "X-Forwarded-For-Original-And-More",
        "X_Forwarded_For",
        "X_FORWARDED_PROTO",
        "X-Forwarded_Host",
        "X_Real_IP",
        "Forwarded",
    ];
    let lines: String = names.iter().map(|name| format!("{name}: evil\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: kylin\r\nX-Frame: evil\r\n{lines}\r\n");
    for is_trusted in [false, true] {
        let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let front = Front::with(&[node.address()], |proxy| proxy.trusted_proxies(TrustedProxies::new(trusted)));
        front.ask(&request).await.unwrap();
        let seen = node.seen().texts().pop().unwrap().to_ascii_lowercase();
        assert!(seen.contains("x-frame: evil"), "{seen}");
        for name in names.map(str::to_ascii_lowercase) {
            assert_eq!(seen.contains(&format!("{name}: evil")), is_trusted, "{name} in {seen}");
        }
    }
}

#[tokio::test]
async fn headers_of_the_nodes_connection_do_not_reach_the_client() {
    let bytes = "HTTP/1.1 200 OK\r\nConnection: X-Inner, keep-alive\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\n\
        Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\
        Set-Cookie: b=2; Path=/kylin\r\nSet-Cookie: a=1, x\r\nX-Between: 1\r\nSet-Cookie: b=3\r\n\
        WWW-Authenticate: Basic realm=\"k\"\r\nLocation: http://elsewhere/\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n";
    let node = RawNode::start([respond(bytes)]).await;
    let response = Front::over(&[node.address()]).get("/").await.unwrap();
    assert_eq!(response.text(), "hi");
    for gone in ["x-inner", "keep-alive", "proxy-authenticate", "upgrade", "trailer"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    assert_eq!(response.head.all("set-cookie"), ["b=2; Path=/kylin", "a=1, x", "b=3"]);
    assert_eq!(response.header("www-authenticate"), Some("Basic realm=\"k\""));
    assert_eq!(response.header("location"), Some("http://elsewhere/"));
    assert!(response.trailers.is_empty() && response.header("x-t").is_none());
}

#[tokio::test]
async fn edits_of_the_application_come_last() {
    let (_node, served) = demo("q1").await;
    let cluster =
        Cluster::builder().endpoint(Endpoint::http("q1", &served.addr().to_string()).unwrap()).build().unwrap();
    let edits = HeaderEdits::default()
        .set(HOST, HeaderValue::from_static("inner"))
        .set("x-real-ip".parse().unwrap(), HeaderValue::from_static("1.1.1.1"))
        .remove("x-forwarded-proto".parse().unwrap())
        .remove("x-debug".parse().unwrap());
    let request = http::Request::get("/demo/head").header("host", "outer").header("x-debug", "1").extension(edits);
    let peer: SocketAddr = "192.0.2.1:999".parse().unwrap();
    let response = Proxy::plain(cluster).build().unwrap().forward(peer, request.body(Body::empty()).unwrap()).await;
    let seen = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(values(&seen, "host"), ["inner"]);
    assert_eq!(values(&seen, "x-real-ip"), ["1.1.1.1"]);
    assert_eq!(values(&seen, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["outer"]);
    assert!(values(&seen, "x-forwarded-proto").is_empty() && values(&seen, "x-debug").is_empty());
}

/// The example's reader of httpd files has its own list of the headers in which proxies name the
/// client.
#[tokio::test]
async fn the_example_knows_each_header_that_strangers_may_not_set() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("httpd.conf");
    let names = [
        "forwarded",
        "x-real-ip",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-forwarded-by",
        "x-forwarded-prefix",
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-forwarded-user",
        "x-forwarded",
        "x_forwarded_for",
        "x-forwarded_host",
        "x_real_ip",
        "x-forwardedfor",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "true-client-ip",
        "via",
    ];
    let mut of_proxies = 0;
    for name in names {
        let response = front.ask(format!("GET /demo/head HTTP/1.1\r\nHost: kylin\r\n{name}: stranger\r\n\r\n")).await;
        let is_of_proxies = !at_node(&response.unwrap(), name).iter().any(|value| value.contains("stranger"));
        let line = format!("RequestHeader append {name} x");
        std::fs::write(&file, format!("Listen 1\n{line}\nProxyPass / http://127.0.0.1:1/\n")).unwrap();
        let report = check(&["--httpd", file.to_str().unwrap()]);
        let is_noted = report.contains(&format!("{line}: a value that the client sent counts only if"));
        assert_eq!(is_noted, is_of_proxies, "{name}: {report}");
        of_proxies += usize::from(is_of_proxies);
    }
    assert_eq!(of_proxies, 16);
}
