//! Classifies and describes the errors of the driver.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::session::StoreError;
use crate::session::store::remote::Failure;

/// The name of the system, for messages.
pub(super) const SYSTEM: &str = "redis";

/// The reason why a request failed.
pub(super) enum RequestFailure {
    /// The connection cannot be used again. It failed, perhaps after the server executed the
    /// request, or the server is no longer the master.
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
    /// Classifies an error, and describes it without the server's text.
    fn from(error: &RedisError) -> Self {
        let refused = |description| RequestFailure::Refused(Failure::refused(SYSTEM, description));
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => RequestFailure::NoScript,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                RequestFailure::ConnectionLost(Failure::unavailable(SYSTEM, server_error(error)))
            }
            // The server is loading its data, or the cluster has no master for the key or is moving
            // it.
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            ) => RequestFailure::Busy(Failure::unavailable(SYSTEM, server_error(error))),
            ErrorKind::Extension => match error.code() {
                Some("WRONGTYPE") => RequestFailure::WrongType,
                // Memory, replicas or disk space are short, or a script is running for too long.
                Some("OOM" | "NOREPLICAS" | "MISCONF" | "BUSY") => {
                    RequestFailure::Busy(Failure::unavailable(SYSTEM, server_error(error)))
                }
                // After a change of users, a connection keeps its old identity, or has none.
                Some("NOAUTH") => RequestFailure::ConnectionLost(Failure::refused(SYSTEM, server_error(error))),
                _ => RequestFailure::Refused(Failure::refused(SYSTEM, server_error(error))),
            },
            ErrorKind::Server(_) => RequestFailure::Refused(Failure::refused(SYSTEM, server_error(error))),
            ErrorKind::Io => RequestFailure::ConnectionLost(match io_error(error) {
                Some(error) => Failure::io(SYSTEM, error),
                None => Failure::unavailable(SYSTEM, "the connection failed"),
            }),
            ErrorKind::ClusterConnectionNotFound => {
                let description = "no node of the cluster can be reached";
                RequestFailure::ConnectionLost(Failure::unavailable(SYSTEM, description))
            }
            // The responses no longer match the requests.
            ErrorKind::Parse => {
                let description = "the response is not of the Redis protocol";
                RequestFailure::ConnectionLost(Failure::refused(SYSTEM, description))
            }
            ErrorKind::AuthenticationFailed => refused("user and password were not accepted"),
            ErrorKind::InvalidClientConfig => refused("the settings are not usable"),
            _ => refused("the driver cannot do this"),
        }
    }
}

/// Describes an error of the server by its code, which is one upper-case word. Any other text in
/// that position is not repeated.
fn server_error(error: &RedisError) -> String {
    let is_word = |code: &&str| (1..=20).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase());
    format!("the server sent {}", error.code().filter(is_word).unwrap_or("an error"))
}

fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source()?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?.downcast_ref()
}

/// Returns the failure for a response whose type does not match the command.
pub(super) fn unexpected_response() -> Failure {
    Failure::refused(SYSTEM, "the response does not fit the request")
}

impl From<RequestFailure> for Failure {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::ConnectionLost(failure)
            | RequestFailure::Busy(failure)
            | RequestFailure::Refused(failure) => failure,
            RequestFailure::NoScript => Failure::refused(SYSTEM, "the server keeps no scripts"),
            RequestFailure::WrongType => Failure::refused(SYSTEM, "the key holds a value of another type"),
        }
    }
}

impl From<RequestFailure> for StoreError {
    fn from(failure: RequestFailure) -> Self {
        Failure::from(failure).into()
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        RequestFailure::from(&error).into()
    }
}
