//! A request that fails at every node counts against none of them, and other clients are served
//! meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::StatusCode;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::clock::ManualClock;
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, Proxy, SendError};

use crate::support::front::Front;
use crate::support::health::state;
use crate::support::kylin::{request, sql};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Returns a request that is poisoned in this way.
type Poisoned = Box<dyn Fn(&str) -> String>;

const NODES: usize = 4;
const OTHERS: usize = 167;
/// The paths whose requests fail at every node, each in its own way.
const POISON: [&str; 6] = ["reset", "close", "html", "truncate", "truncate_late", "garbage"];

/// Starts a node that fails for poisoned paths, and responds to all others.
async fn node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                loop {
                    let mut buffer = [0; 4096];
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(length) => read.extend_from_slice(&buffer[..length]),
                    }
                    let text = String::from_utf8_lossy(&read).into_owned();
                    let Some(head) = text.find("\r\n\r\n") else { continue };
                    let length = text
                        .to_ascii_lowercase()
                        .lines()
                        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if read.len() < head + 4 + length.unwrap_or(0) {
                        continue;
                    }
                    let has = |poison: &str| text.contains(&format!("poison-{poison}\""));
                    let response: &[u8] = match () {
                        () if has("reset") => {
                            stream.set_zero_linger().unwrap();
                            return;
                        }
                        () if has("close") => return,
                        () if has("html") => {
                            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\noops"
                        }
                        () if has("truncate") => {
                            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nabc"
                        }
                        () if has("truncate_late") => {
                            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"
                        }
                        () if has("garbage") => b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                        () => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                    };
                    stream.write_all(response).await.unwrap();
                    if has("truncate_late") {
                        stream.write_all(&[b'x'; 50_000]).await.unwrap();
                    }
                    if POISON.iter().any(|poison| has(poison)) {
                        return;
                    }
                    read.clear();
                }
            });
        }
    });
    address
}

