use std::num::NonZeroU16;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::MysqlStore;
use super::connection::Connector;
use super::statements::Statements;
use crate::session::InvalidStore;
use crate::session::store::remote::{Login, Pool, Server, StoreUrl, Tls, wrong};

const PORT: u16 = 3306;
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Builds a [`MysqlStore`]. [`Debug`](std::fmt::Debug) shows no login.
#[derive(Debug)]
#[must_use]
pub struct MysqlBuilder {
    server: Server,
    database: String,
    login: Login,
    table: String,
    max_connections: NonZeroU16,
    sweep_interval: Duration,
    tls: Tls,
}

impl MysqlBuilder {
    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        let tls = match &*url.scheme {
            "mysql" => false,
            "mysqls" => true,
            _ => return Err(InvalidStore::Scheme("mysql or mysqls")),
        };
        let [database] = &url.path[..] else { return Err(wrong("the path", "/database")) };
        let (server, database) = (url.server(PORT)?, database.clone());
        let table = url.take("table").unwrap_or_else(|| "kylin_lb_sessions".to_owned());
        let max_connections = url.take_max_connections()?;
        let tls = Tls::from_url(&mut url, tls, "ca only with mysqls")?;
        url.no_more_options("table, connections, ca")?;
        let sweep_interval = SWEEP_INTERVAL;
        Ok(MysqlBuilder { server, database, login: url.login, table, max_connections, sweep_interval, tls })
    }

    /// Sets the login. Default: the login in the address, or none.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Login::new(user, password);
        self
    }

    /// Sets the table: 1 to 64 ASCII letters, digits and underscores. Default: the table in the
    /// address, or `kylin_lb_sessions`. Front ends of one cluster need the same table, those of
    /// different clusters need different ones.
    pub fn table(mut self, table: &str) -> Self {
        table.clone_into(&mut self.table);
        self
    }

    /// Sets the maximum number of connections. Default: the number in the address, or 8. A
    /// connection carries one request at a time.
    pub fn max_connections(mut self, max: NonZeroU16) -> Self {
        self.max_connections = max;
        self
    }

    /// Sets the average interval at which expired records are removed, from 100 ms to a day.
    /// Default: 60 s. Each interval is up to a half shorter or longer.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Makes the store connect only over TLS, regardless of the scheme of the address, and trust
    /// these certificates (PEM) instead of Mozilla's list.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] if `pem` contains no certificate or an unusable one.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, InvalidStore> {
        self.tls = Tls::with_roots(pem.into())?;
        Ok(self)
    }

    /// Builds the store, which connects when it is first used.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] if the name of the table is invalid, or the sweep interval is not
    /// between 100 ms and a day.
    pub fn build(self) -> Result<MysqlStore, InvalidStore> {
        let is_plain = self.table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_plain || !(1..=64).contains(&self.table.len()) {
            return Err(InvalidStore::setting("the table", "1 to 64 letters, digits and underscores"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&self.sweep_interval) {
            return Err(InvalidStore::setting("the sweep interval", "100 ms to 1 day"));
        }
        self.tls.ensure_provider();
        let tls = match self.tls {
            Tls::Off => None,
            Tls::DefaultRoots => Some(SslOpts::default()),
            Tls::Roots(pem) => {
                Some(SslOpts::default().with_root_certs(vec![pem.into()]).with_disable_built_in_roots(true))
            }
        };
        let (host, port) = self.server;
        let options = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port)
            .user(self.login.user)
            .pass(self.login.password)
            .db_name(Some(self.database))
            .ssl_opts(tls)
            // The driver must not switch from the given address to a socket.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            // Set so that the driver does not query the value. No statement or row is longer than
            // this.
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28_800))
            // The defaults of servers differ.
            .init(vec!["SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES'"]);
        let connector = Connector::new(Opts::from(options), Statements::new(self.table));
        Ok(MysqlStore::new(Pool::new(connector, self.max_connections), self.sweep_interval))
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
