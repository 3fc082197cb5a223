//! The load-balancing chapter of the KAP manual, one sentence after another, in our own words. The
//! tests cover its statements about nodes, about nginx in front of them and about logins, to the
//! extent that a program can check them. If the manual is wrong, the test states what is right.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use kylin_lb::discovery::KylinConfig;
use kylin_lb::endpoint::Role;
use kylin_lb::kylin::properties::Properties;
use kylin_lb::kylin::tomcat::{ManagerKind, SessionManager, Warning};
use kylin_lb::nginx::{SessionMode, Site};
use kylin_lb::server::Server;
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Mode};
use serde_json::{Value, json};

use crate::nginx_kylin::{manual, serve};
use crate::support::browser::Browser;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{Front, until};
use crate::support::http::{Connection, RawResponse};
use crate::support::kylin::{Demo, answered_by, bytes, sql};
use crate::support::tomcat::Tomcat;
use crate::support::{Nginx, example, require_nginx};

/// Nodes behind the manual's nginx file, with `inside` in its upstream.
struct Cluster {
    demo: Demo,
    site: Site,
    server: Server,
}

impl Cluster {
    async fn start(dialect: Dialect, inside: &str) -> Self {
        let demo = Demo::start(dialect, 2).await;
        let (site, server) = serve(&manual(&demo, inside));
        Cluster { demo, site, server }
    }

    fn front(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    /// Returns the nodes that respond to this many queries, each with its own credentials.
    async fn nodes(&self, queries: usize) -> Vec<String> {
        let mut nodes = Vec::new();
        for _ in 0..queries {
            nodes.push(answered_by(&Browser::insistent(self.front(), "ADMIN", "KYLIN").query().await));
        }
        nodes
    }

    /// Returns a user who is logged in through the front end.
    async fn user(&self) -> Browser {
        user(self.front()).await
    }
}

async fn user(front: SocketAddr) -> Browser {
    let mut browser = Browser::new(front);
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    browser
}

/// Returns how many of eight queries of a user found the login, and the nodes that responded to
/// them.
async fn kept(mut user: Browser) -> (usize, BTreeSet<String>) {
    let mut nodes = BTreeSet::new();
    let mut kept = 0;
    for _ in 0..8 {
        let response = user.query().await;
        if response.status() == 200 {
            nodes.insert(answered_by(&response));
            kept += 1;
        } else {
            assert_eq!(response.status(), 401, "{}", response.text());
        }
    }
    (kept, nodes)
}

/// Returns the response to a query from this address of a client.
async fn query_from(client: IpAddr, front: SocketAddr) -> RawResponse {
    let mut connection = Connection::open_from(client, front).await.unwrap();
    connection.send(bytes("POST /kylin/api/query", &[], &sql("select 1"))).await.unwrap();
    connection.response().await.unwrap()
}

// The nodes.

in_each_dialect!(what_is_saved_through_one_node_is_seen_through_another);
/// The nodes themselves keep no metadata: it is in the metastore.
async fn what_is_saved_through_one_node_is_seen_through_another(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let at = |node: usize| Browser::insistent(demo.address(node), "ADMIN", "KYLIN");
    let query = json!({"name": "mine", "project": "learn_kylin", "sql": "select 7"}).to_string();
    let headers = [("Content-Type", "application/json")];
    assert_eq!(at(0).ask("POST /kylin/api/saved_queries", &headers, &query).await.status(), 200);
    assert!(at(1).get("/kylin/api/saved_queries").await.text().contains("select 7"));
}

in_each_dialect!(nodes_do_keep_logins_and_changed_settings);
/// The manual calls the nodes stateless. But logins, and settings that were changed while a node
/// runs, are state of one node.
async fn nodes_do_keep_logins_and_changed_settings(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let mut user = user(demo.address(0)).await;
    assert_eq!(user.query().await.status(), 200);
    user.front = demo.address(1);
    assert_eq!(user.query().await.status(), 401);
    if is_v5(dialect) {
        return;
    }
    let change = json!({"key": "kylin.query.x", "value": "changed"}).to_string();
    let administrator = |node: usize| Browser::insistent(demo.address(node), "ADMIN", "KYLIN");
    let headers = [("Content-Type", "application/json")];
    assert_eq!(administrator(0).ask("PUT /kylin/api/admin/config", &headers, &change).await.status(), 200);
    for (node, is_changed) in [(0, true), (1, false)] {
        let config = administrator(node).get("/kylin/api/admin/config").await;
        assert_eq!(config.text().contains("changed"), is_changed);
    }
}

in_each_dialect!(nodes_share_the_load_of_queries);
/// Several nodes divide the queries among them.
async fn nodes_share_the_load_of_queries(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    cluster.nodes(10).await;
    assert_eq!(cluster.demo.nodes.iter().map(|node| node.stats().queries).collect::<Vec<_>>(), [5, 5]);
}

in_each_dialect!(nodes_stand_in_for_each_other);
/// The nodes are backups of each other, so the service stays available if one of them is not.
async fn nodes_stand_in_for_each_other(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, "").await;
    for gone in 0..2 {
        let address = cluster.demo.address(gone);
        cluster.demo.served[gone].take().unwrap().kill().await;
        assert!(cluster.nodes(6).await.iter().all(|node| *node == format!("q{}", 1 - gone)));
        cluster.demo.served[gone] = Some(cluster.demo.nodes[gone].serve(address).await.unwrap());
        until("both nodes serve", async || cluster.nodes(4).await.iter().collect::<BTreeSet<_>>().len() == 2).await;
    }
}

