//! The login relay: the front end keeps a client's login and repeats it at every node.
//!
//! The nodes of a cluster do not share their sessions. The client gets a cookie of the front end
//! instead. Under the id in it, the front end keeps the client's credentials and the session cookie
//! of each node, both sealed. If a node does not know the session, the front end logs in there:
//! before it sends the request, or after a 401. Any node can therefore serve any request, and no
//! login is lost with a node.
//!
//! | modules | content |
//! |---|---|
//! | [`session_id`], [`credentials`], [`record`], [`seal`], [`sealed_sessions`], [`opened`] | what a session is, and how it is stored |
//! | [`cookies`] | the cookies of requests and responses |
//! | [`logins`] | logging in at a node, once, and rarely while logins fail |
//! | [`request`], [`client_login`], [`unauthorized`] | the steps of one request |

mod builder;
mod client_login;
mod cookies;
mod credentials;
mod logins;
mod opened;
mod record;
mod request;
mod seal;
mod sealed_sessions;
mod session_id;
mod unauthorized;

#[cfg(fuzzing)]
pub(crate) use record::fuzz;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use builder::LoginRelay;
pub use client_login::CookieIssue;
pub(crate) use request::RelayRequest;

use self::client_login::NodeSessionCache;
use self::cookies::RelayCookies;
use self::logins::{LoginBackoff, SingleFlight};
use self::sealed_sessions::SealedSessions;

/// The login relay of a running front end.
pub(crate) struct Relay {
    cookies: RelayCookies,
    sessions: SealedSessions,
    logins: Arc<SingleFlight>,
    backoff: LoginBackoff,
    /// The cache of node sessions; `None` if sessions of clients without cookies are not reused.
    node_sessions: Option<NodeSessionCache>,
    cookie_issue: CookieIssue,
    login_timeout: Duration,
    logout_timeout: Duration,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Relay");
        debug.field("cookie", &self.cookies.own.name()).field("sessions", &self.sessions).finish_non_exhaustive()
    }
}
