//! The policies against golden values of nginx 1.22 to 1.31, computed from its sources.
//! `nginx_choice` confirms those of `ip_hash` and `hash` with a real nginx.

use std::net::IpAddr;

use http::HeaderName;
use kylin_lb::ClientAddr;
use kylin_lb::balance::{
    Attempted, Balancer, BalancerExt, Candidate, Candidates, HashKeyed, IpHash, LeastConn, QueryAffinity, RandomOne,
    RandomTwo, RequestKey, RoundRobin,
};
use kylin_lb::cluster::Picked;
use kylin_lb::endpoint::Outcome;
use kylin_lb::{Cluster, RequestView};

use crate::support::cluster::{Nowhere, choose, cluster, endpoint, index, pick, request};

const CLIENT_ADDR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

pub(crate) fn by_key() -> RequestKey {
    RequestKey::Header(HeaderName::from_static("x-key"))
}

fn sequence(cluster: &Cluster<Nowhere>, length: usize) -> String {
    (0..length).map(|_| char::from(b'a' + choose(cluster, CLIENT_ADDR, "") as u8)).collect()
}

/// Returns the endpoints of consecutive attempts of a request with `key`.
fn draws(cluster: &Cluster<Nowhere>, client: ClientAddr, key: &str) -> Vec<usize> {
    let mut attempted = Attempted::none();
    let request = request(key);
    let view = RequestView::of(&request, client);
    std::iter::from_fn(|| {
        let picked = cluster.pick(&view, &attempted).ok()?;
        attempted.add(&picked.lease);
        Some(index(&picked))
    })
    .collect()
}

#[test]
fn round_robin_is_smooth_and_weighted() {
    assert_eq!(sequence(&cluster(RoundRobin::new(), &["weight=5", "", ""]), 14), "aabacaaaabacaa");
    assert_eq!(sequence(&cluster(RoundRobin::new(), &["weight=4", "weight=2", ""]), 7), "abacaba");
    assert_eq!(sequence(&cluster(RoundRobin::new(), &["weight=3", "weight=2"]), 5), "ababa");
    assert_eq!(sequence(&cluster(RoundRobin::new(), &["", "", ""]), 6), "abcabc");
}

#[test]
fn round_robin_spreads_the_share_of_a_dead_endpoint_over_all_others() {
    let cluster = cluster(RoundRobin::new(), &["max_fails=1", "", "", ""]);
    pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap().lease.set_outcome(Outcome::Failure);
    assert!(cluster.status().endpoints[0].ejected);
    assert_eq!(sequence(&cluster, 9), "bcdbcdbcd");
}

#[test]
fn a_change_of_membership_causes_no_burst() {
    let cluster = cluster(RoundRobin::new(), &["", "", ""]);
    sequence(&cluster, 100);
    cluster.add(endpoint("3")).unwrap();
    let after = sequence(&cluster, 12);
    for letter in 'a'..='d' {
        assert_eq!(after.matches(letter).count(), 3, "{after}");
    }
}

#[test]
fn ip_hash_equals_the_golden_values() {
    let golden = [
        ("127.0.0.1", [2, 0, 0]),
        ("10.0.0.1", [0, 1, 0]),
        ("10.0.1.7", [1, 2, 0]),
        ("192.168.1.10", [1, 2, 0]),
        ("192.168.2.10", [2, 3, 0]),
        ("172.16.5.4", [1, 2, 1]),
        ("8.8.8.8", [2, 3, 2]),
        ("203.0.113.9", [0, 0, 0]),
        ("255.255.255.255", [0, 3, 0]),
        ("0.0.0.0", [1, 3, 0]),
    ];
    let clusters = [
        cluster(IpHash::new(), &["", "", ""]),
        cluster(IpHash::new(), &["", "", "", ""]),
        cluster(IpHash::new(), &["weight=5", "", ""]),
    ];
    for (client, expected) in golden {
        let chosen = clusters.each_ref().map(|cluster| choose(cluster, client.parse().unwrap(), ""));
        assert_eq!(chosen, expected, "{client}");
    }
    for (client, expected) in [("::1", 2), ("2001:db8::1", 2), ("fe80::1", 0), ("::ffff:192.168.1.10", 1)] {
        assert_eq!(choose(&clusters[0], client.parse().unwrap(), ""), expected, "{client}");
    }
    let unix = clusters.each_ref().map(|cluster| draws(cluster, ClientAddr::Unix, "")[0]);
    assert_eq!(unix, [1, 3, 0], "a unix socket hashes as 0.0.0.0");
}

