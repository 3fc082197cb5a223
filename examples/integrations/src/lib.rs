//! kylin-lb in other frameworks: see the programs in `src/bin`.

use std::error::Error;

use http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::backend::tower::TowerBackend;
use kylin_lb::testing::kylin::KylinNode;
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy};

/// Returns a backend that sends requests with hyper-util's client to a node such as
/// `http://10.0.0.1:7070`.
///
/// # Errors
/// An error if `node` is not an origin.
pub fn hyper_util_backend(node: &str) -> Result<impl Backend + use<>, Box<dyn Error>> {
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        // The proxy retries, within its budget.
        .retry_canceled_requests(false)
        .build_http();
    Ok(TowerBackend::new(client)
        .origin(node)?
        .classify(|error| if error.is_connect() { SendErrorKind::Connect } else { SendErrorKind::Broken }))
}

/// Returns a backend that sends requests with reqwest's client to a node such as
/// `http://10.0.0.1:7070`.
///
/// # Errors
/// An error if `node` is not an origin, or the client cannot be built.
pub fn reqwest_backend(node: &str) -> Result<impl Backend + use<>, Box<dyn Error>> {
    let client = reqwest::Client::builder()
        // Redirects are for the client to follow, not the proxy. The node is addressed directly,
        // and the proxy retries.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .build()?;
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            client.execute(request).await.map(Response::from)
        }
    });
    Ok(TowerBackend::new(service).origin(node)?.classify(|error: &reqwest::Error| {
        if error.is_connect() { SendErrorKind::Connect } else { SendErrorKind::Broken }
    }))
}

/// Sends a query through a proxy in front of a Kylin node in this process, and prints the response.
///
/// # Errors
/// An error if the node cannot be started or the proxy cannot be built.
#[allow(clippy::print_stdout, reason = "for programs in a terminal")]
pub async fn query_demo_node<B: Backend>(
    backend: impl FnOnce(&str) -> Result<B, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let node = KylinNode::new("q1").serve(([127, 0, 0, 1], 0).into()).await?;
    let backend = backend(&format!("http://{}", node.addr()))?;
    let proxy = Proxy::builder(Cluster::builder().endpoint(Endpoint::new("q1", backend)?).build()?).build()?;
    let request = Request::post("/kylin/api/query")
        .header("host", "kylin.example")
        .header("content-type", "application/json")
        // ADMIN:KYLIN
        .header("authorization", "Basic QURNSU46S1lMSU4=")
        .body(Body::from(r#"{"sql":"select 1","project":"learn_kylin"}"#))?;
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse()?;
    let response = proxy.forward(client, request).await;
    println!("{}", response.status());
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));
    Ok(())
}
