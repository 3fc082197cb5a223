//! The variables of TLS connections with clients.

use super::super::scope::{Scope, TlsConnection};
use super::super::sink::Sink;

/// A variable that begins with `ssl_`.
#[derive(Debug, Clone, Copy)]
pub(super) enum TlsVariable {
    Cipher,
    EscapedCertificate,
    Issuer,
    Protocol,
    Serial,
    ServerName,
    SessionReused,
    Subject,
    Verify,
}

/// Writes the value for a connection over TLS, and nothing for any other connection.
pub(super) fn write(variable: TlsVariable, scope: &Scope<'_>, sink: Sink<'_>) {
    if let Some(tls) = scope.tls {
        write_of(tls, variable, sink);
    }
}

#[cfg(not(feature = "tls"))]
fn write_of(tls: &TlsConnection, _: TlsVariable, _: Sink<'_>) {
    match *tls {}
}

#[cfg(feature = "tls")]
fn write_of(tls: &TlsConnection, variable: TlsVariable, sink: Sink<'_>) {
    use super::certificate::{Certificate, escaped_pem};
    use crate::tls::TlsVersion;

    let certificate = || Certificate::parse(tls.client_certificate.as_deref()?);
    let mut put = |text: &str| sink(text.as_bytes());
    match variable {
        TlsVariable::Cipher => put(&openssl_name(tls.cipher_suite.unwrap_or_default())),
        TlsVariable::EscapedCertificate => tls.client_certificate.iter().for_each(|der| put(&escaped_pem(der))),
        TlsVariable::Issuer => certificate().iter().for_each(|parsed| put(&parsed.issuer())),
        TlsVariable::Protocol => put(if tls.version == TlsVersion::Tls12 { "TLSv1.2" } else { "TLSv1.3" }),
        TlsVariable::Serial => certificate().iter().for_each(|parsed| put(&parsed.serial())),
        TlsVariable::ServerName => put(tls.server_name.as_deref().unwrap_or_default()),
        TlsVariable::SessionReused => put(if tls.is_resumed { "r" } else { "." }),
        TlsVariable::Subject => certificate().iter().for_each(|parsed| put(&parsed.subject())),
        TlsVariable::Verify => put(if tls.client_certificate.is_some() { "SUCCESS" } else { "NONE" }),
    }
}

/// Returns the name that OpenSSL has for a cipher suite of rustls.
#[cfg(feature = "tls")]
fn openssl_name(suite: &str) -> String {
    if let Some(suite) = suite.strip_prefix("TLS13_") {
        return format!("TLS_{suite}");
    }
    let name = suite.strip_prefix("TLS_").unwrap_or(suite).replace("_WITH_", "-").replace("AES_", "AES");
    name.strip_suffix("_POLY1305_SHA256").map(|name| format!("{name}_POLY1305")).unwrap_or(name).replace('_', "-")
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::openssl_name;

    #[test]
    fn cipher_suites_have_the_names_of_openssl() {
        for (suite, name) in [
            ("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
            ("TLS13_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
            ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ] {
            assert_eq!(openssl_name(suite), name);
        }
    }
}
