//! Limits, queues and refusals of a configuration, compared with a real nginx where both behave the
//! same.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::time::{Duration, Instant};

use kylin_lb::health::HealthState;
use kylin_lb::nginx::{Config, Site, SiteBuilder};
use kylin_lb::server::Server;

use crate::support::front::{eventually, until};
use crate::support::http::{Connection, get};
use crate::support::raw_node::{Act, RawNode, healthy, ok};
use crate::support::{Nginx, require_nginx};

const GET: &str = "GET /kylin HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// Returns a configuration whose location for all paths has these lines.
fn configuration(node: &RawNode, http: &str, location: &str) -> String {
    let address = node.address();
    format!("{http}\nserver {{ listen 127.0.0.1:@front@; location / {{ {location} proxy_pass http://{address}; }} }}")
}

/// Serves a configuration with this crate.
fn serve(text: &str) -> (Server, SocketAddr) {
    let (_, server, address) = serve_with(text, |site| site);
    (server, address)
}

fn serve_with(text: &str, change: impl FnOnce(SiteBuilder) -> SiteBuilder) -> (Site, Server, SocketAddr) {
    let config = Config::parse("front.conf", &text.replace("@front@", "1")).unwrap_or_else(|error| panic!("{error}"));
    let site = change(Site::builder(config)).build().unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    let address = server.addresses()[0];
    (site, server, address)
}

/// Returns a configuration whose upstream has these lines.
fn upstream(lines: &str) -> String {
    format!(
        "upstream kylin {{ {lines} }} server {{ listen 127.0.0.1:@front@; location / {{ proxy_pass http://kylin; }} }}"
    )
}

/// Sends a GET from this address of the machine.
async fn status_from(client: [u8; 4], front: SocketAddr) -> u16 {
    let mut connection = Connection::open_from(IpAddr::from(client), front).await.unwrap();
    connection.send(GET).await.unwrap();
    connection.response().await.unwrap().status()
}

#[tokio::test]
async fn limit_conn_refuses_the_second_request_of_an_address_while_the_first_is_in_flight() {
    require_nginx!();
    for by_nginx in [true, false] {
        let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("first"))], healthy("other")]).await;
        let zone = "limit_conn_zone $binary_remote_addr zone=clients:1m;";
        let text = configuration(&node, zone, "limit_conn clients 1; limit_conn_status 429; error_page 429 /page;");
        let (nginx, ours) = if by_nginx { (Some(Nginx::start(&text).await), None) } else { (None, Some(serve(&text))) };
        let front = nginx.as_ref().map_or_else(|| ours.as_ref().unwrap().1, |nginx| nginx.address("front"));
        let mut first = Connection::open(front).await.unwrap();
        first.send(GET).await.unwrap();
        node.wait_until(|seen| seen.requests.len() == 1).await;
        assert_eq!(status_from([127, 0, 0, 1], front).await, 429, "nginx: {by_nginx}");
        assert_eq!(status_from([127, 0, 0, 2], front).await, 200, "nginx: {by_nginx}");
        // The error page must not be refused too.
        let page = get(front, "/kylin", &[]).await.unwrap();
        assert_eq!((page.status(), page.text()), (429, "other"), "nginx: {by_nginx}");
        node.go();
        assert_eq!(first.response().await.unwrap().text(), "first");
        // The count is lowered after the last byte.
        until("the request is no longer counted", async || status_from([127, 0, 0, 1], front).await == 200).await;
    }
}

