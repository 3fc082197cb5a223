use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::MysqlStore;
use super::connection::Server;
use super::statements::Statements;
use super::sweep::Sweep;
use crate::session::InvalidStore;
use crate::session::store::remote::url::{Host, wrong};
use crate::session::store::remote::{Pool, StoreUrl, tls};

const PORT: u16 = 3306;

/// Settings of a [`MysqlStore`]. [`Debug`](std::fmt::Debug) shows no login.
pub struct MysqlBuilder {
    host: Host,
    database: String,
    user: Option<String>,
    password: Option<String>,
    table: String,
    connections: usize,
    sweep_every: Duration,
    tls: Option<SslOpts>,
}

impl MysqlBuilder {
    /// A store in this database of this server: `host` or `host:port`, by default port 3306.
    ///
    /// # Errors
    /// [`InvalidStore`] when it is neither, or the database's name is empty.
    pub fn server(server: &str, database: &str) -> Result<Self, InvalidStore> {
        Self::new(Host::parse(server)?, database.to_owned())
    }

    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let secure = match &*url.scheme {
            "mysql" => false,
            "mysqls" => true,
            _ => return Err(InvalidStore::Scheme("mysql or mysqls")),
        };
        let [database] = &url.path[..] else { return Err(wrong("the path", "/database")) };
        let mut builder = Self::new(url.one_host()?.clone(), database.clone())?;
        (builder.user, builder.password) = (url.user.take(), url.password.take());
        if secure {
            builder = builder.tls();
        }
        if let Some(table) = url.take("table") {
            builder = builder.table(&table)?;
        }
        if let Some(most) = url.take("connections") {
            let most = most.parse().map_err(|_| wrong("an option", "connections=number"))?;
            builder = builder.connections(most);
        }
        if let Some(file) = url.take("ca") {
            if !secure {
                return Err(wrong("an option", "ca only with mysqls"));
            }
            builder = builder.root_certificates(tls::read_roots(file.as_ref())?)?;
        }
        url.no_more_options("table, connections, ca")?;
        Ok(builder)
    }

    fn new(host: Host, database: String) -> Result<Self, InvalidStore> {
        if database.is_empty() {
            return Err(InvalidStore::Setting { setting: "the database", expected: "a name" });
        }
        Ok(MysqlBuilder {
            host,
            database,
            user: None,
            password: None,
            table: "kylin_lb_sessions".to_owned(),
            connections: 8,
            sweep_every: Duration::from_secs(60),
            tls: None,
        })
    }

    /// The user to log in as; by default one without a name.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The user's password; by default none.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The table; `kylin_lb_sessions` by default. Front ends of one cluster have the same, those of different clusters must not.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] when the name is anything but 1 to 64 ASCII letters, digits and underscores.
    pub fn table(mut self, table: &str) -> Result<Self, InvalidStore> {
        let plain = table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || !(1..=64).contains(&table.len()) {
            let expected = "1 to 64 letters, digits and underscores";
            return Err(InvalidStore::Setting { setting: "the table", expected });
        }
        table.clone_into(&mut self.table);
        Ok(self)
    }

    /// The most connections; 8 by default, at least 1. Each carries one request at a time.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.clamp(1, 1024);
        self
    }

    /// How often what has expired is removed, give or take half; every 60 s by default, at least every 100 ms.
    #[must_use]
    pub fn sweep_every(mut self, period: Duration) -> Self {
        self.sweep_every = period.clamp(Duration::from_millis(100), Duration::from_secs(86_400));
        self
    }

    /// Connect over TLS or not at all. The certificate must be for the server's name or address and signed by one on Mozilla's
    /// list.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls.get_or_insert_default();
        self
    }

    /// Connect over TLS or not at all, and trust these certificates (PEM) in place of Mozilla's list.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] when it is not a text of certificates.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, InvalidStore> {
        let roots = vec![tls::check_roots(pem.into())?.into()];
        self.tls = Some(SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true));
        Ok(self)
    }

    /// The store. Nothing is connected yet.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] when settings are not usable.
    pub fn build(self) -> Result<MysqlStore, InvalidStore> {
        if self.tls.is_some() {
            tls::ensure_provider();
        }
        let (host, port) = self.host.or_port(PORT);
        let options = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(self.user)
            .pass(self.password)
            .db_name(Some(self.database))
            .ssl_opts(self.tls)
            // Where it was told to connect, and nowhere else.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            // Known, so that they need not be asked for: no statement or row is longer than a record and its row.
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28_800))
            // Whatever the server's defaults are.
            .init(vec!["SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES'"]);
        let statements = Arc::new(Statements::new(self.table));
        let server = Server::new(Opts::from(options), statements.clone());
        let pool = Pool::new(server, self.connections);
        Ok(MysqlStore { pool, statements, sweep: Sweep::new(self.sweep_every) })
    }
}

impl std::fmt::Debug for MysqlBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlBuilder")
            .field("host", &self.host)
            .field("database", &self.database)
            .field("table", &self.table)
            .field("connections", &self.connections)
            .field("sweep_every", &self.sweep_every)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_explained_without_the_password() {
        let cases = [
            ("mysql://u:hunter2@a", "address of a session store, the path: expected /database"),
            ("mysql://u:hunter2@a/b/c", "address of a session store, the path: expected /database"),
            ("mysql://u:hunter2@a,b/d", "address of a session store, the hosts: expected one host"),
            (
                "mysql://u:hunter2@a/d?table=x%60y",
                "session store, the table: expected 1 to 64 letters, digits and underscores",
            ),
            (
                "mysql://u:hunter2@a/d?connections=x",
                "address of a session store, an option: expected connections=number",
            ),
            ("mysql://u:hunter2@a/d?ca=x", "address of a session store, an option: expected ca only with mysqls"),
            ("mysql://u:hunter2@a/d?x=1", "address of a session store, an option: expected table, connections, ca"),
            ("mysql+x://u:hunter2@a/d", "unknown scheme of a session store: expected mysql or mysqls"),
        ];
        for (address, expected) in cases {
            let message = MysqlStore::builder(address).and_then(MysqlBuilder::build).unwrap_err().to_string();
            assert!(message.starts_with(expected) && !message.contains("hunter2"), "{address}: {message}");
        }
        let builder = MysqlStore::builder("mysqls://somebody:hunter2@a/d").unwrap();
        let shown = format!("{builder:?}") + &format!("{:?}", builder.build().unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("somebody"), "{shown}");
    }
}
