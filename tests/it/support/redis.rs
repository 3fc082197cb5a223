//! Real Redis servers: a single one, a cluster, a master with Sentinels.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::port::free_port;
use super::process::Process;
use super::skip;
use super::store::{Program, START_TIMEOUT, Store};

/// Returns whether Redis is installed, and reports a skipped test if it is not.
pub(crate) fn redis_installed() -> bool {
    skip::installed("redis-server", on_path("redis-server") && on_path("redis-cli"))
}

/// Returns whether Sentinel is installed, and reports a skipped test if it is not.
pub(crate) fn sentinel_installed() -> bool {
    skip::installed("redis-sentinel", on_path("redis-sentinel") && on_path("redis-cli"))
}

/// Returns whether a program is installed.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).is_file())
}

pub(crate) type Redis = Store<RedisProgram>;

#[derive(Debug)]
pub(crate) struct RedisProgram;

impl Program for RedisProgram {
    const NAME: &'static str = "redis-server";

    fn command(port: u16, folder: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new("redis-server");
        let tls = arguments.iter().any(|argument| argument == "--tls-cert-file");
        let port = port.to_string();
        let ports = if tls { ["--port", "0", "--tls-port", &port] } else { ["--port", &port, "--tls-port", "0"] };
        command.args(ports).args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder).args(arguments);
        command
    }

    fn is_ready(process: &Process, _: u16) -> bool {
        process.file("stdout").contains("Ready to accept connections")
    }
}

impl Redis {
    /// Runs `redis-cli` and returns its output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port(), arguments)
    }
}

/// Runs `redis-cli` and returns its output.
pub(crate) fn cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments).output();
    let output = output.expect("redis-cli can be run");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Three masters and three replicas.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts six servers, joins them to a cluster, and waits until every replica is in sync.
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            nodes.push(Redis::start(&[&cluster[..], &["--repl-diskless-sync-delay", "0"]].concat()).await);
        }
        let addresses: Vec<String> = nodes.iter().map(Redis::address).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let create = [&["--cluster", "create"], &addresses[..], &["--cluster-replicas", "1", "--cluster-yes"]].concat();
        let output = cli(nodes[0].port(), &create);
        assert!(output.contains("All 16384 slots covered"), "{output}");
        let cluster = RedisCluster { nodes };
        eventually("the cluster is whole", || {
            let whole = |node: &Redis| node.cli(&["cluster", "info"]).contains("cluster_state:ok");
            let synced = |node: &&Redis| node.cli(&["info", "replication"]).contains("master_link_status:up");
            cluster.nodes.iter().all(whole) && cluster.nodes.iter().filter(synced).count() == 3
        })
        .await;
        cluster
    }

    /// Returns the address of a store with two of the nodes, so that the store must discover the
    /// others.
    pub(crate) fn url(&self) -> String {
        format!("redis+cluster://{},{}", self.nodes[0].address(), self.nodes[5].address())
    }

    /// Returns the port of the master of a key, according to `node`.
    pub(crate) fn master_of(&self, key: &str, node: &Redis) -> u16 {
        let slot: u32 = node.cli(&["cluster", "keyslot", key]).parse().expect("a slot");
        let nodes = node.cli(&["cluster", "nodes"]);
        for line in nodes.lines().filter(|line| line.contains("master") && !line.contains("fail")) {
            let words: Vec<&str> = line.split(' ').collect();
            let serves = words[8..].iter().any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let numbers = first.parse::<u32>().ok().zip(last.parse::<u32>().ok());
                numbers.is_some_and(|(first, last)| (first..=last).contains(&slot))
            });
            if serves {
                let address = words[1].split('@').next().expect("an address");
                return address.rsplit(':').next().expect("a port").parse().expect("a port");
            }
        }
        panic!("no master serves slot {slot}:\n{nodes}");
    }

    /// Returns the node at a port.
    pub(crate) fn node(&mut self, port: u16) -> &mut Redis {
        self.nodes.iter_mut().find(|node| node.port() == port).expect("a node of the cluster")
    }
}

/// A master called `kylin`, a replica, and three Sentinels.
#[derive(Debug)]
pub(crate) struct SentinelGroup {
    pub(crate) master: Redis,
    pub(crate) replica: Redis,
    sentinels: Vec<(Process, u16)>,
}

impl SentinelGroup {
    /// Starts all servers, and waits until the Sentinels know each other.
    pub(crate) async fn start() -> Self {
        let delay = ["--repl-diskless-sync-delay", "0"];
        let master = Redis::start(&delay).await;
        let of = ["--replicaof", "127.0.0.1", &master.port().to_string()].map(str::to_owned);
        let replica = Redis::start(&[&delay[..], &[&of[0], &of[1], &of[2]]].concat()).await;
        eventually("the replica follows", || replica.cli(&["info", "replication"]).contains("master_link_status:up"))
            .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Self::sentinel(master.port()).await);
        }
        eventually("the Sentinels know each other", || {
            sentinels.iter().all(|(_, port)| {
                let known = cli(*port, &["sentinel", "master", "kylin"]).replace('\n', " ");
                known.contains("num-other-sentinels 2") && known.contains("num-slaves 1")
            })
        })
        .await;
        SentinelGroup { master, replica, sentinels }
    }

    /// Returns the address of a store on the current master. The first Sentinel in it does not
    /// exist.
    pub(crate) fn url(&self) -> String {
        let sentinels: Vec<String> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://127.0.0.1:1,{}/kylin/3", sentinels.join(","))
    }

    async fn sentinel(master: u16) -> (Process, u16) {
        for _ in 0..5 {
            let port = free_port();
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor kylin 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds kylin 1000\nsentinel failover-timeout kylin 5000\n",
                folder.path().display()
            );
            std::fs::write(&file, text).expect("the configuration can be written");
            let mut command = Command::new("redis-sentinel");
            let mut process =
                Process::spawn("redis-sentinel", folder, command.arg(&file)).expect("redis-sentinel can be run");
            let ready = process.wait_ready(START_TIMEOUT, |_| cli(port, &["ping"]) == "PONG").await;
            if ready.is_ok() {
                return (process, port);
            }
        }
        panic!("redis-sentinel does not start");
    }
}

/// Returns a path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Waits until a condition holds.
///
/// # Panics
/// Panics if it does not within a minute.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + START_TIMEOUT;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
