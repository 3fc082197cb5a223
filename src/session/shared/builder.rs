use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Sharing;
use super::cookie::Cookies;
use super::flight::Flights;
use super::keep::Keep;
use super::offer::Reuse;
use super::seal::Sealer;
use super::touch::Touches;
use crate::clock::{Clock, SystemClock};
use crate::session::affinity::Affinity;
use crate::session::guarded::Guarded;
use crate::session::{Secret, SessionStore};

/// Collects how [`Affinity::shared`] goes about it.
///
/// # What is kept, and what a thief of it has
///
/// | who has | gets |
/// |---|---|
/// | the store | nothing: how many sessions there are, and when they are used |
/// | the store and the secret | no login either: the key of each seal is made of the secret and of the client's cookie, which is stored nowhere |
/// | a client's cookie | that client's session, until it is logged out or expires; never the password |
/// | a client's cookie, the store and the secret | that client's password |
/// | the memory of a running front end | the logins of the sessions that it serves at that moment |
///
/// In the store there is, per session and under a keyed hash of the cookie: the credentials that the client logged in with and
/// the session cookie of each node, sealed with XChaCha20-Poly1305, padded, bound to that very session.
///
/// # What clients see
///
/// - A client logs in as ever: `POST /kylin/api/user/authentication` with Basic credentials, or the login form. The answer
///   carries the front end's cookie instead of the node's.
/// - Wrong credentials are the client's business: its node's 401 is passed on. The front end itself tries a login once, and after
///   a refusal never again, at no node, for no session and, through the store, at no front end, until a client has logged in
///   with the same credentials. The session has ended then; the client gets 401 and is to log in anew.
/// - A client that logs in with other credentials gets a new session; the old one ends at all nodes.
/// - A logout ends the session in the store, then at every node.
/// - A client that sends credentials with every request and keeps no cookies (kylinpy, ODBC) gets none, and nothing is stored. Its
///   nodes' sessions are used again for [`reuse_for`](Self::reuse_for) by requests with the very same credentials.
/// - With credentials other than Basic the front end keeps out of the matter.
#[must_use]
pub struct SharedSessions {
    store: Arc<dyn SessionStore>,
    secret: Secret,
    name: String,
    path: String,
    secure: bool,
    same_site: SameSite,
    of_nodes: Vec<String>,
    ttl: Duration,
    hand_out: HandOut,
    reuse: Duration,
    login_timeout: Duration,
    logout_timeout: Duration,
    store_deadline: Duration,
    clock: Arc<dyn Clock>,
}

/// When a client gets a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HandOut {
    /// When it asks to be logged in, or keeps cookies already. Clients that never send a cookie back leave nothing behind.
    #[default]
    AtLogin,
    /// With any request whose credentials a node has checked. For clients that never ask to be logged in and do keep
    /// cookies; each request of a client that does not leaves a session in the store until it expires.
    WithCredentials,
}

/// Whether browsers send a cookie with requests that other sites cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SameSite {
    /// Never.
    Strict,
    /// With the opening of a page only.
    #[default]
    Lax,
    /// Always; browsers ask for `Secure` then.
    None,
}

impl SameSite {
    fn as_str(self) -> &'static str {
        match self {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        }
    }
}

impl SharedSessions {
    pub(crate) fn new(store: Arc<dyn SessionStore>, secret: Secret) -> Self {
        SharedSessions {
            store,
            secret,
            name: "KYLINLB_SESSION".into(),
            path: "/kylin".into(),
            secure: false,
            same_site: SameSite::Lax,
            of_nodes: Vec::new(),
            ttl: Duration::from_secs(8 * 3600),
            hand_out: HandOut::AtLogin,
            reuse: Duration::from_secs(300),
            login_timeout: Duration::from_secs(10),
            logout_timeout: Duration::from_secs(2),
            store_deadline: Duration::from_millis(50),
            clock: Arc::new(SystemClock),
        }
    }

