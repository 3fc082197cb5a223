//! The options of the example front end, each one with its effect on the process.

use std::net::SocketAddr;

use kylin_lb::testing::kylin::{KylinNode, Mode, Served};
use serde_json::Value;

use crate::support::browser::Browser;
use crate::support::example::{TIMEOUT, address, check, run, spawn, start};
use crate::support::front::{closed_port, demo, eventually, until};
use crate::support::http;
use crate::support::raw_node::{RawNode, respond};
use crate::support::tls::{Certificate, openssl_installed};
use crate::support::zookeeper::{ZooKeeperServer, create, kylin_3_1, require_zookeeper};

/// Nodes in this process, and how to name them to another.
pub(crate) async fn nodes(count: usize) -> (Vec<(KylinNode, Served)>, String) {
    let mut nodes = Vec::new();
    for number in 1..=count {
        nodes.push(demo(&format!("n{number}")).await);
    }
    let named: Vec<_> = nodes.iter().map(|(node, served)| format!("{}@{}", node.name(), served.addr())).collect();
    (nodes, named.join(","))
}

fn queries(nodes: &[(KylinNode, Served)]) -> Vec<u64> {
    nodes.iter().map(|(node, _)| node.stats().queries).collect()
}

#[tokio::test]
async fn every_policy_serves_and_says_its_name() {
    let (_nodes, named) = nodes(3).await;
    for (policy, shown) in [
        ("round-robin", "RoundRobin"),
        ("least-conn", "LeastConn"),
        ("ip-hash", "IpHash"),
        ("random-two", "RandomTwo"),
        ("query-affinity", "QueryAffinity"),
    ] {
        let (process, front) = start(&["--nodes", &named, &format!("--policy={policy}"), "--probe=none"]).await;
        let stdout = process.file("stdout");
        assert!(stdout.contains(&format!("policy: {shown}")) || stdout.contains(shown), "{policy}: {stdout}");
        let mut browser = Browser::insistent(front, "ADMIN", "KYLIN");
        for _ in 0..4 {
            assert_eq!(browser.query().await.status(), 200, "{policy}");
        }
    }
}

#[tokio::test]
async fn query_affinity_sends_a_query_where_it_was_before() {
    let (nodes, named) = nodes(3).await;
    let (_process, front) = start(&["--nodes", &named, "--policy", "query-affinity", "--sessions", "none"]).await;
    for _ in 0..12 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    let mut queries = queries(&nodes);
    queries.sort_unstable();
    assert_eq!(queries, [0, 0, 12]);
}

/// The node that has the result gets at most a quarter more than its share of identical queries.
/// With single flight the limit is twice the share.
#[tokio::test]
async fn query_affinity_spreads_a_query_more_without_single_flight() {
    const MAX_SENT: u64 = 12;
    let (nodes, named) = nodes(4).await;
    let common = ["--nodes", &named, "--policy=query-affinity", "--sessions=none", "--probe=none"];
    let (_process, front) = start(&[&common[..], &["--single-flight=off"]].concat()).await;
    let query = sql("select sleep_ms(600000)");
    let mut clients = Vec::new();
    for sent in 1..=MAX_SENT {
        let mut client = http::Connection::open(front).await.unwrap();
        client.send(&query).await.unwrap();
        clients.push(client);
        let running = || nodes.iter().map(|(node, _)| node.stats().running).sum::<u64>();
        eventually(|| running() == sent, || format!("{} of {sent} run", running())).await;
    }
    let most = nodes.iter().map(|(node, _)| node.stats().running).max();
    assert_eq!(most, Some(4), "a quarter more than three, rounded up");
}

