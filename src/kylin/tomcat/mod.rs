//! The session store of the nodes: Tomcat's session managers in `context.xml`, Kylin 5's in
//! `kylin.properties`, and the known defects of these setups.
//!
//! The KAP manual recommends tomcat-redis-session-manager. Deployments use the other
//! [kinds](ManagerKind) as well.
//!
//! **Keep the front end's session store in another Redis database (or server) than Tomcat's.** The
//! manager of the manual empties its whole database when it is cleared. Most managers use the bare
//! session id as its key.

mod properties;
mod read;
mod warning;

use std::fmt;

use thiserror::Error;

use self::warning::Facts;
pub use self::warning::Warning;

/// A session manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManagerKind {
    /// tomcat-redis-session-manager 1.x (`com.radiadesign.catalina.session`), which the KAP manual
    /// recommends.
    TomcatRedis1,
    /// tomcat-redis-session-manager from 2.0 on (`com.orangefunction.tomcat.redissessions`).
    TomcatRedis2,
    /// ran-jit's manager (`tomcat.request.session.redis`), which the Kyligence Enterprise manual
    /// recommends.
    RanJit,
    /// memcached-session-manager (`de.javakaffee.web.msm`).
    Memcached,
    /// Redisson's manager (`org.redisson.tomcat`).
    Redisson,
    /// Tomcat's own `PersistentManager`, with a database or with files.
    Persistent,
    /// Spring Session in Kylin 5 (`spring.session.store-type` in `kylin.properties`), with a
    /// database or with Redis.
    Kylin5,
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
    sentinel_master: Option<String>,
    /// The name of the file that lists the servers.
    settings_file: Option<String>,
    facts: Facts,
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

/// An error in the configuration of a session manager. Values are not shown because they may be
/// passwords.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TomcatError {
    /// The file is not XML, has a document type, or is very large.
    #[error("{file}:{line}:{column}: not well-formed XML without a document type")]
    Xml {
        /// The file, as the caller named it.
        file: String,
        /// The line, from 1.
        line: u32,
        /// The column, from 1.
        column: u32,
    },
    /// An attribute or property has an invalid value.
    #[error("{file}:{line}: {attribute}: expected {expected}")]
    Value {
        /// The file, as the caller named it.
        file: String,
        /// The line, from 1; 0 if only the file is known.
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

    /// Returns the servers. They are Sentinels if there is a
    /// [master](SessionManager::sentinel_master). The result is empty if the file does not name
    /// them: ran-jit's manager and Redisson have their own file, and a `DataSourceStore` uses a
    /// resource of Tomcat.
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

    /// Returns the name of the file that lists the servers, if the manager has such a file beside
    /// `context.xml`. [`SessionManager::with_settings`] reads it.
    pub fn settings_file(&self) -> Option<&str> {
        self.settings_file.as_deref()
    }

    /// Returns the known defects and limits of this configuration.
    pub fn warnings(&self) -> Vec<Warning> {
        self.facts.warnings(self.kind, &self.stores)
    }
}

impl fmt::Display for ManagerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ManagerKind::TomcatRedis1 => "tomcat-redis-session-manager 1.x",
            ManagerKind::TomcatRedis2 => "tomcat-redis-session-manager 2.x",
            ManagerKind::RanJit => "ran-jit's Redis session manager",
            ManagerKind::Memcached => "memcached-session-manager",
            ManagerKind::Redisson => "Redisson",
            ManagerKind::Persistent => "PersistentManager of Tomcat",
            ManagerKind::Kylin5 => "Spring Session of Kylin 5",
        })
    }
}

/// Shows the kind, the servers and the database. Never a password.
impl fmt::Display for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (index, store) in self.stores.iter().enumerate() {
            let before = if index == 0 { " at " } else { ", " };
            write!(f, "{before}{}:{}", store.host, store.port)?;
        }
        if let Some(master) = &self.sentinel_master {
            write!(f, " (Sentinels of {master})")?;
        }
        if self.database > 0 {
            write!(f, ", database {}", self.database)?;
        }
        if self.has_password { f.write_str(", with a password") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
