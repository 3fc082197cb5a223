//! The classification of errors of the driver, and their descriptions.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::session::StoreError;
use crate::session::store::remote::Failure;

/// The name of the system, for messages.
pub(super) const SYSTEM: &str = "redis";

/// Why a request failed.
pub(super) enum RequestFailure {
    /// The connection is of no further use: it failed, perhaps after the server executed the request,
    /// or the server is not the master any more.
    ConnectionLost(Failure),
    /// The server cannot serve for a moment.
    Busy(Failure),
    /// The server does not know the script.
    NoScript,
    /// The key holds a value of another type.
    WrongType,
    /// The server refused the request.
    Refused(Failure),
}

impl From<&RedisError> for RequestFailure {
    fn from(error: &RedisError) -> Self {
        let failure = Failure::from(error);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => RequestFailure::NoScript,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => RequestFailure::ConnectionLost(failure),
            ErrorKind::Server(_) | ErrorKind::Extension if is_temporary(error) => RequestFailure::Busy(failure),
            ErrorKind::Extension => match error.code() {
                Some("WRONGTYPE") => RequestFailure::WrongType,
                // After a change of users, a connection keeps its old identity, or none.
                Some("NOAUTH") => RequestFailure::ConnectionLost(failure),
                _ => RequestFailure::Refused(failure),
            },
            // After a parse error the responses no longer match the requests.
            ErrorKind::ClusterConnectionNotFound | ErrorKind::Io | ErrorKind::Parse => {
                RequestFailure::ConnectionLost(failure)
            }
            _ => RequestFailure::Refused(failure),
        }
    }
}

/// Returns whether an error of a server ends by itself: the server loads its data, the cluster has no
/// master for the key or moves it, memory or replicas or disk are short, a script runs for long.
fn is_temporary(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::ReadOnly,
        ) => true,
        ErrorKind::Extension => matches!(error.code(), Some("OOM" | "NOREPLICAS" | "MISCONF" | "BUSY")),
        _ => false,
    }
}

impl From<&RedisError> for Failure {
    /// Describes an error without the text of the server.
    fn from(error: &RedisError) -> Self {
        let source =
            error.source().and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>());
        if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
            return Failure::io(SYSTEM, io);
        }
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                // A code is one upper-case word. Any other text in its place is not repeated.
                let code = error.code().filter(|code| {
                    (1..=20).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase())
                });
                let description = format!("the server sent {}", code.unwrap_or("an error"));
                if is_temporary(error) {
                    Failure::unavailable(SYSTEM, description)
                } else {
                    Failure::refused(SYSTEM, description)
                }
            }
            ErrorKind::Io => Failure::unavailable(SYSTEM, "the connection failed"),
            ErrorKind::ClusterConnectionNotFound => {
                Failure::unavailable(SYSTEM, "no node of the cluster can be reached")
            }
            ErrorKind::AuthenticationFailed => Failure::refused(SYSTEM, "user and password were not accepted"),
            ErrorKind::Parse => Failure::refused(SYSTEM, "the response is not of the Redis protocol"),
            ErrorKind::InvalidClientConfig => Failure::refused(SYSTEM, "the settings are not usable"),
            _ => Failure::refused(SYSTEM, "the driver cannot do this"),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Failure::from(&error)
    }
}

/// A response of another type than the command has.
pub(super) fn unexpected_response() -> Failure {
    Failure::refused(SYSTEM, "the response does not fit the request")
}

impl From<RequestFailure> for StoreError {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::ConnectionLost(failure)
            | RequestFailure::Busy(failure)
            | RequestFailure::Refused(failure) => failure.into(),
            RequestFailure::NoScript => Failure::refused(SYSTEM, "the server keeps no scripts").into(),
            RequestFailure::WrongType => Failure::refused(SYSTEM, "the key holds a value of another type").into(),
        }
    }
}
