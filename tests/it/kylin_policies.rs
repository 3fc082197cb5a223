//! The keys of a query reach the policies that use them.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use kylin_lb::balance::{Balancer, BalancerExt, Candidate, Candidates, LeastConn, QueryAffinity};
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Cluster, Proxy, QueryKeys, RequestView};

use crate::support::browser::{Browser, basic};
use crate::support::dialects::in_each_dialect;
use crate::support::front::Front;
use crate::support::kylin::{Demo, Says, answered_by, ask, request, saying, scripted, sql, well};

const QUERY: &str = "POST /kylin/api/query";

in_each_dialect!(the_same_dashboard_query_goes_to_the_same_node);
async fn the_same_dashboard_query_goes_to_the_same_node(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let policy = QueryAffinity::new().or(LeastConn::new());
    let cluster = Cluster::builder().endpoints(demo.endpoints()).balancer(policy).build().unwrap();
    let front =
        Front::serving(Proxy::builder(cluster).build().unwrap(), |server| server.threads(NonZero::new(1).unwrap()));
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

/// Picks the first endpoint, and remembers the keys of the queries.
#[derive(Debug, Clone, Default)]
struct Watching(Arc<Mutex<Vec<Option<QueryKeys>>>>);

impl Balancer for Watching {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        self.0.lock().unwrap().push(request.query());
        from.iter().next()
    }
}

#[tokio::test]
async fn each_attempt_of_a_query_has_its_keys() {
    let watching = Watching::default();
    let refused = saying(Says::error(400, "Too many concurrent query requests."));
    let nodes = [scripted("0", &refused), scripted("1", &refused), scripted("2", &well("2"))];
    let cluster = Cluster::builder().endpoints(nodes).balancer(watching.clone()).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let user = basic("MARY", "x");
    let headers = [("authorization", &*user)];
    let body = sql("select a from t where b = 1");
    let form = "sql=select+a+from+t&project=P";
    // The keys of user MARY, as `kylin::query` computes them. They never change.
    let of_body = Some(QueryKeys::new(3_595_239_346_745_456_820, 4_044_632_451_923_595_588));
    let of_form = Some(QueryKeys::new(2_287_366_462_893_482_114, 14_206_268_185_962_480_174));
    for (line, body, keys) in [
        (QUERY, &*body, of_body),
        ("POST /kylin/api/query/prestate", &*body, of_body),
        ("POST /kylin/api/query/format/csv", form, of_form),
    ] {
        watching.0.lock().unwrap().clear();
        assert_eq!(ask(&proxy, request(line, &headers, body)).await.0, 200);
        assert_eq!(*watching.0.lock().unwrap(), [keys; 3], "{line}");
    }
    // A request that is not a query is a write, which would bind its user to the node, so it comes
    // last.
    for (line, body) in [("GET /kylin/api/projects", ""), (QUERY, "nonsense")] {
        watching.0.lock().unwrap().clear();
        ask(&proxy, request(line, &headers, body)).await;
        assert_eq!(watching.0.lock().unwrap()[0], None, "{line}");
    }
    // A plain proxy does not read bodies.
    let watching = Watching::default();
    let cluster = Cluster::builder().endpoint(scripted("0", &well("0"))).balancer(watching.clone()).build().unwrap();
    ask(&Proxy::plain(cluster).build().unwrap(), request(QUERY, &headers, &body)).await;
    assert_eq!(*watching.0.lock().unwrap(), [None]);
}
