//! What an error of the driver means for a request, and what may be said of it.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::session::StoreError;
use crate::session::store::remote::Fault;

/// The server's kind, for messages.
pub(super) const SYSTEM: &str = "redis";

/// What a failed request means.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// The connection is of no further use; the request may have been done.
    Lost(Fault),
    /// The server that was asked is no longer the master.
    Demoted(Fault),
    /// The server cannot serve for a moment.
    Busy(Fault),
    /// The server does not know the script.
    NoScript,
    /// The key holds something of another type.
    WrongType,
    /// The server said no.
    Refused(Fault),
}

impl From<&RedisError> for Verdict {
    fn from(error: &RedisError) -> Self {
        let fault = fault(error);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Verdict::NoScript,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Verdict::Demoted(fault),
            ErrorKind::Server(_) | ErrorKind::Extension if passes(error) => Verdict::Busy(fault),
            ErrorKind::Extension => match error.code() {
                Some("WRONGTYPE") => Verdict::WrongType,
                // After a change of users, a connection keeps its old identity, or none.
                Some("NOAUTH") => Verdict::Lost(fault),
                _ => Verdict::Refused(fault),
            },
            ErrorKind::ClusterConnectionNotFound | ErrorKind::Io => Verdict::Lost(fault),
            // Out of step, so that no answer can be trusted.
            ErrorKind::Parse => Verdict::Lost(fault),
            _ => Verdict::Refused(fault),
        }
    }
}

/// Whether a server's error passes by itself: it loads its data, the cluster has no master for the key or is moving it, memory
/// or replicas or disk are short, a script keeps it busy.
fn passes(error: &RedisError) -> bool {
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

/// What may be said of an error.
pub(super) fn fault(error: &RedisError) -> Fault {
    let source = error.source().and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>());
    if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        return Fault::io(SYSTEM, io);
    }
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            // A code is one word; whatever else a server may send in its place is not repeated.
            let code = error
                .code()
                .filter(|code| (1..=20).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase()));
            let what = format!("the server answered {}", code.unwrap_or("with an error"));
            if passes(error) { Fault::unavailable(SYSTEM, what) } else { Fault::refused(SYSTEM, what) }
        }
        ErrorKind::Io => Fault::unavailable(SYSTEM, "the connection failed"),
        ErrorKind::ClusterConnectionNotFound => Fault::unavailable(SYSTEM, "no node of the cluster can be reached"),
        ErrorKind::AuthenticationFailed => Fault::refused(SYSTEM, "user and password were not accepted"),
        ErrorKind::Parse => Fault::refused(SYSTEM, "the answer is not of the Redis protocol"),
        ErrorKind::InvalidClientConfig => Fault::refused(SYSTEM, "the settings are not usable"),
        _ => Fault::refused(SYSTEM, "the driver cannot do this"),
    }
}

/// An answer of another shape than the command has.
pub(super) fn nonsense() -> Fault {
    Fault::refused(SYSTEM, "the answer does not fit the question")
}

impl From<Verdict> for StoreError {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Lost(fault) | Verdict::Demoted(fault) | Verdict::Busy(fault) | Verdict::Refused(fault) => {
                fault.into()
            }
            Verdict::NoScript => Fault::refused(SYSTEM, "the server keeps no scripts").into(),
            Verdict::WrongType => Fault::refused(SYSTEM, "the key holds something of another type").into(),
        }
    }
}
