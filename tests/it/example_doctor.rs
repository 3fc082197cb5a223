//! `kylin_front doctor`: each fault that is planted in a cluster is found and named, and a sound
//! cluster has none.

use std::sync::Mutex;

use http::StatusCode;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope, KylinNode, Metastore, Mode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::example;
use crate::support::front::closed_port;
use crate::support::kylin::Demo;
use crate::support::raw_node::{Act, RawNode, healthy};
use crate::support::zookeeper::{ZooKeeperServer, create, kylin_3_1, require_zookeeper};

/// Does not wait for a response to one run before it serves the nodes of the next.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    // The machine may be slow.
    let timeout = if args.iter().any(|arg| arg.starts_with("--timeout")) { None } else { Some(&"--timeout=60s") };
    let args: Vec<String> = ["doctor"].iter().chain(timeout).chain(args).map(|arg| (*arg).to_owned()).collect();
    let run = move || example::run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The report of a run with these arguments. Its exit status fits.
async fn report(args: &[&str]) -> Value {
    let (code, stdout, stderr) = run(&[args, &["--json"]].concat()).await;
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    let expected = if report["findings"].as_array().unwrap().is_empty() { 0 } else { 1 };
    assert_eq!((code, &report["sound"]), (Some(expected), &json!(expected == 0)), "{report:#}");
    assert!(!stdout.contains("KYLIN\"") && !stdout.contains("password=k"), "a secret: {stdout}");
    if report["nodes"].as_array().unwrap().len() > 1 {
        assert_says_all(&report);
    }
    report
}

/// Asserts that each check that compares nodes passed, has a finding, or has a reason why it was
/// not made.
fn assert_says_all(report: &Value) {
    let lists = ["findings", "not_checked"].map(|list| report[list].as_array().unwrap());
    let checks = lists.into_iter().flatten().map(|entry| &entry["check"]);
    let said: Vec<&Value> = checks.chain(report["passed"].as_array().unwrap()).collect();
    for check in ["version", "clock", "metastore", "storage", "cluster-servers", "discovery", "users"] {
        assert!(said.contains(&&json!(check)), "nothing about {check}: {report:#}");
    }
}

