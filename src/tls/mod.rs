//! TLS with [rustls]: between clients and the front end ([`ServerTls`]), and between the front end
//! and nodes ([`ClientTls`]).
//!
//! | nginx | here |
//! |---|---|
//! | `ssl_certificate`, `ssl_certificate_key` | [`Identity`] |
//! | `ssl_reject_handshake` | [`ServerTls::builder`] with `None`, [`ServerTlsBuilder::refuse_names`] |
//! | `ssl_protocols`, `proxy_ssl_protocols` | `versions` of either builder; TLS 1.2 and 1.3, as rustls has no older version |
//! | `ssl_client_certificate`, `ssl_verify_client` | [`ServerTlsBuilder::client_roots`] |
//! | `proxy_ssl_trusted_certificate` | [`ClientTlsBuilder::roots`] |
//! | `proxy_ssl_verify` (default off) | [`ClientTlsBuilder::verify`] (default on) |
//! | `proxy_ssl_name`, `proxy_ssl_server_name` | [`ClientTlsBuilder::server_name`], [`ClientTlsBuilder::sni`] |
//! | `proxy_ssl_certificate`, `proxy_ssl_certificate_key` | [`ClientTlsBuilder::identity`] |
//!
//! A handshake that is refused because of its name gets the fatal alert `unrecognized_name` (112,
//! RFC 6066, 3), in both versions of TLS.
//!
//! Ciphers cannot be chosen, because rustls offers only those with forward secrecy and
//! authenticated encryption.

#[cfg(feature = "client")]
mod client;
mod connection;
mod error;
mod identity;
mod roots;
#[cfg(feature = "server")]
mod server;
mod version;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

#[cfg(feature = "client")]
pub(crate) use client::TlsConnector;
#[cfg(feature = "client")]
pub use client::{ClientTls, ClientTlsBuilder};
pub use connection::TlsConnection;
pub use error::TlsError;
pub use identity::Identity;
pub use roots::Roots;
#[cfg(feature = "server")]
pub(crate) use server::AcceptConfig;
#[cfg(feature = "server")]
pub use server::{ClientCertificate, ServerTls, ServerTlsBuilder};
pub use version::TlsVersion;

/// Returns the cryptography of `ring`. It is named in every configuration, because a process-wide
/// default belongs to the application.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
