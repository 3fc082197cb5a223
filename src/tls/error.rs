use std::io;
use std::path::{Path, PathBuf};

/// The error for certificates, a key or a setting of TLS that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The text is not well-formed PEM.
    #[error("not valid PEM: {0}")]
    Pem(String),
    /// The text contains no certificate.
    #[error("no certificate: expected a section that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// The text contains no private key.
    #[error(
        "no private key: expected a section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY; one with a passphrase cannot be read"
    )]
    NoKey,
    /// The key does not belong to the first certificate.
    #[error(
        "the private key does not belong to the certificate; the server's certificate comes before those of its issuers"
    )]
    KeyMismatch,
    /// The content of a file cannot be used.
    #[error("{}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<TlsError>,
    },
    /// The text is not the name of a server.
    #[error("{0:?} is not the name of a server: expected a host name or an IP address")]
    ServerName(String),
    /// The node listens on a unix socket, so the name in its certificate must be set.
    #[error("a node behind a unix socket needs the name in its certificate: set it with ClientTlsBuilder::server_name")]
    NoServerName,
    /// No certificate of an authority could be loaded.
    #[error("no trusted certificate was found in the certificate store of the system")]
    NoSystemRoots,
    /// rustls refuses the configuration.
    #[error("TLS cannot be set up: {0}")]
    Invalid(String),
}

impl TlsError {
    /// Names the file in an error about its content.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            TlsError::Read { .. } | TlsError::InFile { .. } => self,
            error => TlsError::InFile { path: path.to_owned(), source: Box::new(error) },
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        TlsError::Invalid(error.to_string())
    }
}