in_each_dialect!(a_node_with_another_metadata_url_is_no_member);
/// Every node has the same `kylin.metadata.url` in its `kylin.properties`, and so the same
/// metastore.
async fn a_node_with_another_metadata_url_is_no_member(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let foreign = Metastore::new().identity("other@jdbc,url=jdbc:mysql://elsewhere/kylin", &"cd".repeat(32));
    let foreign = KylinNode::new("foreign").kylin_version(dialect).metastore(&foreign);
    let served = foreign.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let named = format!("a@{},b@{},foreign@{}", demo.address(0), demo.address(1), served.addr());
    let login = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&login, "ADMIN:KYLIN").unwrap();
    let found = doctor(&["--nodes", &named, "--login-file", login.path().to_str().unwrap()]).await;
    let finding = &found["findings"][0];
    assert_eq!((&finding["check"], &finding["nodes"]), (&json!("metastore"), &json!(["foreign"])), "{found:#}");

    // The URLs are compared as the front end reads the property.
    let url = |text: &str| {
        let properties = Properties::parse("kylin.properties", text).unwrap();
        KylinConfig::from_properties(&properties).unwrap().metadata_url().unwrap().clone()
    };
    let (one, other) =
        (url("kylin.metadata.url=kylin_metadata@hbase"), url("kylin.metadata.url = kylin_metadata@hbase\n"));
    assert!(one.is_same_store(&other) && !one.is_same_store(&url("kylin.metadata.url=kylin2@hbase")));
}

/// All nodes use the same Hadoop and the same HBase cluster. [`crate::example_doctor`] has nodes of
/// two roles, which may use two.
#[tokio::test]
async fn nodes_of_two_hadoop_clusters_are_found() {
    let demo = Demo::start(Dialect::Kap2_4, 2).await;
    let change = json!({"key": "kylin.storage.hbase.cluster-fs", "value": "hdfs://elsewhere"}).to_string();
    let mut administrator = Browser::insistent(demo.address(1), "ADMIN", "KYLIN");
    administrator.ask("PUT /kylin/api/admin/config", &[("Content-Type", "application/json")], &change).await;
    let login = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&login, "ADMIN:KYLIN").unwrap();
    let named = format!("a@{},b@{}", demo.address(0), demo.address(1));
    let found = doctor(&["--nodes", &named, "--login-file", login.path().to_str().unwrap()]).await;
    let finding = &found["findings"][0];
    assert_eq!((&finding["check"], &finding["nodes"]), (&json!("storage"), &json!(["b"])), "{found:#}");
}