    /// The name of the front end's cookie. Default: `KYLINLB_SESSION`.
    pub fn cookie(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The path of the front end's cookie. Default: `/kylin`, below which Kylin has everything.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Whether browsers are to send the cookie over TLS only. Default: no; yes is right wherever clients reach the front
    /// end over TLS.
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Whether browsers send the cookie with requests that other sites cause. Default: [`SameSite::Lax`], as Kylin 5. Browsers
    /// take [`SameSite::None`] only together with [`secure`](Self::secure).
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// One more name of a node's session cookie. `JSESSIONID` and the 64 hexadecimal digits of Kylin 5 are known.
    pub fn node_cookie(mut self, name: impl Into<String>) -> Self {
        self.of_nodes.push(name.into());
        self
    }

    /// For how long an unused session is kept. Default: 8 h, Kylin's own `session-timeout` (web.xml). Shorter than a second is a second.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.max(Duration::from_secs(1));
        self
    }

    /// When a client gets a session. Default: [`HandOut::AtLogin`].
    pub fn hand_out(mut self, hand_out: HandOut) -> Self {
        self.hand_out = hand_out;
        self
    }

    /// For how long after a node has checked them the credentials of a client without cookies are spared another check, by using
    /// the node's session again. Default: 300 s, for which Kylin itself caches checked passwords (2.4-2.6). Zero: not at all.
    pub fn reuse_for(mut self, within: Duration) -> Self {
        self.reuse = within;
        self
    }

    /// How long a node may take for a login. Default: 10 s, since a directory may have to be asked.
    pub fn login_timeout(mut self, limit: Duration) -> Self {
        self.login_timeout = limit;
        self
    }

    /// How long a client that logs out waits for the nodes. Its session is over in any case. Default: 2 s.
    pub fn logout_timeout(mut self, limit: Duration) -> Self {
        self.logout_timeout = limit;
        self
    }

    /// How long the store may take for an answer. Default: 50 ms.
    pub fn store_deadline(mut self, limit: Duration) -> Self {
        self.store_deadline = limit;
        self
    }

    /// Sets where time comes from. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds it, for [`ProxyBuilder::affinity`](crate::proxy::ProxyBuilder::affinity).
    ///
    /// # Errors
    /// [`InvalidShared`] when a name or the path cannot be part of a cookie, or the front end's cookie has the name of a node's.
    pub fn build(self) -> Result<Affinity, InvalidShared> {
        let taken = |name: &str| name == "JSESSIONID" || self.of_nodes.iter().any(|known| known == name);
        for name in self.of_nodes.iter().chain([&self.name]) {
            if !is_token(name) {
                return Err(InvalidShared::Name(shown(name)));
            }
        }
        if taken(&self.name) {
            return Err(InvalidShared::Taken(shown(&self.name)));
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
            return Err(InvalidShared::Path(shown(&self.path)));
        }
        let secure = if self.secure { "; Secure" } else { "" };
        let attributes = format!("; Path={}; HttpOnly{secure}; SameSite={}", self.path, self.same_site.as_str());
        let sharing = Sharing {
            cookies: Cookies { name: self.name, attributes, of_nodes: self.of_nodes },
            keep: Keep {
                store: Guarded::new(self.store, self.store_deadline),
                sealer: Sealer::new(&self.secret),
                ttl: self.ttl,
            },
            flights: Arc::new(Flights::default()),
            reuse: Reuse::new(self.reuse, Arc::clone(&self.clock)),
            touches: Touches::new(self.ttl),
            hand_out: self.hand_out,
            login_timeout: self.login_timeout,
            logout_timeout: self.logout_timeout,
            clock: self.clock,
        };
        Ok(Affinity::sharing(sharing))
    }
}

impl fmt::Debug for SharedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSessions")
            .field("store", &self.store)
            .field("cookie", &self.name)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Why sessions cannot be shared under such settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidShared {
    /// Not the name of a cookie (RFC 6265, 4.1.1).
    #[error("{0:?} is not the name of a cookie: expected letters, digits and signs such as _ and -")]
    Name(String),
    /// The name belongs to a node's cookie.
    #[error("{0:?} is a session cookie of the nodes: the front end's needs another name")]
    Taken(String),
    /// Not the path of a cookie.
    #[error("{0:?} is not the path of a cookie: expected a path that begins with a slash")]
    Path(String),
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// RFC 9110, 5.6.2. One of 64 hexadecimal digits is a node's.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
