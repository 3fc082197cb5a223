//! `error_page` to the nodes of another upstream.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use kylin_lb::BufferBudget;
use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;

use crate::support::front::{eventually, until};
use crate::support::http::Connection;
use crate::support::raw_node::{Act, RawNode, healthy};

/// Serves a site with nodes at `primary`, whose error page leads to `backup`.
fn serve(primary: SocketAddr, backup: SocketAddr) -> (Server, SocketAddr) {
    let text = format!(
        "upstream kylin {{ server {primary}; }} upstream backup {{ server {backup}; }}
         server {{ listen 1; client_max_body_size 2m; location / {{ error_page 502 503 504 = @backup; proxy_pass http://kylin; }}
             location @backup {{ proxy_pass http://backup; }} }}"
    );
    let site = Site::new(Config::parse("front.conf", &text).unwrap_or_else(|error| panic!("{error}"))).unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    let address = server.addresses()[0];
    (server, address)
}

async fn send(front: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut client = Connection::open(front).await.unwrap();
    let length = body.len();
    client.send(format!("{head} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n\r\n{body}")).await.unwrap();
    let response = client.response().await.unwrap();
    (response.status(), response.text().to_owned())
}

/// Returns an address where no node listens.
async fn no_node() -> SocketAddr {
    let node = RawNode::start([healthy("gone")]).await;
    node.address()
}

#[tokio::test]
async fn a_request_that_was_not_sent_goes_to_the_other_upstream_with_its_body() {
    let backup = RawNode::start([healthy("backup")]).await;
    let (_server, front) = serve(no_node().await, backup.address());
    let body = r#"{"sql":"select 1","project":"p"}"#;
    assert_eq!(send(front, "POST /kylin/api/query", body).await, (200, "backup".to_owned()));
    let seen = backup.wait_until(|seen| seen.requests.len() == 1).await.texts();
    assert!(seen[0].starts_with("POST /kylin/api/query HTTP/1.1") && seen[0].ends_with(body), "{seen:?}");
    let (long, too_long) = ("x".repeat(65 << 10), "x".repeat((1 << 20) + 1));
    assert_eq!(send(front, "PUT /kylin/api/x", &long).await, (200, "backup".to_owned()));
    // The body is longer than the front end keeps.
    let (status, _) = send(front, "PUT /kylin/api/x", &too_long).await;
    assert!(matches!(status, 502 | 503), "{status}");
    assert_eq!(backup.seen().requests.len(), 2);
}

/// A site with nodes at `primary`, whose error page leads to `backup`. It counts requests in flight
/// and logs their status.
struct Logged {
    _server: Server,
    front: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    budget: BufferBudget,
}

impl Logged {
    fn serve(primary: SocketAddr, backup: SocketAddr, lines: &str, buffer: usize) -> Self {
        let text = format!(
            "limit_conn_zone all zone=all:1m;
             log_format l '$request_method $status';
             upstream kylin {{ server {primary}; }} upstream backup {{ server {backup}; }}
             server {{ listen 1; access_log log l; {lines}
                 location / {{
                     limit_conn all 1;
                     add_header X-Front one always;
                     error_page 502 503 504 = @backup;
                     proxy_pass http://kylin;
                 }}
                 location @backup {{ limit_conn all 1; proxy_pass http://backup; }} }}"
        );
        let config = Config::parse("front.conf", &text).unwrap_or_else(|error| panic!("{error}"));
        let path = config.access_logs().next().unwrap().to_owned();
        let logged = Arc::new(Mutex::new(Vec::new()));
        let budget = BufferBudget::with_client_share(NonZero::new(buffer), NonZero::new(buffer)).unwrap();
        let to = Arc::clone(&logged);
        let site = Site::builder(config)
            .buffers(budget.clone())
            .access_log(path, move |line| to.lock().unwrap().push(String::from_utf8(line).unwrap()))
            .build()
            .unwrap();
        let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
        Logged { front: server.addresses()[0], _server: server, lines: logged, budget }
    }

    async fn wait_for_lines(&self, expected: &[&str]) {
        let lines = || self.lines.lock().unwrap().clone();
        eventually(|| lines() == expected, || format!("{:?}", lines())).await;
        eventually(|| self.budget.status().used == 0, || format!("{:?}", self.budget)).await;
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_refused_although_another_upstream_might_need_it() {
    let backup = RawNode::start([healthy("backup")]).await;
    let site = Logged::serve(no_node().await, backup.address(), "client_body_timeout 200ms;", 1 << 20);
    let mut client = Connection::open(site.front).await.unwrap();
    client.send("POST /kylin/api/x HTTP/1.1\r\nHost: kylin\r\nContent-Length: 65536\r\n\r\n").await.unwrap();
    client.send("x".repeat(65535)).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status(), response.header("x-front")), (408, Some("one")));
    drop(client);
    site.wait_for_lines(&["POST 408"]).await;
    assert!(backup.seen().requests.is_empty());
    until("it is no longer in flight", async || send(site.front, "GET /kylin/api/x", "").await.0 == 200).await;
}

#[tokio::test]
async fn a_body_for_another_upstream_counts_in_the_budget_of_bytes() {
    let backup = RawNode::start([healthy("backup")]).await;
    let site = Logged::serve(no_node().await, backup.address(), "", 8 << 10);
    let (status, _) = send(site.front, "PUT /kylin/api/x", &"x".repeat(32 << 10)).await;
    assert!(matches!(status, 502 | 503), "{status}");
    assert!(backup.seen().requests.is_empty());
    // The part of a body that arrives in the first read is always available.
    assert_eq!(send(site.front, "PUT /kylin/api/x", "short").await, (200, "backup".to_owned()));
    eventually(|| site.budget.status().used == 0, || format!("{:?}", site.budget)).await;
}

#[tokio::test]
async fn a_write_that_a_node_may_have_executed_goes_to_no_other_upstream() {
    let primary = RawNode::start([vec![Act::Read, Act::Reset]]).await;
    let backup = RawNode::start([healthy("backup")]).await;
    let (_server, front) = serve(primary.address(), backup.address());
    let (status, _) = send(front, "POST /kylin/api/jobs", "{}").await;
    assert_eq!(status, 502);
    assert!(backup.seen().requests.is_empty());
    assert_eq!(send(front, "GET /kylin/api/jobs", "").await, (200, "backup".to_owned()));
}
