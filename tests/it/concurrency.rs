//! Picks on several threads while the membership changes: no count is lost and no pick waits.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use kylin_lb::balance::{
    Attempted, Balancer, Candidate, Candidates, HashKeyed, IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin,
    Table,
};
use kylin_lb::endpoint::Outcome;
use kylin_lb::{Cluster, RequestView};

use crate::policies::by_key;
use crate::support::cluster::{Nowhere, choose, cluster, endpoint, index, nonzero, pick};

const PICKS: usize = 100_000;
const THREADS: usize = 4;
const CLIENT_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Picks on four threads, each of which holds some leases. Returns how often each endpoint was
/// picked.
fn pick_from_four_threads(cluster: &Cluster<Nowhere>, endpoints: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..endpoints).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let counts = &counts;
            scope.spawn(move || {
                let mut held = std::collections::VecDeque::new();
                for pick_number in 0..PICKS / THREADS {
                    let client = IpAddr::from([10, thread as u8, (pick_number >> 8) as u8, pick_number as u8]);
                    let mut picked = pick(cluster, client, "key", &Attempted::none()).expect("some endpoint can serve");
                    counts[index(&picked)].fetch_add(1, Ordering::Relaxed);
                    picked.lease.set_outcome(Outcome::Success);
                    held.push_back(picked);
                    if held.len() > 8 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

/// Changes the endpoints from 3 on (membership, weight, administrative state) at least a few times,
/// and until `done` is set.
fn churn(cluster: &Cluster<Nowhere>, done: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(3);
    let mut changes = 0;
    while changes < 10 || !done.load(Ordering::Relaxed) {
        let id = (3 + random.usize(..3)).to_string();
        let id = id.parse().unwrap();
        // About half of these fail, because the endpoint is already there or is not.
        let _ = match random.u8(..6) {
            0 | 1 => cluster.add(endpoint(&format!("{id}")).weight(nonzero(1 + random.u32(..5)))),
            2 => cluster.remove(&id),
            3 => cluster.set_weight(&id, nonzero(1 + random.u32(..5))),
            4 => cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Drain),
            _ => cluster.set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance),
        };
        changes += 1;
        thread::yield_now();
    }
}

fn survives_churn(policy: impl Balancer) -> Vec<usize> {
    let cluster = cluster(policy, &["weight=3", "weight=2", "", "", ""]);
    let done = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        scope.spawn(|| churn(&cluster, &done));
        let counts = pick_from_four_threads(&cluster, 6);
        done.store(true, Ordering::Relaxed);
        counts
    });
    assert_eq!(counts.iter().sum::<usize>(), PICKS);
    assert_eq!(cluster.status().in_flight(), 0, "{:?}", cluster.status());
    // The three that stayed have counted every one of their requests.
    for (index, endpoint) in cluster.status().endpoints.iter().take(3).enumerate() {
        assert_eq!(endpoint.served, counts[index] as u64);
    }
    counts
}

#[test]
fn no_count_is_lost_while_members_come_and_go_and_round_robin_keeps_the_shares() {
    let counts = survives_churn(RoundRobin::new());
    let share = |index: usize| counts[index] as f64 / (counts[0] + counts[1] + counts[2]) as f64;
    for (index, weight) in [3.0, 2.0, 1.0].into_iter().enumerate() {
        assert!((share(index) - weight / 6.0).abs() < 0.01, "{counts:?}");
    }
}

#[test]
fn no_policy_loses_a_count_while_members_come_and_go() {
    survives_churn(LeastConn::new());
    survives_churn(RandomTwo::new());
    survives_churn(IpHash::new());
    survives_churn(IpHash::whole_address());
    survives_churn(HashKeyed::modulo(by_key()));
    survives_churn(HashKeyed::consistent(by_key()));
    survives_churn(QueryAffinity::new());
}

#[test]
fn round_robin_is_exact_over_threads_when_nothing_changes() {
    let cluster = cluster(RoundRobin::new(), &["weight=5", "weight=3", "weight=2"]);
    assert_eq!(pick_from_four_threads(&cluster, 3), [PICKS / 2, PICKS * 3 / 10, PICKS / 5]);
}

