use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Sharing;
use super::cookie::Cookies;
use super::flight::Flights;
use super::keep::Keep;
use super::offer::Reuse;
use super::seal::Sealer;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{Attributes, InvalidCookie, SameSite, is_name};
use crate::session::{Secret, Sessions};

/// Sessions that the front end shares among nodes, for [`Affinity::login_relay`](super::super::Affinity::login_relay): where they are kept, under
/// which secret, and how.
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
#[derive(Clone)]
#[must_use]
pub struct LoginRelay {
    keep: Keep,
    own: Attributes,
    of_nodes: Vec<String>,
    hand_out: CookieIssue,
    reuse: Duration,
    login_timeout: Duration,
    logout_timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// When a client gets a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CookieIssue {
    /// When it asks to be logged in, or keeps cookies already. Clients that never send a cookie back leave nothing behind.
    #[default]
    AtLogin,
    /// With any request whose credentials a node has checked. For clients that never ask to be logged in and do keep
    /// cookies; each request of a client that does not leaves a session in the store until it expires.
    WithCredentials,
}

impl LoginRelay {
    /// Sessions in `sessions`, sealed under `secret`. All front ends of one address need the same of both. When the secret is
    /// replaced, the old one is to stay for a while as a [previous one](Secret::with_previous).
    pub fn new(sessions: Sessions, secret: Secret) -> Self {
        LoginRelay {
            keep: Keep { sessions, sealer: Sealer::new(&secret), ttl: Duration::from_secs(8 * 3600) },
            own: Attributes::new("KYLINLB_SESSION", "/kylin"),
            of_nodes: Vec::new(),
            hand_out: CookieIssue::AtLogin,
            reuse: Duration::from_secs(300),
            login_timeout: Duration::from_secs(10),
            logout_timeout: Duration::from_secs(2),
            clock: Arc::new(SystemClock),
        }
    }

    /// The name of the front end's cookie. Default `KYLINLB_SESSION`.
    ///
    /// # Errors
    /// [`InvalidCookie`] when `name` is empty, has characters that a name cannot have (RFC 6265, 4.1.1), or is that of a node's
    /// session cookie.
    pub fn name(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        let name = name.into();
        if self.cookies().is_nodes(name.as_bytes()) {
            return Err(InvalidCookie::new(name, "name"));
        }
        self.own.set_name(name)?;
        Ok(self)
    }

    /// Below which path browsers send it. Default `/kylin`, below which Kylin has everything.
    ///
    /// # Errors
    /// [`InvalidCookie`] when `path` does not begin with `/` or has characters that end an attribute.
    pub fn path(mut self, path: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.own.set_path(path.into())?;
        Ok(self)
    }

    /// Whether browsers send it over TLS only. Default: no; say yes where clients reach the host over TLS.
    pub fn secure(mut self, secure: bool) -> Self {
        self.own.secure = secure;
        self
    }

    /// To which requests browsers add it; none leaves the attribute out. Default [`SameSite::Lax`], as Kylin 5.
    pub fn same_site(mut self, same_site: Option<SameSite>) -> Self {
        self.own.same_site = same_site;
        self
    }

    /// One more name of a node's session cookie. `JSESSIONID` and the 64 hexadecimal digits of Kylin 5 are known.
    ///
    /// # Errors
    /// [`InvalidCookie`] when it cannot be a name, or is that of the front end's cookie.
    pub fn node_cookie(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        let name = name.into();
        if !is_name(&name) || name == self.own.name() {
            return Err(InvalidCookie::new(name, "name"));
        }
        self.of_nodes.push(name);
        Ok(self)
    }

    /// For how long an unused session is kept. Default 8 h, Kylin's own `session-timeout` (web.xml). Less than a second is a second.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.keep.ttl = ttl.max(Duration::from_secs(1));
        self
    }

    /// When a client gets a session. Default [`CookieIssue::AtLogin`].
    pub fn hand_out(mut self, hand_out: CookieIssue) -> Self {
        self.hand_out = hand_out;
        self
    }

    /// For how long after a node has checked them the credentials of a client without cookies are spared another check, by using
    /// the node's session again. Default 300 s, for which Kylin itself caches checked passwords (2.4-2.6). Zero: not at all.
    pub fn reuse_for(mut self, within: Duration) -> Self {
        self.reuse = within;
        self
    }

    /// How long a node may take for a login. Default 10 s, since a directory may have to be asked.
    pub fn login_timeout(mut self, limit: Duration) -> Self {
        self.login_timeout = limit;
        self
    }

    /// How long a client that logs out waits for the nodes. Its session is over in any case. Default 2 s.
    pub fn logout_timeout(mut self, limit: Duration) -> Self {
        self.logout_timeout = limit;
        self
    }

    /// Sets where time comes from.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn build(self) -> Sharing {
        Sharing {
            cookies: self.cookies(),
            keep: self.keep,
            flights: Arc::new(Flights::default()),
            reuse: Reuse::new(self.reuse, self.clock),
            hand_out: self.hand_out,
            login_timeout: self.login_timeout,
            logout_timeout: self.logout_timeout,
        }
    }

    fn cookies(&self) -> Cookies {
        Cookies { own: self.own.clone(), of_nodes: self.of_nodes.clone(), clock: Arc::clone(&self.clock) }
    }
}

impl fmt::Debug for LoginRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRelay")
            .field("sessions", &self.keep.sessions)
            .field("cookie", &self.own.name())
            .field("ttl", &self.keep.ttl)
            .finish_non_exhaustive()
    }
}