async fn doctor(args: &[&str]) -> Value {
    let args: Vec<String> =
        ["doctor", "--json", "--timeout=60s"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let run = move || example::run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

in_each_dialect!(the_job_engine_may_be_on_nodes_of_its_own_and_be_replaced);
/// Another chapter covers the high availability of the job engine: several nodes may run jobs, and
/// builds go to those.
async fn the_job_engine_may_be_on_nodes_of_its_own_and_be_replaced(dialect: Dialect) {
    let mut demo = Demo::start(dialect, 3).await;
    for (node, mode) in demo.nodes.iter().zip([Mode::Query, Mode::Job, Mode::Job]) {
        node.set_mode(mode);
    }
    let roles = [Role::Query, Role::Job, Role::Job];
    let endpoints = demo.endpoints().into_iter().zip(roles).map(|(endpoint, role)| endpoint.roles(role));
    let front = Front::kylin(endpoints, |proxy| proxy);
    let build = async |cube: &str| {
        let line = match is_v5(dialect) {
            true => format!("POST /kylin/api/models/{cube}/segments"),
            false => format!("PUT /kylin/api/cubes/{cube}/build"),
        };
        let response = Browser::insistent(front.address(), "ADMIN", "KYLIN")
            .ask(&line, &[("Content-Type", "application/json")], "{}")
            .await;
        assert_eq!(response.status(), 200, "{}", response.text());
    };
    build("one").await;
    let first = demo.metastore.jobs()[0].node.clone();
    let at: usize = first[1..].parse().unwrap();
    assert!(at == 1 || at == 2, "{first}");
    demo.served[at].take().unwrap().kill().await;
    build("two").await;
    let jobs: Vec<(String, String)> = demo.metastore.jobs().into_iter().map(|job| (job.target, job.node)).collect();
    assert_eq!(jobs, [("one".into(), first), ("two".into(), format!("q{}", 3 - at))]);
}

// The load balancer.

in_each_dialect!(users_reach_kylin_at_the_address_of_the_load_balancer);
/// Users have one address, that of the load balancer. Pages, logins, queries and redirects use that
/// address.
async fn users_reach_kylin_at_the_address_of_the_load_balancer(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    let mut user = cluster.user().await;
    assert_eq!(user.get("/kylin/").await.status(), 200);
    assert_eq!(user.query().await.status(), 200);
    let redirect = user.get("/kylin").await;
    let location = redirect.header("location").unwrap();
    assert!(
        location == "/kylin/" || location == "http://kylin/kylin/",
        "not the name that the client used: {location}"
    );
    for node in 0..2 {
        let address = cluster.demo.address(node).to_string();
        assert!(!format!("{:?} {}", redirect.head.headers, redirect.text()).contains(&address));
    }
}

in_each_dialect!(a_query_that_one_node_refuses_is_sent_to_another);
/// The load balancer asks another node if one fails.
async fn a_query_that_one_node_refuses_is_sent_to_another(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, "").await;
    cluster.demo.served[0].take().unwrap().kill().await;
    // No client sees the failure, starting with the first query.
    assert_eq!(cluster.nodes(4).await, ["q1"; 4]);
}

in_each_dialect!(users_of_ldap_are_those_of_every_node);
/// Users and roles usually come from LDAP, which all nodes ask. [`crate::user_source_down`] covers
/// the time while it is down.
async fn users_of_ldap_are_those_of_every_node(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    _ = cluster.demo.metastore.clone().user("bi", "tool", false);
    for _ in 0..4 {
        assert_eq!(Browser::insistent(cluster.front(), "bi", "tool").query().await.status(), 200);
    }
    assert!(cluster.demo.nodes.iter().all(|node| node.stats().logins > 0), "both nodes know the user");
    assert_eq!(Browser::insistent(cluster.front(), "bi", "wrong").query().await.status(), 401);
}

// nginx.

in_each_dialect!(the_file_of_the_manual_is_accepted_as_it_is);
/// The manual's file: an upstream of two nodes followed by comments, a server at 8080, and one
/// location for all paths.
async fn the_file_of_the_manual_is_accepted_as_it_is(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    let clusters: Vec<(&str, usize)> =
        cluster.site.clusters().map(|(name, cluster)| (name, cluster.status().endpoints.len())).collect();
    assert_eq!(clusters, [("kylin", 2)]);
    // The rules of Kylin apply to it, although it does not mention them.
    let config = manual(&cluster.demo, "").replace("127.0.0.1:@front@", "8080");
    let report = kylin_lb::nginx::Config::parse("kylin.conf", &config).unwrap().report().to_string();
    for part in ["kylin      on", "sessions   learned", "server 0.0.0.0:8080", "location / -> "] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

in_each_dialect!(nodes_take_turns_by_default);
/// Without a method, requests are distributed by round robin.
async fn nodes_take_turns_by_default(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    let nodes = cluster.nodes(6).await;
    assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "{nodes:?}");
}

/// A real nginx with the same file picks in the same order.
#[tokio::test]
async fn nginx_takes_the_same_turns() {
    require_nginx!();
    let demo = Demo::start(Dialect::Kap2_4, 2).await;
    let text = manual(&demo, "");
    let nginx = Nginx::start(&text).await;
    let (_site, server) = serve(&text);
    let mut turns = Vec::new();
    for front in [nginx.address("front"), server.addresses()[0]] {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(answered_by(&Browser::insistent(front, "ADMIN", "KYLIN").query().await));
        }
        turns.push(nodes);
    }
    assert_eq!(turns[0], turns[1]);
}

