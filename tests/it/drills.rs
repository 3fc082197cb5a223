//! Restarts and outages of nodes behind the example front end, as users run it.

use std::time::Duration;

use crate::support::drills::outages::{self, StoreFailure};
use crate::support::drills::{Drill, Event, MODES, Mode, Scale, Tally, Tomcats};
use crate::support::redis::redis_installed;
use crate::support::tomcat::Tomcat;
use crate::support::zookeeper::require_zookeeper;

const SCALE: Scale = Scale {
    clients: 6,
    think_time: Duration::from_millis(80),
    // As long as the front end waits for a node that it asks whether Kylin runs there. A real
    // Tomcat takes longer.
    boot_time: Duration::from_secs(2),
    query_ms: 5,
    requests: 60,
};

/// At most each client's request in flight at each of three nodes.
const MAX_BROKEN: u64 = 3 * SCALE.clients as u64;

/// Runs a drill in each of the modes at the same time, checks the invariants of every drill, and
/// returns the other observations.
async fn in_modes(modes: &[Mode], event: Event) -> Vec<(Mode, Tally)> {
    let runs: Vec<_> = modes.iter().map(|mode| (*mode, tokio::spawn(Drill::run(*mode, SCALE, event)))).collect();
    let mut results = Vec::new();
    for (mode, run) in runs {
        results.push((mode, run.await.unwrap()));
    }
    for (mode, tally) in &results {
        println!("{event:?}, {}: {tally}", mode.name);
    }
    results.iter().for_each(|(mode, tally)| check(mode, tally));
    results
}

/// Checks the invariants of every drill.
fn check(mode: &Mode, tally: &Tally) {
    let shown = || format!("{}: {tally}", mode.name);
    assert_eq!(tally.silent, 0, "connections closed without a byte: {}", shown());
    assert_eq!((tally.repeated_writes, tally.repeated_often), (0, 0), "executed too often: {}", shown());
    if mode.binds {
        assert_eq!(tally.lost_wrongly, 0, "logins lost whose node lives: {}", shown());
    }
    if mode.keeps_logins {
        assert_eq!(tally.lost, 0, "logins lost: {}", shown());
    }
}

/// A build that is in flight at a node that ends may be lost. So may each POST if the front end
/// knows nothing about Kylin.
async fn rolling_restart(between: Duration) {
    for (mode, tally) in in_modes(&MODES, Event::RollingRestart { between }).await {
        assert_eq!(tally.failed(), 0, "{}: {tally}", mode.name);
        assert!(tally.broken_writes <= MAX_BROKEN, "{}: {tally}", mode.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_without_a_pause_between_nodes_fails_no_read_in_any_mode() {
    rolling_restart(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_with_two_seconds_between_nodes_fails_no_read_in_any_mode() {
    rolling_restart(Duration::from_secs(2)).await;
}

/// A request in flight at a node that dies may be lost if it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_one_after_the_other_fail_no_read() {
    for (mode, tally) in in_modes(&MODES, Event::Kills { between: Duration::from_millis(500) }).await {
        assert!(tally.failed() == 0 && tally.broken_writes <= MAX_BROKEN, "{}: {tally}", mode.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_died_the_first_that_is_back_is_used_at_once() {
    for (mode, tally) in in_modes(&MODES, Event::Outage).await {
        assert_eq!(tally.failed(), 0, "{}: {tally}", mode.name);
    }
}

/// Requests in flight at a paused node wait for it, like a long query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_paused_fails_no_request() {
    let pause = Duration::from_secs(2);
    for (mode, tally) in in_modes(&MODES[..1], Event::Pause(pause)).await {
        assert_eq!((tally.failed(), tally.broken_writes, tally.repeated_reads), (0, 0, 0), "{}: {tally}", mode.name);
        // Far less than a timeout, and more than a busy machine needs.
        assert!(tally.slowest < pause + Duration::from_secs(30), "{}: {tally}", mode.name);
    }
}

/// Longer than a front end trusts the data that it has read from a store.
const OUTAGE: Duration = Duration::from_secs(6);

/// Each session store of the front end fails in this way.
async fn store_fails(failure: StoreFailure) {
    if !redis_installed() {
        return;
    }
    let relay = MODES.iter().find(|mode| mode.keeps_logins).unwrap();
    let run = |mode, kind| outages::redis(mode, kind, failure, SCALE, OUTAGE);
    let (bindings, logins) = tokio::join!(run(&MODES[0], ""), run(relay, "login-relay:"));
    for (mode, tally) in [(&MODES[0], bindings), (relay, logins)] {
        println!("{failure:?} store, {}: {tally}", mode.name);
        check(mode, &tally);
        assert_eq!((tally.failed(), tally.lost, tally.broken_writes, tally.repeated_reads), (0, 0, 0, 0), "{tally}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_lost_everything_ends_no_session() {
    store_fails(StoreFailure::Empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_and_comes_back_empty_ends_no_session() {
    store_fails(StoreFailure::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_ends_no_session_and_fails_no_request() {
    store_fails(StoreFailure::Hung).await;
}

/// A session that only this node knew waits until a node can check its login again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_while_no_login_can_be_checked_ends_no_session() {
    let relay = MODES.iter().find(|mode| mode.keeps_logins).unwrap();
    let tally = outages::user_source(relay, SCALE, OUTAGE).await;
    println!("user source down: {tally}");
    check(relay, &tally);
    assert!(tally.failures.keys().all(|what| what.contains("503") && what.contains("login")), "{tally}");
    // The requests that were in flight at the node when it died.
    assert!(tally.broken_writes <= SCALE.clients as u64, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_that_restarts_changes_nothing_for_clients() {
    require_zookeeper!();
    let tally = outages::zookeeper(&MODES[0], SCALE, Duration::from_secs(3)).await;
    println!("ZooKeeper restarted: {tally}");
    check(&MODES[0], &tally);
    assert_eq!((tally.failed(), tally.lost, tally.broken_writes, tally.repeated_reads), (0, 0, 0, 0), "{tally}");
}

/// Tomcat lets requests run for two seconds and then cuts them off. The front end sends the queries
/// to another node, and reports that the builds may have been executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tomcat_that_its_own_script_stops_under_64_clients_fails_no_read() {
    if !Tomcat::required() {
        return;
    }
    let scale = Scale { clients: 64, think_time: Duration::from_millis(100), query_ms: 20, requests: 300, ..SCALE };
    let mode = MODES[0];
    let mut drill = Tomcats::start(&mode, scale).await;
    let long = drill.send_long(6, Duration::from_secs(25)).await;
    let runs_long = |node: &usize, kind| drill.nodes[*node].executed().matches(kind).count();
    let stopped = (0..3).max_by_key(|node| runs_long(node, "/models/long").min(runs_long(node, "select 'long")));
    drill.restart(stopped.unwrap()).await;
    let mut broken = 0;
    for (what, response) in long {
        let response = response.await.unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
        let shown = format!("{what}: {} {}", response.status(), response.text());
        match (response.status(), what.starts_with("select"), drill.executions(&what)) {
            (200, true, 1..=2) | (200, false, 1) => {}
            (502, false, 1) => broken += 1,
            (_, _, times) => panic!("{shown}, executed {times} times"),
        }
    }
    assert!(broken > 0, "the stopped node had no long build");
    let tally = drill.end().await;
    check(&mode, &tally);
    assert_eq!(tally.failed(), 0, "{tally}");
}
