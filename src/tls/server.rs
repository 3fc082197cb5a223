//! TLS with clients.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::{Identity, Roots, TlsError, TlsVersion, provider};

/// Certificates and settings of a listener that speaks TLS. Clones share them, and [`replace`](Self::replace) exchanges them while
/// the listener serves.
///
/// ```no_run
/// use kylin_lb::tls::{Identity, ServerTls};
///
/// let tls = ServerTls::builder(Identity::from_files("front.crt", "front.key")?).build()?;
/// // Later, when the certificate was renewed:
/// tls.replace(&ServerTls::builder(Identity::from_files("front.crt", "front.key")?).build()?);
/// # Ok::<(), kylin_lb::tls::TlsError>(())
/// ```
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Returns a builder. `identity` serves clients that name no server, or one without an identity of its own.
    pub fn builder(identity: Identity) -> ServerTlsBuilder {
        ServerTlsBuilder {
            identity,
            by_name: HashMap::new(),
            find: None,
            versions: TlsVersion::ALL.to_vec(),
            clients: None,
            http2: true,
        }
    }

    /// Makes new connections use the certificates and settings of `other`. Open connections continue. Clients cannot resume
    /// earlier sessions.
    pub fn replace(&self, other: &ServerTls) {
        let config = other.config();
        *self.config.write() = config;
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientCertificate {
    /// A client without a valid certificate is refused in the handshake (nginx: `ssl_verify_client on`, which refuses it with 400).
    Required,
    /// A client without a certificate is served; one with an invalid certificate is refused.
    Optional,
}

/// Configures a [`ServerTls`].
#[derive(Debug)]
#[must_use]
pub struct ServerTlsBuilder {
    identity: Identity,
    by_name: HashMap<String, Identity>,
    find: Option<FindIdentity>,
    versions: Vec<TlsVersion>,
    clients: Option<(Roots, ClientCertificate)>,
    http2: bool,
}

impl ServerTlsBuilder {
    /// Sets the identity for clients that ask for the server `name` (SNI, RFC 6066), a host name, or `*.` and a domain for all names
    /// below it. The longest name counts, and the last call for a name.
    pub fn identity_for(mut self, name: &str, identity: Identity) -> Self {
        self.by_name.insert(name.to_ascii_lowercase(), identity);
        self
    }

    /// Sets the function that finds the identity for the name that a client asks for (SNI), in lower case. If it returns `None`,
    /// [`identity_for`](Self::identity_for) decides. A server with virtual hosts can find the certificate of the host by the same
    /// rules as the host itself. Default: none.
    pub fn identity_by(mut self, find: impl Fn(&str) -> Option<Identity> + Send + Sync + 'static) -> Self {
        self.find = Some(FindIdentity(Box::new(find)));
        self
    }

    /// Sets the versions that are spoken. Default: all of [`TlsVersion`].
    pub fn versions(mut self, versions: &[TlsVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// Asks clients for a certificate of one of these authorities. Default: clients are not asked.
    pub fn client_roots(mut self, roots: Roots, certificate: ClientCertificate) -> Self {
        self.clients = Some((roots, certificate));
        self
    }

    /// Offers HTTP/2 (ALPN `h2`) before HTTP/1.1. Default: on.
    pub fn http2(mut self, on: bool) -> Self {
        self.http2 = on;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`TlsError::Invalid`] if there is no version, or the authorities cannot be used.
    pub fn build(self) -> Result<ServerTls, TlsError> {
        let verifier = match self.clients {
            None => Arc::new(NoClientAuth),
            Some((roots, certificate)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.store, provider());
                let verifier = match certificate {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                verifier.build().map_err(|error| TlsError::Invalid(error.to_string()))?
            }
        };
        let by_name = self.by_name.into_iter().map(|(name, identity)| (name, identity.key)).collect();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&TlsVersion::supported(&self.versions))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName { default: self.identity.key, find: self.find, by_name }));
        // Tickets keep the state of a session at the client: memory here would be bounded, and a busy site would lose sessions.
        config.ticketer = Ticketer::new()?;
        config.alpn_protocols = if self.http2 { vec![b"h2".to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(ServerTls { config: Arc::new(RwLock::new(Arc::new(config))) })
    }
}

/// Returns the identity for a name.
type Find = dyn Fn(&str) -> Option<Identity> + Send + Sync;

/// Finds the identity for a name in lower case.
struct FindIdentity(Box<Find>);

impl fmt::Debug for FindIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindIdentity").finish_non_exhaustive()
    }
}

/// Chooses the identity by the name of the server that the client asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    find: Option<FindIdentity>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        if let Some(FindIdentity(find)) = &self.find
            && let Some(found) = find(&name)
        {
            return Some(found.key);
        }
        if self.by_name.is_empty() {
            return None;
        }
        // The name is cut from the left, so that the longest domain comes first.
        let mut domains = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
        let found = self.by_name.get(&name).or_else(|| domains.find_map(|domain| self.by_name.get(&domain)));
        found.cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        Some(named.unwrap_or_else(|| Arc::clone(&self.default)))
    }
}
