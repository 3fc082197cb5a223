//! Calls between nodes are closed to clients in every spelling.

use std::net::IpAddr;
use std::time::Duration;

use kylin_lb::clock::ManualClock;
use kylin_lb::kylin::Guard;
use kylin_lb::proxy::{KylinRules, TrustedProxies};
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Cluster, Proxy};
use tracing::Level;
use tracing::instrument::WithSubscriber as _;

use crate::support::dialects::in_each_dialect;
use crate::support::front::{self, Front, refusal};
use crate::support::http::RawResponse;
use crate::support::kylin::{Demo, admin, ask, bytes, request, scripted, well};
use crate::support::raw_node::{self, RawNode};
use crate::support::subscriber::CapturedLog;

/// Paths of the calls between nodes, as a node would write them.
const CLOSED: [&str; 15] = [
    "/kylin/api/cache/cube/c/update",
    "/kylin/api/cache/announce/config",
    "/kylin/api/cache",
    "/kylin/api/streaming_coordinator/balance",
    "/kylin/api/tables/t/1/snapshotLocalCache",
    "/kylin/api/jobs/spark",
    "/kylin/api/jobs/stage/status",
    "/kylin/api/user/update_user",
    "/kylin/api/broadcast/x",
    "/kylin/api/epoch",
    "/kylin/api/metastore/cleanup_storage",
    "/kylin/api/system/backup",
    "/kylin/api/system/metadata_backup_tmp_file",
    "/kylin/api/kg/health/instance_info",
    "/kylin/api/jobs/wait_and_run_time",
];

/// Spellings of a path with which an attacker may try to reach it.
fn spellings(path: &str) -> Vec<String> {
    let below = path.strip_prefix("/kylin/api/").unwrap();
    let (first, rest) = below.split_at(1);
    let (start, last) = path.rsplit_once('/').unwrap();
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    vec![
        path.to_owned(),
        format!("{path}/"),
        format!("{path}?x=1"),
        format!("{path}.json"),
        format!("{path};jsessionid=1"),
        format!("{start}/{}", escaped(last)),
        format!("{start}/{}", escaped(last).to_uppercase()),
        format!("{start};x=y/{last}"),
        format!("/kylin/api/{}{rest}", escaped(first)),
        format!("/kylin/{}/{below}", escaped("api")),
        format!("//kylin///api//{below}"),
        format!("/./kylin/api/./{below}"),
        format!("/kylin/web/../api/{below}"),
        format!("/kylin/web/%2e%2e/api/{below}"),
        format!("/kylin/web/..;a=b/api/{below}"),
        format!("/x/../kylin/api/y/%2E%2E/{below}"),
    ]
}

/// Paths that a node may interpret differently.
const AMBIGUOUS: [&str; 12] = [
    "/kylin/api%2fcache/x",
    "/kylin/api%2Fprojects",
    "/kylin%5capi/cache",
    "/kylin\\api\\cache",
    "/kylin/api/%2563ache",
    "/kylin/api/cache%3bx",
    "/kylin/api/%c0%ae%c0%ae/cache",
    "/kylin/api/%zz",
    "/kylin/api/c%00ache",
    "/kylin/../../kylin/api/cache",
    "/kylin/api/x%0d%0ay",
    "/kylin/api/%",
];

async fn raw(front: &Front, line: &str, headers: &[(&str, &str)]) -> RawResponse {
    front.ask(bytes(line, headers, "")).await.unwrap()
}

#[tokio::test]
async fn calls_between_nodes_are_closed_in_every_spelling() {
    let node = RawNode::start([raw_node::healthy("node")]).await;
    let front = Front::kylin(front::endpoints(&[node.address()]), |proxy| proxy);
    for path in CLOSED {
        for spelling in spellings(path) {
            for method in ["GET", "PUT", "POST", "DELETE"] {
                let response = raw(&front, &format!("{method} {spelling}"), &[]).await;
                assert_eq!(refusal(&response, 403), "the path is not open to clients", "{method} {spelling}");
            }
        }
    }
    for path in AMBIGUOUS {
        let response = raw(&front, &format!("GET {path}"), &[]).await;
        assert_eq!(response.status(), 400, "{path}: {}", response.text());
    }
    // The one call that an administrator may make. The node is asked whether the client is an
    // administrator, and its response does not show it.
    let seen = node.seen().texts();
    assert!(
        seen.iter().all(|text| text.starts_with("GET /kylin/api/user/authentication ")),
        "no request reached the node: {seen:?}"
    );
    for path in ["/kylin/api/projects", "/kylin/api/jobs", "/kylin/api/epoch/maintenance_mode", "/kylin/cache.html"] {
        assert_eq!(raw(&front, &format!("GET {path}"), &[]).await.text(), "node", "{path}");
    }
}

