//! Connections, and what their errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::{Conn, DriverError, Error, IoError, Opts, TlsError};

use super::statements::Statements;
use super::table;
use crate::session::store::remote::{Dial, Failed, Fault};

/// The server's kind, for messages.
pub(super) const SYSTEM: &str = "mysql";

/// The server, and whether its table was found good.
pub(super) struct Server {
    options: Opts,
    statements: Arc<Statements>,
    checked: AtomicBool,
}

impl Server {
    pub(super) fn new(options: Opts, statements: Arc<Statements>) -> Self {
        Server { options, statements, checked: AtomicBool::new(false) }
    }

    pub(super) fn address(&self) -> (&str, u16) {
        (self.options.ip_or_hostname(), self.options.tcp_port())
    }
}

impl Dial for Server {
    type Connection = Conn;
    const SYSTEM: &'static str = SYSTEM;

    /// The table is looked at once. A fault found later (it was dropped, say) ends the connections, so it is looked at again.
    async fn dial(&self) -> Result<Conn, Fault> {
        let mut connection = Conn::new(self.options.clone()).await.map_err(|error| fault(&error))?;
        if !self.checked.load(Ordering::Relaxed) {
            table::check_or_create(&mut connection, self.statements.table()).await?;
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(connection)
    }

    fn lost(&self, fault: &Fault) {
        if fault.is_refused() {
            self.checked.store(false, Ordering::Relaxed);
        }
    }
}

/// What an error means for the connection.
pub(super) fn failed(error: Error) -> Failed {
    let fault = fault(&error);
    match &error {
        // The connection is good, and so will the next one be.
        Error::Server(server) if matches!(server.code, 1040 | 1203 | 1205 | 1213 | 1226 | 3024) => {
            Failed::Answered(fault.into())
        }
        // What it says may be over with a new connection: a table that is missing, another master.
        _ => Failed::Lost(fault),
    }
}

/// Whether another transaction was in the way: the server has undone this one, which may now succeed.
pub(super) fn in_the_way(error: &Error) -> bool {
    matches!(error, Error::Server(server) if matches!(server.code, 1205 | 1213))
}

/// What may be said of an error: never the server's text, which repeats values, users and statements.
pub(super) fn fault(error: &Error) -> Fault {
    match error {
        Error::Io(IoError::Io(error)) => Fault::io(SYSTEM, error),
        Error::Io(IoError::Tls(TlsError::Tls(error))) => Fault::tls(SYSTEM, error),
        Error::Io(IoError::Tls(_)) => Fault::refused(SYSTEM, "TLS: the certificate or the server's name is not usable"),
        Error::Server(server) => {
            let code = server.code;
            match code {
                1040 | 1203 | 1226 => Fault::unavailable(SYSTEM, format!("error {code}: too many connections")),
                1053 | 1077 | 1927 => Fault::unavailable(SYSTEM, format!("error {code}: the server is going down")),
                1205 | 1213 => Fault::unavailable(SYSTEM, format!("error {code}: others hold the row")),
                1290 | 1792 | 1836 => Fault::unavailable(SYSTEM, format!("error {code}: the server is read-only")),
                1044 | 1045 | 1698 | 2061 => {
                    Fault::refused(SYSTEM, format!("error {code}: the login was not accepted"))
                }
                1049 => Fault::refused(SYSTEM, format!("error {code}: there is no such database")),
                1142 | 1143 | 1370 => Fault::refused(SYSTEM, format!("error {code}: the user may not do this")),
                1146 => Fault::refused(SYSTEM, format!("error {code}: the table is missing")),
                1054 => Fault::refused(SYSTEM, format!("error {code}: the table lacks a column")),
                code => Fault::refused(SYSTEM, format!("error {code}")),
            }
        }
        Error::Driver(DriverError::ConnectionClosed) => Fault::unavailable(SYSTEM, "the connection was closed"),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => Fault::refused(SYSTEM, "the server has no TLS"),
        Error::Driver(DriverError::CleartextPluginDisabled | DriverError::MysqlOldPasswordDisabled) => {
            Fault::refused(SYSTEM, "the server asks for the password in a way that shows it")
        }
        Error::Driver(DriverError::UnknownAuthPlugin { .. }) => {
            Fault::refused(SYSTEM, "the server asks for the password in an unknown way")
        }
        Error::Driver(_) => Fault::refused(SYSTEM, "the answer does not fit the question"),
        Error::Other(_) | Error::Url(_) => Fault::refused(SYSTEM, "the driver cannot do this"),
    }
}
