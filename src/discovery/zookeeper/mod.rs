//! Nodes as Kylin registers them in ZooKeeper.
//!
//! | [`Layout`] | Kylin | where, below `<base path>/<cluster>` | what tells the role |
//! |---|---|---|---|
//! | `Kylin30` | 3.0 with `kylin.job.scheduler.default=100` | `/service/kylin/<uuid>` | `host:port:mode` in the description; before 3.0.2 nothing |
//! | `Kylin31` | 3.1 and 4.0 with `kylin.server.self-discovery-enabled=true` | `/service/cluster_servers/<uuid>` | the description |
//! | `Kylin5` | 5 | `/services/{all,query,job}/<uuid>` | the folder |
//!
//! The base path is `kylin.env.zookeeper-base-path` (default `/kylin`; Kylin 5 knows no other). The cluster is
//! `kylin.server.cluster-name` in 3 and 4 (default: the identifier of the metadata URL, `kylin_metadata`), and in 5 that identifier, `_`
//! and the URL's `url` parameter up to `?`, each character other than a letter, digit or `_` written as `_`.
//!
//! # How sure this is
//!
//! Paths and descriptions were read in Kylin's source (tags 3.0.0-alpha to 5.x). The JSON around them was *derived* from the
//! serializer of Curator 2.12, and for Kylin 5 from public samples of Spring Cloud Zookeeper, not observed on a running Kylin: so
//! unknown fields are tolerated, and missing ones where there is a sensible reading. That `instance_status` other than `UP` asks for
//! draining is Spring's meaning of it. *Unverified*: KAP 2.4 is said to register as Kylin 3.0 does, under its metadata prefix; and
//! that the services `data-loading` and `smart` of later 5.x register beside `job`.
//!
//! Kylin's session lasts 120 s: a node that died stays listed up to two minutes, and only the health of its endpoint tells.

mod client;
mod folders;
mod payload;
mod place;
mod registry;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::client::{News, Session};
pub use self::folders::Layout;
pub use self::place::InvalidZooKeeper;
use self::place::Place;
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::clock::timer_in;

/// The nodes that Kylin registers in ZooKeeper, watched: see the [module](self).
///
/// While ZooKeeper is not to be reached nothing changes. After it was lost and found again, nodes that are missing are believed gone
/// only after a grace, because they, too, may still be on their way back.
pub struct ZooKeeper {
    settings: Settings,
    session: Option<Session>,
    /// What was told last; `None` at first and after an error.
    told: Option<Vec<DiscoveredNode>>,
    /// The last nodes there were, which the cluster has.
    known: Vec<DiscoveredNode>,
    /// Until when the nodes of `known` are kept, though they be missing.
    grace: Option<Instant>,
    leader: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Settings {
    place: Place,
    layouts: Vec<Layout>,
    digest: Option<Digest>,
    session_timeout: Duration,
    grace: Duration,
}

/// Credentials, which no `Debug` shows.
struct Digest(Vec<u8>);

impl ZooKeeper {
    /// Reads `host:port,host:port/base/cluster`: the servers of the ensemble (port 2181 where there is none), the base path, and as
    /// its last part the name of the cluster. Without a path it is `/kylin/kylin_metadata`, Kylin's defaults. A chroot is the first part of
    /// the base path.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] says which part is wrong; it never shows the text, which might hold a password that is in the wrong
    /// place.
    pub fn parse(text: &str) -> Result<Self, InvalidZooKeeper> {
        let settings = Settings {
            place: Place::parse(text)?,
            layouts: Layout::ALL.to_vec(),
            digest: None,
            session_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        };
        Ok(ZooKeeper {
            settings,
            session: None,
            told: None,
            known: Vec::new(),
            grace: None,
            leader: watch::Sender::new(None),
        })
    }

    /// Sets the base path: `kylin.env.zookeeper-base-path`, after a chroot if there is one. Empty or `/` is the root.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] when it is not a path of znodes.
    pub fn base_path(mut self, path: &str) -> Result<Self, InvalidZooKeeper> {
        self.settings.place.set_base(path)?;
        Ok(self)
    }

    /// Sets the name of the cluster: one part of a path.
    ///
    /// # Errors
    /// [`InvalidZooKeeper`] when it cannot be the name of a znode.
    pub fn cluster(mut self, name: &str) -> Result<Self, InvalidZooKeeper> {
        self.settings.place.set_cluster(name)?;
        Ok(self)
    }

