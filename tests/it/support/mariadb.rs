//! A real MariaDB.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::port::free_port;
use super::process::Process;
use super::redis::on_path;
use super::skip;

/// How long it may take to start; it takes some 150 ms, and longer after a crash.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether MariaDB is installed; loud when it is not.
pub(crate) fn mariadb_installed() -> bool {
    skip::installed("mariadb-server", ["mariadbd", "mariadb-install-db", "mariadb"].iter().all(|name| on_path(name)))
}

/// A running server with a database `kylin` and a user `front` (password `hunter2`), killed when this is dropped.
#[derive(Debug)]
pub(crate) struct MariaDb {
    process: Process,
    port: u16,
    /// Apart from the process's folder, so that it outlives the process.
    data: TempDir,
    arguments: Vec<String>,
}

impl MariaDb {
    /// Makes an empty data folder, starts a server on it with further arguments, and waits until it serves.
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

    /// Kills the server as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and the same data, once it was killed.
    pub(crate) async fn restart(&mut self) {
        let process = Self::attempt(self.port, self.data.path(), &self.arguments).await;
        self.process = process.expect("a server that was killed starts again");
    }

    /// The address of a store on it.
    pub(crate) fn url(&self) -> String {
        format!("mysql://front:hunter2@127.0.0.1:{}/kylin", self.port)
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What the server's own client prints for a statement, as the administrator, in database `kylin` if there is one.
    ///
    /// # Panics
    /// When the statement fails.
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
        let ready = process.wait_ready(PATIENCE, |server| server.file("stderr").contains("ready for connections"));
        ready.await.ok().map(|()| process)
    }
}

/// A folder for its data, and one of its own for temporary tables: a server that starts removes all that it finds there, those of
/// other servers that run as well.
fn folders(data: &Path) -> [String; 2] {
    [format!("--datadir={}", data.join("data").display()), format!("--tmpdir={}", data.join("tmp").display())]
}

/// The server refuses to be root unless it is told to.
fn user() -> Option<&'static str> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    root.then_some("--user=root")
}
