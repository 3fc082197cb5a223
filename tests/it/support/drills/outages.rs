//! Drills in which the dependencies of nodes and front ends fail: the session store, the user
//! source, ZooKeeper.

use std::time::Duration;

use tokio::time::sleep;

use super::crew::{Drill, Scale};
use super::mode::{FrontEnd, Mode};
use super::tally::Tally;
use crate::support::redis::Redis;
use crate::support::zookeeper::{ZooKeeperServer, create, kylin_3_1};

/// How a session store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreFailure {
    /// It is running, but has lost everything.
    Empty,
    /// It is killed, and comes back empty.
    Killed,
    /// It accepts bytes, but does not respond.
    Hung,
}

/// Makes the Redis of a front end fail for `time`. `kind` is the prefix of its `--sessions`.
pub(crate) async fn redis(mode: &Mode, kind: &str, failure: StoreFailure, scale: Scale, time: Duration) -> Tally {
    let mut server = Redis::start(&[]).await;
    let sessions = format!("{kind}redis://{}", server.address());
    let drill = Drill::behind(mode, scale, async |nodes| {
        let nodes: Vec<_> = nodes.iter().map(|(name, address)| format!("{name}@{address}")).collect();
        FrontEnd::example(&["--nodes", &nodes.join(","), "--sessions", &sessions]).await
    });
    let drill = drill.await;
    match failure {
        StoreFailure::Empty => _ = server.cli(&["flushall"]),
        StoreFailure::Killed => {
            server.kill();
            sleep(time).await;
            server.restart().await;
        }
        StoreFailure::Hung => {
            server.process().signal("STOP");
            sleep(time).await;
            server.process().signal("CONT");
        }
    }
    sleep(time).await;
    drill.work().await;
    drill.end().await
}

/// A node loses its sessions while no node can check a password for `time`.
pub(crate) async fn user_source(mode: &Mode, scale: Scale, time: Duration) -> Tally {
    let mut drill = Drill::start(mode, scale).await;
    let set_down =
        |drill: &Drill, down| drill.nodes.iter().for_each(|node| node.node.faults().set_user_source_down(down));
    set_down(&drill, true);
    drill.nodes[0].kill();
    drill.nodes[0].boot().await;
    sleep(time).await;
    set_down(&drill, false);
    drill.work().await;
    drill.end().await
}

/// The ZooKeeper in which nodes are registered is killed, and restarts after `time`.
pub(crate) async fn zookeeper(mode: &Mode, scale: Scale, time: Duration) -> Tally {
    let mut server = ZooKeeperServer::start().await;
    let client = server.client().await;
    let drill = Drill::behind(mode, scale, async |nodes| {
        for (name, address) in nodes {
            let path = format!("/kylin/test/service/cluster_servers/{name}");
            create(&client, &path, kylin_3_1(&address.to_string(), "all").to_string().as_bytes()).await;
        }
        FrontEnd::example(&["--zookeeper", &format!("{}/kylin/test", server.address())]).await
    });
    let drill = drill.await;
    server.kill();
    sleep(time).await;
    server.restart().await;
    sleep(time).await;
    drill.work().await;
    drill.end().await
}