    /// Sets which registrations are watched. Default: all of them, so that it need not be known which Kylin it is.
    #[must_use]
    pub fn layouts(mut self, layouts: impl IntoIterator<Item = Layout>) -> Self {
        self.settings.layouts = layouts.into_iter().collect();
        self
    }

    /// Authenticates with ZooKeeper's `digest` scheme. Kylin's own pair, where ACLs are on, is `ADMIN` and `KYLIN` by default.
    #[must_use]
    pub fn digest(mut self, user: &str, password: &str) -> Self {
        self.settings.digest = Some(Digest(format!("{user}:{password}").into_bytes()));
        self
    }

    /// Sets the timeout of our own session, within which a lost server is noticed and another found. Default: 10 s; the
    /// server may shorten or lengthen it.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.settings.session_timeout = timeout.max(Duration::from_millis(100));
        self
    }

    /// Sets for how long nodes may be missing after ZooKeeper was lost and found again. Default: 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// The node that leads the jobs of a Kylin 3 or 4 with `kylin.job.scheduler.default=100`, as it changes; known while the
    /// source is followed.
    pub fn leader(&self) -> JobLeader {
        JobLeader(self.leader.subscribe())
    }

    async fn connect(&mut self) -> Result<(), DiscoveryError> {
        let patience = self.settings.session_timeout.max(Duration::from_secs(1)) * 2;
        let session = timeout(patience, Session::connect(&self.settings)).await;
        self.session = Some(session.map_err(|_| DiscoveryError::Timeout(self.settings.place.to_string()))??);
        self.rejoined();
        Ok(())
    }

    /// ZooKeeper is there, or there again.
    fn rejoined(&mut self) {
        if !self.known.is_empty() {
            self.grace = Some(timer_in(self.settings.grace));
        }
        self.told = None;
    }

    /// The membership, when ZooKeeper is there, all of it is known and there is something new about it.
    fn news(&mut self) -> Option<Vec<DiscoveredNode>> {
        let registry = self.session.as_ref().filter(|session| session.is_connected())?.registry();
        if !registry.is_complete() {
            return None;
        }
        self.leader.send_if_modified(|leader| {
            let now = registry.leader();
            let changed = *leader != now;
            *leader = now;
            changed
        });
        let mut found = registry.members();
        if self.grace.is_some() {
            let missing = |old: &&DiscoveredNode| !found.iter().any(|found| found.address() == old.address());
            let missing: Vec<DiscoveredNode> = self.known.iter().filter(missing).cloned().collect();
            found.extend(missing);
        }
        // An order that every front end finds alike.
        found.sort_by(|one, other| one.id().cmp(other.id()));
        if self.told.as_ref() == Some(&found) {
            return None;
        }
        if !found.is_empty() {
            self.known.clone_from(&found);
        }
        self.told = Some(found.clone());
        Some(found)
    }
}

impl Discovery for ZooKeeper {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        loop {
            if self.session.is_none() {
                self.told = None;
                self.connect().await?;
            }
            if let Some(found) = self.news() {
                return Ok(found);
            }
            let Some(session) = &mut self.session else { continue };
            let grace = self.grace;
            let over = async move {
                match grace {
                    Some(grace) => sleep_until(grace).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = session.news() => match news {
                    Ok(News::Registry) => {}
                    Ok(News::Connected) => self.rejoined(),
                    Ok(News::Disconnected(error)) => {
                        self.told = None;
                        return Err(error);
                    }
                    Err(error) => {
                        self.session = None;
                        return Err(error);
                    }
                },
                () = over => self.grace = None,
            }
        }
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("settings", &self.settings).field("told", &self.told).finish_non_exhaustive()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// Which node leads the jobs, as it changes. Clones see the same.
#[derive(Debug, Clone)]
pub struct JobLeader(watch::Receiver<Option<String>>);

impl JobLeader {
    /// Its address, `host:port`; `None` when there is none or it is not known. While ZooKeeper is lost: the last one known.
    pub fn address(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until `test` holds of the leader's address. Waits as long as it takes: put a deadline around it.
    pub async fn wait_until(&self, mut test: impl FnMut(Option<&str>) -> bool) -> Option<String> {
        let mut leader = self.0.clone();
        let reached = leader.wait_for(|leader| test(leader.as_deref())).await.map(|leader| leader.clone());
        match reached {
            Ok(leader) => leader,
            // Nobody follows the source any more.
            Err(_) => std::future::pending().await,
        }
    }
}
