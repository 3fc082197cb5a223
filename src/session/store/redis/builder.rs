use super::RedisStore;
use super::connection::SharedConnection;
use super::connector::{Connector, Topology};
use crate::session::InvalidStore;
use crate::session::store::remote::{DEFAULT_PREFIX, Login, StoreUrl, Tls, wrong};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Builds a [`RedisStore`]. [`Debug`](std::fmt::Debug) shows no login.
#[derive(Debug)]
#[must_use]
pub struct RedisBuilder {
    connector: Connector,
    prefix: String,
}

impl RedisBuilder {
    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let (tls, kind) = match url.scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, url.scheme.strip_prefix("redis").unwrap_or("none")),
        };
        let (topology, path) = match (kind, &url.path[..]) {
            ("", path) => (Topology::Single(url.server(PORT)?), path),
            ("+sentinel", [master, path @ ..]) => {
                (Topology::Sentinel { sentinels: url.servers(SENTINEL_PORT), master: master.clone() }, path)
            }
            ("+sentinel", []) => return Err(wrong("the path", "/master or /master/database")),
            ("+cluster", path) => (Topology::Cluster(url.servers(PORT)), path),
            _ => return Err(InvalidStore::Scheme("redis, rediss, and each with +sentinel or +cluster")),
        };
        let database = match path {
            [] => 0,
            [number] => number.parse().map_err(|_| wrong("the path", "the number of a database"))?,
            _ => return Err(wrong("the path", "the number of a database and nothing after it")),
        };
        let sentinel_login = Login { user: url.take("sentinel_user"), password: url.take("sentinel_password") };
        let prefix = url.take("prefix").unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        let tls = Tls::from_url(&mut url, tls, "ca only with rediss")?;
        url.no_more_options("prefix, ca, sentinel_user, sentinel_password")?;
        let connector = Connector { topology, login: url.login, sentinel_login, database, tls };
        Ok(RedisBuilder { connector, prefix })
    }

    /// Sets the login. Default: the login in the address, or none. On a server that has a password
    /// and no users, the user is called `default`.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.connector.login = Login::new(user, password);
        self
    }

    /// Sets the login at the Sentinels, which is separate from the login at the servers. Default:
    /// the login in the address, or none.
    pub fn sentinel_login(mut self, user: Option<&str>, password: &str) -> Self {
        let user = user.map(str::to_owned);
        self.connector.sentinel_login = Login { user, password: Some(password.to_owned()) };
        self
    }

    /// Sets the prefix of all keys. Default: the prefix in the address, or `kylin-lb:`. Front ends
    /// of one cluster need the same prefix, those of different clusters need different ones. Avoid
    /// braces, because a Redis Cluster would then keep all records in one slot.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Makes the store connect over TLS, regardless of the scheme of the address, and trust these
    /// certificates (PEM) instead of the system's roots.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] if `pem` contains no certificate or an unusable one.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, InvalidStore> {
        self.connector.tls = Tls::with_roots(pem.into())?;
        Ok(self)
    }

    /// Builds the store, which connects when it is first used.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] if settings are invalid, alone or in combination.
    pub fn build(self) -> Result<RedisStore, InvalidStore> {
        let RedisBuilder { connector, prefix } = self;
        if connector.database != 0 && connector.topology.is_cluster() {
            return Err(InvalidStore::setting("the database", "0, because a cluster has no other"));
        }
        if prefix.len() > 200 || prefix.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(InvalidStore::setting("the prefix", "at most 200 bytes without control characters"));
        }
        let lacks_password = |login: &Login| login.user.is_some() && login.password.is_none();
        if lacks_password(&connector.login) || lacks_password(&connector.sentinel_login) {
            return Err(InvalidStore::setting("the password", "one for the user that is given"));
        }
        connector.tls.ensure_provider();
        Ok(RedisStore { prefix, connection: SharedConnection::new(connector) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::remote::Server;

    fn topology(address: &str) -> Topology {
        RedisStore::builder(address).unwrap().connector.topology
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
        assert_eq!((full.connector.database, full.prefix.as_str()), (7, "x:"));
        let login = &full.connector.login;
        assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("u"), Some("p")));
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
