//! Strategy 1: the node's own session cookie ties a session to the node that set it.
//!
//! Only two things bind an id to an endpoint: a `Set-Cookie` that the endpoint sent, which is proof; or, for an id of whose origin
//! nobody knows (this front end has been restarted, say), that the endpoint served with it what it serves only to who is logged
//! in. An id that a client made up proves neither, so nobody can plant one.

use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, header};

use super::hook::{AfterResponse, EndpointHint, MaybeReady, ResponseContext, SessionContext};
use crate::body::Body;
use crate::cookie::{self, SetCookie};
use crate::endpoint::EndpointId;
use crate::kylin::class::needs_login;
use crate::kylin::path::{self, normalise};
use crate::session::cached::Lookup;
use crate::session::{Precondition, SessionKey, SessionRecord, Sessions};

/// A cookie in which nodes keep the ids of their sessions.
#[derive(Debug, Clone)]
pub struct SessionCookie {
    name: Name,
    ttl: Duration,
}

#[derive(Debug, Clone)]
enum Name {
    Exactly(Box<str>),
    /// In upper or lower case.
    AnyCase(Box<str>),
    /// 64 lower-case hexadecimal digits.
    Digest,
}

impl SessionCookie {
    /// The cookie called `name`, whose sessions live for 480 minutes: what Kylin's `web.xml` says.
    pub fn named(name: impl Into<String>) -> Self {
        SessionCookie { name: Name::Exactly(name.into().into_boxed_str()), ttl: Duration::from_secs(480 * 60) }
    }

    /// Returns the cookie called `name` in upper or lower case, as nginx compares the names of cookies. Its sessions live for
    /// 480 minutes.
    pub fn named_ignoring_case(name: impl Into<String>) -> Self {
        SessionCookie { name: Name::AnyCase(name.into().into_boxed_str()), ..SessionCookie::named("") }
    }

    /// Kylin 5's, whose name is a SHA-256 in hexadecimal digits (BootstrapServer.java). Its sessions live for 600 s
    /// (`spring.session.timeout`).
    pub fn kylin5() -> Self {
        SessionCookie { name: Name::Digest, ttl: Duration::from_secs(600) }
    }

    /// For how long a session is remembered after it was last used: as long as the nodes do, at least 1 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.max(Duration::from_secs(1));
        self
    }

    /// What Kylin of any version uses.
    pub(super) fn of_kylin() -> Vec<Self> {
        vec![SessionCookie::named("JSESSIONID"), SessionCookie::kylin5()]
    }

    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        match &self.name {
            Name::Exactly(known) => known.as_bytes() == name,
            Name::AnyCase(known) => known.as_bytes().eq_ignore_ascii_case(name),
            Name::Digest => cookie::is_metastore_digest(name),
        }
    }
}

pub(crate) struct Learn {
    pub(super) sessions: Sessions,
    pub(super) cookies: Vec<SessionCookie>,
}

/// What is remembered of a request whose sessions are learned.
#[derive(Default)]
pub(crate) struct Learned {
    /// The session that the client named, and the number of its cookie.
    session: Option<(SessionKey, usize)>,
    standing: Standing,
    /// Only who is logged in gets what the request asks for, and the cookie is all that it has to show.
    proves: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody knows of it.
    #[default]
    Unknown,
    /// It is bound, in this version if the store has it already.
    Bound(Option<u64>),
    /// It is bound under a secret of before.
    Old,
}

/// A client may send several: a proxy in front has its own, a path another.
const MOST_IDS: usize = 4;
/// An answer that sets more cookies than this is not read to the end.
const MOST_SET: usize = 32;

