//! TLS with clients and members.

#[cfg(feature = "tls")]
use std::path::Path;

use kylin_lb::backend::http1::HttpBackendBuilder;
use kylin_lb::server::ListenOptions;

use super::BuildError;
use crate::httpd::config::{Config, Listener};
use crate::httpd::directives::{Member, Server};

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "TLS can fail")]
pub fn to_member(backend: HttpBackendBuilder, _: &Member, _: &[&Server]) -> Result<HttpBackendBuilder, BuildError> {
    Ok(backend)
}

/// Sets how an `https://` member is verified, by the `SSLProxy...` directives of its servers.
#[cfg(feature = "tls")]
pub fn to_member(
    backend: HttpBackendBuilder,
    member: &Member,
    servers: &[&Server],
) -> Result<HttpBackendBuilder, BuildError> {
    use kylin_lb::tls::{ClientTls, Roots};

    if !member.tls {
        return Ok(backend);
    }
    let mut tls = ClientTls::builder();
    // The servers agree, as `Config::read` has checked.
    let mut verified_by = servers.iter().map(|server| server.node_tls.verified_by());
    let is_verified = servers.is_empty() || verified_by.clone().any(|by| by.is_some());
    if let Some(roots) = verified_by.find_map(Option::flatten) {
        let place = |error| format!("SSLProxyCACertificateFile {}: {}", roots.display(), crate::tls::chain(&error));
        let roots = Roots::from_file(roots).map_err(place)?;
        tls = tls.roots(roots);
    }
    Ok(backend.tls(&tls.verify(is_verified).build()?)?)
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "TLS can fail")]
pub fn options(_: &Config, _: &Listener) -> Result<ListenOptions, BuildError> {
    Ok(ListenOptions::new())
}

/// Returns how connections begin at an address: with TLS if its virtual hosts have `SSLEngine On`.
#[cfg(feature = "tls")]
pub fn options(config: &Config, listener: &Listener) -> Result<ListenOptions, BuildError> {
    use kylin_lb::tls::{Identity, ServerTls};

    let options = ListenOptions::new();
    if !listener.is_tls {
        return Ok(options);
    }
    let mut builder = None;
    for server in listener.servers.iter().map(|number| &config.servers[*number]) {
        let Some(certificate) = &server.tls.certificate else { continue };
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let mut certificates = read(certificate)?;
        if let Some(chain) = &server.tls.chain {
            certificates.push(b'\n');
            certificates.extend(read(chain)?);
        }
        let key = read(server.tls.key.as_ref().unwrap_or(certificate))?;
        let identity =
            Identity::from_pem(&certificates, &key).map_err(|error| format!("{}: {error}", certificate.display()))?;
        let mut tls = builder.take().unwrap_or_else(|| ServerTls::builder(identity.clone()));
        for name in
            server.names.iter().filter(|name| !name.contains(['?', '[']) && name.rfind('*').is_none_or(|at| at == 0))
        {
            tls = tls.identity_for(name, identity.clone());
        }
        builder = Some(tls);
    }
    Ok(match builder {
        Some(tls) => options.tls(&tls.build()?),
        None => options,
    })
}
