//! The manual's nginx configuration with Kylin nodes, served by a real nginx and by this crate.

use std::net::SocketAddr;
use std::num::NonZero;

use http::Method;
use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope};

use crate::support::browser::Browser;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::http::Connection;
use crate::support::kylin::{Demo, bytes};
use crate::support::{Nginx, require_nginx};

const LOGINS: usize = 100;
const QUERIES: usize = 10;

/// The file of the KAP manual, with other addresses.
pub(crate) fn manual(demo: &Demo, inside: &str) -> String {
    let servers = (0..demo.nodes.len())
        .map(|node| format!("    server {}; # Kylin Server {}\n", demo.address(node), node + 1))
        .collect::<String>();
    format!(
        "upstream kylin {{\n{inside}{servers}}}
server {{
    listen 127.0.0.1:@front@;
    location / {{
        proxy_pass http://kylin;
    }}
}}
"
    )
}

pub(crate) fn serve(text: &str) -> (Site, Server) {
    let config = Config::parse("kylin.conf", &text.replace("@front@", "1")).unwrap_or_else(|error| panic!("{error}"));
    let site = Site::new(config).unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    (site, server)
}

/// Logs in and queries, with a connection for each request. Returns the number of queries that were
/// not served, and that of all queries.
async fn lost(front: SocketAddr, logins: usize) -> usize {
    let mut lost = 0;
    for _ in 0..logins {
        let mut browser = Browser::new(front);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        for _ in 0..QUERIES {
            lost += usize::from(browser.query().await.status() != 200);
        }
    }
    lost
}

in_each_dialect!(the_manuals_file_keeps_every_login);

async fn the_manuals_file_keeps_every_login(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let (_site, server) = serve(&manual(&demo, ""));
    assert_eq!(lost(server.addresses()[0], LOGINS / 5).await, 0);
    // Both nodes are used.
    assert!(demo.nodes.iter().all(|node| node.stats().queries > 0));
}

#[tokio::test]
async fn a_real_nginx_loses_about_half_of_the_queries_with_the_same_file() {
    require_nginx!();
    for dialect in [Dialect::default(), Dialect::V5_0] {
        let demo = Demo::start(dialect, 2).await;
        let text = manual(&demo, "    # kylin_lb: sessions memory; policy least-conn;\n");
        let nginx = Nginx::start(&text).await;
        let theirs = lost(nginx.address("front"), LOGINS).await;
        assert!((LOGINS * QUERIES / 3..LOGINS * QUERIES * 2 / 3).contains(&theirs), "{theirs}");
        let (_site, server) = serve(&text);
        assert_eq!(lost(server.addresses()[0], LOGINS).await, 0, "the comment changes nothing for nginx");
    }
}

in_each_dialect!(a_build_whose_connection_breaks_is_not_sent_to_another_node);

async fn a_build_whose_connection_breaks_is_not_sent_to_another_node(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    for node in &demo.nodes {
        node.faults().inject(FaultScope::Everything, Fault::Close);
    }
    let (_site, server) = serve(&manual(&demo, ""));
    for n in 0..20 {
        let line = match is_v5(dialect) {
            true => format!("POST /kylin/api/models/m{n}/segments"),
            false => format!("PUT /kylin/api/cubes/c{n}/build"),
        };
        let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
        connection.send(bytes(&line, &[], "{}")).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), 502);
    }
    let mut targets: Vec<String> = demo.metastore.jobs().into_iter().map(|job| job.target).collect();
    let all = targets.len();
    targets.sort();
    targets.dedup();
    assert_eq!((all, targets.len()), (20, 20), "each build was executed once");
}

in_each_dialect!(calls_between_nodes_are_closed_and_other_paths_are_proxied_plainly);

async fn calls_between_nodes_are_closed_and_other_paths_are_proxied_plainly(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let (_site, server) = serve(&manual(&demo, ""));
    let ask = async |line: &str| {
        let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
        connection.send(bytes(line, &[], "")).await.unwrap();
        connection.response().await.unwrap().status()
    };
    assert_eq!(ask("PUT /kylin/api/cache/cube/c/update").await, 403);
    assert_eq!(ask("PUT /x/..;/kylin/api/cache/cube/c/update").await, 403, "as Tomcat reads it");
    assert_ne!(ask(&format!("{} /elsewhere", Method::GET)).await, 403);
}

#[tokio::test]
async fn a_login_through_one_upstream_is_known_to_another_with_the_same_servers() {
    let demo = Demo::start(Dialect::default(), 3).await;
    let servers: String = (0..3).map(|node| format!("server {};", demo.address(node))).collect();
    let text = format!(
        "upstream all {{ {servers} }} upstream queries {{ least_conn; {servers} }}
         server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://all; }}
         location /kylin/api/query {{ proxy_pass http://queries; }} }}"
    );
    let (_site, server) = serve(&text);
    assert_eq!(lost(server.addresses()[0], 12).await, 0);
}

#[tokio::test]
async fn an_upstream_that_is_not_of_kylin_gets_no_probe() {
    let demo = Demo::start(Dialect::default(), 1).await;
    let other = Demo::start(Dialect::default(), 1).await;
    let text = format!(
        "upstream kylin {{ server {}; }} upstream other {{ server {}; }}
         server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://kylin; }} location /grafana/ {{ proxy_pass http://other/; }} }}",
        demo.address(0),
        other.address(0)
    );
    let (site, _server) = serve(&text);
    let probes = site.start_probes().unwrap();
    assert_eq!(probes.len(), 1);
    demo.nodes[0].wait_until(|stats| stats.requests > 0).await.unwrap();
    assert_eq!(other.nodes[0].stats().requests, 0);
}
