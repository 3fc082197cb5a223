//! A real MariaDB.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::port::free_port;
use super::process::Process;
use super::redis::on_path;
use super::skip;

/// The time limit for the start. It takes about 150 ms, and longer after a crash.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns whether MariaDB is installed, and reports a skipped test if it is not.
pub(crate) fn mariadb_installed() -> bool {
    skip::installed("mariadb-server", ["mariadbd", "mariadb-install-db", "mariadb"].iter().all(|name| on_path(name)))
}

/// A running server with a database `kylin` and a user `front` (password `hunter2`), killed on
/// drop.
#[derive(Debug)]
pub(crate) struct MariaDb {
    process: Process,
    port: u16,
    /// Separate from the process's folder, so that it outlives the process.
    data: TempDir,
    arguments: Vec<String>,
}

impl MariaDb {
    /// Makes an empty data folder, starts a server on it with further arguments, and waits until it
    /// serves.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(data.path().join("tmp")).expect("a folder in a temporary folder");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        let output = install.args(folders(data.path())).args(user()).output().expect("mariadb-install-db can be run");
        assert!(output.status.success(), "{output:?}");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = Self::attempt(port, data.path(), &arguments).await {
                let server = MariaDb { process, port, data, arguments };
                server.sql("CREATE DATABASE kylin");
                server.sql("CREATE USER front@'%' IDENTIFIED BY 'hunter2'");
                server.sql("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON kylin.* TO front@'%'");
                return server;
            }
        }
        panic!("mariadbd does not start");
    }

    /// Kills the server like a crash.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a killed server again on the same port, with its data.
    pub(crate) async fn restart(&mut self) {
        let process = Self::attempt(self.port, self.data.path(), &self.arguments).await;
        self.process = process.expect("a killed server starts again");
    }

    /// Returns the address of a store.
    pub(crate) fn url(&self) -> String {
        format!("mysql://front:hunter2@127.0.0.1:{}/kylin", self.port)
    }

    #[allow(dead_code, reason = "for benches/sessions")]
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Executes a statement as the administrator, in database `kylin` if it exists. Returns the
    /// output of the client.
    ///
    /// # Panics
    /// Panics if the statement fails.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let socket = format!("--socket={}", self.data.path().join("socket").display());
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", &socket, "--user=root", "--batch", "--skip-column-names"]);
        if !statement.starts_with("CREATE DATABASE") {
            client.args(["--database", "kylin"]);
        }
        let output = client.args(["--execute", statement]).output().expect("mariadb can be run");
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn attempt(port: u16, data: &Path, arguments: &[String]) -> Option<Process> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("/usr/sbin/mariadbd");
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-log-bin", "--innodb-buffer-pool-size=16M"]);
        command.args(user()).arg(format!("--port={port}")).args(folders(data));
        command.arg(format!("--socket={}", data.join("socket").display())).args(arguments);
        let mut process = Process::spawn("mariadbd", folder, &mut command).expect("mariadbd can be run");
        let ready = process.wait_ready(START_TIMEOUT, |server| server.file("stderr").contains("ready for connections"));
        ready.await.ok().map(|()| process)
    }
}

/// Returns the options for the data folder and for a folder of temporary tables. A starting server
/// empties the latter, so no two servers may share it.
fn folders(data: &Path) -> [String; 2] {
    [format!("--datadir={}", data.join("data").display()), format!("--tmpdir={}", data.join("tmp").display())]
}

/// Returns the option without which the server refuses to run as root.
fn user() -> Option<&'static str> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    root.then_some("--user=root")
}
