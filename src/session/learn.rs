//! Binds a session to the node that set its cookie.
//!
//! Two things bind an id to an endpoint. The first is a `Set-Cookie` of that endpoint. The second
//! is a response of the endpoint to a request that needs a login. It applies to an id of unknown
//! origin, for example after a restart of the front end. An id that a client made up gets neither,
//! so a client cannot bind it.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header};

use super::hook::{AfterResponse, EndpointHint, MaybeReady, ResponseContext, SessionContext};
use crate::body::Body;
use crate::cookie::{self, SetCookie};
use crate::endpoint::EndpointId;
use crate::request::{ClientAddr, RequestContext};
use crate::session::cached::Lookup;
use crate::session::session_cookie::{KYLIN_TTL, SessionCookie};
use crate::session::{Precondition, SessionKey, SessionRecord, Sessions};

pub(crate) struct Learn {
    pub(super) sessions: Sessions,
    pub(super) cookies: Vec<SessionCookie>,
}

/// The state that the strategy keeps for a request.
#[derive(Default)]
pub(crate) struct Learned {
    /// The session that the client named.
    session: Option<NamedSession>,
    binding: Binding,
}

/// A session that a cookie names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct NamedSession {
    key: SessionKey,
    /// The index of its cookie.
    cookie: usize,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// The session was not found, or the store is unavailable.
    #[default]
    Unknown,
    /// The session is bound. The version is that in the store, if the store has it.
    Bound(Option<u64>),
    /// The session is bound under a previous secret.
    UnderOldKey,
}

/// The maximum number of ids that are looked up. A client may send several session cookies, such as
/// one of a proxy in front, or one of another path.
const MAX_IDS: usize = 4;
/// The maximum number of a response's cookies that are read.
const MAX_SET_COOKIES: usize = 32;

impl Learned {
    /// Returns whether the client named a session.
    pub(super) fn names_session(&self) -> bool {
        self.session.is_some()
    }
}

