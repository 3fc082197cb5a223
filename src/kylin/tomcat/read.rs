//! Reads `context.xml`, and the properties that ran-jit's manager keeps beside it.

use roxmltree::{Document, Node, ParsingOptions};

use super::{ManagerKind, SessionManager, SessionServer, TomcatError};
use crate::kylin::properties::Properties;

/// The number of elements and attributes that are read. A configuration has fewer.
const MAX_XML_NODES: u32 = 100_000;

const REDIS_PORT: u16 = 6379;
const MEMCACHED_PORT: u16 = 11211;

impl SessionManager {
    /// Reads Tomcat's `context.xml`, which errors call `file`. Returns `None` if it names none of the known session managers:
    /// sessions are then in the memory of each node.
    ///
    /// [`ManagerKind::RanJit`] has its servers in another file: [`SessionManager::from_redis_data_cache`].
    ///
    /// # Errors
    /// [`TomcatError`] if the text is not XML, or an attribute is invalid.
    pub fn from_context(file: &str, xml: &str) -> Result<Option<Self>, TomcatError> {
        let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_XML_NODES, entity_resolver: None };
        let document = Document::parse_with_options(xml, options).map_err(|error| {
            // The message of the parser may quote an attribute.
            TomcatError::Xml { file: file.to_owned(), line: error.pos().row, column: error.pos().col }
        })?;
        let elements = |name: &'static str| document.descendants().filter(move |node| node.has_tag_name(name));
        let class = |node: &Node<'_, '_>| node.attribute("className").unwrap_or_default().trim().to_owned();
        // A second manager replaces the first.
        let Some((node, kind)) =
            elements("Manager").filter_map(|node| Some((node, kind_of(&class(&node))?))).next_back()
        else {
            return Ok(None);
        };
        let read = Attributes { file, node, document: &document };
        let valve = elements("Valve").any(|valve| valve_of(&class(&valve)) == Some(kind));
        let mut manager = SessionManager {
            kind,
            stores: Vec::new(),
            database: read.number("database")?.unwrap_or(0),
            has_password: node.attribute("password").is_some_and(|password| !password.is_empty()),
            max_inactive_s: read.number("maxInactiveInterval")?,
            sentinel_master: read.text("sentinelMaster")?.map(str::to_owned),
            valve,
        };
        manager.stores = match (kind, read.text("sentinels")?, &manager.sentinel_master) {
            (ManagerKind::Memcached, ..) => {
                let nodes = read.text("memcachedNodes")?.unwrap_or_default();
                memcached(nodes).ok_or_else(|| read.invalid("memcachedNodes", "name:host:port, … or host:port"))?
            }
            (_, Some(sentinels), Some(_)) => {
                stores(sentinels, 26379).ok_or_else(|| read.invalid("sentinels", "host:port, …"))?
            }
            _ => {
                let host = read.text("host")?.unwrap_or("localhost").to_owned();
                let port = read.number("port")?.filter(|&port| port != 0).unwrap_or(REDIS_PORT);
                vec![SessionServer { name: None, host, port }]
            }
        };
        Ok(Some(manager))
    }

    /// Reads ran-jit's `redis-data-cache.properties`.
    ///
    /// # Errors
    /// [`TomcatError::Value`] if a property is invalid.
    pub fn from_redis_data_cache(properties: &Properties) -> Result<Self, TomcatError> {
        let invalid = |key: &str, expected| {
            let location = properties.location(key);
            let file = location.map_or("redis-data-cache.properties", |location| location.file()).to_owned();
            TomcatError::Value {
                file,
                line: location.map_or(0, |location| location.line()),
                attribute: key.to_owned(),
                expected,
            }
        };
        let number = |key, default| match properties.get(key).unwrap_or_default() {
            "" => Ok(default),
            digits => digits.parse().map_err(|_| invalid(key, "a whole number")),
        };
        let hosts = properties.get("redis.hosts").unwrap_or_default();
        let sentinel = properties.get("redis.sentinel.enabled").is_some_and(|on| on.eq_ignore_ascii_case("true"));
        let master = properties.get("redis.sentinel.master").filter(|master| sentinel && !master.is_empty());
        Ok(SessionManager {
            kind: ManagerKind::RanJit,
            stores: stores(hosts, REDIS_PORT).ok_or_else(|| invalid("redis.hosts", "host:port, …"))?,
            database: number("redis.database", 0)?,
            has_password: properties.get("redis.password").is_some_and(|password| !password.is_empty()),
            max_inactive_s: None,
            sentinel_master: master.map(str::to_owned),
            valve: true,
        })
    }
}

