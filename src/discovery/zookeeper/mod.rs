//! Nodes as Kylin registers them in ZooKeeper.
//!
//! | [`Layout`] | Kylin | registrations, below `<base path>/<cluster>` | source of the role |
//! |---|---|---|---|
//! | `Kylin30` | 3.0 with `kylin.job.scheduler.default=100` | `/service/kylin/<uuid>` | `host:port:mode` in the description; none before 3.0.2 |
//! | `Kylin31` | 3.1 and 4.0 with `kylin.server.self-discovery-enabled=true` | `/service/cluster_servers/<uuid>` | the description |
//! | `Kylin5` | 5 | `/services/{all,query,job}/<uuid>` | the path |
//!
//! The base path is `kylin.env.zookeeper-base-path` (default `/kylin`; Kylin 5 has no other). The
//! cluster of Kylin 3 and 4 is `kylin.server.cluster-name`, by default the identifier of the
//! metadata URL (`kylin_metadata`). The cluster of Kylin 5 is this identifier, `_`, and the URL's
//! `url` parameter up to `?`. In that parameter, each character other than a letter, a digit or `_`
//! is replaced by `_`.
//!
//! # What is verified
//!
//! Paths and descriptions come from Kylin's source (tags 3.0.0-alpha to 5.x). The JSON around them
//! is *derived* from the serializer of Curator 2.12, and for Kylin 5 from public samples of Spring
//! Cloud Zookeeper. It was not observed on a running Kylin. So unknown JSON keys are ignored, and
//! missing ones have defaults. An `instance_status` other than `UP` drains the node, as Spring
//! defines it. *Unverified*: KAP 2.4 registers as Kylin 3.0 does, under its metadata prefix; later
//! 5.x register the services `data-loading` and `smart` beside `job`.
//!
//! Kylin's session lasts 120 s, so a dead node stays listed for up to two minutes. The health of
//! its endpoint shows that it is dead.

mod connect_string;
mod layout;
mod registration;
mod registry;
mod session;

#[cfg(fuzzing)]
pub(super) use registration::fuzz;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::connect_string::ConnectString;
pub use self::connect_string::InvalidZooKeeper;
pub use self::layout::Layout;
use self::session::{Session, SessionEvent};
use super::watch::wait_until;
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::clock::{InvalidDuration, at_least, timer_in};

/// Servers have a minimum of two ticks, each 2 s by default.
const MIN_SESSION_TIMEOUT: Duration = Duration::from_secs(1);

/// The nodes that Kylin registers in ZooKeeper: see the [module](self).
///
/// While ZooKeeper is unavailable, the membership does not change. After a reconnect, a missing
/// node is removed only after a [grace period](Self::grace), because it may be reconnecting too.
pub struct ZooKeeper {
    options: SessionOptions,
    session: Option<Session>,
    /// The last update; `None` at first, and after an error or a reconnect.
    last: Option<Vec<DiscoveredNode>>,
    /// The nodes of the last update that was not empty, which the cluster has.
    known: Vec<DiscoveredNode>,
    /// The time until which missing nodes of `known` stay.
    grace_until: Option<Instant>,
    leader: watch::Sender<Option<String>>,
}

struct SessionOptions {
    connect_string: ConnectString,
    layouts: Vec<Layout>,
    /// `user:password`.
    digest: Option<Vec<u8>>,
    session_timeout: Duration,
    grace: Duration,
}

impl ZooKeeper {
    /// Parses `host:port,host:port/base/cluster`.
    ///
    /// These are the servers of the ensemble (default port 2181), the base path, and as the last
    /// part the name of the cluster. The default path is `/kylin/kylin_metadata`, like Kylin's. A
    /// chroot is the first part of the base path.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] names the invalid part. It does not show the text, which may contain a
    /// password by mistake.
    pub fn parse(text: &str) -> Result<Self, InvalidZooKeeper> {
        let options = SessionOptions {
            connect_string: ConnectString::parse(text)?,
            layouts: Layout::ALL.to_vec(),
            digest: None,
            session_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        };
        let leader = watch::Sender::new(None);
        Ok(ZooKeeper { options, session: None, last: None, known: Vec::new(), grace_until: None, leader })
    }

    /// Sets the base path: the chroot, if there is one, and `kylin.env.zookeeper-base-path`. An
    /// empty path or `/` is the root.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] if it is not a path of znodes.
    pub fn base_path(mut self, path: &str) -> Result<Self, InvalidZooKeeper> {
        self.options.connect_string.set_base(path)?;
        Ok(self)
    }

