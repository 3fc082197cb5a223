//! Classifies and describes the errors of the driver.

use mysql_async::{DriverError, Error, IoError, TlsError};

use crate::session::store::remote::{Failure, RequestError};

/// The name of the system, for messages.
pub(super) const SYSTEM: &str = "mysql";

/// Classifies an error by its consequence for the connection.
pub(super) fn request_error(error: Error) -> RequestError {
    let failure = failure(&error);
    match &error {
        // Too many connections, a lock or a time limit: the connection stays usable.
        Error::Server(server) if matches!(server.code, 1040 | 1203 | 1205 | 1213 | 1226 | 3024) => {
            RequestError::Refused(failure)
        }
        // A new connection may help, for example if the table is missing, or after a failover.
        _ => RequestError::ConnectionLost(failure),
    }
}

/// Returns whether the server rolled the statement back because of another transaction. A retry may
/// succeed.
pub(super) fn was_rolled_back(error: &Error) -> bool {
    matches!(error, Error::Server(server) if matches!(server.code, 1205 | 1213))
}

/// Describes an error without the server's text, which repeats values, users and statements.
pub(super) fn failure(error: &Error) -> Failure {
    match error {
        Error::Io(IoError::Io(error)) => Failure::io(SYSTEM, error),
        Error::Io(IoError::Tls(TlsError::Tls(error))) => Failure::tls(SYSTEM, error),
        Error::Io(IoError::Tls(_)) => {
            Failure::refused(SYSTEM, "TLS: the certificate or the server's name is not usable")
        }
        Error::Server(server) => {
            let code = server.code;
            let unavailable = |reason| Failure::unavailable(SYSTEM, format!("error {code}: {reason}"));
            let refused = |reason| Failure::refused(SYSTEM, format!("error {code}: {reason}"));
            match code {
                1040 | 1203 | 1226 => unavailable("too many connections"),
                1053 | 1077 | 1927 => unavailable("the server is going down"),
                1205 | 1213 => unavailable("another transaction holds the row"),
                1290 | 1792 | 1836 => unavailable("the server is read-only"),
                1044 | 1045 | 1698 | 2061 => refused("the login was not accepted"),
                1049 => refused("there is no such database"),
                1142 | 1143 | 1370 => refused("the user may not do this"),
                1146 => refused("the table is missing"),
                1054 => refused("the table lacks a column"),
                _ => Failure::refused(SYSTEM, format!("error {code}")),
            }
        }
        Error::Driver(DriverError::ConnectionClosed) => Failure::unavailable(SYSTEM, "the connection was closed"),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => Failure::refused(SYSTEM, "the server has no TLS"),
        Error::Driver(DriverError::CleartextPluginDisabled | DriverError::MysqlOldPasswordDisabled) => {
            Failure::refused(SYSTEM, "the server asks for the password in a way that shows it")
        }
        Error::Driver(DriverError::UnknownAuthPlugin { .. }) => {
            Failure::refused(SYSTEM, "the server asks for the password in an unknown way")
        }
        Error::Driver(_) => Failure::refused(SYSTEM, "the response does not fit the request"),
        Error::Other(_) | Error::Url(_) => Failure::refused(SYSTEM, "the driver cannot do this"),
    }
}
