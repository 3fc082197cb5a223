//! The proxy next to an axum application's own routes.
//!
//! ```sh
//! cargo run --example axum_app -- 10.0.0.1:7070 10.0.0.2:7070    # then: curl localhost:8080/status
//! ```

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::{Json, Router};
use kylin_lb::balance::RoundRobin;
use kylin_lb::{Cluster, Endpoint, Proxy};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = Cluster::builder().balancer(RoundRobin::new());
    for (number, node) in (1..).zip(std::env::args().skip(1)) {
        cluster = cluster.endpoint(Endpoint::http(format!("q{number}"), &node)?);
    }
    let cluster = cluster.build()?;
    let proxy = Proxy::builder(cluster.clone()).build()?;

    // axum tells where a request came from in its extensions.
    let kylin = proxy.service(|extensions| extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.into()));
    let app = Router::new()
        .route("/status", get(status))
        .with_state(cluster)
        .route_service("/kylin", kylin.clone())
        .route_service("/kylin/{*path}", kylin);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

/// What an operator wants to see.
async fn status(State(cluster): State<Cluster>) -> Json<Value> {
    let status = cluster.status();
    let endpoints = status.endpoints.iter().map(|endpoint| {
        json!({
            "id": endpoint.id.as_str(),
            "in_flight": endpoint.in_flight,
            "served": endpoint.served,
            "failed": endpoint.failed,
            "ejected": endpoint.ejected,
        })
    });
    Json(json!({ "policy": status.balancer, "endpoints": endpoints.collect::<Vec<_>>() }))
}
