//! The strategies that bind sessions to endpoints, and the dispatch of their [hooks](super::hook).
//!
//! The proxy asks the affinity before the cluster asks its policy.

use std::fmt;
use std::sync::Arc;

use http::{Request, Response};

use super::hook::{
    AfterResponse, BoxFuture, EndpointHint, MaybeReady, MoveReasons, Nodes, PrepareOutcome, ResponseContext,
    SessionContext,
};
use super::learn::{Learn, Learned};
#[cfg(feature = "login-relay")]
use super::login_relay::{LoginRelay, Relay, RelayRequest};
use super::replicated::{Replicated, ReplicatedSession, ReplicatedSessions};
use super::route::{Route, SessionRoute};
use super::session_cookie::SessionCookie;
use super::sticky::{Renewal, StickyCookie};
use super::user::User;
use super::{Secret, Sessions};
use crate::body::Body;
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::request::RequestContext;

/// How sessions are bound to endpoints, for
/// [`ProxyBuilder::affinity`](crate::proxy::ProxyBuilder::affinity). Clones share the sessions.
///
/// | strategy | binds by | memory |
/// |---|---|---|
/// | [`learn`](Self::learn) | the session cookie that a node sets | sessions, in memory or in a shared store |
/// | [`cookie`](Self::cookie) | a signed cookie of the front end | none |
/// | [`route`](Self::route) | the `jvmRoute` in the session id | none |
/// | [`given_route`](Self::given_route) | a route that the application names | none |
/// | [`user`](Self::user) | the user of Basic credentials | none |
/// | [`replicated`](Self::replicated) | nothing, except for 3 s after a session began | recent sessions |
/// | [`login_relay`](Self::login_relay) | nothing: the front end logs in at each node | sealed logins, in memory or in a shared store |
#[derive(Clone)]
#[must_use]
pub struct Affinity {
    strategy: Arc<Strategy>,
    /// Chooses the endpoint of requests that have no bound session.
    user: Option<User>,
    primaries_first: bool,
}

/// The strategies. A new strategy needs a variant here and in [`BoundSession`], and an arm in each
/// hook.
enum Strategy {
    /// Binds nothing: only the user of Basic credentials chooses the endpoint.
    User,
    Learn(Learn),
    Sticky(StickyCookie),
    Route(Route),
    /// The application names the route.
    GivenRoute,
    Replicated(Replicated),
    #[cfg(feature = "login-relay")]
    LoginRelay(Arc<Relay>),
}

/// The session of one request: the strategy, with the state that it keeps between its hooks.
pub(crate) type RequestSession<'a> = SessionContext<BoundSession<'a>>;

