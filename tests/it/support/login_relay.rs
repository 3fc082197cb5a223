//! Nodes that do not share their sessions, behind front ends with the login relay.

use std::num::{NonZero, NonZeroUsize};

use kylin_lb::balance::{Balancer, RoundRobin};
use kylin_lb::clock::ManualClock;
use kylin_lb::session::{Affinity, LoginRelay, MemoryStore, Secret, Sessions};
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Served};
use kylin_lb::{Cluster, Proxy};

use super::browser::Browser;
use super::front::{Front, closed_port, endpoint};

pub(crate) const COOKIE: &str = "KYLINLB_SESSION";

pub(crate) struct Nodes {
    pub(crate) metastore: Metastore,
    pub(crate) nodes: Vec<KylinNode>,
    pub(crate) served: Vec<Option<Served>>,
    pub(crate) store: MemoryStore,
    /// The clock of the store.
    pub(crate) clock: ManualClock,
}

impl Nodes {
    pub(crate) async fn start(count: usize, version: impl Into<Dialect>) -> Self {
        let version = version.into();
        let metastore = Metastore::new();
        let (mut nodes, mut served) = (Vec::new(), Vec::new());
        for n in 0..count {
            let node = KylinNode::new(format!("node-{n}")).kylin_version(version).metastore(&metastore);
            served.push(Some(node.serve(closed_port()).await.unwrap()));
            nodes.push(node);
        }
        let clock = ManualClock::new();
        let (entries, bytes) = (NonZeroUsize::new(10_000).unwrap(), NonZeroUsize::new(64 << 20).unwrap());
        let store = MemoryStore::with_clock(entries, bytes, clock.clone());
        Nodes { metastore, nodes, served, store, clock }
    }

    /// Starts a front end with round robin and the default settings.
    pub(crate) fn front(&self) -> Front {
        self.front_with(RoundRobin::new(), |relay| relay)
    }

    pub(crate) fn front_with(&self, balancer: impl Balancer, change: impl FnOnce(LoginRelay) -> LoginRelay) -> Front {
        self.front_over(Sessions::remote(self.store.clone(), secret()), secret(), balancer, change)
    }

    pub(crate) fn front_over(
        &self,
        sessions: Sessions,
        secret: Secret,
        balancer: impl Balancer,
        change: impl FnOnce(LoginRelay) -> LoginRelay,
    ) -> Front {
        let affinity = Affinity::login_relay(change(LoginRelay::new(sessions, secret)));
        self.front_of(balancer, affinity, 1 << 20)
    }

    pub(crate) fn front_of(&self, balancer: impl Balancer, affinity: Affinity, replay_limit: usize) -> Front {
        let addresses = self.served.iter().map(|served| served.as_ref().unwrap().addr());
        let endpoints = addresses.enumerate().map(|(id, address)| endpoint(id, address, |backend| backend));
        let cluster = Cluster::builder().endpoints(endpoints).balancer(balancer).build().unwrap();
        let proxy = Proxy::plain(cluster).affinity(affinity).replay_limit(replay_limit).build().unwrap();
        Front::serving(proxy, |server| server.threads(NonZero::new(2).unwrap()))
    }

    /// Returns the number of logins at each node.
    pub(crate) fn logins(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.stats().logins).collect()
    }

    pub(crate) fn wrong_passwords(&self) -> u64 {
        self.nodes.iter().map(|node| node.stats().wrong_passwords).sum()
    }

    pub(crate) fn sessions(&self) -> Vec<usize> {
        self.nodes.iter().map(KylinNode::sessions).collect()
    }

    /// Deletes the sessions of every node, as a restart does.
    pub(crate) fn forget(&self) {
        self.nodes.iter().for_each(KylinNode::forget_sessions);
    }
}

pub(crate) fn secret() -> Secret {
    Secret::new([7; 32])
}

/// Returns a client that is logged in.
pub(crate) async fn logged_in(front: &Front) -> Browser {
    let mut browser = Browser::new(front.address());
    let response = browser.log_in("ADMIN", "KYLIN").await;
    assert_eq!(response.status(), 200, "{}", response.text());
    assert!(browser.cookies.contains_key(COOKIE), "{:?}", response.head);
    browser
}

/// Sends requests of one session in concurrent tasks. Returns the number of failures.
pub(crate) async fn storm(browser: &Browser, tasks: usize, each: usize) -> usize {
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let mut browser = browser.clone();
            tokio::spawn(async move {
                let mut failed = 0;
                for _ in 0..each {
                    failed += usize::from(browser.query().await.status() != 200);
                }
                failed
            })
        })
        .collect();
    let mut failed = 0;
    for task in tasks {
        failed += task.await.unwrap();
    }
    failed
}
