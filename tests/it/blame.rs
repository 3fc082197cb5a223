//! Only failures of a node count against its health.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::server::Server;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, HttpBackend, Proxy};
use tokio::time::timeout;

use crate::support::front::{Front, endpoint, refusal};
use crate::support::raw_node::{RawNode, respond};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn scripted(nodes: impl IntoIterator<Item = Scripted>) -> Cluster<Scripted> {
    let endpoints = nodes.into_iter().enumerate().map(|(n, node)| Endpoint::new(n.to_string(), node).unwrap());
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

fn request(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/kylin/api/query").header("host", "kylin").body(Body::from("{}")).unwrap()
}

/// Kylin 2 to 4 respond with 500 to every SQL error, which must not eject nodes.
#[tokio::test]
async fn a_response_that_the_client_gets_is_a_success_whatever_its_status() {
    let error = || Scripted::responding(StatusCode::INTERNAL_SERVER_ERROR, "{\"msg\":\"syntax error\"}");
    let cluster = scripted([error(), error()]);
    let retry = RetryPolicy::default().on_status(StatusCode::INTERNAL_SERVER_ERROR);
    let proxy = Proxy::plain(cluster.clone()).retry(retry).build().unwrap();

    for _ in 0..4 {
        assert_eq!(proxy.forward(CLIENT, request("POST")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let status = cluster.status();
    assert!(status.endpoints.iter().all(|endpoint| endpoint.failed == 0 && !endpoint.ejected), "{status:?}");

    // A request that may be repeated drops one response and gets another, which the client gets.
    assert_eq!(proxy.forward(CLIENT, request("PUT")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let status = cluster.status();
    assert_eq!(status.endpoints.iter().map(|endpoint| endpoint.failed).sum::<u64>(), 1, "{status:?}");
}

#[tokio::test]
async fn failures_of_a_single_endpoint_are_forgotten_when_another_is_added() {
    let cluster = scripted([Scripted::failing(SendErrorKind::Connect)]);
    let proxy = Proxy::plain(cluster.clone()).build().unwrap();
    for _ in 0..5 {
        assert_eq!(proxy.forward(CLIENT, request("GET")).await.status(), StatusCode::BAD_GATEWAY);
    }
    cluster.add(Endpoint::new("1", Scripted::responding(StatusCode::OK, "")).unwrap()).unwrap();
    let first = &cluster.status().endpoints[0];
    assert_eq!((first.failed, first.fails, first.ejected), (5, 0, false));
}

/// A node that responds with the body of the request.
fn echo() -> Server {
    let echo = |_peer: ClientAddr, request: Request<Body>| async move {
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        Response::new(Body::from(body.unwrap_or_default()))
    };
    Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), echo)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap()
}

#[tokio::test]
async fn a_slow_upload_of_the_client_is_not_a_failure_of_the_node() {
    let node = echo();
    let head_timeout = Duration::from_secs(3);
    let impatient = |backend: kylin_lb::backend::http1::HttpBackendBuilder| backend.head_timeout(head_timeout);
    let endpoints = [0, 1].map(|n| endpoint(n, node.addresses()[0], impatient));
    let front = Front::of(endpoints, |proxy| proxy.replay_limit(0));

    let mut client = front.connect().await;
    client.send("POST /x HTTP/1.1\r\nHost: kylin\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
    // Longer than the node's response timeout.
    timeout(head_timeout * 4 / 3, client.head()).await.expect_err("there is no response to half a request");
    client.send("def").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "abcdef");
    front.idle().await;
    assert!(front.proxy.cluster().status().endpoints.iter().all(|endpoint| endpoint.failed == 0));
}

/// A response over the front end's limits, or too many interim responses, counts against no node,
/// and the reason is shown.
#[tokio::test]
async fn limits_of_the_front_end_are_not_failures_of_the_node() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(150));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for head in [long, many, interim] {
        let nodes = [RawNode::start([respond(head.clone())]).await, RawNode::start([respond(head.clone())]).await];
        let endpoints = nodes.iter().enumerate().map(|(id, node)| {
            let backend = HttpBackend::new(&node.address().to_string()).unwrap();
            Endpoint::new(id.to_string(), backend).unwrap()
        });
        let front = Front::of(endpoints, |proxy| proxy);
        for _ in 0..20 {
            let response = front.get("/x").await.unwrap();
            assert!(refusal(&response, 502).contains("over the limits of the front end"));
        }
        for endpoint in front.proxy.cluster().status().endpoints {
            assert_eq!((endpoint.failed, endpoint.ejected), (0, false), "{endpoint:?}");
        }
        assert_eq!(nodes.iter().map(|node| node.seen().requests.len()).sum::<usize>(), 20, "no retry");
    }
    let node =
        RawNode::start([respond(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(150)))])
            .await;
    let front =
        Front::of([endpoint(0, node.address(), |backend| backend.max_headers(NonZero::new(200).unwrap()))], |proxy| {
            proxy
        });
    assert_eq!(front.get("/x").await.unwrap().status(), 200, "the limit can be set");
}

#[tokio::test]
async fn the_body_of_a_get_reaches_the_node_whatever_its_framing() {
    let node = echo();
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let counted = "Content-Length: 5\r\n\r\nhello";
    for replay_limit in [0, 1 << 20] {
        let front = Front::with(node.addresses(), |proxy| proxy.replay_limit(replay_limit));
        for body in [chunked, counted] {
            for method in ["GET", "DELETE", "POST"] {
                let response = front.ask(format!("{method} /x HTTP/1.1\r\nHost: kylin\r\n{body}")).await.unwrap();
                assert_eq!(response.text(), "hello", "{method} {body:?} {replay_limit}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_content_length_is_corrected() {
    let node = echo();
    let cluster = Cluster::builder().endpoint(endpoint(0, node.addresses()[0], |backend| backend)).build().unwrap();
    let proxy = Proxy::plain(cluster).build().unwrap();
    // An application that replaced the body and forgot the header would send this.
    let request =
        Request::post("/x").header("host", "kylin").header("content-length", "5").body(Body::from("longer")).unwrap();
    let response = proxy.forward(CLIENT, request).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "longer");
}

#[tokio::test]
async fn an_upload_in_small_frames_does_not_hold_their_buffers() {
    let node = echo();
    let front = Front::over(node.addresses());
    let mut upload = String::from("POST /x HTTP/1.1\r\nHost: kylin\r\nTransfer-Encoding: chunked\r\n\r\n");
    let letters = || (0..20_000_u32).map(|n| char::from(b'a' + (n % 26) as u8));
    letters().for_each(|letter| upload.push_str(&format!("1\r\n{letter}\r\n")));
    upload.push_str("0\r\n\r\n");
    assert_eq!(front.ask(upload).await.unwrap().text(), letters().collect::<String>());
}
