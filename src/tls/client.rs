//! TLS with nodes.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::{Identity, Roots, TlsError, TlsVersion, provider};

/// The encryption of connections to a node, and how the node proves its name. Clones share sessions
/// for resumption.
///
/// ```no_run
/// use kylin_lb::HttpBackend;
/// use kylin_lb::tls::{ClientTls, Roots};
///
/// let tls = ClientTls::builder().roots(Roots::from_file("/etc/kylin/ca.crt")?).build()?;
/// let backend = HttpBackend::builder("kylin-1.example:7443")?.tls(&tls)?.build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Returns a builder. By default, nodes are verified against the system's authorities and the
    /// host of their address.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder {
            roots: None,
            verify: true,
            server_name: None,
            sni: true,
            identity: None,
            versions: TlsVersion::ALL.to_vec(),
        }
    }

    /// Returns the settings for a connection to `host`; `None` is a unix socket.
    pub(crate) fn connector(&self, host: Option<&str>) -> Result<TlsConnector, TlsError> {
        let name = match (&self.server_name, host) {
            (Some(name), _) => name.clone(),
            (None, Some(host)) => server_name(host)?,
            (None, None) => return Err(TlsError::NoServerName),
        };
        Ok(TlsConnector { config: Arc::clone(&self.config), name })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.chars().take(255).collect()))
}

/// The settings that a connection to one node needs.
#[derive(Debug, Clone)]
pub(crate) struct TlsConnector {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// Configures a [`ClientTls`].
#[derive(Debug)]
#[must_use]
pub struct ClientTlsBuilder {
    roots: Option<Roots>,
    verify: bool,
    server_name: Option<String>,
    sni: bool,
    identity: Option<Identity>,
    versions: Vec<TlsVersion>,
}

impl ClientTlsBuilder {
    /// Sets the authorities that may vouch for nodes. Default: [`Roots::system`].
    pub fn roots(mut self, roots: Roots) -> Self {
        self.roots = Some(roots);
        self
    }

    /// Sets whether the certificate of nodes is verified. Default: on. Without it, a machine that
    /// can redirect the connection reads every login.
    pub fn verify(mut self, on: bool) -> Self {
        self.verify = on;
        self
    }

    /// Sets the name, or IP address, that the certificate must have. Default: the host of the
    /// node's address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets whether the handshake names the server (SNI, RFC 6066), unless the name is an IP
    /// address. Default: on; in nginx it is off.
    pub fn sni(mut self, on: bool) -> Self {
        self.sni = on;
        self
    }

    /// Sets the certificate that the front end shows to nodes that ask for one. Default: none.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the accepted versions. Default: all of [`TlsVersion`].
    pub fn versions(mut self, versions: &[TlsVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`TlsError`] if the name is invalid, there is no version, or the system has no authorities
    /// and none were set.
    pub fn build(self) -> Result<ClientTls, TlsError> {
        let server_name = self.server_name.as_deref().map(server_name).transpose()?;
        let verifier: Arc<dyn ServerCertVerifier> = if self.verify {
            let roots = self.roots.map_or_else(Roots::system, Ok)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.store, provider()).build();
            verifier.map_err(|error| TlsError::Invalid(error.to_string()))?
        } else {
            Arc::new(Unverified(provider()))
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&TlsVersion::supported(&self.versions))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity {
            Some(identity) => config.with_client_cert_resolver(resolver(identity.key)),
            None => config.with_no_client_auth(),
        };
        config.enable_sni = self.sni;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ClientTls { config: Arc::new(config), server_name })
    }
}

fn resolver(key: Arc<CertifiedKey>) -> Arc<dyn ResolvesClientCert> {
    Arc::new(SingleCertAndKey::from(key))
}

/// Accepts every certificate, as nginx does by default. The handshake still proves that the node
/// has the certificate's key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
