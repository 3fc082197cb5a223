//! The node and the compared front ends, each on one core with one thread and without logs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::child::{OTHER_CORE, Process, Usage, free_port, front_cores};
use super::load::{self, Case, Clients, LOGIN};

/// An nginx with fixed responses, at two addresses that represent two nodes.
pub struct Node {
    pub addresses: [SocketAddr; 2],
    _process: Process,
    _folder: TempDir,
}

pub struct Peer {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Whether the peer is compared only in the query case.
    sticky: bool,
    scheme: &'static str,
    pub clients: Clients,
    process: Process,
    _folder: TempDir,
}

impl Peer {
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }

    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Whether its clients keep sending the same SQL.
    pub fn repeats(&self) -> bool {
        !self.name.ends_with(" new")
    }

    pub fn takes(&self, case: Case) -> bool {
        match case {
            Case::Post => true,
            // Unlike a front end, a relay has a connection to the node for each client.
            Case::Idle => !self.sticky && self.name != "relay",
            _ => !self.sticky,
        }
    }

    /// Waits until the process has handled the connections that were just closed.
    pub fn settle(&self) {
        let mut last = self.usage().cpu;
        loop {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let now = self.usage().cpu;
            if now - last < std::time::Duration::from_millis(1) {
                return;
            }
            last = now;
        }
    }
}

/// Names the folder with the certificate of a front end that serves with TLS.
pub const TLS_FOLDER: &str = "KYLIN_LB_BENCH_TLS";

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Writes a configuration that keeps all of nginx's files in `folder`.
fn nginx_conf(folder: &Path, workers: usize, http: &str) -> PathBuf {
    let file = folder.join("nginx.conf");
    let master = if workers > 1 { "on" } else { "off" };
    let text = format!(
        "daemon off; master_process {master}; worker_processes {workers}; worker_rlimit_nofile 20000; pid nginx.pid; error_log nginx.log crit;
events {{ worker_connections 18000; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600; sendfile on; tcp_nodelay on;
    client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
    {http}
}}"
    );
    fs::write(&file, text).unwrap();
    file
}

fn nginx(workers: usize, folder: &Path, http: &str) -> Process {
    let conf = nginx_conf(folder, workers, http);
    let prefix = format!("{}/", folder.display());
    Process::start(
        front_cores(workers),
        "nginx",
        &["-p", &prefix, "-e", "stderr", "-c", conf.to_str().unwrap()],
        &[],
        folder,
    )
}

impl Node {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let addresses = [local(free_port()), local(free_port())];
        // A Kylin response of about 1.8 KB.
        let rows: Vec<String> =
            (0..24).map(|row| format!(r#"["2026-11-{row:02}","{}","some text in a cell"]"#, row * 7919)).collect();
        let json = format!(
            r#"{{"columnMetas":[{}],"results":[{}],"cube":"CUBE[name=kylin_sales_cube]","affectedRowCount":0,"isException":false,"exceptionMessage":null,"duration":123,"totalScanCount":0,"totalScanBytes":0,"hitExceptionCache":false,"storageCacheUsed":false,"traceUrl":null,"pushDown":false,"partial":false}}"#,
            r#"{"isNullable":1,"displaySize":256,"label":"C","name":"C","schemaName":null,"columnType":12,"columnTypeName":"VARCHAR"}"#,
            rows.join(",")
        );
        fs::create_dir_all(folder.path().join("kylin/js")).unwrap();
        fs::write(folder.path().join("kylin/js/page.js"), "x".repeat(8 << 10)).unwrap();
        fs::File::create(folder.path().join("1m")).unwrap().set_len(1 << 20).unwrap();
        fs::File::create(folder.path().join("1g")).unwrap().set_len(1 << 30).unwrap();
        let http = format!(
            "server {{ listen {}; listen {}; root {}; default_type application/json;
                location = {LOGIN} {{ add_header Set-Cookie JSESSIONID=$request_id; return 200 '{{}}'; }}
                location = /kylin/api/query {{ return 200 '{json}'; }}
                location = /kylin/api/admin/version {{ return 200 '{{\"kylin.version\":\"3.1.3\"}}'; }} }}",
            addresses[0],
            addresses[1],
            folder.path().display()
        );
        // nginx must run as a user that may read the files.
        let user = "user root;";
        let conf = nginx_conf(folder.path(), 1, &http);
        fs::write(&conf, format!("{user}\n{}", fs::read_to_string(&conf).unwrap())).unwrap();
        let prefix = format!("{}/", folder.path().display());
        let args = ["-p", &prefix, "-e", "stderr", "-c", conf.to_str().unwrap()];
        let mut process = Process::start(OTHER_CORE, "nginx", &args, &[], folder.path());
        process.ready(addresses[0], folder.path());
        Node { addresses, _process: process, _folder: folder }
    }
}

