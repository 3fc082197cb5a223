//! The policies that know queries: `QueryAffinity` and `LeastWork`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::balance::{Balancer, BalancerExt, Candidate, Candidates, LeastConn, LeastWork, QueryAffinity, Tried};
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::Picked;
use kylin_lb::endpoint::{Learner, Work};
use kylin_lb::{Cluster, Outcome, QueryKeys, RequestView};
use proptest::prelude::*;

use crate::support::cluster::{Nowhere, cluster, endpoint, endpoints, index, request};

const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SECOND: Duration = Duration::from_secs(1);

fn ask(cluster: &Cluster<Nowhere>, affinity: u64, shape: u64) -> Picked<Nowhere> {
    ask_again(cluster, affinity, shape, &Tried::none()).expect("an endpoint can serve")
}

fn ask_again(cluster: &Cluster<Nowhere>, affinity: u64, shape: u64, tried: &Tried) -> Option<Picked<Nowhere>> {
    let request = request("");
    cluster.pick(&RequestView::of(&request, ANYBODY).with_query(QueryKeys::new(affinity, shape)), tried).ok()
}

/// Where each of 2000 queries goes when nothing else is in flight.
fn homes(cluster: &Cluster<Nowhere>) -> Vec<usize> {
    (0..2000).map(|key| index(&ask(cluster, key, 0))).collect()
}

/// The endpoints in the order in which `key` prefers them.
fn preference(cluster: &Cluster<Nowhere>, key: u64) -> Vec<usize> {
    let mut tried = Tried::none();
    std::iter::from_fn(|| {
        let picked = ask_again(cluster, key, 0, &tried)?;
        tried.add(&picked.lease);
        Some(index(&picked))
    })
    .collect()
}

#[test]
fn a_query_goes_where_it_went_before_and_every_front_end_knows_where() {
    let one = cluster(QueryAffinity::new(), &["", "", "", "weight=2"]);
    let other = Cluster::builder().endpoints(endpoints(&["", "", "", "weight=2"]).into_iter().rev());
    let other = other.balancer(QueryAffinity::new()).build().unwrap();
    let before = homes(&one);
    assert_eq!(homes(&one), before);
    assert_eq!(homes(&other), before);
    let share = before.iter().filter(|home| **home == 3).count();
    assert!((720..880).contains(&share), "two fifths by weight: {share} of 2000");
    // Pinned: another front end, built years later, must agree.
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
    assert_eq!(homes(&cluster), before, "and they come back with it");
}

#[test]
fn a_hot_query_spills_over_in_its_own_order() {
    let cluster = cluster(QueryAffinity::new().load_factor(2.0), &[""; 4]);
    let order = preference(&cluster, 42);
    let mut seen = Vec::new();
    let held: Vec<_> = (0..40).map(|_| ask(&cluster, 42, 0)).collect();
    for picked in &held {
        if !seen.contains(&index(picked)) {
            seen.push(index(picked));
        }
    }
    // With a factor of two, two of four endpoints can hold everything; the third helps only while there is little.
    assert_eq!(seen, order[..seen.len()]);
    let counts = order.iter().map(|node| held.iter().filter(|picked| index(picked) == *node).count());
    let counts: Vec<usize> = counts.collect();
    assert!(counts[0] == 20 && counts[1] >= 18, "{counts:?}");
}

#[test]
fn a_request_without_a_query_is_left_to_the_other_policy() {
    let cluster = cluster(QueryAffinity::new().or(LeastConn::new()), &["", "", ""]);
    let request = request("");
    let held: Vec<_> =
        (0..6).map(|_| cluster.pick(&RequestView::of(&request, ANYBODY), &Tried::none()).unwrap()).collect();
    let nodes: Vec<usize> = held.iter().map(index).collect();
    assert_eq!([0, 1, 2].map(|node| nodes.iter().filter(|at| **at == node).count()), [2, 2, 2]);
}

#[test]
fn a_load_factor_that_makes_no_sense_is_bounded() {
    for factor in [f64::NAN, f64::NEG_INFINITY, 0.0, -3.0, 1e300, f64::INFINITY] {
        let cluster = cluster(QueryAffinity::new().load_factor(factor), &["", ""]);
        let held: Vec<_> = (0..100).map(|_| index(&ask(&cluster, 1, 1))).collect();
        assert_eq!(held.len(), 100, "{factor}");
    }
}

