//! The steps of one request through the relay.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};

use super::Relay;
use super::cookies::{NodeCookieChange, OwnCookie, remove_id_from_location, set_cookie_header};
use super::credentials::Credentials;
use super::logins::{ClientHeaders, LoginOutcome};
use super::record::NodeCookie;
use super::sealed_sessions::{OpenSession, Opened};
use crate::backend::{SendError, SendErrorKind};
use crate::body::Body;
use crate::drop_guard::DropGuard;
use crate::endpoint::EndpointId;
use crate::kylin::class::SessionCall;
use crate::request::RequestContext;
use crate::session::SessionKey;
use crate::session::hook::{
    AfterResponse, BoxFuture, EndpointHint, LoginUnavailable, MaybeReady, Nodes, PrepareOutcome, ResponseContext,
};

/// The state of one request in the relay, over all its attempts.
pub(crate) struct RelayRequest {
    pub(super) call: SessionCall,
    /// The client's own cookies, without those of the front end and of nodes.
    cookies: Option<HeaderValue>,
    /// The client's `Authorization`, if the node checks it.
    authorization: Option<HeaderValue>,
    /// Credentials of the client other than those of its session: a login, or a client that sends
    /// them with every request.
    pub(super) client_credentials: Option<ClientCredentials>,
    /// The headers for the relay's own requests. Empty unless there is a session.
    pub(super) client_headers: ClientHeaders,
    /// Whether the client has sent the front end's cookie, and so keeps cookies.
    has_cookie: bool,
    pub(super) session: Option<Box<OpenSession>>,
    /// Whether the client's cookie names no session, or a session that has ended.
    pub(super) is_ended: bool,
    /// Keeps the session alive until the response is complete.
    pub(crate) in_use: Option<DropGuard>,
    pub(super) presented: Presented,
    /// The node at which a 401 has caused a new login.
    pub(super) retried_at: Option<EndpointId>,
    /// The node where the session could not be logged in after a 401.
    pub(super) not_ready: Option<(EndpointId, SendErrorKind)>,
    /// The nodes where the session cannot be logged in now.
    pub(super) postponed_at: Vec<EndpointId>,
}

/// Credentials in a request, and their fingerprint.
pub(super) struct ClientCredentials {
    pub(super) credentials: Credentials,
    pub(super) fingerprint: SessionKey,
}

/// The credential that identifies the session in the request to the node.
pub(super) enum Presented {
    Nothing,
    Cookie(NodeCookie),
    /// The credentials, and the cookie if the session has one.
    Credentials(Option<NodeCookie>),
}