#[test]
fn threads_with_rotations_of_their_own_keep_the_shares() {
    {
        let cluster = cluster(LeastConn::new(), &["weight=3", ""]);
        let mut counts = [0; 2];
        for _ in 0..THREADS {
            let chosen = || (0..8).map(|_| choose(&cluster, CLIENT_ADDR, "")).collect::<Vec<_>>();
            let chosen = thread::scope(|scope| scope.spawn(chosen).join().unwrap());
            chosen.into_iter().for_each(|index| counts[index] += 1);
        }
        assert_eq!(counts, [6 * THREADS, 2 * THREADS]);
    }
}

#[test]
fn a_limit_in_flight_holds_against_four_threads() {
    let cluster = cluster(LeastConn::new(), &["max_conns=3", "max_conns=2"]);
    let max = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let now = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    // Two at a time: eight are requested and five are allowed.
                    let taken = [(); 2].map(|()| pick(&cluster, CLIENT_ADDR, "", &Attempted::none()));
                    for picked in taken.into_iter().flatten() {
                        let at = index(&picked);
                        let count = now[at].fetch_add(1, Ordering::SeqCst) + 1;
                        max[at].fetch_max(count, Ordering::SeqCst);
                        thread::yield_now();
                        now[at].fetch_sub(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let max = max.map(AtomicUsize::into_inner);
    assert!(max[0] <= 3 && max[1] <= 2, "{max:?}");
    assert_eq!(cluster.status().in_flight(), 0);
}

#[test]
fn live_state_belongs_to_the_id_and_survives_removal_while_in_flight() {
    let cluster = cluster(RoundRobin::new(), &["max_fails=1", ""]);
    let first = cluster.status().endpoints[0].id.clone();
    let mut held = pick(&cluster, CLIENT_ADDR, "", &Attempted::none()).unwrap();
    held.lease.set_outcome(Outcome::Failure);
    cluster.remove(&first).unwrap();
    assert_eq!(cluster.status().in_flight(), 0, "it is no longer a member");
    cluster.add(endpoint("0").max_fails(Some(nonzero(1))).weight(nonzero(7))).unwrap();
    assert_eq!(cluster.status().in_flight(), 1, "it is back with its request");
    drop(held);
    let status = cluster.status();
    let back = status.endpoints.iter().find(|endpoint| endpoint.id == first).unwrap();
    assert_eq!((back.in_flight, back.failed, back.ejected, back.weight), (0, 1, true, 7));
    cluster.set_weight(&first, nonzero(2)).unwrap();
    assert!(cluster.status().endpoints.iter().any(|endpoint| endpoint.ejected), "a new weight ends no ejection");
}

/// A policy whose preparation of a new view waits until the test continues it.
#[derive(Debug)]
struct SlowToPrepare {
    entered: mpsc::SyncSender<()>,
    proceed: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Balancer for SlowToPrepare {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        from.next_eligible()
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        if members.len() == 3 {
            self.entered.send(()).unwrap();
            self.proceed.lock().unwrap().recv().unwrap();
        }
        Table::none()
    }
}

#[test]
fn a_pick_waits_for_no_change_in_progress() {
    let (entered, is_entered) = mpsc::sync_channel(1);
    let (proceed, may_proceed) = mpsc::sync_channel(1);
    let cluster = cluster(SlowToPrepare { entered, proceed: may_proceed.into() }, &["", ""]);
    thread::scope(|scope| {
        let change = scope.spawn(|| cluster.add(endpoint("2")));
        is_entered.recv().unwrap();
        // The change holds its lock now. A pick that needed the lock would never return.
        let picked: Vec<_> = (0..4).map(|_| choose(&cluster, CLIENT_ADDR, "")).collect();
        assert_eq!(picked, [0, 1, 0, 1]);
        assert_eq!(cluster.status().endpoints.len(), 2);
        proceed.send(()).unwrap();
        change.join().unwrap().unwrap();
    });
    assert_eq!(cluster.status().endpoints.len(), 3);
}

#[test]
fn errors_name_the_endpoint() {
    let cluster = cluster(RoundRobin::new(), &["", ""]);
    assert_eq!(cluster.add(endpoint("1")).unwrap_err().to_string(), "there is already an endpoint 1");
    assert_eq!(cluster.remove(&"9".parse().unwrap()).unwrap_err().to_string(), "there is no endpoint 9");
    let twice = cluster.replace(vec![endpoint("7"), endpoint("7")]).unwrap_err();
    assert_eq!(twice.to_string(), "there is already an endpoint 7");
    assert_eq!(cluster.status().endpoints.len(), 2, "nothing was changed");
}
