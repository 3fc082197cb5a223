//! The proxy as a service in a host's own router.

use std::net::SocketAddr;

use ::http::Request;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http_body_util::BodyExt;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use serde_json::Value;
use tower::ServiceExt;

use crate::support::front::demo;
use crate::support::http;

fn proxy(node: SocketAddr) -> Proxy {
    let endpoint = Endpoint::http("q1", &node.to_string()).unwrap();
    Proxy::plain(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap()
}

fn router(node: SocketAddr) -> Router {
    let service = proxy(node).service(|extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| ClientAddr::from(*peer))
    });
    Router::new().route("/own", get(async || "the host's own")).fallback_service(service)
}

#[tokio::test]
async fn a_router_serves_its_own_routes_and_leaves_the_rest_to_the_proxy() {
    let (node, served) = demo("q1").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(served.addr()).into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    assert_eq!(http::get(address, "/own", &[]).await.unwrap().text(), "the host's own");
    assert_eq!(node.stats().requests, 0);
    let seen: Value = serde_json::from_slice(&http::get(address, "/demo/head", &[]).await.unwrap().body).unwrap();
    let fields = seen["headers"].as_array().unwrap();
    assert!(fields.iter().any(|field| field[0] == "x-forwarded-for" && field[1] == "127.0.0.1"), "{seen}");
    assert_eq!(http::get(address, "/demo/bytes?n=3000000", &[]).await.unwrap().body.len(), 3_000_000);
    server.abort();
}

#[tokio::test]
async fn the_service_finds_the_client_where_the_host_put_it_and_does_without_otherwise() {
    let (_node, served) = demo("q1").await;
    let client: ClientAddr = "192.0.2.9:1".parse::<SocketAddr>().unwrap().into();
    for (client, expected) in [(Some(client), "192.0.2.9"), (None, "unknown")] {
        let mut request = Request::get("/demo/head").header("host", "kylin").body(axum::body::Body::empty()).unwrap();
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        let answer = proxy(served.addr()).service(|_| None).oneshot(request).await.unwrap();
        let seen: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let fields = seen["headers"].as_array().unwrap();
        assert!(fields.iter().any(|field| field[0] == "x-forwarded-for" && field[1] == expected), "{seen}");
    }
}

#[tokio::test]
async fn the_service_takes_and_gives_streams() {
    let (_node, served) = demo("q1").await;
    let request = Request::post("/demo/echo").header("host", "kylin").body(Body::from("hello")).unwrap();
    let answer = router(served.addr()).oneshot(request.map(axum::body::Body::new)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}
