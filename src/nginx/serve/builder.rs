use std::sync::Arc;

use super::affinity::Affinities;
use super::{Site, SiteError, SiteParts, clusters, routes};
use crate::nginx::config::Config;
use crate::session::{Secret, Sessions};

/// Builds a [`Site`] from a configuration, and from what `sticky` needs besides it.
///
/// ```
/// use kylin_lb::nginx::{Config, Site};
/// use kylin_lb::session::Secret;
///
/// let config = Config::parse(
///     "kylin.conf",
///     "upstream kylin { sticky cookie lb httponly; server 1.1.1.1:7070; server 1.1.1.2:7070; }
///      server { listen 8080; location / { proxy_pass http://kylin; } }",
/// )?;
/// // In production the secret comes from a file that only the front ends can read.
/// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
/// let site = Site::builder(config).secret(secret).build()?;
/// # let _ = site;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct SiteBuilder {
    config: Config,
    affinities: Affinities,
}

impl SiteBuilder {
    pub(super) fn new(config: Config) -> Self {
        SiteBuilder { config, affinities: Affinities::default() }
    }

    /// Sets the secret that signs the cookies of `sticky cookie`. Front ends of one cluster need
    /// the same secret.
    ///
    /// Default: random bytes. Another process, or this one after a restart, then ignores the cookie
    /// and picks a server by the method of the upstream.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.affinities.secret = Some(secret);
        self
    }

    /// Sets where every `sticky learn` keeps its sessions, for example in a store that front ends
    /// share.
    ///
    /// Default: in memory, of the size of `zone=`; `sync` is then an error.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.affinities.sessions = Some(sessions);
        self
    }

    /// Builds the clusters and proxies, as [`Site::new`] does.
    ///
    /// # Errors
    /// [`SiteError`] names the upstream and the server.
    pub fn build(self) -> Result<Site, SiteError> {
        let SiteBuilder { config, mut affinities } = self;
        let mut groups = Vec::new();
        for upstream in &config.upstreams {
            groups.push((clusters::build(upstream)?, affinities.build(upstream)?));
        }
        let routes = routes::build(&config, &groups)?;
        let clusters = groups.into_iter().map(|(cluster, _)| cluster).collect();
        Ok(Site { parts: Arc::new(SiteParts { config, clusters, routes }) })
    }
}
