use std::io;

use crate::clock::InvalidDuration;
use crate::cluster::ClusterError;
use crate::endpoint::InvalidId;
use crate::proxy::ProxyBuildError;
use crate::session::{InvalidCookie, InvalidSecret};

/// The error for a configuration that is correct and cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// The name of a server has no address.
    #[error("upstream {upstream}: host not found in server {server}")]
    HostNotFound {
        /// The upstream's name.
        upstream: String,
        /// The server as written.
        server: String,
        /// The error of the lookup.
        source: io::Error,
    },
    /// A server cannot be an endpoint.
    #[error("upstream {upstream}: server {server} cannot be an endpoint")]
    Endpoint {
        /// The upstream's name.
        upstream: String,
        /// The server as written.
        server: String,
        /// The reason.
        source: InvalidId,
    },
    /// The servers of an upstream cannot be a cluster.
    #[error("upstream {upstream} cannot be a cluster")]
    Cluster {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: ClusterError,
    },
    /// `sticky learn` has `sync`, and [`SiteBuilder::sessions`](super::SiteBuilder::sessions) was
    /// not called.
    #[error("upstream {upstream}: sync of sticky learn needs a session store that front ends share")]
    Sync {
        /// The upstream's name.
        upstream: String,
    },
    /// The `timeout` of `sticky learn` is shorter than a session store can count.
    #[error("upstream {upstream}: timeout of sticky learn is too short")]
    Timeout {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidDuration,
    },
    /// The attributes of `sticky cookie` cannot be a cookie.
    #[error("upstream {upstream}: sticky cookie is invalid")]
    Cookie {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidCookie,
    },
    /// The settings of a location cannot be a proxy.
    #[error("location cannot be a proxy")]
    Proxy(#[from] ProxyBuildError),
    /// The operating system has no random bytes for a secret.
    #[error("upstream {upstream}: no secret for its sessions")]
    Secret {
        /// The upstream's name.
        upstream: String,
        /// The reason.
        source: InvalidSecret,
    },
}