/// Starts the peers that are selected and installed.
pub fn start(node: &Node, threads: usize, wanted: impl Fn(&str) -> bool) -> Vec<Peer> {
    let [one, two] = node.addresses;
    let nginx_front_at = |method: &str, listen: &str| {
        format!(
            "upstream kylin {{ {method} server {one}; server {two}; keepalive 1024; keepalive_requests 1000000000; }}
             server {{ listen 127.0.0.1:{listen}; location / {{
                proxy_pass http://kylin; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
                proxy_set_header X-Forwarded-Host $http_host; proxy_max_temp_file_size 0; }} }}"
        )
    };
    let nginx_front = |method: &str, port: u16| nginx_front_at(method, &port.to_string());
    let haproxy_front = |sticky: &str, port: u16| {
        format!(
            "global\n nbthread {threads}\n maxconn 9000\ndefaults\n mode http\n timeout connect 5s\n timeout client 600s\n timeout server 310s
 timeout http-keep-alive 600s\n option http-keep-alive\n option forwardfor\n http-reuse always\nfrontend f\n bind 127.0.0.1:{port}
 http-request set-header X-Forwarded-Proto http\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n default_backend b
backend b\n balance leastconn\n {sticky}\n server n1 {one}\n server n2 {two}\n"
        )
    };
    let stick = "stick-table type string len 64 size 1m expire 30m\n stick on cookie(JSESSIONID)";
    let mut peers = Vec::new();
    let mut add = |name: &'static str, sticky: bool, start: &dyn Fn(u16, &Path) -> Option<Process>| {
        if !wanted(name) {
            return;
        }
        let folder = TempDir::new().unwrap();
        let port = free_port();
        match start(port, folder.path()) {
            Some(mut process) => {
                process.ready(local(port), folder.path());
                let scheme = if name.ends_with(" tls") { "https" } else { "http" };
                let clients = match name.ends_with(" logins") {
                    true => Clients::LoggedIn(load::log_in(local(port))),
                    false => Clients::WithCredentials,
                };
                peers.push(Peer { name, address: local(port), sticky, scheme, clients, process, _folder: folder });
            }
            None => eprintln!("{name}: not installed, left out"),
        }
    };
    let own_with = |kind: &str, env: &[(&str, &str)], port: u16, folder: &Path| {
        let this = std::env::current_exe().unwrap();
        let (listen, one, two) = (local(port).to_string(), one.to_string(), two.to_string());
        let args = ["--serve", kind, &listen, &threads.to_string(), &one, &two];
        Process::start(front_cores(threads), this.to_str().unwrap(), &args, env, folder)
    };
    let own = |kind: &str, preload: Option<PathBuf>, port: u16, folder: &Path| {
        let preload = preload.map(|library| library.display().to_string());
        let env: Vec<_> = preload.iter().map(|library| ("LD_PRELOAD", library.as_str())).collect();
        own_with(kind, &env, port, folder)
    };
    let haproxy = |sticky: &str, port: u16, folder: &Path| {
        installed("haproxy").then(|| {
            let conf = folder.join("haproxy.cfg");
            fs::write(&conf, haproxy_front(sticky, port)).unwrap();
            Process::start(front_cores(threads), "haproxy", &["-db", "-f", conf.to_str().unwrap()], &[], folder)
        })
    };
    let built = |binary: &str, port: u16, folder: &Path| {
        let target = std::env::var_os("PEERS_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/target"));
        let path = target.join("release").join(binary);
        let (listen, one) = (local(port).to_string(), one.to_string());
        path.exists().then(|| Process::start(front_cores(1), path.to_str().unwrap(), &[&listen, &one], &[], folder))
    };
    // The example, if it was built with the profile of this program or is named by FRONT.
    let front = |options: &[&str], port: u16, folder: &Path| {
        let built = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/kylin_front");
        let path = std::env::var_os("FRONT").map_or_else(built, PathBuf::from);
        let (listen, nodes, count) = (local(port).to_string(), format!("{one},{two}"), threads.to_string());
        let args = ["--nodes", &nodes, "--probe", "none", "--threads", &count, "--listen", &listen];
        let args = [&args[..], options].concat();
        path.exists().then(|| Process::start(front_cores(threads), path.to_str().unwrap(), &args, &[], folder))
    };
    add("relay", false, &|port, folder| Some(own("relay", None, port, folder)));
    add("nginx", false, &|port, folder| Some(nginx(threads, folder, &nginx_front("least_conn;", port))));
    add("haproxy", false, &|port, folder| haproxy("", port, folder));
    add("kylin-lb default", false, &|port, folder| Some(own("default", None, port, folder)));
    add("kylin-lb default new", true, &|port, folder| Some(own("default", None, port, folder)));
    add("kylin-lb", false, &|port, folder| Some(own("kylin-lb", None, port, folder)));
    add("kylin-lb bare", false, &|port, folder| Some(own("bare", None, port, folder)));
    add("kylin-lb nginx.conf", false, &|port, folder| Some(own("nginx", None, port, folder)));
    add("kylin-lb mimalloc", false, &|port, folder| {
        Some(own("kylin-lb", Some(library("libmimalloc.so.2")?), port, folder))
    });
    add("kylin-lb jemalloc", false, &|port, folder| {
        Some(own("kylin-lb", Some(library("libjemalloc.so.2")?), port, folder))
    });
    add("hyper-util client", false, &|port, folder| built("hyper_util_proxy", port, folder));
    add("pingora", false, &|port, folder| built("pingora_proxy", port, folder));
    let sticky = "hash $cookie_jsessionid consistent;";
    add("nginx sticky", true, &|port, folder| Some(nginx(threads, folder, &nginx_front(sticky, port))));
    add("haproxy sticky", true, &|port, folder| haproxy(stick, port, folder));
    add("kylin-lb affinity", true, &|port, folder| Some(own("query-affinity", None, port, folder)));
    if cfg!(feature = "login-relay") {
        add("kylin-lb relay", true, &|port, folder| Some(own("login-relay", None, port, folder)));
        add("kylin-lb relay logins", true, &|port, folder| Some(own("login-relay", None, port, folder)));
    }
    if cfg!(feature = "tls") {
        add("nginx tls", true, &|port, folder| {
            make_certificate(folder);
            let file = |name| folder.join(name).display().to_string();
            let (certificate, key) = (file("certificate.pem"), file("key.pem"));
            let listen =
                format!("{port} ssl; ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}");
            Some(nginx(threads, folder, &nginx_front_at(sticky, &listen)))
        });
        add("kylin-lb tls", true, &|port, folder| {
            make_certificate(folder);
            Some(own_with("default", &[(TLS_FOLDER, folder.to_str().unwrap())], port, folder))
        });
    }
    add("kylin-lb learned", true, &|port, folder| Some(own("learned", None, port, folder)));
    add("front", true, &|port, folder| front(&[], port, folder));
    add("front observed", true, &|port, folder| {
        let log = folder.join("access.log").display().to_string();
        front(&["--status", "127.0.0.1:0", "--access-log", &log], port, folder)
    });
    add("kylin-lb sticky", true, &|port, folder| Some(own("sticky", None, port, folder)));
    peers
}

/// Creates `certificate.pem` and `key.pem` in `folder`.
fn make_certificate(folder: &Path) {
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench -keyout key.pem -out certificate.pem";
    let output = Command::new("openssl").args(args.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// Returns the path of a shared library of Debian, for LD_PRELOAD.
fn library(name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.map(|folder| folder.join(name)).find(|path| path.exists())
}
