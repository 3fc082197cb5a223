//! A real nginx to compare with, or to put in front of the tested code or behind it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use regex::{Captures, Regex};
use tempfile::TempDir;

use super::port::free_port;
use super::process::Process;
use super::skip;

/// The maximum time for starting nginx, which usually takes 20 ms.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends the test early with a message if nginx is not installed; with `CI=true` the test fails.
macro_rules! require_nginx {
    () => {
        if !$crate::support::Nginx::required() {
            return;
        }
    };
}
pub(crate) use require_nginx;

/// A running nginx: one process, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    process: Process,
    ports: BTreeMap<String, u16>,
}

impl Nginx {
    /// Returns the program: `$NGINX`, else the one in `$PATH` or the usual folders.
    pub(crate) fn program() -> Option<PathBuf> {
        if let Some(chosen) = std::env::var_os("NGINX") {
            return Some(PathBuf::from(chosen)).filter(|path| path.is_file());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
        std::env::split_paths(&path).chain(system).map(|folder| folder.join("nginx")).find(|file| file.is_file())
    }

    /// Returns whether nginx is installed.
    pub(crate) fn available() -> bool {
        Self::program().is_some()
    }

    /// Returns [`Self::available`] and prints a message if it is not; see [`require_nginx`].
    pub(crate) fn required() -> bool {
        skip::installed("nginx", Self::available())
    }

    /// Starts nginx with `http` as the content of the `http` block, and waits until it accepts
    /// connections.
    ///
    /// `@name@` stands for a free port, one per name (see [`Self::address`]), and `@folder@` for
    /// the temporary folder. There is one process, which is master and worker.
    ///
    /// # Panics
    /// Panics if nginx does not start, and shows its log.
    pub(crate) async fn start(http: &str) -> Self {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::attempt(http).await {
                Ok(nginx) => return nginx,
                // Another process took a port before nginx bound it.
                Err(log) if attempts < 5 && log.contains("Address already in use") => {}
                Err(log) => panic!("{log}"),
            }
        }
    }

    /// Returns the address of the port called `name` in the configuration.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let port = self.ports.get(name).unwrap_or_else(|| panic!("the configuration names no port @{name}@"));
        SocketAddr::from((Ipv4Addr::LOCALHOST, *port))
    }

    /// Returns its folder, `@folder@` in the configuration, for files that are served.
    pub(crate) fn folder(&self) -> &Path {
        self.process.folder()
    }

    async fn attempt(http: &str) -> Result<Self, String> {
        let program = Self::program().expect("nginx is installed: the test asks with require_nginx!()");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (configuration, ports) = configuration(http, &folder);
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("the configuration can be written");

        let mut command = Command::new(program);
        // This crate has no other time zone.
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).env("TZ", "UTC");
        let mut process = Process::spawn("nginx", folder, &mut command).expect("nginx can be run");
        let mut taken = false;
        let started = process.wait_ready(START_TIMEOUT, |nginx| {
            // nginx would retry for seconds, but another process has the port.
            taken = nginx.file("error.log").contains("Address already in use");
            // nginx writes its id when all its sockets listen; before that another process might
            // respond.
            let listens = nginx.file("nginx.pid").trim() == nginx.id().to_string();
            taken || listens && ports.values().all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok())
        });
        started.await.map_err(|failure| failure.to_string())?;
        if taken { Err(process.log()) } else { Ok(Self { process, ports }) }
    }
}

/// Returns the whole configuration around `http`, with all files of nginx inside `folder`, and its
/// ports.
fn configuration(http: &str, folder: &TempDir) -> (String, BTreeMap<String, u16>) {
    let root = folder.path().metadata().expect("the folder is there").uid() == 0;
    let folder = folder.path().to_str().expect("temporary folders have plain names");
    let mut ports = BTreeMap::new();
    let placeholder = Regex::new("@([a-z][a-z0-9_]*)@").expect("a valid expression");
    let http = placeholder.replace_all(http, |found: &Captures<'_>| match &found[1] {
        "folder" => folder.to_owned(),
        name => ports.entry(name.to_owned()).or_insert_with(free_port).to_string(),
    });
    let user = if root { "user root;" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n")).concat();
    let text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\n{user}\npid {folder}/nginx.pid;\n\
         error_log {folder}/error.log warn;\nevents {{ worker_connections 1024; }}\n\
         http {{\n    access_log off;\n    default_type text/plain;\n{temporary}{http}\n}}\n"
    );
    (text, ports)
}
