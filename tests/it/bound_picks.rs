//! Picks for requests that belong to a session or need a role.

use kylin_lb::balance::{Attempted, IpHash, LeastConn, RoundRobin};
use kylin_lb::endpoint::{EndpointId, Role};
use kylin_lb::{ClientAddr, Cluster, RequestView};

use crate::support::cluster::{Nowhere, cluster, endpoint, index, request};

fn pick_bound(cluster: &Cluster<Nowhere>, id: &str, attempted: &Attempted) -> usize {
    let request = request("");
    index(&cluster.pick_bound(&RequestView::of(&request, ClientAddr::Unix), attempted, id).unwrap())
}

fn id(text: &str) -> EndpointId {
    EndpointId::new(text).unwrap()
}

#[test]
fn a_bound_session_goes_to_its_endpoint_under_any_policy() {
    for id in ["0", "1", "2"] {
        for cluster in [
            cluster(RoundRobin::new(), &["", "", ""]),
            cluster(LeastConn::new(), &["", "", ""]),
            cluster(IpHash::new(), &["", "", ""]),
        ] {
            for _ in 0..5 {
                assert_eq!(pick_bound(&cluster, id, &Attempted::none()).to_string(), id);
            }
        }
    }
}

#[test]
fn a_draining_endpoint_and_a_backup_keep_their_sessions_and_one_in_maintenance_does_not() {
    let cluster = cluster(RoundRobin::new(), &["", "", "backup"]);
    cluster.set_admin_state(&id("1"), kylin_lb::endpoint::AdminState::Drain).unwrap();
    assert_eq!(pick_bound(&cluster, "1", &Attempted::none()), 1);
    assert_eq!(pick_bound(&cluster, "2", &Attempted::none()), 2);
    cluster.set_admin_state(&id("1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    assert_eq!(pick_bound(&cluster, "1", &Attempted::none()), 0);
}

#[test]
fn the_policy_picks_if_the_bound_endpoint_is_full_attempted_or_unknown() {
    let cluster = cluster(RoundRobin::new(), &["max_conns=1", ""]);
    let request = request("");
    let view = RequestView::of(&request, ClientAddr::Unix);
    let held = cluster.pick_bound(&view, &Attempted::none(), "0").unwrap();
    assert_eq!(pick_bound(&cluster, "0", &Attempted::none()), 1, "full");
    drop(held);

    let mut attempted = Attempted::none();
    attempted.add(&cluster.pick_bound(&view, &Attempted::none(), "0").unwrap().lease);
    assert_eq!(pick_bound(&cluster, "0", &attempted), 1, "attempted");

    let unknown = pick_bound(&cluster, "gone", &Attempted::none());
    assert!(unknown < 2);
    assert_eq!(cluster.status().in_flight(), 0);
}

#[test]
fn a_request_that_needs_a_role_goes_only_to_endpoints_that_have_it() {
    let cluster = Cluster::builder()
        .endpoint(endpoint("0").roles(Role::Query))
        .endpoint(endpoint("1").roles(Role::Job))
        .endpoint(endpoint("2"))
        .build()
        .unwrap();
    let request = request("");
    let view = RequestView::of(&request, ClientAddr::Unix);
    for (role, expected) in [(Role::Query, [0, 2]), (Role::Job, [1, 2])] {
        for _ in 0..6 {
            let picked = cluster.pick(&view.with_role(Some(role)), &Attempted::none()).unwrap();
            assert!(expected.contains(&index(&picked)), "{role:?}");
        }
    }
    assert_eq!(index(&cluster.pick_bound(&view.with_role(Some(Role::Job)), &Attempted::none(), "1").unwrap()), 1);
    assert_ne!(index(&cluster.pick_bound(&view.with_role(Some(Role::Query)), &Attempted::none(), "1").unwrap()), 1);
    cluster.set_admin_state(&id("2"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    cluster.set_admin_state(&id("1"), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    assert!(cluster.pick(&view.with_role(Some(Role::Job)), &Attempted::none()).is_err(), "no endpoint has the role");
}
