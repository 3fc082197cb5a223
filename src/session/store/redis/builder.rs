use redis::TlsCertificates;

use super::RedisStore;
use super::connection::SharedConnection;
use super::connector::{Connector, Login, Server, Topology};
use crate::session::InvalidStore;
use crate::session::store::remote::StoreUrl;
use crate::session::store::remote::tls::Tls;
use crate::session::store::remote::url::{Host, wrong};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const OPTIONS: &str = "prefix, ca, sentinel_user, sentinel_password";

/// Settings of a [`RedisStore`]. [`Debug`](std::fmt::Debug) shows no login.
pub struct RedisBuilder {
    topology: Topology,
    login: Login,
    sentinel_login: Login,
    database: u32,
    prefix: String,
    tls: Tls,
}

impl RedisBuilder {
    /// Starts the settings of a store on a single server: `host` or `host:port`. The default port is
    /// 6379.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] when the server is neither.
    pub fn single(server: &str) -> Result<Self, InvalidStore> {
        Ok(Self::new(Topology::Single(Host::parse(server)?.with_default_port(PORT))))
    }

    /// Starts the settings of a store on the server that these Sentinels know as the master called
    /// `master`. The default port of a Sentinel is 26379.
    ///
    /// # Errors
    /// [`InvalidStore`] when there is no Sentinel, when one is neither `host` nor `host:port`, or
    /// when the name is empty.
    pub fn sentinel<'a>(sentinels: impl IntoIterator<Item = &'a str>, master: &str) -> Result<Self, InvalidStore> {
        let sentinels = servers(sentinels.into_iter().map(Host::parse), SENTINEL_PORT)?;
        if master.is_empty() {
            let expected = "the name that the Sentinels know it by";
            return Err(InvalidStore::Setting { setting: "the master", expected });
        }
        Ok(Self::new(Topology::Sentinel { sentinels, master: master.to_owned() }))
    }

    /// Starts the settings of a store on the cluster of these nodes. The store learns the other nodes
    /// from them. The default port is 6379.
    ///
    /// # Errors
    /// [`InvalidStore`] when there is no node, or when one is neither `host` nor `host:port`.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidStore> {
        Ok(Self::new(Topology::Cluster(servers(nodes.into_iter().map(Host::parse), PORT)?)))
    }

    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let (tls, kind) = match url.scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, url.scheme.strip_prefix("redis").unwrap_or("none")),
        };
        let hosts = url.hosts.iter().cloned().map(Ok);
        let (topology, path) = match (kind, &url.path[..]) {
            ("", path) => (Topology::Single(url.single_host()?.with_default_port(PORT)), path),
            ("+sentinel", [master, path @ ..]) => {
                (Topology::Sentinel { sentinels: servers(hosts, SENTINEL_PORT)?, master: master.clone() }, path)
            }
            ("+sentinel", []) => return Err(wrong("the path", "/master or /master/database")),
            ("+cluster", path) => (Topology::Cluster(servers(hosts, PORT)?), path),
            _ => return Err(InvalidStore::Scheme("redis, rediss, and each with +sentinel or +cluster")),
        };
        let database = match path {
            [] => 0,
            [number] => number.parse().map_err(|_| wrong("the path", "the number of a database"))?,
            _ => return Err(wrong("the path", "the number of a database and nothing after it")),
        };
        let mut builder = Self::new(topology).database(database);
        builder.login = Login { user: url.user.take(), password: url.password.take() };
        builder.sentinel_login = Login { user: url.take("sentinel_user"), password: url.take("sentinel_password") };
        if let Some(prefix) = url.take("prefix") {
            builder.prefix = prefix;
        }
        builder.tls = Tls::from_url(&mut url, tls, "ca only with rediss")?;
        url.no_more_options(OPTIONS)?;
        Ok(builder)
    }

    fn new(topology: Topology) -> Self {
        RedisBuilder {
            topology,
            login: Login::default(),
            sentinel_login: Login::default(),
            database: 0,
            prefix: "kylin-lb:".to_owned(),
            tls: Tls::Off,
        }
    }

    /// Sets the user. Default: `default`, the default user of Redis.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.login.user = Some(user.to_owned());
        self
    }

    /// Sets the password. Default: none.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.login.password = Some(password.to_owned());
        self
    }

    /// Sets the login at the Sentinels, which is separate from that at the servers. Default: none.
    #[must_use]
    pub fn sentinel_login(mut self, user: Option<&str>, password: &str) -> Self {
        self.sentinel_login = Login { user: user.map(str::to_owned), password: Some(password.to_owned()) };
        self
    }

    /// Sets the number of the database. Default: 0, the only one of a cluster.
    #[must_use]
    pub fn database(mut self, database: u32) -> Self {
        self.database = database;
        self
    }

    /// Sets the prefix of all keys. Default: `kylin-lb:`. Front ends of one cluster need the same
    /// prefix, those of different clusters need different ones. Avoid braces: a Redis Cluster would
    /// keep all records in one slot.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Connects over TLS, to Sentinels as well. The certificate must be valid for the name or address
    /// under which a server is known, also to Sentinels or to the cluster, and be signed by a root
    /// that the system trusts.
    #[must_use]
    pub fn tls(mut self) -> Self {
        if !self.tls.is_on() {
            self.tls = Tls::DefaultRoots;
        }
        self
    }

    /// Connects over TLS, and trusts these certificates (PEM) in place of the roots of the system.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] when `pem` contains no certificate or an unusable one.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, InvalidStore> {
        self.tls = Tls::with_roots(pem.into())?;
        Ok(self)
    }

    /// Makes the store, which connects when it is first used.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] when settings are invalid, alone or in combination.
    pub fn build(self) -> Result<RedisStore, InvalidStore> {
        let invalid = |setting, expected| Err(InvalidStore::Setting { setting, expected });
        if self.database != 0 && self.topology.is_cluster() {
            return invalid("the database", "0, because a cluster has no other");
        }
        if self.prefix.len() > 200 || self.prefix.bytes().any(|byte| byte.is_ascii_control()) {
            return invalid("the prefix", "at most 200 bytes without control characters");
        }
        let lacks_password = |login: &Login| login.user.is_some() && login.password.is_none();
        if lacks_password(&self.login) || lacks_password(&self.sentinel_login) {
            return invalid("the password", "one for the user that is given");
        }
        self.tls.ensure_provider();
        let tls = match self.tls {
            Tls::Off => None,
            Tls::DefaultRoots => Some(TlsCertificates { client_tls: None, root_cert: None }),
            Tls::Roots(pem) => Some(TlsCertificates { client_tls: None, root_cert: Some(pem) }),
        };
        let RedisBuilder { topology, login, sentinel_login, database, prefix, .. } = self;
        let connection = SharedConnection::new(Connector { topology, login, sentinel_login, database, tls });
        Ok(RedisStore { prefix, connection })
    }
}

