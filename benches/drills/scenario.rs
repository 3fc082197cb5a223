//! The drills and the front ends that take part in each.

use std::time::Duration;

use crate::support::drills::outages::{self, StoreFailure};
use crate::support::drills::{Drill, Event, MODES, Mode, PEERS, Scale, Tally, Tomcats};

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

pub(crate) const DRILLS: [Outline; 14] = [
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
    drill("relay-redis-hung", has_store),
    drill("ldap", |mode| mode.name == "login relay"),
    drill("zookeeper", has_store),
    drill("tomcat", is_basic),
];

/// The defaults of each front end, and the login relay.
fn is_basic(mode: &Mode) -> bool {
    ["default", "login relay", "HAProxy, cookie", "nginx, ip_hash"].contains(&mode.name)
}

/// Features that only this crate has. The store and the discovery replace options of this mode.
fn has_store(mode: &Mode) -> bool {
    mode.name == "default"
}

pub(crate) fn front_ends(drill: &Outline) -> Vec<Mode> {
    MODES.into_iter().chain(PEERS).filter(drill.takes).collect()
}

pub(crate) async fn run(drill: &'static str, mode: Mode) -> Tally {
    match drill {
        "tomcat" => return tomcat(&mode).await,
        "zookeeper" => return outages::zookeeper(&mode, SCALE, OUTAGE).await,
        "ldap" => return outages::user_source(&mode, SCALE, OUTAGE).await,
        "redis-empty" => return redis("", StoreFailure::Empty).await,
        "redis-killed" => return redis("", StoreFailure::Killed).await,
        "redis-hung" => return redis("", StoreFailure::Hung).await,
        "relay-redis-empty" => return redis("login-relay:", StoreFailure::Empty).await,
        "relay-redis-killed" => return redis("login-relay:", StoreFailure::Killed).await,
        "relay-redis-hung" => return redis("login-relay:", StoreFailure::Hung).await,
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

/// The time without a store, longer than a front end trusts the data that it has read from the
/// store.
const OUTAGE: Duration = Duration::from_secs(6);

async fn redis(kind: &str, failure: StoreFailure) -> Tally {
    outages::redis(&MODES[0], kind, failure, MANY_SESSIONS, OUTAGE).await
}

/// Many sessions, each with few requests.
const MANY_SESSIONS: Scale = Scale { clients: 60, think_time: Duration::from_millis(500), requests: 300, ..SCALE };

/// Three real Tomcats, which their own `shutdown.sh` stops one after another, under load from 64
/// clients.
async fn tomcat(mode: &Mode) -> Tally {
    let scale = Scale { clients: 64, query_ms: 20, requests: 400, ..SCALE };
    let mut run = Tomcats::start(mode, scale).await;
    for node in 0..3 {
        run.restart(node).await;
    }
    run.end().await
}
