#[cfg(any(feature = "client", feature = "server"))]
use rustls::SupportedProtocolVersion;

/// A version of TLS. Older versions are insecure, and rustls does not have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

#[cfg(any(feature = "client", feature = "server"))]
impl TlsVersion {
    pub(super) const ALL: &'static [TlsVersion] = &[TlsVersion::Tls12, TlsVersion::Tls13];

    pub(super) fn supported(versions: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
        let version = |version: &TlsVersion| match version {
            TlsVersion::Tls12 => &rustls::version::TLS12,
            TlsVersion::Tls13 => &rustls::version::TLS13,
        };
        versions.iter().map(version).collect()
    }
}
