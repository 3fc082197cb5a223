//! `/metrics` of the example front end, and the dashboard that uses it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use kylin_lb::testing::kylin::KylinNode;

use crate::example_options::nodes;
use crate::support::example::{address, spawn};
use crate::support::front::{closed_port, until};
use crate::support::{http, skip};

const DASHBOARD: &str = include_str!("../../examples/kylin_front/grafana.json");

/// Waits until the text of the metrics has all parts.
async fn metrics_with(operators: SocketAddr, parts: &[&str]) -> String {
    let mut text = String::new();
    until(&format!("{parts:?} in the metrics"), async || {
        let response = http::get(operators, "/metrics", &[]).await.unwrap();
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4"));
        text = response.text().to_owned();
        parts.iter().all(|part| text.contains(part))
    })
    .await;
    text
}

/// Runs `promtool check metrics`.
fn promtool_finds_nothing(text: &str) {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let started = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if !skip::installed("promtool", started.is_ok()) {
        return;
    }
    let mut promtool = started.unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn metrics_tell_of_requests_and_nodes_and_have_what_the_dashboard_shows() {
    let (_nodes, named) = nodes(1).await;
    let named = format!("gone@{},{named}", closed_port());
    let args =
        ["--nodes", &named, "--policy=round-robin", "--probe=none", "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "metrics on http://"));
    for path in ["/kylin/api/admin/version", "/kylin/api/admin/version?user=hunter2", "/kylin/hunter2"] {
        http::get(front, path, &[("Cookie", "JSESSIONID=hunter2")]).await.unwrap();
    }
    let text = metrics_with(
        operators,
        &[
            "kylin_lb_requests_total{class=\"admin_read\",outcome=\"complete\"} 2",
            "kylin_lb_responses_total{class=\"admin_read\",status=\"2xx\"} 2",
            "kylin_lb_attempts_total{endpoint=\"gone\",outcome=\"connect\"}",
            "kylin_lb_attempts_total{endpoint=\"n1\",outcome=\"2xx\"} 2",
            "kylin_lb_endpoint_up{cluster=\"kylin\",endpoint=\"n1\"} 1",
            "kylin_lb_retries_total{reason=\"connect\"}",
            "kylin_lb_sessions_total{outcome=\"not_found\"} 3",
            "kylin_lb_session_store_up{store=\"sessions\"} 1",
            "kylin_lb_requests_in_flight 0",
            "kylin_lb_request_first_byte_seconds_count{class=\"admin_read\"} 2",
            "kylin_lb_client_connections ",
        ],
    )
    .await;
    assert!(!text.contains("hunter2") && !text.contains("127.0.0.1"), "no label holds a path or a client: {text}");

    let shown: BTreeSet<&str> = DASHBOARD
        .match_indices("kylin_lb_")
        .map(|(at, _)| {
            let rest = &DASHBOARD[at..];
            &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap()]
        })
        .collect();
    assert!(shown.len() > 15, "{shown:?}");
    let ejected = "endpoint=\"gone\",change=\"ejected\",found_by=\"requests\"} 1";
    let mut text = String::new();
    // The number of requests until the ejection depends on how long they take.
    until("the endpoint that cannot be reached is ejected", async || {
        http::get(front, "/kylin/api/admin/version", &[]).await.unwrap();
        text = http::get(operators, "/metrics", &[]).await.unwrap().text().to_owned();
        text.contains(ejected)
    })
    .await;
    for name in shown {
        let is_of_name = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(text.lines().any(is_of_name), "{name} is on the dashboard, and not in {text}");
    }
    let names: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for name in names {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    promtool_finds_nothing(&text);
    // The gauge stays, although the exporter drops gauges that are no longer set.
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(1) {
        metrics_with(operators, &["kylin_lb_retry_budget_left "]).await;
    }
}

#[tokio::test]
async fn with_all_nodes_dead_the_log_and_the_metrics_tell_which_why_since_when_and_that_clients_are_refused() {
    let (nodes, named) = nodes(2).await;
    let first = nodes[0].1.addr();
    let process = spawn(&["--nodes", &named, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"]).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "metrics on http://"));
    assert_eq!(http::get(front, "/kylin/api/admin/version", &[]).await.unwrap().status(), 200);
    metrics_with(operators, &["kylin_lb_cluster_endpoints_up{cluster=\"kylin\"} 2"]).await;

    drop(nodes);
    let states = ["n1", "n2"].map(|id| {
        format!(
            "kylin_lb_endpoint_state{{cluster=\"kylin\",endpoint=\"{id}\",admin_state=\"ready\",health=\"unhealthy\",\
             reason=\"probe failed: no connection\"}} 1"
        )
    });
    let text = metrics_with(
        operators,
        &[
            "kylin_lb_cluster_endpoints_up{cluster=\"kylin\"} 0",
            "kylin_lb_cluster_endpoints{cluster=\"kylin\"} 2",
            "change=\"unhealthy\",found_by=\"probes\"} 1",
            &states[0],
            &states[1],
        ],
    )
    .await;
    let since = "kylin_lb_endpoint_health_changed_timestamp_seconds{cluster=\"kylin\",endpoint=\"n1\"} ";
    let since: f64 = text.lines().find_map(|line| line.strip_prefix(since)).unwrap().parse().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 60.0..now + 1.0).contains(&since), "{since} is not just before {now}");
    let log = process.file("stderr");
    let lost = log.lines().find(|line| line.contains("no node is up: panic mode tries those that failed")).expect(&log);
    assert!(lost.contains("n1 unhealthy (probe failed: no connection: no connection to the node: "), "{lost}");
    assert!(lost.contains("n2 unhealthy (probe failed: no connection: no connection to the node: "), "{lost}");
    let refused = http::get(front, "/kylin/api/admin/version", &[]).await.unwrap();
    assert!(refused.status() >= 502, "{}", refused.status());
    metrics_with(operators, &["kylin_lb_responses_total{class=\"admin_read\",status=\"5xx\"} 1"]).await;

    let _served = KylinNode::new("n1").serve(first).await.unwrap();
    let text = metrics_with(operators, &["kylin_lb_cluster_endpoints_up{cluster=\"kylin\"} 1"]).await;
    let was = |line: &&str| line.contains("health=\"unhealthy\"") && line.contains("endpoint=\"n1\"");
    let before: Vec<_> = text.lines().filter(was).collect();
    assert!(!before.is_empty() && before.iter().all(|line| line.ends_with(" 0")), "{text}");
}

#[tokio::test]
async fn metrics_tell_whether_the_source_of_nodes_works() {
    let (nodes, _) = nodes(2).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("kylin.properties");
    let servers = format!("{},{}", nodes[0].1.addr(), nodes[1].1.addr());
    std::fs::write(&file, format!("kylin.server.cluster-servers={servers}\n")).unwrap();
    let named = file.to_str().unwrap();
    let process = spawn(&["--properties", named, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"]).await;
    let operators = address(&process, "metrics on http://");
    let up = |is_up: u8| format!("kylin_lb_discovery_up{{source=\"nodes\"}} {is_up}\n");
    let state = |state, is_it: u8| format!("kylin_lb_discovery_state{{source=\"nodes\",state=\"{state}\"}} {is_it}\n");
    let endpoints = "kylin_lb_discovery_endpoints{source=\"nodes\"} 2\n";
    let rejected = "kylin_lb_discovery_rejected_nodes{source=\"nodes\"} 0\n";
    metrics_with(operators, &[&up(1), &state("current", 1), endpoints, rejected]).await;
    std::fs::remove_file(&file).unwrap();
    metrics_with(operators, &[&up(0), &state("current", 0), &state("failing", 1), endpoints, rejected]).await;
}
