//! Session managers of Tomcat: what `context.xml` says of where Kylin's sessions are, and what is known to be wrong with it.
//!
//! Kylin's own manual advises tomcat-redis-session-manager; deployments use two others as well. A front end must know the store,
//! above all to keep out of it: one of them empties the whole database.

mod read;

use std::fmt;

use thiserror::Error;

/// Which session manager it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagerKind {
    /// tomcat-redis-session-manager 1.x (`com.radiadesign.catalina.session`), the one of the KAP manual.
    TomcatRedis1,
    /// The same from 2.0 on (`com.orangefunction.tomcat.redissessions`).
    TomcatRedis2,
    /// ran-jit's, the one of the Kyligence Enterprise manual (`tomcat.request.session.redis`).
    RanJit,
    /// memcached-session-manager (`de.javakaffee.web.msm`).
    Memcached,
}

/// A session manager, as a node is configured to use it. Passwords are not kept.
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
/// assert!(manager.conflict("10.0.0.9", 6379, 0).is_some());
/// assert!(manager.conflict("10.0.0.9", 6379, 1).is_none());
/// # Ok::<(), kylin_lb::kylin::tomcat::TomcatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionManager {
    kind: ManagerKind,
    stores: Vec<Store>,
    database: u32,
    has_password: bool,
    timeout_ms: u32,
    max_inactive_s: Option<i64>,
    sentinel_master: Option<String>,
    valve: bool,
}

/// A server that holds sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    name: Option<String>,
    host: String,
    port: u16,
}

impl Store {
    /// The name that memcached-session-manager gives it, and puts at the end of session ids.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Something about a session manager that an operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// There is no valve: sessions are never saved.
    NoValve,
    /// `maxInactiveInterval` of the manager counts for nothing from Tomcat 7.0.7x on: the session-timeout of `web.xml`, 480
    /// minutes in Kylin, does (tomcat-redis-session-manager issues 48 and 81).
    MaxInactiveIgnored,
    /// A `jvmRoute` in `server.xml` makes 1.2 loop for ever at the first session (RedisSessionManager.java:257-265).
    NoJvmRoute,
    /// A session is saved only after the answer that made it was sent: a fast client fails on another node (issues 30, 72, 88).
    SavedLate,
    /// Emptying the manager empties the whole database.
    Flushes,
    /// The store is on the node itself, and so not shared.
    Local,
    /// The state of sessions is written by Java's serialisation: who may write to the store may run code on the nodes.
    Serialised,
}

/// The store is already that of Tomcat's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("database {database} of {host}:{port} holds Tomcat's sessions, and Tomcat may empty it: use another database")]
pub struct Conflict {
    host: String,
    port: u16,
    database: u32,
}

/// What is wrong with the configuration of a session manager. Values are not shown, they may be passwords.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TomcatError {
    /// It is no XML, or has a document type, or is very large.
    #[error("{file}:{line}:{column}: not well-formed XML without a document type")]
    Xml {
        /// The file, as the caller named it.
        file: String,
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
    },
    /// An attribute is not what the manager takes.
    #[error("{file}:{line}: {attribute}: expected {expected}")]
    Value {
        /// The file, as the caller named it.
        file: String,
        /// From 1; 0 where only the file is known.
        line: u32,
        /// The attribute or property.
        attribute: String,
        /// What would have been accepted.
        expected: &'static str,
    },
}

impl SessionManager {
    /// Which one it is.
    pub fn kind(&self) -> ManagerKind {
        self.kind
    }

    /// The servers, at least one; Sentinels where there is a [master](SessionManager::sentinel_master).
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// The number of the Redis database.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// Does the store ask for a password?
    pub fn has_password(&self) -> bool {
        self.has_password
    }

    /// How long the manager waits for the store, in milliseconds.
    pub fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    /// `maxInactiveInterval` in seconds, which [may not count](Warning::MaxInactiveIgnored).
    pub fn max_inactive_seconds(&self) -> Option<i64> {
        self.max_inactive_s
    }

    /// The name of the master when Sentinels say where it is.
    pub fn sentinel_master(&self) -> Option<&str> {
        self.sentinel_master.as_deref()
    }

    /// What an operator should know.
    pub fn warnings(&self) -> Vec<Warning> {
        let jcoleman = matches!(self.kind, ManagerKind::TomcatRedis1 | ManagerKind::TomcatRedis2);
        let local = |store: &Store| is_local(&store.host);
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

    /// Would something else that used this Redis database share it with Tomcat? It must not: one of the managers empties the
    /// database when it is cleared, and all use the bare session id as their key.
    ///
    /// Hosts are compared as they are written, but for the names of the machine itself; other names of one host are not seen to
    /// be the same.
    pub fn conflict(&self, host: &str, port: u16, database: u32) -> Option<Conflict> {
        let same_host = |one: &str| one.eq_ignore_ascii_case(host) || (is_local(one) && is_local(host));
        let same = |store: &Store| store.port == port && same_host(&store.host);
        let shared = self.kind != ManagerKind::Memcached && self.database == database && self.stores.iter().any(same);
        shared.then(|| Conflict { host: host.to_owned(), port, database })
    }
}

/// Is it the machine that the name is used on?
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
            Warning::SavedLate => "a session is saved after its first answer: the next request must go to the same node",
            Warning::Flushes => "the session manager may empty its whole Redis database: nothing else may be in it",
            Warning::Local => "the session store is on the node itself and not shared",
            Warning::Serialised => "sessions are serialised Java objects: only nodes may write to the store",
        })
    }
}

#[cfg(test)]
mod tests;