/// The findings as `check: nodes: text`.
fn findings(report: &Value) -> Vec<String> {
    let text = |finding: &Value| {
        let nodes: Vec<&str> = finding["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
        assert!(!finding["because"].as_str().unwrap().is_empty() && !finding["manual"].as_str().unwrap().is_empty());
        format!("{}: {}: {}", finding["check"].as_str().unwrap(), nodes.join(" "), finding["text"].as_str().unwrap())
    };
    report["findings"].as_array().unwrap().iter().map(text).collect()
}

/// Asserts that each finding has these parts, in order, and that there are no other findings.
#[track_caller]
fn assert_found(report: &Value, expected: &[&[&str]]) {
    let found = findings(report);
    let fits = |(found, parts): (&String, &&[&str])| parts.iter().all(|part| found.contains(part));
    let all_fit = found.iter().zip(expected).all(fits);
    assert!(found.len() == expected.len() && all_fit, "expected {expected:?} in {report:#}");
}

/// A cluster, and a file with a login.
struct Cluster {
    demo: Demo,
    folder: TempDir,
    /// The roles of the nodes in `--nodes`, each with a `=` in front; empty for the default.
    roles: Mutex<Vec<&'static str>>,
}

impl Cluster {
    async fn start(dialect: Dialect, count: usize) -> Self {
        let cluster = Cluster {
            demo: Demo::start(dialect, count).await,
            folder: TempDir::new().unwrap(),
            roles: Mutex::new(vec![""; count]),
        };
        cluster.file("admin", "ADMIN:KYLIN\n");
        cluster
    }

    fn file(&self, name: &str, text: &str) -> String {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// `--nodes` for these nodes.
    fn named(&self) -> String {
        let roles = self.roles.lock().unwrap();
        let nodes = self.demo.nodes.iter().enumerate();
        let nodes = nodes.map(|(at, node)| format!("{}@{}{}", node.name(), self.demo.address(at), roles[at]));
        nodes.collect::<Vec<_>>().join(",")
    }

    /// Sets the modes of the nodes, and the role `job` of those that only run jobs.
    fn set_modes<const N: usize>(&self, modes: [Mode; N]) {
        for (at, (node, mode)) in self.demo.nodes.iter().zip(modes).enumerate() {
            self.roles.lock().unwrap()[at] = if matches!(mode, Mode::Job) { "=job" } else { "" };
            node.set_mode(mode);
        }
    }

    /// Sets a property of a node, which the node tells an administrator.
    async fn set(&self, node: usize, key: &str, value: &str) {
        let body = json!({"key": key, "value": value}).to_string();
        let response = Browser::insistent(self.demo.address(node), "ADMIN", "KYLIN")
            .ask("PUT /kylin/api/admin/config", &[("Content-Type", "application/json")], &body)
            .await;
        assert_eq!(response.status(), 200, "{}", response.text());
        self.demo.nodes[node].forget_sessions();
    }

    /// Makes another node a member instead of one.
    async fn replace(&mut self, at: usize, node: KylinNode) {
        self.demo.served[at] = Some(node.serve("127.0.0.1:0".parse().unwrap()).await.unwrap());
        self.demo.nodes[at] = node;
    }

    /// The report with the administrator's login.
    async fn report(&self, args: &[&str]) -> Value {
        let (named, login) = (self.named(), self.folder.path().join("admin"));
        report(&[&["--nodes", &named, "--login-file", login.to_str().unwrap()], args].concat()).await
    }
}

async fn a_sound_cluster_has_no_findings(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    let found = cluster.report(&[]).await;
    assert_found(&found, &[]);
    let passed: Vec<&str> = found["passed"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let every = [
        "source",
        "reachable",
        "probe",
        "version",
        "clock",
        "metastore",
        "job-engine",
        "discovery",
        "sessions",
        "timeouts",
    ];
    for check in every {
        assert!(passed.contains(&check), "{check} in {found:#}");
    }
    for check in ["storage", "cluster-servers", "users"] {
        assert_eq!(passed.contains(&check), !is_v5(dialect), "Kylin 5 does not tell its properties: {found:#}");
    }
    let probe = if dialect.reported_version().is_some() { "version" } else { "authentication" };
    for node in found["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["probe"], &node["version"]),
            (&json!(probe), &json!(dialect.reported_version())),
            "{found:#}"
        );
        assert_eq!((&node["roles"], &node["is_administrator"]), (&json!("all"), &json!(true)), "{found:#}");
    }
    // The doctor leaves no session behind, and has run no query and no build.
    for node in &cluster.demo.nodes {
        let stats = node.stats();
        assert_eq!((node.sessions(), stats.queries, stats.builds, stats.wrong_passwords), (0, 0, 0, 0));
    }
    assert!(cluster.demo.metastore.jobs().is_empty());

    // Without a login there is less to compare, and no finding either.
    let found = report(&["--nodes", &cluster.named()]).await;
    assert_found(&found, &[]);
    assert!(found["not_checked"].to_string().contains("--login-file"), "{found:#}");
    assert!(cluster.demo.nodes.iter().all(|node| node.sessions() == 0));
}
in_each_dialect!(a_sound_cluster_has_no_findings);

async fn a_node_that_does_not_respond_is_named(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, 3).await;
    let named = cluster.named();
    cluster.demo.served[1].take().unwrap().kill().await;
    let login = cluster.folder.path().join("admin");
    let found = report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    // The others no longer know a node that is gone.
    assert_found(&found, &[&["reachable: q1: does not respond at 127.0.0.1:"]]);
    assert!(found["session_ways"]["kylin"].is_object(), "the others are checked: {found:#}");
    // A node that is taken out of service may be down.
    let named = named.replace(",q2@", " down,q2@");
    let found = report(&["--nodes", &named]).await;
    assert_found(&found, &[]);
    assert!(found["notes"].to_string().contains("down by its setting"), "{found:#}");
}
in_each_dialect!(a_node_that_does_not_respond_is_named);

#[tokio::test]
async fn what_is_not_compared_is_said() {
    let mut cluster = Cluster::start(Dialect::V3_1, 2).await;
    let named = cluster.named();
    cluster.demo.served[1].take().unwrap().kill().await;
    let login = cluster.folder.path().join("admin");
    let found = report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    assert_found(&found, &[&["reachable: q1: "]]);
    let not_checked = found["not_checked"].to_string();
    assert!(not_checked.contains("no two nodes that respond"), "{found:#}");
    // Another server may have the address of the dead node by now, and must not get a login.
    let text = "not tried: no response shows whether a Kylin is at the address of q1";
    assert!(not_checked.contains(text) && !not_checked.contains("may reach a server that is no Kylin"), "{found:#}");
    cluster.demo.served[0].take().unwrap().kill().await;
    let found = report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    let text = "a login through the front end was not tried: no node has accepted the login";
    assert!(found["not_checked"].to_string().contains(text), "{found:#}");
}

#[tokio::test]
async fn a_node_that_hangs_is_named_after_the_timeout() {
    let cluster = Cluster::start(Dialect::V3_1, 2).await;
    cluster.demo.nodes[0].faults().inject(FaultScope::Everything, Fault::Stall);
    let (code, stdout, _) = run(&["--nodes", &cluster.named(), "--json", "--timeout=200ms"]).await;
    let found: Value = serde_json::from_str(&stdout).unwrap();
    // The other one may need as long on a busy machine.
    assert!(code == Some(1) && findings(&found)[0].starts_with("reachable: q0: does not respond"), "{found:#}");
    assert!(findings(&found)[0].contains("within 0.2 s"), "{found:#}");
}

async fn a_node_that_is_no_kylin_or_fails_each_probe_is_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    let page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nIt works!".to_vec();
    let other = RawNode::start([vec![Act::Serve(page)]]).await;
    let named = format!("{},other@{}", cluster.named(), other.address());
    assert_found(&report(&["--nodes", &named]).await, &[&["probe: other: responds, but not as Kylin"]]);
    cluster.demo.nodes[0].faults().inject(FaultScope::Everything, Fault::Html(StatusCode::SERVICE_UNAVAILABLE));
    assert_found(&report(&["--nodes", &cluster.named()]).await, &[&["probe: q0: responds with a server error"]]);
}
in_each_dialect!(a_node_that_is_no_kylin_or_fails_each_probe_is_named);

async fn a_node_that_reports_itself_down_is_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    cluster.demo.nodes[1].faults().set_metastore_down(true);
    let found = report(&["--nodes", &cluster.named()]).await;
    assert_found(&found, &[&["reachable: q1: reports that these are down: metaStore"]]);
}
in_each_dialect!(a_node_that_reports_itself_down_is_named, V5);

async fn a_node_of_another_metastore_is_named(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, 3).await;
    let url = "test_docker@jdbc,url=jdbc:mysql://elsewhere:3306/kylin,username=k,password=kept";
    let other = Metastore::new().identity(url, &"ab".repeat(32));
    cluster.replace(2, KylinNode::new("q2").kylin_version(dialect).metastore(&other)).await;
    let found = cluster.report(&[]).await;
    let text = findings(&found).remove(0);
    assert!(text.starts_with("metastore: q2: is a node of another metastore than q0, q1: "), "{found:#}");
    assert_eq!(text.contains("elsewhere:3306"), !is_v5(dialect), "{found:#}");
    assert!(!found.to_string().contains("kept"), "a password: {found:#}");

    // Any user sees the ids of projects. Kylin 5 shows the difference to everyone.
    let (named, analyst) = (cluster.named(), cluster.file("analyst", "ANALYST:ANALYST"));
    for args in [&["--nodes", &*named][..], &["--nodes", &named, "--login-file", &analyst]] {
        let found = findings(&report(args).await);
        let shows = args.len() > 2 || is_v5(dialect) || dialect == Dialect::V2_6;
        assert_eq!(found.iter().any(|text| text.starts_with("metastore: q2: ")), shows, "{found:?}");
    }
}
in_each_dialect!(a_node_of_another_metastore_is_named);