in_each_dialect!(trusted_networks_pass_the_guard_and_it_can_be_turned_off);
async fn trusted_networks_pass_the_guard_and_it_can_be_turned_off(dialect: Dialect) {
    let demo = Demo::start(dialect, 1).await;
    let announce = "PUT /kylin/api/cache/cube/c/update";
    let closed = demo.front(|proxy| proxy);
    assert_eq!(admin(&closed, announce, "").await.status(), 403);
    assert_eq!(demo.nodes[0].stats().cache_calls, 0);
    let trusting = Guard::new().trust("127.0.0.0/8".parse().unwrap());
    for guard in [Some(trusting), None] {
        let before = demo.nodes[0].stats().cache_calls;
        let front = demo.front(|proxy| proxy.rules(KylinRules::default().guard(guard)));
        assert_eq!(admin(&front, announce, "").await.status(), 200);
        assert_eq!(demo.nodes[0].stats().cache_calls, before + 1);
    }
}

/// The client counts, not the proxy in front, and a client cannot name itself.
#[tokio::test]
async fn the_guard_trusts_the_client_that_a_trusted_proxy_names() {
    let guard = Guard::new().trust("10.0.0.0/8".parse().unwrap());
    let node = well("node");
    let proxy = |trusted: TrustedProxies| {
        let cluster = Cluster::builder().endpoint(scripted("0", &node)).build().unwrap();
        let rules = KylinRules::default().guard(Some(guard.clone()));
        Proxy::builder(cluster).trusted_proxies(trusted).rules(rules).build().unwrap()
    };
    let announce =
        |forwarded_for: &'static str| request("PUT /kylin/api/cache/x", &[("x-forwarded-for", forwarded_for)], "");
    let strangers = proxy(TrustedProxies::none());
    assert_eq!(ask(&strangers, announce("10.0.0.1")).await.0, 403);
    let behind = proxy(TrustedProxies::new(["192.0.2.0/24".parse().unwrap()]));
    assert_eq!(ask(&behind, announce("10.0.0.1")).await.0, 200);
    assert_eq!(ask(&behind, announce("203.0.113.5")).await.0, 403);
    assert_eq!(
        ask(&behind, announce("10.0.0.1, 203.0.113.5")).await.0,
        403,
        "the last address that is not trusted counts"
    );
    let near = IpAddr::from([10, 1, 2, 3]);
    let response = strangers.forward(near, request("PUT /kylin/api/cache/x", &[], "")).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn the_log_names_a_client_of_a_dual_stack_socket_by_its_ipv4_address() {
    let cluster = Cluster::builder().endpoint(scripted("0", &well("node"))).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let client: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    let log = CapturedLog::default();
    let response = async { proxy.forward(client, request("PUT /kylin/api/cache/x", &[], "")).await };
    assert_eq!(response.with_subscriber(log.subscriber(Level::INFO)).await.status(), 403);
    let text = log.text();
    assert!(text.contains("request denied") && text.contains("client=192.0.2.7 "), "{text}");
}

/// A client that sends denied requests must not fill the disk.
#[tokio::test]
async fn denied_requests_have_one_log_line_a_second_which_counts_the_others() {
    let clock = ManualClock::new();
    let cluster = Cluster::builder().endpoint(scripted("0", &well("node"))).build().unwrap();
    let proxy = Proxy::builder(cluster).clock(clock.clone()).build().unwrap();
    let log = CapturedLog::default();
    let path = format!("/kylin/api/cache/{}", "x".repeat(10_000));
    let denied = async {
        for _ in 0..2 {
            for line in [format!("PUT {path}"), "PUT /kylin/api/cache/announce/a/b/c".to_owned()] {
                for _ in 0..50 {
                    assert_eq!(ask(&proxy, request(&line, &[], "")).await.0, 403);
                }
            }
            clock.advance(Duration::from_secs(1));
        }
    };
    denied.with_subscriber(log.subscriber(Level::INFO)).await;
    let text = log.text();
    let count = |part: &str| text.matches(part).count();
    assert_eq!((count("request denied"), count("reload denied")), (2, 2), "{text}");
    assert_eq!((count("left_out=0"), count("left_out=49")), (2, 2), "{text}");
    assert!(text.len() < 2_000, "{} bytes", text.len());
}

in_each_dialect!(the_routed_header_of_clients_is_removed);
async fn the_routed_header_of_clients_is_removed(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let front = demo.front(|proxy| proxy);
    for name in ["routed", "Routed", "ROUTED"] {
        let response = front.ask(bytes("GET /kylin/api/projects", &[(name, "true"), (name, "x")], "")).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(demo.sum(|stats| stats.routed), 0);
    let node = RawNode::start([raw_node::healthy("node")]).await;
    let front = Front::kylin(front::endpoints(&[node.address()]), |proxy| proxy);
    raw(&front, "POST /kylin/api/models", &[("rOuTeD", "true")]).await;
    let seen = node.seen().texts().concat().to_ascii_lowercase();
    assert!(seen.starts_with("post /kylin/api/models") && !seen.contains("routed"), "{seen}");
}
