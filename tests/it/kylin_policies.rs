//! What is read of a query reaches the policies that go by it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::balance::{Balancer, BalancerExt, Candidate, Candidates, LeastConn, LeastWork, QueryAffinity};
use kylin_lb::clock::ManualClock;
use kylin_lb::kylin::query::QueryRequest;
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Body, Cluster, Proxy, QueryKeys, RequestView};

use crate::support::browser::{Browser, basic};
use crate::support::front::Front;
use crate::support::kylin::{Demo, Says, answered_by, ask, request, saying, scripted, sql, well};

const QUERY: &str = "POST /kylin/api/query";

#[tokio::test]
async fn the_same_dashboard_query_goes_to_the_same_node() {
    for dialect in [Dialect::V4, Dialect::V5] {
        let demo = Demo::start(dialect, 3).await;
        let policy = QueryAffinity::new().or(LeastConn::new());
        let cluster = Cluster::builder().endpoints(demo.endpoints()).balancer(policy).build().unwrap();
        let front = Front::serving(Proxy::builder(cluster).kylin().build(), |server| server.threads(1));
        let mut homes = BTreeSet::new();
        for n in 0..24 {
            let body = sql(&format!("select {n} from kylin_sales"));
            let mut nodes = BTreeSet::new();
            for user in ["ADMIN", "ANALYST"] {
                let password = if user == "ADMIN" { "KYLIN" } else { user };
                let of_user = || async {
                    let mut browser = Browser::insistent(front.address(), user, password);
                    answered_by(&browser.ask(QUERY, &[], &body).await)
                };
                let home = of_user().await;
                for _ in 0..3 {
                    assert_eq!(of_user().await, home, "{body} of {user}");
                }
                nodes.insert(home);
            }
            homes.extend(nodes);
        }
        assert_eq!(homes.len(), 3, "and different ones go to different nodes");
    }
}

/// Picks the first, and remembers by what the queries were known.
#[derive(Debug, Clone, Default)]
struct Watching(Arc<Mutex<Vec<Option<QueryKeys>>>>);

impl Balancer for Watching {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        self.0.lock().unwrap().push(request.query());
        from.iter().next()
    }
}

#[tokio::test]
async fn each_try_of_a_query_is_known_by_its_user_and_sql() {
    let watching = Watching::default();
    let refused = saying(Says::error(400, "Too many concurrent query requests."));
    let nodes = [scripted("0", &refused), scripted("1", &refused), scripted("2", &well("2"))];
    let cluster = Cluster::builder().endpoints(nodes).balancer(watching.clone()).build().unwrap();
    let proxy = Proxy::builder(cluster).kylin().build();
    let user = basic("MARY", "x");
    let headers = [("authorization", &*user)];
    let body = sql("select a from t where b = 1");
    let form = "sql=select+a+from+t&project=P";
    for (line, body, keys) in [
        (QUERY, &*body, Some(QueryRequest::from_json(body.as_bytes()).unwrap().keys("MARY"))),
        (
            "POST /kylin/api/query/prestate",
            &*body,
            Some(QueryRequest::from_json(body.as_bytes()).unwrap().keys("MARY")),
        ),
        (
            "POST /kylin/api/query/format/csv",
            form,
            Some(QueryRequest::from_form(None, form.as_bytes()).unwrap().keys("MARY")),
        ),
    ] {
        watching.0.lock().unwrap().clear();
        assert_eq!(ask(&proxy, request(line, &headers, body)).await.0, 200);
        assert_eq!(*watching.0.lock().unwrap(), [keys; 3], "{line}");
    }
    // What is no query is a write, and would hold its user to the node: so it comes last.
    for (line, body) in [("GET /kylin/api/projects", ""), (QUERY, "nonsense")] {
        watching.0.lock().unwrap().clear();
        ask(&proxy, request(line, &headers, body)).await;
        assert_eq!(watching.0.lock().unwrap()[0], None, "{line}");
    }
    // Without the knowledge of Kylin nobody reads bodies.
    let watching = Watching::default();
    let cluster = Cluster::builder().endpoint(scripted("0", &well("0"))).balancer(watching.clone()).build().unwrap();
    ask(&Proxy::builder(cluster).build(), request(QUERY, &headers, &body)).await;
    assert_eq!(*watching.0.lock().unwrap(), [None]);
}

/// Two nodes on which long queries take 19 s and short ones 1 s; those of `'hold'` do not end at all.
fn node(clock: &ManualClock) -> Scripted {
    let clock = clock.clone();
    Scripted::new(move |request: Request<Body>| {
        let clock = clock.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(body.to_vec()).unwrap();
            if text.contains("'hold'") {
                std::future::pending::<()>().await;
            }
            clock.advance(Duration::from_secs(if text.contains("long") { 19 } else { 1 }));
            Ok(Response::new(Body::from("{}")))
        }
    })
}

#[tokio::test]
async fn a_node_with_a_long_query_is_given_fewer_than_one_with_short_ones() {
    let clock = ManualClock::new();
    let nodes = [node(&clock), node(&clock)];
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    let cluster = Cluster::builder().endpoints(endpoints).balancer(LeastWork::new()).clock(clock.clone());
    let proxy = Proxy::builder(cluster.build().unwrap()).clock(clock.clone()).kylin().build();
    let query =
        |table: &str, what: &str| request(QUERY, &[], &sql(&format!("select a from {table} where b = '{what}'")));
    for n in 0..10 {
        ask(&proxy, query("long_table", &n.to_string())).await;
        ask(&proxy, query("short_table", &n.to_string())).await;
    }
    let taught: Vec<usize> = nodes.iter().map(Scripted::calls).collect();
    let mut held = Vec::new();
    // The mean is 10 s: a long query counts for 20 + 10, a short one for 20 + 1.
    for (table, nth) in [("long_table", 1), ("short_table", 2), ("short_table", 3)] {
        let (front, request) = (proxy.clone(), query(table, "hold"));
        held.push(tokio::spawn(async move { ask(&front, request).await }));
        let begun = || nodes.iter().map(Scripted::calls).sum::<usize>() - taught.iter().sum::<usize>();
        crate::support::front::eventually(|| begun() == nth, || format!("{:?}", proxy.cluster().status())).await;
    }
    let mut holds: Vec<usize> = nodes.iter().zip(&taught).map(|(node, taught)| node.calls() - taught).collect();
    holds.sort_unstable();
    assert_eq!(holds, [1, 2]);
    assert_eq!(proxy.cluster().status().in_flight(), 3);
    held.iter().for_each(tokio::task::JoinHandle::abort);
}
