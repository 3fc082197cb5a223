use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::MysqlStore;
use super::connection::Server;
use super::statements::Statements;
use crate::session::InvalidStore;
use crate::session::store::remote::tls::Tls;
use crate::session::store::remote::url::{Host, wrong};
use crate::session::store::remote::{Pool, StoreUrl};

const PORT: u16 = 3306;
const MAX_CONNECTIONS: NonZeroU16 = NonZeroU16::new(8).expect("not zero");
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Settings of a [`MysqlStore`]. [`Debug`](std::fmt::Debug) shows no login.
pub struct MysqlBuilder {
    host: Host,
    database: String,
    user: Option<String>,
    password: Option<String>,
    table: String,
    max_connections: NonZeroU16,
    sweep_interval: Duration,
    tls: Tls,
}

impl MysqlBuilder {
    /// Starts the settings of a store in `database` of a server: `host` or `host:port`. The default
    /// port is 3306.
    ///
    /// # Errors
    /// [`InvalidStore`] when the server is neither, or the name of the database is empty.
    pub fn server(server: &str, database: &str) -> Result<Self, InvalidStore> {
        Self::new(Host::parse(server)?, database.to_owned())
    }

    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let tls = match &*url.scheme {
            "mysql" => false,
            "mysqls" => true,
            _ => return Err(InvalidStore::Scheme("mysql or mysqls")),
        };
        let [database] = &url.path[..] else { return Err(wrong("the path", "/database")) };
        let mut builder = Self::new(url.single_host()?.clone(), database.clone())?;
        (builder.user, builder.password) = (url.user.take(), url.password.take());
        if let Some(table) = url.take("table") {
            builder = builder.table(&table)?;
        }
        if let Some(max) = url.take("connections") {
            builder.max_connections = max.parse().map_err(|_| wrong("an option", "connections=number"))?;
        }
        builder.tls = Tls::from_url(&mut url, tls, "ca only with mysqls")?;
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
            max_connections: MAX_CONNECTIONS,
            sweep_interval: SWEEP_INTERVAL,
            tls: Tls::Off,
        })
    }

    /// Sets the user. Default: one without a name.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets the password. Default: none.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Sets the table. Default: `kylin_lb_sessions`. Front ends of one cluster need the same table,
    /// those of different clusters need different ones.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] unless the name is 1 to 64 ASCII letters, digits and underscores.
    pub fn table(mut self, table: &str) -> Result<Self, InvalidStore> {
        let is_plain = table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_plain || !(1..=64).contains(&table.len()) {
            let expected = "1 to 64 letters, digits and underscores";
            return Err(InvalidStore::Setting { setting: "the table", expected });
        }
        table.clone_into(&mut self.table);
        Ok(self)
    }

    /// Sets the maximum number of connections. Default: 8. A connection carries one request at a
    /// time.
    #[must_use]
    pub fn max_connections(mut self, max: NonZeroU16) -> Self {
        self.max_connections = max;
        self
    }

    /// Sets the average interval at which expired records are removed. Default: 60 s. Each interval
    /// is up to a half shorter or longer.
    #[must_use]
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Connects over TLS only. The certificate must be valid for the name or address of the server
    /// and be signed by a root on Mozilla's list.
    #[must_use]
    pub fn tls(mut self) -> Self {
        if !self.tls.is_on() {
            self.tls = Tls::DefaultRoots;
        }
        self
    }

    /// Connects over TLS only, and trusts these certificates (PEM) in place of Mozilla's list.
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
    /// [`InvalidStore::Setting`] when the sweep interval is not between 100 ms and a day.
    pub fn build(self) -> Result<MysqlStore, InvalidStore> {
        if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&self.sweep_interval) {
            return Err(InvalidStore::Setting { setting: "the sweep interval", expected: "100 ms to 1 day" });
        }
        self.tls.ensure_provider();
        let tls = match self.tls {
            Tls::Off => None,
            Tls::DefaultRoots => Some(SslOpts::default()),
            Tls::Roots(pem) => {
                Some(SslOpts::default().with_root_certs(vec![pem.into()]).with_disable_built_in_roots(true))
            }
        };
        let (host, port) = self.host.with_default_port(PORT);
        let options = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(self.user)
            .pass(self.password)
            .db_name(Some(self.database))
            .ssl_opts(tls)
            // The driver must not leave the address that it was given for a socket.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            // Set, so that the driver does not query them. No statement or row is longer than this.
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28_800))
            // The defaults of servers differ.
            .init(vec!["SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES'"]);
        let statements = Arc::new(Statements::new(self.table));
        let server = Server::new(Opts::from(options), statements.clone());
        Ok(MysqlStore::new(Pool::new(server, self.max_connections), statements, self.sweep_interval))
    }
}

impl std::fmt::Debug for MysqlBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlBuilder")
            .field("host", &self.host)
            .field("database", &self.database)
            .field("table", &self.table)
            .field("max_connections", &self.max_connections)
            .field("sweep_interval", &self.sweep_interval)
            .field("tls", &self.tls.is_on())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_explain_the_mistake_without_the_password() {
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
            (
                "mysql://u:hunter2@a/d?connections=0",
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
        let builder = MysqlStore::builder("mysqls://kylin_user:hunter2@a/d").unwrap();
        let shown = format!("{builder:?}") + &format!("{:?}", builder.build().unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("kylin_user"), "{shown}");
    }

    #[test]
    fn a_sweep_interval_out_of_range_is_an_error() {
        for interval in [Duration::ZERO, Duration::MAX] {
            let builder = MysqlStore::builder("mysql://a/d").unwrap().sweep_interval(interval);
            let message = builder.build().unwrap_err().to_string();
            assert_eq!(message, "session store, the sweep interval: expected 100 ms to 1 day");
        }
    }
}