fn servers(hosts: impl Iterator<Item = Result<Host, InvalidStore>>, port: u16) -> Result<Vec<Server>, InvalidStore> {
    let servers: Vec<_> = hosts.map(|host| Ok(host?.with_default_port(port))).collect::<Result<_, InvalidStore>>()?;
    if servers.is_empty() {
        return Err(InvalidStore::Setting { setting: "the servers", expected: "at least one" });
    }
    Ok(servers)
}

impl std::fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("topology", &self.topology)
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls.is_on())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(address: &str) -> Topology {
        RedisStore::builder(address).unwrap().topology
    }

    fn server(host: &str, port: u16) -> Server {
        (host.to_owned(), port)
    }

    fn message(address: &str) -> String {
        RedisStore::builder(address).and_then(RedisBuilder::build).unwrap_err().to_string()
    }

    #[test]
    fn addresses_name_the_three_topologies() {
        assert_eq!(topology("redis://h"), Topology::Single(server("h", 6379)));
        assert_eq!(topology("rediss://h:1/3"), Topology::Single(server("h", 1)));
        assert_eq!(
            topology("redis+sentinel://a,b:2/kylin/3"),
            Topology::Sentinel { sentinels: vec![server("a", 26379), server("b", 2)], master: "kylin".to_owned() }
        );
        assert_eq!(topology("rediss+cluster://a,b"), Topology::Cluster(vec![server("a", 6379), server("b", 6379)]));
        let full = RedisStore::builder("redis://u:p@h/7?prefix=x:").unwrap();
        assert_eq!((full.database, full.prefix.as_str()), (7, "x:"));
        assert_eq!((full.login.user.as_deref(), full.login.password.as_deref()), (Some("u"), Some("p")));
    }

    #[test]
    fn errors_explain_the_mistake_without_the_password() {
        let cases = [
            (
                "redis+sentinel://:hunter2@a",
                "address of a session store, the path: expected /master or /master/database",
            ),
            ("redis://:hunter2@a,b", "address of a session store, the hosts: expected one host"),
            ("redis://:hunter2@a/x", "address of a session store, the path: expected the number of a database"),
            ("redis+cluster://:hunter2@a/1", "session store, the database: expected 0, because a cluster has no other"),
            ("redis://hunter2@a", "session store, the password: expected one for the user that is given"),
            ("redis://:hunter2@a?ca=x", "address of a session store, an option: expected ca only with rediss"),
            ("rediss://:hunter2@a?ca=/none", "certificates for a session store"),
            ("redis+ring://:hunter2@a", "unknown scheme of a session store: expected redis, rediss, and each with"),
            (
                "redis://:hunter2@a?db=1",
                "address of a session store, an option: expected prefix, ca, sentinel_user, sentinel_password",
            ),
        ];
        for (address, expected) in cases {
            let message = message(address);
            assert!(message.starts_with(expected) && !message.contains("hunter2"), "{address}: {message}");
        }
    }

    #[test]
    fn debug_output_shows_no_login() {
        let builder = RedisStore::builder("redis+sentinel://me:hunter2@a/m?sentinel_password=hunter3").unwrap();
        let shown = format!("{builder:?}");
        let store = format!("{:?}", builder.build().unwrap());
        assert!(!(shown + &store).contains("hunter"));
    }
}
