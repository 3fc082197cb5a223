//! Sessions that the nodes share among themselves, by a session manager over Redis for one.
//!
//! No affinity is needed then but for a moment. tomcat-redis-session-manager writes a placeholder when a session begins, and the
//! session itself *after* the answer has been sent (RedisSessionHandlerValve.java:24-31). A fast next request that goes to
//! another node meets the placeholder: "attempted to load session which has been created but not yet serialized", HTTP 500
//! (RedisSessionManager.java:388). So a session stays with the node that began it for a grace time. When that write fails, the
//! placeholder stays for ever, and its cookie is poisoned: every request with it fails at every node.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::cached::{Lookup, Sessions};
use super::hook::{AfterResponse, EndpointHint, MaybeReady, ResponseContext, SessionContext};
use super::store::latest::Latest;
use super::{Precondition, SessionKey, SessionRecord};
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, SetCookie};
use crate::endpoint::EndpointId;

/// Sessions that the nodes share, for [`Affinity::replicated`](super::Affinity::replicated).
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
    /// The defaults: a grace of 3 s, no healing, nothing shared with other front ends.
    pub fn new() -> Self {
        ReplicatedSessions {
            grace: Duration::from_secs(3),
            heal: false,
            sessions: None,
            names: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// For how long a new session stays with the node that began it. Default: 3 s; the write that is waited for takes
    /// milliseconds, unless the node is busy.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Has other front ends know of new sessions, through a store that all of them share. It must not be the database in which
    /// the nodes keep their sessions: their manager empties it as a whole. Default: each front end knows of those that began
    /// through it.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Whether a request that fails because its session was never written is helped: it is sent once more after a moment, then
    /// without the cookie if it has an `Authorization` to do without; and the client's cookie is deleted. Nothing has been
    /// executed when a node fails so. Default: no, because another failure might have the same words.
    pub fn heal(mut self, heal: bool) -> Self {
        self.heal = heal;
        self
    }

    /// One more name of the nodes' session cookie. `JSESSIONID` and the 64 hexadecimal digits of Kylin 5 are known.
    pub fn node_cookie(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Sets where time comes from. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn build(self) -> Replicated {
        Replicated {
            within: self.grace,
            heal: self.heal,
            names: self.names,
            sessions: self.sessions,
            hasher: RandomState::new(),
            begun: Mutex::default(),
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

/// Where sessions of a moment ago began.
pub(crate) struct Replicated {
    within: Duration,
    heal: bool,
    names: Vec<String>,
    sessions: Option<Sessions>,
    /// Makes keys where no other front end has to know them.
    hasher: RandomState,
    /// With the endpoint as long as that matters; without, the session is an old one.
    begun: Mutex<Latest<SessionKey, (Option<EndpointId>, Instant)>>,
    clock: Arc<dyn Clock>,
}

/// How many sessions are remembered.
const REMEMBERED: usize = 50_000;
/// The longest answer of a failing node that is looked at.
const MAX_ERROR: u64 = 64 * 1024;
/// How long the node may take for it.
const ERROR_WITHIN: Duration = Duration::from_secs(1);
/// After which a session that is just being written should be there.
const MOMENT: Duration = Duration::from_millis(100);

/// What the tries of one request know of its session.
#[derive(Default)]
pub(crate) struct ReplicatedSession {
    /// The name of the cookie that it came with.
    cookie: Option<Vec<u8>>,
    has_credentials: bool,
    healing: Healing,
}

/// How far the healing of a request has come.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Healing {
    #[default]
    Unneeded,
    Waited,
    Stripped,
}

impl Replicated {
    /// Where the session began, if that was a moment ago.
    pub(crate) fn begin<'a>(
        &'a self,
        request: &'a mut Request<Body>,
        fallback: EndpointHint,
    ) -> MaybeReady<'a, SessionContext<ReplicatedSession>> {
        let mut graced = ReplicatedSession {
            has_credentials: request.headers().contains_key(header::AUTHORIZATION),
            ..ReplicatedSession::default()
        };
        let Some((name, value)) = self.session_of(request.headers()) else {
            return MaybeReady::Ready(SessionContext::new(fallback, graced));
        };
        graced.cookie = Some(name.to_vec());
        let key = self.key(value);
        if let Some((endpoint, since)) = self.begun.lock().get(&key) {
            let is_new = self.clock.now().saturating_duration_since(*since) < self.within;
            let home = endpoint.clone().filter(|_| is_new);
            return MaybeReady::Ready(SessionContext::new(home.map_or(fallback, EndpointHint::Id), graced));
        }
        let Some(sessions) = &self.sessions else { return MaybeReady::Ready(SessionContext::new(fallback, graced)) };
        // Seen here for the first time: another front end may have been there when it began.
        // A grace that is gone is over.
        let found = sessions.find(key, value, None);
        MaybeReady::Boxed(Box::pin(async move {
            let endpoint = match found.await {
                Lookup::Found(record, _) | Lookup::UnderOldKey(record) => record.endpoint().cloned(),
                Lookup::Absent => None,
                Lookup::Unknown => return SessionContext::new(fallback, graced),
            };
            self.begun.lock().put(key, (endpoint.clone(), self.clock.now()), REMEMBERED);
            SessionContext::new(endpoint.map_or(fallback, EndpointHint::Id), graced)
        }))
    }

    pub(crate) fn wants_copy(&self, graced: &ReplicatedSession) -> bool {
        self.heal && graced.cookie.is_some() && graced.healing != Healing::Stripped
    }

    /// Leaves a poisoned cookie out.
    pub(crate) fn prepare(&self, graced: &ReplicatedSession, request: &mut Request<Body>) {
        let (Healing::Stripped, Some(name)) = (graced.healing, &graced.cookie) else { return };
        cookie::retain(request.headers_mut(), |known, _| known != name.as_slice());
    }

    pub(crate) fn settle<'a>(
        &'a self,
        graced: &'a mut ReplicatedSession,
        served: &ResponseContext<'_>,
        answer: &'a mut Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        if self.heal && graced.cookie.is_some() && may_be_a_race(answer) {
            return MaybeReady::Boxed(Box::pin(self.look_into(graced, answer)));
        }
        self.take_back(graced, answer);
        let Some(key) = self.begun_by(answer.headers()) else { return MaybeReady::Ready(AfterResponse::Return) };
        let endpoint = served.endpoint.clone();
        self.begun.lock().put(key, (Some(endpoint.clone()), self.clock.now()), REMEMBERED);
        let Some(sessions) = &self.sessions else { return MaybeReady::Ready(AfterResponse::Return) };
        let ttl = self.within.max(Duration::from_secs(1));
        match sessions.save(key, SessionRecord::bound(endpoint), Precondition::Absent, ttl) {
            MaybeReady::Ready(_) => MaybeReady::Ready(AfterResponse::Return),
            MaybeReady::Boxed(saved) => MaybeReady::Boxed(Box::pin(async move {
                saved.await;
                AfterResponse::Return
            })),
        }
    }

    /// Reads what went wrong, and puts it back if it is something else.
    async fn look_into(&self, graced: &mut ReplicatedSession, answer: &mut Response<Body>) -> AfterResponse {
        let body = std::mem::take(answer.body_mut());
        let Ok(Ok(read)) = timeout(ERROR_WITHIN, body.collect()).await else {
            // The node is broken in more than one way: the client gets the status.
            answer.headers_mut().remove(header::CONTENT_LENGTH);
            return AfterResponse::Return;
        };
        let read = read.to_bytes();
        const WORDS: &[u8] = b"created but not yet serialized";
        let is_race = read.windows(WORDS.len()).any(|part| part == WORDS);
        *answer.body_mut() = Body::from(read);
        if !is_race {
            return AfterResponse::Return;
        }
        match graced.healing {
            Healing::Unneeded => {
                graced.healing = Healing::Waited;
                tokio::time::sleep(MOMENT).await;
                AfterResponse::SendAgain
            }
            Healing::Waited if graced.has_credentials => {
                tracing::debug!("left out the cookie of a session that its node never wrote");
                graced.healing = Healing::Stripped;
                AfterResponse::SendAgain
            }
            _ => {
                graced.healing = Healing::Stripped;
                self.take_back(graced, answer);
                AfterResponse::Return
            }
        }
    }

    /// Has the client forget a poisoned cookie, unless it has just been given another.
    fn take_back(&self, graced: &ReplicatedSession, answer: &mut Response<Body>) {
        let (Healing::Stripped, Some(name)) = (graced.healing, &graced.cookie) else { return };
        if self.begun_by(answer.headers()).is_some() {
            return;
        }
        // Tomcat 7 and 8.5 write the path differently, and a browser deletes only where it is the same.
        for path in ["/kylin", "/kylin/"] {
            let field = [name, format!("=; Path={path}; Max-Age=0; HttpOnly").as_bytes()].concat();
            if let Ok(field) = HeaderValue::from_bytes(&field) {
                answer.headers_mut().append(header::SET_COOKIE, field);
            }
        }
    }

    fn session_of<'h>(&self, headers: &'h HeaderMap) -> Option<(&'h [u8], &'h [u8])> {
        cookie::pairs(headers).find(|(name, _)| self.is_session(name))
    }

    /// The session that this answer begins.
    fn begun_by(&self, headers: &HeaderMap) -> Option<SessionKey> {
        let cookies = headers.get_all(header::SET_COOKIE).iter().filter_map(SetCookie::parse);
        // The last one counts, as in a browser.
        let session = cookies
            .filter(|cookie| self.is_session(cookie.name))
            .filter(|cookie| !cookie.deletes(self.clock.unix()))
            .last()?;
        Some(self.key(session.value))
    }

    fn is_session(&self, name: &[u8]) -> bool {
        cookie::is_kylin_session(name) || self.names.iter().any(|known| known.as_bytes() == name)
    }

    fn key(&self, value: &[u8]) -> SessionKey {
        match &self.sessions {
            Some(sessions) => sessions.key(value),
            None => {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&self.hasher.hash_one((0, value)).to_be_bytes());
                key[8..].copy_from_slice(&self.hasher.hash_one((1, value)).to_be_bytes());
                SessionKey::from_bytes(key)
            }
        }
    }
}

/// A page that Tomcat makes of an exception; Kylin's own errors are JSON.
fn may_be_a_race(answer: &Response<Body>) -> bool {
    let is_page = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/"));
    let is_plain = !answer.headers().contains_key(header::CONTENT_ENCODING);
    let is_short = answer.body().size_hint().exact().is_some_and(|length| length <= MAX_ERROR);
    answer.status() == StatusCode::INTERNAL_SERVER_ERROR && is_page && is_plain && is_short
}