/// Returns a query of `ADMIN` in the form of HTTP/1.1.
fn sql(sql: &str) -> String {
    let body = format!("{{\"sql\":\"{sql}\",\"project\":\"learn_kylin\"}}");
    format!(
        "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn users_without_cookies_stay_with_a_node() {
    let (nodes, named) = nodes(3).await;
    let (_process, front) = start(&["--nodes", &named, "--policy", "round-robin", "--sessions", "user"]).await;
    for _ in 0..9 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    let mut queries = queries(&nodes);
    queries.sort_unstable();
    assert_eq!(queries, [0, 0, 9]);
}

#[tokio::test]
async fn a_node_of_role_job_gets_no_queries_unless_nothing_is_known_of_kylin() {
    let (nodes, named) = nodes(2).await;
    nodes[1].0.set_mode(Mode::Job);
    let named = format!("{named}=job");
    let (process, front) = start(&["--nodes", &named, "--policy=round-robin", "--sessions=none"]).await;
    for _ in 0..8 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    assert_eq!(queries(&nodes), [8, 0]);
    let stdout = process.file("stdout");
    let job = stdout.lines().find(|line| line.starts_with("n2 ")).unwrap();
    assert!(job.contains(" job "), "{stdout}");

    // Round robin asks both, and the node refuses.
    let (_process, front) = start(&["--nodes", &named, "--policy=round-robin", "--sessions=none", "--kylin=off"]).await;
    let mut refused = 0;
    for _ in 0..8 {
        refused += u32::from(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status() != 200);
    }
    assert_eq!(refused, 4);
}

/// `GET /front/status`.
async fn status(listen: SocketAddr) -> Value {
    let response = http::get(listen, "/front/status", &[]).await.unwrap();
    assert_eq!((response.status(), response.header("content-type")), (200, Some("application/json")));
    serde_json::from_slice(&response.body).unwrap()
}

/// The status, once it fulfils the condition.
async fn becomes(operators: SocketAddr, test: impl Fn(&Value) -> bool) -> Value {
    let mut told = Value::Null;
    until("the status", async || {
        told = status(operators).await;
        test(&told)
    })
    .await;
    told
}

fn endpoint(told: &Value, id: &str) -> Value {
    let endpoints = told["clusters"]["kylin"]["endpoints"].as_array().unwrap();
    endpoints.iter().find(|endpoint| endpoint["id"] == id).unwrap_or_else(|| panic!("{id} in {told}")).clone()
}

#[tokio::test]
async fn the_status_tells_of_probes_and_is_not_on_the_front() {
    let (_nodes, named) = nodes(1).await;
    let named = format!("{named},gone@{}", closed_port());
    for (probe, level) in [("auto", "version".into()), ("version", Value::Null), ("tcp", Value::Null)] {
        let args = ["--nodes", &named, "--probe", probe, "--status", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
        let process = spawn(&args).await;
        let operators = address(&process, "status on http://");
        let told = becomes(operators, |told| endpoint(told, "gone")["health"] == "unhealthy").await;
        assert_eq!(endpoint(&told, "n1")["health"], "healthy", "{probe}");
        assert_eq!(endpoint(&told, "n1")["probe_level"], level, "{probe}");
        assert_eq!(http::get(operators, "/", &[]).await.unwrap().status(), 404);
        let front = address(&process, "listening on http://");
        assert_ne!(http::get(front, "/front/status", &[]).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn the_outlier_rule_ejects_unless_it_is_off() {
    // nginx's rule ejects after one failure.
    for (option, least) in [("on", 3), ("off", 1)] {
        a_node_that_is_gone_is_ejected(&format!("--outlier={option}"), least).await;
    }
}

async fn a_node_that_is_gone_is_ejected(option: &str, least: u64) {
    let (_nodes, named) = nodes(2).await;
    let named = format!("{named},gone@{}", closed_port());
    let args = [
        "--nodes",
        &named,
        "--policy=round-robin",
        "--probe=none",
        option,
        "--status=127.0.0.1:0",
        "--listen=127.0.0.1:0",
    ];
    let process = spawn(&args).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
    let mut asked = 0;
    loop {
        assert_eq!(http::get(front, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200);
        asked += 1;
        let told = status(operators).await;
        if endpoint(&told, "gone")["health"] == "ejected" {
            let failed = endpoint(&told, "gone")["failed"].as_u64().unwrap();
            assert!(failed >= least && (failed == 1 || least > 1), "{option}: {told}");
            break;
        }
        assert!(asked < 200, "{told}");
    }
}

#[tokio::test]
async fn nodes_that_register_in_zookeeper_are_found() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let (nodes, _) = nodes(2).await;
    let client = server.client().await;
    for (node, served) in &nodes {
        let path = format!("/kylin/test/service/cluster_servers/{}", node.name());
        create(&client, &path, kylin_3_1(&served.addr().to_string(), "all").to_string().as_bytes()).await;
    }
    let place = format!("{}/kylin/test", server.address());
    let (process, front) = start(&["--zookeeper", &place, "--sessions", "none", "--policy", "round-robin"]).await;
    for _ in 0..4 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    assert_eq!(queries(&nodes), [2, 2], "{}", process.file("stdout"));
    let said = check(&["--zookeeper", &place]);
    assert!(said.contains(&nodes[0].1.addr().to_string()), "{said}");
}

#[tokio::test]
async fn nodes_that_kylins_properties_name_are_followed() {
    let (nodes, _) = nodes(3).await;
    let addresses: Vec<_> = nodes.iter().map(|(_, served)| served.addr().to_string()).collect();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("kylin.properties");
    let write = |servers: &[String]| {
        let url = "kylin_metadata@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=hunter2";
        let text = format!("kylin.metadata.url={url}\nkylin.server.cluster-servers={}\n", servers.join(","));
        std::fs::write(&file, text).unwrap();
    };
    write(&addresses[..2]);
    let file = file.to_str().unwrap();
    let args = ["--properties", file, "--sessions=none", "--policy=round-robin", "--status=127.0.0.1:0"];
    let (process, front) = start(&args).await;
    let operators = address(&process, "status on http://");
    for _ in 0..4 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    assert_eq!(queries(&nodes), [2, 2, 0]);

    write(&addresses[1..]);
    let ids = |told: &Value| -> Vec<String> {
        let endpoints = told["clusters"]["kylin"]["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["id"].as_str().unwrap().to_owned()).collect()
    };
    let told = becomes(operators, |told| ids(told) == addresses[1..]).await;
    assert_eq!(told["discovery"]["nodes"]["failures"], 0, "{told}");
    let printed = check(&["--properties", file]) + &process.log();
    assert!(printed.contains(&addresses[2]) && !printed.contains("hunter2"), "{printed}");
}

/// The file of the KAP manual for these nodes, with `inside` in its upstream.
fn manual(folder: &tempfile::TempDir, nodes: &[(KylinNode, Served)], inside: &str) -> String {
    let servers: String = nodes.iter().map(|(_, served)| format!("    server {};\n", served.addr())).collect();
    let text = format!(
        "upstream kylin {{\n{inside}{servers}}}\nserver {{\n    listen 8080;\n    location / {{ proxy_pass http://kylin; }}\n}}\n"
    );
    let file = folder.path().join("kylin.conf");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Returns how many of eight queries after a login were not served.
async fn lost(front: SocketAddr) -> usize {
    let mut browser = Browser::new(front);
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    let mut lost = 0;
    for _ in 0..8 {
        lost += usize::from(browser.query().await.status() != 200);
    }
    lost
}

#[tokio::test]
async fn a_configuration_keeps_logins_unless_an_option_or_a_comment_says_otherwise() {
    let (nodes, _) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    for (inside, options, kept) in [
        ("", &[][..], true),
        ("", &["--kylin=off"], true),
        ("", &["--sessions=none", "--kylin=off"], false),
        ("# kylin_lb: sessions none; kylin off;\n", &[], false),
        ("# kylin_lb: sessions cookie;\n", &["--sessions=none", "--kylin=off"], true),
        ("", &["--sessions=cookie", "--kylin=off"], true),
        ("", &["--sessions=login-relay"], true),
        ("ip_hash;\n", &["--kylin=off"], true),
    ] {
        let file = manual(&folder, &nodes, inside);
        let (_process, front) = start(&[&["--config", &file][..], options].concat()).await;
        assert_eq!(lost(front).await == 0, kept, "{inside} {options:?}");
        let guarded = http::get(front, "/kylin/api/cache/x", &[]).await.unwrap().status() == 403;
        let is_off = options.contains(&"--kylin=off") || inside.contains("kylin off");
        assert_eq!(guarded, !is_off, "{inside} {options:?}");
    }
}

#[tokio::test]
async fn options_work_beside_a_configuration_of_httpd() {
    let (nodes, _) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let members: String =
        nodes.iter().map(|(_, served)| format!("BalancerMember http://{}\n", served.addr())).collect();
    let text =
        format!("Listen 127.0.0.1:1\n<Proxy balancer://kylin>\n{members}</Proxy>\nProxyPass / balancer://kylin/\n");
    let file = folder.path().join("httpd.conf");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for (options, kept, guarded) in [
        (&[][..], true, true),
        (&["--kylin=off"], true, false),
        (&["--sessions=none", "--kylin=off"], false, false),
        (&["--sessions=cookie", "--kylin=off"], true, false),
        (&["--policy=ip-hash", "--sessions=none", "--kylin=off"], true, false),
    ] {
        let (_process, front) = start(&[&["--httpd", file][..], options].concat()).await;
        assert_eq!(lost(front).await == 0, kept, "{options:?}");
        let is_guarded = http::get(front, "/kylin/api/cache/x", &[]).await.unwrap().status() == 403;
        assert_eq!(is_guarded, guarded, "{options:?}");
    }
    let shown = check(&["--httpd", file, "--policy=query-affinity", "--probe=tcp", "--outlier=off"]);
    for line in ["balancer://kylin: query-affinity (an option)", "  probe      tcp"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    for options in [["--httpd", file, "--config", file], ["--httpd", file, "--trust", "10.0.0.0/8"]] {
        let error = refused(&options);
        assert!(error.contains("exclude each other"), "{error}");
    }
}

#[tokio::test]
async fn policy_probe_outlier_and_panic_work_beside_a_configuration() {
    let (nodes, _) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = manual(&folder, &nodes, "");
    let shown = check(&["--config", &file]);
    for line in ["  kylin      on (location / of server", "  probe      auto (default)", "  policy     default"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let options = ["--policy=query-affinity", "--probe=none", "--outlier=off", "--panic=off", "--sessions=none"];
    let shown = check(&[&["--config", &file][..], &options].concat());
    for line in [
        "upstream kylin: query-affinity",
        "  sessions   not kept (option)",
        "  probe      none (option)",
        "  outlier    off (option)",
        "  panic      off (option)",
        "max_fails 1 in 10s",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let (_process, front) = start(&[&["--config", &file][..], &options].concat()).await;
    for _ in 0..6 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    let mut queries = queries(&nodes);
    queries.sort_unstable();
    assert_eq!(queries, [0, 6], "one query, one node");

    let file = manual(&folder, &nodes, "# kylin_lb: probe version;\n");
    let process = spawn(&["--config", &file, "--listen=127.0.0.1:0", "--probe=tcp", "--status=127.0.0.1:0"]).await;
    let before = nodes[0].0.stats().requests;
    nodes[0].0.wait_until(|stats| stats.requests > before).await.unwrap();
    let told = status(address(&process, "status on http://")).await;
    assert!(told["session_stores"]["sessions"]["available"] == true, "{told}");
}

#[tokio::test]
async fn nodes_have_the_settings_of_a_configuration() {
    let (nodes, named) = nodes(2).await;
    let named: Vec<_> = named.split(',').collect();
    let weighted = format!("{} weight=3, {} max_conns=7 max_fails=2 fail_timeout=30s", named[0], named[1]);
    // As in nginx, zero is no limit, and turns the other two off.
    let zeros = format!("{} max_conns=0 fail_timeout=0 slow_start=0, {}", named[0], named[1]);
    let process = spawn(&["--nodes", &zeros, "--max-conns=9", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"]).await;
    let told = status(address(&process, "status on http://")).await;
    let limits = ["n1", "n2"].map(|id| endpoint(&told, id)["max_in_flight"].as_u64());
    assert_eq!(limits, [None, Some(9)]);
    let args = ["--nodes", &weighted, "--policy=round-robin", "--sessions=none", "--max-conns=9", "--probe=none"];
    let args = [&args[..], &["--status=127.0.0.1:0", "--listen=127.0.0.1:0"]].concat();
    let process = spawn(&args).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
    for _ in 0..8 {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
    assert_eq!(queries(&nodes), [6, 2]);
    let told = status(operators).await;
    let of = |id: &str| (endpoint(&told, id)["weight"].as_u64(), endpoint(&told, id)["max_in_flight"].as_u64());
    assert_eq!((of("n1"), of("n2")), ((Some(3), Some(9)), (Some(1), Some(7))));

    // A backup serves only if no primary can.
    let backup = format!("gone@{}, {} backup", closed_port(), named[0]);
    let (_process, front) = start(&["--nodes", &backup, "--sessions=none"]).await;
    assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    let (_process, front) = start(&["--nodes", &format!("{} down", named[0]), "--probe=none"]).await;
    assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 503);
}

#[tokio::test]
async fn credentials_in_the_list_of_nodes_are_neither_shown_nor_kept() {
    let (nodes, _) = nodes(1).await;
    let node = nodes[0].1.addr().to_string();
    let named = format!("ADMIN:hunter2@{node}");
    let args = ["--nodes", &named, "--sessions=none", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
    // No login unless the client sends one.
    assert_eq!(http::get(front, "/kylin/api/projects", &[]).await.unwrap().status(), 401);
    assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    let told = status(operators).await;
    assert_eq!(endpoint(&told, &node)["admin_state"], "ready");
    for said in [check(&args[..2]), process.log(), told.to_string()] {
        assert!(said.contains(&node) && !said.contains("hunter2") && !said.contains("ADMIN"), "{said}");
    }
}

#[test]
fn a_check_without_nodes_fails() {
    let folder = tempfile::TempDir::new().unwrap();
    let (empty, gone) = (folder.path().join("nodes"), folder.path().join("gone"));
    std::fs::write(&empty, "# none yet\n").unwrap();
    for (file, why) in [
        (
            empty,
            "nodes: no node is listed; a line is HOST:PORT and settings, such as 10.0.0.1:7070 role=query weight=2",
        ),
        (gone, "No such file"),
    ] {
        let error = refused(&["--nodes-file", file.to_str().unwrap()]);
        assert!(error.contains("there are no nodes: ") && error.contains(why), "{error}");
    }
}

#[test]
fn a_check_says_where_a_log_cannot_be_written_and_makes_no_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let missing = path("none/log");
    for option in ["--access-log", "--query-log"] {
        let error = refused(&["--nodes=127.0.0.1:1", option, &missing]);
        assert_eq!(error, format!("kylin_front: {option}: {missing}: No such file or directory (os error 2)\n"));
        let error = refused(&["--nodes=127.0.0.1:1", option, &path("")]);
        assert!(error.contains(&format!("{option}: ")) && error.contains("Is a directory"), "{error}");
    }
    let text = "# logs\nserver { listen 81;\naccess_log none/log;\nlocation / { proxy_pass http://127.0.0.1:1; } }";
    let config = path("kylin.conf");
    std::fs::write(&config, text).unwrap();
    // A front end that starts serves without it.
    let note =
        format!("note: {config}:3: access_log: {missing}: No such file or directory (os error 2): requests are served");
    let noted = check(&["--config", &config]);
    assert!(noted.contains(&note), "{noted}");

    std::fs::write(&config, text.replace("none/", "")).unwrap();
    let noted = check(&["--config", &config, "--access-log", &path("access"), "--query-log", &path("queries")]);
    assert!(!noted.contains("access_log: "), "{noted}");
    for log in ["log", "access", "queries"] {
        assert!(!folder.path().join(log).exists(), "{log}");
    }
}

#[test]
fn properties_with_remarks_in_gbk_are_read_and_those_that_name_localhost_alone_cannot_serve() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("kylin.properties").to_str().unwrap().to_owned();
    // "Nodes" in GBK.
    let remark = b"# \xbd\xda\xb5\xe3\n! \xbd\xda\nkylin.server.mode=all\n";
    let list = |hosts: &str| [&remark[..], format!("kylin.server.cluster-servers={hosts}\n").as_bytes()].concat();
    std::fs::write(&path, list("kylin1:7070,kylin2:7070")).unwrap();
    check(&["--properties", &path, "--sessions=none"]);
    std::fs::write(&path, list("localhost:7070")).unwrap();
    let output = run(&["--properties", &path, "--sessions=none", "--check"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("names localhost alone"), "{error}");
}

#[test]
fn two_logs_in_one_file_are_an_error() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::os::unix::fs::symlink(folder.path(), path("link")).unwrap();
    let to_stdout = |other: &str| ("-".to_owned(), other.to_owned());
    let links = (path("log"), path("link/log"));
    for (access, query) in [(path("log"), path("log")), links, to_stdout("-"), to_stdout("/dev/stdout")] {
        let why = format!(
            "kylin_front: --access-log {access} and --query-log {query} are one file: their lines have two formats\n"
        );
        for more in [&["--check"][..], &[]] {
            let output =
                run(&[&["--nodes=127.0.0.1:1", "--access-log", &access, "--query-log", &query], more].concat());
            assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(1), why.as_str().into()));
        }
    }
    assert!(!folder.path().join("log").exists());
    let config = path("kylin.conf");
    std::fs::write(&config, "server { listen 81; access_log log; location / { proxy_pass http://127.0.0.1:1; } }")
        .unwrap();
    for more in [&["--check"][..], &[]] {
        let output = run(&[&["--config", &config, "--query-log", &path("link/log")], more].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains("kylin.conf:1: access_log "), "{error}");
        assert!(error.contains(" and --query-log ") && error.contains(" are one file"), "{error}");
    }
    check(&["--nodes=127.0.0.1:1", "--access-log", "/dev/null", "--query-log", "/dev/null"]);
}

#[tokio::test]
async fn a_client_has_as_many_requests_in_flight_as_the_option_says() {
    const SLOW: &str = r#"{"sql":"select sleep_ms(600000)","project":"learn_kylin"}"#;
    let (nodes, named) = nodes(1).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = manual(&folder, &nodes, "");
    for source in [["--nodes", &*named], ["--config", &file]] {
        for (option, expected) in [("=1", 429), ("=2", 200), ("=none", 200)] {
            nodes[0].0.wait_until(|stats| stats.in_flight == 0).await.unwrap();
            let option = format!("--client-requests{option}");
            let (_process, front) = start(&[&source[..], &[&option, "--probe=none"]].concat()).await;
            let slow = tokio::spawn(async move {
                Browser::insistent(front, "ADMIN", "KYLIN").ask("POST /kylin/api/query", &[], SLOW).await
            });
            nodes[0].0.wait_until(|stats| stats.in_flight == 1).await.unwrap();
            let second = Browser::insistent(front, "ADMIN", "KYLIN").get("/kylin/api/projects").await;
            assert_eq!(second.status(), expected, "{source:?} {option}");
            slow.abort();
        }
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_response_if_the_option_is_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (nodes, named) = nodes(1).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = manual(&folder, &nodes, "");
    for source in [["--nodes", &*named], ["--config", &file]] {
        for (option, sleep, expected) in
            [("--half-close=on", 300, "HTTP/1.1 200 OK"), ("--half-close=off", 600_000, "")]
        {
            let (_process, front) = start(&[&source[..], &[option, "--probe=none"]].concat()).await;
            let body = format!(r#"{{"sql":"select sleep_ms({sleep})","project":"learn_kylin"}}"#);
            let request = format!(
                "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut client = tokio::net::TcpStream::connect(front).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut received = String::new();
            client.read_to_string(&mut received).await.unwrap();
            assert_eq!(received.split("\r\n").next(), Some(expected), "{source:?} {option}: {received}");
        }
    }
}

#[tokio::test]
async fn a_node_that_is_listed_as_drained_gets_no_new_clients() {
    let (nodes, named) = nodes(2).await;
    let named = format!("{named} drain");
    let args = ["--nodes", &named, "--policy=round-robin", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    let told = status(address(&process, "status on http://")).await;
    assert_eq!(endpoint(&told, "n2")["admin_state"], "drain", "{told}");
    for _ in 0..6 {
        let mut browser = Browser::new(address(&process, "listening on http://"));
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        assert_eq!(browser.query().await.status(), 200);
    }
    assert_eq!(queries(&nodes), [6, 0]);
}

#[tokio::test]
async fn a_node_that_takes_longer_than_its_time_is_a_504() {
    let (nodes, named) = nodes(1).await;
    nodes[0].0.faults().set_query_latency(TIMEOUT * 2);
    for args in [
        &["--nodes", &format!("{named} read_timeout=100ms"), "--read-timeout=1h"][..],
        &["--nodes", &named, "--read-timeout=100ms"],
    ] {
        let (_process, front) = start(args).await;
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 504, "{args:?}");
    }
}

#[tokio::test]
async fn a_proxy_in_front_that_is_not_trusted_is_named_once() {
    let (nodes, named) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = manual(&folder, &nodes, "");
    for source in [["--nodes", &named], ["--config", &file]] {
        let (process, front) = start(&[&source[..], &["--probe=none"]].concat()).await;
        let ask = async |headers: &[(&str, &str)]| http::get(front, "/kylin/api/admin/version", headers).await.unwrap();
        assert_eq!(ask(&[]).await.status(), 200);
        assert!(!process.file("stderr").contains("not a trusted proxy"));
        for _ in 0..3 {
            ask(&[("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "192.0.2.1")]).await;
        }
        let log = process.file("stderr");
        assert_eq!(log.matches("not a trusted proxy").count(), 1, "{log}");
        assert!(log.contains("--trust") && log.contains("set_real_ip_from"), "{log}");
    }
}

#[tokio::test]
async fn a_node_that_offers_ntlm_is_named_once() {
    use crate::support::raw_node::{Act, RawNode};
    let offer = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    let node = RawNode::start(vec![vec![Act::Serve(offer.to_vec())]; 3]).await;
    let (process, front) = start(&["--nodes", &node.address().to_string(), "--probe=none"]).await;
    for _ in 0..3 {
        let response = http::get(front, "/kylin/api/projects", &[]).await.unwrap();
        assert_eq!((response.status(), response.header("www-authenticate")), (401, Some("NTLM")));
    }
    let log = process.file("stderr");
    assert_eq!(log.matches("a node offers NTLM, which cannot work").count(), 1, "{log}");
}

#[tokio::test]
async fn the_status_tells_of_clocks_that_differ_and_of_logins_that_no_node_can_check() {
    use crate::support::raw_node::{Act, RawNode};
    use kylin_lb::testing::kylin::Dialect;
    let dated = |day: u32| {
        let body = r#"{"kylin.version":"3.1.3"}"#;
        let head = format!("Date: Thu, {day:02} Jan 2026 00:00:00 GMT\r\nContent-Length: {}", body.len());
        vec![vec![Act::Serve(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes())]; 3]
    };
    let (one, two) = (RawNode::start(dated(1)).await, RawNode::start(dated(2)).await);
    let named = format!("{},{}", one.address(), two.address());
    let args = ["--nodes", &named, "--probe=version", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    let told =
        becomes(address(&process, "status on http://"), |told| !told["clusters"]["kylin"]["clock_skew_s"].is_null());
    let told = told.await["clusters"]["kylin"].clone();
    let skew = told["clock_skew_s"].as_u64().unwrap();
    assert!((86_390..86_410).contains(&skew) && told["clocks_agree"] == false, "{told}");
    until("the line in the log", async || process.file("stderr").contains("clocks of the nodes differ")).await;
    assert_eq!(process.file("stderr").matches("clocks of the nodes differ").count(), 1);

    let node = KylinNode::new("n1").kylin_version(Dialect::V5_0);
    let served = node.serve(closed_port()).await.unwrap();
    let named = served.addr().to_string();
    let process = spawn(&["--nodes", &named, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"]).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
    for is_down in [false, true, false] {
        node.faults().set_user_source_down(is_down);
        let status = Browser::new(front).log_in("ADMIN", "KYLIN").await.status();
        assert_eq!(status, if is_down { 500 } else { 200 });
        let told = self::status(operators).await;
        assert_eq!(told["clusters"]["kylin"]["user_source_unreachable_for_s"].is_u64(), is_down, "{told}");
    }
    let log = process.file("stderr");
    assert_eq!(log.matches("user source is unreachable").count(), 1, "{log}");
}

#[tokio::test]
async fn a_project_is_served_by_its_resource_group_also_after_the_file_has_changed() {
    let (nodes, named) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("groups.json");
    let write =
        |node: usize| std::fs::write(&file, crate::resource_groups::relation(&[(nodes[node].1.addr(), "learn_kylin")]));
    write(1).unwrap();
    let option = format!("--resource-groups={}", file.display());
    let comment = manual(&folder, &nodes, "# kylin_lb: resource_groups groups.json;\n");
    let said = format!("learn_kylin: queries at g0 ({})", nodes[1].1.addr());
    for source in [&["--nodes", &named, &option][..], &["--config", &comment]] {
        let shown = check(source);
        assert!(shown.contains(&said), "{shown}");
        let before = queries(&nodes);
        let (_process, front) = start(&[source, &["--policy=round-robin"]].concat()).await;
        for _ in 0..4 {
            assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
        }
        assert_eq!(queries(&nodes), [before[0], before[1] + 4], "{source:?}");
    }
    let plain = manual(&folder, &nodes, "");
    for source in [["--nodes", &*named], ["--config", &plain]] {
        write(1).unwrap();
        let (process, front) = start(&[&source[..], &[&option]].concat()).await;
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
        std::fs::write(&file, "{").unwrap();
        until("the line in the log", async || process.file("stderr").contains("resource groups are unchanged")).await;
        write(0).unwrap();
        until("the line in the log", async || process.file("stderr").contains("resource groups changed")).await;
        let before = queries(&nodes);
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
        assert_eq!(queries(&nodes), [before[0] + 1, before[1]], "{source:?}");
    }
    std::fs::write(&file, "[]").unwrap();
    let comment = manual(&folder, &nodes, "# kylin_lb: resource_groups groups.json;\n");
    for source in [&["--nodes", &*named, &option][..], &["--config", &comment]] {
        let error = refused(source);
        assert!(error.contains("groups.json: line 1, column"), "{error}");
    }
}

#[tokio::test]
async fn the_reload_buttons_are_open_to_whom_the_option_says() {
    let (nodes, named) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = manual(&folder, &nodes, "");
    for (source, options, statuses) in [
        (["--nodes", &*named], &[][..], [200, 403]),
        (["--config", &file], &[], [200, 403]),
        (["--nodes", &named], &["--reload=closed"], [403, 403]),
        (["--config", &file], &["--reload=closed"], [403, 403]),
        (["--config", &file], &["--reload=everyone"], [200, 200]),
    ] {
        let (_process, front) = start(&[&source[..], options].concat()).await;
        let call = "PUT /kylin/api/cache/announce/all/all/update";
        let admin = Browser::insistent(front, "ADMIN", "KYLIN").ask(call, &[], "").await.status();
        let other = Browser::new(front).ask(call, &[], "").await.status();
        assert_eq!([admin, other], statuses, "{source:?} {options:?}");
    }
}

#[test]
fn check_says_what_was_understood_and_no_password() {
    let said = check(&[
        "--nodes=q1@10.0.0.1:7070=query,10.0.0.2:7070=job",
        "--policy=ip-hash",
        "--sessions=redis://front:hunter2@10.0.0.5:6379/3",
        "--probe=health",
        "--outlier=off",
        "--drain=off",
        "--single-flight=off",
        "--panic=off",
        "--queue=off",
        "--kylin=off",
    ]);
    for part in [
        "q1 ",
        "query",
        "10.0.0.2:7070",
        "job",
        "policy: IpHash",
        "sessions: learned from the nodes' cookies, in redis://10.0.0.5:6379\n",
        "kylin rules: off",
        "probes: health",
        "outlier ejection: off",
        "drain on shutdown indications: off",
        "single flight: off",
        "panic mode: off",
        "queues: off",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("hunter2") && !said.contains("front:"), "{said}");
    let said = check(&[
        "--demo=2",
        "--sessions=login-relay:memcached://127.0.0.1:11211",
        "--restore-sessions=shared",
        "--kylin-version=v5",
    ]);
    assert!(said.contains("sessions: relayed logins, in memcached://127.0.0.1:11211"), "{said}");
    assert!(said.contains("node-2 ") && said.contains("probes: auto"), "{said}");
}

/// Returns the error of the program for these arguments.
fn refused(args: &[&str]) -> String {
    let output = run(&[args, &["--check"]].concat());
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_check_reads_the_files_of_tls_as_the_start_does() {
    if !openssl_installed() {
        return;
    }
    let [one, other] = [(); 2].map(|()| Certificate::make());
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (certificate, key) = (text(one.file()), text(one.key()));
    let gone = text(folder.path().join("gone"));
    let (empty, junk) =
        (file("empty", ""), file("junk", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"));
    let locked = file(
        "locked",
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n",
    );
    // Nothing listens there, so errors in the files must be reported first.
    let given = |certificate: &str, key: &str, more: &[&str]| {
        let args =
            ["--nodes", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--tls-certificate", certificate, "--tls-key", key];
        let args: Vec<String> = args.iter().chain(more).map(|&word| word.to_owned()).collect();
        args
    };
    for (args, at, why) in [
        (given(&gone, &key, &[]), format!("--tls-certificate {gone}"), "No such file"),
        (given(&empty, &key, &[]), format!("--tls-certificate {empty}"), "no certificate"),
        (given(&junk, &key, &[]), format!("--tls-certificate {junk}"), "not valid PEM"),
        (given(&key, &certificate, &[]), format!("--tls-certificate {key}"), "no certificate"),
        (given(&certificate, &text(other.key()), &[]), format!("--tls-certificate {certificate}"), "does not belong"),
        (given(&certificate, &gone, &[]), format!("--tls-key {gone}"), "No such file"),
        (given(&certificate, &empty, &[]), format!("--tls-key {empty}"), "no private key"),
        (given(&certificate, &locked, &[]), format!("--tls-key {locked}"), ""),
        (given(&certificate, &key, &["--tls-client-ca", &gone]), format!("--tls-client-ca {gone}"), "No such file"),
        (given(&certificate, &key, &["--tls-client-ca", &empty]), format!("--tls-client-ca {empty}"), "no certificate"),
        (given(&certificate, &key, &["--tls-client-ca", &key]), format!("--tls-client-ca {key}"), "no certificate"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let checked = refused(&args);
        assert!(checked.contains(&format!("kylin_front: {at}: ")) && checked.contains(why), "{args:?}\n{checked}");
        let started = run(&args);
        assert_eq!(
            (started.status.code(), String::from_utf8_lossy(&started.stderr)),
            (Some(1), checked.into()),
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn replicated_sessions_are_read_from_the_file_of_a_node() {
    let (nodes, named) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("tomcat")).unwrap();
    let context = folder.path().join("tomcat/context.xml");
    let text = r#"<Context>
        <Valve className="com.radiadesign.catalina.session.RedisSessionHandlerValve" />
        <Manager className="com.radiadesign.catalina.session.RedisSessionManager" host="10.0.0.9" port="6379"
                 database="0" password="hunter2" maxInactiveInterval="60"/></Context>"#;
    std::fs::write(&context, text).unwrap();
    let option = format!("--sessions=replicated={}", context.display());
    let configured = manual(&folder, &nodes, "# kylin_lb: sessions replicated=tomcat/context.xml;\n");
    for args in [&["--nodes", &named, &option][..], &["--config", &configured]] {
        let shown = check(args);
        for part in [
            "replicated by the nodes: tomcat-redis-session-manager 1.x at 10.0.0.9:6379, with a password by ",
            "tomcat/conf/context.xml is right",
            "jedis-2.0.0 needs commons-pool-1.5.5",
            "session-timeout of web.xml counts, 480 minutes",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    // Round robin, except for the moment in which the node saves a session.
    for args in
        [&["--nodes", &*named, "--sessions=replicated"][..], &["--nodes", &named, &option], &["--config", &configured]]
    {
        let (_process, front) = start(&[args, &["--policy=round-robin"]].concat()).await;
        let mut browser = Browser::new(front);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        assert_eq!(browser.query().await.status(), 200, "{args:?}");
    }

    std::fs::write(&context, "<Context/>").unwrap();
    for (args, message) in [
        (&["--nodes", &*named, &option][..], "names no session manager: each node keeps its sessions to itself"),
        (&["--nodes", &named, "--sessions=replicated=/nowhere/context.xml"], "/nowhere/context.xml: No such file"),
        (&["--config", &configured], "names no session manager"),
    ] {
        let error = refused(args);
        assert!(error.contains(message), "{error}");
    }
}

#[tokio::test]
async fn relative_names_in_a_configuration_are_in_its_folder_or_in_that_of_prefix() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, port) in [("own", 7070), ("other", 7071)] {
        std::fs::create_dir_all(path(&format!("{name}/conf.d"))).unwrap();
        let text = format!(
            "upstream {name} {{ server 127.0.0.1:{port}; }} server {{ listen 80; location / {{ proxy_pass http://{name}; }} }}"
        );
        std::fs::write(path(&format!("{name}/conf.d/kylin.conf")), text).unwrap();
    }
    let file = path("own/nginx.conf");
    std::fs::write(&file, "http { include conf.d/*.conf; }").unwrap();
    assert!(check(&["--config", &file]).contains("upstream own"));
    assert!(check(&["--config", &file, "--prefix", &path("other")]).contains("upstream other"));
    let error = refused(&["--nodes", "127.0.0.1:7070", "--prefix", &path("other")]);
    assert!(error.contains("--prefix needs --config"), "{error}");
}

#[tokio::test]
async fn the_memory_for_bodies_has_a_limit_that_the_status_shows() {
    let (_nodes, named) = nodes(1).await;
    for (option, limit, share) in [
        ("--buffer-bytes=8000000", 8_000_000.into(), 2_000_000.into()),
        ("--buffer-bytes=none", Value::Null, Value::Null),
    ] {
        let args = ["--nodes", &named, option, "--probe=none", "--status", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
        let process = spawn(&args).await;
        let buffers = status(address(&process, "status on http://")).await["buffers"].clone();
        assert_eq!((&buffers["limit"], &buffers["client_share"]), (&limit, &share), "{buffers}");
        assert_eq!((&buffers["waiting"], &buffers["refused"]), (&0.into(), &0.into()), "{buffers}");
    }
}

#[tokio::test]
async fn responses_are_read_ahead_unless_the_option_or_the_configuration_says_otherwise() {
    use crate::support::raw_node::{Act, RawNode};
    let lots = [&b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"[..], &[b'x'; 3_000_000]].concat();
    for (option, in_flight) in [("--response-buffer=4000000", 0), ("--response-buffer=0", 1)] {
        let node = RawNode::start([vec![Act::Read, Act::Write(lots.clone()), Act::UntilClosed]]).await;
        let folder = tempfile::TempDir::new().unwrap();
        let socket = folder.path().join("front");
        let (named, listen) = (format!("n1@{}", node.address()), format!("unix:{}", socket.display()));
        let args = ["--nodes", &named, option, "--probe=none", "--status", "127.0.0.1:0", "--listen", &listen];
        let process = spawn(&args).await;
        let mut client = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let get = b"GET /kylin HTTP/1.1\r\nHost: kylin\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, get).await.unwrap();
        let mut head = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut client, &mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        let operators = address(&process, "status on http://");
        becomes(operators, |told| endpoint(told, "n1")["in_flight"] == in_flight).await;
    }
}

#[tokio::test]
async fn a_node_that_shows_that_it_stops_is_drained_unless_that_is_off() {
    let (_nodes, named) = nodes(2).await;
    let stops = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n".to_vec();
    for (option, health) in [("--drain=on", "draining"), ("--drain=off", "healthy")] {
        let stopping = RawNode::start([respond(stops.clone())]).await;
        let named = format!("{named},stopping@{}", stopping.address());
        let others =
            ["--policy=round-robin", "--sessions=none", "--probe=none", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
        let process = spawn(&[&["--nodes", &named, option][..], &others].concat()).await;
        let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
        // Each one is another client, and the node gets one of three.
        for _ in 0..9 {
            assert_eq!(http::get(front, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200, "{option}");
        }
        assert_eq!(endpoint(&status(operators).await, "stopping")["health"], health, "{option}");
    }
}

#[tokio::test]
async fn a_query_waits_for_a_full_node_unless_queues_are_off() {
    const SLOW: &str = r#"{"sql":"select sleep_ms(600000)","project":"learn_kylin"}"#;
    for (option, status) in [("--queue=on", 200), ("--queue=off", 503)] {
        let (nodes, named) = nodes(1).await;
        let (_process, front) =
            start(&["--nodes", &named, "--max-conns=1", option, "--sessions=none", "--probe=none"]).await;
        let slow = tokio::spawn(async move {
            Browser::insistent(front, "ADMIN", "KYLIN").ask("POST /kylin/api/query", &[], SLOW).await
        });
        nodes[0].0.wait_until(|stats| stats.in_flight == 1).await.unwrap();
        let second = tokio::spawn(async move { Browser::insistent(front, "ADMIN", "KYLIN").query().await });
        // If there is a queue, a page does not wait.
        let page = Browser::insistent(front, "ADMIN", "KYLIN").get("/kylin/api/projects").await;
        assert_eq!(page.status(), status, "{option}");
        if option == "--queue=off" {
            assert_eq!(second.await.unwrap().status(), status, "{option}");
            slow.abort();
            continue;
        }
        // The client of the slow query leaves, and its slot goes to the query that waits.
        slow.abort();
        assert_eq!(second.await.unwrap().status(), status, "{option}");
    }
}

#[tokio::test]
async fn equal_queries_are_executed_once_unless_that_is_off() {
    let (nodes, named) = nodes(1).await;
    let folder = tempfile::TempDir::new().unwrap();
    let config = folder.path().join("nginx.conf");
    let upstream = |comment: &str| {
        let server = "server { listen 8080; location / { proxy_pass http://kylin; } }";
        format!("events {{}} http {{ upstream kylin {{ {comment} server {}; }} {server} }}", nodes[0].1.addr())
    };
    for (is_on, comment, args) in [
        (true, None, vec!["--nodes", &named]),
        (false, None, vec!["--nodes", &named, "--single-flight", "off"]),
        (true, Some("# kylin_lb: kylin on;\n"), vec![]),
        (false, Some("# kylin_lb: kylin on; single_flight off;\n"), vec![]),
    ] {
        let path = config.display().to_string();
        let mut args = args;
        if let Some(comment) = comment {
            std::fs::write(&config, upstream(comment)).unwrap();
            args = vec!["--config", &path];
        }
        let (_process, front) = start(&[&args[..], &["--probe=none"]].concat()).await;
        let mut browser = Browser::new(front);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        let body = r#"{"sql":"select 1, sleep_ms(300)","project":"learn_kylin"}"#;
        let executions = async || {
            let before = queries(&nodes)[0];
            let [mut one, mut other] = [browser.clone(), browser.clone()];
            let asked = (one.ask("POST /kylin/api/query", &[], body), other.ask("POST /kylin/api/query", &[], body));
            let (one, other) = tokio::join!(asked.0, asked.1);
            assert_eq!((one.status(), other.status()), (200, 200));
            queries(&nodes)[0] - before
        };
        match is_on {
            // On a busy machine the second query may arrive late.
            true => until("one execution for both", async || executions().await == 1).await,
            false => assert_eq!(executions().await, 2),
        }
    }
}

#[tokio::test]
async fn results_are_cached_where_the_option_gives_a_login() {
    let (nodes, named) = nodes(1).await;
    let folder = tempfile::TempDir::new().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "KYLIN\n").unwrap();
    let login = format!("ADMIN:{}", password.display());
    let ask = async |browser: &mut Browser| {
        let body = r#"{"sql":"select 1 from kylin_sales","project":"learn_kylin"}"#;
        let response = browser.ask("POST /kylin/api/query", &[], body).await;
        assert_eq!(response.status(), 200);
        response.header("x-cache").unwrap_or("none").to_owned()
    };
    for (is_on, cache) in [(true, vec!["--cache", &login]), (false, vec![])] {
        let common = ["--nodes", &named, "--probe=none", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
        let process = spawn(&[&common[..], &cache].concat()).await;
        let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
        assert_eq!(process.file("stdout").contains("result cache: on"), is_on);
        let mut browser = Browser::new(front);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        match is_on {
            // The results of the first queries are not stored yet.
            true => until("a result from the cache", async || ask(&mut browser).await == "HIT").await,
            false => {
                let before = queries(&nodes);
                assert_eq!((ask(&mut browser).await, ask(&mut browser).await), ("none".into(), "none".into()));
                assert_eq!(queries(&nodes)[0], before[0] + 2);
            }
        }
        let told = status(operators).await;
        assert_eq!(told["caches"]["results"]["hits"].as_u64().unwrap_or(0), u64::from(is_on), "{told}");
        assert_eq!(told["caches"]["results"]["error"], Value::Null, "{told}");
        let metrics = http::get(operators, "/metrics", &[]).await.unwrap().text().to_owned();
        for line in ["kylin_lb_cache_up{cache=\"results\"} 1\n", "kylin_lb_cache_lookups_total{outcome=\"hit\"} 1\n"] {
            assert_eq!(metrics.contains(line), is_on, "{metrics}");
        }
        assert!(!(process.file("stdout") + &process.log()).contains("KYLIN\n"));
    }
    let folder = folder.path().display().to_string();
    for (option, said) in [
        ("ADMIN".to_owned(), "expected USER:FILE"),
        (format!("ADMIN:{folder}/none"), "none"),
        (format!("ADMIN:{folder}"), "directory"),
    ] {
        let output = run(&["--demo=1", "--cache", &option, "--check"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("--cache") && stderr.contains(said), "{stderr}");
    }
    let output = run(&["--demo=1", "--cache", &login, "--kylin=off", "--check"]);
    assert!(!output.status.success());
}

#[tokio::test]
async fn the_weight_of_a_slow_node_is_shown_where_the_option_asks_for_it() {
    let (_nodes, named) = nodes(1).await;
    for option in ["on", "off"] {
        let option = format!("--slow-weights={option}");
        let args = ["--nodes", &named, "--max-conns=4", &option, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
        let process = spawn(&args).await;
        let front = address(&process, "listening on http://");
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
        let told = status(address(&process, "status on http://")).await;
        assert_eq!(endpoint(&told, "n1")["slow"], false, "a single node is slower than no other: {told}");
    }
    assert!(!run(&["--demo=1", "--slow-weights=perhaps", "--check"]).status.success());
}