/// A strategy with its state.
#[derive(Default)]
pub(crate) enum BoundSession<'a> {
    /// The strategy keeps no state, because the hint is enough.
    #[default]
    Hinted,
    Learn(&'a Learn, Learned),
    Sticky(&'a StickyCookie, Renewal),
    Route {
        /// Whether the request names a session, which may have no route.
        names_session: bool,
    },
    Replicated(&'a Replicated, ReplicatedSession),
    #[cfg(feature = "login-relay")]
    LoginRelay(&'a Arc<Relay>, Box<RelayRequest>),
}

impl Affinity {
    /// Binds a session to the node that set its cookie: Kylin's `JSESSIONID`, or the cookie of
    /// Kylin 5.
    ///
    /// The proxy learns sessions from every `Set-Cookie` and forgets them at logout. It also reads
    /// `;jsessionid=` in paths.
    ///
    /// - If a session's node is gone, the policy picks another node. The user logs in once more,
    ///   and the new session is bound to that node.
    /// - A draining node keeps its sessions.
    /// - An id of unknown origin binds nothing until a node uses it to serve a request that needs a
    ///   login.
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
    pub fn learn(sessions: Sessions) -> Self {
        Self::learn_from(sessions, SessionCookie::of_kylin())
    }

    /// Binds a session to the node that set one of these cookies. A session id in a path counts as
    /// one of the first cookie.
    pub fn learn_from(sessions: Sessions, cookies: impl IntoIterator<Item = SessionCookie>) -> Self {
        Self::new(Strategy::Learn(Learn { sessions, cookies: cookies.into_iter().collect() }))
    }

    /// Binds a client to an endpoint with a signed cookie of the front end, so that front ends
    /// store nothing. Takes a [`Secret`], or a [`StickyCookie`] with attributes.
    pub fn cookie(cookie: impl Into<StickyCookie>) -> Self {
        Self::new(Strategy::Sticky(cookie.into()))
    }

    /// Binds a session to the endpoint whose [route](crate::Endpoint::route) is in its id.
    ///
    /// The route follows the first dot of `JSESSIONID` or `;jsessionid=`. Tomcat puts it there when
    /// its `jvmRoute` is set.
    ///
    /// Endpoints may share a route, as in nginx. The first primary endpoint with the route serves.
    /// If it is not eligible, the policy picks another primary endpoint. The route is looked up
    /// among the backups only if no primary endpoint is eligible.
    pub fn route() -> Self {
        Self::route_of(SessionCookie::of_kylin())
    }

    /// Binds a session to the endpoint whose route is in its id. One of these cookies or
    /// `;jsessionid=` carries the id.
    pub fn route_of(cookies: impl IntoIterator<Item = SessionCookie>) -> Self {
        Self::new(Strategy::Route(Route { cookies: cookies.into_iter().collect() }))
    }

    /// Binds a session to the endpoint of the [route](crate::Endpoint::route) that the application
    /// names: a [`SessionRoute`] in the request's extensions.
    pub fn given_route() -> Self {
        Self::new(Strategy::GivenRoute)
    }

    /// Serves nodes that replicate their sessions, for example with a session manager that uses
    /// Redis.
    ///
    /// Any node serves any request of a session. A new session stays with its node for a moment,
    /// until the other nodes can find it.
    pub fn replicated(sessions: ReplicatedSessions) -> Self {
        Self::new(Strategy::Replicated(sessions.build()))
    }

    /// Relays logins: the front end keeps the login of each session and logs in at every node that
    /// does not know it.
    ///
    /// Any node serves any request of a session, so every policy balances freely, and no login is
    /// lost when a node fails. To do this, the front end keeps credentials. [`LoginRelay`]
    /// describes how they are protected, and what clients see.
    ///
    /// ```
    /// use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
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
    pub fn login_relay(relay: LoginRelay) -> Self {
        Self::new(Strategy::LoginRelay(Arc::new(relay.build())))
    }

    /// Sends all requests of a user to one endpoint, by the user name in their Basic credentials.
    /// The endpoint follows from rendezvous hashing of a keyed hash. All front ends with the same
    /// secret choose the same endpoint.
    ///
    /// This suits clients without cookies, whose requests each cost a node a login. All requests of
    /// one user go to one node, so an application with a single user loads only one node.
    pub fn user(secret: Secret) -> Self {
        Self::new(Strategy::User).or_user(secret)
    }

    /// Sends requests without a bound session to the endpoint of their [user](Self::user).
    pub fn or_user(mut self, secret: Secret) -> Self {
        self.user = Some(User::new(&secret));
        self
    }

    /// Sets whether a session that is bound to a [backup](crate::Endpoint::backup) moves to a
    /// primary endpoint as soon as one is eligible, as in nginx. Default: no, as in HAProxy: the
    /// session stays where its login is.
    ///
    /// A [route](Self::route) is always looked up among the primary endpoints first.
    pub fn primaries_first(mut self, primaries_first: bool) -> Self {
        self.primaries_first = primaries_first;
        self
    }

    pub(crate) fn has_primaries_first(&self) -> bool {
        self.primaries_first
    }

    fn new(strategy: Strategy) -> Self {
        Affinity { strategy: Arc::new(strategy), user: None, primaries_first: false }
    }

    /// Looks up the session of `request`, and removes cookies that no node may see.
    pub(crate) fn begin<'a: 'r, 'r>(
        &'a self,
        context: &RequestContext,
        request: &'r mut Request<Body>,
    ) -> MaybeReady<'r, RequestSession<'a>> {
        let by_user = |user: &User| user.hint(context.authorization_in(request.headers())?);
        let fallback = self.user.as_ref().and_then(by_user).unwrap_or_default();
        let hinted = |hint: Option<EndpointHint>, fallback| {
            MaybeReady::Ready(SessionContext::new(hint.unwrap_or(fallback), BoundSession::Hinted))
        };
        match &*self.strategy {
            Strategy::User => hinted(None, fallback),
            Strategy::Learn(learn) => {
                learn.begin(context, fallback).map(|session| session.with(|state| BoundSession::Learn(learn, state)))
            }
            Strategy::Sticky(cookie) => {
                let session = cookie.begin(context, fallback);
                cookie.strip(request);
                MaybeReady::Ready(session.with(|state| BoundSession::Sticky(cookie, state)))
            }
            Strategy::Route(route) => {
                let (hint, names_session) = route.find(context);
                let state = BoundSession::Route { names_session };
                MaybeReady::Ready(SessionContext::new(hint.unwrap_or(fallback), state))
            }
            Strategy::GivenRoute => match SessionRoute::of(request.extensions()) {
                Some((hint, is_required)) => {
                    let session = SessionContext::new(hint, BoundSession::Hinted);
                    MaybeReady::Ready(SessionContext { is_required, ..session })
                }
                None => hinted(None, fallback),
            },
            Strategy::Replicated(replicated) => replicated
                .begin(context, fallback)
                .map(|session| session.with(|state| BoundSession::Replicated(replicated, state))),
            #[cfg(feature = "login-relay")]
            Strategy::LoginRelay(relay) => relay.begin(context, request).map(|mut relayed| {
                // The user decides only for requests without a session.
                let hint = if relayed.has_session() { relay.hint(&relayed) } else { fallback };
                let in_use = relayed.in_use.take();
                SessionContext { hint, is_required: false, in_use, state: BoundSession::LoginRelay(relay, relayed) }
            }),
        }
    }
}

impl RequestSession<'_> {
    /// Returns whether a copy of the request must be kept until its response is settled, because
    /// the request may have to be sent again. Called before each attempt.
    pub(crate) fn may_send_again(&self) -> bool {
        match &self.state {
            BoundSession::Hinted | BoundSession::Learn(..) | BoundSession::Sticky(..) | BoundSession::Route { .. } => {
                false
            }
            BoundSession::Replicated(replicated, state) => replicated.may_send_again(state),
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(_, relayed) => relayed.may_send_again(),
        }
    }

    /// Returns whether the request names an ended session, so that it may get no copied response.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.state {
            BoundSession::Hinted
            | BoundSession::Learn(..)
            | BoundSession::Sticky(..)
            | BoundSession::Route { .. }
            | BoundSession::Replicated(..) => false,
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(_, relayed) => relayed.has_ended(),
        }
    }

    /// Returns the login relay, which keeps cookies of nodes from clients.
    #[cfg(feature = "login-relay")]
    pub(crate) fn relay(&self) -> Option<(&Relay, &RelayRequest)> {
        if let BoundSession::LoginRelay(relay, relayed) = &self.state { Some((relay, relayed)) } else { None }
    }

    /// Returns whether the request names a session of the nodes, in a cookie or in its path. The
    /// strategy knows which cookies hold one.
    pub(crate) fn is_named(&self, request: &RequestContext) -> bool {
        match &self.state {
            BoundSession::Hinted | BoundSession::Sticky(..) => request.names_kylin_session(),
            BoundSession::Learn(_, learned) => learned.names_session(),
            BoundSession::Route { names_session } => *names_session,
            BoundSession::Replicated(_, state) => state.has_cookie() || request.path_session_id().is_some(),
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(..) => request.names_kylin_session(),
        }
    }

    /// Returns whether only one node has the session, and it is unknown which.
    pub(crate) fn is_at_unknown_node(&self) -> bool {
        self.is_at_one_node() && !self.hint.is_binding()
    }

    /// Returns whether only the node that the hint names has the session.
    pub(crate) fn is_at_bound_node(&self) -> bool {
        self.is_at_one_node() && self.hint.is_binding()
    }

    fn is_at_one_node(&self) -> bool {
        match &self.state {
            BoundSession::Hinted | BoundSession::Learn(..) | BoundSession::Sticky(..) | BoundSession::Route { .. } => {
                true
            }
            BoundSession::Replicated(..) => false,
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(..) => false,
        }
    }

    /// Returns whether [`prepare`](Self::prepare) may change the request.
    pub(crate) fn changes_requests(&self) -> bool {
        match &self.state {
            BoundSession::Hinted | BoundSession::Learn(..) | BoundSession::Sticky(..) | BoundSession::Route { .. } => {
                false
            }
            BoundSession::Replicated(replicated, state) => replicated.changes_request(state),
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(..) => true,
        }
    }

    /// Prepares `request` for `endpoint`; returns `None` if the request can be sent as it is.
    #[cfg_attr(not(feature = "login-relay"), allow(unused_variables, reason = "only the login relay talks to nodes"))]
    pub(crate) fn prepare<'a>(
        &'a mut self,
        endpoint: &'a EndpointId,
        nodes: &'a dyn Nodes,
        request: &'a mut Request<Body>,
    ) -> Option<BoxFuture<'a, PrepareOutcome>> {
        match &mut self.state {
            BoundSession::Hinted | BoundSession::Learn(..) | BoundSession::Sticky(..) | BoundSession::Route { .. } => {
                None
            }
            BoundSession::Replicated(replicated, state) => {
                replicated.prepare(state, request);
                None
            }
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(relay, relayed) => {
                relay.prepare(relayed, &mut self.hint, endpoint, nodes, request)
            }
        }
    }

    /// Learns from the head of the response that the client gets, and may change its headers.
    pub(crate) fn settle<'a>(
        &'a mut self,
        request: &'a RequestContext,
        endpoint: &'a EndpointId,
        move_reasons: MoveReasons,
        nodes: &'a dyn Nodes,
        response: &'a mut Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        let context = ResponseContext { request, endpoint, hint: &self.hint, move_reasons, nodes };
        match &mut self.state {
            BoundSession::Hinted | BoundSession::Route { .. } => MaybeReady::Ready(AfterResponse::Return),
            BoundSession::Learn(learn, state) => learn.settle(state, &context, response),
            BoundSession::Sticky(cookie, state) => MaybeReady::Ready(cookie.settle(*state, &context, response)),
            BoundSession::Replicated(replicated, state) => replicated.settle(state, &context, response),
            #[cfg(feature = "login-relay")]
            BoundSession::LoginRelay(relay, relayed) => relay.settle(relayed, context, response),
        }
    }

    /// Takes the guard that must live until the body of the response has ended.
    pub(crate) fn take_in_use(&mut self) -> Option<DropGuard> {
        self.in_use.take()
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.strategy {
            Strategy::User => "Affinity::user",
            Strategy::Learn(_) => "Affinity::learn",
            Strategy::Sticky(_) => "Affinity::cookie",
            Strategy::Route(_) => "Affinity::route",
            Strategy::GivenRoute => "Affinity::given_route",
            Strategy::Replicated(_) => "Affinity::replicated",
            #[cfg(feature = "login-relay")]
            Strategy::LoginRelay(_) => "Affinity::login_relay",
        })
    }
}