#[tokio::test]
async fn nodes_of_one_role_use_one_storage_and_those_of_two_may_have_two() {
    let cluster = Cluster::start(Dialect::V3_1, 4).await;
    cluster.set_modes([Mode::Query, Mode::Query, Mode::Job, Mode::Job]);
    for (key, one, other) in [
        ("kylin.env.hdfs-working-dir", "hdfs://query/kylin", "hdfs://build/kylin"),
        ("kylin.storage.hbase.cluster-fs", "hdfs://query", "hdfs://build"),
        ("kylin.env.zookeeper-connect-string", "z1:2181", "z2:2181"),
    ] {
        for (at, value) in [one, one, other, other].into_iter().enumerate() {
            cluster.set(at, key, value).await;
        }
        assert_found(&cluster.report(&[]).await, &[]);
        cluster.set(1, key, other).await;
        assert_found(&cluster.report(&[]).await, &[&["storage: q1: ", key, other, "that of q0 is", one]]);
        cluster.set(1, key, one).await;
    }
    // A default that is written out is not a difference, and neither is another order of the
    // servers.
    cluster.set(0, "kylin.env.zookeeper-base-path", "/kylin/").await;
    for (at, servers) in ["z1:2181,z2:2181/k", "z2:2181, Z1/k/"].into_iter().enumerate() {
        cluster.set(at, "kylin.env.zookeeper-connect-string", servers).await;
    }
    assert_found(&cluster.report(&[]).await, &[]);
    cluster.set(1, "kylin.env.zookeeper-connect-string", "z2:2181,z1/other").await;
    assert_found(&cluster.report(&[]).await, &[&["storage: q1: ", "z1:2181,z2:2181/other, and that of q0 is"]]);
    cluster.set(1, "kylin.env.zookeeper-connect-string", "z2,z1/k").await;
    // Two containers of one account.
    for (at, container) in ["kept-one", "kept-two"].into_iter().enumerate() {
        cluster.set(at, "kylin.env.hdfs-working-dir", &format!("wasb://{container}@account/kylin")).await;
    }
    let found = cluster.report(&[]).await;
    let shown =
        "is wasb://***@account/kylin, and that of q0 is wasb://***@account/kylin, with another text before the @";
    assert_found(&found, &[&["storage: q1: ", shown]]);
    assert!(!found.to_string().contains("kept-"), "{found:#}");
}

#[tokio::test]
async fn a_node_of_another_version_is_named() {
    for (usual, other, shown) in [
        (Dialect::V3_1, Dialect::V4_0, "version is 4.0.4"),
        (Dialect::V3_1, Dialect::V2_6, "version is before 3.1"),
        (Dialect::Kap2_4, Dialect::V3_1, "version is 3.1.3"),
    ] {
        let mut cluster = Cluster::start(usual, 3).await;
        let metastore = cluster.demo.metastore.clone();
        cluster.replace(1, KylinNode::new("q1").kylin_version(other).metastore(&metastore)).await;
        assert_found(&report(&["--nodes", &cluster.named()]).await, &[&["version: q1: ", shown, "that of q0, q2"]]);
    }
}

