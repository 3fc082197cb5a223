//! A backend that sends requests with reqwest's client; see `reqwest_backend` in `src/lib.rs`.
//!
//! ```sh
//! cargo run -p kylin-lb-integrations --bin backend_reqwest
//! ```

use kylin_lb_integrations::{query_demo_node, reqwest_backend};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    query_demo_node(reqwest_backend).await
}
