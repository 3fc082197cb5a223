//! `error_page` to the nodes of another upstream.

use std::net::SocketAddr;
use std::num::NonZero;

use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;

use crate::support::http::Connection;
use crate::support::raw_node::{Act, RawNode, healthy};

/// Serves a site whose nodes at `primary` have `backup` behind an error page.
fn serve(primary: SocketAddr, backup: SocketAddr) -> (Server, SocketAddr) {
    let text = format!(
        "upstream kylin {{ server {primary}; }} upstream backup {{ server {backup}; }}
         server {{ listen 1; location / {{ error_page 502 503 504 = @backup; proxy_pass http://kylin; }}
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
    // More than the front end keeps.
    let (status, _) = send(front, "PUT /kylin/api/x", &"x".repeat(65 << 10)).await;
    assert!(matches!(status, 502 | 503), "{status}");
    assert_eq!(backup.seen().requests.len(), 1);
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
