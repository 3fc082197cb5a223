use std::num::NonZeroUsize;

use http::HeaderValue;

use crate::basic_auth;
use crate::probe::InvalidProbe;

/// The rules for caching results of queries: see
/// [`ProxyBuilder::cache`](crate::proxy::ProxyBuilder::cache) and the guide on
/// [waiting](crate::docs::waiting#the-result-cache).
///
/// | setting | default |
/// |---|---|
/// | [`login`](Self::login) | none; a proxy cannot be built without one |
/// | [`max_bytes`](Self::max_bytes) | 64 MiB |
/// | [`across_users`](Self::across_users) | off |
///
/// ```
/// use kylin_lb::admission::CacheRules;
///
/// let rules = CacheRules::new().login("MONITOR", "password")?;
/// # Ok::<(), kylin_lb::probe::InvalidProbe>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct CacheRules {
    /// Marked as sensitive, so that no `Debug` shows it.
    pub(crate) authorization: Option<HeaderValue>,
    max_bytes: MaxBytes,
    across_users: bool,
}

/// The maximum bytes of all entries.
#[derive(Debug, Clone, Copy)]
struct MaxBytes(NonZeroUsize);

impl Default for MaxBytes {
    fn default() -> Self {
        MaxBytes(NonZeroUsize::new(64 << 20).expect("not zero"))
    }
}

impl CacheRules {
    /// Returns the default rules, which still need a [login](Self::login).
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets HTTP Basic credentials. Every 10 s the front end uses them to ask a node for the last
    /// job of each project whose results it caches. The user must be allowed to see the jobs of
    /// these projects.
    ///
    /// A login that a node rejects is not sent again for ten minutes, because Kylin 5 locks a user
    /// after three wrong passwords. Nothing is cached meanwhile, and
    /// [`CacheStatus::error`](crate::observe::CacheStatus::error) says why.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] if the user's name contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        self.authorization = Some(basic_auth::authorization(user, password).ok_or(InvalidProbe::User)?);
        Ok(self)
    }

    /// Sets the maximum total size of all entries, in bytes. Default: 64 MiB. Entries also count
    /// against the [budget](crate::proxy::ProxyBuilder::buffers) of the proxy. The cache leaves at
    /// least half of that to others.
    pub fn max_bytes(mut self, bytes: NonZeroUsize) -> Self {
        self.max_bytes = MaxBytes(bytes);
        self
    }

    /// Sets whether a user may get the results of other users. Default: off.
    ///
    /// Enable it only if results do not depend on the user: all users may query the same projects,
    /// tables and columns, and there is no row-level security. The cache gives an entry to
    /// credentials for which a node has returned a result since the entry was stored. It does not
    /// check whether that user may see the rows.
    pub fn across_users(mut self, on: bool) -> Self {
        self.across_users = on;
        self
    }

    pub(super) fn bytes(&self) -> usize {
        self.max_bytes.0.get()
    }

    pub(super) fn is_across_users(&self) -> bool {
        self.across_users
    }
}
