use redis::TlsCertificates;

use super::RedisStore;
use super::dialer::{Dialer, Login, Server, Topology};
use super::link::Link;
use crate::session::InvalidStore;
use crate::session::store::remote::url::{Host, wrong};
use crate::session::store::remote::{StoreUrl, tls};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const OPTIONS: &str = "prefix, ca, sentinel_user, sentinel_password";

/// Settings of a [`RedisStore`]. [`Debug`](std::fmt::Debug) shows no login.
pub struct RedisBuilder {
    pub(super) topology: Topology,
    login: Login,
    sentinel_login: Login,
    pub(super) database: u32,
    prefix: String,
    tls: Option<TlsCertificates>,
}

impl RedisBuilder {
    /// A single server: `host` or `host:port`, by default port 6379.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] when it is neither.
    pub fn single(server: &str) -> Result<Self, InvalidStore> {
        Ok(Self::new(Topology::Single(Host::parse(server)?.or_port(PORT))))
    }

    /// The server that these Sentinels know as the master called `master`; by default port 26379.
    ///
    /// # Errors
    /// [`InvalidStore`] when there is no Sentinel, or one is neither `host` nor `host:port`, or the name is empty.
    pub fn sentinel<'a>(sentinels: impl IntoIterator<Item = &'a str>, master: &str) -> Result<Self, InvalidStore> {
        let sentinels = servers(sentinels.into_iter().map(Host::parse), SENTINEL_PORT)?;
        if master.is_empty() {
            return Err(InvalidStore::Setting {
                setting: "the master",
                expected: "the name that the Sentinels know it by",
            });
        }
        Ok(Self::new(Topology::Sentinel { sentinels, master: master.to_owned() }))
    }

    /// The cluster that these nodes belong to; the others are learned from those that answer. By default port 6379.
    ///
    /// # Errors
    /// [`InvalidStore`] when there is no node, or one is neither `host` nor `host:port`.
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidStore> {
        Ok(Self::new(Topology::Cluster(servers(nodes.into_iter().map(Host::parse), PORT)?)))
    }

    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let (secure, kind) = match url.scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, url.scheme.strip_prefix("redis").unwrap_or("none")),
        };
        let hosts = url.hosts.iter().cloned().map(Ok);
        let (topology, path) = match (kind, &url.path[..]) {
            ("", path) => (Topology::Single(url.one_host()?.or_port(PORT)), path),
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
        if secure {
            builder = builder.tls();
        }
        if let Some(file) = url.take("ca") {
            if !secure {
                return Err(wrong("an option", "ca only with rediss"));
            }
            builder = builder.root_certificates(tls::read_roots(file.as_ref())?)?;
        }
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
            tls: None,
        }
    }

    /// The user to log in as; by default Redis's `default`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.login.user = Some(user.to_owned());
        self
    }

    /// The user's password; by default none is sent.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.login.password = Some(password.to_owned());
        self
    }

    /// The login at the Sentinels, which is apart from that at the servers; by default none.
    #[must_use]
    pub fn sentinel_login(mut self, user: Option<&str>, password: &str) -> Self {
        self.sentinel_login = Login { user: user.map(str::to_owned), password: Some(password.to_owned()) };
        self
    }

    /// The number of the database; 0 by default, and in a cluster always.
    #[must_use]
    pub fn database(mut self, database: u32) -> Self {
        self.database = database;
        self
    }

    /// What goes before the keys; `kylin-lb:` by default. Front ends of one cluster have the same, those of different clusters
    /// must not. A part of it in braces makes a Redis Cluster keep all records in one slot, so leave them out.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Connect over TLS, to Sentinels as well. The certificate must be for the name or address under which a server is known -
    /// also to Sentinels, or to the cluster - and be signed by one that the system trusts.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls.get_or_insert(TlsCertificates { client_tls: None, root_cert: None });
        self
    }

    /// Connect over TLS, and trust these certificates (PEM) in place of the system's.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] when it is not a text of certificates.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, InvalidStore> {
        let root_cert = Some(tls::check_roots(pem.into())?);
        self.tls = Some(TlsCertificates { client_tls: None, root_cert });
        Ok(self)
    }

    /// The store. Nothing is connected yet.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] when settings are not usable, alone or together.
    pub fn build(self) -> Result<RedisStore, InvalidStore> {
        let invalid = |setting, expected| Err(InvalidStore::Setting { setting, expected });
        if self.database != 0 && matches!(self.topology, Topology::Cluster(_)) {
            return invalid("the database", "0, for a cluster has no other");
        }
        if self.prefix.len() > 200 || self.prefix.bytes().any(|byte| byte.is_ascii_control()) {
            return invalid("the prefix", "at most 200 bytes without control characters");
        }
        let without_password = |login: &Login| login.user.is_some() && login.password.is_none();
        if without_password(&self.login) || without_password(&self.sentinel_login) {
            return invalid("the password", "one for the user that is given");
        }
        if self.tls.is_some() {
            tls::ensure_provider();
        }
        let RedisBuilder { topology, login, sentinel_login, database, prefix, tls } = self;
        let link = Link::new(Dialer { topology, login, sentinel_login, database, tls });
        Ok(RedisStore { prefix, link })
    }
}

fn servers(hosts: impl Iterator<Item = Result<Host, InvalidStore>>, port: u16) -> Result<Vec<Server>, InvalidStore> {
    let servers: Vec<_> = hosts.map(|host| Ok(host?.or_port(port))).collect::<Result<_, InvalidStore>>()?;
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
            .field("tls", &self.tls.is_some())
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
    fn addresses_name_the_three_kinds() {
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
    fn mistakes_are_explained_without_the_password() {
        let cases = [
            (
                "redis+sentinel://:hunter2@a",
                "address of a session store, the path: expected /master or /master/database",
            ),
            ("redis://:hunter2@a,b", "address of a session store, the hosts: expected one host"),
            ("redis://:hunter2@a/x", "address of a session store, the path: expected the number of a database"),
            ("redis+cluster://:hunter2@a/1", "session store, the database: expected 0, for a cluster has no other"),
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
    fn no_login_is_shown() {
        let builder = RedisStore::builder("redis+sentinel://me:hunter2@a/m?sentinel_password=hunter3").unwrap();
        let shown = format!("{builder:?}");
        let store = format!("{:?}", builder.build().unwrap());
        assert!(!(shown + &store).contains("hunter"));
    }
}