async fn a_node_whose_clock_differs_is_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    let body = match dialect.reported_version() {
        Some(version) => json!({"kylin.version": version, "kylin.version.commitId": "0".repeat(40)}).to_string(),
        None => "{}".to_owned(),
    };
    let body = if is_v5(dialect) { format!(r#"{{"code":"000","data":{body},"msg":""}}"#) } else { body };
    let reply = format!(
        "HTTP/1.1 200 OK\r\nDate: Wed, 01 Jan 2020 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let slow = RawNode::start([vec![Act::Serve(reply.into_bytes())]]).await;
    let named = format!("{},slow@{}", cluster.named(), slow.address());
    assert_found(
        &report(&["--nodes", &named]).await,
        &[&["clock: slow: its clock is ", " s behind that of other nodes"]],
    );
}
in_each_dialect!(a_node_whose_clock_differs_is_named);

/// The nodes respond, so an unknown clock has a reason other than nodes that do not.
#[tokio::test]
async fn a_node_without_a_date_has_a_clock_that_is_unknown() {
    let body = json!({"kylin.version": "3.1.3", "kylin.version.commitId": "0".repeat(40)}).to_string();
    let reply =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let [one, two] = [0, 1].map(|_| RawNode::start([vec![Act::Serve(reply.clone().into_bytes())]]));
    let (one, two) = (one.await, two.await);
    let found = report(&["--nodes", &format!("one@{},two@{}", one.address(), two.address())]).await;
    let about: Vec<&Value> =
        found["not_checked"].as_array().unwrap().iter().filter(|entry| entry["check"] == "clock").collect();
    assert_eq!(about.len(), 1, "{found:#}");
    assert_eq!(about[0]["text"], "sends no valid Date header, so its clock is unknown");
    assert_eq!(about[0]["nodes"], json!(["one", "two"]));
}

#[tokio::test]
async fn a_session_store_that_does_not_respond_is_a_finding() {
    let cluster = Cluster::start(Dialect::V3_1, 2).await;
    let dead = closed_port();
    let config = cluster.file(
        "kylin.conf",
        &format!(
            "upstream kylin {{ server {}; server {}; }} server {{ listen 81; location / {{ proxy_pass http://kylin; }} }}",
            cluster.demo.address(0),
            cluster.demo.address(1)
        ),
    );
    for (address, shown) in [
        (format!("redis://:hunter2@{dead}"), format!("redis://{dead} does not work: ")),
        (format!("mysql://u:hunter2@{dead}/kylin"), format!("mysql://{dead} does not work: ")),
        (format!("memcached://{dead}"), format!("memcached://{dead} does not work: ")),
    ] {
        for source in [["--nodes", &cluster.named()], ["--config", &config]] {
            let found = report(&[&source[..], &["--sessions", &address]].concat()).await;
            assert_found(&found, &[&["sessions: : the session store at ", &shown, "Connection refused"]]);
            assert!(!found.to_string().contains("hunter2"), "a password: {found:#}");
        }
    }
}

#[tokio::test]
async fn a_job_node_with_the_default_role_is_named() {
    let cluster = Cluster::start(Dialect::V3_1, 3).await;
    for (at, mode) in [Mode::Query, Mode::All, Mode::Job].into_iter().enumerate() {
        cluster.demo.nodes[at].set_mode(mode);
        cluster.set(at, "kylin.job.scheduler.default", "2").await;
    }
    let found = cluster.report(&[]).await;
    assert_found(
        &found,
        &[&[
            "discovery: q2: its kylin.server.mode is job, so it rejects queries, and the front end sends it queries: give it the role job",
        ]],
    );
    let (named, login) = (format!("{}=job", cluster.named()), cluster.folder.path().join("admin"));
    assert_found(&report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await, &[]);
}

async fn a_node_that_does_not_list_all_is_named(dialect: Dialect) {
    const LIST: &str = "kylin.server.cluster-servers-with-mode";
    let cluster = Cluster::start(dialect, 3).await;
    let [one, two, three] = [0, 1, 2].map(|at| cluster.demo.address(at).to_string());
    cluster.set(1, LIST, "").await;
    cluster.set(1, "kylin.server.cluster-servers", &format!("user:kept@{two},{one}")).await;
    let found = cluster.report(&[]).await;
    assert_found(&found, &[&[&format!("cluster-servers: q1: does not list q2: it lists {two}, {one}")]]);
    assert!(!found.to_string().contains("kept"), "a password: {found:#}");
    // A name of the address is equivalent to the address.
    let names = [&one, &two, &three].map(|address| address.replace("127.0.0.1", "localhost")).join(",");
    cluster.set(1, "kylin.server.cluster-servers", &names).await;
    assert_found(&cluster.report(&[]).await, &[]);
    // Kylin's default, with which a node notifies no other of changes.
    cluster.set(1, "kylin.server.cluster-servers", "localhost:7070").await;
    let expected = ["cluster-servers: q1: does not list q0, q1, q2: it lists localhost:7070"];
    assert_found(&cluster.report(&[]).await, &[&expected]);
    cluster.set(1, "kylin.server.cluster-servers", "no list").await;
    assert_found(&cluster.report(&[]).await, &[&["cluster-servers: q1: q1:", "expected host:port"]]);
    let many: Vec<String> = (0..1001).map(|number| format!("host-{number}.invalid:7070")).collect();
    cluster.set(1, "kylin.server.cluster-servers", &many.join(",")).await;
    assert_found(&cluster.report(&[]).await, &[&["cluster-servers: q1: lists more than 1000 nodes"]]);
    let more = format!("{one},{two},{three},10.255.0.1:7070");
    cluster.set(1, "kylin.server.cluster-servers", &more).await;
    let expected = ["discovery: q1: knows nodes that the front end does not have: 10.255.0.1:7070"];
    assert_found(&cluster.report(&[]).await, &[&expected]);
}
in_each_dialect!(a_node_that_does_not_list_all_is_named, V4);

#[tokio::test]
async fn as_many_nodes_run_jobs_as_the_scheduler_wants() {
    const SCHEDULER: &str = "kylin.job.scheduler.default";
    let cluster = Cluster::start(Dialect::V3_1, 3).await;
    let modes = |modes: [Mode; 3]| cluster.set_modes(modes);
    let schedule = async |scheduler: &str| {
        for at in 0..3 {
            cluster.set(at, SCHEDULER, scheduler).await;
        }
    };
    schedule("0").await;
    assert_found(&cluster.report(&[]).await, &[&["job-engine: q0 q1 q2: ", "scheduler for one node"]]);
    modes([Mode::Query, Mode::All, Mode::Query]);
    assert_found(&cluster.report(&[]).await, &[]);
    modes([Mode::Query; 3]);
    assert_found(&cluster.report(&[]).await, &[&["job-engine: : no node runs jobs"]]);

    modes([Mode::Job, Mode::All, Mode::Query]);
    cluster.set(0, SCHEDULER, "2").await;
    let found = cluster.report(&[]).await;
    assert_found(
        &found,
        &[
            &["job-engine: q1: kylin.job.scheduler.default is 0, and that of q0 is 2"],
            &["job-engine: q1: q0, q1 run jobs"],
        ],
    );
    schedule("2").await;
    assert_found(&cluster.report(&[]).await, &[]);
    cluster.set(1, "kylin.job.lock", "org.apache.kylin.job.lock.MockJobLock").await;
    assert_found(&cluster.report(&[]).await, &[&["job-engine: q1: kylin.job.lock"]]);

    schedule("100").await;
    for (leaders, found) in
        [([true, false], None), ([true, true], Some("q0, q1 all say")), ([false, false], Some("none of them"))]
    {
        for (node, leads) in cluster.demo.nodes.iter().zip(leaders) {
            _ = node.clone().active_job_node(Some(leads));
        }
        let report = cluster.report(&[]).await;
        match found {
            Some(text) => assert_found(&report, &[&["job-engine: q0 q1: ", text, "active job node"]]),
            None => assert_found(&report, &[]),
        }
    }
}

async fn a_cluster_of_query_nodes_only_has_no_engine(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    cluster.demo.nodes.iter().for_each(|node| node.set_mode(Mode::Query));
    assert_found(&cluster.report(&[]).await, &[&["job-engine: : no node runs jobs"]]);
}
in_each_dialect!(a_cluster_of_query_nodes_only_has_no_engine);

async fn nodes_that_the_front_end_does_not_have_are_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    let named = cluster.named();
    let (first_two, third) = named.rsplit_once(',').unwrap();
    let login = cluster.folder.path().join("admin");
    let found = report(&["--nodes", first_two, "--login-file", login.to_str().unwrap()]).await;
    let third = third.split('@').nth(1).unwrap();
    assert_found(&found, &[&["discovery: q0 q1: knows nodes that the front end does not have: ", third]]);
    // A role other than the node's.
    cluster.demo.nodes[1].set_mode(Mode::Job);
    let named = named.replace(",q2@", "=query,q2@");
    let found = report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    assert_found(&found, &[&["discovery: q1: ", "for query nodes", "kylin.server.mode is job"]]);
}
in_each_dialect!(nodes_that_the_front_end_does_not_have_are_named);

async fn job_nodes_may_be_elsewhere(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    for (node, mode) in cluster.demo.nodes.iter().zip([Mode::Query, Mode::Query, Mode::Job]) {
        node.set_mode(mode);
    }
    let [one, two, three] = [0, 1, 2].map(|at| cluster.demo.address(at).to_string());
    if !is_v5(dialect) {
        for at in 0..2 {
            let list = format!("{one}:query,{two}:query,{three}:job");
            cluster.set(at, "kylin.server.cluster-servers-with-mode", &list).await;
        }
    }
    let login = cluster.folder.path().join("admin");
    let named = format!("q0@{one},q1@{two}");
    let found = report(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    assert_found(&found, &[]);
    let note = format!("knows job nodes that the front end does not have: {three}");
    assert!(found["notes"].to_string().contains(&note), "{found:#}");
}
in_each_dialect!(job_nodes_may_be_elsewhere);

async fn a_login_that_a_node_refuses_is_not_sent_through_the_front_end(dialect: Dialect) {
    let mut cluster = Cluster::start(dialect, 2).await;
    _ = cluster.demo.metastore.clone().user("bi", "tool", false);
    let other = Metastore::new();
    cluster.replace(1, KylinNode::new("q1").kylin_version(dialect).metastore(&other)).await;
    let (named, login) = (cluster.named(), cluster.file("bi", "bi:tool"));
    let found = report(&["--nodes", &named, "--login-file", &login, "--policy=round-robin"]).await;
    assert!(findings(&found).iter().any(|text| text.starts_with("users: q1: refuses the login")), "{found:#}");
    assert!(found["not_checked"].to_string().contains("not tried: a node refuses the login"), "{found:#}");
    assert_eq!(cluster.demo.nodes[1].stats().wrong_passwords, 1);
}
in_each_dialect!(a_login_that_a_node_refuses_is_not_sent_through_the_front_end);

async fn users_of_two_sources_and_a_refused_login_are_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    if !is_v5(dialect) {
        cluster.set(2, "kylin.security.profile", "ldap").await;
        assert_found(
            &cluster.report(&[]).await,
            &[&["users: q2: kylin.security.profile is ldap, and that of q0, q1 is testing"]],
        );
        cluster.set(2, "kylin.security.profile", "testing").await;
    }
    cluster.file("admin", "ADMIN:wrong");
    assert_found(&cluster.report(&[]).await, &[&["users: q0: refuses the login"]]);
    // Kylin 5 locks a user after three wrong passwords.
    assert_eq!(cluster.demo.sum(|stats| stats.wrong_passwords), 1);
}
in_each_dialect!(users_of_two_sources_and_a_refused_login_are_named);

async fn the_ways_to_keep_logins_are_tried(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    let ways = |report: &Value, way: &str| report["session_ways"]["kylin"][way].as_bool().unwrap();
    let round_robin = ["--policy=round-robin", "--sessions=none"];
    let share = |shared: [bool; 3]| {
        for (node, shared) in cluster.demo.nodes.iter().zip(shared) {
            _ = node.clone().share_sessions(shared);
        }
    };

    let found = cluster.report(&[]).await;
    assert_found(&found, &[]);
    assert!(ways(&found, "ip_hash") && !ways(&found, "round robin") && !ways(&found, "replicated"), "{found:#}");
    // The proxy asks another node after a 401, as long as its budget lasts.
    let lost = ["sessions: : a login through the front end is "];
    assert_found(&cluster.report(&round_robin).await, &[&lost]);
    let expected = ["sessions: q0 q1 q2: do not share their sessions"];
    assert_found(&cluster.report(&["--policy=round-robin", "--sessions=replicated"]).await, &[&expected]);
    let plain = ["sessions: : a login through the front end is lost at request ", "401"];
    assert_found(&cluster.report(&[&round_robin[..], &["--kylin=off"]].concat()).await, &[&plain]);
    assert_found(&cluster.report(&["--policy=ip-hash", "--sessions=none"]).await, &[]);
    let found = cluster.report(&["--policy=round-robin", "--sessions=login-relay"]).await;
    assert_found(&found, &[]);
    assert!(found["passed"].as_array().unwrap().contains(&json!("sessions")), "{found:#}");
    assert_found(&cluster.report(&["--policy=round-robin"]).await, &[]);

    share([true; 3]);
    for args in [&round_robin[..], &["--policy=round-robin", "--sessions=replicated"], &[]] {
        let found = cluster.report(args).await;
        assert_found(&found, &[]);
        assert!(ways(&found, "round robin") && ways(&found, "replicated"), "{found:#}");
    }

    share([true, true, false]);
    let found = cluster.report(&[]).await;
    // The session of q2 exists nowhere else, and q2 knows no other.
    let text = findings(&found).join("\n");
    assert!(text.starts_with("sessions: ") && text.contains("q2") && text.contains("share theirs"), "{found:#}");

    share([true; 3]);
    cluster.demo.nodes[1].faults().set_session_store_down(true);
    let found = findings(&cluster.report(&[]).await).join("\n");
    assert!(found.contains("sessions: q1: does not know a session that it made itself"), "{found}");
}
in_each_dialect!(the_ways_to_keep_logins_are_tried);

/// The recipe of the manual, in the file that Tomcat reads and in the file that the manual names.
#[tokio::test]
async fn what_is_wrong_in_the_file_of_a_session_manager_is_named() {
    let cluster = Cluster::start(Dialect::Kap2_4, 2).await;
    for node in &cluster.demo.nodes {
        _ = node.clone().share_sessions(true);
    }
    let recipe = r#"<Context>
        <Valve className="com.radiadesign.catalina.session.RedisSessionHandlerValve"/>
        <Manager className="com.radiadesign.catalina.session.RedisSessionManager" host="10.0.0.9" port="6379" database="0"
                 password="kept" maxInactiveInterval="60"/></Context>"#;
    std::fs::create_dir_all(cluster.folder.path().join("tomcat/conf")).unwrap();
    for (file, text, expected) in [
        ("tomcat/conf/context.xml", recipe.to_owned(), None),
        ("tomcat/context.xml", recipe.to_owned(), Some("Tomcat does not read tomcat/context.xml")),
        ("tomcat/conf/context.xml", recipe.replace("10.0.0.9", "localhost"), Some("is on the node itself")),
        (
            "tomcat/conf/context.xml",
            recipe.replace("Valve className", "Valve x"),
            Some("no valve of the session manager"),
        ),
    ] {
        let option = format!("--sessions=replicated={}", cluster.file(file, &text));
        let configured = nginx(&cluster, &format!("    # kylin_lb: sessions replicated={file};\n"), "");
        let login = cluster.folder.path().join("admin");
        let (named, login) = (cluster.named(), login.to_str().unwrap());
        for source in [&["--nodes", &*named, &option][..], &["--config", &configured]] {
            let found = report(&[source, &["--login-file", login]].concat()).await;
            match expected {
                Some(text) => assert_found(&found, &[&["sessions: : ", text]]),
                None => assert_found(&found, &[]),
            }
            let notes = found["notes"].to_string();
            assert!(notes.contains("jedis-2.0.0 needs commons-pool-1.5.5"), "{found:#}");
            assert!(notes.contains("is not the time to live"), "{found:#}");
            assert!(!found.to_string().contains("kept\""), "a password: {found:#}");
        }
    }
}

async fn sessions_that_are_never_written_are_a_fault(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    for node in &cluster.demo.nodes {
        _ = node.clone().share_sessions(true).writes_sessions_late(true);
    }
    assert_found(&cluster.report(&[]).await, &[&["sessions: q0 q1: fails at the session of another node"]]);
}
in_each_dialect!(sessions_that_are_never_written_are_a_fault, V4);

async fn the_route_in_session_ids_is_a_way_where_each_node_has_one(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    for node in &cluster.demo.nodes {
        let found = cluster.report(&[]).await;
        assert_eq!(found["session_ways"]["kylin"]["route"], false, "{found:#}");
        _ = node.clone().jvm_route(node.name());
    }
    let found = cluster.report(&["--sessions=route", "--policy=round-robin"]).await;
    assert_found(&found, &[]);
    assert_eq!(found["session_ways"]["kylin"]["route"], true, "{found:#}");
}
in_each_dialect!(the_route_in_session_ids_is_a_way_where_each_node_has_one, V4);

/// Asserts that the front end waits for 60 s, and these other findings. Kylin 5 does not report how
/// long a query may take.
#[track_caller]
fn assert_waits_too_short(dialect: Dialect, report: &Value, others: &[&[&str]]) {
    if is_v5(dialect) {
        assert_found(report, others);
        let text = "300 s by default, and the front end waits for 60 s";
        assert!(report["not_checked"].to_string().contains(text), "{report:#}");
    } else {
        assert_found(report, &[others, &[&["timeouts: ", "300 s", "60 s"]]].concat());
    }
}

async fn a_front_end_that_waits_too_short_is_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    let found = cluster.report(&["--read-timeout=60s"]).await;
    assert_waits_too_short(dialect, &found, &[]);
    if !is_v5(dialect) {
        cluster.set(1, "kylin.query.timeout-seconds", "600").await;
        let found = cluster.report(&[]).await;
        assert_found(&found, &[&["timeouts: q1: a query may take 600 s, and the front end waits for 310 s"]]);
        assert!(found["notes"].to_string().contains("have no limit"), "{found:#}");
        assert_found(&cluster.report(&["--read-timeout=15m"]).await, &[]);
    }
}
in_each_dialect!(a_front_end_that_waits_too_short_is_named);

