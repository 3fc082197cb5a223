//! `QueryAffinity`, the policy that knows queries.

use std::net::{IpAddr, Ipv4Addr};

use kylin_lb::balance::{Attempted, BalancerExt, LeastConn, QueryAffinity};
use kylin_lb::cluster::Picked;
use kylin_lb::{Cluster, QueryKeys, RequestView};
use proptest::prelude::*;

use crate::support::cluster::{Nowhere, cluster, endpoint, endpoints, index, nonzero, request};

const CLIENT_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn pick_query(cluster: &Cluster<Nowhere>, affinity: u64, fingerprint: u64) -> Picked<Nowhere> {
    pick_unattempted(cluster, affinity, fingerprint, &Attempted::none()).expect("an endpoint can serve")
}

fn pick_unattempted(
    cluster: &Cluster<Nowhere>,
    affinity: u64,
    fingerprint: u64,
    attempted: &Attempted,
) -> Option<Picked<Nowhere>> {
    let request = request("");
    cluster
        .pick(&RequestView::of(&request, CLIENT_ADDR).with_query(QueryKeys::new(affinity, fingerprint)), attempted)
        .ok()
}

/// Returns the endpoint of each of 2000 queries while nothing else is in flight.
fn homes(cluster: &Cluster<Nowhere>) -> Vec<usize> {
    (0..2000).map(|key| index(&pick_query(cluster, key, 0))).collect()
}

/// Returns the endpoints in the order of preference of `key`.
fn preference(cluster: &Cluster<Nowhere>, key: u64) -> Vec<usize> {
    let mut attempted = Attempted::none();
    std::iter::from_fn(|| {
        let picked = pick_unattempted(cluster, key, 0, &attempted)?;
        attempted.add(&picked.lease);
        Some(index(&picked))
    })
    .collect()
}

#[test]
fn a_query_returns_to_its_endpoint_and_every_front_end_agrees() {
    let one = cluster(QueryAffinity::new(), &["", "", "", "weight=2"]);
    let other = Cluster::builder().endpoints(endpoints(&["", "", "", "weight=2"]).into_iter().rev());
    let other = other.balancer(QueryAffinity::new()).build().unwrap();
    let before = homes(&one);
    assert_eq!(homes(&one), before);
    assert_eq!(homes(&other), before);
    let share = before.iter().filter(|home| **home == 3).count();
    assert!((720..880).contains(&share), "two fifths by weight: {share} of 2000");
    // Golden values, because another front end, built years later, must agree.
    assert_eq!(before[..12], [3, 1, 2, 3, 2, 3, 2, 3, 3, 2, 0, 0]);
    assert!((0..50).all(|key| preference(&one, key) == preference(&other, key)));
}

#[test]
fn an_endpoint_that_leaves_moves_only_its_own_queries() {
    let cluster = cluster(QueryAffinity::new(), &[""; 5]);
    let before = homes(&cluster);
    let second: Vec<usize> = (0..2000).map(|key| preference(&cluster, key)[1]).collect();
    cluster.remove(&"1".parse().unwrap()).unwrap();
    let after = homes(&cluster);
    for key in 0..2000 {
        let expected = if before[key] == 1 { second[key] } else { before[key] };
        assert_eq!(after[key], expected, "{key}");
    }
    cluster.add(endpoint("1")).unwrap();
    assert_eq!(homes(&cluster), before, "its queries return with it");
}

#[test]
fn a_popular_query_overflows_in_its_order_of_preference() {
    let cluster = cluster(QueryAffinity::new().load_factor(2.0).unwrap(), &[""; 4]);
    let order = preference(&cluster, 42);
    let mut seen = Vec::new();
    let held: Vec<_> = (0..40).map(|_| pick_query(&cluster, 42, 0)).collect();
    for picked in &held {
        if !seen.contains(&index(picked)) {
            seen.push(index(picked));
        }
    }
    // With a factor of two, two of four endpoints can serve everything; the third is used only
    // while little is in flight.
    assert_eq!(seen, order[..seen.len()]);
    let counts = order.iter().map(|node| held.iter().filter(|picked| index(picked) == *node).count());
    let counts: Vec<usize> = counts.collect();
    assert!(counts[0] == 20 && counts[1] >= 18, "{counts:?}");
}