in_each_dialect!(a_node_that_fails_is_taken_out_and_comes_back);
/// A node that fails is automatically taken out of service.
async fn a_node_that_fails_is_taken_out_and_comes_back(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, "").await;
    let _checkers = cluster.site.start_probes().unwrap();
    let address = cluster.demo.address(0);
    cluster.demo.served[0].take().unwrap().kill().await;
    let (_, upstream) = cluster.site.clusters().next().unwrap();
    let upstream = upstream.clone();
    until("the node is out", async || {
        assert_eq!(cluster.nodes(1).await, ["q1"]);
        !upstream.status().endpoints[0].is_up()
    })
    .await;
    assert!(upstream.status().endpoints[1].is_up());
    cluster.demo.served[0] = Some(cluster.demo.nodes[0].serve(address).await.unwrap());
    until("the node serves again", async || cluster.nodes(2).await.contains(&"q0".to_owned())).await;
}

// Logins.

in_each_dialect!(a_login_is_known_to_its_node_only);
/// By default a node keeps its sessions to itself, so round robin loses logins.
async fn a_login_is_known_to_its_node_only(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let front = Front::over(&[demo.address(0), demo.address(1)]);
    let (kept_queries, nodes) = kept(user(front.address()).await).await;
    assert_eq!((kept_queries, nodes.len()), (4, 1), "the plain proxy takes turns");
}

in_each_dialect!(the_front_end_keeps_logins_with_the_file_of_the_manual);
/// Logins that nginx loses with the manual's file are kept here. [`crate::nginx_kylin`] counts how
/// many a real nginx loses.
async fn the_front_end_keeps_logins_with_the_file_of_the_manual(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "").await;
    let mut used = BTreeSet::new();
    for _ in 0..4 {
        let (kept, nodes) = kept(cluster.user().await).await;
        assert_eq!((kept, nodes.len()), (8, 1));
        used.extend(nodes);
    }
    assert_eq!(used.len(), 2, "other users are at the other node");
}

in_each_dialect!(by_ip_hash_a_client_stays_with_a_node);
/// With `ip_hash`, the client's address decides, so its logins are kept.
async fn by_ip_hash_a_client_stays_with_a_node(dialect: Dialect) {
    let cluster = Cluster::start(dialect, "    ip_hash;\n    # kylin_lb: sessions none;\n").await;
    let mut used = BTreeSet::new();
    for network in 0..16 {
        let client = IpAddr::from([127, 0, network, 1]);
        let mut nodes = BTreeSet::new();
        for _ in 0..3 {
            nodes.insert(answered_by(&query_from(client, cluster.front()).await));
        }
        assert_eq!(nodes.len(), 1, "{client}");
        used.extend(nodes);
    }
    assert_eq!(used.len(), 2);
    let (kept, nodes) = kept(cluster.user().await).await;
    assert_eq!((kept, nodes.len()), (8, 1));
}

/// With nginx's hash, a client has the same node here and there. [`crate::nginx_choice`] covers
/// more methods and weights.
#[tokio::test]
async fn nginx_sends_a_client_to_the_same_node_by_ip_hash() {
    require_nginx!();
    let demo = Demo::start(Dialect::Kap2_4, 2).await;
    let text = manual(&demo, "    ip_hash;\n    # kylin_lb: sessions none;\n");
    let nginx = Nginx::start(&text).await;
    let (_site, server) = serve(&text);
    for network in 0..32 {
        let client = IpAddr::from([127, 0, network, 1]);
        let theirs = answered_by(&query_from(client, nginx.address("front")).await);
        assert_eq!(answered_by(&query_from(client, server.addresses()[0]).await), theirs, "{client}");
    }
}

in_each_dialect!(by_ip_hash_few_clients_may_load_few_nodes);
/// A few application servers in one network are one client for `ip_hash`, so one node gets all
/// queries. Learned sessions spread them.
async fn by_ip_hash_few_clients_may_load_few_nodes(dialect: Dialect) {
    let servers = [1, 2, 3, 4].map(|host| IpAddr::from([127, 0, 0, host]));
    let queries = async |inside: &str| {
        let cluster = Cluster::start(dialect, inside).await;
        for client in servers.iter().cycle().take(8) {
            assert_eq!(query_from(*client, cluster.front()).await.status(), 200);
        }
        let mut queries: Vec<u64> = cluster.demo.nodes.iter().map(|node| node.stats().queries).collect();
        queries.sort_unstable();
        queries
    };
    assert_eq!(queries("    ip_hash;\n").await, [0, 8]);
    assert_eq!(queries("").await, [4, 4]);
}