async fn a_probe_that_nodes_do_not_offer_is_named(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    let named = cluster.named();
    for (probe, offered) in [
        ("version", dialect.reported_version().is_some()),
        ("health", is_v5(dialect)),
        ("auto", true),
        ("tcp", true),
        ("none", true),
    ] {
        let found = report(&["--nodes", &named, "--probe", probe]).await;
        match offered {
            true => assert_found(&found, &[]),
            false => assert_found(&found, &[&["probe: q0 q1: does not offer the chosen probe ", probe]]),
        }
        assert_eq!(found["notes"].to_string().contains("\"probe\""), matches!(probe, "tcp" | "none"), "{found:#}");
    }
}
in_each_dialect!(a_probe_that_nodes_do_not_offer_is_named);

/// The file of the manual, with `settings` for its location.
fn nginx(cluster: &Cluster, method: &str, settings: &str) -> String {
    let servers: String =
        (0..cluster.demo.nodes.len()).map(|at| format!("    server {};\n", cluster.demo.address(at))).collect();
    let text = format!(
        "upstream kylin {{\n{method}{servers}}}\nserver {{\n    listen 8080;\n    location / {{\n{settings}        proxy_pass http://kylin;\n    }}\n}}\n"
    );
    cluster.file("kylin.conf", &text)
}

