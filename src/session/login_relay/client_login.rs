//! Credentials that a client sends itself: for a login, or with every request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header;
use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;

use super::Relay;
use super::cookies::NodeCookieChange;
use super::credentials::Credentials;
use super::logins::LoginOutcome;
use super::record::{NodeCookie, NodeCookies, RelayedSession};
use super::request::{ClientCredentials, RelayRequest};
use crate::body::Body;
use crate::clock::Clock;
use crate::endpoint::EndpointId;
use crate::kylin::class::SessionCall;
use crate::kylin::response::CredentialCheck;
use crate::session::SessionKey;
use crate::session::hook::ResponseContext;
use crate::session::store::latest::Latest;

/// The moment at which a client gets a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CookieIssue {
    /// When the client logs in, or sends credentials together with a cookie of the front end.
    /// Clients that keep no cookies then leave no sessions in the store.
    #[default]
    AtLogin,
    /// With any request whose credentials a node has accepted. This is for clients that keep
    /// cookies and never log in. Each request of a client that keeps no cookies leaves a session in
    /// the store until it expires.
    WithCredentials,
}

impl Relay {
    /// Returns whether the client gets a cookie with a response of a node that has these headers:
    /// one of the node, or one for a session that begins or has ended.
    pub(crate) fn gives_cookie(&self, relayed: &RelayRequest, headers: &HeaderMap) -> bool {
        let may_begin = || relayed.client_credentials.is_some() && !self.gives_no_session(relayed);
        relayed.has_ended() || self.cookies.pass_any(headers) || headers.contains_key(header::SET_COOKIE) && may_begin()
    }

    /// Removes the cookies that the client does not get from the headers of a response.
    pub(crate) fn hide_cookies(&self, headers: &mut HeaderMap) {
        self.cookies.take_from_response(headers);
    }

    fn gives_no_session(&self, relayed: &RelayRequest) -> bool {
        relayed.keeps_no_cookies() && self.cookie_issue == CookieIssue::AtLogin
    }

    /// Handles the response to a request with credentials of the client.
    pub(super) async fn after_credentials(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        served: &ResponseContext<'_>,
        change: NodeCookieChange,
        response: &mut Response<Body>,
    ) {
        let Some(client) = relayed.client_credentials.take() else { return };
        let ClientCredentials { credentials, fingerprint } = client;
        let gets_no_session = self.gives_no_session(relayed);
        let known = relayed.session.as_mut().filter(|known| known.fingerprint() == fingerprint);
        if response.status() == StatusCode::UNAUTHORIZED {
            if let Some(cache) = &self.node_sessions {
                cache.remove(fingerprint, served.endpoint);
            }
            // A wrong password can end the session only if the session has the same password.
            if let Some(known) = known {
                let check = CredentialCheck::of_unauthorized(response.headers());
                let outcome = self.after_refused_credentials(known, served.endpoint, served.nodes, check);
                if matches!(outcome.await, LoginOutcome::SessionGone) {
                    relayed.end_session();
                }
            }
            return;
        }
        if !change.is_login(relayed.call, response) {
            return;
        }
        let had_failed = self.backoff.accepted(&fingerprint);
        // A client without a session may send its credentials with every request, which costs no
        // lookup.
        let may_be_marked = relayed.call != SessionCall::Other || !gets_no_session;
        if had_failed || may_be_marked && !self.sessions.is_unmarked(&fingerprint).await {
            self.sessions.remove_marks(&fingerprint).await;
        }
        if gets_no_session {
            if let (Some(cookie), Some(cache)) = (change.set, &self.node_sessions) {
                cache.insert(fingerprint, served.endpoint, cookie);
            }
            return;
        }
        // A login with the credentials of the session renews it.
        if let Some(known) = known {
            let renewal = self.sessions.change(known, |cookies| {
                cookies.set(served.endpoint, change.set.clone());
                true
            });
            if renewal.await {
                return;
            }
        }
        self.start_session(relayed, served, credentials, change.set, response).await;
    }

    /// Starts a session with a new id. An id that an attacker planted before the login is
    /// worthless.
    async fn start_session(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        served: &ResponseContext<'_>,
        credentials: Credentials,
        cookie: Option<NodeCookie>,
        response: &mut Response<Body>,
    ) {
        let mut cookies = NodeCookies::default();
        cookies.set(served.endpoint, cookie);
        let session = RelayedSession { credentials, cookies };
        let created = self.sessions.create(served.request.client(), session).await;
        let Some(set_cookie) = created.and_then(|created| self.cookies.set(&created.id)) else {
            tracing::warn!("a login could not be stored; the client will have to log in again");
            return;
        };
        response.headers_mut().append(header::SET_COOKIE, set_cookie);
        relayed.is_ended = false;
        if let Some(old) = relayed.session.take() {
            self.sessions.end(&old.key).await;
            self.log_out(&old, None, served.nodes, &relayed.client_headers, None).await;
        }
    }
}

/// The node sessions of clients that send credentials with every request and keep no cookies.
///
/// A node makes a session of eight hours for each such request, and may query a directory for the
/// password each time. With a cookie of the same user it does neither. Only requests with
/// the same credentials get the cookie.
pub(super) struct NodeSessionCache {
    entries: Mutex<Latest<(SessionKey, EndpointId), (NodeCookie, Instant)>>,
    /// The maximum age of an entry since the password was checked.
    max_age: Duration,
    clock: Arc<dyn Clock>,
}

const NODE_SESSIONS_CAPACITY: usize = 10_000;

impl NodeSessionCache {
    pub(super) fn new(max_age: Duration, clock: Arc<dyn Clock>) -> Self {
        NodeSessionCache { entries: Mutex::default(), max_age, clock }
    }

    pub(super) fn get(&self, credentials: SessionKey, endpoint: &EndpointId) -> Option<NodeCookie> {
        let entries = self.entries.lock();
        let (cookie, since) = entries.get(&(credentials, endpoint.clone()))?;
        let age = self.clock.now().saturating_duration_since(*since);
        (age < self.max_age).then(|| cookie.clone())
    }

    fn insert(&self, credentials: SessionKey, endpoint: &EndpointId, cookie: NodeCookie) {
        let entry = (cookie, self.clock.now());
        _ = self.entries.lock().put((credentials, endpoint.clone()), entry, NODE_SESSIONS_CAPACITY);
    }

    fn remove(&self, credentials: SessionKey, endpoint: &EndpointId) {
        self.entries.lock().remove(&(credentials, endpoint.clone()));
    }
}