#[tokio::test]
async fn limit_conn_counts_the_requests_of_all_locations_and_a_location_has_lines_of_its_own() {
    require_nginx!();
    for by_nginx in [true, false] {
        let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("first"))], healthy("other")]).await;
        let pass = format!("proxy_pass http://{};", node.address());
        let text = format!(
            "limit_conn_zone $server_name zone=all:1m;
             server {{ listen 127.0.0.1:@front@; server_name kylin; limit_conn all 1;
                 location / {{ {pass} }} location /other {{ {pass} }} location /two {{ limit_conn all 2; {pass} }} }}"
        );
        let (nginx, ours) = if by_nginx { (Some(Nginx::start(&text).await), None) } else { (None, Some(serve(&text))) };
        let front = nginx.as_ref().map_or_else(|| ours.as_ref().unwrap().1, |nginx| nginx.address("front"));
        let mut first = Connection::open(front).await.unwrap();
        first.send(GET).await.unwrap();
        node.wait_until(|seen| seen.requests.len() == 1).await;
        for (path, expected) in [("/other", 503), ("/two", 200)] {
            assert_eq!(get(front, path, &[]).await.unwrap().status(), expected, "{path}, nginx: {by_nginx}");
        }
        node.go();
        assert_eq!(first.response().await.unwrap().text(), "first");
    }
}

#[tokio::test]
async fn limit_req_delays_a_burst_to_the_rate() {
    require_nginx!();
    let node = RawNode::start([healthy("served")]).await;
    let zone = "limit_req_zone $binary_remote_addr zone=clients:1m rate=2r/s;";
    let text = configuration(&node, zone, "limit_req zone=clients burst=1;");
    let (nginx, (_ours, ours)) = (Nginx::start(&text).await, serve(&text));
    for front in [nginx.address("front"), ours] {
        let began = Instant::now();
        for _ in 0..2 {
            assert_eq!(get(front, "/", &[]).await.unwrap().status(), 200);
        }
        let took = began.elapsed();
        assert!(took > Duration::from_millis(490), "two requests at 2 a second take {took:?}");
    }
}

