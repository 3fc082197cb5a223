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

/// Certificates and settings of a TLS listener. Clones share them, and [`replace`](Self::replace)
/// can exchange them while the listener serves.
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
    config: Arc<RwLock<AcceptConfig>>,
}

/// What a handshake needs. Clones share it.
#[derive(Clone)]
pub(crate) struct AcceptConfig {
    pub(crate) rustls: Arc<ServerConfig>,
    /// `None` if no handshake is refused because of the name in it.
    pub(crate) names: Option<Arc<ByName>>,
}

impl ServerTls {
    /// Returns a builder. `identity` serves clients that name no server, or a server without its
    /// own identity. With `None`, the handshake of such a client is refused with the alert
    /// `unrecognized_name` (nginx: `ssl_reject_handshake on` in the default server).
    pub fn builder(identity: impl Into<Option<Identity>>) -> ServerTlsBuilder {
        ServerTlsBuilder {
            identity: identity.into(),
            by_name: HashMap::new(),
            find: None,
            is_refused: None,
            versions: TlsVersion::ALL.to_vec(),
            clients: None,
            http2: true,
        }
    }

    /// Makes new connections use the certificates and settings of `other`. Open connections
    /// continue. Clients cannot resume earlier sessions.
    pub fn replace(&self, other: &ServerTls) {
        let config = other.config();
        *self.config.write() = config;
    }

    pub(crate) fn config(&self) -> AcceptConfig {
        self.config.read().clone()
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
    /// A client without a valid certificate is refused in the handshake (nginx:
    /// `ssl_verify_client on`, which refuses it with 400).
    Required,
    /// A client without a certificate is served; a client with an invalid certificate is refused.
    Optional,
}

/// Configures a [`ServerTls`].
#[derive(Debug)]
#[must_use]
pub struct ServerTlsBuilder {
    identity: Option<Identity>,
    by_name: HashMap<String, Identity>,
    find: Option<FindIdentity>,
    is_refused: Option<IsRefused>,
    versions: Vec<TlsVersion>,
    clients: Option<(Roots, ClientCertificate)>,
    http2: bool,
}

impl ServerTlsBuilder {
    /// Sets the identity for clients that ask for the server `name` (SNI, RFC 6066): a host name,
    /// or `*.` and a domain for all names below it. The longest matching name wins, and for the
    /// same name the last call.
    pub fn identity_for(mut self, name: &str, identity: Identity) -> Self {
        self.by_name.insert(name.to_ascii_lowercase(), identity);
        self
    }

    /// Sets the function that finds the identity for the name that a client asks for (SNI), in
    /// lower case. If it returns `None`, [`identity_for`](Self::identity_for) decides. A server
    /// with virtual hosts can use the same rules to find a host and its certificate. Default: none.
    pub fn identity_by(mut self, find: impl Fn(&str) -> Option<Identity> + Send + Sync + 'static) -> Self {
        self.find = Some(FindIdentity(Box::new(find)));
        self
    }

    /// Sets which names are refused. `is_refused` gets the name that a client asks for, in lower
    /// case. If it returns true, the handshake is refused with the alert `unrecognized_name`
    /// (nginx: `ssl_reject_handshake on` in the server of that name). Default: no name is refused.
    pub fn refuse_names(mut self, is_refused: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.is_refused = Some(IsRefused(Box::new(is_refused)));
        self
    }

    /// Sets the accepted versions. Default: all of [`TlsVersion`].
    pub fn versions(mut self, versions: &[TlsVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// Asks clients for a certificate of one of these authorities. Default: clients are not asked.
    pub fn client_roots(mut self, roots: Roots, certificate: ClientCertificate) -> Self {
        self.clients = Some((roots, certificate));
        self
    }

    /// Sets whether HTTP/2 (ALPN `h2`) is offered before HTTP/1.1 and HTTP/1.0. Default: on.
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
        let refuses = self.identity.is_none() || self.is_refused.is_some();
        let default = self.identity.map(|identity| identity.key);
        let names = Arc::new(ByName { default, find: self.find, is_refused: self.is_refused, by_name });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&TlsVersion::supported(&self.versions))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(names.clone());
        // Tickets keep the state of a session at the client. Memory here would be bounded, and a
        // busy site would lose sessions.
        config.ticketer = Ticketer::new()?;
        config.alpn_protocols = if self.http2 { vec![b"h2".to_vec()] } else { Vec::new() };
        // A client that offers none of these is refused, and old ones offer only HTTP/1.0.
        config.alpn_protocols.extend([b"http/1.1".to_vec(), b"http/1.0".to_vec()]);
        let config = AcceptConfig { rustls: Arc::new(config), names: refuses.then_some(names) };
        Ok(ServerTls { config: Arc::new(RwLock::new(config)) })
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

/// Returns whether a name in lower case is refused.
struct IsRefused(Box<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for IsRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsRefused").finish_non_exhaustive()
    }
}

/// Chooses the identity by the name of the server that the client asks for.
#[derive(Debug)]
pub(crate) struct ByName {
    default: Option<Arc<CertifiedKey>>,
    find: Option<FindIdentity>,
    is_refused: Option<IsRefused>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Returns whether the handshake of a client that asks for `name` is refused.
    pub(crate) fn refuses(&self, name: Option<&str>) -> bool {
        self.identity(name).is_none()
    }

    fn identity(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let is_refused = |IsRefused(is_refused): &IsRefused| name.as_deref().is_some_and(is_refused);
        if self.is_refused.as_ref().is_some_and(is_refused) {
            return None;
        }
        name.and_then(|name| self.find(&name)).or_else(|| self.default.clone())
    }

    /// `name` is in lower case.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if let Some(FindIdentity(find)) = &self.find
            && let Some(found) = find(name)
        {
            return Some(found.key);
        }
        if self.by_name.is_empty() {
            return None;
        }
        // The name is shortened from the left, so that the longest domain comes first.
        let mut domains = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
        let found = self.by_name.get(name).or_else(|| domains.find_map(|domain| self.by_name.get(&domain)));
        found.cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.identity(hello.server_name())
    }
}
