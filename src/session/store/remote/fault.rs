//! What went wrong at a server, in words of our own.
//!
//! Errors of drivers and servers echo what they were sent: commands with their keys, values, user names. None of that may
//! reach a log, so their texts stop here; what passes is a kind, a code, and the operating system's words.

use std::borrow::Cow;
use std::io;

use crate::session::StoreError;

/// Why a server did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{system}: {what}")]
pub(crate) struct Fault {
    system: &'static str,
    what: Cow<'static, str>,
    refused: bool,
}

impl Fault {
    /// The server cannot be reached or cannot serve at present.
    pub(crate) fn unavailable(system: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Fault { system, what: what.into(), refused: false }
    }

    /// The server said no, or something that makes no sense: trying again does not help.
    pub(crate) fn refused(system: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Fault { system, what: what.into(), refused: true }
    }

    /// A connection that failed. Errors of the operating system keep its words, and those of TLS speak of
    /// certificates; others may quote what was read.
    pub(crate) fn io(system: &'static str, error: &io::Error) -> Self {
        #[cfg(any(feature = "redis", feature = "mysql"))]
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Fault::tls(system, tls);
        }
        let what = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code).to_string(),
            None => error.kind().to_string(),
        };
        Fault::unavailable(system, what)
    }

    /// A connection that could not be made safe. These errors speak of certificates and the protocol.
    #[cfg(any(feature = "redis", feature = "mysql"))]
    pub(crate) fn tls(system: &'static str, error: &rustls::Error) -> Self {
        let refused = matches!(error, rustls::Error::InvalidCertificate(_));
        Fault { system, what: format!("TLS: {error}").into(), refused }
    }

    /// Whether trying again helps as little as the first time.
    #[cfg(feature = "mysql")]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        if fault.refused { StoreError::Refused(Box::new(fault)) } else { StoreError::Unavailable(Box::new(fault)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_keep_the_words_of_the_system_and_no_others() {
        let refused = Fault::io("redis", &io::Error::from_raw_os_error(111));
        assert!(refused.to_string().starts_with("redis: Connection refused"), "{refused}");
        let quoting = Fault::io("redis", &io::Error::new(io::ErrorKind::InvalidData, "bad byte in hunter2"));
        assert_eq!(quoting.to_string(), "redis: invalid data");
    }
}
