//! The proxy as a `tower::Service` in an application's router.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::Request;
use http_body_util::BodyExt;
use kylin_lb::testing::kylin::{KylinNode, Served};
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use serde_json::Value;
use tower::ServiceExt;

/// A node in this process, and the server that it listens with.
async fn demo(name: &str) -> (KylinNode, Served) {
    let node = KylinNode::new(name);
    let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    (node, served)
}

fn proxy(node: SocketAddr) -> Proxy {
    let endpoint = Endpoint::http("q1", &node.to_string()).unwrap();
    Proxy::plain(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap()
}

fn router(node: SocketAddr) -> Router {
    let service = proxy(node).service(|extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| ClientAddr::from(*peer))
    });
    Router::new().route("/own", get(async || "the application's own")).fallback_service(service)
}

#[tokio::test]
async fn a_router_serves_its_own_routes_and_the_proxy_the_rest() {
    let (node, served) = demo("q1").await;
    let router = || router(served.addr());
    assert_eq!(text(router().oneshot(request("/own")).await.unwrap()).await, "the application's own");
    assert_eq!(node.stats().requests, 0);
    let seen: Value =
        serde_json::from_str(&text(router().oneshot(request("/demo/head")).await.unwrap()).await).unwrap();
    assert_eq!(forwarded_for(&seen), "192.0.2.9");
    let large = router().oneshot(request("/demo/bytes?n=3000000")).await.unwrap();
    assert_eq!(large.into_body().collect().await.unwrap().to_bytes().len(), 3_000_000);
}

/// A request as axum's `ConnectInfo` marks it.
fn request(path: &str) -> Request<axum::body::Body> {
    let peer: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let request = Request::get(path).header("host", "kylin").extension(ConnectInfo(peer));
    request.body(axum::body::Body::empty()).unwrap()
}

async fn text(response: axum::response::Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The client's address as the node saw it.
fn forwarded_for(seen: &Value) -> &str {
    let headers = seen["headers"].as_array().unwrap();
    headers.iter().find(|header| header[0] == "x-forwarded-for").and_then(|header| header[1].as_str()).unwrap()
}

#[tokio::test]
async fn the_service_takes_the_client_from_the_extensions_or_forwards_unknown() {
    let (_node, served) = demo("q1").await;
    let client: ClientAddr = "192.0.2.9:1".parse::<SocketAddr>().unwrap().into();
    for (client, expected) in [(Some(client), "192.0.2.9"), (None, "unknown")] {
        let mut request = Request::get("/demo/head").header("host", "kylin").body(axum::body::Body::empty()).unwrap();
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        let response = proxy(served.addr()).service(|_| None).oneshot(request).await.unwrap();
        let seen: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(forwarded_for(&seen), expected);
    }
}

#[tokio::test]
async fn the_service_takes_and_returns_streams() {
    let (_node, served) = demo("q1").await;
    let request = Request::post("/demo/echo").header("host", "kylin").body(Body::from("hello")).unwrap();
    let response = router(served.addr()).oneshot(request.map(axum::body::Body::new)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}