    /// Sets the name of the cluster, which is one part of a path.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] if it is not a valid name of a znode.
    pub fn cluster(mut self, name: &str) -> Result<Self, InvalidZooKeeper> {
        self.options.connect_string.set_cluster(name)?;
        Ok(self)
    }

    /// Sets which registrations are watched. Default: all, so that the version of Kylin need not be
    /// known.
    #[must_use]
    pub fn layouts(mut self, layouts: impl IntoIterator<Item = Layout>) -> Self {
        self.options.layouts = layouts.into_iter().collect();
        self
    }

    /// Sets credentials for ZooKeeper's `digest` scheme. If ACLs are on, Kylin itself uses `ADMIN`
    /// and `KYLIN` by default.
    #[must_use]
    pub fn digest(mut self, user: &str, password: &str) -> Self {
        self.options.digest = Some(format!("{user}:{password}").into_bytes());
        self
    }

    /// Sets the timeout of the source's own session. Within it, the source detects the loss of a
    /// server and finds another one. Default: 10 s. The server may negotiate another value.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `timeout` is below 1 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Result<Self, InvalidDuration> {
        self.options.session_timeout = at_least(MIN_SESSION_TIMEOUT, timeout, "session timeout")?;
        Ok(self)
    }

    /// Sets how long missing nodes stay after a reconnect. Default: 10 s. Zero removes them at
    /// once.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Returns the leader of the job scheduler in Kylin 3 or 4 with
    /// `kylin.job.scheduler.default=100`. It is updated while the source is
    /// [watched](super::watch).
    pub fn leader(&self) -> JobLeader {
        JobLeader(self.leader.subscribe())
    }

    async fn connect(&mut self) -> Result<(), DiscoveryError> {
        let session = timeout(self.options.session_timeout.saturating_mul(2), Session::connect(&self.options)).await;
        self.session = Some(session.map_err(|_| DiscoveryError::Timeout(self.options.connect_string.to_string()))??);
        self.start_grace();
        Ok(())
    }

    /// Keeps the known nodes for a while after a connect.
    fn start_grace(&mut self) {
        if !self.known.is_empty() {
            self.grace_until = Some(timer_in(self.options.grace));
        }
        self.last = None;
    }

    /// Returns the membership, if it is completely known and differs from the last update.
    fn update(&mut self) -> Option<Vec<DiscoveredNode>> {
        let registry = self.session.as_ref()?.registry()?;
        let leader = registry.leader();
        self.leader.send_if_modified(|last| std::mem::replace(last, leader.clone()) != leader);
        let mut nodes = registry.members();
        if self.grace_until.is_some() {
            let listed = nodes.len();
            for known in &self.known {
                if !nodes[..listed].iter().any(|node| node.address() == known.address()) {
                    nodes.push(known.clone());
                }
            }
        }
        // Every front end must see the same order.
        nodes.sort_by(|one, other| one.id().cmp(other.id()));
        if self.last.as_ref() == Some(&nodes) {
            return None;
        }
        if !nodes.is_empty() {
            self.known.clone_from(&nodes);
        }
        self.last = Some(nodes.clone());
        Some(nodes)
    }
}

impl Discovery for ZooKeeper {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        loop {
            if self.session.is_none() {
                self.last = None;
                self.connect().await?;
            }
            if let Some(nodes) = self.update() {
                return Ok(nodes);
            }
            let Some(session) = &mut self.session else { continue };
            tokio::select! {
                event = session.next_event() => match event {
                    Ok(SessionEvent::Registry) => {}
                    Ok(SessionEvent::Connected) => self.start_grace(),
                    Ok(SessionEvent::Disconnected(error)) => {
                        self.last = None;
                        return Err(error);
                    }
                    Err(error) => {
                        self.session = None;
                        return Err(error);
                    }
                },
                () = sleep_until_some(self.grace_until) => self.grace_until = None,
            }
        }
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ZooKeeper");
        debug.field("connect_string", &self.options.connect_string).field("last", &self.last).finish_non_exhaustive()
    }
}

/// The node that leads the job scheduler. Clones share the value.
#[derive(Debug, Clone)]
pub struct JobLeader(watch::Receiver<Option<String>>);

impl JobLeader {
    /// Returns the address, `host:port`; `None` if there is no leader or it is unknown. While
    /// ZooKeeper is unavailable, this is the last known leader.
    pub fn address(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until `test` returns true for the leader's address, and returns the address. It has no
    /// timeout of its own.
    pub async fn wait_until(&self, mut test: impl FnMut(Option<&str>) -> bool) -> Option<String> {
        wait_until(&self.0, |leader| test(leader.as_deref())).await
    }
}

/// Sleeps until `deadline`, or forever without one.
async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
