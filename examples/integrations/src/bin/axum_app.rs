//! The proxy beside an axum application's own routes, with a graceful stop on SIGTERM.
//!
//! ```sh
//! cargo run -p kylin-lb-integrations --bin axum_app -- 127.0.0.1:8080 10.0.0.1:7070 10.0.0.2:7070
//! curl localhost:8080/status
//! ```

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::{Json, Router};
use kylin_lb::{Cluster, Endpoint, Proxy};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().ok_or("usage: axum_app LISTEN NODE...")?;
    let mut cluster = Cluster::builder();
    for (number, node) in (1..).zip(args) {
        cluster = cluster.endpoint(Endpoint::http(format!("q{number}"), &node)?);
    }
    let cluster = cluster.build()?;
    let proxy = Proxy::builder(cluster.clone()).build()?;

    // axum puts the client's address into the extensions of a request.
    let kylin = proxy.service(|extensions| extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.into()));
    // Three routes, because axum's wildcard does not match an empty rest. `nest_service` would
    // strip `/kylin` from the path.
    let app = Router::new()
        .route("/status", get(status))
        .with_state(cluster)
        .route_service("/kylin", kylin.clone())
        .route_service("/kylin/", kylin.clone())
        .route_service("/kylin/{*path}", kylin);

    let mut terminate = signal(SignalKind::terminate())?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { _ = terminate.recv().await })
        .await?;
    Ok(())
}

/// The status for an operator.
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
