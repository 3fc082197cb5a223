//! The front ends of the drills: the example as users run it, HAProxy and nginx.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::client::Login;
use crate::support::example;
use crate::support::nginx::Nginx;
use crate::support::port::free_port;
use crate::support::process::Process;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A front end with its settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
    pub(crate) login: Login,
    /// Whether it knows that the POST of a query may be repeated.
    pub(crate) knows_kylin: bool,
    /// Whether sessions outlive their node.
    pub(crate) keeps_logins: bool,
    /// Whether sessions stay with their node as long as it lives.
    pub(crate) binds: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {
    /// The example with these options in addition to `--nodes`.
    Example(&'static [&'static str]),
    /// The example with an nginx configuration that has these lines in its upstream.
    Config(&'static str),
    #[allow(dead_code, reason = "for benches/drills")]
    /// HAProxy with this balance, these lines in its backend, and a cookie for each server.
    HaProxy(&'static str),
    #[allow(dead_code, reason = "for benches/drills")]
    Nginx(&'static str),
}

const fn mode(name: &'static str, args: &'static [&'static str]) -> Mode {
    Mode {
        name,
        server: Server::Example(args),
        login: Login::Session,
        knows_kylin: true,
        keeps_logins: false,
        binds: true,
    }
}

const fn plain(mode: Mode) -> Mode {
    Mode { knows_kylin: false, ..mode }
}

const fn for_each_request(mode: Mode) -> Mode {
    Mode { login: Login::EachRequest, ..mode }
}

/// The modes of this crate's front end.
pub(crate) const MODES: [Mode; 11] = [
    mode("default", &[]),
    mode("cookie", &["--sessions", "cookie"]),
    mode("route", &["--sessions", "route"]),
    for_each_request(mode("user", &["--sessions", "user"])),
    for_each_request(mode("none", &["--sessions", "none"])),
    Mode { keeps_logins: true, ..mode("login relay", &["--sessions", "login-relay"]) },
    mode("ip-hash", &["--policy", "ip-hash"]),
    mode("round-robin", &["--policy", "round-robin"]),
    mode("outlier", &["--outlier", "on"]),
    plain(mode("plain", &["--kylin", "off"])),
    Mode { server: Server::Config("ip_hash;"), binds: false, ..plain(mode("nginx.conf", &[])) },
];

/// The peers to compare with.
#[allow(dead_code, reason = "for benches/drills")]
pub(crate) const PEERS: [Mode; 3] = [
    Mode {
        server: Server::HaProxy("cookie KYLIN_NODE insert indirect nocache"),
        ..plain(mode("HAProxy, cookie", &[]))
    },
    Mode {
        server: Server::HaProxy(
            "stick-table type string len 64 size 1m expire 30m\n stick store-response res.cook(JSESSIONID)\n \
             stick match req.cook(JSESSIONID)",
        ),
        ..plain(mode("HAProxy, table", &[]))
    },
    Mode { server: Server::Nginx("ip_hash;"), binds: false, ..plain(mode("nginx, ip_hash", &[])) },
];

/// A running front end.
pub(crate) struct FrontEnd {
    pub(crate) address: SocketAddr,
    _server: Running,
}

#[expect(dead_code, reason = "held while the front end runs")]
enum Running {
    Process(Process),
    Nginx(Nginx),
}

impl Mode {
    /// Starts the front end for these nodes, each with its name, which is its `jvmRoute`.
    pub(crate) async fn start(&self, nodes: &[(String, SocketAddr)]) -> FrontEnd {
        let named: Vec<_> = nodes.iter().map(|(name, address)| format!("{name}@{address}")).collect();
        match self.server {
            Server::Example(args) => FrontEnd::example(&[&["--nodes", &named.join(",")], args].concat()).await,
            Server::Config(upstream) => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("kylin.conf");
                let server = nginx_server(upstream, nodes, "127.0.0.1:8080");
                std::fs::write(&file, format!("events {{ }}\nhttp {{ {server} }}")).unwrap();
                FrontEnd::example(&["--config", file.to_str().unwrap()]).await
            }
            Server::HaProxy(sticky) => haproxy(sticky, nodes).await,
            Server::Nginx(upstream) => {
                let nginx = Nginx::start(&nginx_server(upstream, nodes, "127.0.0.1:@front@")).await;
                FrontEnd { address: nginx.address("front"), _server: Running::Nginx(nginx) }
            }
        }
    }
}

impl FrontEnd {
    /// Starts the example.
    pub(crate) async fn example(args: &[&str]) -> Self {
        let (process, address) = example::start(args).await;
        FrontEnd { address, _server: Running::Process(process) }
    }
}

fn nginx_server(upstream: &str, nodes: &[(String, SocketAddr)], listen: &str) -> String {
    let servers: String = nodes.iter().map(|(_, address)| format!("server {address}; ")).collect();
    format!(
        "upstream kylin {{ {upstream} {servers} keepalive 16; }}\n\
         server {{ listen {listen}; location / {{ proxy_pass http://kylin; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}"
    )
}

async fn haproxy(sticky: &str, nodes: &[(String, SocketAddr)]) -> FrontEnd {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let cookie = |name: &str| if sticky.starts_with("cookie") { format!(" cookie {name}") } else { String::new() };
    let servers: String =
        nodes.iter().map(|(name, address)| format!(" server {name} {address}{}\n", cookie(name))).collect();
    let text = format!(
        "global\n maxconn 4000\ndefaults\n mode http\n timeout connect 5s\n timeout client 600s\n timeout server 310s\n \
         option http-keep-alive\n option redispatch\n retries 3\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\n\
         backend b\n balance leastconn\n option httpchk GET /kylin/api/admin/version\n \
         default-server check inter 1s fall 2 rise 1\n {sticky}\n{servers}"
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut process = Process::spawn("haproxy", folder, &mut command).expect("haproxy can be run");
    let ready = process.wait_ready(START_TIMEOUT, |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    ready.await.unwrap_or_else(|error| panic!("{error}"));
    let address = (Ipv4Addr::LOCALHOST, port).into();
    FrontEnd { address, _server: Running::Process(process) }
}