async fn cluster() -> Cluster {
    let mut endpoints = Vec::new();
    for id in 0..NODES {
        let backend = HttpBackend::new(&node().await.to_string()).unwrap();
        endpoints.push(Endpoint::new(id.to_string(), backend).unwrap());
    }
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

/// Sends a request with a header that poisons it, as one client, between requests of other clients.
/// Returns how many of the others were refused.
async fn refused(front: &Front, request: impl Fn(&str) -> String) -> usize {
    let mut refused = 0;
    for n in 0..OTHERS {
        let _ = front.ask(request(POISON[n / 3 % POISON.len()])).await;
        let other = front.get("/kylin/api/projects").await.unwrap();
        refused += usize::from(other.status() != 200);
    }
    refused
}

fn all_healthy(cluster: &Cluster) {
    for id in 0..NODES {
        let (health, reason) = state(cluster, &id.to_string());
        // The node closed connections, so it is probed soon.
        assert!(matches!(health, HealthState::Healthy | HealthState::Suspect), "{id}: {health:?} {reason:?}");
    }
}

#[tokio::test]
async fn one_client_whose_requests_fail_at_every_node_ejects_none_and_167_others_are_served() {
    let head = |line: &str, poison: &str| format!("{line} HTTP/1.1\r\nHost: kylin\r\nX-P: \"poison-{poison}\"\r\n");
    let read = move |poison: &str| head("GET /kylin/api/cubes", poison) + "\r\n";
    let write = move |poison: &str| head("POST /kylin/api/cubes", poison) + "Content-Length: 2\r\n\r\n{}";
    let query = move |poison: &str| {
        let body = r#"{"sql":"select 1","project":"p"}"#;
        head("POST /kylin/api/query", poison)
            + &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let requests: [Poisoned; 3] = [Box::new(read), Box::new(write), Box::new(query)];
    for request in requests {
        for kylin in [true, false] {
            let cluster = cluster().await;
            let proxy = if kylin {
                Proxy::builder(cluster.clone()).build().unwrap()
            } else {
                let retry = RetryPolicy::default().on_status(StatusCode::BAD_GATEWAY);
                Proxy::plain(cluster.clone()).retry(retry).build().unwrap()
            };
            let front = Front::serving(proxy, |server| server.threads(std::num::NonZero::new(1).unwrap()));
            assert_eq!(refused(&front, &request).await, 0, "{}", request("x"));
            all_healthy(&cluster);
        }
    }
}

fn scripted(
    failing: impl Fn(usize, &http::Request<Body>) -> Option<SendErrorKind> + Clone + Send + Sync + 'static,
) -> (Cluster<Scripted>, Proxy<Scripted>) {
    let endpoints = (0..3).map(|id| {
        let failing = failing.clone();
        let node = Scripted::new(move |request: http::Request<Body>| {
            std::future::ready(match failing(id, &request) {
                Some(kind) => Err(SendError::new(kind, "scripted")),
                None => Ok(http::Response::builder()
                    .header("content-type", "application/json")
                    .body(Body::from("{}"))
                    .unwrap()),
            })
        });
        Endpoint::new(id.to_string(), node).unwrap()
    });
    let cluster = Cluster::builder().endpoints(endpoints).clock(ManualClock::new()).build().unwrap();
    let proxy = Proxy::builder(cluster.clone()).build().unwrap();
    (cluster, proxy)
}

async fn send(proxy: &Proxy<Scripted>, client: u8, line: &str) -> StatusCode {
    let body = if line.starts_with("GET") { "" } else { "{}" };
    proxy.forward(IpAddr::V4(Ipv4Addr::new(192, 0, 2, client)), request(line, &[], body)).await.status()
}

#[tokio::test]
async fn a_failure_that_another_node_does_not_have_counts_against_the_node() {
    let (cluster, proxy) = scripted(|id, _| (id == 1).then_some(SendErrorKind::Broken));
    for _ in 0..40 {
        assert_eq!(send(&proxy, 1, "GET /kylin/api/projects").await, 200);
    }
    assert_eq!(state(&cluster, "1"), (HealthState::Ejected, Some(Reason::Unreachable)));
}

#[tokio::test]
async fn a_failed_write_counts_once_a_request_of_another_client_fails_at_that_node_too() {
    let (cluster, proxy) = scripted(|id, _| (id == 1).then_some(SendErrorKind::Broken));
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(send(&proxy, 1, "POST /kylin/api/cubes").await != 200);
    }
    assert_eq!((failed, state(&cluster, "1").0), (20, HealthState::Healthy), "one client");
    for client in 0..40 {
        send(&proxy, client, "POST /kylin/api/cubes").await;
    }
    assert_eq!(state(&cluster, "1"), (HealthState::Ejected, Some(Reason::Unreachable)));
    let endpoint = cluster.status().endpoints.into_iter().nth(1).unwrap();
    assert!(endpoint.failed <= endpoint.served, "{endpoint:?}");
}

/// Requests of one client eject no node if no other node can execute them, regardless of their URLs
/// and bodies.
#[tokio::test]
async fn requests_of_one_client_that_no_other_node_can_execute_eject_none() {
    for kylin in [true, false] {
        for line in ["POST /kylin/api/cubes", "GET /kylin/api/projects"] {
            let endpoints = (0..3).map(|id| {
                let node = Scripted::new(move |_: http::Request<Body>| {
                    std::future::ready(match id {
                        1 => Err(SendError::new(SendErrorKind::Broken, "scripted")),
                        _ => Ok(http::Response::builder().status(401).body(Body::empty()).unwrap()),
                    })
                });
                Endpoint::new(id.to_string(), node).unwrap()
            });
            let cluster = Cluster::builder().endpoints(endpoints).clock(ManualClock::new()).build().unwrap();
            let proxy = match kylin {
                true => Proxy::builder(cluster.clone()).build().unwrap(),
                false => Proxy::plain(cluster.clone()).build().unwrap(),
            };
            for number in 0..120 {
                let body = if line.starts_with("GET") { String::new() } else { "x".repeat(number) };
                let line = format!("{line}?n={number}");
                proxy
                    .forward(IpAddr::V4(Ipv4Addr::LOCALHOST), request(&line, &[("cookie", "JSESSIONID=1")], &body))
                    .await;
            }
            let health = state(&cluster, "1").0;
            let expected = if !kylin && line.starts_with("GET") { HealthState::Ejected } else { HealthState::Healthy };
            assert_eq!(health, expected, "kylin {kylin}: {line}");
        }
    }
}

/// The sessions of an ejected node stay valid while the node is up.
#[tokio::test]
async fn a_session_of_a_node_that_was_ejected_for_its_responses_is_still_found() {
    let endpoints = (0..3).map(|id| {
        let node = Scripted::new(move |request: http::Request<Body>| {
            let is_known = request.headers().get("cookie").is_some_and(|cookie| cookie == "JSESSIONID=1");
            let fails = id == 1 && request.uri().path().ends_with("/poison");
            let response =
                http::Response::builder().header("content-type", if fails { "text/html" } else { "application/json" });
            let status = match (fails, id == 1 && is_known) {
                (true, _) => 502,
                (_, true) => 200,
                _ => 401,
            };
            std::future::ready(Ok(response.status(status).body(Body::from("{}")).unwrap()))
        });
        Endpoint::new(id.to_string(), node).unwrap()
    });
    let cluster = Cluster::builder().endpoints(endpoints).clock(ManualClock::new()).build().unwrap();
    let proxy = Proxy::builder(cluster.clone()).build().unwrap();
    let session = [("cookie", "JSESSIONID=1")];
    let ask = async |client: u8, line: &str| {
        proxy.forward(IpAddr::V4(Ipv4Addr::new(192, 0, 2, client)), request(line, &session, "")).await.status()
    };
    assert_eq!(ask(1, "GET /kylin/api/projects").await, 200);
    for client in 1..60 {
        ask(client, "GET /kylin/api/poison").await;
    }
    assert_eq!(state(&cluster, "1").0, HealthState::Ejected);
    assert_eq!(ask(1, "GET /kylin/api/projects").await, 200);
}

/// An application that classifies outcomes itself decides.
#[tokio::test]
async fn a_query_that_runs_into_a_time_out_at_every_node_ejects_none() {
    let (cluster, proxy) = scripted(|_, _| Some(SendErrorKind::HeadTimeout));
    for _ in 0..30 {
        let query = request("POST /kylin/api/query", &[], &sql("select 1"));
        assert_eq!(proxy.forward(IpAddr::V4(Ipv4Addr::LOCALHOST), query).await.status(), 504);
    }
    for id in 0..3 {
        assert_eq!(state(&cluster, &id.to_string()), (HealthState::Suspect, Some(Reason::Slow)));
    }
}

/// A list of running queries goes to every node at once.
#[tokio::test]
async fn a_request_for_all_nodes_that_fails_at_all_ejects_none() {
    let (cluster, proxy) =
        scripted(|_, request| request.uri().path().ends_with("runningQueries").then_some(SendErrorKind::Broken));
    for _ in 0..30 {
        send(&proxy, 1, "GET /kylin/api/query/runningQueries").await;
        assert_eq!(send(&proxy, 2, "GET /kylin/api/projects").await, 200);
    }
    for id in 0..3 {
        assert_eq!(state(&cluster, &id.to_string()).0, HealthState::Healthy);
    }
}

/// Only a node that executes a request does better than a node that failed at it.
#[tokio::test]
async fn a_failure_is_not_counted_because_other_nodes_refuse_the_request() {
    for (line, status) in [("GET /kylin/api/projects", 401), ("GET /kylin/api/query/runningQueries", 500)] {
        let endpoints = (0..3).map(|id| {
            let node = Scripted::new(move |_: http::Request<Body>| {
                std::future::ready(match id {
                    1 => Err(SendError::new(SendErrorKind::Broken, "scripted")),
                    _ => Ok(http::Response::builder().status(status).body(Body::empty()).unwrap()),
                })
            });
            Endpoint::new(id.to_string(), node).unwrap()
        });
        let cluster = Cluster::builder().endpoints(endpoints).clock(ManualClock::new()).build().unwrap();
        let proxy = Proxy::builder(cluster.clone()).build().unwrap();
        for _ in 0..40 {
            assert_eq!(send(&proxy, 1, line).await, status);
        }
        assert_eq!(state(&cluster, "1").0, HealthState::Healthy, "{line}");
    }
}