proptest! {
    #[test]
    fn no_endpoint_is_ever_given_more_than_its_share(
        weights in proptest::collection::vec(1_u32..6, 1..9),
        percent in 100_u32..300,
        steps in proptest::collection::vec((0_u64..5, 0_usize..100), 1..300),
    ) {
        let policy = QueryAffinity::new().load_factor(f64::from(percent) / 100.0);
        let nodes = weights.iter().enumerate().map(|(node, weight)| endpoint(&node.to_string()).weight(*weight));
        let cluster = Cluster::builder().endpoints(nodes).balancer(policy).build().unwrap();
        let total_weight: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut held = Vec::new();
        for (key, end) in steps {
            let picked = ask(&cluster, key, 0);
            let node = index(&picked);
            held.push(picked);
            let on_it = held.iter().filter(|picked| index(picked) == node).count() as u64;
            let share = u64::from(percent) * held.len() as u64 * u64::from(weights[node]);
            prop_assert!(on_it <= share.div_ceil(100 * total_weight), "{on_it} of {} on {node}", held.len());
            if end < held.len() {
                held.swap_remove(end);
            }
        }
    }
}

fn timed(policy: impl Balancer, nodes: usize) -> (Cluster<Nowhere>, ManualClock) {
    let clock = ManualClock::new();
    let endpoints = endpoints(&vec!["max_fails=0"; nodes]);
    (Cluster::builder().endpoints(endpoints).balancer(policy).clock(clock.clone()).build().unwrap(), clock)
}

/// Lets a query of `shape` run for `took` all alone.
fn teach(cluster: &Cluster<Nowhere>, clock: &ManualClock, shape: u64, took: Duration) {
    let mut picked = ask(cluster, 0, shape);
    clock.advance(took);
    picked.lease.set_outcome(Outcome::Success);
}

const LONG: u64 = 1;
const SHORT: u64 = 2;

#[test]
fn a_node_with_a_long_query_is_given_less_than_one_with_a_short_query() {
    let (cluster, clock) = timed(LeastWork::new(), 2);
    for _ in 0..10 {
        teach(&cluster, &clock, LONG, 19 * SECOND);
        teach(&cluster, &clock, SHORT, SECOND);
    }
    // The mean is 10 s: a long query counts for 20 + 10, a short one for 20 + 1.
    for _ in 0..6 {
        let long = ask(&cluster, 0, LONG);
        let short: Vec<_> = (0..3).map(|_| ask(&cluster, 0, SHORT)).collect();
        let with_long = short.iter().map(|picked| index(picked) == index(&long));
        assert_eq!(with_long.collect::<Vec<_>>(), [false, false, true]);
        // So they take turns whatever order they are in.
        drop((long, short));
        drop(ask(&cluster, 0, SHORT));
    }
}

#[test]
fn what_is_not_known_weighs_the_same() {
    let (cluster, _clock) = timed(LeastWork::new(), 4);
    let held: Vec<_> = (0..20).map(|shape| ask(&cluster, 0, shape)).collect();
    for node in 0..4 {
        assert_eq!(held.iter().filter(|picked| index(picked) == node).count(), 5);
    }
}

#[test]
fn a_query_that_overruns_what_was_expected_keeps_its_weight() {
    let (cluster, clock) = timed(LeastWork::new(), 2);
    for _ in 0..10 {
        teach(&cluster, &clock, SHORT, SECOND);
    }
    let stuck = ask(&cluster, 0, SHORT);
    clock.advance(3600 * SECOND);
    for _ in 0..4 {
        assert_ne!(index(&ask(&cluster, 0, SHORT)), index(&stuck));
    }
}

#[test]
fn only_a_query_that_was_answered_teaches() {
    let (cluster, clock) = timed(LeastWork::new(), 2);
    for outcome in [Outcome::Failure, Outcome::Unknown] {
        for _ in 0..10 {
            let mut picked = ask(&cluster, 0, LONG);
            clock.advance(100 * SECOND);
            picked.lease.set_outcome(outcome);
        }
    }
    clock.advance(100 * SECOND);
    teach(&cluster, &clock, SHORT, SECOND);
    // Were it known to be long, the second node would be chosen for all of these.
    let long = ask(&cluster, 0, LONG);
    let short = ask(&cluster, 0, SHORT);
    assert_ne!(index(&long), index(&short));
    let both: BTreeSet<usize> = (0..2).map(|_| index(&ask(&cluster, 0, SHORT))).collect();
    assert_eq!(both.len(), 2, "both have one second to do");
}

