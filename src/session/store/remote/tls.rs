//! TLS to stores: trusted roots, and the crypto provider of rustls.

use std::fmt;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::StoreUrl;
use super::url::wrong;
use crate::session::InvalidStore;

/// Whether a store connects over TLS, and which roots it trusts.
pub(crate) enum Tls {
    Off,
    /// Trusts the default roots of the driver.
    DefaultRoots,
    /// Trusts these certificates (PEM) and no others.
    Roots(Vec<u8>),
}

impl Tls {
    /// Takes the option `ca`, the path of a PEM file, out of an address.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] with `expected` if there is a `ca` without TLS,
    /// [`InvalidStore::Certificates`] if the file is unusable.
    pub(crate) fn from_url(url: &mut StoreUrl, enabled: bool, expected: &'static str) -> Result<Self, InvalidStore> {
        match url.take("ca") {
            None if enabled => Ok(Tls::DefaultRoots),
            None => Ok(Tls::Off),
            Some(_) if !enabled => Err(wrong("an option", expected)),
            Some(file) => {
                let pem = std::fs::read(file).map_err(|error| InvalidStore::Certificates(Box::new(error)))?;
                Tls::with_roots(pem)
            }
        }
    }

    /// Trusts only the certificates in `pem`.
    ///
    /// # Errors
    /// [`InvalidStore::Certificates`] if there are none, or one is unusable.
    pub(crate) fn with_roots(pem: Vec<u8>) -> Result<Self, InvalidStore> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| InvalidStore::Certificates(error.to_string().into()))?;
            roots.add(certificate).map_err(|error| InvalidStore::Certificates(Box::new(error)))?;
        }
        if roots.is_empty() {
            return Err(InvalidStore::Certificates("no certificate in PEM format was found".into()));
        }
        Ok(Tls::Roots(pem))
    }

    /// Ensures that the process has a crypto provider if TLS is on. The drivers ask rustls for the
    /// default of the process, and rustls panics if there is none and the build has several. A
    /// provider that the application installed stays.
    pub(crate) fn ensure_provider(&self) {
        if !matches!(self, Tls::Off) && CryptoProvider::get_default().is_none() {
            // Fails only if another thread was faster, which has the same effect.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Tls::Off) { "Off" } else { "On" })
    }
}
