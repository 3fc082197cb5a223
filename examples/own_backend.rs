//! A backend with nodes in this process. A client that the application already has is wrapped in
//! the same way.
//!
//! ```sh
//! cargo run --example own_backend
//! ```

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

use std::net::{IpAddr, Ipv4Addr};

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};

/// A node in this process. The one called `q1` is unreachable.
struct InProcess {
    name: &'static str,
}

impl Backend for InProcess {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        if self.name == "q1" {
            // Nothing was sent, and the request is returned, so the proxy may send it to another
            // node, regardless of its method.
            return Err(
                SendError::new(SendErrorKind::Connect, "q1 is down for the demonstration").with_request(request)
            );
        }
        let sql =
            request.into_body().collect().await.map_err(|error| SendError::new(SendErrorKind::RequestBody, error))?;
        Ok(Response::new(Body::from(format!("{} got {} bytes", self.name, sql.to_bytes().len()))))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::builder()
        .endpoint(Endpoint::new("q1", InProcess { name: "q1" })?)
        .endpoint(Endpoint::new("q2", InProcess { name: "q2" })?)
        .build()?;
    let proxy = Proxy::builder(cluster).build()?;
    for _ in 0..3 {
        let request =
            Request::post("/kylin/api/query").header("host", "kylin").body(Body::from("{\"sql\":\"select 1\"}"))?;
        let response = proxy.forward(IpAddr::from(Ipv4Addr::LOCALHOST), request).await;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{status}: {}", String::from_utf8_lossy(&body));
    }
    println!("{:#?}", proxy.cluster().status());
    Ok(())
}