impl Relay {
    /// Finds the session of a request.
    pub(crate) fn begin<'a>(
        self: &'a Arc<Self>,
        context: &RequestContext,
        request: &'a mut Request<Body>,
    ) -> MaybeReady<'a, Box<RelayRequest>> {
        let call = context.session_call(request.method());
        let has_cookies = context.cookie_header().is_some();
        let own_cookie = match has_cookies {
            true => self.cookies.take_from_request(request.headers_mut()),
            false => OwnCookie::default(),
        };
        let headers = request.headers();
        let authorization = context.authorization_in(headers).cloned();
        let client_credentials = match (call, &authorization) {
            (SessionCall::LoginForm, _) => {
                request.body().whole().and_then(|body| Credentials::from_form(headers, body))
            }
            (_, Some(value)) => Credentials::from_authorization(value.as_bytes()),
            (_, None) => None,
        };
        // A request with a scheme other than Basic has no session of the relay.
        let other_scheme = authorization.is_some() && client_credentials.is_none() && call != SessionCall::LoginForm;
        let mut relayed = Box::new(RelayRequest {
            call,
            cookies: headers.get(header::COOKIE).filter(|_| has_cookies).cloned(),
            authorization,
            client_credentials: client_credentials.map(|credentials| ClientCredentials {
                fingerprint: self.sessions.fingerprint(&credentials),
                credentials,
            }),
            client_headers: ClientHeaders::default(),
            has_cookie: own_cookie.is_present,
            session: None,
            is_ended: own_cookie.is_present && own_cookie.id.is_none(),
            in_use: None,
            presented: Presented::Nothing,
            retried_at: None,
            not_ready: None,
            postponed_at: Vec::new(),
        });
        let Some(id) = own_cookie.id.filter(|_| !other_scheme) else { return MaybeReady::Ready(relayed) };
        self.sessions.find(context.client(), id).map(|opened| {
            self.set_session(&mut relayed, opened);
            if relayed.session.is_some() {
                relayed.client_headers = ClientHeaders::of(headers);
            }
            relayed
        })
    }

    fn set_session(&self, relayed: &mut RelayRequest, opened: Opened) {
        match opened {
            Opened::Session(session) => {
                relayed.in_use = Some(self.sessions.keep_alive(&session));
                relayed.set_session(session);
            }
            Opened::Absent => relayed.is_ended = true,
            // The client keeps its cookie, because the store may soon be available again.
            Opened::Unknown => {}
        }
    }

    /// Returns the endpoint for the session. While logins with its credentials fail, it is a node
    /// that knows the session.
    pub(crate) fn hint(&self, relayed: &RelayRequest) -> EndpointHint {
        match &relayed.session {
            Some(known) if self.is_waiting(known) => relayed.known_node(),
            Some(_) | None => EndpointHint::Any,
        }
    }

    fn is_waiting(&self, known: &OpenSession) -> bool {
        self.backoff.is_waiting(|| known.fingerprint())
    }

    /// Prepares the request for the node at `endpoint`. If the session cannot be logged in there
    /// now, `hint` names a node that knows it.
    pub(crate) fn prepare<'a>(
        self: &'a Arc<Self>,
        relayed: &'a mut RelayRequest,
        hint: &'a mut EndpointHint,
        endpoint: &'a EndpointId,
        nodes: &'a dyn Nodes,
        request: &'a mut Request<Body>,
    ) -> Option<BoxFuture<'a, PrepareOutcome>> {
        if let Some(client) = &relayed.client_credentials {
            let cache = self.node_sessions.as_ref().filter(|_| relayed.keeps_no_cookies());
            let cookie = cache.and_then(|cache| cache.get(client.fingerprint, endpoint));
            relayed.present(request, cookie, None);
            return None;
        }
        let Some(known) = &relayed.session else {
            relayed.present(request, None, None);
            return None;
        };
        if relayed.call == SessionCall::Logout {
            return Some(Box::pin(self.prepare_logout(relayed, endpoint, nodes, request)));
        }
        if let Some(cookie) = known.cookies().get(endpoint).cloned() {
            let with_credentials = needs_credentials(request) && !self.backoff.has_failed(&known.fingerprint());
            let credentials = if with_credentials { self.sessions.credentials(known) } else { None };
            relayed.present(request, Some(cookie), credentials);
            return None;
        }
        Some(Box::pin(async move {
            if relayed.postponed_at.contains(endpoint) {
                *hint = relayed.known_node();
                return PrepareOutcome::Failed(SendError::new(SendErrorKind::Limit, LoginUnavailable));
            }
            if let Some((_, kind)) = relayed.not_ready.take_if(|(at, _)| at == endpoint) {
                return PrepareOutcome::Failed(SendError::new(kind, LoginFailed));
            }
            match self.ensure_logged_in(relayed, endpoint, nodes, None).await {
                LoginOutcome::LoggedIn(cookie) => {
                    let known = relayed.session.as_ref().filter(|_| needs_credentials(request));
                    let credentials = known.and_then(|known| self.sessions.credentials(known));
                    relayed.present(request, Some(cookie), credentials);
                }
                LoginOutcome::NoCookie => {
                    let credentials = relayed.session.as_ref().and_then(|known| self.sessions.credentials(known));
                    relayed.present(request, None, credentials);
                }
                LoginOutcome::SessionGone => {
                    relayed.end_session();
                    relayed.present(request, None, None);
                }
                LoginOutcome::Postponed => {
                    relayed.postponed_at.push(endpoint.clone());
                    *hint = relayed.known_node();
                    // The failure is not the node's.
                    return PrepareOutcome::Failed(SendError::new(SendErrorKind::Limit, LoginUnavailable));
                }
                LoginOutcome::NotReady(kind) => {
                    return PrepareOutcome::Failed(SendError::new(unsent(kind), LoginFailed));
                }
            }
            PrepareOutcome::Send
        }))
    }

    /// Ends the session in the store and at all other nodes, before the client's own logout is
    /// sent.
    async fn prepare_logout(
        &self,
        relayed: &mut RelayRequest,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        request: &mut Request<Body>,
    ) -> PrepareOutcome {
        let mut cookie = None;
        if let Some(known) = &relayed.session {
            if !std::mem::replace(&mut relayed.is_ended, true) {
                self.sessions.end(&known.key).await;
                let like = Some((request.method(), request.uri()));
                self.log_out(known, Some(endpoint), nodes, &relayed.client_headers, like).await;
            }
            cookie = known.cookies().get(endpoint).cloned();
        }
        relayed.present(request, cookie, None);
        PrepareOutcome::Send
    }

    /// Learns from the response, and hides the sessions of nodes from the client.
    pub(crate) fn settle<'a>(
        self: &'a Arc<Self>,
        relayed: &'a mut RelayRequest,
        served: ResponseContext<'a>,
        response: &'a mut Response<Body>,
    ) -> MaybeReady<'a, AfterResponse> {
        let change = self.cookies.take_from_response(response.headers_mut());
        remove_id_from_location(response.headers_mut());
        let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        let is_current = relayed.session.as_ref().is_none_or(|known| known.is_current());
        let is_ordinary = match &relayed.client_credentials {
            Some(_) => !change.is_login(relayed.call, response),
            None => relayed.call != SessionCall::Logout,
        };
        let is_ordinary = is_ordinary && !relayed.depends_on_body(response);
        if change.is_none() && !unauthorized && is_current && is_ordinary {
            self.delete_ended_cookie(relayed, response);
            return MaybeReady::Ready(AfterResponse::Return);
        }
        MaybeReady::boxed(async move {
            if relayed.client_credentials.is_some() {
                self.after_credentials(relayed, &served, change, response).await;
            } else if let Some(check) = relayed.credential_check(response).await {
                if self.after_unauthorized(relayed, &served, check).await {
                    return AfterResponse::SendAgain;
                }
            } else if relayed.call != SessionCall::Logout {
                self.update_session(relayed, &served, change).await;
            }
            self.delete_ended_cookie(relayed, response);
            AfterResponse::Return
        })
    }

    /// Stores a cookie that the node has changed, and seals with the current secret.
    async fn update_session(&self, relayed: &mut RelayRequest, served: &ResponseContext<'_>, change: NodeCookieChange) {
        let Some(known) = &mut relayed.session else { return };
        let is_outdated = !known.is_current();
        let update = self.sessions.change(known, |cookies| {
            let changes = !change.is_none() && cookies.get(served.endpoint) != change.set.as_ref();
            if changes {
                cookies.set(served.endpoint, change.set.clone());
            }
            changes || is_outdated
        });
        update.await;
    }

    fn delete_ended_cookie(&self, relayed: &RelayRequest, response: &mut Response<Body>) {
        if relayed.is_ended
            && let Some(line) = self.cookies.delete()
        {
            response.headers_mut().append(header::SET_COOKIE, line);
        }
    }
}

