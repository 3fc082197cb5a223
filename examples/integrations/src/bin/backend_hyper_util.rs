//! A backend that sends requests with hyper-util's client; see `hyper_util_backend` in
//! `src/lib.rs`.
//!
//! ```sh
//! cargo run -p kylin-lb-integrations --bin backend_hyper_util
//! ```

use kylin_lb_integrations::{hyper_util_backend, query_demo_node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    query_demo_node(hyper_util_backend).await
}
