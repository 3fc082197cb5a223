//! Retries must not multiply the load on nodes that fail.

use std::time::{Duration, Instant};

use kylin_lb::backend::SendErrorKind;
use kylin_lb::clock::ManualClock;
use kylin_lb::proxy::{ProxyBuilder, RetryBudget, RetryPolicy};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, Fault, FaultScope};
use kylin_lb::{Cluster, Proxy};

use crate::support::dialects::in_each_dialect;
use crate::support::front::Front;
use crate::support::kylin::{Demo, Says, admin, admin_on, ask, request, saying, scripted, sql, well};

/// The retries that the default budget allows at once.
const BURST: usize = 100;

fn proxy(
    clock: &ManualClock,
    nodes: &[&Scripted],
    change: impl FnOnce(ProxyBuilder<Scripted>) -> ProxyBuilder<Scripted>,
) -> Proxy<Scripted> {
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
    change(Proxy::builder(cluster).clock(clock.clone())).build().unwrap()
}

#[tokio::test]
async fn when_all_nodes_fail_retries_add_a_fifth_of_the_load() {
    const REQUESTS: usize = 5000;
    let page = Says::Html(502, "<html>502</html>".to_owned());
    for says in
        [Says::Nothing(SendErrorKind::Broken), Says::Nothing(SendErrorKind::Stale), page, Says::code("KE-020032001")]
    {
        let clock = ManualClock::new();
        let node = saying(says.clone());
        let proxy = proxy(&clock, &[&node, &node, &node], |proxy| proxy);
        for _ in 0..REQUESTS {
            ask(&proxy, request("GET /kylin/api/projects", &[], "")).await;
        }
        let repeated = node.calls() - REQUESTS;
        // All of the share is used: a retry that is withdrawn is sent.
        assert!(repeated <= REQUESTS / 5 + BURST, "{says:?}: {repeated}");
        assert!(repeated >= REQUESTS / 5 + BURST - 5, "{says:?}: {repeated}");
        // A minute later there are retries again, but no more than at first.
        clock.advance(Duration::from_secs(60));
        let before = node.calls();
        for _ in 0..120 {
            ask(&proxy, request("GET /kylin/api/projects", &[], "")).await;
        }
        let repeated = node.calls() - before - 120;
        assert!((BURST..=BURST + 24).contains(&repeated), "{says:?}: {repeated}");
    }
}

#[tokio::test]
async fn a_read_that_a_node_may_have_executed_is_sent_once_more_at_most() {
    let [broken, stale, invalid, refused] =
        [SendErrorKind::Broken, SendErrorKind::Stale, SendErrorKind::Invalid, SendErrorKind::Connect]
            .map(Says::Nothing);
    let page = Says::Html(502, "<html>502</html>".to_owned());
    for (says, then) in [
        (&broken, [&broken].as_slice()),
        (&invalid, &[&page]),
        (&page, &[&refused, &broken]),
        (&broken, &[&Says::code("KE-020032001"), &refused, &stale]),
        (&stale, &[&refused, &stale]),
    ] {
        for (line, body) in [("POST /kylin/api/query", sql("select 1")), ("GET /kylin/api/projects", String::new())] {
            let nodes: Vec<Scripted> = [says].into_iter().chain(then.iter().copied()).cloned().map(saying).collect();
            let last = well("last");
            let all: Vec<&Scripted> = nodes.iter().chain([&last]).collect();
            let unlimited = RetryPolicy::default().budget(None);
            let proxy = proxy(&ManualClock::new(), &all, |proxy| proxy.retry(unlimited));
            let (status, _) = ask(&proxy, request(line, &[], &body)).await;
            let case = format!("{line}: {says:?}, then {then:?}");
            assert_eq!((status.as_u16(), last.calls()), (502, 0), "{case}");
            let calls = nodes.iter().map(Scripted::calls).sum::<usize>();
            assert_eq!(calls, nodes.len(), "{case}");
        }
    }
    for nodes in [[&refused, &broken, &refused], [&refused, &refused, &page], [&page, &refused, &refused]] {
        let (nodes, last) = (nodes.map(|says| saying(says.clone())), well("last"));
        let proxy = proxy(&ManualClock::new(), &[&nodes[0], &nodes[1], &nodes[2], &last], |proxy| proxy);
        assert_eq!(ask(&proxy, request("GET /kylin/api/projects", &[], "")).await.0.as_u16(), 200);
    }
}

#[tokio::test]
async fn unsent_requests_are_retried_without_a_budget() {
    let clock = ManualClock::new();
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    let none = RetryPolicy::default().budget(Some(none));
    let (away, node) = (saying(Says::Nothing(SendErrorKind::Connect)), well("node"));
    let proxy = proxy(&clock, &[&away, &away, &node], |proxy| proxy.retry(none));
    for _ in 0..500 {
        assert_eq!(ask(&proxy, request("PUT /kylin/api/cubes/c/build", &[], "")).await.0, 200);
    }
    assert_eq!(node.calls(), 500);
}

in_each_dialect!(nodes_that_break_connections_get_a_fifth_more_and_recover);
/// Over sockets: every node closes its connections after the work was done.
async fn nodes_that_break_connections_get_a_fifth_more_and_recover(dialect: Dialect) {
    const REQUESTS: u64 = 600;
    let demo = Demo::start(dialect, 3).await;
    let front: Front = demo.front(|proxy| proxy);
    for node in &demo.nodes {
        node.faults().inject(FaultScope::Queries, Fault::Close);
    }
    let mut client = front.connect().await;
    let began = Instant::now();
    for _ in 0..REQUESTS {
        let response = admin_on(&mut client, "POST /kylin/api/query", &sql("select 1")).await.unwrap();
        assert_eq!(response.status(), 502);
    }
    let load = demo.sum(|stats| stats.queries);
    // The floor is three a second, and a client gets five of the reserve in each interval of 10 s.
    let seconds = began.elapsed().as_secs();
    let (floor, reserve) = (3 * (seconds + 1), 5 * (seconds / 10 + 2));
    assert!(load <= REQUESTS + REQUESTS / 5 + BURST as u64 + floor + reserve, "{load}");
    assert!(load >= REQUESTS + REQUESTS / 5, "{load}");
    for node in &demo.nodes {
        node.faults().clear();
    }
    for _ in 0..30 {
        assert_eq!(admin(&front, "POST /kylin/api/query", &sql("select 1")).await.status(), 200);
    }
    front.idle().await;
}
