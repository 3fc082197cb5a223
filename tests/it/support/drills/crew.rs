//! A drill: nodes, a front end for them, and active clients, while the drill stops, kills or pauses
//! nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kylin_lb::testing::kylin::{KylinNode, Metastore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::client::{BuildCall, Client, Crowd, PASSWORD, Restarts, user};
use super::mode::{FrontEnd, Mode};
use super::node::DrillNode;
use super::tally::Tally;

/// The names of the nodes of each drill.
pub(crate) const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// The parameters of a drill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) clients: usize,
    /// The time between two requests of a client.
    pub(crate) think_time: Duration,
    /// How long a starting node accepts no connections.
    pub(crate) boot_time: Duration,
    /// The duration of each query, in milliseconds.
    pub(crate) query_ms: u64,
    /// The number of requests before the first event, and after the last one.
    pub(crate) requests: u64,
}

/// The event that happens to the nodes in a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Each node in turn stops like Tomcat and starts again. This is the time between the start of
    /// one and the stop of the next.
    RollingRestart { between: Duration },
    /// Each node in turn is killed. This is the time between the start of one and the death of the
    /// next.
    Kills { between: Duration },
    /// All nodes are killed at once. The first one starts, the others later.
    Outage,
    /// One node does nothing for this time.
    Pause(Duration),
}

/// Active clients.
pub(crate) struct Clients {
    crowd: Arc<Crowd>,
    tasks: Vec<JoinHandle<Tally>>,
}

impl Clients {
    /// Starts clients of a front end for nodes whose restarts are counted here.
    pub(crate) fn start(
        front: SocketAddr,
        mode: &Mode,
        build: BuildCall,
        restarts: impl Iterator<Item = (String, Restarts)>,
        scale: Scale,
    ) -> Self {
        let crowd = Arc::new(Crowd {
            over: AtomicBool::new(false),
            outage: AtomicBool::new(false),
            responses: AtomicU64::new(0),
            restarts: restarts.collect(),
            build,
            repeats_queries: mode.knows_kylin,
            query_ms: scale.query_ms,
            think_time: scale.think_time,
        });
        let client = |number| tokio::spawn(Client::new(number, front, mode.login, crowd.clone()).run());
        Clients { tasks: (0..scale.clients).map(client).collect(), crowd }
    }

    /// Returns the number of responses to clients so far.
    pub(crate) fn responses(&self) -> u64 {
        self.crowd.responses.load(Ordering::SeqCst)
    }

    /// Sets whether there is an outage of all nodes, in which failures are honest.
    pub(crate) fn outage(&self, outage: bool) {
        self.crowd.outage.store(outage, Ordering::SeqCst);
    }

    /// Waits until the clients have had this many more responses.
    pub(crate) async fn work(&self, requests: u64) {
        let goal = self.responses() + requests;
        while self.responses() < goal {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops the clients, and returns their observations.
    pub(crate) async fn end(self) -> Tally {
        self.crowd.over.store(true, Ordering::SeqCst);
        let mut tally = Tally::default();
        for client in self.tasks {
            tally += client.await.unwrap();
        }
        tally
    }
}

/// Three nodes, a front end and clients.
pub(crate) struct Drill {
    pub(crate) nodes: Vec<DrillNode>,
    _front: FrontEnd,
    pub(crate) clients: Clients,
    pub(crate) scale: Scale,
    metastore: Metastore,
}

impl Drill {
    /// Runs a drill of this event.
    pub(crate) async fn run(mode: Mode, scale: Scale, event: Event) -> Tally {
        let mut drill = Drill::start(&mode, scale).await;
        drill.happens(event).await;
        drill.end().await
    }

    /// Starts everything, and waits until the clients have worked for a while.
    pub(crate) async fn start(mode: &Mode, scale: Scale) -> Self {
        Self::behind(mode, scale, async |nodes| mode.start(nodes).await).await
    }

    /// [`Self::start`] with a front end that `front` starts with the names and addresses of the
    /// nodes.
    pub(crate) async fn behind(
        mode: &Mode,
        scale: Scale,
        front: impl AsyncFnOnce(&[(String, SocketAddr)]) -> FrontEnd,
    ) -> Self {
        let metastore = (0..scale.clients).fold(Metastore::new(), |all, n| all.user(&user(n), PASSWORD, true));
        let mut nodes = Vec::new();
        for name in NAMES {
            nodes.push(DrillNode::start(name, &metastore).await);
        }
        let named: Vec<_> = nodes.iter().map(|node| (node.node.name().to_owned(), node.address())).collect();
        let front = front(&named).await;
        let restarts = nodes.iter().map(|node| (node.node.name().to_owned(), node.restarts()));
        let clients = Clients::start(front.address, mode, BuildCall::Cube, restarts, scale);
        clients.work(scale.requests).await;
        Drill { nodes, _front: front, clients, scale, metastore }
    }

    /// Waits until the clients have worked for a while.
    pub(crate) async fn work(&self) {
        self.clients.work(self.scale.requests).await;
    }

    /// Makes this event happen, and waits until the clients have worked for a while afterwards.
    pub(crate) async fn happens(&mut self, event: Event) {
        match event {
            Event::RollingRestart { between } => {
                for number in 0..self.nodes.len() {
                    if number > 0 {
                        sleep(between).await;
                    }
                    self.nodes[number].stop().await;
                    self.boot(number).await;
                }
            }
            Event::Kills { between } => {
                for number in 0..self.nodes.len() {
                    if number > 0 {
                        sleep(between).await;
                    }
                    self.nodes[number].kill();
                    self.boot(number).await;
                }
            }
            Event::Outage => {
                self.clients.outage(true);
                self.nodes.iter_mut().for_each(DrillNode::kill);
                self.boot(0).await;
                self.clients.outage(false);
                self.work().await;
                for node in &mut self.nodes[1..] {
                    node.boot().await;
                }
            }
            Event::Pause(time) => {
                let paused = self.nodes[0].pause();
                sleep(time).await;
                drop(paused);
            }
        }
        self.work().await;
    }

    async fn boot(&mut self, number: usize) {
        sleep(self.scale.boot_time).await;
        self.nodes[number].boot().await;
    }

    /// Stops the clients, and returns their observations and the nodes' executions.
    pub(crate) async fn end(self) -> Tally {
        let mut tally = self.clients.end().await;
        let nodes: Vec<KylinNode> = self.nodes.iter().map(|node| node.node.clone()).collect();
        tally.count_executions_of(&nodes, &self.metastore);
        tally
    }
}
