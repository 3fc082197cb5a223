//! Failures of servers, described without any text from the servers.
//!
//! Errors of drivers and servers repeat what was sent to them: commands with keys, values and user
//! names. A log must not contain these. So a [`Failure`] contains a description written in this
//! crate, an error code, or the text of the operating system.

use std::borrow::Cow;
use std::io;

use crate::session::StoreError;
use crate::shortage::is_shortage;

/// The reason why a server did not fulfil a store's request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{system}: {description}")]
pub(crate) struct Failure {
    system: &'static str,
    description: Cow<'static, str>,
    permanent: bool,
    /// This process could not make a connection.
    shortage: bool,
    /// Whether a new connection failed, and not a request.
    connecting: bool,
}

impl Failure {
    /// Returns the failure of a server that cannot be reached or cannot serve at present.
    pub(crate) fn unavailable(system: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Failure { system, description: description.into(), permanent: false, shortage: false, connecting: false }
    }

    /// Returns the failure of a server that refused the request or sent an invalid response. A
    /// retry does not help.
    pub(crate) fn refused(system: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Failure { permanent: true, ..Failure::unavailable(system, description) }
    }

    /// Returns the failure of a connection. It keeps the text of errors of the operating system and
    /// of TLS. The text of other errors may quote received data.
    pub(crate) fn io(system: &'static str, error: &io::Error) -> Self {
        #[cfg(any(feature = "redis", feature = "mysql"))]
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Failure::tls(system, tls);
        }
        let description = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code).to_string(),
            None => error.kind().to_string(),
        };
        Failure { shortage: is_shortage(error), ..Failure::unavailable(system, description) }
    }

    /// Returns the failure of a TLS handshake. Its text describes only certificates and the
    /// protocol.
    #[cfg(any(feature = "redis", feature = "mysql"))]
    pub(crate) fn tls(system: &'static str, error: &rustls::Error) -> Self {
        let permanent = matches!(error, rustls::Error::InvalidCertificate(_));
        Failure { permanent, ..Failure::unavailable(system, format!("TLS: {error}")) }
    }

    /// Returns this failure as one of a new connection.
    pub(super) fn of_connecting(self) -> Self {
        Failure { connecting: true, ..self }
    }

    /// Returns whether a retry cannot help.
    #[cfg(feature = "mysql")]
    pub(crate) fn is_permanent(&self) -> bool {
        self.permanent
    }
}

/// Returns whether a new connection failed, and not a request on one; `None` if that is unknown.
pub(crate) fn is_of_connecting(error: &StoreError) -> Option<bool> {
    let (StoreError::Unavailable(source) | StoreError::Shortage(source) | StoreError::Refused(source)) = error else {
        return None;
    };
    source.downcast_ref::<Failure>().map(|failure| failure.connecting)
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure { shortage: true, .. } => StoreError::Shortage(Box::new(failure)),
            Failure { permanent: true, .. } => StoreError::Refused(Box::new(failure)),
            _ => StoreError::Unavailable(Box::new(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_keep_the_text_of_the_operating_system_and_no_other() {
        let refused = Failure::io("redis", &io::Error::from_raw_os_error(111));
        assert!(refused.to_string().starts_with("redis: Connection refused"), "{refused}");
        let quoting = Failure::io("redis", &io::Error::new(io::ErrorKind::InvalidData, "bad byte in hunter2"));
        assert_eq!(quoting.to_string(), "redis: invalid data");
        let short = Failure::io("redis", &io::Error::from_raw_os_error(24));
        assert!(matches!(StoreError::from(short), StoreError::Shortage(_)));
        assert!(matches!(StoreError::from(refused), StoreError::Unavailable(_)));
    }
}
