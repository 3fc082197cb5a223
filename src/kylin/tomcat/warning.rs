use std::fmt;

use super::{ManagerKind, SessionServer};

/// A known defect or limit of a session manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// The valve is missing, so sessions are never saved, or only when they are idle.
    NoValve,
    /// Tomcat from 7.0.7x on ignores the manager's `maxInactiveInterval`, and uses the
    /// session-timeout of `web.xml`, 480 minutes in Kylin (tomcat-redis-session-manager issues 48
    /// and 81). The time to live in the store follows it.
    MaxInactiveIgnored,
    /// The jars of the KAP manual are incompatible. The library jedis 2.0.0 needs commons-pool
    /// 1.5.5 (its pom.xml), and commons-pool2 2.2 belongs to jedis 2.5.2.
    ManualJars,
    /// The file is `tomcat/context.xml`, as the KAP manual says. Tomcat reads
    /// `tomcat/conf/context.xml`.
    WrongPath,
    /// Version 1.2 loops forever at the first session if `server.xml` has a `jvmRoute`
    /// (RedisSessionManager.java:257-265).
    NoJvmRoute,
    /// A session is saved only after the response that created it, so a fast client fails on
    /// another node (issues 30, 72, 88).
    SavedLate,
    /// Emptying the manager empties the whole database.
    Flushes,
    /// The store is on the node itself, so other nodes do not see it.
    Local,
    /// Sessions are serialised Java objects, so write access to the store allows running code on
    /// the nodes.
    Serialised,
    /// The manager keeps its servers in another file, which was not read.
    NoSettings,
    /// memcached-session-manager without `sticky="false"`, or ran-jit's manager with
    /// `lb.sticky-session.enabled=true`: a node trusts its own copy of a session.
    Sticky,
    /// Sessions are stored in files, which are shared only if all nodes mount the folder.
    Files,
    /// Kylin 5 creates session ids that are longer than the column of its session table, until
    /// `UpdateSessionTableCLI` has run.
    LongIds,
}

/// The settings of a configuration that have a known defect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) valve: bool,
    pub(super) max_inactive: bool,
    pub(super) wrong_path: bool,
    pub(super) no_settings: bool,
    pub(super) sticky: bool,
    pub(super) files: bool,
    pub(super) long_ids: bool,
    pub(super) saved_late: bool,
}

impl Facts {
    pub(super) fn warnings(&self, kind: ManagerKind, stores: &[SessionServer]) -> Vec<Warning> {
        let jcoleman = matches!(kind, ManagerKind::TomcatRedis1 | ManagerKind::TomcatRedis2);
        let has_valve = jcoleman || matches!(kind, ManagerKind::RanJit | ManagerKind::Persistent);
        let local = |store: &SessionServer| is_local(store.host());
        [
            (has_valve && !self.valve, Warning::NoValve),
            (self.no_settings, Warning::NoSettings),
            (!stores.is_empty() && stores.iter().all(local), Warning::Local),
            (self.files, Warning::Files),
            (self.sticky, Warning::Sticky),
            (self.wrong_path, Warning::WrongPath),
            (kind == ManagerKind::TomcatRedis1, Warning::ManualJars),
            (self.max_inactive, Warning::MaxInactiveIgnored),
            (kind == ManagerKind::TomcatRedis1, Warning::NoJvmRoute),
            (has_valve || self.saved_late, Warning::SavedLate),
            (jcoleman, Warning::Flushes),
            (jcoleman, Warning::Serialised),
            (self.long_ids, Warning::LongIds),
        ]
        .into_iter()
        .filter_map(|(holds, warning)| holds.then_some(warning))
        .collect()
    }
}

/// Returns whether `host` is a name of the machine itself.
fn is_local(host: &str) -> bool {
    matches!(&*host.to_ascii_lowercase(), "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Warning::NoValve => "context.xml has no valve of the session manager: sessions are not saved after each request",
            Warning::MaxInactiveIgnored => {
                "maxInactiveInterval of the manager is ignored by Tomcat 7.0.7x and later, and is not the time to live in the \
                 store: session-timeout of web.xml counts, 480 minutes in Kylin"
            }
            Warning::ManualJars => {
                "the jars of the KAP manual do not fit each other: jedis-2.0.0 needs commons-pool-1.5.5, and commons-pool2-2.2 \
                 belongs to jedis-2.5.2; its address at github.com/downloads is gone"
            }
            Warning::WrongPath => "Tomcat does not read tomcat/context.xml, which the KAP manual names: tomcat/conf/context.xml is right",
            Warning::NoJvmRoute => "tomcat-redis-session-manager 1.2 hangs when server.xml sets a jvmRoute",
            Warning::SavedLate => "a session is saved after its first response: the next request must go to the same node",
            Warning::Flushes => "the session manager may empty its whole Redis database: nothing else may be in it",
            Warning::Local => "the session store is on the node itself and not shared",
            Warning::Serialised => "sessions are serialised Java objects: only nodes may write to the store",
            Warning::NoSettings => "the manager has its servers in another file, which was not found: they are unknown",
            Warning::Sticky => {
                "the session manager is sticky, so nodes trust their own copies: memcached-session-manager needs sticky=\"false\", \
                 ran-jit's lb.sticky-session.enabled=false"
            }
            Warning::Files => "sessions are stored in files, which are shared only if all nodes mount the folder",
            Warning::LongIds => {
                "session ids are longer than the column of the session table: no user can log in until UpdateSessionTableCLI has run"
            }
        })
    }
}
