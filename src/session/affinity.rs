//! The rule that ties a session to an endpoint. It goes before the policy and is asked by the proxy alone.
//!
//! # The hooks in the life of a request
//!
//! | when | hook | what a way may do there |
//! |---|---|---|
//! | the head is checked, the client known, the body read | [`Affinity::begin`] | find out whose session it is, from a cache at once or from a store later; take cookies out that no node may see; make the [`Tie`] |
//! | before each pick | [`Tie::hint`] | say where the request is to go; the cluster follows where it can |
//! | picked, before it is sent, for each try | [`Affinity::prepare`] | rewrite the request for this endpoint, even talk to it first |
//! | the head of the answer is here, and it is the one to be passed on | [`Affinity::settle`] | learn from it, write to the store, change its cookies; have the request sent once more to the same endpoint |
//! | until the answer's body has ended or is dropped | [`Tie::take_in_use`] | keep the session alive while it is in use |
//!
//! Rules of the hooks: what can be done at once is done at once ([`Step::Now`]) and allocates nothing on the way of an
//! ordinary request; what has to wait is boxed ([`Step::Later`]) and has a deadline of its own. No failure of a store may fail
//! a request. The proxy's own answers (no endpoint, 502) never come to `settle`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};

pub use super::learn::SessionCookie;
use super::learn::{Learn, Learned};
#[cfg(feature = "login-relay")]
use super::login_relay::{LoginRelay, Sharing, Visit};
use super::replicated::{Grace, Graced, ReplicatedSessions};
use super::route::Route;
pub use super::route::SessionRoute;
pub use super::sticky::StickyCookie;
use super::user::User;
use super::{Secret, Sessions};
use crate::backend::{Backend, SendError};
use crate::body::Body;
use crate::drop_guard::DropGuard;
pub(crate) use crate::endpoint::EndpointHint;
use crate::endpoint::EndpointId;

/// How sessions find their endpoint: see [`ProxyBuilder::affinity`](crate::proxy::ProxyBuilder::affinity). Clones are handles
/// to the same sessions.
#[derive(Clone)]
#[must_use]
pub struct Affinity {
    way: Arc<Way>,
    /// For requests that no session binds.
    user: Option<User>,
}

/// The ways there are. A new one is a variant here, with its part of the [`Tie`] in [`State`] and an arm in each hook.
enum Way {
    /// No session at all: the user alone places.
    Loose,
    Learn(Learn),
    Sticky(StickyCookie),
    Route(Route),
    /// The application finds the route.
    GivenRoute,
    ReplicatedSessions(Grace),
    #[cfg(feature = "login-relay")]
    Shared(Arc<Sharing>),
}

/// What the tries of one request know of its session. Made by `begin`, handed to every later hook of that request.
#[derive(Default)]
pub(crate) struct Tie {
    pub(super) hint: EndpointHint,
    pub(super) state: State,
    pub(super) in_use: Option<DropGuard>,
}

/// What a way remembers of a request between its hooks.
#[derive(Default)]
pub(super) enum State {
    #[default]
    Loose,
    Learned(Learned),
    /// The cookie is to be set, unless the request went elsewhere only for now.
    Sticky {
        renews: bool,
    },
    Graced(Graced),
    #[cfg(feature = "login-relay")]
    Shared(Box<Visit>),
}

/// A thing that is done, or has to be waited for. What is waited for has its own deadline.
pub(crate) enum Step<'a, T> {
    Now(T),
    Later(Later<'a, T>),
}

impl<T> Step<'_, T> {
    /// What it comes to in the end.
    pub(crate) async fn done(self) -> T {
        match self {
            Step::Now(value) => value,
            Step::Later(later) => later.await,
        }
    }
}

pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is to be done with a request that was prepared for an endpoint.
#[allow(dead_code, reason = "not every way that is built in needs each of them")]
pub(crate) enum Prepared {
    /// Send it.
    Send,
    /// The endpoint could not be made ready for it: this counts as the failure of this try, and since the client's request has
    /// not been sent, another endpoint is tried where the phase says so ([`SendErrorKind::is_unsent`](crate::backend::SendErrorKind::is_unsent)).
    Failed(SendError),
    /// It needs no sending: this is the answer. `settle` is not called.
    Answer(Box<Response<Body>>),
}

/// What is to be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Pass it on.
    Pass,
    /// Drop it and send the request once more to the same endpoint, prepared anew. Only where [`Affinity::wants_copy`] said yes;
    /// otherwise, or when the request is too large to be kept, the answer is passed on.
    Again,
}

/// Who answered.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only shared sessions talk to nodes"))]
pub(crate) struct Served<'a> {
    pub(crate) endpoint: &'a EndpointId,
    /// The endpoint that the hint named failed at this request, is ejected, in maintenance or gone, so that the session may
    /// move. False when it was just full or lacks the role: the login there is worth keeping.
    pub(crate) bound_is_out: bool,
    /// For requests of the way's own.
    pub(crate) nodes: &'a dyn Nodes,
}

