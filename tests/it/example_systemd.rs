//! The example front end as a service of systemd that notifies it (`sd_notify(3)`), and the metrics
//! of its reloads.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use kylin_lb::testing::kylin::{KylinNode, Served};
use tempfile::TempDir;

use crate::support::example::{TIMEOUT, address, program, spawn_with};
use crate::support::front::demo;
use crate::support::http::get;
use crate::support::process::Process;

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Manager(socket)
    }

    /// Returns the next notification.
    fn notified(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer).expect("a notification");
        str::from_utf8(&buffer[..length]).unwrap().to_owned()
    }
}

async fn front(list: &str, manager: &str) -> Process {
    let args = ["--nodes-file", list, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    spawn_with(&args, |command| command.env("NOTIFY_SOCKET", manager)).await
}

async fn value(process: &Process, name: &str) -> f64 {
    let response = get(address(process, "metrics on http://"), "/metrics", &[]).await.unwrap();
    let line = response.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {name}: {}", response.text())).parse().unwrap()
}

async fn list(folder: &Path) -> (String, (KylinNode, Served)) {
    let node = demo("q1").await;
    let path = folder.join("nodes").to_str().unwrap().to_owned();
    std::fs::write(&path, format!("{}\n", node.1.addr())).unwrap();
    (path, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_learns_of_the_start_of_reloads_and_of_the_stop() {
    const SUCCESSFUL: &str = "kylin_front_config_last_reload_successful";
    const TIME: &str = "kylin_front_config_last_reload_success_timestamp_seconds";
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&socket).unwrap());
    let (list, _node) = list(folder.path()).await;
    let mut process = front(&list, socket.to_str().unwrap()).await;
    assert_eq!(manager.notified(), "READY=1");
    assert_eq!(value(&process, SUCCESSFUL).await, 1.0);
    let started = value(&process, TIME).await;
    let valid = std::fs::read(&list).unwrap();
    for (text, successful) in [(&b"no node\n"[..], 0.0), (&valid, 1.0)] {
        std::fs::write(&list, text).unwrap();
        process.signal("HUP");
        let reloading = manager.notified();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
        assert!(matches!(time, Some(Ok(1..))), "{reloading}");
        assert_eq!(manager.notified(), "READY=1");
        assert_eq!(value(&process, SUCCESSFUL).await, successful, "{}", process.log());
    }
    assert!(started > 1.7e9 && value(&process, TIME).await >= started);
    process.signal("TERM");
    assert_eq!(manager.notified(), "STOPPING=1");
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_with_an_abstract_socket_is_notified_and_one_that_is_not_there_stops_nothing() {
    let folder = TempDir::new().unwrap();
    let (list, _node) = list(folder.path()).await;
    // The name of the folder is a free one.
    let name = folder.path().to_str().unwrap().to_owned();
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let process = front(&list, &format!("@{name}")).await;
    assert_eq!(manager.notified(), "READY=1");
    drop((process, manager));
    let mut process = front(&list, &format!("@{name}")).await;
    let warned = |process: &Process| process.file("stderr").contains("the service manager cannot be notified");
    process.wait_ready(TIMEOUT, warned).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(get(address(&process, "listening on http://"), "/demo/x", &[]).await.unwrap().status(), 404);
}

#[test]
fn a_front_end_that_does_not_start_is_never_ready() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&socket).unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut command = std::process::Command::new(program());
    let output = command.args(["--nodes=127.0.0.1:1", "--listen", &listen]).env("NOTIFY_SOCKET", &socket).output();
    assert!(!output.unwrap().status.success());
    manager.0.set_nonblocking(true).unwrap();
    assert!(manager.0.recv(&mut [0; 16]).is_err());
}
