//! A real Apache httpd to compare with.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::port::free_port;
use super::process::Process;
use super::skip;

/// The maximum time for starting httpd, which usually takes 20 ms.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Ends the test early with a message if httpd is not installed; with `CI=true` the test fails.
macro_rules! require_httpd {
    () => {
        if !$crate::support::httpd::Httpd::required() {
            return;
        }
    };
}
pub(crate) use require_httpd;

/// The modules that the configurations of the tests need, and those that these modules need.
const MODULES: [&str; 24] = [
    "mpm_event",
    "authz_core",
    "authz_host",
    "access_compat",
    "authn_core",
    "alias",
    "deflate",
    "env",
    "filter",
    "macro",
    "headers",
    "setenvif",
    "remoteip",
    "reqtimeout",
    "rewrite",
    "socache_shmcb",
    "ssl",
    "slotmem_shm",
    "proxy",
    "proxy_http",
    "proxy_wstunnel",
    "proxy_balancer",
    "lbmethod_byrequests",
    "lbmethod_bybusyness",
];

/// A running httpd: one process, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Httpd {
    _process: Process,
    port: u16,
}

impl Httpd {
    /// Returns the program: `$HTTPD`, else Debian's, or one in the usual folders.
    fn program() -> Option<PathBuf> {
        if let Some(chosen) = std::env::var_os("HTTPD") {
            return Some(PathBuf::from(chosen)).filter(|path| path.is_file());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
        let folders = std::env::split_paths(&path).chain(system);
        folders.flat_map(|folder| ["apache2", "httpd"].map(|name| folder.join(name))).find(|file| file.is_file())
    }

    /// Returns the folder of its modules: `$HTTPD_MODULES`, else a usual one.
    fn modules() -> Option<PathBuf> {
        let chosen = std::env::var_os("HTTPD_MODULES").map(PathBuf::from);
        let usual =
            ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/local/apache2/modules"].map(PathBuf::from);
        chosen.into_iter().chain(usual).find(|folder| folder.join("mod_proxy_balancer.so").is_file())
    }

    /// Returns whether httpd and its modules are installed, and prints a message if they are not;
    /// see [`require_httpd`].
    pub(crate) fn required() -> bool {
        skip::installed("Apache httpd (apache2-bin)", Self::program().is_some() && Self::modules().is_some())
    }

    /// Starts httpd with a configuration, which the front end reads too, and waits until it accepts
    /// connections. `@port@` stands for its port.
    ///
    /// # Panics
    /// Panics if httpd does not start, and shows its log.
    pub(crate) async fn start(configuration: &str) -> Self {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::attempt(configuration).await {
                Ok(httpd) => return httpd,
                // Another process took the port before httpd bound it.
                Err(log) if attempts < 5 && log.contains("Address already in use") => {}
                Err(log) => panic!("{log}"),
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    async fn attempt(configuration: &str) -> Result<Self, String> {
        let program = Self::program().expect("httpd is installed: the test asks with require_httpd!()");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let text = Self::head(folder.path()) + &configuration.replace("@port@", &port.to_string());
        let file = folder.path().join("httpd.conf");
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(program);
        // One process, so that none remains when it is killed.
        command.arg("-X").arg("-d").arg(folder.path()).arg("-f").arg(&file);
        let mut process = Process::spawn("httpd", folder, &mut command).expect("httpd can be run");
        let mut taken = false;
        let started = process.wait_ready(START_TIMEOUT, |httpd| {
            taken = httpd.log().contains("Address already in use");
            // httpd writes its id after it has bound its sockets.
            let listens = httpd.file("httpd.pid").trim() == httpd.id().to_string();
            taken || listens && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        started.await.map_err(|failure| failure.to_string())?;
        if taken { Err(process.log()) } else { Ok(Self { _process: process, port }) }
    }

    /// Returns the text that precedes a configuration: modules, and files inside `folder`.
    fn head(folder: &Path) -> String {
        let modules = Self::modules().expect("the modules are installed");
        let files = MODULES.map(|name| (name, modules.join(format!("mod_{name}.so"))));
        // The others are built in.
        let shared = files.iter().filter(|(_, file)| file.is_file());
        let modules: String =
            shared.map(|(name, file)| format!("LoadModule {name}_module {}\n", file.display())).collect();
        let root = folder.metadata().expect("the folder is there").uid() == 0;
        // httpd refuses to serve as root.
        let user = if root { "User #65534\nGroup #65534\n" } else { "" };
        let folder = folder.display();
        format!(
            "{modules}{user}ServerName localhost\nPidFile {folder}/httpd.pid\nErrorLog {folder}/error.log\nDefaultRuntimeDir {folder}\n\
             ServerRoot {folder}\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n"
        )
    }
}
