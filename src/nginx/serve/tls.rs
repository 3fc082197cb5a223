//! TLS settings of a site: between clients and its addresses, and between its upstreams and nodes.

#[cfg(feature = "server")]
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

#[cfg(feature = "server")]
use super::SiteError;
#[cfg(feature = "server")]
use crate::nginx::config::{Config, Listener};
#[cfg(feature = "server")]
use crate::nginx::directives::settings::VerifyClient;
use crate::nginx::directives::settings::{CertificateFiles, Protocols};
use crate::nginx::directives::upstream::NodeTls;
#[cfg(feature = "server")]
use crate::tls::{ClientCertificate, ServerTls};
use crate::tls::{ClientTls, Identity, Roots, TlsError, TlsVersion};

/// Reads the certificates of an address that speaks TLS.
#[cfg(feature = "server")]
pub(super) fn of_listener(config: &Config, listener: &Listener) -> Result<Option<ServerTls>, SiteError> {
    if !listener.ssl {
        return Ok(None);
    }
    let read = || {
        let settings = |number: usize| &*config.servers[number].settings.client_tls;
        let default = settings(listener.default);
        let mut identities = HashMap::new();
        let mut refused = HashSet::new();
        for number in &listener.servers {
            // As in nginx, a server without a certificate presents that of the default server.
            let files = &settings(*number).files;
            let files = if files.certificate.is_some() { files } else { &default.files };
            if settings(*number).rejects_handshake {
                refused.insert(*number);
            } else {
                identities.insert(*number, identity(files)?);
            }
        }
        let of_default = identities.get(&listener.default).cloned();
        // The listener has the rules that find the server of a request.
        let (names, named) = (listener.clone(), listener.clone());
        let mut builder = ServerTls::builder(of_default)
            .identity_by(move |name| identities.get(&names.server_for(Some(name)).0).cloned())
            .versions(&versions(default.protocols));
        if !refused.is_empty() {
            builder = builder.refuse_names(move |name| refused.contains(&named.server_for(Some(name)).0));
        }
        let default = settings(listener.verifying(|number| &config.servers[number].settings));
        let verify = match default.verify {
            VerifyClient::Off => None,
            VerifyClient::On => Some(ClientCertificate::Required),
            VerifyClient::Optional => Some(ClientCertificate::Optional),
        };
        if let (Some(verify), Some(file)) = (verify, &default.authorities) {
            builder = builder.client_roots(Roots::from_file(file)?, verify);
        }
        builder.build()
    };
    read().map(Some).map_err(|source| SiteError::Tls { place: format!("listen {}", listener.address), source })
}

/// Reads the TLS settings for connections to the nodes of an upstream. `host` is the host of one
/// server as written.
pub(super) fn of_nodes(tls: &NodeTls, host: Option<&str>) -> Result<ClientTls, TlsError> {
    let NodeTls { settings, proxy_host } = tls;
    let mut builder = ClientTls::builder().versions(&versions(settings.protocols)).sni(settings.sni != Some(false));
    if let Some(file) = &settings.authorities {
        builder = builder.roots(Roots::from_file(file)?);
    }
    if settings.files.certificate.is_some() {
        builder = builder.identity(identity(&settings.files)?);
    }
    let name = match (&settings.name, settings.verify) {
        (Some(name), _) => Some(name.as_str()),
        // The host is nginx's default for `proxy_ssl_name`.
        (None, Some(true)) => Some(proxy_host.as_str()),
        (None, None) => host,
        (None, Some(false)) => host.or(Some("localhost")),
    };
    if let Some(name) = name {
        builder = builder.server_name(name);
    }
    builder.verify(settings.verify != Some(false)).build()
}

fn identity(files: &CertificateFiles) -> Result<Identity, TlsError> {
    let empty = PathBuf::new();
    let [certificate, key] = [&files.certificate, &files.key].map(|file| file.as_ref().unwrap_or(&empty));
    Identity::from_files(certificate, key)
}

fn versions(Protocols { tls12, tls13 }: Protocols) -> Vec<TlsVersion> {
    let spoken = [(tls12, TlsVersion::Tls12), (tls13, TlsVersion::Tls13)];
    spoken.into_iter().filter_map(|(is_spoken, version)| is_spoken.then_some(version)).collect()
}
