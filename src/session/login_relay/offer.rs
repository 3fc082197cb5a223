//! Credentials that a client sends itself: a login, or what clients without cookies send with every request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use parking_lot::Mutex;

use super::CookieIssue;
use super::Sharing;
use super::cookie::Given;
use super::keep::Lookup;
use super::paths::Kind;
use super::record::{Login, NodeCookie, Shared};
use super::visit::Visit;
use crate::body::Body;
use crate::clock::Clock;
use crate::endpoint::EndpointId;
use crate::session::SessionKey;
use crate::session::hook::ResponseContext;
use crate::session::store::latest::Latest;

impl Sharing {
    /// A node has answered to credentials that the client sent.
    pub(super) async fn after_offer(
        self: &Arc<Self>,
        visit: &mut Visit,
        served: &ResponseContext<'_>,
        given: &Given,
        answer: &mut Response<Body>,
    ) {
        let Some(login) = visit.offered.take() else { return };
        let fingerprint = self.keep.fingerprint(&login);
        let is_known = visit.known.as_ref().is_some_and(|known| *known.session.login() == login);
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.reuse.forget(fingerprint, served.endpoint);
            // A wrong password ends nothing, unless the session has the same.
            if is_known && let Some(known) = &visit.known {
                self.refuse(known).await;
                visit.end();
            }
            return;
        }
        if !is_accepted(visit.kind, given, answer) {
            return;
        }
        let was_refused = self.flights.accept(&fingerprint);
        if was_refused || visit.kind != Kind::Other {
            self.keep.remove(&fingerprint).await;
        }
        if visit.is_cookieless() && self.hand_out == CookieIssue::AtLogin {
            if let Some(cookie) = &given.cookie {
                self.reuse.put(fingerprint, served.endpoint, cookie.clone());
            }
            return;
        }
        if is_known
            && let Some(known) = &mut visit.known
            && self.renew(known, served.endpoint, given.cookie.clone()).await
        {
            return;
        }
        self.establish(visit, served, login, given.cookie.clone(), answer).await;
    }

    /// The user of the session has logged in once more. False when the session is gone.
    async fn renew(&self, known: &mut Lookup, endpoint: &EndpointId, cookie: Option<NodeCookie>) -> bool {
        let changed = self.keep.change(known, |session| {
            session.set(endpoint, cookie.clone());
            true
        });
        changed.await
    }

    /// A session begins, under a new id: one that was planted before the login is worth nothing after it.
    async fn establish(
        self: &Arc<Self>,
        visit: &mut Visit,
        served: &ResponseContext<'_>,
        login: Login,
        cookie: Option<NodeCookie>,
        answer: &mut Response<Body>,
    ) {
        let mut session = Shared::new(login);
        session.set(served.endpoint, cookie);
        let field = match self.keep.create(&session).await {
            Some(known) => self.cookies.hand_out(&known.id),
            None => None,
        };
        let Some(field) = field else {
            tracing::warn!("a login could not be kept: the client will be asked for it again");
            return;
        };
        answer.headers_mut().append(header::SET_COOKIE, field);
        visit.ended = false;
        if let Some(old) = visit.known.take() {
            self.keep.remove(&old.key).await;
            self.log_out(&old, None, served.nodes, &visit.origin, None).await;
        }
    }
}

/// Has the node checked the credentials, and found them right?
fn is_accepted(kind: Kind, given: &Given, answer: &Response<Body>) -> bool {
    let status = answer.status();
    match kind {
        Kind::Login => status.is_success(),
        // Failed logins of forms are redirected as well (Spring's SimpleUrlAuthenticationFailureHandler).
        Kind::Form => {
            let location = answer.headers().get(header::LOCATION).map_or(&b""[..], HeaderValue::as_bytes);
            let failed = location.windows(5).any(|part| part == b"error");
            given.cookie.is_some() && (status.is_success() || status.is_redirection()) && !failed
        }
        _ => given.cookie.is_some() && !status.is_server_error() && status != StatusCode::BAD_REQUEST,
    }
}

/// Sessions at nodes of clients that send their credentials with every request and keep no cookies. A node makes a session for
/// each such request, to last eight hours, and may ask a directory for the password every time; with a cookie of the same user
/// it does neither. Only who sends the very same credentials gets the cookie.
pub(super) struct Reuse {
    known: Mutex<Latest<(SessionKey, EndpointId), (NodeCookie, Instant)>>,
    /// For how long after the password was checked.
    pub(super) within: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

/// How many are remembered.
const REUSED: usize = 10_000;

impl Reuse {
    pub(super) fn new(within: Duration, clock: Arc<dyn Clock>) -> Self {
        Reuse { known: Mutex::default(), within, clock }
    }

    pub(super) fn find(&self, fingerprint: SessionKey, endpoint: &EndpointId) -> Option<NodeCookie> {
        if self.within.is_zero() {
            return None;
        }
        let known = self.known.lock();
        let (cookie, since) = known.get(&(fingerprint, endpoint.clone()))?;
        let age = self.clock.now().saturating_duration_since(*since);
        (age < self.within).then(|| cookie.clone())
    }

    fn put(&self, fingerprint: SessionKey, endpoint: &EndpointId, cookie: NodeCookie) {
        if !self.within.is_zero() {
            self.known.lock().put((fingerprint, endpoint.clone()), (cookie, self.clock.now()), REUSED);
        }
    }

    fn forget(&self, fingerprint: SessionKey, endpoint: &EndpointId) {
        self.known.lock().remove(&(fingerprint, endpoint.clone()));
    }
}