/// A backend whose type does not matter: for a way that has to talk to an endpoint itself.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only shared sessions talk to nodes"))]
pub(crate) trait Node: Send + Sync {
    fn ask(&self, request: Request<Body>) -> Later<'_, Result<Response<Body>, SendError>>;
}

/// The backends of a cluster, to be found by the ids of their endpoints.
#[cfg_attr(not(feature = "login-relay"), allow(dead_code, reason = "only shared sessions talk to nodes"))]
pub(crate) trait Nodes: Send + Sync {
    fn find(&self, endpoint: &EndpointId) -> Option<Arc<dyn Node>>;
}

impl<B: Backend> Node for B {
    fn ask(&self, request: Request<Body>) -> Later<'_, Result<Response<Body>, SendError>> {
        Box::pin(self.send(request))
    }
}

impl Affinity {
    /// The nodes' own session cookies tie a session to the node that set it: Kylin's (`JSESSIONID`, and the one of Kylin 5).
    /// Learned anew from every `Set-Cookie`, forgotten at logout. Also reads `;jsessionid=` in paths.
    ///
    /// ```
    /// # async fn run(cluster: kylin_lb::Cluster) -> Result<(), Box<dyn std::error::Error>> {
    /// use kylin_lb::Proxy;
    /// use kylin_lb::session::{Affinity, Sessions};
    ///
    /// let proxy = Proxy::builder(cluster).affinity(Affinity::learn(Sessions::in_memory()?)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A session whose node is gone goes where the policy has it, which costs one login, and stays there. A draining node keeps its
    /// sessions. An id that no node has issued binds nothing, unless a node serves with it what it serves only to who is logged in.
    pub fn learn(sessions: Sessions) -> Self {
        Self::learn_from(sessions, SessionCookie::of_kylin())
    }

    /// The same for other cookies. Session ids in paths count as the first one's.
    pub fn learn_from(sessions: Sessions, cookies: impl IntoIterator<Item = SessionCookie>) -> Self {
        Self::new(Way::Learn(Learn { sessions, cookies: cookies.into_iter().take(usize::from(u8::MAX)).collect() }))
    }

    /// A signed cookie of the front end's own ties a client to an endpoint, and no front end has to remember anything. Takes a
    /// [`Secret`], or a [`StickyCookie`] with attributes.
    pub fn cookie(cookie: impl Into<StickyCookie>) -> Self {
        Self::new(Way::Sticky(cookie.into()))
    }

    /// The route in a session id ties the session to the endpoint of that [route](crate::Endpoint::route): what follows the first
    /// dot of `JSESSIONID` or `;jsessionid=`, which Tomcat puts there when its `jvmRoute` is set.
    pub fn route() -> Self {
        Self::route_of(SessionCookie::of_kylin())
    }

    /// The same for other cookies.
    pub fn route_of(cookies: impl IntoIterator<Item = SessionCookie>) -> Self {
        Self::new(Way::Route(Route { cookies: cookies.into_iter().collect() }))
    }

    /// Binds a session to the endpoint of the [route](crate::Endpoint::route) that the application names: a [`SessionRoute`]
    /// in the request's extensions.
    pub fn given_route() -> Self {
        Self::new(Way::GivenRoute)
    }

    /// For nodes that share their sessions themselves, by a session manager over Redis for one: any of them serves any request of a
    /// session, except that a session which has just begun stays where it began for a moment, until the others can find it.
    pub fn replicated(how: ReplicatedSessions) -> Self {
        Self::new(Way::ReplicatedSessions(how.build()))
    }

    /// Sessions that the front end shares among nodes which share nothing: any node serves any request of a session, so that every
    /// policy balances freely and a node that is gone takes no login along. Off unless it is asked for, since the front end then
    /// keeps credentials: [`LoginRelay`] says how they are protected, and what clients see.
    ///
    /// ```
    /// use kylin_lb::session::{Affinity, Secret, Sessions, LoginRelay};
    ///
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let secret = Secret::parse("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")?;
    /// let affinity = Affinity::login_relay(LoginRelay::new(Sessions::in_memory()?, secret).secure(true));
    /// # let _ = affinity;
    /// # Ok(())
    /// # }
    /// # run().unwrap();
    /// ```
    #[cfg(feature = "login-relay")]
    pub fn login_relay(sessions: LoginRelay) -> Self {
        Self::new(Way::Shared(Arc::new(sessions.build())))
    }

    /// The user of Basic credentials places a request: by rendezvous hashing of a keyed hash, at all front ends with the same
    /// secret alike. For clients without cookies, whose every request costs a node a login.
    ///
    /// All requests of one user go to one node. Where an application has one user for everybody, that is one node's whole work.
    pub fn user(secret: Secret) -> Self {
        Self::new(Way::Loose).or_user(secret)
    }

    /// This way, and for requests that it does not bind, [`user`](Self::user).
    pub fn or_user(mut self, secret: Secret) -> Self {
        self.user = Some(User::new(&secret));
        self
    }

    fn new(way: Way) -> Self {
        Affinity { way: Arc::new(way), user: None }
    }

