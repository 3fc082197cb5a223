//! TLS to stores: the roots that a host names, and a provider of cryptography for rustls.

use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::session::InvalidStore;

/// Makes sure that the process has a provider. The drivers ask rustls for the process's own, and rustls panics where there is
/// none and the build holds several; one that the host has installed stays.
pub(crate) fn ensure_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails only when another thread was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Certificates in PEM, from a file.
///
/// # Errors
/// [`InvalidStore::Certificates`].
pub(crate) fn read_roots(file: &Path) -> Result<Vec<u8>, InvalidStore> {
    let pem = std::fs::read(file).map_err(|error| InvalidStore::Certificates(Box::new(error)))?;
    check_roots(pem)
}

/// Certificates in PEM, checked for being that.
///
/// # Errors
/// [`InvalidStore::Certificates`].
pub(crate) fn check_roots(pem: Vec<u8>) -> Result<Vec<u8>, InvalidStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.map(|certificate| roots.add(certificate));
        added
            .map_err(|error| InvalidStore::Certificates(error.to_string().into()))?
            .map_err(|error| InvalidStore::Certificates(Box::new(error)))?;
    }
    if roots.is_empty() {
        return Err(InvalidStore::Certificates("no certificate in PEM format was found".into()));
    }
    Ok(pem)
}