in_each_dialect!(with_shared_sessions_every_node_knows_a_login);
/// With sessions in Redis, MySQL or Memcached, every node knows every login, and round robin keeps
/// all of them. [`crate::tomcat_sessions`] covers real Tomcats.
async fn with_shared_sessions_every_node_knows_a_login(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    for node in &demo.nodes {
        _ = node.clone().share_sessions(true);
    }
    let front = Front::over(&[demo.address(0), demo.address(1)]);
    let (kept, nodes) = kept(user(front.address()).await).await;
    assert_eq!((kept, nodes.len()), (8, 2));
}

/// Two real Tomcats lose logins under round robin, and keep them with a session manager and a
/// shared store, as the manual says. The store of this test is a folder, because the others need
/// jars that do not come with Tomcat.
#[tokio::test(flavor = "multi_thread")]
async fn tomcats_with_one_store_share_their_logins() {
    if !Tomcat::required() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let context = format!(
        r#"<Context><Valve className="org.apache.catalina.valves.PersistentValve"/>
        <Manager className="org.apache.catalina.session.PersistentManager" maxIdleBackup="0">
        <Store className="org.apache.catalina.session.FileStore" directory="{}"/></Manager></Context>"#,
        folder.path().display()
    );
    let login = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&login, "ADMIN:KYLIN").unwrap();
    for shared in [false, true] {
        let nodes = match shared {
            true => Tomcat::start_with_context(&["n1", "n2"], &context).await,
            false => Tomcat::start(&["n1", "n2"]).await,
        };
        let addresses = [nodes[0].address(), nodes[1].address()];
        let front = Front::over(&addresses);
        let expected = if shared { (8, 2) } else { (4, 1) };
        let (kept, by) = kept(user(front.address()).await).await;
        assert_eq!((kept, by.len()), expected, "{by:?}");

        let sessions = match shared {
            true => format!("--sessions=replicated={}", nodes[0].base().join("conf/context.xml").display()),
            false => "--sessions=replicated".to_owned(),
        };
        let named = format!("{},{}", addresses[0], addresses[1]);
        let found = doctor(&["--nodes", &named, &sessions, "--login-file", login.path().to_str().unwrap()]).await;
        assert_eq!(
            (&found["sound"], &found["session_ways"]["kylin"]["replicated"]),
            (&json!(shared), &json!(shared)),
            "{found:#}"
        );
        assert_eq!(found["session_ways"]["kylin"]["route"], true, "{found:#}");
        if shared {
            assert!(found["understood"].as_str().unwrap().contains("PersistentManager of Tomcat"), "{found:#}");
            assert!(found["notes"].to_string().contains(&Warning::Files.to_string()), "{found:#}");
        }
    }
}

// The three steps for sessions in Redis, and their mistakes.

/// The lines that the manual adds to `context.xml`, with a host.
fn recipe(host: &str) -> String {
    format!(
        r#"<Context>
    <Valve className="com.radiadesign.catalina.session.RedisSessionHandlerValve" />
    <Manager className="com.radiadesign.catalina.session.RedisSessionManager" host="{host}" port="6379" database="0" maxInactiveInterval="60"/>
</Context>"#
    )
}

fn manager(file: &str, xml: &str) -> SessionManager {
    SessionManager::from_context(file, xml).unwrap().unwrap()
}

/// The manual's jars are jedis 2.0.0 and commons-pool2 2.2, of two generations, and a manager whose
/// address no longer exists.
#[test]
fn the_jars_of_the_manual_do_not_fit_each_other() {
    let manager = manager("tomcat/conf/context.xml", &recipe("redis.example"));
    assert_eq!(manager.kind(), ManagerKind::TomcatRedis1);
    let jars = Warning::ManualJars;
    assert!(manager.warnings().contains(&jars));
    for part in ["jedis-2.0.0", "commons-pool-1.5.5", "commons-pool2-2.2", "jedis-2.5.2", "github.com/downloads"] {
        assert!(jars.to_string().contains(part), "{part}");
    }
}

