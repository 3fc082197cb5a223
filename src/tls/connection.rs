use std::sync::Arc;

use super::TlsVersion;

/// The TLS of the connection that a request came over, in the extensions of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConnection {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The name that rustls has for the cipher suite, such as `TLS13_AES_256_GCM_SHA384` or
    /// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`.
    pub cipher_suite: Option<&'static str>,
    /// Whether the client resumed an earlier session.
    pub is_resumed: bool,
    /// The name of the server that the client asked for (SNI), in lower case.
    pub server_name: Option<Arc<str>>,
    /// The verified certificate of the client, in DER.
    pub client_certificate: Option<Arc<[u8]>>,
}