    /// Where a request goes that no session binds.
    fn fallback(&self, request: &Request<Body>) -> EndpointHint {
        self.user.as_ref().and_then(|user| user.hint(request.headers())).unwrap_or_default()
    }

    /// Finds out whose session `request` belongs to, and takes out of it what is meant for the front end.
    pub(crate) fn begin<'a>(&'a self, request: &'a mut Request<Body>) -> Step<'a, Tie> {
        let fallback = self.fallback(request);
        match &*self.way {
            Way::Loose => Step::Now(Tie::loose(fallback)),
            Way::Learn(learn) => learn.begin(request, fallback),
            Way::Sticky(cookie) => Step::Now(cookie.begin(request, fallback)),
            Way::Route(route) => Step::Now(Tie::loose(route.hint(request).unwrap_or(fallback))),
            Way::GivenRoute => Step::Now(Tie::loose(SessionRoute::hint(request).unwrap_or(fallback))),
            Way::ReplicatedSessions(grace) => grace.begin(request, fallback),
            #[cfg(feature = "login-relay")]
            Way::Shared(sharing) => match sharing.begin(request) {
                Step::Now(visit) => Step::Now(Tie::shared(visit, fallback)),
                Step::Later(visit) => Step::Later(Box::pin(async { Tie::shared(visit.await, fallback) })),
            },
        }
    }

    /// Must a copy of the request be kept until its answer is settled, because it may have to be sent again? Asked before
    /// each try; a copy of a request with a body is cheap while the body is one buffer, and impossible otherwise.
    pub(crate) fn wants_copy(&self, tie: &Tie) -> bool {
        match (&*self.way, &tie.state) {
            (Way::ReplicatedSessions(grace), State::Graced(graced)) => grace.wants_copy(graced),
            #[cfg(feature = "login-relay")]
            (Way::Shared(_), State::Shared(visit)) => visit.wants_copy(),
            _ => false,
        }
    }

    /// Makes `request` ready for `endpoint`; none when there is nothing to do. The request is as `begin` left it, or as it was
    /// prepared for another endpoint which it never reached: what is prepared is to be replaced, not added to.
    pub(crate) fn prepare<'a>(
        &'a self,
        tie: &'a mut Tie,
        endpoint: &'a EndpointId,
        nodes: &'a dyn Nodes,
        request: &'a mut Request<Body>,
    ) -> Option<Later<'a, Prepared>> {
        let _ = (endpoint, nodes);
        match (&*self.way, &mut tie.state) {
            (Way::ReplicatedSessions(grace), State::Graced(graced)) => {
                grace.prepare(graced, request);
                None
            }
            #[cfg(feature = "login-relay")]
            (Way::Shared(sharing), State::Shared(visit)) => sharing.prepare(visit, endpoint, nodes, request),
            _ => None,
        }
    }

    /// Learns from the head of the answer that is to be passed on, and may change its fields.
    pub(crate) fn settle<'a>(
        &'a self,
        tie: &'a mut Tie,
        served: Served<'a>,
        answer: &'a mut Response<Body>,
    ) -> Step<'a, Then> {
        match (&*self.way, &mut tie.state) {
            (Way::Learn(learn), State::Learned(learned)) => learn.settle(learned, &tie.hint, &served, answer),
            (Way::Sticky(cookie), State::Sticky { renews }) => {
                cookie.settle(*renews, &tie.hint, &served, answer);
                Step::Now(Then::Pass)
            }
            (Way::ReplicatedSessions(grace), State::Graced(graced)) => grace.settle(graced, &served, answer),
            #[cfg(feature = "login-relay")]
            (Way::Shared(sharing), State::Shared(visit)) => sharing.settle(visit, served, answer),
            _ => Step::Now(Then::Pass),
        }
    }
}

impl Tie {
    fn loose(hint: EndpointHint) -> Self {
        Tie { hint, ..Tie::default() }
    }

    pub(super) fn graced(graced: Graced, hint: EndpointHint) -> Self {
        Tie { hint, state: State::Graced(graced), in_use: None }
    }

    #[cfg(feature = "login-relay")]
    fn shared(mut visit: Box<Visit>, hint: EndpointHint) -> Self {
        // A session goes anywhere; it is requests without one that a user may place.
        let hint = if visit.has_session() { EndpointHint::Any } else { hint };
        Tie { hint, in_use: visit.in_use.take(), state: State::Shared(visit) }
    }

    /// Where the request is to go, at every try.
    pub(crate) fn hint(&self) -> &EndpointHint {
        &self.hint
    }

    /// What must live until the answer's body has ended.
    pub(crate) fn take_in_use(&mut self) -> Option<DropGuard> {
        self.in_use.take()
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.way {
            Way::Loose => "Affinity::user",
            Way::Learn(_) => "Affinity::learn",
            Way::Sticky(_) => "Affinity::cookie",
            Way::Route(_) => "Affinity::route",
            Way::GivenRoute => "Affinity::given_route",
            Way::ReplicatedSessions(_) => "Affinity::replicated",
            #[cfg(feature = "login-relay")]
            Way::Shared(_) => "Affinity::login_relay",
        })
    }
}
