//! Requests whose first node fails: the nodes that get them, how often, and the client's response.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::Attempted;
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::PickReason;
use kylin_lb::nginx::{Config, Site};
use kylin_lb::proxy::{RetryBudget, RetryPolicy};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, Outcome, Proxy, RequestView};

use crate::support::cluster::InOrder;
use crate::support::front::{Front, closed_port, endpoint, endpoints, refusal};
use crate::support::http::{Connection, RawResponse};
use crate::support::raw_node::{Act, RawNode, find, healthy, respond};

/// For nodes that never respond.
const HEAD_TIMEOUT: Duration = Duration::from_millis(300);

fn impatient(id: usize, address: SocketAddr) -> Endpoint<HttpBackend> {
    endpoint(id, address, |backend| backend.head_timeout(HEAD_TIMEOUT))
}

async fn send(front: &Front, method: &str) -> RawResponse {
    let response = match method {
        "GET" => front.get("/kylin/api/projects").await,
        _ => front.post("/kylin/api/query", "{\"sql\":\"select 1\"}").await,
    };
    response.unwrap()
}

#[tokio::test]
async fn a_get_is_retried_after_any_failure_and_a_post_only_if_it_was_not_sent() {
    let unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy".to_vec();
    // The behaviour of the first node, and the response to POST (GET always gets the second node's
    // response).
    let failures: [(&str, Vec<Act>, u16, &str); 6] = [
        ("closes", vec![Act::Read], 502, "may have been executed"),
        ("resets", vec![Act::Read, Act::Reset], 502, "may have been executed"),
        ("hangs", vec![Act::Read, Act::UntilClosed], 504, "did not respond in time"),
        ("half a head", respond("HTTP/1.1 200 OK\r\nContent-Le"), 502, "broke|not valid HTTP"),
        ("junk", respond("SSH-2.0-OpenSSH_9.6\r\n\r\n"), 502, "not valid HTTP"),
        ("503, listed", respond(unavailable.clone()), 503, "busy"),
    ];
    for (what, script, status, message) in failures {
        for method in ["GET", "POST"] {
            let (bad, good) = (RawNode::start([script.clone()]).await, RawNode::start([healthy("good")]).await);
            let retry = RetryPolicy::default().on_status(StatusCode::SERVICE_UNAVAILABLE);
            // The node that responds has as much time as it needs.
            let first = if what == "hangs" { impatient(0, bad.address()) } else { endpoint(0, bad.address(), |b| b) };
            let front = Front::of([first, endpoint(1, good.address(), |b| b)], |proxy| proxy.retry(retry));
            let response = send(&front, method).await;
            assert_eq!(bad.seen().requests.len(), 1, "{what}: {method} reaches the first node once");
            if method == "GET" {
                assert_eq!((response.status(), response.text()), (200, "good"), "{what}");
                assert_eq!(good.seen().requests.len(), 1, "{what}: the second node is asked once");
            } else {
                assert_eq!(good.seen().connections, 0, "{what}: a POST that was sent is not repeated");
                assert_eq!(response.status(), status, "{what}: {}", response.text());
                assert!(message.split('|').any(|m| response.text().contains(m)), "{what}: {}", response.text());
                if status != 503 {
                    refusal(&response, status);
                }
            }
            front.idle().await;
        }
    }
}

#[tokio::test]
async fn a_request_without_a_budget_for_a_retry_takes_no_trial_of_an_endpoint() {
    let gone = Scripted::failing(SendErrorKind::Connect);
    for (broken, status) in [
        (Scripted::failing(SendErrorKind::Broken), StatusCode::BAD_GATEWAY),
        (Scripted::responding(StatusCode::BAD_GATEWAY, ""), StatusCode::BAD_GATEWAY),
    ] {
        let clock = ManualClock::new();
        let endpoints = [Endpoint::new("broken", broken).unwrap(), Endpoint::new("gone", gone.clone()).unwrap()];
        let builder = Cluster::builder().endpoints(endpoints).balancer(InOrder).clock(clock.clone());
        let cluster = builder.build().unwrap();
        let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
        let retry = RetryPolicy::default().on_status(status).budget(Some(none));
        let proxy = Proxy::plain(cluster.clone()).retry(retry).clock(clock.clone()).build().unwrap();
        let client = std::net::IpAddr::from([192, 0, 2, 7]);
        let request = || http::Request::get("/").header("host", "kylin").body(Body::empty()).unwrap();
        let bound = || cluster.pick_bound(&RequestView::of(&request(), client), &Attempted::none(), "gone").unwrap();
        for _ in 0..5 {
            let mut picked = bound();
            picked.lease.set_outcome(Outcome::Unreachable);
        }
        assert_eq!(bound().reason, PickReason::Policy, "the endpoint is ejected");
        clock.advance(Duration::from_millis(250));
        assert_eq!(proxy.forward(client, request()).await.status(), status);
        assert_eq!((bound().reason, gone.calls()), (PickReason::Bound, 0), "the next request may try the endpoint");
    }
}