impl Learn {
    pub(super) fn begin(
        &self,
        request: &RequestContext,
        fallback: EndpointHint,
    ) -> MaybeReady<'_, SessionContext<Learned>> {
        let mut context = SessionContext::new(fallback, Learned::default());
        let client = request.client();
        let mut first = None;
        let mut ids = self.ids(request).take(MAX_IDS);
        while let Some((id, cookie)) = ids.next() {
            let session = NamedSession { key: self.sessions.key(id), cookie };
            match self.sessions.find(client, session.key, id, Some(self.ttl(cookie))) {
                MaybeReady::Ready(lookup) if lookup.is_bound() => {
                    self.bind(&mut context, session, lookup);
                    return MaybeReady::Ready(context);
                }
                MaybeReady::Ready(lookup) => _ = first.get_or_insert((session, lookup)),
                MaybeReady::Boxed(lookup) => {
                    let rest: Vec<(Vec<u8>, usize)> = ids.map(|(id, cookie)| (id.to_vec(), cookie)).collect();
                    return MaybeReady::boxed(async move {
                        let mut found = (session, lookup.await);
                        for (id, cookie) in rest {
                            if found.1.is_bound() {
                                break;
                            }
                            let session = NamedSession { key: self.sessions.key(&id), cookie };
                            let lookup = self.sessions.find(client, session.key, &id, Some(self.ttl(cookie))).await;
                            if lookup.is_bound() {
                                found = (session, lookup);
                            }
                        }
                        self.bind(&mut context, found.0, found.1);
                        context
                    });
                }
            }
        }
        if let Some((session, lookup)) = first {
            self.bind(&mut context, session, lookup);
        }
        MaybeReady::Ready(context)
    }

    /// Returns the ids that the client names. Like Tomcat, it lists cookies before the path.
    fn ids<'r>(&self, request: &'r RequestContext) -> impl Iterator<Item = (&'r [u8], usize)> + use<'r, '_> {
        let in_cookies = request.cookies().filter_map(|(name, id)| Some((id, self.index_of(name)?)));
        let in_cookies = in_cookies.filter(|(id, _)| cookie::is_session_id(id));
        in_cookies.chain(request.path_session_id().map(|id| (id, 0)))
    }

    fn index_of(&self, name: &[u8]) -> Option<usize> {
        self.cookies.iter().position(|cookie| cookie.is_called(name))
    }

    fn bind(&self, context: &mut SessionContext<Learned>, session: NamedSession, lookup: Lookup) {
        context.state.session = Some(session);
        let record = match lookup {
            Lookup::Absent => return,
            Lookup::Unknown => {
                // All front ends compute the same endpoint, so the user logs in once at most.
                context.hint = EndpointHint::Key(*session.key.as_bytes());
                return;
            }
            Lookup::Found(record, version) => {
                context.state.binding = Binding::Bound(version);
                context.in_use = Some(self.sessions.use_now(session.key, self.ttl(session.cookie)));
                record
            }
            Lookup::UnderOldKey(record) => {
                context.state.binding = Binding::UnderOldKey;
                record
            }
        };
        context.hint = record.endpoint().map_or(EndpointHint::Any, |id| EndpointHint::Id(id.clone()));
    }

    fn ttl(&self, cookie: usize) -> Duration {
        self.cookies.get(cookie).map_or(KYLIN_TTL, |cookie| cookie.ttl)
    }

    pub(super) fn settle<'a>(
        &'a self,
        learned: &Learned,
        context: &ResponseContext<'_>,
        response: &Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        let mut issued = self.issued(learned, response.headers());
        // A failed login says nothing about the session, because LDAP may be down.
        let status = response.status();
        issued.ends_session &= status != StatusCode::UNAUTHORIZED && !status.is_server_error();
        if issued.ends_session
            && let Some(session) = learned.session
        {
            self.sessions.remove(session.key);
        }
        let (client, endpoint) = (context.request.client(), context.endpoint);
        if let Some(first) = issued.first {
            return match issued.more.is_empty() {
                // The response names the session that is already bound to this endpoint.
                true if learned.session == Some(first) && context.hint.names(endpoint) => {
                    MaybeReady::Ready(AfterResponse::Return)
                }
                true => self.save_issued(client, first, endpoint),
                false => {
                    let endpoint = endpoint.clone();
                    MaybeReady::boxed(async move {
                        for session in std::iter::once(first).chain(issued.more) {
                            self.save_issued(client, session, &endpoint).await;
                        }
                        AfterResponse::Bound
                    })
                }
            };
        }
        let Some(session) = learned.session.filter(|_| !issued.ends_session) else {
            return MaybeReady::Ready(AfterResponse::Return);
        };
        let is_proven = || is_accepted(response) && context.request.needs_session();
        let binds = match learned.binding {
            Binding::Unknown => is_proven(),
            Binding::Bound(_) => {
                context.move_reasons.bound_unavailable && (context.move_reasons.leaves_group || is_proven())
            }
            Binding::UnderOldKey => {
                context.hint.names(endpoint) || context.move_reasons.bound_unavailable && is_proven()
            }
        };
        if !binds {
            return MaybeReady::Ready(AfterResponse::Return);
        }
        let precondition = match learned.binding {
            Binding::Bound(Some(version)) => Precondition::Version(version),
            Binding::Bound(None) | Binding::Unknown | Binding::UnderOldKey => Precondition::Absent,
        };
        // If another writer wins the race, the near cache has its binding.
        let record = SessionRecord::bound(endpoint.clone());
        self.sessions
            .save(context.request.client(), session.key, record, precondition, self.ttl(session.cookie))
            .map(|_| AfterResponse::Bound)
    }

    /// Returns the sessions that the response begins and ends.
    fn issued(&self, learned: &Learned, headers: &HeaderMap) -> Issued {
        let mut issued = Issued::default();
        let mut now = None;
        for line in headers.get_all(header::SET_COOKIE).into_iter().take(MAX_SET_COOKIES) {
            let Some(set) = SetCookie::parse(line) else { continue };
            let Some(cookie) = self.index_of(set.name) else { continue };
            let named = learned.session.filter(|session| session.cookie == cookie);
            if set.deletes(*now.get_or_insert_with(|| self.sessions.unix())) {
                issued.ends_session |= named.is_some();
            } else if cookie::is_session_id(set.value) {
                let session = NamedSession { key: self.sessions.key(set.value), cookie };
                // The node gave the session another id, as at every login.
                issued.ends_session |= named.is_some_and(|named| named.key != session.key);
                match issued.first {
                    None => issued.first = Some(session),
                    Some(_) => issued.more.push(session),
                }
            }
        }
        issued
    }

    /// Binds a session to the endpoint that has just issued it, even if it was bound to another
    /// one.
    fn save_issued<'a>(
        &'a self,
        client: ClientAddr,
        session: NamedSession,
        endpoint: &EndpointId,
    ) -> MaybeReady<'a, AfterResponse> {
        let (key, ttl) = (session.key, self.ttl(session.cookie));
        let record = SessionRecord::bound(endpoint.clone());
        let replace =
            move |record, version| self.sessions.save(client, key, record, Precondition::Version(version), ttl);
        match self.sessions.save(client, key, record.clone(), Precondition::Absent, ttl) {
            MaybeReady::Ready(saved) => match outdated(&saved, &record) {
                Some(version) => replace(record, version).map(|_| AfterResponse::Bound),
                None => MaybeReady::Ready(AfterResponse::Bound),
            },
            MaybeReady::Boxed(saved) => MaybeReady::boxed(async move {
                if let Some(version) = outdated(&saved.await, &record) {
                    replace(record, version).await;
                }
                AfterResponse::Bound
            }),
        }
    }
}

/// The sessions that a response begins and ends.
#[derive(Default)]
struct Issued {
    first: Option<NamedSession>,
    more: Vec<NamedSession>,
    /// The session that the client named has ended.
    ends_session: bool,
}

/// Returns the version of the record in the store, if that record binds the session to another
/// endpoint than `record`.
fn outdated(lookup: &Lookup, record: &SessionRecord) -> Option<u64> {
    match lookup {
        Lookup::Found(stored, Some(version)) if stored.endpoint() != record.endpoint() => Some(*version),
        _ => None,
    }
}

/// Returns whether the node knew the session: it neither refused the request nor redirected it to
/// its login page. Kylin responds with 500, in JSON, to every SQL error of a client that is logged
/// in.
fn is_accepted(response: &Response<Body>) -> bool {
    let is_json = || {
        let kind = response.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
    };
    response.status().is_success() || response.status() == StatusCode::INTERNAL_SERVER_ERROR && is_json()
}