#[test]
fn ip_hash_draws_again_and_an_endpoint_in_maintenance_keeps_its_clients() {
    let client = "192.168.1.10".parse().unwrap();
    assert_eq!(choose(&cluster(IpHash::new(), &["", "down", ""]), client, ""), 2);
    assert_eq!(draws(&cluster(IpHash::new(), &["", "", ""]), client.into(), "")[..2], [1, 2]);

    // Clients of the other endpoints keep their endpoint while one is down, and its own clients
    // return with it.
    let cluster = cluster(IpHash::new(), &["", "", "", ""]);
    let clients: Vec<IpAddr> = (0..200).map(|net| IpAddr::from([10, 1, net, 9])).collect();
    let homes = |cluster| clients.iter().map(|client| choose(cluster, *client, "")).collect::<Vec<_>>();
    let before = homes(&cluster);
    cluster.set_admin_state(&"2".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    let during = homes(&cluster);
    assert!(before.iter().zip(&during).all(|(before, during)| *during != 2 && (*before == 2 || before == during)));
    cluster.set_admin_state(&"2".parse().unwrap(), kylin_lb::endpoint::AdminState::Ready).unwrap();
    assert_eq!(homes(&cluster), before);
}

#[test]
fn ip_hash_keeps_a_network_together_and_its_variant_spreads_it() {
    let spread = |policy| {
        let cluster = cluster(policy, &["", "", ""]);
        let mut chosen: Vec<_> = (1..=200).map(|host| choose(&cluster, IpAddr::from([10, 0, 0, host]), "")).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.len()
    };
    assert_eq!(spread(IpHash::new()), 1);
    assert_eq!(spread(IpHash::whole_address()), 3);
}

#[test]
fn rendezvous_follows_the_weights_and_moves_only_the_clients_of_the_endpoint_that_leaves() {
    let cluster = cluster(IpHash::whole_address(), &["weight=2", "", ""]);
    let clients: Vec<IpAddr> = (0..40_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
    let homes = |cluster| clients.iter().map(|client| choose(cluster, *client, "")).collect::<Vec<_>>();
    let before = homes(&cluster);
    let share = |of| before.iter().filter(|home| **home == of).count() as f64 / before.len() as f64;
    assert!((share(0) - 0.5).abs() < 0.01 && (share(1) - 0.25).abs() < 0.01, "{} {}", share(0), share(1));

    cluster.remove(&"1".parse().unwrap()).unwrap();
    let after = homes(&cluster);
    assert!(before.iter().zip(&after).all(|(before, after)| *before == 1 || before == after));
    // Golden values, because another front end, built years later, must agree.
    assert_eq!(before[..12], [0, 2, 2, 0, 0, 0, 1, 1, 0, 0, 0, 0]);
}

#[test]
fn hash_equals_the_golden_draws() {
    for (key, expected) in [("a", [2, 1, 0]), ("ADMIN", [1, 0, 2]), ("/kylin/api/query", [0, 1, 2])] {
        let cluster = cluster(HashKeyed::modulo(by_key()), &["", "", ""]);
        // Draws of attempted endpoints are skipped. For "a", 2,1,0,1,0,2, three remain, and for
        // "ADMIN", 1,0,1,2, three remain too. The draws of "/kylin/api/query" are 0,1,1,1,1,1, and
        // none of the first 21 need be 2.
        assert_eq!(draws(&cluster, CLIENT_ADDR.into(), key), expected, "{key}");
    }
}

#[test]
fn a_request_without_a_key_is_balanced_by_round_robin() {
    assert_eq!(sequence(&cluster(HashKeyed::modulo(by_key()), &["", "", ""]), 6), "abcabc");
    assert_eq!(sequence(&cluster(HashKeyed::consistent(by_key()), &["", "", ""]), 6), "abcabc");
}

#[test]
fn consistent_hash_equals_the_golden_values() {
    let ring = || {
        let endpoints = (1..=3).map(|n| endpoint(&n.to_string()).placement(format!("10.0.0.{n}:7070")));
        Cluster::builder().endpoints(endpoints).balancer(HashKeyed::consistent(by_key())).build().unwrap()
    };
    let cluster = ring();
    for (key, expected) in [("a", 3), ("ADMIN", 2), ("session-42", 3), ("/kylin/api/query", 3)] {
        assert_eq!(choose(&cluster, CLIENT_ADDR, key), expected, "{key}");
    }
    let mut counts = [0; 4];
    for n in 0..30_000 {
        counts[choose(&cluster, CLIENT_ADDR, &n.to_string())] += 1;
    }
    assert_eq!(counts, [0, 11_250, 9_544, 9_206]);

    // An endpoint that leaves, permanently or for a while, moves only its own keys.
    let homes = |cluster| (0..5_000).map(|n| choose(cluster, CLIENT_ADDR, &n.to_string())).collect::<Vec<_>>();
    let before = homes(&cluster);
    cluster.set_admin_state(&"2".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    let without = homes(&cluster);
    assert!(before.iter().zip(&without).all(|(before, after)| *before == 2 || before == after));
    let removed = ring();
    removed.remove(&"2".parse().unwrap()).unwrap();
    assert_eq!(homes(&removed), without);
}

#[test]
fn endpoints_that_share_a_name_share_its_keys_evenly() {
    let endpoints =
        ["0", "1", "2"].map(|id| endpoint(id).placement(if id == "2" { "other:7070" } else { "same:7070" }));
    let cluster = Cluster::builder().endpoints(endpoints).balancer(HashKeyed::consistent(by_key())).build().unwrap();
    for n in 0..50 {
        let key = n.to_string();
        let chosen: Vec<_> = (0..4).map(|_| choose(&cluster, CLIENT_ADDR, &key)).collect();
        let mut sorted = chosen.clone();
        sorted.sort_unstable();
        assert!(sorted == [0, 0, 1, 1] || sorted == [2; 4], "{chosen:?}");
    }
}

#[test]
fn least_conn_fills_by_weight_and_breaks_ties_in_smooth_order() {
    let cluster = cluster(LeastConn::new(), &["weight=2", "", ""]);
    let mut held: Vec<_> = (0..8).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    let status = cluster.status();
    assert_eq!(status.endpoints.iter().map(|endpoint| endpoint.in_flight).collect::<Vec<_>>(), [4, 2, 2]);

    // The endpoint whose request ended is the next to be picked.
    let position = held.iter().position(|picked| index(picked) == 1).unwrap();
    drop(held.remove(position));
    assert_eq!(choose(&cluster, CLIENT_ADDR, ""), 1);
    drop(held);
    assert_eq!(sequence(&cluster, 4).matches('a').count(), 2, "idle endpoints are all tied");
}

proptest::proptest! {
    #[test]
    fn least_conn_never_picks_one_that_has_more_for_its_weight_than_another(
        weights in proptest::collection::vec(1..4_u32, 1..6),
        steps in proptest::collection::vec(proptest::option::of(0..1000_usize), 0..60),
    ) {
        let parameters: Vec<String> = weights.iter().map(|weight| format!("weight={weight}")).collect();
        let cluster = cluster(LeastConn::new(), &parameters.iter().map(String::as_str).collect::<Vec<_>>());
        let mut held = Vec::new();
        for step in steps {
            if let Some(which) = step.filter(|_| !held.is_empty()) {
                held.swap_remove(which % held.len());
                continue;
            }
            let before: Vec<_> = cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight).collect();
            let picked = pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap();
            let of = index(&picked);
            for (other, in_flight) in before.iter().enumerate() {
                proptest::prop_assert!(
                    before[of] * weights[other] <= in_flight * weights[of],
                    "{} of {:?} with {:?}", of, before, weights
                );
            }
            held.push(picked);
        }
    }
}

#[test]
fn least_conn_avoids_an_endpoint_that_is_stuck() {
    let cluster = cluster(LeastConn::new(), &["", "", ""]);
    let stuck = pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap();
    let after: Vec<_> = (0..10).map(|_| choose(&cluster, CLIENT_ADDR, "")).collect();
    assert!(!after.contains(&index(&stuck)), "{after:?}");
}

#[test]
fn least_conn_does_not_pick_an_idle_endpoint_that_is_ejected() {
    let cluster = cluster(LeastConn::new(), &["max_fails=1", "", ""]);
    pick_at(&cluster, "0").lease.set_outcome(Outcome::Failure);
    let held = [(); 5].map(|()| pick_at(&cluster, "1"));
    assert!((0..12).all(|_| choose(&cluster, CLIENT_ADDR, "") == 2));
    drop(held);
}

fn pick_at(cluster: &Cluster<Nowhere>, id: &str) -> Picked<Nowhere> {
    cluster.pick_bound(&RequestView::of(&request(""), CLIENT_ADDR), &Attempted::none(), id).unwrap()
}

#[test]
fn no_policy_picks_a_full_endpoint() {
    fn fills_all(policy: impl Balancer) {
        let name = format!("{policy:?}");
        let cluster = cluster(policy, &["max_conns=1"; 4]);
        let pick = || pick(&cluster, CLIENT_ADDR, "", &Attempted::none());
        let held: Vec<_> = std::iter::from_fn(pick).take(5).collect();
        let chosen: std::collections::BTreeSet<_> = held.iter().map(index).collect();
        assert_eq!((held.len(), chosen.len()), (4, 4), "{name}");
    }
    fills_all(RoundRobin::new());
    fills_all(LeastConn::new());
    fills_all(RandomOne::new());
    fills_all(RandomTwo::new());
    fills_all(IpHash::new());
    fills_all(IpHash::whole_address());
    fills_all(HashKeyed::modulo(by_key()));
    fills_all(HashKeyed::consistent(by_key()));
    fills_all(QueryAffinity::new());
}

#[test]
fn least_conn_finds_the_only_idle_endpoint_behind_some_that_are_tied() {
    let cluster = cluster(LeastConn::new(), &["", "", "", ""]);
    let mut held: Vec<_> = (0..4).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    held.retain(|picked| index(picked) != 3);
    assert_eq!(choose(&cluster, CLIENT_ADDR, ""), 3);
    assert_eq!(choose(&cluster, CLIENT_ADDR, ""), 3, "the request before has ended");
    drop(held);
}

#[test]
fn random_two_picks_the_less_loaded_and_reaches_every_endpoint() {
    let cluster = cluster(RandomTwo::new(), &["", "weight=3"]);
    let held: Vec<_> = (0..400).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    let counts = [0, 1].map(|of| held.iter().filter(|picked| index(picked) == of).count());
    // With two endpoints, both are always drawn, so this is least-conn.
    assert_eq!(counts, [100, 300]);

    let cluster = many(RandomTwo::new());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2_000 {
        seen.insert(choose(&cluster, CLIENT_ADDR, ""));
    }
    assert_eq!(seen.len(), 20);
}

fn many(policy: impl Balancer) -> Cluster<Nowhere> {
    cluster(policy, &[""; 20])
}

#[test]
fn backups_serve_only_when_no_primary_can() {
    let cluster = cluster(RoundRobin::new(), &["max_conns=1", "backup", "max_conns=1", "backup"]);
    let mut held: Vec<_> = (0..4).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    assert_eq!(held.iter().map(index).collect::<Vec<_>>(), [0, 2, 1, 3]);
    held.remove(1);
    assert_eq!(choose(&cluster, CLIENT_ADDR, ""), 2);
}

#[test]
fn limits_in_flight_are_exact_and_draining_endpoints_get_nothing() {
    let cluster = cluster(LeastConn::new(), &["max_conns=2", "max_conns=1"]);
    let held: Vec<_> = (0..3).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    assert!(pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).is_none());
    drop(held);
    cluster.set_admin_state(&"0".parse().unwrap(), kylin_lb::endpoint::AdminState::Drain).unwrap();
    assert_eq!([0; 3].map(|_| choose(&cluster, CLIENT_ADDR, "")), [1; 3]);
}

#[test]
fn random_shares_by_weight_among_eligible_endpoints() {
    let cluster = cluster(RandomOne::new(), &["weight=4", "weight=2", "", "down"]);
    let shares = |draws: usize| {
        let mut counts = [0_usize; 4];
        (0..draws).for_each(|_| counts[choose(&cluster, CLIENT_ADDR, "")] += 1);
        counts
    };
    // Six standard deviations are at most 250 of 7000.
    let near = |count: usize, expected: usize| count.abs_diff(expected) < 250;
    let counts = shares(7000);
    assert!(near(counts[0], 4000) && near(counts[1], 2000) && near(counts[2], 1000) && counts[3] == 0, "{counts:?}");
    cluster.set_admin_state(&"0".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    let counts = shares(3000);
    assert!(near(counts[1], 2000) && near(counts[2], 1000) && counts[0] + counts[3] == 0, "{counts:?}");
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    let cluster = cluster(RoundRobin::new(), &["max_fails=1"]);
    for _ in 0..5 {
        pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap().lease.set_outcome(Outcome::Failure);
    }
    assert!(!cluster.status().endpoints[0].ejected);
}

/// Picks the first endpoint for the key `ADMIN` and abstains for others.
#[derive(Debug)]
struct AdminsFirst;

impl Balancer for AdminsFirst {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        (request.headers()["x-key"] == "ADMIN").then(|| from.at(0))
    }
}

#[test]
fn a_custom_policy_can_be_combined_with_any_other() {
    let cluster = cluster(AdminsFirst.or(HashKeyed::consistent(by_key())), &["", "", ""]);
    assert_eq!(choose(&cluster, CLIENT_ADDR, "ADMIN"), 0);
    let others: std::collections::BTreeSet<_> =
        (0..50).map(|n| choose(&cluster, CLIENT_ADDR, &n.to_string())).collect();
    assert_eq!(others.len(), 3);
    // Choosing an endpoint that is not eligible counts as abstaining.
    cluster.set_admin_state(&"0".parse().unwrap(), kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    assert_ne!(choose(&cluster, CLIENT_ADDR, "ADMIN"), 0);
}

#[test]
fn least_conn_loads_many_endpoints_as_evenly_as_few() {
    let cluster = cluster(LeastConn::new(), &[""; 200]);
    let hold = |count: usize| {
        (0..count).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect::<Vec<_>>()
    };
    let counts = || cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight).collect::<Vec<_>>();
    let mut held = hold(200);
    assert_eq!(counts(), [1; 200], "in order while all are equal");
    // Some become idle.
    held.retain(|picked| ![7, 90, 91].contains(&index(picked)));
    held.extend(hold(3 * 200));
    let counts = counts();
    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(max - min <= 2, "{counts:?}");
}

#[test]
fn least_conn_finds_the_few_eligible_endpoints_of_many() {
    let mut parameters = vec!["down"; 300];
    (parameters[3], parameters[200]) = ("", "");
    let cluster = cluster(LeastConn::new(), &parameters);
    let held: Vec<_> = (0..4).map(|_| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap()).collect();
    let mut chosen: Vec<_> = held.iter().map(index).collect();
    chosen.sort_unstable();
    assert_eq!(chosen, [3, 3, 200, 200]);
}
