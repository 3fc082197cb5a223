//! Resource groups of Kylin 5: a project is served by the nodes of its group.

use std::fmt::Display;

use kylin_lb::balance::{Balancer, BalancerExt, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};
use kylin_lb::endpoint::{AdminState, EndpointId};
use kylin_lb::kylin::ResourceGroups;
use kylin_lb::proxy::KylinRules;
use kylin_lb::session::{Affinity, Secret, Sessions};
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Served};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};

use crate::support::browser::Browser;
use crate::support::front::{Front, closed_port};

/// Groups of one node each, with a project whose queries and builds they serve.
pub(crate) fn relation(groups: &[(impl Display, &str)]) -> String {
    let each = |text: &dyn Fn(usize, &dyn Display, &str) -> String| -> String {
        let all: Vec<_> =
            groups.iter().enumerate().map(|(index, (node, project))| text(index, node, project)).collect();
        all.join(",")
    };
    let ids = each(&|index, _, _| format!(r#"{{"id":"g{index}"}}"#));
    let instances = each(&|index, node, _| format!(r#"{{"instance":"{node}","resource_group_id":"g{index}"}}"#));
    let mapping = each(&|index, _, project| {
        let kind =
            |kind| format!(r#"{{"project":"{project}","resource_group_id":"g{index}","request_type":"{kind}"}}"#);
        format!("{},{}", kind("QUERY"), kind("BUILD"))
    });
    format!(
        r#"{{"resource_group_enabled":true,"resource_groups":[{ids}],"instances":[{instances}],"mapping_info":[{mapping}]}}"#
    )
}

struct Site {
    nodes: Vec<(KylinNode, Served)>,
    front: Front,
    groups: ResourceGroups,
}

/// Three nodes, of which `node-1` serves the project `one` and `node-2` the project `two`.
async fn site(balancer: impl Balancer, affinity: impl Into<Option<Affinity>>) -> Site {
    let metastore = ["one", "two", "other"].into_iter().fold(Metastore::new(), Metastore::project);
    let mut nodes = Vec::new();
    for id in 0..3 {
        let node = KylinNode::new(format!("node-{id}")).kylin_version(Dialect::V5_0).metastore(&metastore);
        let served = node.serve(closed_port()).await.unwrap();
        nodes.push((node, served));
    }
    let groups = ResourceGroups::parse(&relation(&[("node-1", "one"), ("NODE-2", "two")])).unwrap();
    let endpoints = nodes.iter().map(|(node, served)| {
        let backend = HttpBackend::new(&served.addr().to_string()).unwrap();
        Endpoint::new(node.name(), backend).unwrap()
    });
    let cluster = Cluster::builder().endpoints(endpoints).balancer(balancer).build().unwrap();
    let rules = KylinRules::default().resource_groups(groups.clone());
    let proxy = Proxy::builder(cluster).rules(rules).affinity(affinity.into()).build().unwrap();
    Site { nodes, front: Front::serving(proxy, |server| server), groups }
}

impl Site {
    fn queries(&self) -> Vec<u64> {
        self.nodes.iter().map(|(node, _)| node.stats().queries).collect()
    }
}

async fn query(browser: &mut Browser, project: &str) -> u16 {
    let body = format!(r#"{{"sql":"select 1","project":"{project}"}}"#);
    browser.ask("POST /kylin/api/query", &[("Content-Type", "application/json")], &body).await.status()
}

fn insistent(site: &Site) -> Browser {
    Browser::insistent(site.front.address(), "ADMIN", "KYLIN")
}

#[tokio::test]
async fn every_policy_picks_within_the_group_of_the_project() {
    async fn check(balancer: impl Balancer) {
        let site = site(balancer, None).await;
        for _ in 0..4 {
            assert_eq!(query(&mut insistent(&site), "one").await, 200);
            assert_eq!(query(&mut insistent(&site), "TWO").await, 200);
        }
        assert_eq!(site.queries(), [0, 4, 4]);
    }
    check(RoundRobin::new()).await;
    check(LeastConn::new()).await;
    check(RandomTwo::new()).await;
    check(IpHash::new()).await;
    check(QueryAffinity::new().or(LeastConn::new())).await;
}

#[tokio::test]
async fn a_project_without_a_group_and_other_requests_go_to_any_node() {
    let site = site(RoundRobin::new(), None).await;
    for _ in 0..6 {
        assert_eq!(query(&mut insistent(&site), "other").await, 200);
    }
    assert_eq!(site.queries(), [2, 2, 2]);
    for _ in 0..3 {
        assert_eq!(insistent(&site).get("/kylin/api/projects?project=one").await.status(), 200);
    }
    assert!(site.nodes.iter().all(|(node, _)| node.stats().requests == 3), "reads are the same everywhere");
}

#[tokio::test]
async fn a_build_goes_to_the_group_that_its_body_or_its_address_names() {
    let site = site(RoundRobin::new(), None).await;
    for (target, body) in [
        ("POST /kylin/api/models/m/segments", r#"{"project":"one","build_all_indexes":true}"#),
        ("PUT /kylin/api/jobs/status?project=one", "{}"),
        ("PUT /kylin/api/jobs/status", r#"{"project":"one"}"#),
    ] {
        let before = site.nodes[1].0.stats().requests;
        for _ in 0..3 {
            insistent(&site).ask(target, &[("Content-Type", "application/json")], body).await;
        }
        assert_eq!(site.nodes[1].0.stats().requests, before + 3, "{target}");
    }
}

#[tokio::test]
async fn a_group_without_a_node_that_can_serve_is_a_503_at_once() {
    let site = site(RoundRobin::new(), None).await;
    let id = EndpointId::new("node-1").unwrap();
    site.front.proxy.cluster().set_admin_state(&id, AdminState::Maintenance).unwrap();
    assert_eq!(query(&mut insistent(&site), "one").await, 503);
    assert_eq!(query(&mut insistent(&site), "two").await, 200);
    site.groups.replace(&relation(&[("node-0", "one")])).unwrap();
    assert_eq!(query(&mut insistent(&site), "one").await, 200);
    assert_eq!(site.queries(), [1, 0, 1]);
}

#[tokio::test]
async fn a_session_moves_into_the_group_which_costs_one_login() {
    let secret = || Secret::new([7; 32]);
    for affinity in [
        Affinity::learn(Sessions::in_memory().unwrap()),
        Affinity::learn(Sessions::remote(kylin_lb::session::MemoryStore::new(), secret())),
        Affinity::cookie(secret()),
    ] {
        let shown = format!("{affinity:?}");
        let site = site(RoundRobin::new(), affinity).await;
        let mut browser = Browser::new(site.front.address());
        let (cluster, of_group) = (site.front.proxy.cluster(), EndpointId::new("node-2").unwrap());
        // The login is at a node outside of the group.
        cluster.set_admin_state(&of_group, AdminState::Maintenance).unwrap();
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        assert_eq!(query(&mut browser, "other").await, 200);
        cluster.set_admin_state(&of_group, AdminState::Ready).unwrap();
        let mut logins = 0;
        for _ in 0..6 {
            // The web interface does this after a 401.
            while query(&mut browser, "two").await == 401 {
                logins += 1;
                assert!(logins <= 1, "{shown}: a login that does not help");
                assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
            }
        }
        assert_eq!((logins, site.queries()[2]), (1, 6), "{shown}");
        assert_eq!(query(&mut browser, "other").await, 200, "{shown}");
        assert_eq!(site.queries()[2], 7, "{shown}: the session is in the group now");
        assert_eq!(site.queries().iter().sum::<u64>(), 8);
    }
}

#[cfg(feature = "login-relay")]
#[tokio::test]
async fn relayed_logins_serve_all_groups() {
    let secret = Secret::new([7; 32]);
    let relay = kylin_lb::session::LoginRelay::new(Sessions::in_memory().unwrap(), secret);
    let site = site(RoundRobin::new(), Affinity::login_relay(relay)).await;
    let mut browser = Browser::new(site.front.address());
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    for _ in 0..3 {
        assert_eq!(query(&mut browser, "one").await, 200);
        assert_eq!(query(&mut browser, "two").await, 200);
    }
    assert_eq!(site.queries(), [0, 3, 3]);
}