#[tokio::test]
async fn a_status_that_is_not_listed_is_returned() {
    for status in ["500 Internal Server Error", "503 Service Unavailable", "401 Unauthorized"] {
        let node = RawNode::start([respond(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"))]).await;
        let other = RawNode::start([healthy("other")]).await;
        let response = send(&Front::over(&[node.address(), other.address()]), "GET").await;
        assert_eq!((response.status().to_string(), response.text()), (status[..3].to_owned(), "no"));
        assert_eq!(other.seen().connections, 0);
    }
}

#[tokio::test]
async fn a_listed_status_of_the_last_node_is_returned() {
    let busy = respond("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy");
    let (one, two) = (RawNode::start([busy.clone()]).await, RawNode::start([busy]).await);
    let retry = RetryPolicy::default().on_status(StatusCode::SERVICE_UNAVAILABLE);
    let front = Front::with(&[one.address(), two.address()], |proxy| proxy.retry(retry));
    let response = send(&front, "GET").await;
    assert_eq!((response.status(), response.text()), (503, "busy"));
    assert_eq!((one.seen().requests.len(), two.seen().requests.len()), (1, 1));
}

#[tokio::test]
async fn any_request_is_retried_with_its_body_after_a_refused_connection() {
    let small = "x".repeat(1000);
    let large = "y".repeat(3 << 20);
    for body in [&small, &large] {
        let good = RawNode::start([healthy("good")]).await;
        let front = Front::over(&[closed_port(), closed_port(), good.address()]);
        let response = front.post("/kylin/api/query", body).await.unwrap();
        assert_eq!((response.status(), response.text()), (200, "good"));
        let requests = good.seen().requests;
        assert_eq!(requests.len(), 1);
        assert!(requests[0].ends_with(format!("\r\n\r\n{body}").as_bytes()), "{} bytes", body.len());
    }
    let good = RawNode::start([healthy("good")]).await;
    let front = Front::over(&[closed_port(), good.address()]);
    let chunks = format!("{:x}\r\n{large}\r\n", large.len());
    let head = "POST / HTTP/1.1\r\nHost: kylin\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = front.ask(format!("{head}{chunks}0\r\n\r\n")).await.unwrap();
    assert_eq!(response.text(), "good");
    let request = good.seen().requests.remove(0);
    let body = find(&request, b"\r\n\r\n").unwrap();
    assert_eq!(request[body..].iter().filter(|byte| **byte == b'y').count(), large.len());
}

#[tokio::test]
async fn a_long_body_of_which_a_part_was_sent_is_not_sent_again() {
    let bad = RawNode::start([vec![Act::ReadHead, Act::Reset]]).await;
    let good = RawNode::start([healthy("good")]).await;
    let front = Front::over(&[bad.address(), good.address()]);
    let mut client = front.connect().await;
    // PUT is idempotent, but its bytes are gone.
    client.send(format!("PUT / HTTP/1.1\r\nHost: kylin\r\nContent-Length: {}\r\n\r\n", 3 << 20)).await.unwrap();
    // The front end responds before everything is sent, and may close.
    _ = client.send("y".repeat(3 << 20)).await;
    let response = client.response().await.unwrap();
    assert!(refusal(&response, 502).contains("may have been executed"));
    assert_eq!(good.seen().connections, 0);
    // A short one is.
    let response = front.ask("PUT / HTTP/1.1\r\nHost: kylin\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    assert_eq!(response.text(), "good");
}

#[tokio::test]
async fn no_endpoint_is_attempted_twice_and_the_client_gets_an_error_when_none_is_left() {
    let front = Front::over(&[closed_port(), closed_port()]);
    for method in ["GET", "POST"] {
        let message = refusal(&send(&front, method).await, 502);
        assert!(message.contains("could not be reached; the request was not sent"), "{message}");
    }
    let nodes = [RawNode::start([vec![Act::Read]]).await, RawNode::start([vec![Act::Read]]).await];
    let front = Front::over(&nodes.each_ref().map(RawNode::address));
    refusal(&send(&front, "GET").await, 502);
    assert_eq!(nodes.each_ref().map(|node| node.seen().requests.len()), [1, 1]);
}

#[tokio::test]
async fn the_number_of_attempts_is_limited() {
    let nodes = [
        RawNode::start([vec![Act::Read]]).await,
        RawNode::start([vec![Act::Read]]).await,
        RawNode::start([healthy("3")]).await,
    ];
    let addresses = nodes.each_ref().map(RawNode::address);
    let front = Front::with(&addresses, |proxy| proxy.retry(RetryPolicy::default().max_attempts(NonZeroU32::new(2))));
    refusal(&send(&front, "GET").await, 502);
    assert_eq!(nodes[2].seen().connections, 0);
    let front = Front::with(&addresses, |proxy| proxy.retry(RetryPolicy::none()));
    refusal(&send(&front, "GET").await, 502);
    assert_eq!(nodes.each_ref().map(|node| node.seen().requests.len()), [2, 1, 0]);
}

#[tokio::test]
async fn a_request_that_reached_no_node_is_limited_by_the_number_of_endpoints_only() {
    let good = RawNode::start([healthy("good")]).await;
    let addresses = || [closed_port(), closed_port(), closed_port(), good.address()];
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    let one = RetryPolicy::default().max_attempts(NonZeroU32::new(1)).budget(Some(none));
    for method in ["GET", "POST"] {
        let front = Front::with(&addresses(), |proxy| proxy.retry(one.clone()));
        assert_eq!(send(&front, method).await.text(), "good");
        let front = Front::kylin(endpoints(&addresses()), |proxy| proxy.retry(one.clone()));
        assert_eq!(send(&front, method).await.text(), "good");
        // As nginx counts.
        let front = Front::with(&addresses(), |proxy| proxy.retry(one.clone().count_unsent(true)));
        refusal(&send(&front, method).await, 502);
    }
    // Attempts that a node may have got are still limited.
    let bad = [RawNode::start([vec![Act::Read]]).await, RawNode::start([vec![Act::Read]]).await];
    let front = Front::with(&[closed_port(), bad[0].address(), bad[1].address()], |proxy| {
        proxy.retry(RetryPolicy::default().max_attempts(NonZeroU32::new(1)))
    });
    refusal(&send(&front, "GET").await, 502);
    assert_eq!(bad.each_ref().map(|node| node.seen().requests.len()), [1, 0]);
}

#[tokio::test]
async fn the_tries_of_an_nginx_configuration_are_what_the_file_says() {
    let good = RawNode::start([healthy("good")]).await;
    for (tries, status) in [("", 200), ("proxy_next_upstream_tries 3;", 200), ("proxy_next_upstream_tries 2;", 502)] {
        let (one, two, three) = (closed_port(), closed_port(), good.address());
        let upstream = format!("upstream u {{ server {one}; server {two}; server {three}; }}");
        let text = format!("{upstream} server {{ listen 127.0.0.1:1; {tries} location / {{ proxy_pass http://u; }} }}");
        let site = Site::new(Config::parse("front.conf", &text).unwrap()).unwrap();
        let server = site.server_on("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let mut client = Connection::open(server.addresses()[0]).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), status, "{tries}");
    }
}

#[tokio::test]
async fn the_time_for_attempts_is_limited() {
    let clock = ManualClock::new();
    let (slow, good) =
        (RawNode::start([vec![Act::Read, Act::WaitForGo]]).await, RawNode::start([healthy("good")]).await);
    let nodes = [slow.address(), good.address()];
    let retry = RetryPolicy::default().max_elapsed(Some(Duration::from_secs(10)));
    for (seconds, status) in [(9, 200), (10, 502)] {
        let front = Front::with(&nodes, |proxy| proxy.retry(retry.clone()).clock(clock.clone()));
        let before = slow.seen().requests.len();
        let turn = async {
            slow.wait_until(|seen| seen.requests.len() > before).await;
            clock.advance(Duration::from_secs(seconds));
            slow.go();
        };
        let (response, ()) = tokio::join!(send(&front, "GET"), turn);
        assert_eq!(response.status(), status, "after {seconds} s");
    }
}

#[tokio::test]
async fn backups_serve_when_no_primary_is_left() {
    let backup = RawNode::start([healthy("backup")]).await;
    let front = Front::of(
        [
            endpoint(0, closed_port(), |b| b),
            endpoint(1, closed_port(), |b| b),
            endpoint(2, backup.address(), |b| b).backup(true),
        ],
        |proxy| proxy,
    );
    for method in ["GET", "POST"] {
        assert_eq!(send(&front, method).await.text(), "backup");
    }
    let primary = RawNode::start([healthy("primary")]).await;
    let nodes = [endpoint(0, primary.address(), |b| b), endpoint(1, backup.address(), |b| b).backup(true)];
    let front = Front::of(nodes, |proxy| proxy);
    for _ in 0..4 {
        assert_eq!(send(&front, "GET").await.text(), "primary");
    }
}
