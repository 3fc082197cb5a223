//! What is chosen when a node is made.

use std::sync::Arc;
use std::time::Duration;

use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::data::metastore::Metastore;
use crate::testing::kylin::data::sessions::Cookie;
use crate::testing::kylin::data::sessions::Sessions;

/// A node's role: `kylin.server.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Answers queries and runs jobs.
    #[default]
    All,
    /// Answers queries. A build that it is sent is queued for a job node.
    Query,
    /// Runs jobs and refuses queries.
    Job,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Mode::All => "all",
            Mode::Query => "query",
            Mode::Job => "job",
        }
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) version: KylinVersion,
    pub(crate) mode: Mode,
    pub(crate) metastore: Metastore,
    pub(crate) shares_sessions: bool,
    pub(crate) writes_late: bool,
    pub(crate) jvm_route: Option<String>,
    pub(crate) reported_version: String,
    pub(crate) active_job_node: Option<bool>,
    pub(crate) keep_alive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            version: KylinVersion::V4,
            mode: Mode::All,
            metastore: Metastore::new(),
            shares_sessions: false,
            writes_late: false,
            jvm_route: None,
            reported_version: "3.1.3".to_owned(),
            active_job_node: None,
            keep_alive: Duration::from_secs(20), // Tomcat's connectionTimeout in Kylin's server.xml
        }
    }
}

impl Settings {
    pub(crate) fn cookie(&self) -> Cookie {
        match self.version {
            KylinVersion::V4 => Cookie::Tomcat,
            KylinVersion::V5 => Cookie::Spring { name: self.metastore.cookie() },
        }
    }
}

/// Settings. They may be chained after [`KylinNode::new`], and changed at any later time, on any clone.
impl KylinNode {
    /// Sets the version, and with it the text that the node reports, `3.1.3` or `5.0.0`. Default: [`KylinVersion::V4`].
    #[must_use]
    pub fn kylin_version(self, version: KylinVersion) -> Self {
        let reported = match version {
            KylinVersion::V4 => "3.1.3",
            KylinVersion::V5 => "5.0.0",
        };
        self.change(|settings| settings.version = version).reported_version(reported)
    }

    /// Sets the role. Default: [`Mode::All`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        self.set_mode(mode);
        self
    }

    /// Changes the role of a running node.
    pub fn set_mode(&self, mode: Mode) {
        self.update(|settings| settings.mode = mode);
    }

    /// Makes the node one of the cluster that has `metastore`. Default: a metastore of its own.
    #[must_use]
    pub fn metastore(self, metastore: &Metastore) -> Self {
        metastore.join(&self.inner.running);
        self.change(|settings| settings.metastore = metastore.clone())
    }

    /// Adds a user to the node's metastore.
    #[must_use]
    pub fn user(self, name: &str, password: &str, admin: bool) -> Self {
        self.change(|settings| settings.metastore = settings.metastore.clone().user(name, password, admin))
    }

    /// Adds a project to the node's metastore.
    #[must_use]
    pub fn project(self, name: &str) -> Self {
        self.change(|settings| settings.metastore = settings.metastore.clone().project(name))
    }

    /// Keeps sessions in the metastore, where the other nodes that do so find them. Default: off, sessions are known to
    /// the node that made them and to no other.
    #[must_use]
    pub fn share_sessions(self, shared: bool) -> Self {
        self.change(|settings| settings.shares_sessions = shared)
    }

    /// Has a shared session begin as a placeholder, which is all that other nodes find until
    /// [`Metastore::write_sessions`]: a request that meets it is answered with 500, as by tomcat-redis-session-manager, which
    /// writes a session after the answer has been sent. Default: off.
    #[must_use]
    pub fn writes_sessions_late(self, late: bool) -> Self {
        self.change(|settings| settings.writes_late = late)
    }

    /// Names the node in the ids of its sessions, behind a dot, as Tomcat's `jvmRoute` does. [`KylinVersion::V4`] only. Default: no.
    #[must_use]
    pub fn jvm_route(self, route: &str) -> Self {
        self.change(|settings| settings.jvm_route = Some(route.to_owned()))
    }

    /// Sets the text that the node reports as its version.
    #[must_use]
    pub fn reported_version(self, version: &str) -> Self {
        self.change(|settings| settings.reported_version = version.to_owned())
    }

    /// Sets what `is_active_job_node` answers. Default: `None`, a 500, as from a node without the leader-electing job
    /// scheduler.
    #[must_use]
    pub fn active_job_node(self, active: Option<bool>) -> Self {
        self.change(|settings| settings.active_job_node = active)
    }

    /// Sets after how long an idle connection is closed. Default: 20 s, as Kylin's Tomcat does. Counts for connections
    /// accepted later.
    #[must_use]
    pub fn keep_alive(self, idle: Duration) -> Self {
        self.change(|settings| settings.keep_alive = idle)
    }

    /// The metastore of the node's cluster.
    pub fn cluster(&self) -> Metastore {
        self.settings().metastore.clone()
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.inner.settings.read().clone()
    }

    pub(crate) fn session_table(&self, settings: &Settings) -> Sessions {
        if settings.shares_sessions { settings.metastore.sessions().clone() } else { self.inner.sessions.clone() }
    }

    pub(crate) fn new_session_id(settings: &Settings) -> String {
        let id = settings.cookie().new_id();
        match (&settings.version, &settings.jvm_route) {
            (KylinVersion::V4, Some(route)) => format!("{id}.{route}"),
            _ => id,
        }
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.update(change);
        self
    }

    fn update(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut self.inner.settings.write()));
    }
}
