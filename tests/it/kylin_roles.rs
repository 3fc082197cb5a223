//! Queries go to nodes that serve queries, and builds to nodes that run jobs.

use kylin_lb::endpoint::{Role, Roles};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::proxy::KylinRules;
use kylin_lb::session::{Affinity, Sessions};
use kylin_lb::testing::kylin::{Dialect, Mode};

use crate::support::browser::Browser;
use crate::support::dialects::{in_each_dialect, is_v5};
use crate::support::front::{Front, refusal};
use crate::support::kylin::{Demo, admin, answered_by, sql};

const QUERY: &str = "POST /kylin/api/query";

/// The request that starts a build in each version.
fn build(dialect: Dialect) -> &'static str {
    match dialect.generation() {
        KylinVersion::V5 => "POST /kylin/api/models/m/segments",
        _ => "PUT /kylin/api/cubes/c/build",
    }
}

/// Nodes in these modes, which the front end knows or does not know.
async fn cluster(dialect: Dialect, modes: &[Mode], known: bool) -> (Demo, Front) {
    let demo = Demo::start(dialect, modes.len()).await;
    for (node, mode) in demo.nodes.iter().zip(modes) {
        node.set_mode(*mode);
    }
    let endpoints = demo.endpoints().into_iter().zip(modes).map(|(endpoint, mode)| match mode {
        _ if !known => endpoint,
        Mode::Query => endpoint.roles(Role::Query),
        Mode::Job => endpoint.roles("job".parse::<Roles>().unwrap()),
        _ => endpoint,
    });
    let front = Front::kylin(endpoints, |proxy| proxy);
    (demo, front)
}

in_each_dialect!(queries_go_to_query_nodes_and_builds_to_job_nodes);
async fn queries_go_to_query_nodes_and_builds_to_job_nodes(dialect: Dialect) {
    let (demo, front) = cluster(dialect, &[Mode::Query, Mode::Job, Mode::Query], true).await;
    for n in 0..12 {
        let by = answered_by(&admin(&front, QUERY, &sql(&format!("select {n}"))).await);
        assert_ne!(by, "q1");
        // This user has just written there, but its queries do not go to the job node for that.
        assert!(admin(&front, build(dialect), "{}").await.status() < 300);
    }
    let jobs = demo.metastore.jobs();
    assert_eq!(jobs.len(), 12);
    assert!(jobs.iter().all(|job| job.node == "q1"), "{jobs:?}");
    assert_eq!(demo.nodes[1].stats().queries, 0);
    assert_eq!(demo.nodes[1].stats().requests, 12, "the job node was asked for builds and nothing else");
}

in_each_dialect!(without_a_job_node_any_node_builds_and_without_a_query_node_queries_fail);
async fn without_a_job_node_any_node_builds_and_without_a_query_node_queries_fail(dialect: Dialect) {
    let (demo, front) = cluster(dialect, &[Mode::Query, Mode::Query], true).await;
    assert!(admin(&front, build(dialect), "{}").await.status() < 300);
    assert_eq!(demo.metastore.jobs().len(), 1);

    let (demo, front) = cluster(dialect, &[Mode::Job, Mode::Job], true).await;
    for line in [QUERY, "GET /kylin/api/query/format/csv?sql=select+1&project=learn_kylin"] {
        let response = admin(&front, line, &sql("select 1")).await;
        refusal(&response, 503);
    }
    assert_eq!(demo.sum(|stats| stats.requests), 0, "a job node is not even asked");
    assert_eq!(admin(&front, "GET /kylin/api/projects", "").await.status(), 200, "which any node knows");
}

in_each_dialect!(other_nodes_build_when_the_job_node_is_gone);
async fn other_nodes_build_when_the_job_node_is_gone(dialect: Dialect) {
    let (mut demo, front) = cluster(dialect, &[Mode::Query, Mode::Job], true).await;
    demo.served[1].take().unwrap().kill().await;
    assert_eq!(admin(&front, build(dialect), "").await.status(), 200);
    assert_eq!(demo.metastore.jobs().iter().map(|job| &*job.node).collect::<Vec<_>>(), ["q0"]);
}

in_each_dialect!(a_rejection_by_role_is_retried_where_roles_are_unknown);
async fn a_rejection_by_role_is_retried_where_roles_are_unknown(dialect: Dialect) {
    let (demo, front) = cluster(dialect, &[Mode::Job, Mode::Query, Mode::Job], false).await;
    for n in 0..300 {
        assert_eq!(answered_by(&admin(&front, QUERY, &sql(&format!("select {n}"))).await), "q1");
    }
    // An INSERT too, because it was refused and not executed.
    let response = admin(&front, QUERY, &sql("insert into t values (1)")).await;
    assert!(response.text().contains("Not Supported SQL"), "the word of the query node: {}", response.text());
    assert_eq!((demo.nodes[0].stats().queries, demo.nodes[2].stats().queries), (0, 0));
    let endpoints = front.proxy.cluster().status().endpoints;
    assert!(endpoints.iter().all(|endpoint| endpoint.failed == 0), "no node is to blame: {endpoints:?}");

    let (demo, front) = cluster(dialect, &[Mode::Job, Mode::Job], false).await;
    let response = admin(&front, QUERY, &sql("select 1")).await;
    let word = if is_v5(dialect) { "KE-040023202" } else { "not allowed in 'job' mode" };
    assert!(response.text().contains(word), "both were asked, the last has the word: {}", response.text());
    assert_eq!(demo.sum(|stats| stats.requests), 2);
}

in_each_dialect!(a_build_of_a_session_that_the_job_node_does_not_know_is_done_once);
/// Only a query node knows the session, and there is no `Authorization`. The build is refused at
/// the job node with 401, and then accepted at the node with the session.
async fn a_build_of_a_session_that_the_job_node_does_not_know_is_done_once(dialect: Dialect) {
    let (demo, _) = cluster(dialect, &[Mode::Query, Mode::Job], true).await;
    let mut endpoints = demo.endpoints();
    let job = endpoints.pop().unwrap().roles(Role::Job);
    let query = endpoints.pop().unwrap().roles(Role::Query);
    let affinity = Affinity::learn(Sessions::in_memory().unwrap());
    let front = Front::kylin([query, job], |proxy| proxy.affinity(affinity));
    let mut browser = Browser::insistent(front.address(), "ADMIN", "KYLIN");
    while demo.nodes[0].sessions() == 0 {
        browser.cookies.clear();
        assert_eq!(browser.ask("GET /kylin/api/projects", &[], "").await.status(), 200);
    }
    browser.authorization = None;
    let response = browser.ask(build(dialect), &[], "").await;
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(demo.metastore.jobs().iter().map(|job| &*job.node).collect::<Vec<_>>(), ["q0"]);
}

in_each_dialect!(without_roles_every_node_gets_every_request);
async fn without_roles_every_node_gets_every_request(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    let endpoints = demo.endpoints().into_iter().map(|endpoint| endpoint.roles(Role::Job));
    let front = Front::kylin(endpoints, |proxy| proxy.rules(KylinRules::default().roles(false)));
    for n in 0..4 {
        assert_eq!(admin(&front, QUERY, &sql(&format!("select {n}"))).await.status(), 200);
    }
    assert!(demo.nodes.iter().all(|node| node.stats().queries == 2));
}