/// A policy that expects a second of everything, tells what is outstanding, and records what it learns.
#[derive(Debug, Clone, Default)]
struct Watching {
    outstanding: Arc<Mutex<Vec<Duration>>>,
    learned: Arc<Lessons>,
}

#[derive(Debug, Default)]
struct Lessons(Mutex<Vec<(u64, Duration)>>);

impl Learner for Lessons {
    fn learn(&self, shape: u64, took: Duration) {
        self.0.lock().unwrap().push((shape, took));
    }
}

impl Balancer for Watching {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        *self.outstanding.lock().unwrap() = from.all().map(|candidate| candidate.outstanding_work()).collect();
        from.iter().next()
    }

    fn work(&self, request: &RequestView<'_>) -> Option<Work> {
        Some(Work::new(SECOND, request.query()?.shape, self.learned.clone()))
    }
}

impl Watching {
    /// What is outstanding on each endpoint.
    fn look(&self, cluster: &Cluster<Nowhere>) -> Vec<Duration> {
        drop(cluster.pick(&RequestView::of(&request(""), ANYBODY), &Tried::none()));
        self.outstanding.lock().unwrap().clone()
    }
}

const NOTHING: Duration = Duration::ZERO;

#[test]
fn a_policy_of_ones_own_sees_the_work_that_it_expects_and_learns_what_it_took() {
    let policy = Watching::default();
    let (cluster, clock) = timed(policy.clone(), 2);
    let mut first = ask(&cluster, 0, 11);
    clock.advance(2 * SECOND);
    let mut second = ask(&cluster, 0, 12);
    clock.advance(3 * SECOND);
    assert_eq!(policy.look(&cluster), [2 * SECOND, NOTHING]);
    first.lease.set_outcome(Outcome::Success);
    drop(first);
    assert_eq!(policy.look(&cluster), [SECOND, NOTHING]);
    second.lease.set_outcome(Outcome::Failure);
    drop(second);
    assert_eq!(policy.look(&cluster)[0], NOTHING);
    assert_eq!(*policy.learned.0.lock().unwrap(), [(11, 5 * SECOND)]);
}

#[test]
fn work_belongs_to_the_id_and_survives_removal_while_in_flight() {
    let policy = Watching::default();
    let (cluster, _clock) = timed(policy.clone(), 2);
    let held = ask(&cluster, 0, 11);
    let id = held.lease.endpoint().clone();
    cluster.remove(&id).unwrap();
    assert_eq!(policy.look(&cluster), [NOTHING]);
    cluster.add(endpoint(id.as_str()).weight(3)).unwrap();
    assert_eq!(policy.look(&cluster), [NOTHING, SECOND]);
    drop(held);
    assert_eq!(policy.look(&cluster), [NOTHING, NOTHING]);
}

#[test]
fn the_work_of_either_policy_of_a_pair_is_counted() {
    let policy = Watching::default();
    let (cluster, _clock) = timed(QueryAffinity::new().or(policy.clone()), 3);
    let held: Vec<_> = (0..30).map(|key| ask(&cluster, key, 5)).collect();
    let expected = [0, 1, 2].map(|node| SECOND * held.iter().filter(|picked| index(picked) == node).count() as u32);
    assert_eq!(policy.look(&cluster), expected);
    drop(held);
    assert_eq!(policy.look(&cluster), [NOTHING; 3]);
}

#[test]
fn no_work_is_left_when_threads_are_done() {
    let policy = Watching::default();
    let (cluster, clock) = timed(policy.clone(), 3);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cluster, clock) = (&cluster, &clock);
            scope.spawn(move || {
                let mut held = std::collections::VecDeque::new();
                for n in 0..3_000 {
                    held.push_back(ask(cluster, n, thread));
                    clock.advance(Duration::from_millis(n % 3));
                    if held.len() > 5 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    assert_eq!(policy.look(&cluster), [NOTHING; 3]);
}
