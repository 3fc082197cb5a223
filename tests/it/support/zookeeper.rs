//! A real ZooKeeper, and nodes that register in it like Kylin.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::port::free_port;
use super::process::Process;
use super::skip;

/// The time limit for starting ZooKeeper. It takes a second, and longer if many tests start one.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The path of Debian's package.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// Skips the test with a message if ZooKeeper or Java is not installed. With `CI=true` that is a
/// failure.
macro_rules! require_zookeeper {
    () => {
        if !$crate::support::zookeeper::required() {
            return;
        }
    };
}
pub(crate) use require_zookeeper;

pub(crate) fn required() -> bool {
    let java = Command::new("java").arg("-version").output().is_ok_and(|run| run.status.success());
    skip::installed("zookeeper with java", java && Path::new(JAR).is_file())
}

/// A running ZooKeeper process, killed on drop.
#[derive(Debug)]
pub(crate) struct ZooKeeperServer {
    process: Option<Process>,
    data: TempDir,
    port: u16,
}

impl ZooKeeperServer {
    /// Starts one and waits until it serves.
    pub(crate) async fn start() -> Self {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut server = Self { process: None, data: tempfile::tempdir().unwrap(), port: free_port() };
            match server.run().await {
                Ok(()) => return server,
                // Another process took the port before the server bound it.
                Err(log) if attempts < 5 && log.contains("BindException") => {}
                Err(log) => panic!("{log}"),
            }
        }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the server. Its data stays.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// Deletes the data of the killed server.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none(), "the server was killed");
        self.data = tempfile::tempdir().unwrap();
    }

    /// Starts the killed server again at its address.
    pub(crate) async fn restart(&mut self) {
        self.run().await.unwrap_or_else(|log| panic!("{log}"));
    }

    /// Creates a client with a session as long as Kylin's. Its ephemeral znodes disappear when it
    /// is dropped.
    pub(crate) async fn client(&self) -> Client {
        self.connect(Client::connector().with_session_timeout(Duration::from_secs(120))).await
    }

    /// Creates a client whose session ends a second after it is dropped, like that of a killed
    /// process.
    pub(crate) async fn mortal_client(&self) -> Client {
        self.connect(Client::connector().with_session_timeout(Duration::from_secs(1)).with_detached()).await
    }

    pub(crate) async fn connect(&self, connector: zookeeper_client::Connector) -> Client {
        let connected = tokio::time::timeout(START_TIMEOUT, connector.connect(&self.address())).await;
        connected.expect("ZooKeeper responds").expect("ZooKeeper accepts clients")
    }

    async fn run(&mut self) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let (port, data) = (self.port, self.data.path().display());
        let configuration = format!(
            "tickTime=200\nminSessionTimeout=400\nmaxSessionTimeout=300000\ndataDir={data}\nclientPort={port}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n"
        );
        let file = folder.path().join("zoo.cfg");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("java");
        // Options for a small heap and a quick start; the data need not survive a power failure.
        command.args(["-Xmx96m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no"]);
        command.args(["-cp", &format!("/etc/zookeeper/conf_example:{JAR}")]);
        command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(&file);
        let mut process = Process::spawn("zookeeper", folder, &mut command).expect("java can be run");
        process.wait_ready(START_TIMEOUT, |_| serves(port)).await.map_err(|failure| failure.to_string())?;
        self.process = Some(process);
        Ok(())
    }
}

/// Returns whether the server reports that it serves. An open port is not enough.
fn serves(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"srvr")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    ask().is_ok_and(|reply| reply.contains("Mode:"))
}

/// Creates an ephemeral znode and its parents.
pub(crate) async fn create(client: &Client, path: &str, data: &[u8]) {
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    create_parent(client, path.rsplit_once('/').unwrap().0).await;
    client.create(path, data, &options).await.unwrap();
}

/// Creates a persistent znode, if it does not exist.
pub(crate) async fn create_parent(client: &Client, path: &str) {
    match client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await {
        Ok(()) | Err(Error::NodeExists) => {}
        Err(error) => panic!("{path}: {error}"),
    }
}

/// Returns the registration of Kylin 3.1 and 4.0, as the serializer of Curator 2.12 writes it.
pub(crate) fn kylin_3_1(address: &str, mode: &str) -> Value {
    let (host, port) = address.rsplit_once(':').unwrap();
    json!({"name": "cluster_servers", "id": "an-id", "address": host, "port": port.parse::<u16>().unwrap(),
        "sslPort": null, "payload": {"description": mode}, "registrationTimeUTC": 1_600_000_000_000_i64,
        "serviceType": "DYNAMIC", "uriSpec": null, "enabled": true})
}

/// Returns the registration of Kylin 3.0.2, which has the address in the description.
pub(crate) fn kylin_3_0(address: &str, mode: &str) -> Value {
    json!({"name": "kylin", "id": "an-id", "address": "10.255.255.255", "port": null, "sslPort": null,
        "payload": {"description": format!("{address}:{mode}")}, "registrationTimeUTC": 1_600_000_000_000_i64,
        "serviceType": "DYNAMIC", "uriSpec": null})
}

/// Returns the registration of Kylin 5, as Spring Cloud Zookeeper writes it.
pub(crate) fn kylin_5(address: &str, service: &str, status: &str) -> Value {
    let (host, port) = address.rsplit_once(':').unwrap();
    json!({"name": service, "id": "an-id", "address": host, "port": port.parse::<u16>().unwrap(), "sslPort": null,
        "payload": {"@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance", "id": "application-1",
            "name": service, "metadata": {"instance_status": status}},
        "registrationTimeUTC": 1, "serviceType": "DYNAMIC",
        "uriSpec": {"parts": [{"value": "scheme", "variable": true}, {"value": "://", "variable": false},
            {"value": "address", "variable": true}, {"value": ":", "variable": false}, {"value": "port", "variable": true}]}})
}
