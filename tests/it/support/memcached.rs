//! A real Memcached.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::process::Process;
use super::redis::on_path;
use super::skip;
use super::store::{Program, Store};

/// Returns whether Memcached is installed, and reports a skipped test if it is not.
pub(crate) fn memcached_installed() -> bool {
    skip::installed("memcached", on_path("memcached"))
}

pub(crate) type Memcached = Store<MemcachedProgram>;

#[derive(Debug)]
pub(crate) struct MemcachedProgram;

impl Program for MemcachedProgram {
    const NAME: &'static str = "memcached";

    fn command(port: u16, _: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new("memcached");
        // The server needs a user to switch to when it starts as root, and ignores the option
        // otherwise.
        command.args(["-u", "daemon", "-l", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
        command
    }

    fn is_ready(_: &Process, port: u16) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    }
}

impl Memcached {
    /// Returns a figure of `stats`.
    pub(crate) fn stat(&self, name: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).expect("the server listens");
        stream.write_all(b"stats\r\nquit\r\n").expect("the server reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("the server responds");
        let line = response.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.unwrap_or_else(|| panic!("{response}")).to_owned()
    }
}
