//! A run: the configuration, the events, and the checks in addition to the responses.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use http::StatusCode;
use kylin_lb::balance::{IpHash, LeastConn, QueryAffinity, RandomTwo, RoundRobin};
use kylin_lb::endpoint::AdminState;
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions, StickyCookie};
use kylin_lb::testing::kylin::{Fault, FaultScope, KylinNode, Metastore};
use kylin_lb::testing::{FailingStore, StoreFault};
use kylin_lb::{Cluster, Endpoint, Proxy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client, PASSWORD, user};
use super::faulty::FaultyNode;
use super::hostile;
use super::world::{PausedClock, World};

/// The time in which clients work.
const WORK: Duration = Duration::from_secs(30);
/// The part of it in which nodes and the store fail.
const EVENTS: Duration = Duration::from_secs(18);
/// How long all nodes must work before every request of an honest client has to succeed: a few
/// probes.
pub(super) const WELL: Duration = Duration::from_secs(5);
const STORE_FAULTS: [Option<StoreFault>; 4] =
    [None, Some(StoreFault::Slow(Duration::from_millis(30))), Some(StoreFault::Fails), Some(StoreFault::Hangs)];
const NAMES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// Everything that takes part in a run.
#[derive(Clone)]
pub(super) struct Cast {
    pub(super) world: World,
    pub(super) nodes: Vec<FaultyNode>,
    pub(super) metastore: Metastore,
    pub(super) store: FailingStore,
    pub(super) proxy: Proxy<FaultyNode>,
    sessions: Sessions,
}

