//! A process with few descriptors: its clients cannot take the descriptors that its nodes need.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::example_options::nodes;
use crate::support::example::{TIMEOUT, address, program};
use crate::support::http::{self, Connection};
use crate::support::process::Process;

/// Starts the example with at most `files` descriptors.
async fn start(files: u32, args: &[&str]) -> Process {
    let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(program()).args(args).args(["--threads=2", "--listen=127.0.0.1:0"]);
    let mut process = Process::spawn("kylin_front", TempDir::new().unwrap(), &mut command).unwrap();
    let ready = process.wait_ready(TIMEOUT, |process| process.file("stdout").contains("policy: ")).await;
    ready.unwrap_or_else(|error| panic!("{error}"));
    process
}

#[tokio::test]
async fn more_idle_clients_than_descriptors_leave_nodes_eligible_and_new_clients_served() {
    let (_nodes, named) = nodes(2).await;
    let process = start(256, &["--nodes", &named, "--status=127.0.0.1:0", "--admin=127.0.0.1:0"]).await;
    let front = address(&process, "listening on http://");
    let mut idle = Vec::new();
    for listener in ["status on http://", "admin on http://"] {
        for _ in 0..150 {
            idle.push(Connection::open(address(&process, listener)).await.unwrap());
        }
    }
    for number in 0..300 {
        let mut client = Connection::open(front).await.unwrap();
        if number % 2 == 0 {
            client.send("GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
            assert_eq!(client.response().await.unwrap().status(), 200, "client {number}: {}", process.log());
        }
        idle.push(client);
    }
    for _ in 0..20 {
        assert_eq!(http::get(front, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200);
    }
    let status = http::get(address(&process, "status on http://"), "/front/status", &[]).await.unwrap();
    let status: Value = serde_json::from_slice(&status.body).unwrap();
    let cluster = &status["clusters"]["kylin"];
    for endpoint in cluster["endpoints"].as_array().unwrap() {
        assert!(endpoint["health"] == "healthy" && endpoint["failed"] == 0, "{status}");
    }
    assert_eq!(cluster["shortages"], 0, "{}", process.log());
}
