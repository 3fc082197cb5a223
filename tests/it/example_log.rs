//! The messages of the example front end on standard error.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kylin_lb::testing::kylin::KylinNode;
use serde_json::Value;
use tempfile::TempDir;

use crate::example_options::nodes;
use crate::support::browser::Browser;
use crate::support::example::{TIMEOUT, address, program, run, spawn, start};
use crate::support::front::{closed_port, demo, eventually, until};
use crate::support::http;
use crate::support::process::Process;

/// Waits until a line of standard error contains all `parts`, and returns the line.
async fn line_with(process: &Process, parts: &[&str]) -> String {
    let find = || {
        let log = process.file("stderr");
        log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    };
    let shown = || format!("no line with {parts:?} in {}", process.file("stderr"));
    eventually(|| find().is_some(), shown).await;
    find().expect("lines stay")
}

fn count(process: &Process, part: &str) -> usize {
    process.file("stderr").lines().filter(|line| line.contains(part)).count()
}

async fn get(front: SocketAddr) -> (u16, String) {
    let response = http::get(front, "/kylin/api/admin/version", &[]).await.unwrap();
    (response.status(), response.text().to_owned())
}

#[tokio::test]
async fn an_operator_learns_which_nodes_fell_why_since_when_and_that_clients_are_refused() {
    let (nodes, named) = nodes(2).await;
    let addresses: Vec<_> = nodes.iter().map(|(_, served)| served.addr()).collect();
    let (process, front) = start(&["--nodes", &named]).await;
    assert_eq!(get(front).await.0, 200);
    assert_eq!(count(&process, "WARN"), 0, "nothing has changed");

    drop(nodes);
    let lost = line_with(&process, &["WARN", "no node is up: panic mode tries those that failed"]).await;
    let cause = "no connection to the node: Connection refused (os error 111)";
    for part in [
        &format!("n1 unhealthy (probe failed: no connection: {cause}) since 20"),
        "n2 unhealthy (probe failed: ",
        "cluster=\"kylin\"",
    ] {
        assert!(lost.contains(part), "{part} in {lost}");
    }
    for id in ["n1", "n2"] {
        let endpoint = format!("endpoint=\"{id}\"");
        let line =
            line_with(&process, &["WARN", "node is unhealthy", &endpoint, "reason=", "found_by=\"probes\""]).await;
        assert!(line.contains("phase=\"connect\"") && line.contains(&format!("error=\"{cause}\"")), "{line}");
    }
    let refused = Instant::now();
    while refused.elapsed() < Duration::from_millis(100) {
        assert!(get(front).await.0 >= 502);
    }

    let _served = KylinNode::new("n1").serve(addresses[0]).await.unwrap();
    line_with(&process, &["WARN", "a node is up again"]).await;
    line_with(&process, &["INFO", "node has readmitted", "endpoint=\"n1\""]).await;
    assert_eq!(get(front).await.0, 200);
    let log = process.file("stderr");
    assert_eq!(count(&process, "no node is up"), 1, "{log}");
    assert_eq!(count(&process, "a node is up again"), 1, "{log}");
    assert_eq!(count(&process, "node is unhealthy"), 2, "one line for each node: {log}");
}