async fn a_configuration_is_read_and_its_front_end_tried(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    let login = cluster.folder.path().join("admin").to_str().unwrap().to_owned();
    let check = async |file: &str| report(&["--config", file, "--login-file", &login]).await;
    let found = check(&nginx(&cluster, "", "")).await;
    assert_found(&found, &[]);
    let understood = found["understood"].as_str().unwrap();
    assert!(understood.contains("upstream kylin") && understood.contains("differs from nginx"), "{understood}");
    assert_eq!(found["nodes"][2]["address"], cluster.demo.address(2).to_string());

    let found = check(&nginx(&cluster, "    # kylin_lb: sessions none;\n", "        proxy_read_timeout 60s;\n")).await;
    assert_waits_too_short(dialect, &found, &[&["sessions: : a login through the front end is "]]);
    let found = check(&nginx(&cluster, "    ip_hash;\n    # kylin_lb: sessions none;\n", "")).await;
    assert_found(&found, &[]);

    // Two upstreams of the same nodes are one cluster.
    let file = nginx(&cluster, "", "");
    let text = std::fs::read_to_string(&file).unwrap();
    let upstream = text.split_once("server {").unwrap().0.replace("upstream kylin", "upstream queries");
    let route = "    location /kylin/api/query { proxy_pass http://queries; }\n    location /";
    std::fs::write(&file, upstream + &text.replace("    location /", route)).unwrap();
    if !is_v5(dialect) {
        for (at, mode) in [Mode::Query, Mode::All, Mode::Query].into_iter().enumerate() {
            cluster.demo.nodes[at].set_mode(mode);
            cluster.set(at, "kylin.job.scheduler.default", "0").await;
        }
    }
    let found = check(&file).await;
    assert_found(&found, &[]);
    assert_eq!(found["nodes"].as_array().unwrap().len(), 6, "{found:#}");

    let broken = nginx(&cluster, "    least_connections;\n", "");
    assert_found(&check(&broken).await, &[&["source: : ", "kylin.conf:2:", "least_connections"]]);
    let found = check(&nginx(&cluster, "    # kylin_lb: sessions replicated;\n", "")).await;
    assert!(findings(&found)[0].contains("do not share their sessions"), "{found:#}");
    assert_found(&check("/nowhere/kylin.conf").await, &[&["source: : ", "/nowhere/kylin.conf"]]);
}
in_each_dialect!(a_configuration_is_read_and_its_front_end_tried);