pub(super) async fn run(world: &World) {
    world.begin();
    let mut rng = world.rng(0);
    let cast = Cast::new(world, &mut rng);
    let checker = HealthCheck::new(Probe::kylin()).start(cast.proxy.cluster()).unwrap();
    let (clients, hostile) = (rng.usize(2..7), rng.usize(0..4));
    // In every third run the nodes work, and only clients are hostile.
    let has_events = !world.seed.is_multiple_of(3);
    world.log(format!("{clients} clients, {hostile} hostile ones, events: {has_events}"));
    let end = Instant::now() + WORK;
    let mut honest: JoinSet<()> = (1..=clients).map(|number| Client::new(number, cast.clone()).run(end)).collect();
    let mut others: JoinSet<()> = (1..=hostile).map(|number| hostile::run(number, cast.clone())).collect();
    others.spawn(cast.clone().watch(has_events));
    if has_events {
        honest.spawn(cast.clone().events(world.rng(1)));
    }
    while let Some(ended) = honest.join_next().await {
        ended.unwrap();
    }
    others.shutdown().await;
    cast.end().await;
    drop((checker, cast));
    sleep(Duration::from_secs(120)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    world.check(tasks == 0, || format!("{tasks} tasks are left"));
}

impl Cast {
    fn new(world: &World, rng: &mut Rng) -> Self {
        let metastore = (0..8).fold(Metastore::new(), |all, number| all.user(&user(number), PASSWORD, true));
        let count = rng.usize(2..=4);
        let nodes: Vec<FaultyNode> = NAMES[..count]
            .iter()
            .map(|name| FaultyNode::new(KylinNode::new(*name).metastore(&metastore).jvm_route(name)))
            .collect();
        // At least as many as all clients need; otherwise others would rightly be refused.
        let limit = rng.bool().then(|| NonZeroU32::new(rng.u32(10..30)).unwrap());
        let endpoint = |node: &FaultyNode| endpoint(node).max_in_flight(limit);
        let cluster = Cluster::builder().clock(PausedClock).endpoints(nodes.iter().map(endpoint));
        let (policy, cluster) = match rng.u8(..5) {
            0 => ("round robin", cluster.balancer(RoundRobin::new())),
            1 => ("ip_hash", cluster.balancer(IpHash::new())),
            2 => ("least_conn", cluster.balancer(LeastConn::new())),
            3 => ("query affinity", cluster.balancer(QueryAffinity::new())),
            _ => ("random two", cluster.balancer(RandomTwo::new())),
        };
        let store = FailingStore::new();
        let secret = || Secret::new([7; 32]);
        let sessions = Sessions::builder(store.clone(), secret()).clock(PausedClock).build().unwrap();
        let (affinity, chosen) = match rng.u8(..5) {
            0 => ("learn", Some(Affinity::learn(sessions.clone()))),
            1 => ("cookie", Some(Affinity::cookie(StickyCookie::new(secret())))),
            2 => ("user", Some(Affinity::user(secret()))),
            3 => {
                let relay = LoginRelay::new(sessions.clone(), secret()).clock(PausedClock);
                ("login relay", Some(Affinity::login_relay(relay)))
            }
            _ => ("none", None),
        };
        let proxy = Proxy::builder(cluster.build().unwrap()).clock(PausedClock).affinity(chosen).build().unwrap();
        world.log(format!("{count} nodes, limit {limit:?}, {policy}, affinity {affinity}"));
        Cast { world: world.clone(), nodes, metastore, store, proxy, sessions }
    }

    /// Checks the invariants that hold at any moment.
    async fn watch(self, has_events: bool) {
        loop {
            let (status, open) = (self.proxy.cluster().status(), self.world.open());
            self.world.check(status.in_flight() <= open, || format!("{} in flight of {open}", status.in_flight()));
            for endpoint in status.endpoints.iter().filter(|_| !has_events) {
                self.world.check(!endpoint.ejected, || {
                    format!("{} is ejected although all nodes are well: {:?}", endpoint.id, endpoint.reason)
                });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes nodes, the store and the membership fail, one after another or at once, and repairs
    /// everything at the end.
    async fn events(self, mut rng: Rng) {
        let end = Instant::now() + EVENTS;
        self.world.set_well(false);
        while Instant::now() < end {
            self.event(&mut rng).await;
            sleep(Duration::from_millis(rng.u64(0..4_000))).await;
        }
        for node in &self.nodes {
            self.mend(node);
        }
        self.store.set_fault(None);
        self.world.set_well(true);
        self.world.log("all is well");
    }

    async fn event(&self, rng: &mut Rng) {
        let index = rng.usize(..self.nodes.len());
        let (node, name, cluster) = (&self.nodes[index], NAMES[index], self.proxy.cluster());
        let (id, times) = (name.parse().unwrap(), rng.u64(1..8));
        let faults = node.node.faults();
        let scope = *rng.choice(&[FaultScope::Everything, FaultScope::Queries, FaultScope::Sessions]).unwrap();
        let log = |what: String| self.world.log(format!("event: {name} {what}"));
        match rng.u8(..13) {
            0 => {
                log("is killed".into());
                node.kill();
            }
            1 => {
                log("is mended".into());
                self.mend(node);
            }
            2 => {
                let status =
                    *rng.choice(&[StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE]).unwrap();
                log(format!("responds to {times} of {scope:?} with {status}"));
                faults.inject_times(times, scope, Fault::Html(status));
            }
            3 => {
                let bytes = rng.u64(..200);
                let fault = if rng.bool() { Fault::ResetAfter(bytes) } else { Fault::TruncateAfter(bytes) };
                log(format!("cuts {times} of {scope:?}: {fault:?}"));
                faults.inject_times(times, scope, fault);
            }
            4 => {
                let fault = if rng.bool() { Fault::Stall } else { Fault::Hang };
                log(format!("does not respond to {times} of {scope:?}: {fault:?}"));
                faults.inject_times(times, scope, fault);
            }
            5 => {
                log(format!("closes {times} of {scope:?}"));
                faults.inject_times(times, scope, Fault::Close);
            }
            6 => {
                log("is slow".into());
                faults.set_query_latency(Duration::from_millis(rng.u64(100..4_000)));
            }
            7 => {
                log("is removed and added".into());
                _ = cluster.remove(&id);
                sleep(Duration::from_millis(rng.u64(..2_000))).await;
                _ = cluster.add(endpoint(node));
            }
            8 => {
                log("drains or rests for a while".into());
                let state = if rng.bool() { AdminState::Drain } else { AdminState::Maintenance };
                _ = cluster.set_admin_state(&id, state);
                sleep(Duration::from_millis(rng.u64(..3_000))).await;
                _ = cluster.set_admin_state(&id, AdminState::Ready);
            }
            9 => {
                log("gets another weight".into());
                _ = cluster.set_weight(&id, NonZeroU32::new(rng.u32(1..10)).unwrap());
            }
            10 => {
                log("restarts".into());
                node.kill();
                sleep(Duration::from_millis(rng.u64(10..3_000))).await;
                node.boot();
            }
            11 => {
                log("cannot check passwords for a while".into());
                faults.set_user_source_down(true);
                sleep(Duration::from_millis(rng.u64(..3_000))).await;
                faults.set_user_source_down(false);
            }
            _ => {
                let fault = STORE_FAULTS[usize::from(rng.u8(0..=3))];
                self.world.log(format!("event: the fault of the store is {fault:?}"));
                self.store.set_fault(fault);
            }
        }
    }

    fn mend(&self, node: &FaultyNode) {
        let faults = node.node.faults();
        faults.clear();
        faults.set_query_latency(Duration::ZERO);
        node.boot();
    }

    /// Checks the invariants that hold when all clients have left.
    async fn end(&self) {
        // Requests in flight at a node end by the backend's timeout at the latest.
        sleep(Duration::from_secs(15)).await;
        let status = self.proxy.cluster().status();
        self.world.check(status.in_flight() == 0, || format!("{} in flight at the end", status.in_flight()));
        for node in &self.nodes {
            let stats = node.node.stats();
            self.world.check(stats.in_flight == 0, || format!("{stats:?} at the end"));
        }
        for job in self.metastore.jobs() {
            let times = self.metastore.builds_of(&job.target);
            self.world.check(times == 1 || job.target == "evil", || format!("{} was built {times} times", job.target));
        }
        let pending = self.sessions.pending_writes();
        self.world.check(pending == 0, || format!("{pending} writes wait for the store at the end"));
    }
}

fn endpoint(node: &FaultyNode) -> Endpoint<FaultyNode> {
    Endpoint::new(node.node.name(), node.clone()).unwrap()
}
