//! The drills and the front ends that take part in each.

use std::time::Duration;

use crate::support::drills::{Drill, Event, FrontEnd, MODES, Mode, PEERS, Scale, Tally, Tomcats};
use crate::support::redis::Redis;
use crate::support::zookeeper::{ZooKeeperServer, create, kylin_3_1};

/// About 110 requests a second, and nodes that take as long to start as Tomcat.
const SCALE: Scale = Scale {
    clients: 12,
    think_time: Duration::from_millis(100),
    boot_time: Duration::from_secs(2),
    query_ms: 5,
    requests: 90,
};

pub(crate) struct Outline {
    pub(crate) name: &'static str,
    takes: fn(&Mode) -> bool,
}

const fn drill(name: &'static str, takes: fn(&Mode) -> bool) -> Outline {
    Outline { name, takes }
}

pub(crate) const DRILLS: [Outline; 13] = [
    drill("rolling-0", |_| true),
    drill("rolling-2", |_| true),
    drill("kill", |_| true),
    drill("outage", |_| true),
    drill("pause", is_basic),
    drill("redis-empty", has_store),
    drill("redis-killed", has_store),
    drill("redis-hung", has_store),
    drill("relay-redis-empty", has_store),
    drill("relay-redis-killed", has_store),
    drill("ldap", |mode| mode.name == "login relay"),
    drill("zookeeper", has_store),
    drill("tomcat", is_basic),
];

/// The defaults of each front end, and the login relay.
fn is_basic(mode: &Mode) -> bool {
    ["default", "login relay", "HAProxy, cookie", "nginx, ip_hash"].contains(&mode.name)
}

/// Features that only this crate has: the store and the discovery replace options of this mode.
fn has_store(mode: &Mode) -> bool {
    mode.name == "default"
}

pub(crate) fn front_ends(drill: &Outline) -> Vec<Mode> {
    MODES.into_iter().chain(PEERS).filter(drill.takes).collect()
}

pub(crate) async fn run(drill: &'static str, mode: Mode) -> Tally {
    match drill {
        "tomcat" => return tomcat(&mode).await,
        "zookeeper" => return zookeeper().await,
        "ldap" => return ldap(&mode).await,
        "redis-empty" => return redis("", Failure::Empty).await,
        "redis-killed" => return redis("", Failure::Killed).await,
        "redis-hung" => return redis("", Failure::Hung).await,
        "relay-redis-empty" => return redis("login-relay:", Failure::Empty).await,
        "relay-redis-killed" => return redis("login-relay:", Failure::Killed).await,
        _ => {}
    }
    let event = match drill {
        "rolling-0" => Event::RollingRestart { between: Duration::ZERO },
        "rolling-2" => Event::RollingRestart { between: Duration::from_secs(2) },
        "kill" => Event::Kills { between: Duration::from_secs(2) },
        "outage" => Event::Outage,
        "pause" => Event::Pause(Duration::from_secs(20)),
        other => unreachable!("{other}"),
    };
    Drill::run(mode, SCALE, event).await
}

/// The failure of a session store.
enum Failure {
    /// The store runs and has lost everything.
    Empty,
    /// The store is killed, and comes back empty.
    Killed,
    /// The store accepts bytes and does not respond.
    Hung,
}

/// The time without a store, longer than a front end trusts what it has read from it.
const OUTAGE: Duration = Duration::from_secs(6);

async fn redis(kind: &str, failure: Failure) -> Tally {
    let mut server = Redis::start(&[]).await;
    let sessions = format!("{kind}redis://{}", server.address());
    let scale = Scale { clients: 60, think_time: Duration::from_millis(500), requests: 300, ..SCALE };
    let run = Drill::behind(&MODES[0], scale, async |nodes| {
        let nodes: Vec<_> = nodes.iter().map(|(name, address)| format!("{name}@{address}")).collect();
        FrontEnd::example(&["--nodes", &nodes.join(","), "--sessions", &sessions]).await
    });
    let run = run.await;
    match failure {
        Failure::Empty => _ = server.cli(&["flushall"]),
        Failure::Killed => {
            server.kill();
            tokio::time::sleep(OUTAGE).await;
            server.restart().await;
        }
        Failure::Hung => {
            server.process().signal("STOP");
            tokio::time::sleep(OUTAGE).await;
            server.process().signal("CONT");
        }
    }
    tokio::time::sleep(OUTAGE).await;
    run.work().await;
    run.end().await
}

/// A node loses its sessions while no node can check a password.
async fn ldap(mode: &Mode) -> Tally {
    let mut run = Drill::start(mode, SCALE).await;
    let unreachable =
        |run: &Drill, down| run.nodes.iter().for_each(|node| node.node.faults().set_user_source_down(down));
    unreachable(&run, true);
    run.nodes[0].kill();
    run.nodes[0].boot().await;
    tokio::time::sleep(OUTAGE).await;
    unreachable(&run, false);
    run.work().await;
    run.end().await
}

async fn zookeeper() -> Tally {
    let mut server = ZooKeeperServer::start().await;
    let client = server.client().await;
    let run = Drill::behind(&MODES[0], SCALE, async |nodes| {
        for (name, address) in nodes {
            let path = format!("/kylin/test/service/cluster_servers/{name}");
            create(&client, &path, kylin_3_1(&address.to_string(), "all").to_string().as_bytes()).await;
        }
        FrontEnd::example(&["--zookeeper", &format!("{}/kylin/test", server.address())]).await
    });
    let run = run.await;
    server.kill();
    tokio::time::sleep(OUTAGE).await;
    server.restart().await;
    tokio::time::sleep(OUTAGE).await;
    run.work().await;
    run.end().await
}

/// Three real Tomcats, which their own `shutdown.sh` stops one after the other, under 64 clients.
async fn tomcat(mode: &Mode) -> Tally {
    let scale = Scale { clients: 64, query_ms: 20, requests: 400, ..SCALE };
    let mut run = Tomcats::start(mode, scale).await;
    for node in 0..3 {
        run.restart(node).await;
    }
    run.end().await
}
