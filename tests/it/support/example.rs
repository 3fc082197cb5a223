//! The example front end as a child process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns `$KYLIN_FRONT`, else the example that `cargo test` builds beside the test binary.
pub(crate) fn program() -> PathBuf {
    if let Some(chosen) = std::env::var_os("KYLIN_FRONT") {
        return chosen.into();
    }
    let tests = std::env::current_exe().unwrap();
    let built = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples/kylin_front");
    assert!(built.exists(), "{} is built by: cargo build --examples", built.display());
    built
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

/// Returns the output of `--check` with these arguments.
pub(crate) fn check(args: &[&str]) -> String {
    let output = run(&[args, &["--check"]].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// Starts the program and waits until it listens.
pub(crate) async fn spawn(args: &[&str]) -> Process {
    spawn_with(args, |command| command).await
}

pub(crate) async fn spawn_with(args: &[&str], change: impl FnOnce(&mut Command) -> &mut Command) -> Process {
    let mut command = Command::new(program());
    change(command.args(args).args(["--threads", "2"]));
    let mut process = Process::spawn("kylin_front", TempDir::new().unwrap(), &mut command).unwrap();
    let ready = process.wait_ready(TIMEOUT, |process| process.file("stdout").contains("policy: ")).await;
    ready.unwrap_or_else(|error| panic!("{error}"));
    process
}

/// Starts the program on a free port and waits for its address.
pub(crate) async fn start(args: &[&str]) -> (Process, SocketAddr) {
    let process = spawn(&[args, &["--listen", "127.0.0.1:0"]].concat()).await;
    let front = address(&process, "listening on http://");
    (process, front)
}

/// Returns the address in the line of its output that begins with this text.
pub(crate) fn address(process: &Process, start: &str) -> SocketAddr {
    let stdout = process.file("stdout");
    let line = stdout.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{stdout}"));
    line.split('/').next().unwrap().parse().unwrap()
}

/// A file with a secret for several front ends.
pub(crate) fn secret(folder: &TempDir) -> PathBuf {
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{}\n{}\n", "5a".repeat(32), "3c".repeat(32))).unwrap();
    file
}
