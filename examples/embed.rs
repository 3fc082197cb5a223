//! The proxy in a bare hyper server.
//!
//! ```sh
//! cargo run --example embed -- 127.0.0.1:8080 10.0.0.1:7070 10.0.0.2:7070
//! ```

use std::convert::Infallible;
use std::num::NonZeroU32;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kylin_lb::balance::LeastConn;
use kylin_lb::{Cluster, Endpoint, Proxy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().ok_or("usage: embed LISTEN NODE...")?;

    let mut cluster = Cluster::builder().balancer(LeastConn::new());
    for (number, node) in (1..).zip(args) {
        cluster = cluster.endpoint(Endpoint::http(format!("q{number}"), &node)?.max_in_flight(NonZeroU32::new(32)));
    }
    let proxy = Proxy::builder(cluster.build()?).build()?;

    let listener = tokio::net::TcpListener::bind(listen).await?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(proxy.forward(peer, request).await) });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}
