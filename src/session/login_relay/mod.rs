//! Sessions that the front end shares among nodes which know nothing of each other.
//!
//! The client gets a cookie of the front end's own. Under it the front end keeps the client's login, sealed, and the cookie that each
//! node has given; a node that does not know the session yet is logged into before, or when it says 401. So any node
//! serves any request, and a node that is gone takes nothing along.
//!
//! - [`id`], [`seal`], [`record`], [`keep`]: what a session is, and how it is kept
//! - [`cookie`], [`paths`]: what is read in requests and answers
//! - [`login`], [`flight`], [`enter`]: getting into a node, once
//! - [`visit`], [`offer`]: the hooks of a request

mod builder;
mod cookie;
mod enter;
mod flight;
mod id;
mod keep;
mod login;
mod offer;
mod paths;
mod record;
mod seal;
mod visit;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use builder::{CookieIssue, LoginRelay};
pub(crate) use visit::Visit;

use self::cookie::Cookies;
use self::flight::Flights;
use self::keep::Keep;
use self::offer::Reuse;

/// The sessions of one front end.
pub(crate) struct Sharing {
    cookies: Cookies,
    keep: Keep,
    flights: Arc<Flights>,
    reuse: Reuse,
    hand_out: CookieIssue,
    login_timeout: Duration,
    logout_timeout: Duration,
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing")
            .field("cookie", &self.cookies.own.name())
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}