/// A file may have servers of other programs, and of two versions of Kylin.
async fn a_login_is_sent_to_kylins_only(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 2).await;
    let wiki = RawNode::start([healthy("a wiki")]).await;
    let login = cluster.folder.path().join("admin").to_str().unwrap().to_owned();
    let server = |port: u16, to: &str| {
        format!("server {{\n listen {port};\n location / {{ proxy_pass http://{to}; proxy_read_timeout 320s; }}\n}}\n")
    };
    let file = nginx(&cluster, "    # kylin_lb: sessions none;\n", "        proxy_read_timeout 320s;\n");
    let text = std::fs::read_to_string(&file).unwrap();
    let with_wiki = format!("upstream wiki {{ server {}; }}\n{text}{}", wiki.address(), server(8081, "wiki"));
    std::fs::write(&file, with_wiki).unwrap();
    let found = report(&["--config", &file, "--login-file", &login]).await;
    let lost = ["sessions: : a login through the front end is "];
    assert_found(&found, &[&["probe: ", "not as Kylin"], &lost]);
    assert!(found["not_checked"].to_string().contains("may reach a server that is no Kylin"), "{found:#}");
    let seen = wiki.seen().texts();
    assert!(seen.iter().all(|request| !request.to_ascii_lowercase().contains("authorization:")), "{seen:?}");
    // A cluster that also has such a node.
    let named = format!("{},wiki@{}", cluster.named(), wiki.address());
    let found = report(&["--nodes", &named, "--login-file", &login]).await;
    assert!(findings(&found).iter().any(|text| text.starts_with("probe: wiki: ")), "{found:#}");
    assert!(found["not_checked"].to_string().contains("may reach a server that is no Kylin"), "{found:#}");
    let seen = wiki.seen().texts();
    assert!(seen.iter().all(|request| !request.to_ascii_lowercase().contains("authorization:")), "{seen:?}");

    let other = Demo::start(if is_v5(dialect) { Dialect::V3_1 } else { Dialect::V5_0 }, 1).await;
    let text = text.replace("    # kylin_lb: sessions none;\n", "");
    let two = format!("{text}upstream other {{ server {}; }}\n{}", other.address(0), server(8081, "other"));
    std::fs::write(&file, two).unwrap();
    let found = report(&["--config", &file, "--login-file", &login]).await;
    assert!(found["passed"].as_array().unwrap().contains(&json!("sessions")), "{found:#}");
}
in_each_dialect!(a_login_is_sent_to_kylins_only);

async fn a_configuration_of_httpd_is_read_and_its_front_end_tried(dialect: Dialect) {
    let cluster = Cluster::start(dialect, 3).await;
    let login = cluster.folder.path().join("admin").to_str().unwrap().to_owned();
    let check =
        async |file: &str, more: &[&str]| report(&[&["--httpd", file, "--login-file", &login], more].concat()).await;
    let write = |settings: &str, routes: bool| {
        let member = |at: usize| {
            let route = if routes { format!(" route=q{at}") } else { String::new() };
            format!("    BalancerMember http://{}{route}\n", cluster.demo.address(at))
        };
        let members: String = (0..3).map(member).collect();
        let sticky = if routes { "    ProxySet stickysession=JSESSIONID|jsessionid\n" } else { "" };
        let text = format!(
            "Listen 8080\n{settings}<Proxy balancer://kylin>\n{members}{sticky}</Proxy>\nProxyPass / balancer://kylin/\n\
             ProxyPassReverse / balancer://kylin/\n"
        );
        cluster.file("httpd.conf", &text)
    };
    let found = check(&write("ProxyTimeout 320\n", false), &[]).await;
    assert_found(&found, &[]);
    assert!(found["understood"].as_str().unwrap().contains("balancer://kylin"), "{found:#}");
    assert_eq!(found["nodes"][2]["address"], cluster.demo.address(2).to_string());
    let found = check(&write("ProxyTimeout 60\n", false), &[]).await;
    assert_waits_too_short(dialect, &found, &[]);
    let found = check(&write("ProxyTimeout 320\n", false), &["--sessions=replicated"]).await;
    assert!(findings(&found)[0].contains("do not share their sessions"), "{found:#}");

    // A route that is in no session id keeps no login.
    if !is_v5(dialect) {
        let found = check(&write("ProxyTimeout 320\n", true), &["--sessions=replicated"]).await;
        assert_found(&found, &[&["sessions: : a login through the front end is "]]);
        for node in &cluster.demo.nodes {
            _ = node.clone().jvm_route(node.name());
        }
        let found = check(&write("ProxyTimeout 320\n", true), &["--sessions=replicated"]).await;
        assert_found(&found, &[]);
    }
    let broken = write("ProxyPas / http://x/\n", false);
    assert_found(&check(&broken, &[]).await, &[&["source: : ", "httpd.conf:2:", "ProxyPas"]]);
}
in_each_dialect!(a_configuration_of_httpd_is_read_and_its_front_end_tried);

