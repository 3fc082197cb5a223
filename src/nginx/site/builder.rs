use std::sync::Arc;

use super::affinity::Shared;
use super::{Site, SiteError, build};
use crate::nginx::config::Config;
use crate::session::{Secret, Sessions};

/// Collects what a [`Site`] is made of. Only `sticky` asks for more than the configuration.
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
/// // From where only the front ends can read it, and the same for all of them.
/// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
/// let site = Site::builder(config).secret(secret).build()?;
/// # let _ = site;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct SiteBuilder {
    config: Config,
    shared: Shared,
}

impl SiteBuilder {
    pub(super) fn new(config: Config) -> Self {
        SiteBuilder { config, shared: Shared::default() }
    }

    /// What the cookies of `sticky cookie` are signed with. Front ends of one address need the same. Default: random bytes, so
    /// that a cookie is worth nothing to another process or after a restart; its client then goes where the policy has it.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.shared.secret = Some(secret);
        self
    }

    /// Where every `sticky learn` keeps its sessions: in a store that front ends share, for one. Default: in memory, of the
    /// size that `zone=` says; then `sync` is refused.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.shared.sessions = Some(sessions);
        self
    }

    /// Makes clusters and proxies, as [`Site::new`] does.
    ///
    /// # Errors
    /// [`SiteError`] names the upstream and the server.
    pub fn build(self) -> Result<Site, SiteError> {
        build::site(self.config, self.shared).map(|inner| Site { inner: Arc::new(inner) })
    }
}
