//! Keeps a new session with its node for a grace time. Meant for nodes that replicate their
//! sessions.
//!
//! When a session begins, tomcat-redis-session-manager writes a placeholder. It writes the session
//! itself *after* the response was sent (RedisSessionHandlerValve.java:24-31). If the next request
//! comes quickly and goes to another node, it finds the placeholder: "attempted to load session
//! which has been created but not yet serialized", HTTP 500 (RedisSessionManager.java:388). So a
//! session stays with the node that began it for a grace time. If that write fails, the placeholder
//! never goes away, and its cookie is poisoned: every request with it fails at every node.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::cached::{Lookup, Sessions};
use super::hook::{AfterResponse, EndpointHint, MaybeReady, ResponseContext, SessionContext};
use super::store::latest::Latest;
use super::{Precondition, SessionKey, SessionRecord};
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, InvalidCookie, SetCookie};
use crate::endpoint::EndpointId;
use crate::request::RequestContext;

/// Settings for nodes that replicate their sessions: see
/// [`Affinity::replicated`](super::Affinity::replicated).
#[derive(Clone)]
#[must_use]
pub struct ReplicatedSessions {
    grace: Duration,
    heal: bool,
    sessions: Option<Sessions>,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl ReplicatedSessions {
    /// Returns the defaults: a grace time of 3 s, no healing, no shared store.
    pub fn new() -> Self {
        ReplicatedSessions {
            grace: Duration::from_secs(3),
            heal: false,
            sessions: None,
            names: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets how long a new session stays with the node that began it. Default: 3 s. The node writes
    /// the session within milliseconds, unless it is busy. With zero, no session stays with its
    /// node.
    ///
    /// A [shared store](Self::sessions) keeps times in seconds, so at another front end a new
    /// session stays with its node for at least 1 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets a store through which front ends share their knowledge of new sessions. Default:
    /// `None`; each front end then knows only the sessions that began through it.
    ///
    /// The store must not be the database in which the nodes keep their sessions: their session
    /// manager flushes that database.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Sets whether a request is sent again if it failed because its session was not written.
    /// Default: no, because another failure may have the same message.
    ///
    /// The request is sent again after 100 ms. If it fails again and has an `Authorization`, it is
    /// then sent without the cookie. The client's cookie is deleted. The node has executed nothing
    /// when it fails in this way.
    pub fn heal(mut self, heal: bool) -> Self {
        self.heal = heal;
        self
    }

    /// Adds a name of the nodes' session cookie, besides `JSESSIONID` and the 64 hexadecimal digits
    /// of Kylin 5.
    ///
    /// # Errors
    /// [`InvalidCookie`] if no cookie can have that name.
    pub fn node_cookie(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.names.push(cookie::named(name.into())?);
        Ok(self)
    }

    /// Sets the clock of the grace time. Default: the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn build(self) -> Replicated {
        Replicated {
            grace: self.grace,
            heal: self.heal,
            names: self.names,
            sessions: self.sessions,
            hasher: RandomState::new(),
            recent: Mutex::default(),
            clock: self.clock,
        }
    }
}

impl Default for ReplicatedSessions {
    fn default() -> Self {
        ReplicatedSessions::new()
    }
}

impl fmt::Debug for ReplicatedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicatedSessions")
            .field("grace", &self.grace)
            .field("heal", &self.heal)
            .finish_non_exhaustive()
    }
}

/// The strategy. It knows the endpoints at which recent sessions began.
pub(crate) struct Replicated {
    grace: Duration,
    heal: bool,
    names: Vec<String>,
    sessions: Option<Sessions>,
    /// Makes keys if front ends share no store.
    hasher: RandomState,
    /// The endpoint while the grace time lasts; `None` for an older session.
    recent: Mutex<Latest<SessionKey, (Option<EndpointId>, Instant)>>,
    clock: Arc<dyn Clock>,
}

