//! Reads the files in which other managers keep their servers.

use super::read::{REDIS_PORT, SENTINEL_PORT, database, stores};
use super::warning::Facts;
use super::{ManagerKind, SessionManager, SessionServer, TomcatError};
use crate::kylin::node::metadata_url::MetadataUrl;
use crate::kylin::properties::{Properties, PropertyError};

impl SessionManager {
    /// Reads the manager's [settings file](SessionManager::settings_file), which errors call
    /// `file`.
    ///
    /// # Errors
    /// [`TomcatError::Value`] if a property of ran-jit's manager is invalid. From a file of
    /// Redisson, only the addresses are read.
    pub fn with_settings(mut self, file: &str, text: &str) -> Result<Self, TomcatError> {
        match self.kind {
            ManagerKind::RanJit => {
                let properties = Properties::parse(file, text).map_err(|error| escape(file, &error))?;
                let settings = SessionManager::from_redis_data_cache(&properties)?;
                let facts = Facts { no_settings: false, sticky: settings.facts.sticky, ..self.facts };
                self = SessionManager { settings_file: self.settings_file, facts, ..settings };
            }
            ManagerKind::Redisson => {
                self.stores = redisson(text);
                self.has_password = text.contains("password:") || text.contains("\"password\"");
                self.facts.no_settings = self.stores.is_empty();
            }
            ManagerKind::TomcatRedis1
            | ManagerKind::TomcatRedis2
            | ManagerKind::Memcached
            | ManagerKind::Persistent
            | ManagerKind::Kylin5 => {}
        }
        Ok(self)
    }

    /// Reads ran-jit's `redis-data-cache.properties`.
    ///
    /// # Errors
    /// [`TomcatError::Value`] if a property is invalid.
    pub fn from_redis_data_cache(properties: &Properties) -> Result<Self, TomcatError> {
        let hosts = properties.get("redis.hosts").unwrap_or_default();
        let sentinel = is_true(properties, "redis.sentinel.enabled");
        let master = properties.get("redis.sentinel.master").filter(|master| sentinel && !master.is_empty());
        Ok(SessionManager {
            kind: ManagerKind::RanJit,
            stores: stores(hosts, REDIS_PORT).ok_or_else(|| invalid(properties, "redis.hosts", "host:port, …"))?,
            database: number(properties, "redis.database", 0)?,
            has_password: properties.get("redis.password").is_some_and(|password| !password.is_empty()),
            sentinel_master: master.map(str::to_owned),
            settings_file: None,
            facts: Facts { valve: true, sticky: is_true(properties, "lb.sticky-session.enabled"), ..Facts::default() },
        })
    }

    /// Reads from `kylin.properties` where Kylin 5 stores its sessions. Returns `None` if
    /// `spring.session.store-type` is not set or `NONE`. (Kylin 5 sets `JDBC` in a file that comes
    /// with the installation; earlier versions do not know this property.)
    ///
    /// # Errors
    /// [`TomcatError::Value`] if a property is invalid.
    pub fn from_kylin_properties(properties: &Properties) -> Result<Option<Self>, TomcatError> {
        const STORE_TYPE: &str = "spring.session.store-type";
        let is_redis = match properties.get(STORE_TYPE).unwrap_or_default() {
            kind if kind.is_empty() || kind.eq_ignore_ascii_case("none") => return Ok(None),
            kind if kind.eq_ignore_ascii_case("jdbc") => false,
            kind if kind.eq_ignore_ascii_case("redis") => true,
            _ => return Err(invalid(properties, STORE_TYPE, "JDBC, REDIS or NONE")),
        };
        let long_ids = !is_redis && is_true(properties, "kylin.web.session.secure-random-create-enabled");
        let mut manager = SessionManager {
            kind: ManagerKind::Kylin5,
            stores: Vec::new(),
            database: 0,
            has_password: false,
            sentinel_master: None,
            settings_file: None,
            facts: Facts { valve: true, long_ids, ..Facts::default() },
        };
        if is_redis {
            manager.stores = spring_redis(properties)?;
            manager.database = number(properties, "spring.redis.database", 0)?;
            manager.has_password = properties.get("spring.redis.password").is_some_and(|password| !password.is_empty());
            manager.sentinel_master = properties.get("spring.redis.sentinel.master").map(str::to_owned);
        } else if let Some(url) = properties.get("kylin.metadata.url") {
            // The table is in the database of the metadata.
            manager.stores = MetadataUrl::parse(url).parameter("url").map(database).unwrap_or_default();
        }
        Ok(Some(manager))
    }
}

/// Returns the servers of Spring's Redis client.
fn spring_redis(properties: &Properties) -> Result<Vec<SessionServer>, TomcatError> {
    for (key, port) in [("spring.redis.sentinel.nodes", SENTINEL_PORT), ("spring.redis.cluster.nodes", REDIS_PORT)] {
        if let Some(nodes) = properties.get(key).filter(|nodes| !nodes.is_empty()) {
            return stores(nodes, port).ok_or_else(|| invalid(properties, key, "host:port, …"));
        }
    }
    let host = properties.get("spring.redis.host").unwrap_or("localhost").to_owned();
    Ok(vec![SessionServer { name: None, host, port: number(properties, "spring.redis.port", REDIS_PORT)? }])
}

/// Returns the servers in a file of Redisson, YAML or JSON, found by the scheme of their addresses.
fn redisson(text: &str) -> Vec<SessionServer> {
    let without_remarks = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = without_remarks.flat_map(|line| line.split(['"', '\'', ',', ' ', '\t', '[', ']', '{', '}']));
    let addresses = words.filter_map(|word| word.strip_prefix("redis://").or_else(|| word.strip_prefix("rediss://")));
    addresses.filter_map(|address| stores(address.rsplit('@').next()?, REDIS_PORT)).flatten().collect()
}

fn is_true(properties: &Properties, key: &str) -> bool {
    properties.get(key).is_some_and(|on| on.eq_ignore_ascii_case("true"))
}

fn number<N: std::str::FromStr>(properties: &Properties, key: &str, default: N) -> Result<N, TomcatError> {
    match properties.get(key).unwrap_or_default() {
        "" => Ok(default),
        digits => digits.parse().map_err(|_| invalid(properties, key, "a whole number")),
    }
}

fn invalid(properties: &Properties, key: &str, expected: &'static str) -> TomcatError {
    // A key that is not set has no line.
    let location = properties.location(key).or_else(|| properties.location(properties.keys().next()?));
    TomcatError::Value {
        file: location.map_or("redis-data-cache.properties", |location| location.file()).to_owned(),
        line: properties.location(key).map_or(0, |location| location.line()),
        attribute: key.to_owned(),
        expected,
    }
}

fn escape(file: &str, error: &PropertyError) -> TomcatError {
    let line = match error {
        PropertyError::Escape { location } | PropertyError::Value { location, .. } => location.line(),
    };
    TomcatError::Value {
        file: file.to_owned(),
        line,
        attribute: "\\u".to_owned(),
        expected: "four hexadecimal digits behind it",
    }
}