impl RelayRequest {
    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Returns whether the client's cookie names no session, or a session that has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_ended
    }

    /// Returns whether the request may have to be sent again after its response.
    pub(crate) fn may_send_again(&self) -> bool {
        self.session.is_some() && self.client_credentials.is_none() && self.call != SessionCall::Logout
    }

    fn set_session(&mut self, session: Box<OpenSession>) {
        let is_login = matches!(self.call, SessionCall::Login | SessionCall::LoginForm);
        let same_credentials =
            self.client_credentials.as_ref().is_some_and(|client| client.fingerprint == session.fingerprint());
        if self.call == SessionCall::Logout || (!is_login && same_credentials) {
            // Some clients, such as JDBC, send the session's credentials with each request.
            self.client_credentials = None;
            self.authorization = None;
        }
        self.session = Some(session);
    }

    /// Returns whether the client seems to send credentials with every request and to keep no
    /// cookies.
    pub(super) fn keeps_no_cookies(&self) -> bool {
        !self.has_cookie && !matches!(self.call, SessionCall::Login | SessionCall::LoginForm)
    }

    /// Returns a node that knows the session. Requests are spread over such nodes. Nodes where this
    /// request could not log in are left out.
    fn known_node(&self) -> EndpointHint {
        let nodes = self.session.as_ref().map_or(&[][..], |known| known.cookies().all());
        let is_left = |index: &usize| !self.postponed_at.contains(&nodes[*index].0);
        let left = (0..nodes.len()).filter(is_left).count();
        let chosen = (left > 0).then(|| fastrand::usize(..left));
        let chosen = chosen.and_then(|chosen| (0..nodes.len()).filter(is_left).nth(chosen));
        chosen.map_or(EndpointHint::Any, |index| EndpointHint::Id(nodes[index].0.clone()))
    }

    /// Continues without the session.
    pub(super) fn end_session(&mut self) {
        self.session = None;
        self.is_ended = true;
    }

    /// Adds the session's cookie at this node, or its credentials, to the request. They replace
    /// those of another node.
    fn present(&mut self, request: &mut Request<Body>, cookie: Option<NodeCookie>, credentials: Option<Credentials>) {
        let headers = request.headers_mut();
        set_cookie_header(headers, self.cookies.as_ref(), cookie.as_ref());
        let own = credentials.as_ref().and_then(Credentials::authorization);
        self.presented = match cookie {
            cookie if own.is_some() => Presented::Credentials(cookie),
            Some(cookie) => Presented::Cookie(cookie),
            None => Presented::Nothing,
        };
        match own.or_else(|| self.authorization.clone()) {
            Some(mut value) => {
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            None => _ = headers.remove(header::AUTHORIZATION),
        }
    }
}

/// Returns whether the node needs the credentials in addition to its cookie, because the request
/// cannot be sent again after a 401. A node that knows the cookie ignores them.
fn needs_credentials(request: &Request<Body>) -> bool {
    request.body().replay().is_none()
}

/// Converts the error of a login. The client's own request was not sent in any case.
pub(super) fn unsent(kind: SendErrorKind) -> SendErrorKind {
    match kind {
        SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout => SendErrorKind::ConnectTimeout,
        SendErrorKind::Limit | SendErrorKind::HeadTooLarge => SendErrorKind::Limit,
        SendErrorKind::Shortage => SendErrorKind::Shortage,
        SendErrorKind::Connect
        | SendErrorKind::Refused
        | SendErrorKind::Broken
        | SendErrorKind::Stale
        | SendErrorKind::Invalid
        | SendErrorKind::RequestBody => SendErrorKind::Connect,
    }
}

/// The reason why a request was not sent to a node.
#[derive(Debug, thiserror::Error)]
#[error("the login of the session at the node failed")]
struct LoginFailed;
