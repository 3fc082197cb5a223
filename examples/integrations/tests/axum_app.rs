//! The axum example as a process: it serves `/kylin`, `/kylin/` and below, and stops gracefully on
//! SIGTERM.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kylin_lb::testing::kylin::KylinNode;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Killed at the end of the test, however the test ends.
struct App(Child);

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a GET on its own connection and returns the response.
fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: kylin\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).unwrap();
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_kylin_below_its_prefix_and_stops_gracefully() {
    let node = KylinNode::new("q1");
    let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_axum_app"));
    command.args(["127.0.0.1:0", &served.addr().to_string()]).stdout(Stdio::piped());
    let mut app = App(command.spawn().unwrap());
    let mut output = BufReader::new(app.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).to_owned();

    let status = tokio::task::spawn_blocking({
        let address = address.clone();
        move || {
            for path in ["/kylin", "/kylin/", "/kylin/api/admin/version"] {
                let response = get(&address, path);
                assert!(!response.starts_with("HTTP/1.1 404"), "{path}: {response}");
            }
            assert!(get(&address, "/elsewhere").starts_with("HTTP/1.1 404"));
            get(&address, "/status")
        }
    });
    let status = status.await.unwrap();
    assert!(status.starts_with("HTTP/1.1 200") && status.contains("\"served\":3"), "{status}");

    let killed = Command::new("kill").args(["-TERM", &app.0.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let exit = tokio::task::spawn_blocking(move || app.0.wait().unwrap()).await.unwrap();
    assert!(exit.success(), "{exit}");
}
