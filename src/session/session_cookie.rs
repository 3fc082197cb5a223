use std::time::Duration;

use crate::clock::{InvalidDuration, at_least};
use crate::cookie::{self, InvalidCookie};

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
    /// The name that Kylin 5 uses, which is a digest of the metastore.
    MetastoreDigest,
}

/// How long a session of Kylin may be idle, according to its `web.xml`.
pub(super) const KYLIN_TTL: Duration = Duration::from_secs(480 * 60);

impl SessionCookie {
    /// Returns the cookie called `name`. Its sessions live for 480 minutes, as in Kylin's
    /// `web.xml`.
    ///
    /// # Errors
    /// [`InvalidCookie`] if no cookie can have that name.
    pub fn named(name: impl Into<String>) -> Result<Self, InvalidCookie> {
        Ok(SessionCookie { name: CookieName::Exact(cookie::named(name.into())?.into()), ttl: KYLIN_TTL })
    }

    /// Returns the cookie called `name` in upper or lower case, because nginx compares cookie names
    /// without case. Its sessions live for 480 minutes.
    ///
    /// # Errors
    /// [`InvalidCookie`] if no cookie can have that name.
    pub fn named_ignoring_case(name: impl Into<String>) -> Result<Self, InvalidCookie> {
        Ok(SessionCookie { name: CookieName::IgnoringCase(cookie::named(name.into())?.into()), ttl: KYLIN_TTL })
    }

    /// Returns the cookie of Kylin 5, whose name is a SHA-256 in hexadecimal digits
    /// (BootstrapServer.java). Its sessions live for 600 s (`spring.session.timeout`).
    pub fn kylin5() -> Self {
        SessionCookie { name: CookieName::MetastoreDigest, ttl: Duration::from_secs(600) }
    }

    /// Sets how long a session is remembered after it was last used. It should match the nodes' own
    /// session timeout.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `ttl` is below 1 s, the resolution of stores.
    pub fn ttl(mut self, ttl: Duration) -> Result<Self, InvalidDuration> {
        self.ttl = at_least(Duration::from_secs(1), ttl, "ttl")?;
        Ok(self)
    }

    /// Returns the cookies of all versions of Kylin.
    pub(super) fn of_kylin() -> Vec<Self> {
        vec![SessionCookie { name: CookieName::Exact("JSESSIONID".into()), ttl: KYLIN_TTL }, SessionCookie::kylin5()]
    }

    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        match &self.name {
            CookieName::Exact(own) => own.as_bytes() == name,
            CookieName::IgnoringCase(own) => own.as_bytes().eq_ignore_ascii_case(name),
            CookieName::MetastoreDigest => cookie::is_metastore_digest(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ReplicatedSessions;

    #[test]
    fn a_name_that_no_cookie_can_have_is_refused() {
        for name in ["", "a b", "a=b", "a;b", "ä"] {
            assert!(SessionCookie::named(name).is_err(), "{name}");
            assert!(SessionCookie::named_ignoring_case(name).is_err(), "{name}");
            assert!(ReplicatedSessions::new().node_cookie(name).is_err(), "{name}");
        }
        assert!(SessionCookie::named("KYLINID").is_ok_and(|cookie| cookie.is_called(b"KYLINID")));
    }
}
