//! The failures that eject the servers of an nginx configuration, compared with a real nginx if
//! `max_fails` is written.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};

use crate::support::front::{closed_port, eventually};
use crate::support::http::Connection;
use crate::support::{Nginx, require_nginx};

/// A node that counts its requests and responds with its name. A path with `/bad` gets 503, and a
/// path with `/slow` gets no response.
struct Node {
    name: &'static str,
    requests: Arc<AtomicUsize>,
    server: Server,
}

impl Node {
    /// Starts a node. `always` is the path that it assumes for each request.
    fn start(name: &'static str, always: Option<&'static str>) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let respond = move |_peer: ClientAddr, request: Request<Body>| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                let path = always.unwrap_or(request.uri().path());
                if path.contains("/slow") {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::new(Body::from(name));
                if path.contains("/bad") {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            }
        };
        let server = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), respond);
        Node { name, requests, server: server.threads(NonZero::new(1).unwrap()).start().unwrap() }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Returns a configuration with `lines` in its server. The name of a node in `servers` is replaced
/// by its address.
fn text(servers: &str, lines: &str, nodes: &[&Node]) -> String {
    let servers = nodes
        .iter()
        .fold(servers.to_owned(), |servers, node| servers.replace(node.name, &node.server.addresses()[0].to_string()));
    format!(
        "upstream u {{ {servers} }} server {{ listen 127.0.0.1:@front@; {lines} location / {{ proxy_pass http://u; }} }}"
    )
}

fn ours(text: &str) -> (Site, Server) {
    let config = Config::parse("front.conf", &text.replace("@front@", "1")).unwrap_or_else(|error| panic!("{error}"));
    let site = Site::new(config).unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    (site, server)
}

/// Returns the status and the body of each response to `count` requests, one after another.
async fn get(front: SocketAddr, path: &str, count: usize) -> Vec<(u16, String)> {
    let mut connection = Connection::open(front).await.unwrap();
    let mut responses = Vec::new();
    for _ in 0..count {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        let response = connection.response().await.unwrap();
        responses.push((response.status(), response.text().to_owned()));
    }
    responses
}

/// Returns whether each server is ejected.
fn ejected(site: &Site) -> Vec<bool> {
    let (_, cluster) = site.clusters().next().unwrap();
    let is_ejected = |health: &HealthState| matches!(health, HealthState::Ejected);
    cluster.status().endpoints.iter().map(|endpoint| is_ejected(&endpoint.health)).collect()
}

#[tokio::test]
async fn a_written_max_fails_ejects_after_as_many_failures_as_in_nginx() {
    require_nginx!();
    let next = "proxy_next_upstream error timeout http_503; proxy_read_timeout 1s;";
    for (servers, always, lines, reached) in [
        ("server BAD max_fails=1; server GOOD max_fails=1;", "/bad", next, Some(1)),
        ("server BAD max_fails=2 fail_timeout=60s; server GOOD max_fails=2;", "/bad", next, Some(2)),
        ("server BAD fail_timeout=60s; server GOOD;", "/bad", next, Some(1)),
        ("server BAD max_fails=1; server GOOD;", "/slow", next, Some(1)),
        (
            "server BAD max_fails=2; server GOOD;",
            "/slow",
            "proxy_next_upstream timeout; proxy_read_timeout 1s;",
            Some(2),
        ),
        // The policy decides how often a server that is never ejected gets a request.
        ("server BAD max_fails=0; server GOOD;", "/bad", next, None),
        // The client gets a 503 for which no directive requires a retry, so it is not a failure.
        ("server BAD max_fails=1; server GOOD;", "/bad", "", None),
    ] {
        let nodes = || (Node::start("BAD", Some(always)), Node::start("GOOD", None));
        let (bad, good) = nodes();
        let nginx = Nginx::start(&text(servers, lines, &[&bad, &good])).await;
        let theirs = get(nginx.address("front"), "/", 12).await;
        let at_bad = bad.requests();

        let (bad, good) = nodes();
        let (_site, server) = ours(&text(servers, lines, &[&bad, &good]));
        assert_eq!(get(server.addresses()[0], "/", 12).await, theirs, "{servers} {lines}");
        match reached {
            Some(reached) => assert_eq!((at_bad, bad.requests()), (reached, reached), "{servers} {lines}"),
            None => assert!(at_bad >= 4 && bad.requests() >= 4, "{at_bad} {} {servers} {lines}", bad.requests()),
        }
    }
}

