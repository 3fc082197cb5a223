//! Sessions in a Redis Cluster of three masters and three replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use kylin_lb::testing::store::{Pair, conformance};

use crate::support::redis::{RedisCluster, cli, eventually, redis_installed};
use crate::support::sessions::{bind, bound, front_end, key, recovers, settle_concurrent_bindings};

#[tokio::test(flavor = "multi_thread")]
async fn conforms_and_settles_10_000_concurrent_bindings() {
    if !redis_installed() {
        return;
    }
    let cluster = RedisCluster::start().await;
    let url = cluster.url();
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
    settle_concurrent_bindings(front_end(&url), front_end(&url), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_moves_without_a_failed_operation() {
    if !redis_installed() {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let store = front_end(&cluster.url());
    // A tag puts all keys into one slot, so that during the move some keys have moved and others
    // have not.
    let tagged = front_end(&format!("{}?prefix=%7Btag%7D", cluster.url()));
    for number in 0..500 {
        bind(&tagged, &key(number), "q1").await.unwrap();
    }
    bind(&store, &key(1), "q1").await.unwrap();

    let slot = cluster.nodes[0].cli(&["cluster", "keyslot", "{tag}"]);
    let from = cluster.master_of("{tag}", &cluster.nodes[0]);
    let id = |port| cli(port, &["cluster", "myid"]);
    let is_master = |port| cli(port, &["role"]).starts_with("master");
    let to = cluster.nodes.iter().map(|node| node.port()).find(|&port| port != from && is_master(port)).unwrap();

    let (stop, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|task| {
            let (store, stop, operations) = (tagged.clone(), stop.clone(), operations.clone());
            tokio::spawn(async move {
                let mut number: u128 = task * 1000;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let old = key(number % 500);
                    let there = store.load(&old).await.unwrap().expect("it was bound");
                    assert_eq!(there.record, bound("q1"));
                    let new = key(1_000_000 + number);
                    bind(&store, &new, "q2").await.unwrap();
                    store.remove(&new).await.unwrap();
                    operations.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // Operations run before, during and after the move of the slot.
    let have_run = |goal| {
        let has_failed = callers.iter().any(tokio::task::JoinHandle::is_finished);
        has_failed || operations.load(Ordering::Relaxed) >= goal
    };
    eventually("operations run", || have_run(20)).await;
    // The commands are those of `redis-cli --cluster reshard` for one slot.
    let moved = tokio::task::spawn_blocking(move || {
        let (from_id, to_id) = (id(from), id(to));
        assert_eq!(cli(to, &["cluster", "setslot", &slot, "importing", &from_id]), "OK");
        assert_eq!(cli(from, &["cluster", "setslot", &slot, "migrating", &to_id]), "OK");
        loop {
            let keys = cli(from, &["cluster", "getkeysinslot", &slot, "7"]);
            if keys.is_empty() {
                break;
            }
            let port = to.to_string();
            let mut migrate = vec!["migrate", "127.0.0.1", &port, "", "0", "5000", "keys"];
            migrate.extend(keys.lines());
            let reply = cli(from, &migrate);
            assert!(reply == "OK" || reply == "NOKEY", "{reply}");
        }
        for port in [to, from] {
            assert_eq!(cli(port, &["cluster", "setslot", &slot, "node", &to_id]), "OK");
        }
    });
    moved.await.unwrap();
    let before = operations.load(Ordering::Relaxed);
    eventually("operations run", || have_run(before + 200)).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let held = cluster.node(to).cli(&["get", &format!("{{tag}}{}", key(0).to_hex())]);
    assert!(!held.is_empty(), "the keys have moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_replaces_a_killed_master() {
    if !redis_installed() {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let store = front_end(&cluster.url());
    let lost = key(7);
    bind(&store, &lost, "q1").await.unwrap();
    let name = format!("kylin-lb:{}", lost.to_hex());
    let master = cluster.master_of(&name, &cluster.nodes[0]);
    // On another master, which keeps serving.
    let other = (100..)
        .map(key)
        .find(|other| cluster.master_of(&format!("kylin-lb:{}", other.to_hex()), &cluster.nodes[0]) != master);
    let other = other.unwrap();
    bind(&store, &other, "q2").await.unwrap();
    // Replication is asynchronous. The record is safe once a replica has it.
    assert_eq!(cluster.node(master).cli(&["wait", "1", "5000"]), "1");

    cluster.node(master).kill();
    recovers(&store, &lost).await;
    assert_eq!(store.load(&lost).await.unwrap().map(|there| there.record), Some(bound("q1")));
    assert_eq!(store.load(&other).await.unwrap().map(|there| there.record), Some(bound("q2")));

    // The old master returns as a replica, without effect.
    cluster.node(master).restart().await;
    recovers(&store, &lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_recovers_after_all_nodes_of_a_cluster_stopped() {
    if !redis_installed() {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let store = front_end(&cluster.url());
    bind(&store, &key(1), "q1").await.unwrap();
    // Stopped rather than killed, because a killed node loses the folder with the state of the
    // cluster.
    for node in &mut cluster.nodes {
        node.process().signal("STOP");
    }
    for _ in 0..5 {
        let gone = tokio::time::timeout(Duration::from_millis(50), store.load(&key(1))).await;
        assert!(!matches!(gone, Ok(Ok(_))), "{gone:?}");
    }
    for node in &mut cluster.nodes {
        node.process().signal("CONT");
    }
    recovers(&store, &key(1)).await;
}