#[test]
fn a_query_stays_on_its_first_endpoint_while_that_has_a_free_slot() {
    let cluster = cluster(QueryAffinity::new(), &["max_conns=8", "max_conns=8", "max_conns=2", "max_conns=8"]);
    for key in 0..50 {
        let order = preference(&cluster, key);
        let limits = [8, 8, 2, 8];
        let mut held = Vec::new();
        for endpoint in order {
            for _ in 0..limits[endpoint] {
                held.push(pick_query(&cluster, key, 0));
                assert_eq!(index(held.last().unwrap()), endpoint, "{key}");
            }
        }
        assert!(pick_unattempted(&cluster, key, 0, &Attempted::none()).is_none(), "all are full");
        // A slot that becomes free is used again.
        let freed = index(&held.remove(0));
        assert_eq!(index(&pick_query(&cluster, key, 0)), freed);
    }
}

#[test]
fn without_limits_an_endpoint_has_at_most_twice_the_mean() {
    let cluster = cluster(QueryAffinity::new(), &[""; 4]);
    let order = preference(&cluster, 42);
    let held: Vec<_> = (0..40).map(|_| pick_query(&cluster, 42, 0)).collect();
    assert_eq!(held.iter().filter(|picked| index(picked) == order[0]).count(), 20);
}

#[test]
fn a_request_without_a_query_is_left_to_the_other_policy() {
    let cluster = cluster(QueryAffinity::new().or(LeastConn::new()), &["", "", ""]);
    let request = request("");
    let held: Vec<_> =
        (0..6).map(|_| cluster.pick(&RequestView::of(&request, CLIENT_ADDR), &Attempted::none()).unwrap()).collect();
    let nodes: Vec<usize> = held.iter().map(index).collect();
    assert_eq!([0, 1, 2].map(|node| nodes.iter().filter(|at| **at == node).count()), [2, 2, 2]);
}

#[test]
fn a_load_factor_out_of_range_is_an_error() {
    for factor in [f64::NAN, f64::NEG_INFINITY, 0.0, 0.99, -3.0, 1000.1, 1e300, f64::INFINITY] {
        let error = QueryAffinity::new().load_factor(factor).unwrap_err();
        assert!(error.to_string().ends_with("must be 1 to 1000"), "{error}");
    }
    assert!(QueryAffinity::new().load_factor(1.0).is_ok() && QueryAffinity::new().load_factor(1000.0).is_ok());
}

proptest! {
    #[test]
    fn no_endpoint_exceeds_its_share(
        weights in proptest::collection::vec(1_u32..6, 1..9),
        percent in 100_u32..300,
        steps in proptest::collection::vec((0_u64..5, 0_usize..100), 1..300),
    ) {
        let policy = QueryAffinity::new().load_factor(f64::from(percent) / 100.0).unwrap();
        let nodes = weights.iter().enumerate().map(|(node, weight)| endpoint(&node.to_string()).weight(nonzero(*weight)));
        let cluster = Cluster::builder().endpoints(nodes).balancer(policy).build().unwrap();
        let total_weight: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut held = Vec::new();
        for (key, end) in steps {
            let picked = pick_query(&cluster, key, 0);
            let node = index(&picked);
            held.push(picked);
            let there = held.iter().filter(|picked| index(picked) == node).count() as u64;
            let share = u64::from(percent) * held.len() as u64 * u64::from(weights[node]);
            prop_assert!(there <= share.div_ceil(100 * total_weight), "{there} of {} on {node}", held.len());
            if end < held.len() {
                held.swap_remove(end);
            }
        }
    }
}