#[tokio::test]
async fn without_max_fails_a_few_bad_responses_take_no_server_out() {
    let next = "proxy_next_upstream error timeout http_503; proxy_read_timeout 1s;";
    for (servers, path, status, lines) in [
        ("server A; server B;", "/bad", 503, next),
        ("server A; server B; server C;", "/bad", 503, next),
        ("server A; server B;", "/slow", 504, next),
        ("server A; server B;", "/slow", 504, "proxy_read_timeout 1s;"),
        // A timeout counts only if both `max_fails` and `timeout` are written.
        ("server A max_fails=1; server B max_fails=1;", "/slow", 504, "proxy_read_timeout 1s;"),
        (
            "server A max_fails=1; server B max_fails=1;",
            "/slow",
            504,
            "proxy_next_upstream error; proxy_read_timeout 1s;",
        ),
    ] {
        let nodes = ["A", "B", "C"].map(|name| Node::start(name, None));
        let (site, server) = ours(&text(servers, lines, &nodes.each_ref()));
        let front = server.addresses()[0];
        for response in get(front, path, if status == 503 { 2 } else { 1 }).await {
            assert_eq!(response.0, status, "{servers} {lines}");
        }
        let count = site.clusters().next().unwrap().1.status().endpoints.len();
        assert_eq!(ejected(&site), vec![false; count], "{servers} {lines}");
        let mut seen: Vec<_> = get(front, "/", 12).await;
        assert!(seen.iter().all(|(status, _)| *status == 200), "{seen:?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{servers} {lines}");
    }
}

#[tokio::test]
async fn without_max_fails_a_dead_server_is_ejected_and_refuses_nobody() {
    let nodes = ["A", "B"].map(|name| Node::start(name, None));
    let servers = format!("server {}; server A; server B;", closed_port());
    let (site, server) = ours(&text(&servers, "", &nodes.each_ref()));
    let responses = get(server.addresses()[0], "/", 30).await;
    assert!(responses.iter().all(|(status, _)| *status == 200), "{responses:?}");
    let (_, cluster) = site.clusters().next().unwrap();
    // The server is ejected, or suspect when a trial is due.
    let reasons: Vec<_> = cluster.status().endpoints.iter().map(|endpoint| endpoint.reason).collect();
    assert_eq!(reasons, [Some(Reason::Unreachable), None, None]);
}

#[tokio::test]
async fn while_all_servers_are_ejected_one_of_them_serves() {
    let nodes = ["A", "B"].map(|name| Node::start(name, None));
    let next = "proxy_next_upstream error timeout http_503;";
    let (_site, server) = ours(&text("server A max_fails=1; server B max_fails=1;", next, &nodes.each_ref()));
    let front = server.addresses()[0];
    assert_eq!(get(front, "/bad", 1).await[0].0, 503);
    let responses = get(front, "/", 6).await;
    assert!(responses.iter().all(|(status, _)| *status == 200), "{responses:?}");
}

/// nginx does not know that a server is stopping, and `proxy_next_upstream` defines which requests
/// are retried.
#[tokio::test]
async fn a_404_of_a_server_that_fails_its_probe_is_returned_unless_the_file_says_otherwise() {
    for (lines, expected) in [("", 404), ("proxy_next_upstream error http_404;", 200)] {
        let stops = Arc::new(AtomicBool::new(false));
        let is_stopping = Arc::clone(&stops);
        let respond = move |_peer: ClientAddr, _request: Request<Body>| {
            let mut response = Response::new(Body::from("page"));
            if is_stopping.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            std::future::ready(response)
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let stopping = Server::builder().listen(listen, respond).threads(NonZero::new(1).unwrap()).start().unwrap();
        let good = Node::start("GOOD", None);
        let servers = format!("server {}; server GOOD backup;", stopping.addresses()[0]);
        let (site, server) = ours(&text(&servers, lines, &[&good]));
        let (_, cluster) = site.clusters().next().unwrap();
        let check = HealthCheck::new(Probe::get("/alive").unwrap()).wait_for_first_success(true);
        let _checker = check.start(cluster).unwrap();
        let is_healthy = || cluster.status().endpoints.iter().all(|endpoint| endpoint.health == HealthState::Healthy);
        eventually(is_healthy, || format!("{:?}", cluster.status())).await;
        stops.store(true, Ordering::SeqCst);
        assert_eq!(get(server.addresses()[0], "/a", 1).await[0].0, expected, "{lines}");
    }
}
