//! Reads `context.xml`.

use roxmltree::{Document, Node, ParsingOptions};

use super::warning::Facts;
use super::{ManagerKind, SessionManager, SessionServer, TomcatError};

/// The maximum number of elements and attributes that are read. A configuration has fewer.
const MAX_XML_NODES: u32 = 100_000;

pub(super) const REDIS_PORT: u16 = 6379;
pub(super) const SENTINEL_PORT: u16 = 26379;
const MEMCACHED_PORT: u16 = 11211;

impl SessionManager {
    /// Parses Tomcat's `context.xml`, which errors call `file`. Returns `None` if it names none of
    /// the known session managers; sessions are then in the memory of each node.
    ///
    /// Some managers keep their servers in [another file](SessionManager::settings_file).
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
        // A second manager replaces the first.
        let Some((node, kind)) =
            elements("Manager").filter_map(|node| Some((node, kind_of(class(&node))?))).next_back()
        else {
            return Ok(None);
        };
        let read = Attributes { file, node, document: &document };
        let is = |name: &str, value: &str| node.attribute(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        let mut parents = file.rsplit(['/', '\\']).skip(1);
        let mut manager = SessionManager {
            kind,
            stores: Vec::new(),
            database: read.number("database")?.unwrap_or(0),
            has_password: node.attribute("password").is_some_and(|password| !password.is_empty()),
            sentinel_master: read.text("sentinelMaster")?.map(str::to_owned),
            settings_file: None,
            facts: Facts {
                valve: elements("Valve").any(|valve| valve_of(class(&valve)) == Some(kind)),
                max_inactive: read.number::<i64>("maxInactiveInterval")?.is_some(),
                wrong_path: parents.next() == Some("tomcat"),
                sticky: kind == ManagerKind::Memcached && !is("sticky", "false"),
                saved_late: kind == ManagerKind::Redisson && is("updateMode", "AFTER_REQUEST"),
                ..Facts::default()
            },
        };
        match kind {
            ManagerKind::TomcatRedis1 | ManagerKind::TomcatRedis2 => manager.stores = read.redis()?,
            ManagerKind::Memcached => {
                let nodes = read.text("memcachedNodes")?.unwrap_or_default();
                manager.stores =
                    memcached(nodes).ok_or_else(|| read.invalid("memcachedNodes", "name:host:port, … or host:port"))?;
            }
            ManagerKind::RanJit => {
                let is_old = class(&node).starts_with("com.r.");
                let file = if is_old { "RedisDataCache.properties" } else { "redis-data-cache.properties" };
                manager.settings_file = Some(file.to_owned());
            }
            ManagerKind::Redisson => {
                // The path usually begins with ${catalina.base}.
                let path = node.attribute("configPath").unwrap_or("redisson.conf");
                manager.settings_file = path.rsplit(['/', '\\']).next().map(str::to_owned);
            }
            ManagerKind::Persistent => {
                let store = node.children().find(|child| child.has_tag_name("Store"));
                let url = store.and_then(|store| store.attribute("connectionURL")).unwrap_or_default();
                manager.facts.files = !store.is_some_and(|store| is_database(class(&store)));
                manager.stores = database(url);
                manager.has_password = store.is_some_and(|store| store.has_attribute("connectionPassword"));
            }
            // In `kylin.properties`.
            ManagerKind::Kylin5 => {}
        }
        manager.facts.no_settings = manager.settings_file.is_some();
        Ok(Some(manager))
    }
}

fn class<'x>(node: &Node<'x, '_>) -> &'x str {
    node.attribute("className").unwrap_or_default().trim()
}

fn kind_of(class: &str) -> Option<ManagerKind> {
    match class {
        "com.radiadesign.catalina.session.RedisSessionManager" => Some(ManagerKind::TomcatRedis1),
        "com.orangefunction.tomcat.redissessions.RedisSessionManager" => Some(ManagerKind::TomcatRedis2),
        "tomcat.request.session.redis.SessionManager" | "com.r.tomcat.session.management.RequestSessionManager" => {
            Some(ManagerKind::RanJit)
        }
        "org.apache.catalina.session.PersistentManager" => Some(ManagerKind::Persistent),
        _ if class.starts_with("org.redisson.tomcat.") => Some(ManagerKind::Redisson),
        _ if class.starts_with("de.javakaffee.web.msm.") => Some(ManagerKind::Memcached),
        _ => None,
    }
}

fn valve_of(class: &str) -> Option<ManagerKind> {
    match class {
        "com.radiadesign.catalina.session.RedisSessionHandlerValve" => Some(ManagerKind::TomcatRedis1),
        "com.orangefunction.tomcat.redissessions.RedisSessionHandlerValve" => Some(ManagerKind::TomcatRedis2),
        "tomcat.request.session.redis.SessionHandlerValve"
        | "com.r.tomcat.session.management.RequestSessionHandlerValve" => Some(ManagerKind::RanJit),
        "org.apache.catalina.valves.PersistentValve" => Some(ManagerKind::Persistent),
        _ => None,
    }
}

fn is_database(class: &str) -> bool {
    matches!(class, "org.apache.catalina.session.JDBCStore" | "org.apache.catalina.session.DataSourceStore")
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

    /// Returns the value unless it is empty. Returns an error if it contains a variable that Tomcat
    /// would replace.
    fn text(&self, name: &str) -> Result<Option<&'d str>, TomcatError> {
        let value = self.node.attribute(name).map(str::trim).filter(|value| !value.is_empty());
        match value {
            Some(value) if value.contains("${") => Err(self.invalid(name, "a value without variables: write out ${…}")),
            value => Ok(value),
        }
    }

    /// Returns the servers of tomcat-redis-session-manager.
    fn redis(&self) -> Result<Vec<SessionServer>, TomcatError> {
        if let (Some(sentinels), Some(_)) = (self.text("sentinels")?, self.text("sentinelMaster")?) {
            return stores(sentinels, SENTINEL_PORT).ok_or_else(|| self.invalid("sentinels", "host:port, …"));
        }
        let host = self.text("host")?.unwrap_or("localhost").to_owned();
        let port = self.number("port")?.filter(|&port| port != 0).unwrap_or(REDIS_PORT);
        Ok(vec![SessionServer { name: None, host, port }])
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, TomcatError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.invalid(name, "a whole number"))
    }
}

/// Returns the servers of a JDBC URL, `jdbc:mysql://host:port,…/database?user=…`; none for any
/// other form.
pub(super) fn database(url: &str) -> Vec<SessionServer> {
    let Some((scheme, rest)) = url.split_once("://") else { return Vec::new() };
    let default_port = match scheme.rsplit(':').next() {
        Some("postgresql") => 5432,
        _ => 3306,
    };
    let hosts = rest.split(['/', '?', ';', '#']).next().unwrap_or_default();
    // The text before the host may be a password.
    stores(hosts.rsplit('@').next().unwrap_or_default(), default_port).unwrap_or_default()
}

/// Parses `host:port, …`, at least one.
pub(super) fn stores(text: &str, default_port: u16) -> Option<Vec<SessionServer>> {
    let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    let stores: Option<Vec<SessionServer>> = parts.map(|part| store(None, part, default_port)).collect();
    stores.filter(|stores| !stores.is_empty())
}

/// Parses `name:host:port, …`, a single server without a name, or a Redis server,
/// `redis://host:port`.
fn memcached(text: &str) -> Option<Vec<SessionServer>> {
    if let Some(redis) = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://")) {
        let address = redis.rsplit('@').next()?.split(['/', '?']).next()?;
        return Some(vec![store(None, address, REDIS_PORT)?]);
    }
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
