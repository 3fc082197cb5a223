use std::io;

use crate::clock::InvalidDuration;
use crate::cluster::ClusterError;
use crate::endpoint::InvalidId;
use crate::proxy::ProxyBuildError;
use crate::session::{InvalidCookie, InvalidSecret, InvalidStore};

/// The error for a valid configuration that cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// The name of a server does not resolve to an address. The server has no `resolve`, and is not
    /// in a variable of `proxy_pass`.
    #[error("upstream {upstream}: host not found in server {server}")]
    HostNotFound {
        /// The upstream's name, with the position of the `proxy_pass` if that names a host.
        upstream: String,
        /// The server as written.
        server: String,
        /// The error of the lookup.
        source: io::Error,
    },
    /// No endpoint can be made of a server.
    #[error("upstream {upstream}: no endpoint can be made of server {server}")]
    Endpoint {
        /// The upstream's name.
        upstream: String,
        /// The server as written.
        server: String,
        /// The reason.
        source: InvalidId,
    },
    /// No cluster can be made of the servers of an upstream.
    #[error("upstream {upstream}: no cluster can be made of its servers")]
    Cluster {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: ClusterError,
    },
    /// The sessions of an upstream cannot be kept in the way that an option or a comment sets.
    #[error("upstream {upstream}: its sessions cannot be kept so")]
    Sessions {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidStore,
    },
    /// `sticky learn` has `sync`, and [`SiteBuilder::sessions`](super::SiteBuilder::sessions) was
    /// not called.
    #[error("upstream {upstream}: sync of sticky learn needs a session store that front ends share")]
    Sync {
        /// The upstream's name.
        upstream: String,
    },
    /// The `timeout` of `sticky learn` is shorter than a session store can measure.
    #[error("upstream {upstream}: timeout of sticky learn is too short")]
    Timeout {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidDuration,
    },
    /// The attributes of `sticky cookie` do not form a valid cookie, or a name of `sticky learn` is
    /// not a valid cookie name.
    #[error("upstream {upstream}: the cookie of sticky is invalid")]
    Cookie {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidCookie,
    },
    /// Certificates or TLS settings cannot be used.
    #[cfg(feature = "tls")]
    #[error("{place}: TLS cannot be set up")]
    Tls {
        /// The address or the upstream.
        place: String,
        /// The reason.
        source: crate::tls::TlsError,
    },
    /// No proxy can be built with the settings of a location.
    #[error("no proxy can be built with the settings of a location")]
    Proxy(#[from] ProxyBuildError),
    /// The operating system has no random bytes for a secret.
    #[error("upstream {upstream}: no random bytes for the secret of its sessions")]
    Secret {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidSecret,
    },
}