/// The manual's path is `tomcat/context.xml`. Tomcat reads `tomcat/conf/context.xml`.
#[test]
fn the_path_of_the_manual_is_not_read_by_tomcat() {
    for (file, is_wrong) in [("/opt/kap/tomcat/context.xml", true), ("/opt/kap/tomcat/conf/context.xml", false)] {
        let warnings = manager(file, &recipe("redis.example")).warnings();
        assert_eq!(warnings.contains(&Warning::WrongPath), is_wrong, "{file}");
    }
    assert!(Warning::WrongPath.to_string().contains("tomcat/conf/context.xml"));
}

/// The manual's `maxInactiveInterval="60"` does not determine how long a session lives;
/// `session-timeout` of `web.xml` does, 480 minutes.
#[test]
fn the_value_of_the_manual_is_not_the_time_to_live() {
    let with = manager("context.xml", &recipe("redis.example"));
    assert!(with.warnings().contains(&Warning::MaxInactiveIgnored));
    let without = recipe("redis.example").replace(r#" maxInactiveInterval="60""#, "");
    assert!(!manager("context.xml", &without).warnings().contains(&Warning::MaxInactiveIgnored));
    let text = Warning::MaxInactiveIgnored.to_string();
    assert!(text.contains("not the time to live") && text.contains("480 minutes"), "{text}");
}

/// The manual adds a valve and a manager. Without the valve no session is saved.
#[test]
fn the_valve_belongs_to_the_manager() {
    let recipe = recipe("redis.example");
    assert!(!manager("context.xml", &recipe).warnings().contains(&Warning::NoValve));
    let without = recipe.lines().filter(|line| !line.contains("<Valve")).collect::<Vec<_>>().join("\n");
    assert!(manager("context.xml", &without).warnings().contains(&Warning::NoValve));
}

/// Host and port are those of the Redis that all nodes use. The `localhost` of the example means a
/// Redis on each node.
#[test]
fn host_and_port_are_those_of_a_redis_that_nodes_share() {
    for (host, is_local) in [("localhost", true), ("127.0.0.1", true), ("10.0.0.9", false)] {
        let manager = manager("context.xml", &recipe(host));
        let store = &manager.stores()[0];
        assert_eq!((store.host(), store.port(), manager.database()), (host, 6379, 0));
        assert_eq!(manager.warnings().contains(&Warning::Local), is_local, "{host}");
    }
}

/// Beside Redis, the manual names MySQL and Memcached.
#[test]
fn sessions_may_be_in_mysql_or_memcached() {
    let mysql = r#"<Context><Valve className="org.apache.catalina.valves.PersistentValve"/>
        <Manager className="org.apache.catalina.session.PersistentManager" maxIdleBackup="0"><Store
        className="org.apache.catalina.session.JDBCStore" connectionURL="jdbc:mysql://db.example/kylin"/></Manager></Context>"#;
    let memcached = r#"<Context><Manager className="de.javakaffee.web.msm.MemcachedBackupSessionManager"
        memcachedNodes="n1:m1.example:11211,n2:m2.example:11211" sticky="false"/></Context>"#;
    for (xml, kind, hosts) in [
        (mysql, ManagerKind::Persistent, "db.example:3306"),
        (memcached, ManagerKind::Memcached, "m1.example:11211 m2.example:11211"),
    ] {
        let manager = manager("context.xml", xml);
        let stores = manager.stores().iter().map(|store| format!("{}:{}", store.host(), store.port()));
        assert_eq!((manager.kind(), stores.collect::<Vec<_>>().join(" ")), (kind, hosts.to_owned()));
    }
}

/// `--sessions replicated=FILE` reads the file of the third step, and reports its mistakes.
#[test]
fn the_front_end_reads_the_file_of_the_third_step() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &Path, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        format!("replicated={}", path.display()).parse::<SessionMode>()
    };
    let mode = write(&folder.path().join("tomcat/context.xml"), &recipe("localhost")).unwrap();
    assert!(
        mode.to_string().starts_with("replicated by the nodes: tomcat-redis-session-manager 1.x at localhost:6379")
    );
    let warnings = mode.warnings();
    for warning in [Warning::ManualJars, Warning::WrongPath, Warning::MaxInactiveIgnored, Warning::Local] {
        assert!(warnings.contains(&warning.to_string()), "{warning} in {warnings:?}");
    }
    // A node without the step keeps its sessions to itself.
    let error = write(&folder.path().join("tomcat/conf/context.xml"), "<Context/>").unwrap_err().to_string();
    assert!(error.contains("each node keeps its sessions to itself"), "{error}");
}