fn kind_of(class: &str) -> Option<ManagerKind> {
    match class {
        "com.radiadesign.catalina.session.RedisSessionManager" => Some(ManagerKind::TomcatRedis1),
        "com.orangefunction.tomcat.redissessions.RedisSessionManager" => Some(ManagerKind::TomcatRedis2),
        "tomcat.request.session.redis.SessionManager" => Some(ManagerKind::RanJit),
        _ if class.starts_with("de.javakaffee.web.msm.") => Some(ManagerKind::Memcached),
        _ => None,
    }
}

fn valve_of(class: &str) -> Option<ManagerKind> {
    match class {
        "com.radiadesign.catalina.session.RedisSessionHandlerValve" => Some(ManagerKind::TomcatRedis1),
        "com.orangefunction.tomcat.redissessions.RedisSessionHandlerValve" => Some(ManagerKind::TomcatRedis2),
        "tomcat.request.session.redis.SessionHandlerValve" => Some(ManagerKind::RanJit),
        _ => None,
    }
}

/// The attributes of an element.
struct Attributes<'d, 'x> {
    file: &'d str,
    node: Node<'d, 'x>,
    document: &'d Document<'x>,
}

impl<'d> Attributes<'d, '_> {
    fn invalid(&self, name: &str, expected: &'static str) -> TomcatError {
        let attribute =
            self.node.attribute_node(name).map_or(self.node.range().start, |attribute| attribute.range().start);
        let line = self.document.text_pos_at(attribute).row;
        TomcatError::Value { file: self.file.to_owned(), line, attribute: name.to_owned(), expected }
    }

    /// Returns the value unless it is empty, or an error if it contains a variable that Tomcat would replace.
    fn text(&self, name: &str) -> Result<Option<&'d str>, TomcatError> {
        let value = self.node.attribute(name).map(str::trim).filter(|value| !value.is_empty());
        match value {
            Some(value) if value.contains("${") => Err(self.invalid(name, "a value without variables: write out ${…}")),
            value => Ok(value),
        }
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, TomcatError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.invalid(name, "a whole number"))
    }
}

/// Parses `host:port, …`, at least one.
fn stores(text: &str, default_port: u16) -> Option<Vec<SessionServer>> {
    let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    let stores: Option<Vec<SessionServer>> = parts.map(|part| store(None, part, default_port)).collect();
    stores.filter(|stores| !stores.is_empty())
}

/// Parses `name:host:port, …`, or one server without a name.
fn memcached(text: &str) -> Option<Vec<SessionServer>> {
    let parts: Vec<&str> = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty()).collect();
    let named = |part: &str| {
        let (name, address) = part.split_once(':')?;
        address.contains(':').then_some(())?;
        store(Some(name.to_owned()), address, MEMCACHED_PORT)
    };
    match parts.as_slice() {
        [] => None,
        [one] if one.matches(':').count() < 2 => Some(vec![store(None, one, MEMCACHED_PORT)?]),
        many => many.iter().map(|part| named(part)).collect(),
    }
}

fn store(name: Option<String>, address: &str, default_port: u16) -> Option<SessionServer> {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0)?),
        None => (address, default_port),
    };
    (!host.is_empty()).then(|| SessionServer { name, host: host.to_owned(), port })
}