#[tokio::test]
async fn status_444_is_a_403_on_a_connection_that_closes() {
    let (_server, front) = serve("server { listen 127.0.0.1:@front@; location / { return 444; } }");
    let mut client = Connection::open(front).await.unwrap();
    client.send(GET).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.status(), response.header("connection")), (403, Some("close")));
    assert!(client.rest().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_query_waits_for_a_full_server_unless_the_site_has_no_queues() {
    for (has_queue, expected) in [(true, 200), (false, 503)] {
        let node = RawNode::start([vec![Act::Read, Act::WaitForGo, Act::Write(ok("{}")), Act::Serve(ok("{}"))]]).await;
        let text = upstream(&format!("server {} max_conns=1;", node.address()));
        let (site, _server, front) = serve_with(&text, |site| site.queue(has_queue));
        let mut clients = Vec::new();
        for number in 1..=2 {
            let mut client = Connection::open(front).await.unwrap();
            let body = format!(r#"{{"sql":"select {number}","project":"p"}}"#);
            let head = "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nContent-Length";
            client.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await.unwrap();
            node.wait_until(|seen| seen.requests.len() == 1).await;
            clients.push(client);
        }
        let waiting = || site.clusters().next().unwrap().1.status().waiting();
        match has_queue {
            true => eventually(|| waiting() == 1, || "the second waits".to_owned()).await,
            false => assert_eq!(clients[1].response().await.unwrap().status(), expected),
        }
        node.go();
        assert_eq!(clients[0].response().await.unwrap().status(), 200);
        if has_queue {
            assert_eq!(clients[1].response().await.unwrap().status(), expected);
        }
    }
}

#[tokio::test]
async fn a_server_that_shows_that_it_stops_is_drained_unless_the_site_does_not_drain() {
    let stops = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n".to_vec();
    for (drains, health) in [(true, HealthState::Draining), (false, HealthState::Healthy)] {
        let (stopping, other) =
            (RawNode::start([vec![Act::Serve(stops.clone())]]).await, RawNode::start([healthy("{}")]).await);
        let text = upstream(&format!("server {}; server {};", stopping.address(), other.address()));
        let (site, _server, front) = serve_with(&text, |site| site.drain(drains));
        for _ in 0..4 {
            assert_eq!(get(front, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200);
        }
        assert!(!stopping.seen().requests.is_empty());
        assert_eq!(site.clusters().next().unwrap().1.status().endpoints[0].health, health, "drain {drains}");
    }
}

/// nginx compares a declared length with the limit of the first location, and counts the bytes of a
/// body without one against the limit of the named location.
#[tokio::test]
async fn a_body_meets_the_limit_of_the_first_location_or_of_the_named_one() {
    require_nginx!();
    let node = crate::support::files::node();
    let text = format!(
        "server {{ listen 127.0.0.1:@front@; client_max_body_size 100; \
         location /large/ {{ try_files $uri @small; }} \
         location /small/ {{ client_max_body_size 4; try_files $uri @large; }} \
         location @small {{ client_max_body_size 4; proxy_pass http://{0}; }} \
         location @large {{ proxy_pass http://{0}; }} }}",
        node.addresses()[0]
    );
    let nginx = Nginx::start(&text).await;
    let (_server, front) = serve(&text);
    for address in [front, nginx.address("front")] {
        for (path, declared, chunked) in [("/large/x", 200, 413), ("/small/x", 413, 200)] {
            for (headers, body, expected) in [
                ("Content-Length: 10", "0123456789", declared),
                ("Transfer-Encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n", chunked),
            ] {
                let request = format!("POST {path} HTTP/1.1\r\nHost: kylin\r\n{headers}\r\n\r\n{body}");
                let mut client = Connection::open(address).await.unwrap();
                client.send(&request).await.unwrap();
                assert_eq!(client.response().await.unwrap().status(), expected, "{address} {path} {headers}");
            }
        }
    }
}

#[tokio::test]
async fn the_lines_of_a_head_fit_into_the_buffers_of_the_file() {
    require_nginx!();
    let line = |start: &str, bytes: usize, end: &str| {
        format!("{start}{}{end}\r\n", "a".repeat(bytes - start.len() - end.len() - "\r\n".len()))
    };
    let head = |first: usize, headers: &[usize]| {
        let headers = headers.iter().map(|bytes| line("X-A: ", *bytes, "")).collect::<String>();
        format!("{}Host: kylin\r\n{headers}\r\n", line("GET /", first, " HTTP/1.1"))
    };
    let text = |lines: &str| format!("server {{ listen 127.0.0.1:@front@; {lines} location / {{ return 200; }} }}");
    for (lines, heads) in [
        (
            "large_client_header_buffers 2 1k;",
            [
                (head(1024, &[]), 200),
                (head(1025, &[]), 414),
                (head(5000, &[]), 414),
                (head(100, &[1024]), 200),
                (head(100, &[1025]), 400),
                (head(100, &[5000]), 400),
                (head(900, &[600, 400, 600]), 200),
                // No line is split between two buffers.
                (head(900, &[600, 600, 600]), 400),
                (head(1024, &[1000, 1022]), 200),
                // The empty line needs two bytes.
                (head(1024, &[1000, 1023]), 400),
            ],
        ),
        (
            "client_header_buffer_size 2k; large_client_header_buffers 1 512;",
            [
                (head(2048, &[]), 200),
                (head(2049, &[]), 414),
                (head(600, &[]), 200),
                (head(100, &[1000, 900]), 200),
                (head(100, &[1000, 900, 510]), 200),
                (head(100, &[1000, 900, 512]), 400),
                (head(100, &[1000, 500, 512]), 400),
                (head(1000, &[1500]), 400),
                (head(2040, &[490]), 200),
                (head(2040, &[510]), 400),
            ],
        ),
    ] {
        let text = text(lines);
        let nginx = Nginx::start(&text).await;
        let (ours, front) = serve(&text);
        for (head, expected) in heads {
            for front in [nginx.address("front"), front] {
                let mut connection = Connection::open(front).await.unwrap();
                connection.send(&*head).await.unwrap();
                let status = connection.response().await.unwrap().status();
                let lengths: Vec<_> = head.split_inclusive('\n').map(str::len).collect();
                assert_eq!(status, expected, "{lines} {lengths:?} nginx: {}", front == nginx.address("front"));
            }
        }
        ours.stop(Duration::from_secs(5)).await;
    }
}
