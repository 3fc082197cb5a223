use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::{TlsError, provider};

/// A certificate with its private key, by which one side of a connection proves its name.
///
/// ```no_run
/// use kylin_lb::tls::Identity;
///
/// let identity = Identity::from_files("/etc/kylin/front.crt", "/etc/kylin/front.key")?;
/// # Ok::<(), kylin_lb::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
}

impl Identity {
    /// Parses PEM: the certificate, followed by those of its issuers without the root, and the
    /// private key (PKCS #8, PKCS #1 or SEC1, without a passphrase). Other sections are ignored, so
    /// one text may contain both.
    ///
    /// # Errors
    /// [`TlsError`] if either is missing or malformed, or if the key belongs to another
    /// certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::of(certificates_of(certificates)?, private_key_of(key)?)
    }

    fn of(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, TlsError> {
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Identity { key: Arc::new(key) })
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads PEM files, whose text is parsed as by [`from_pem`](Self::from_pem). Both may be the
    /// same file.
    ///
    /// # Errors
    /// [`TlsError::Read`] if a file cannot be read, [`TlsError::InFile`] if its content cannot be
    /// used, and [`TlsError::KeyMismatch`] if the key belongs to another certificate.
    pub fn from_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        let chain = certificates_of(&read(certificates)?).map_err(|error| error.in_file(certificates))?;
        let key = private_key_of(&read(key)?).map_err(|error| error.in_file(key))?;
        Self::of(chain, key)
    }
}

fn private_key_of(pem: &[u8]) -> Result<Arc<dyn SigningKey>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem(error.to_string()),
    })?;
    Ok(provider().key_provider.load_private_key(key)?)
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// Returns the certificates in a PEM text, at least one.
pub(super) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem(error.to_string()))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

impl fmt::Debug for Identity {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.key.cert.len()).finish_non_exhaustive()
    }
}
