use std::time::Duration;

use crate::clock::{InvalidDuration, at_least};
use crate::cookie;

/// A cookie of the nodes that holds a session id.
#[derive(Debug, Clone)]
pub struct SessionCookie {
    name: CookieName,
    pub(super) ttl: Duration,
}

#[derive(Debug, Clone)]
enum CookieName {
    Exact(Box<str>),
    IgnoringCase(Box<str>),
    /// The name of Kylin 5, which is a digest of the metastore.
    MetastoreDigest,
}

/// The time for which a session of Kylin may be idle, by its `web.xml`.
pub(super) const KYLIN_TTL: Duration = Duration::from_secs(480 * 60);

impl SessionCookie {
    /// Returns the cookie called `name`. Its sessions live for 480 minutes, as in Kylin's `web.xml`.
    pub fn named(name: impl Into<String>) -> Self {
        SessionCookie { name: CookieName::Exact(name.into().into_boxed_str()), ttl: KYLIN_TTL }
    }

    /// Returns the cookie called `name` in upper or lower case, as nginx compares the names of cookies. Its sessions live for
    /// 480 minutes.
    pub fn named_ignoring_case(name: impl Into<String>) -> Self {
        SessionCookie { name: CookieName::IgnoringCase(name.into().into_boxed_str()), ttl: KYLIN_TTL }
    }

    /// Returns the cookie of Kylin 5, whose name is a SHA-256 in hexadecimal digits (BootstrapServer.java). Its sessions live for
    /// 600 s (`spring.session.timeout`).
    pub fn kylin5() -> Self {
        SessionCookie { name: CookieName::MetastoreDigest, ttl: Duration::from_secs(600) }
    }

    /// Sets how long a session is remembered after it was last used: as long as the nodes remember it.
    ///
    /// # Errors
    /// [`InvalidDuration`] below 1 s, the resolution of stores.
    pub fn ttl(mut self, ttl: Duration) -> Result<Self, InvalidDuration> {
        self.ttl = at_least(Duration::from_secs(1), ttl, "ttl")?;
        Ok(self)
    }

    /// Returns the cookies of all versions of Kylin.
    pub(super) fn of_kylin() -> Vec<Self> {
        vec![SessionCookie::named("JSESSIONID"), SessionCookie::kylin5()]
    }

    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        match &self.name {
            CookieName::Exact(own) => own.as_bytes() == name,
            CookieName::IgnoringCase(own) => own.as_bytes().eq_ignore_ascii_case(name),
            CookieName::MetastoreDigest => cookie::is_metastore_digest(name),
        }
    }
}
