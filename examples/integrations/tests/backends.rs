//! Backends over other HTTP clients meet the contract of `Backend`, and their examples run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use kylin_lb::testing::backend::conformance;
use kylin_lb_integrations::{hyper_util_backend, reqwest_backend};

#[tokio::test]
async fn the_client_of_hyper_util_conforms() {
    conformance(|node| hyper_util_backend(&format!("http://{node}")).unwrap()).await;
}

#[tokio::test]
async fn the_client_of_reqwest_conforms() {
    conformance(|node| reqwest_backend(&format!("http://{node}")).unwrap()).await;
}

#[test]
fn the_examples_get_a_response_from_the_node() {
    for program in [env!("CARGO_BIN_EXE_backend_hyper_util"), env!("CARGO_BIN_EXE_backend_reqwest")] {
        let output = Command::new(program).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.starts_with("200 OK\n"), "{program}: {output:?}");
        assert!(text.contains("\"results\""), "{program}: {text}");
    }
}
