//! Session managers of Tomcat: where the nodes store their sessions by `context.xml`, and the known defects of that setup.
//!
//! Kylin's manual recommends tomcat-redis-session-manager, and deployments use two others as well. **Keep the front end's session
//! store in another Redis database (or server) than Tomcat's**: tomcat-redis-session-manager empties its whole database when it is
//! cleared, and each manager uses the bare session id as its key.

mod read;

use std::fmt;

use thiserror::Error;

/// A session manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagerKind {
    /// tomcat-redis-session-manager 1.x (`com.radiadesign.catalina.session`), which the KAP manual recommends.
    TomcatRedis1,
    /// tomcat-redis-session-manager from 2.0 on (`com.orangefunction.tomcat.redissessions`).
    TomcatRedis2,
    /// ran-jit's manager (`tomcat.request.session.redis`), which the Kyligence Enterprise manual recommends.
    RanJit,
    /// memcached-session-manager (`de.javakaffee.web.msm`).
    Memcached,
}

/// The session manager that a node is configured to use. Passwords are not kept.
///
/// ```
/// use kylin_lb::kylin::tomcat::SessionManager;
///
/// let xml = r#"<Context>
///     <Valve className="com.radiadesign.catalina.session.RedisSessionHandlerValve"/>
///     <Manager className="com.radiadesign.catalina.session.RedisSessionManager"
///              host="10.0.0.9" port="6379" database="0" maxInactiveInterval="60"/>
/// </Context>"#;
/// let manager = SessionManager::from_context("context.xml", xml)?.expect("a manager");
/// assert_eq!((manager.stores()[0].host(), manager.database()), ("10.0.0.9", 0));
/// assert!(manager.warnings().contains(&kylin_lb::kylin::tomcat::Warning::Flushes));
/// # Ok::<(), kylin_lb::kylin::tomcat::TomcatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionManager {
    kind: ManagerKind,
    stores: Vec<SessionServer>,
    database: u32,
    has_password: bool,
    max_inactive_s: Option<i64>,
    sentinel_master: Option<String>,
    valve: bool,
}

/// A server that stores sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionServer {
    name: Option<String>,
    host: String,
    port: u16,
}

impl SessionServer {
    /// Returns the name that memcached-session-manager gives the server and appends to session ids.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A known defect or limit of a session manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// The valve is missing: sessions are never saved.
    NoValve,
    /// Tomcat from 7.0.7x on ignores `maxInactiveInterval` of the manager, and uses the session-timeout of `web.xml`, 480 minutes
    /// in Kylin (tomcat-redis-session-manager issues 48 and 81).
    MaxInactiveIgnored,
    /// Version 1.2 loops forever at the first session if `server.xml` has a `jvmRoute` (RedisSessionManager.java:257-265).
    NoJvmRoute,
    /// A session is saved only after the response that created it: a fast client fails on another node (issues 30, 72, 88).
    SavedLate,
    /// Emptying the manager empties the whole database.
    Flushes,
    /// The store is on the node itself, so other nodes do not see it.
    Local,
    /// Sessions are serialised Java objects: write access to the store allows running code on the nodes.
    Serialised,
}

/// An error in the configuration of a session manager. Values are not shown because they may be passwords.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TomcatError {
    /// The file is not XML, has a document type, or is very large.
    #[error("{file}:{line}:{column}: not well-formed XML without a document type")]
    Xml {
        /// The file, as the caller named it.
        file: String,
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
    },
    /// An attribute or property has an invalid value.
    #[error("{file}:{line}: {attribute}: expected {expected}")]
    Value {
        /// The file, as the caller named it.
        file: String,
        /// From 1, or 0 if only the file is known.
        line: u32,
        /// The attribute or property.
        attribute: String,
        /// The accepted values.
        expected: &'static str,
    },
}

impl SessionManager {
    /// Returns the kind of manager.
    pub fn kind(&self) -> ManagerKind {
        self.kind
    }

    /// Returns the servers, at least one. They are Sentinels if there is a [master](SessionManager::sentinel_master).
    pub fn stores(&self) -> &[SessionServer] {
        &self.stores
    }

    /// Returns the number of the Redis database.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// Returns whether the store has a password.
    pub fn has_password(&self) -> bool {
        self.has_password
    }

    /// Returns the name of the master that Sentinels watch.
    pub fn sentinel_master(&self) -> Option<&str> {
        self.sentinel_master.as_deref()
    }

    /// Returns the known defects of this configuration.
    pub fn warnings(&self) -> Vec<Warning> {
        let jcoleman = matches!(self.kind, ManagerKind::TomcatRedis1 | ManagerKind::TomcatRedis2);
        let local = |store: &SessionServer| is_local(&store.host);
        [
            (!self.valve && self.kind != ManagerKind::Memcached, Warning::NoValve),
            (self.stores.iter().all(local), Warning::Local),
            (jcoleman && self.max_inactive_s.is_some(), Warning::MaxInactiveIgnored),
            (self.kind == ManagerKind::TomcatRedis1, Warning::NoJvmRoute),
            (jcoleman, Warning::SavedLate),
            (jcoleman, Warning::Flushes),
            (jcoleman, Warning::Serialised),
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
            Warning::NoValve => "context.xml has no valve of the session manager: sessions are never saved",
            Warning::MaxInactiveIgnored => {
                "maxInactiveInterval of the manager is ignored by Tomcat 7.0.7x and later: session-timeout of web.xml counts"
            }
            Warning::NoJvmRoute => "tomcat-redis-session-manager 1.2 hangs when server.xml sets a jvmRoute",
            Warning::SavedLate => "a session is saved after its first response: the next request must go to the same node",
            Warning::Flushes => "the session manager may empty its whole Redis database: nothing else may be in it",
            Warning::Local => "the session store is on the node itself and not shared",
            Warning::Serialised => "sessions are serialised Java objects: only nodes may write to the store",
        })
    }
}

#[cfg(test)]
mod tests;
