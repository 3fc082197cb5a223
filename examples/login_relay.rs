//! One login, three nodes that share no sessions: the front end logs in at each node that it uses.
//!
//! ```sh
//! cargo run --example login_relay --features login-relay
//! ```

use http::{Request, StatusCode};
use kylin_lb::balance::LeastConn;
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
use kylin_lb::testing::kylin::{KylinNode, Metastore};
use kylin_lb::{Body, Cluster, Endpoint, Proxy};

#[tokio::main]
#[allow(clippy::print_stdout, reason = "it is what the example is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Front ends of one cluster share a store (`Sessions::remote`) and the secret.
    let affinity = Affinity::login_relay(LoginRelay::new(Sessions::in_memory()?, Secret::random()?));

    let metastore = Metastore::new();
    let nodes = ["q1", "q2", "q3"].map(|name| KylinNode::new(name).metastore(&metastore));
    let mut cluster = Cluster::builder().balancer(LeastConn::new());
    for node in &nodes {
        cluster = cluster.endpoint(Endpoint::new(node.name(), node.clone())?);
    }
    let proxy = Proxy::builder(cluster.build()?).affinity(affinity).build()?;
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse()?;

    let login = Request::post("/kylin/api/user/authentication")
        .header("host", "kylin.example")
        .header("authorization", "Basic QURNSU46S1lMSU4=") // ADMIN:KYLIN
        .body(Body::empty())?;
    let response = proxy.forward(client, login).await;
    let set_cookie = response.headers().get("set-cookie").ok_or("no session")?.to_str()?;
    let cookie = set_cookie.split(';').next().unwrap_or_default().to_owned();
    // A request is in flight until the body of its response is read or dropped.
    drop(response);
    println!("logged in; the client has one cookie, which the front end set");

    for round in ["each node is logged into once", "every node was restarted, and no client notices"] {
        for _ in 0..30 {
            let query = Request::post("/kylin/api/query")
                .header("host", "kylin.example")
                .header("cookie", &cookie)
                .body(Body::from(r#"{"sql":"select 1","project":"learn_kylin"}"#))?;
            let response = proxy.forward(client, query).await;
            if response.status() != StatusCode::OK {
                return Err(format!("a query failed: {}", response.status()).into());
            }
        }
        println!("30 queries served: {round}");
        for node in &nodes {
            let stats = node.stats();
            println!("  {}: {} queries, {} logins", node.name(), stats.queries, stats.logins);
            node.forget_sessions();
        }
    }
    Ok(())
}