/// Nodes that no other can replace are not ejected, and without probes nothing else reports them.
#[tokio::test]
async fn an_operator_learns_that_all_nodes_fail_without_probes_why_and_that_they_are_back() {
    let plain = ["--kylin", "off", "--sessions", "none"];
    for (ids, more) in [(&["n1"][..], &[][..]), (&["n1", "n2"], &[]), (&["n1", "n2"], &plain)] {
        let nodes: Vec<_> = ids.iter().map(|id| (*id, closed_port())).collect();
        let named = nodes.iter().map(|(id, address)| format!("{id}@{address}")).collect::<Vec<_>>().join(",");
        let args = ["--nodes", &named, "--probe", "none", "--policy", "round-robin", "--status", "127.0.0.1:0"];
        let (process, front) = start(&[&args[..], more].concat()).await;
        let status = address(&process, "status on http://");
        let endpoints = async || {
            let status = http::get(status, "/front/status", &[]).await.unwrap();
            let mut status: Value = serde_json::from_slice(&status.body).unwrap();
            status["clusters"]["kylin"]["endpoints"].take()
        };
        for _ in 0..6 {
            assert!(get(front).await.0 >= 500);
        }
        for (index, id) in ids.iter().enumerate() {
            let endpoint = format!("endpoint=\"{id}\"");
            let line = line_with(&process, &["WARN", "node is suspect", &endpoint]).await;
            let cause = "no connection to the node: Connection refused (os error 111)";
            for part in ["reason=requests fail, and none has succeeded since", &format!("error=\"{cause}\"")] {
                assert!(line.contains(part), "{part} in {line}");
            }
            let endpoint = &endpoints().await[index];
            assert_eq!((&endpoint["health"], &endpoint["error"]), (&"suspect".into(), &cause.into()), "{endpoint}");
        }
        let mut served = Vec::new();
        for (id, address) in &nodes {
            served.push(KylinNode::new(*id).serve(*address).await.unwrap());
        }
        until("the nodes", async || {
            get(front).await.0 < 500
                && endpoints().await.as_array().unwrap().iter().all(|node| node["health"] == "healthy")
        })
        .await;
        for id in ids {
            line_with(&process, &["INFO", "node has recovered", &format!("endpoint=\"{id}\""), "after="]).await;
        }
        let log = process.file("stderr");
        assert_eq!(count(&process, "node is suspect"), ids.len(), "one line for each node: {log}");
        assert!(endpoints().await.as_array().unwrap().iter().all(|node| node["error"].is_null()));
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_logged_and_counted() {
    let (_nodes, named) = nodes(1).await;
    let args = ["--nodes", &named, "--status", "127.0.0.1:0"];
    let refused = async |process: &Process, front: SocketAddr, sent: &str| {
        let mut client = http::Connection::open(front).await.unwrap();
        // The server may close before everything is sent.
        _ = client.send(sent).await;
        line_with(process, &["refused", "peer=127.0.0.1:", "left_out=0"]).await
    };
    let long = format!("GET / HTTP/1.1\r\nHost: kylin\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let control = "GET / HTTP/1.1\r\nHost: kylin\r\nX: \u{1}\r\n\r\n";
    let begun = &long[..10_000];
    // The preface, SETTINGS and HEADERS, in ASCII.
    let http2 =
        |length: &str| format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0{length}\x01\0\0\0\0\x01");
    let many = http2("\0\0") + &"\0\0\0\x09\0\0\0\0\x01".repeat(100);
    let begun_http2 = http2("\x27\x10") + &"x".repeat(8_000);
    let no_memory: &[&str] = &["--buffer-bytes", "4096"];
    let proxied: &[&str] = &["--proxy-protocol", "127.0.0.0/8"];
    for (options, sent, level, reason) in [
        (&[][..], "garbage\r\n\r\n", "INFO", "malformed"),
        (&[], control, "INFO", "malformed"),
        (&[], &long, "INFO", "too_large"),
        (&[], &many, "INFO", "too_large"),
        (no_memory, begun, "INFO", "no_memory"),
        (no_memory, &begun_http2, "INFO", "no_memory"),
        (proxied, "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n", "WARN", "proxy_protocol"),
        (&["--proxy-protocol", "192.0.2.0/24"], "PROXY TCP4 ", "WARN", "proxy_protocol"),
    ] {
        let (process, front) = start(&[&args[..], options].concat()).await;
        let line = refused(&process, front, sent).await;
        assert!(line.contains(level) && line.contains(&format!("reason=\"{reason}\"")), "{line}");
        let status = address(&process, "status on http://");
        let metrics = http::get(status, "/metrics", &[]).await.unwrap();
        let counted = format!("kylin_lb_server_refused_total{{reason=\"{reason}\"}} 1\n");
        match cfg!(feature = "prometheus") {
            true => assert!(metrics.text().contains(&counted), "{}", metrics.text()),
            false => assert_eq!(metrics.status(), 404),
        }
    }
}

#[tokio::test]
async fn a_log_on_standard_output_has_that_for_itself() {
    let (_nodes, named) = nodes(1).await;
    let mut command = Command::new(program());
    command.args([
        "--nodes",
        &named,
        "--listen=127.0.0.1:0",
        "--threads=1",
        "--access-log=-",
        "--access-log-format=json",
    ]);
    let mut process = Process::spawn("kylin_front", TempDir::new().unwrap(), &mut command).unwrap();
    let line = line_with(&process, &["listening on http://"]).await;
    let front = line.strip_prefix("listening on http://").unwrap().trim_end_matches('/').parse().unwrap();
    assert_eq!(get(front).await.0, 200);
    process.signal("TERM");
    assert!(process.ended(TIMEOUT).await.is_some(), "it stops");
    line_with(&process, &["stopped; 0 connections were cut"]).await;
    let written = process.file("stdout");
    let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).expect(&written)).collect();
    assert_eq!(lines.len(), 1, "{written}");
}

#[tokio::test]
async fn the_end_of_a_request_is_in_the_log_at_debug() {
    let (_nodes, named) = nodes(1).await;
    let (process, front) = start(&["--nodes", &named, "--log", "debug"]).await;
    assert_eq!(get(front).await.0, 200);
    let line = line_with(&process, &["DEBUG", "request ended", "endpoint=\"n1\""]).await;
    for part in ["path=/kylin/api/admin/version", "status=200", "attempts=1", "end=complete"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[tokio::test]
async fn a_lost_store_is_told_also_after_the_secret_was_exchanged() {
    let (_nodes, named) = nodes(1).await;
    let folder = tempfile::TempDir::new().unwrap();
    let (secret, config) = (folder.path().join("secret"), folder.path().join("kylin.conf"));
    let front = closed_port();
    let node = named.split('@').next_back().unwrap();
    let text =
        format!("upstream k {{ server {node}; }} server {{ listen {front}; location / {{ proxy_pass http://k; }} }}");
    std::fs::write(&config, text).unwrap();
    let store = format!("memcached://{}", closed_port());
    let listen = front.to_string();
    for source in [&["--nodes", &named, "--listen", &listen][..], &["--config", config.to_str().unwrap()]] {
        std::fs::write(&secret, "5a".repeat(32)).unwrap();
        let args = ["--sessions", &store, "--secret-file", secret.to_str().unwrap()];
        let process = spawn(&[source, &args].concat()).await;
        let told_behind = async |mark: &str| {
            until(&format!("a lost store behind {mark:?}"), async || {
                _ = Browser::new(front).log_in("ADMIN", "KYLIN").await;
                let log = process.file("stderr");
                log.split_once(mark).is_some_and(|(_, behind)| behind.contains("session store is unavailable"))
            })
            .await;
        };
        told_behind("").await;
        let line = line_with(&process, &["session store is unavailable"]).await;
        for part in [
            "WARN",
            &format!("address=\"{store}\""),
            "phase=\"connect\"",
            "error=\"the session store is unavailable: memcached: Connection refused",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(count(&process, "session store is unavailable"), 1, "{}", process.file("stderr"));
        std::fs::write(&secret, "3c".repeat(32)).unwrap();
        process.signal("HUP");
        told_behind("another secret").await;
    }
}

#[tokio::test]
async fn a_source_of_nodes_that_does_not_respond_is_told_while_clients_learn_why_they_are_refused() {
    // The source accepts connections and does not respond.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = silent.local_addr().unwrap().to_string();
    let (process, front) = start(&["--zookeeper", &place]).await;
    let (status, body) = get(front).await;
    assert_eq!(status, 503);
    assert!(
        body.contains("no Kylin node is known: their list is empty, or its source has not responded yet"),
        "{body}"
    );
    line_with(&process, &["WARN", "the source of nodes does not respond: clients are refused until it does"]).await;
    line_with(&process, &["WARN", "no node is known: clients are refused"]).await;
}

#[tokio::test]
async fn the_log_has_the_level_and_the_format_that_are_asked_for() {
    for (options, levels) in [
        (&["--log-format", "json"][..], &["INFO", "WARN"][..]),
        (&["--log=warn", "--log-format=json"], &["WARN"]),
        (&["--log", "off"], &[]),
    ] {
        let (node, served) = demo("n1").await;
        let named = format!("n1@{}", served.addr());
        let (process, front) = start(&[&["--nodes", &named][..], options].concat()).await;
        drop((node, served));
        let deadline = Instant::now() + TIMEOUT;
        while get(front).await.1.contains("version\":") {
            assert!(Instant::now() < deadline);
        }
        if !levels.is_empty() {
            line_with(&process, &["no node is up"]).await;
            let log = process.file("stderr");
            let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            for line in &lines {
                assert!(levels.contains(&line["level"].as_str().unwrap()), "{line}");
                assert!(line["message"].is_string() && line["timestamp"].is_string(), "{line}");
            }
            let fallen = lines.iter().find(|line| line["message"] == "node is unhealthy").unwrap();
            assert_eq!((&fallen["endpoint"], &fallen["cluster"]), (&"n1".into(), &"kylin".into()));
        } else {
            assert_eq!(process.file("stderr"), "");
        }
    }
}

/// A pipe holds 64 KiB.
#[tokio::test]
async fn output_that_is_not_read_delays_no_request_and_no_stop() {
    let (_nodes, named) = nodes(1).await;
    let address = closed_port();
    let mut command = Command::new(program());
    command.args(["--nodes", &named, "--listen", &address.to_string(), "--threads", "1", "--access-log", "-"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process::of_child("kylin_front", TempDir::new().unwrap(), child);
    until("it serves", async || http::get(address, "/kylin/api/admin/version", &[]).await.is_ok()).await;
    let mut client = http::Connection::open(address).await.unwrap();
    for n in 0..1500 {
        // A line on standard error each, and a longer one in the access log.
        client.send("GET /kylin/api/cache/x HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status(), 403, "{n}");
    }
    assert_eq!(http::get(address, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200);
    process.signal("TERM");
    assert!(process.ended(TIMEOUT).await.is_some(), "it stops");
}

#[test]
fn the_version_is_printed_and_wrong_levels_are_refused() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("kylin_front {}\n", env!("CARGO_PKG_VERSION")));
    for (args, why) in [
        (&["--log", "loud"][..], "--log loud: expected error, warn, info, debug, trace or off"),
        (&["--log-format", "xml"], "--log-format xml: expected text or json"),
        (&["--log-sql"], "--log-sql needs --query-log"),
        (&["--log-flags"], "--log-flags needs --query-log"),
        (&["--log-sql", "--access-log=-"], "--log-sql needs --query-log"),
        (&["--access-log-format=json"], "--access-log-format needs --access-log"),
        (&["--acess-log=x"], "unknown option --acess-log"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr), (Some(2), format!("kylin_front: {why}; try --help\n")));
    }
}
