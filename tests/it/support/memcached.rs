//! A real Memcached.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::port::free_port;
use super::process::Process;
use super::redis::on_path;
use super::skip;

/// The time limit for the start, which takes about 4 ms.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns whether Memcached is installed, and reports a skipped test if not.
pub(crate) fn memcached_installed() -> bool {
    skip::installed("memcached", on_path("memcached"))
}

/// A running server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Memcached {
    process: Process,
    port: u16,
    arguments: Vec<String>,
}

impl Memcached {
    /// Starts a server with additional arguments, and waits until it listens.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = Self::attempt(port, &arguments).await {
                return Memcached { process, port, arguments };
            }
        }
        panic!("memcached does not start");
    }

    /// Kills the server as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a killed server again on the same port, without data.
    pub(crate) async fn restart(&mut self) {
        let process = Self::attempt(self.port, &self.arguments).await;
        self.process = process.expect("the port of a killed server is free");
    }

    #[allow(dead_code, reason = "for benches/sessions")]
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns a figure of `stats`.
    pub(crate) fn stat(&self, name: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server listens");
        stream.write_all(b"stats\r\nquit\r\n").expect("the server reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("the server responds");
        let line = response.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.unwrap_or_else(|| panic!("{response}")).to_owned()
    }

    async fn attempt(port: u16, arguments: &[String]) -> Option<Process> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("memcached");
        // The server needs a user to switch to when it starts as root, and ignores the option otherwise.
        command.args(["-u", "daemon", "-l", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
        let mut process = Process::spawn("memcached", folder, &mut command).expect("memcached can be run");
        let ready = process.wait_ready(START_TIMEOUT, |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        ready.await.ok().map(|()| process)
    }
}
