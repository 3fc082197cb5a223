use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::{Conn, Opts};

use super::failure::{SYSTEM, failure};
use super::statements::Statements;
use super::table;
use crate::session::store::remote::{Connect, Failure};

/// How to connect to the server, and whether its table was checked.
pub(super) struct Server {
    options: Opts,
    statements: Arc<Statements>,
    is_table_checked: AtomicBool,
}

impl Server {
    pub(super) fn new(options: Opts, statements: Arc<Statements>) -> Self {
        Server { options, statements, is_table_checked: AtomicBool::new(false) }
    }

    pub(super) fn address(&self) -> (&str, u16) {
        (self.options.ip_or_hostname(), self.options.tcp_port())
    }
}

impl Connect for Server {
    type Connection = Conn;
    const SYSTEM: &'static str = SYSTEM;

    /// Checks the table with the first connection, and again after an error such as a dropped table.
    async fn connect(&self) -> Result<Conn, Failure> {
        let mut connection = Conn::new(self.options.clone()).await.map_err(|error| failure(&error))?;
        if !self.is_table_checked.load(Ordering::Relaxed) {
            table::check_or_create(&mut connection, self.statements.table()).await?;
            self.is_table_checked.store(true, Ordering::Relaxed);
        }
        Ok(connection)
    }

    fn on_connection_lost(&self, failure: &Failure) {
        if failure.is_permanent() {
            self.is_table_checked.store(false, Ordering::Relaxed);
        }
    }
}
