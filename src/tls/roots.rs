use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;

use super::TlsError;
use super::identity::{certificates_of, read};

/// The authorities whose certificates are trusted.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
}

impl Roots {
    /// Returns the authorities that the system trusts (on Debian those in `/etc/ssl/certs`;
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` override the location).
    ///
    /// # Errors
    /// [`TlsError::NoSystemRoots`] if there are none.
    pub fn system() -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        // Certificates of the system that cannot be read are ignored, as in every TLS library.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(Roots { store: Arc::new(store) }) }
    }

    /// Parses the certificates in a PEM text.
    ///
    /// # Errors
    /// [`TlsError`] if there is none, or one is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates_of(pem)? {
            store.add(certificate)?;
        }
        Ok(Roots { store: Arc::new(store) })
    }

    /// Reads the certificates in a PEM file.
    ///
    /// # Errors
    /// [`TlsError::Read`] if the file cannot be read, [`TlsError::InFile`] if its content cannot be
    /// used.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        Self::from_pem(&read(path)?).map_err(|error| error.in_file(path))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("certificates", &self.store.len()).finish()
    }
}