#[tokio::test]
async fn nodes_of_every_source_are_checked() {
    let cluster = Cluster::start(Dialect::V3_1, 2).await;
    let addresses = [0, 1].map(|at| cluster.demo.address(at).to_string());
    let login = cluster.folder.path().join("admin").to_str().unwrap().to_owned();
    let list = cluster.file("nodes", &format!("{}\n{}\n", addresses[0], addresses[1]));
    let properties = format!(
        "kylin.metadata.url={}\nkylin.server.cluster-servers={}\nkylin.query.timeout-seconds=100\n",
        "kylin_metadata@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=kept",
        addresses.join(",")
    );
    let properties = cluster.file("kylin.properties", &properties);
    for at in 0..2 {
        cluster.set(at, "kylin.query.timeout-seconds", "100").await;
    }
    for source in [["--nodes-file", &list], ["--properties", &properties]] {
        let found = report(&[&source[..], &["--login-file", &login]].concat()).await;
        assert_found(&found, &[]);
        assert_eq!(found["nodes"].as_array().unwrap().len(), 2, "{found:#}");
        assert!(!found.to_string().contains("kept"), "a password: {found:#}");
    }
    // The front end waits for as long as the file allows for a query.
    cluster.set(0, "kylin.query.timeout-seconds", "120").await;
    let found = report(&["--properties", &properties, "--login-file", &login]).await;
    assert_found(&found, &[&["timeouts: ", "a query may take 120 s, and the front end waits for 110 s"]]);

    let empty = cluster.file("nodes", "# none\n");
    let none = findings(&report(&["--nodes-file", &empty]).await)[0].clone();
    assert!(none.starts_with(&format!("source: : {empty}: no node is listed; a line is HOST:PORT")), "{none}");
    assert!(findings(&report(&["--nodes-file", "/nowhere/nodes"]).await)[0].starts_with("source: : /nowhere/nodes: "));
    assert_found(&report(&["--demo=2", "--login-file", &login]).await, &[]);
}

#[tokio::test]
async fn nodes_in_zookeeper_are_checked() {
    require_zookeeper!();
    let server = ZooKeeperServer::start().await;
    let cluster = Cluster::start(Dialect::V3_1, 2).await;
    let client = server.client().await;
    let login = cluster.folder.path().join("admin").to_str().unwrap().to_owned();
    let place = format!("{}/kylin/test", server.address());
    for (at, count) in [(0, 1), (1, 0)] {
        let path = format!("/kylin/test/service/cluster_servers/{at}");
        let address = cluster.demo.address(at).to_string();
        create(&client, &path, kylin_3_1(&address, "all").to_string().as_bytes()).await;
        // Until both are registered, the nodes know one that ZooKeeper does not list.
        let found = report(&["--zookeeper", &place, "--login-file", &login]).await;
        assert_eq!(findings(&found).len(), count, "{found:#}");
    }
}

#[tokio::test]
async fn the_text_names_the_sentence_behind_each_finding() {
    let cluster = Cluster::start(Dialect::V3_1, 2).await;
    cluster.set(1, "kylin.metadata.url", "other@hbase\u{1b}[2J").await;
    let (named, login) = (cluster.named(), cluster.folder.path().join("admin"));
    let (code, stdout, stderr) = run(&["--nodes", &named, "--login-file", login.to_str().unwrap()]).await;
    assert_eq!((code, &*stderr), (Some(1), ""), "{stdout}");
    for part in [
        "finding: metastore: q1: is a node of another metastore than q0",
        "\n    KAP manual: every node has the same kylin.metadata.url",
        "note: timeouts: q0, q1: ",
        "logins at kylin: kept by ",
        "1 finding",
    ] {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "{stdout}");
}

#[tokio::test]
async fn wrong_options_are_no_findings() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("login");
    std::fs::write(&file, "ADMIN\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, message) in [
        (&[][..], "the nodes are missing"),
        (&["--json"], "the nodes are missing"),
        (&["--nodes", "a:1", "--config", "x"], "exclude each other"),
        (&["--nodes", "a:1", "--json=yes"], "--json takes no value"),
        (&["--nodes", "a:1", "--login-file"], "--login-file needs a value"),
        (&["--nodes", "a:1", "--login-file", "/nowhere/login"], "--login-file /nowhere/login: "),
        (&["--nodes", "a:1", "--login-file", file], "expected USER:PASSWORD"),
        (&["--nodes", "a:1", "--secret-file", file], "--secret-file"),
        (&["--nodes", "a:1", "--timeout=soon"], "--timeout soon: expected a time such as 500ms"),
        (&["--nodes", "a:1", "--timeout=1s", "--timeout=1s"], "given twice"),
        (&["--nodes", "a:1", "--cure"], "unknown option --cure"),
    ] {
        let (code, stdout, stderr) = run(args).await;
        assert_eq!((code, &*stdout), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    let (code, stdout, _) = run(&["--help"]).await;
    assert!(code == Some(0) && stdout.contains("--login-file"), "{stdout}");
}
