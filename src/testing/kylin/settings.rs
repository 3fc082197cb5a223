//! The settings of a node.

use std::sync::Arc;

use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::data::metastore::Metastore;
use crate::testing::kylin::data::mode::Mode;
use crate::testing::kylin::data::sessions::{Cookie, Sessions};
use crate::testing::kylin::dialect::Dialect;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) mode: Mode,
    pub(crate) metastore: Metastore,
    pub(crate) shares_sessions: bool,
    pub(crate) writes_late: bool,
    pub(crate) jvm_route: Option<String>,
    pub(crate) active_job_node: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            dialect: Dialect::default(),
            mode: Mode::All,
            metastore: Metastore::new(),
            shares_sessions: false,
            writes_late: false,
            jvm_route: None,
            active_job_node: None,
        }
    }
}

impl Settings {
    pub(crate) fn version(&self) -> KylinVersion {
        self.dialect.generation()
    }

    pub(crate) fn cookie(&self) -> Cookie {
        match self.version() {
            KylinVersion::V4 if self.dialect.facts().is_tomcat_7 => Cookie::Tomcat { path: "/kylin/" },
            KylinVersion::V4 => Cookie::Tomcat { path: "/kylin" },
            KylinVersion::V5 => Cookie::Spring { name: self.metastore.cookie() },
        }
    }

    pub(crate) fn new_session_id(&self) -> String {
        let id = self.cookie().new_id();
        match (self.version(), &self.jvm_route) {
            (KylinVersion::V4, Some(route)) => format!("{id}.{route}"),
            _ => id,
        }
    }
}

/// Settings. They can be chained after [`KylinNode::new`], and changed later on any clone.
impl KylinNode {
    /// Sets the version that the node behaves as: a [`Dialect`], or a [`KylinVersion`] for a
    /// dialect of that generation. Default: [`Dialect::V3_1`].
    #[must_use]
    pub fn kylin_version(self, version: impl Into<Dialect>) -> Self {
        let dialect = version.into();
        self.change(|settings| settings.dialect = dialect)
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

    /// Makes the node a member of the cluster that has `metastore`. Default: its own metastore.
    #[must_use]
    pub fn metastore(self, metastore: &Metastore) -> Self {
        metastore.join(&self.inner);
        self.change(|settings| settings.metastore = metastore.clone())
    }

    /// Sets whether the node keeps its sessions in the metastore, where other nodes with this
    /// setting find them. Default: off; a session exists only on the node that created it.
    #[must_use]
    pub fn share_sessions(self, shared: bool) -> Self {
        self.change(|settings| settings.shares_sessions = shared)
    }

    /// Sets whether a shared session begins as a placeholder, until [`Metastore::write_sessions`].
    /// Other nodes respond to a placeholder with 500. tomcat-redis-session-manager does the same,
    /// because it writes a session after the response. Default: off.
    #[must_use]
    pub fn writes_sessions_late(self, late: bool) -> Self {
        self.change(|settings| settings.writes_late = late)
    }

    /// Appends a dot and `route` to the ids of sessions, like Tomcat's `jvmRoute`. For
    /// [`KylinVersion::V4`] only. Default: no route.
    #[must_use]
    pub fn jvm_route(self, route: &str) -> Self {
        self.change(|settings| settings.jvm_route = Some(route.to_owned()))
    }

    /// Sets the response of `is_active_job_node`. Default: `None`, which is a 500, as from a node
    /// without the job scheduler that elects a leader.
    #[must_use]
    pub fn active_job_node(self, active: Option<bool>) -> Self {
        self.change(|settings| settings.active_job_node = active)
    }

    /// Returns the metastore of the node's cluster.
    pub fn cluster(&self) -> Metastore {
        self.settings().metastore.clone()
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.inner.settings.read().clone()
    }

    pub(crate) fn session_table(&self, settings: &Settings) -> Sessions {
        if settings.shares_sessions { settings.metastore.sessions().clone() } else { self.inner.sessions.clone() }
    }

    pub(crate) fn metastore_is_down(&self, settings: &Settings) -> bool {
        self.faults().switches().metastore_down || settings.metastore.is_down()
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.update(change);
        self
    }

    fn update(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut self.inner.settings.write()));
    }
}