impl Learn {
    pub(super) fn begin<'a>(
        &'a self,
        request: &Request<Body>,
        fallback: EndpointHint,
    ) -> MaybeReady<'a, SessionContext<Learned>> {
        let mut first = None;
        let mut ids = self.ids(request).take(MOST_IDS);
        while let Some((id, cookie)) = ids.next() {
            let key = self.sessions.key(id);
            match self.sessions.find(key, id, Some(self.ttl(cookie))) {
                MaybeReady::Ready(Lookup::Absent) => _ = first.get_or_insert((key, cookie, Lookup::Absent)),
                MaybeReady::Ready(Lookup::Unknown) => _ = first.get_or_insert((key, cookie, Lookup::Unknown)),
                MaybeReady::Ready(known) => {
                    return MaybeReady::Ready(self.tie(request, Some((key, cookie, known)), fallback));
                }
                MaybeReady::Boxed(found) => {
                    let rest: Vec<(Vec<u8>, usize)> = ids.map(|(id, cookie)| (id.to_vec(), cookie)).collect();
                    let mut tie = self.tie(request, None, fallback);
                    return MaybeReady::Boxed(Box::pin(async move {
                        let mut found = (key, cookie, found.await);
                        for (id, cookie) in rest {
                            if matches!(found.2, Lookup::Found(..) | Lookup::UnderOldKey(_)) {
                                break;
                            }
                            let key = self.sessions.key(&id);
                            let other = match self.sessions.find(key, &id, Some(self.ttl(cookie))) {
                                MaybeReady::Ready(known) => known,
                                MaybeReady::Boxed(known) => known.await,
                            };
                            if matches!(other, Lookup::Found(..) | Lookup::UnderOldKey(_)) {
                                found = (key, cookie, other);
                            }
                        }
                        self.know(&mut tie, found);
                        tie
                    }));
                }
            }
        }
        MaybeReady::Ready(self.tie(request, first, fallback))
    }

    /// The ids that the client names, cookies first, as Tomcat has it.
    fn ids<'r>(&self, request: &'r Request<Body>) -> impl Iterator<Item = (&'r [u8], usize)> + use<'r, '_> {
        let numbered = || (0_usize..).zip(&self.cookies);
        let in_cookies = cookie::pairs(request.headers()).filter_map(move |(name, value)| {
            let (number, _) = numbered().find(|(_, cookie)| cookie.is_called(name))?;
            Some((value, number))
        });
        let in_path = path::session_id(request.uri().path()).map(|id| (id.as_bytes(), 0));
        in_cookies.chain(in_path).filter(|(id, _)| cookie::is_session_id(id))
    }

    fn tie(
        &self,
        request: &Request<Body>,
        session: Option<(SessionKey, usize, Lookup)>,
        fallback: EndpointHint,
    ) -> SessionContext<Learned> {
        let learned = Learned { proves: needs_session(request), ..Learned::default() };
        let mut tie = SessionContext::new(fallback, learned);
        if let Some(session) = session {
            self.know(&mut tie, session);
        }
        tie
    }

    fn know(&self, tie: &mut SessionContext<Learned>, (key, cookie, known): (SessionKey, usize, Lookup)) {
        let learned = &mut tie.state;
        learned.session = Some((key, cookie));
        match known {
            Lookup::Absent => {}
            // Every front end computes the same, so that at most one login is lost and not one per request.
            Lookup::Unknown => tie.hint = EndpointHint::Key(*key.as_bytes()),
            Lookup::Found(record, version) => {
                learned.standing = Standing::Bound(version);
                tie.in_use = Some(self.sessions.use_now(key, self.ttl(cookie)));
                tie.hint = record.endpoint().map_or(EndpointHint::Any, |id| EndpointHint::Id(id.clone()));
            }
            Lookup::UnderOldKey(record) => {
                learned.standing = Standing::Old;
                tie.hint = record.endpoint().map_or(EndpointHint::Any, |id| EndpointHint::Id(id.clone()));
            }
        }
    }

    fn ttl(&self, cookie: usize) -> Duration {
        self.cookies.get(cookie).map_or(Duration::from_secs(480 * 60), |cookie| cookie.ttl)
    }

    pub(super) fn settle<'a>(
        &'a self,
        learned: &Learned,
        served: &ResponseContext<'_>,
        answer: &Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        let mut issued = Issued::default();
        self.read(learned, answer.headers(), &mut issued);
        if issued.ends_session
            && let Some((key, _)) = learned.session
        {
            self.sessions.remove(key);
        }
        let endpoint = served.endpoint;
        if let Some(first) = issued.first {
            return match issued.more.is_empty() {
                // The answer names the session again that is bound there anyhow.
                true if learned.session == Some(first) && served.hint.names(endpoint) => {
                    MaybeReady::Ready(AfterResponse::Return)
                }
                true => self.bind_issued(first, endpoint),
                false => {
                    let endpoint = endpoint.clone();
                    MaybeReady::Boxed(Box::pin(async move {
                        for session in std::iter::once(first).chain(issued.more) {
                            if let MaybeReady::Boxed(then) = self.bind_issued(session, &endpoint) {
                                then.await;
                            }
                        }
                        AfterResponse::Return
                    }))
                }
            };
        }
        let Some((key, cookie)) = learned.session.filter(|_| !issued.ends_session) else {
            return MaybeReady::Ready(AfterResponse::Return);
        };
        let is_known = || learned.proves && is_accepted(answer);
        let binds = match learned.standing {
            Standing::Unknown => is_known(),
            Standing::Bound(_) => served.bound_unavailable && is_known(),
            Standing::Old => served.hint.names(endpoint) || served.bound_unavailable && is_known(),
        };
        if !binds {
            return MaybeReady::Ready(AfterResponse::Return);
        }
        let expect = match learned.standing {
            Standing::Bound(Some(version)) => Precondition::Version(version),
            _ => Precondition::Absent,
        };
        // The loser of a race follows the winner: the near cache has learned of it.
        self.sessions
            .save(key, SessionRecord::bound(endpoint.clone()), expect, self.ttl(cookie))
            .map(|_| AfterResponse::Return)
    }

    /// What the answer says of sessions.
    fn read(&self, learned: &Learned, headers: &HeaderMap, issued: &mut Issued) {
        let mut now = None;
        for line in headers.get_all(header::SET_COOKIE).into_iter().take(MOST_SET) {
            let now = *now.get_or_insert_with(|| self.sessions.unix());
            let Some(set) = SetCookie::parse(line) else { continue };
            let Some((number, _)) = (0_usize..).zip(&self.cookies).find(|(_, cookie)| cookie.is_called(set.name))
            else {
                continue;
            };
            match (!set.deletes(now)).then_some(set.value) {
                Some(id) if cookie::is_session_id(id) => {
                    let session = (self.sessions.key(id), number);
                    // The node has given the client another id for the same session, as at every login.
                    issued.ends_session |=
                        learned.session.is_some_and(|(key, cookie)| cookie == number && key != session.0);
                    match issued.first {
                        None => issued.first = Some(session),
                        Some(_) => issued.more.push(session),
                    }
                }
                Some(_) => {}
                None => issued.ends_session |= learned.session.is_some_and(|(_, cookie)| cookie == number),
            }
        }
    }

    /// Binds a session to the endpoint that has just issued it, whatever was known of it.
    fn bind_issued<'a>(
        &'a self,
        (key, cookie): (SessionKey, usize),
        endpoint: &EndpointId,
    ) -> MaybeReady<'a, AfterResponse> {
        let ttl = self.ttl(cookie);
        let record = SessionRecord::bound(endpoint.clone());
        match self.sessions.save(key, record.clone(), Precondition::Absent, ttl) {
            MaybeReady::Ready(known) => match outdated(&known, &record) {
                Some(version) => {
                    self.sessions.save(key, record, Precondition::Version(version), ttl).map(|_| AfterResponse::Return)
                }
                None => MaybeReady::Ready(AfterResponse::Return),
            },
            MaybeReady::Boxed(saved) => MaybeReady::Boxed(Box::pin(async move {
                if let Some(version) = outdated(&saved.await, &record)
                    && let MaybeReady::Boxed(again) =
                        self.sessions.save(key, record, Precondition::Version(version), ttl)
                {
                    again.await;
                }
                AfterResponse::Return
            })),
        }
    }
}

/// What an answer says of sessions: their keys and the numbers of their cookies.
#[derive(Default)]
struct Issued {
    first: Option<(SessionKey, usize)>,
    more: Vec<(SessionKey, usize)>,
    /// The client's session is over.
    ends_session: bool,
}

/// The version of what is known, when it is bound elsewhere than `record` says.
fn outdated(known: &Lookup, record: &SessionRecord) -> Option<u64> {
    match known {
        Lookup::Found(there, Some(version)) if there.endpoint() != record.endpoint() => Some(*version),
        _ => None,
    }
}

/// Returns whether the session cookie is all that lets this request in: credentials do so without a session.
fn needs_session(request: &Request<Body>) -> bool {
    !request.headers().contains_key(header::AUTHORIZATION)
        && normalise(request.uri().path()).is_ok_and(|path| needs_login(&path))
}

/// Did the node know the session? What it refuses or sends to its login page it did not. Kylin answers 500, in JSON, to every
/// SQL error of who is logged in.
fn is_accepted(answer: &Response<Body>) -> bool {
    let is_json = || {
        answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
    };
    answer.status().is_success() || answer.status() == StatusCode::INTERNAL_SERVER_ERROR && is_json()
}
