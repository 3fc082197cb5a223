use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Relay;
use super::client_login::{CookieIssue, NodeSessionCache};
use super::cookies::RelayCookies;
use super::logins::LoginBackoff;
use super::seal::Sealer;
use super::sealed_sessions::SealedSessions;
use crate::clock::{Clock, InvalidDuration, SystemClock, at_least};
use crate::cookie::{self, Attributes, InvalidCookie, SameSite};
use crate::session::{Secret, Sessions};

/// Settings of [`Affinity::login_relay`](crate::session::Affinity::login_relay).
///
/// # What an attacker gains
///
/// | access to | gains |
/// |---|---|
/// | the store | the number of sessions and when they are used, but no credentials |
/// | the store and the secret | no credentials either: the key of each seal depends on the secret and on the client's cookie, which is not stored |
/// | a client's cookie | this session until it is logged out or expires, but not the password |
/// | a client's cookie, the store and the secret | this client's password |
/// | the memory of a running front end | the credentials that it sends at that moment, and the nodes' cookies of recent sessions |
///
/// For each session the store holds, under a keyed hash of the cookie, the client's credentials and
/// the session cookie of each node. They are sealed with XChaCha20-Poly1305, padded, and bound to
/// that session.
///
/// # What a client sees
///
/// - A client logs in as at Kylin itself: `POST /kylin/api/user/authentication` with Basic
///   credentials, or the login form. The response sets the front end's cookie instead of the
///   node's.
/// - If the credentials are wrong, the client gets the node's 401.
/// - If a node refuses a login that the front end sends for the client, the session ends and the
///   client gets 401. No front end uses these credentials again, at any node, until a client has
///   logged in with them. See [while logins fail](#while-logins-fail) for the refusals that count.
/// - A client that logs in with other credentials gets a new session. The old one ends at all
///   nodes.
/// - A logout ends the session in the store, then at every node.
/// - A client that sends credentials with every request and keeps no cookies (kylinpy, ODBC) gets
///   no cookie, and nothing is stored for it. Requests with the same credentials reuse its sessions
///   at the nodes for a [while](Self::reuse_for).
/// - Requests with credentials other than Basic pass through unchanged.
///
/// # While logins fail
///
/// A login may fail although the password is right: LDAP is unreachable, or the user is locked.
///
/// | response to a login | means |
/// |---|---|
/// | 401 in JSON (Kylin 5) | the password is wrong |
/// | another 401 (2.x-4.x), 403 | the password is wrong, or LDAP is unreachable |
/// | 400, KE-010021006 | no node can check the password |
/// | 500, none in time | this node cannot check the password |
/// | none, because the connection broke | the node stops, or has checked the password before |
/// | any other status, no connection | the node has not processed the login; no delay follows |
///
/// After a login that failed, the credentials are not sent again for 30 s, by any session. Requests
/// of the session go to the nodes where it is logged in. If there is none, the client gets 503 and
/// its session stays. A node that restarts breaks one login, so only a second broken login in a row
/// causes a delay.
///
/// A password that may be wrong is sent after 0 s, 30 s, 2, 8 and 32 minutes, then once an hour. So
/// LDAP does not lock the user. The password counts as wrong once a second node has refused it
/// after the delay. If there is no other node, the same one decides after 60 s. A session that a
/// node still knows then stays at that node, as it does in Kylin itself. Any other session with
/// these credentials ends.
///
/// Front ends share refusals through their store. Together they repeat a failed login at most once
/// in 30 s, because each first claims it with a record in the store. While the store is
/// unavailable, a front end repeats failed logins only if no other can have its sessions
/// ([`RestoreAfterLoss::Alone`](crate::session::RestoreAfterLoss::Alone)). A session then waits at
/// the nodes that know it, and a user can always log in. The first login at a node needs no claim.
/// A login that a node accepts ends the delay at all front ends.
#[derive(Clone)]
#[must_use]
pub struct LoginRelay {
    sessions: SealedSessions,
    cookie: Attributes,
    node_cookies: Vec<String>,
    cookie_issue: CookieIssue,
    reuse_for: Option<Duration>,
    login_timeout: Duration,
    logout_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl LoginRelay {
    /// Creates a login relay that keeps its sessions in `sessions`, sealed with `secret`.
    ///
    /// All front ends of one cluster need the same store and secret. A replaced secret should stay
    /// as a [previous one](Secret::with_previous) for as long as sessions last.
    pub fn new(sessions: Sessions, secret: Secret) -> Self {
        sessions.note_relay(&secret);
        LoginRelay {
            sessions: SealedSessions::new(sessions, Sealer::new(&secret)),
            cookie: Attributes::new("KYLINLB_SESSION", "/kylin"),
            node_cookies: Vec::new(),
            cookie_issue: CookieIssue::AtLogin,
            reuse_for: Some(Duration::from_secs(300)),
            login_timeout: Duration::from_secs(10),
            logout_timeout: Duration::from_secs(2),
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the name of the front end's cookie. Default: `KYLINLB_SESSION`.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `name` is not the name of a cookie (RFC 6265, 4.1.1), or is the name of
    /// a node's session cookie.
    pub fn name(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        let name = name.into();
        if self.cookies().is_node_session(name.as_bytes()) {
            return Err(InvalidCookie::new(name, "name"));
        }
        self.cookie.set_name(name)?;
        Ok(self)
    }

    /// Sets the path below which browsers send the cookie. Default: `/kylin`.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `path` does not begin with `/` or cannot be the value of an attribute.
    pub fn path(mut self, path: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.cookie.set_path(path.into())?;
        Ok(self)
    }

    /// Sets whether browsers send the cookie over TLS only. Default: false. Enable it if clients
    /// reach the front end over TLS.
    pub fn secure(mut self, secure: bool) -> Self {
        self.cookie.secure = secure;
        self
    }

    /// Sets the `SameSite` attribute. `None` leaves it out. Default: [`SameSite::Lax`], as Kylin 5.
    pub fn same_site(mut self, same_site: Option<SameSite>) -> Self {
        self.cookie.same_site = same_site;
        self
    }

    /// Adds a name of a node's session cookie. `JSESSIONID` and the 64 hexadecimal digits of Kylin
    /// 5 are built in.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `name` is not the name of a cookie, or is the name of the front end's
    /// cookie.
    pub fn node_cookie(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        let name = cookie::named(name.into())?;
        if name == self.cookie.name() {
            return Err(InvalidCookie::new(name, "name"));
        }
        self.node_cookies.push(name);
        Ok(self)
    }

    /// Sets for how long an unused session is kept. Default: 8 h, Kylin's `session-timeout`
    /// (web.xml).
    ///
    /// # Errors
    /// [`InvalidDuration`] if `ttl` is below 1 s.
    pub fn ttl(mut self, ttl: Duration) -> Result<Self, InvalidDuration> {
        self.sessions.ttl = at_least(Duration::from_secs(1), ttl, "ttl")?;
        Ok(self)
    }

    /// Sets when a client gets a session. Default: [`CookieIssue::AtLogin`].
    pub fn cookie_issue(mut self, cookie_issue: CookieIssue) -> Self {
        self.cookie_issue = cookie_issue;
        self
    }

    /// Sets for how long requests of a client without cookies reuse its session at a node. `None`
    /// disables the reuse, which saves further checks of the same credentials.
    ///
    /// Default: 300 s, as Kylin 2.4-2.6 itself caches checked passwords.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `duration` is below 1 ms.
    pub fn reuse_for(mut self, duration: Option<Duration>) -> Result<Self, InvalidDuration> {
        let check = |duration| at_least(Duration::from_millis(1), duration, "reuse_for");
        self.reuse_for = duration.map(check).transpose()?;
        Ok(self)
    }

    /// Sets the timeout of a login at a node. Default: 10 s, because Kylin may query a directory.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `timeout` is below 1 ms.
    pub fn login_timeout(mut self, timeout: Duration) -> Result<Self, InvalidDuration> {
        self.login_timeout = at_least(Duration::from_millis(1), timeout, "login timeout")?;
        Ok(self)
    }

    /// Sets how long a client that logs out waits for the nodes; zero means that it does not wait.
    /// The session ends in any case. Default: 2 s.
    pub fn logout_timeout(mut self, timeout: Duration) -> Self {
        self.logout_timeout = timeout;
        self
    }

    /// Sets the clock by which sessions, cookies and delays expire. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn build(self) -> Relay {
        Relay {
            cookies: self.cookies(),
            sessions: self.sessions,
            logins: Arc::default(),
            backoff: LoginBackoff::new(Arc::clone(&self.clock)),
            node_sessions: self.reuse_for.map(|duration| NodeSessionCache::new(duration, self.clock)),
            cookie_issue: self.cookie_issue,
            login_timeout: self.login_timeout,
            logout_timeout: self.logout_timeout,
        }
    }

    fn cookies(&self) -> RelayCookies {
        let (own, clock) = (self.cookie.clone(), Arc::clone(&self.clock));
        RelayCookies { own, node_cookies: self.node_cookies.clone(), clock }
    }
}

impl fmt::Debug for LoginRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LoginRelay");
        debug.field("cookie", &self.cookie.name()).field("sessions", &self.sessions).finish_non_exhaustive()
    }
}