/// The number of sessions that are remembered.
const RECENT_CAPACITY: usize = 50_000;
/// The maximum length of an error that is read, in bytes.
const MAX_ERROR: u64 = 64 * 1024;
/// The time that reading an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(1);
/// The time before a request is sent again. The session should be written by then.
const HEAL_DELAY: Duration = Duration::from_millis(100);

/// The state that the strategy keeps for a request.
#[derive(Default)]
pub(crate) struct ReplicatedSession {
    /// The name of the session cookie that the request carries.
    cookie: Option<Vec<u8>>,
    has_credentials: bool,
    healing: Healing,
}

/// The steps that were taken to heal a request.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Healing {
    #[default]
    None,
    Waited,
    CookieRemoved,
}

impl ReplicatedSession {
    /// Returns whether the request carries a session cookie.
    pub(super) fn has_cookie(&self) -> bool {
        self.cookie.is_some()
    }
}

impl Replicated {
    pub(super) fn begin(
        &self,
        request: &RequestContext,
        fallback: EndpointHint,
    ) -> MaybeReady<'_, SessionContext<ReplicatedSession>> {
        let mut state =
            ReplicatedSession { has_credentials: request.has_authorization(), ..ReplicatedSession::default() };
        let Some((name, id)) = request.cookies().find(|(name, _)| self.is_session(name)) else {
            return MaybeReady::Ready(SessionContext::new(fallback, state));
        };
        state.cookie = Some(name.to_vec());
        let key = self.key(id);
        if let Some((endpoint, since)) = self.recent.lock().get(&key) {
            let is_new = self.clock.now().saturating_duration_since(*since) < self.grace;
            let endpoint = endpoint.clone().filter(|_| is_new);
            return MaybeReady::Ready(SessionContext::new(endpoint.map_or(fallback, EndpointHint::Id), state));
        }
        let Some(sessions) = &self.sessions else { return MaybeReady::Ready(SessionContext::new(fallback, state)) };
        // The session may have begun at another front end.
        let lookup = sessions.find(request.client(), key, id, None);
        MaybeReady::boxed(async move {
            let endpoint = match lookup.await {
                Lookup::Found(record, _) | Lookup::UnderOldKey(record) => record.endpoint().cloned(),
                Lookup::Absent => None,
                Lookup::Unknown => return SessionContext::new(fallback, state),
            };
            self.recent.lock().put(key, (endpoint.clone(), self.clock.now()), RECENT_CAPACITY);
            SessionContext::new(endpoint.map_or(fallback, EndpointHint::Id), state)
        })
    }

    pub(super) fn may_send_again(&self, state: &ReplicatedSession) -> bool {
        self.heal && state.cookie.is_some() && state.healing != Healing::CookieRemoved
    }

    pub(super) fn changes_request(&self, state: &ReplicatedSession) -> bool {
        state.healing == Healing::CookieRemoved
    }

    /// Removes a poisoned cookie from the request.
    pub(super) fn prepare(&self, state: &ReplicatedSession, request: &mut Request<Body>) {
        if self.changes_request(state)
            && let Some(poisoned) = &state.cookie
        {
            cookie::retain(request.headers_mut(), |name, _| name != poisoned.as_slice());
        }
    }

    pub(super) fn settle<'a>(
        &'a self,
        state: &'a mut ReplicatedSession,
        context: &ResponseContext<'_>,
        response: &'a mut Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        if self.heal && state.cookie.is_some() && may_be_a_race(response) {
            return MaybeReady::boxed(self.heal(state, response));
        }
        self.delete_cookie(state, response);
        let Some(key) = self.session_begun(response.headers()) else {
            return MaybeReady::Ready(AfterResponse::Return);
        };
        let endpoint = context.endpoint.clone();
        self.recent.lock().put(key, (Some(endpoint.clone()), self.clock.now()), RECENT_CAPACITY);
        let Some(sessions) = &self.sessions else { return MaybeReady::Ready(AfterResponse::Return) };
        let ttl = self.grace.max(Duration::from_secs(1));
        sessions
            .save(context.request.client(), key, SessionRecord::bound(endpoint), Precondition::Absent, ttl)
            .map(|_| AfterResponse::Return)
    }

    /// Reads the error. If the race caused it, takes the next step to heal the request; otherwise
    /// the client gets the response.
    async fn heal(&self, state: &mut ReplicatedSession, response: &mut Response<Body>) -> AfterResponse {
        let body = std::mem::take(response.body_mut());
        let Ok(Ok(read)) = timeout(ERROR_TIMEOUT, body.collect_up_to(MAX_ERROR)).await else {
            // The body of the error was truncated, so the client gets only the status.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            return AfterResponse::Return;
        };
        const MESSAGE: &[u8] = b"created but not yet serialized";
        let is_race = read.windows(MESSAGE.len()).any(|part| part == MESSAGE);
        *response.body_mut() = Body::from(read);
        if !is_race {
            return AfterResponse::Return;
        }
        match state.healing {
            Healing::None => {
                state.healing = Healing::Waited;
                tokio::time::sleep(HEAL_DELAY).await;
                AfterResponse::SendAgain
            }
            Healing::Waited if state.has_credentials => {
                tracing::debug!("removed the cookie of a session that its node did not write");
                state.healing = Healing::CookieRemoved;
                AfterResponse::SendAgain
            }
            Healing::Waited | Healing::CookieRemoved => {
                state.healing = Healing::CookieRemoved;
                self.delete_cookie(state, response);
                AfterResponse::Return
            }
        }
    }

    /// Deletes a poisoned cookie at the client, unless the response sets another one.
    fn delete_cookie(&self, state: &ReplicatedSession, response: &mut Response<Body>) {
        let (Healing::CookieRemoved, Some(name)) = (state.healing, &state.cookie) else { return };
        if self.session_begun(response.headers()).is_some() {
            return;
        }
        // Tomcat 7 and 8.5 write different paths, and a browser deletes a cookie only by its own
        // path.
        for path in ["/kylin", "/kylin/"] {
            let line = [name, format!("=; Path={path}; Max-Age=0; HttpOnly").as_bytes()].concat();
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                response.headers_mut().append(header::SET_COOKIE, line);
            }
        }
    }

    /// Returns the session that a response begins.
    fn session_begun(&self, headers: &HeaderMap) -> Option<SessionKey> {
        let cookies = headers.get_all(header::SET_COOKIE).iter().filter_map(SetCookie::parse);
        // The last cookie counts, as in a browser.
        let session = cookies
            .filter(|cookie| self.is_session(cookie.name))
            .filter(|cookie| !cookie.deletes(self.clock.unix()))
            .last()?;
        Some(self.key(session.value))
    }

    fn is_session(&self, name: &[u8]) -> bool {
        cookie::is_kylin_session(name) || self.names.iter().any(|known| known.as_bytes() == name)
    }

    fn key(&self, id: &[u8]) -> SessionKey {
        match &self.sessions {
            Some(sessions) => sessions.key(id),
            None => {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&self.hasher.hash_one((0, id)).to_be_bytes());
                key[8..].copy_from_slice(&self.hasher.hash_one((1, id)).to_be_bytes());
                SessionKey::from_bytes(key)
            }
        }
    }
}

/// Returns whether the race may have caused the response: a short page that Tomcat generates for an
/// exception. Kylin's own errors are JSON.
fn may_be_a_race(response: &Response<Body>) -> bool {
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/"));
    let is_plain = !response.headers().contains_key(header::CONTENT_ENCODING);
    let is_short = response.body().size_hint().exact().is_some_and(|length| length <= MAX_ERROR);
    response.status() == StatusCode::INTERNAL_SERVER_ERROR && is_page && is_plain && is_short
}
