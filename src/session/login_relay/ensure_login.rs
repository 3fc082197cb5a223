use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Relay;
use super::login::{LoginOutcome, log_in, logout};
use super::record::{NodeCookie, RelayedSession};
use super::request::RelayRequest;
use super::sealed_sessions::{OpenSession, Opened};
use crate::backend::SendErrorKind;
use crate::backend::node_client::NodeClient;
use crate::endpoint::EndpointId;
use crate::session::hook::Nodes;

/// A login of a session at a node.
struct LoginRequest {
    endpoint: EndpointId,
    node: NodeClient,
    headers: HeaderMap,
    /// The cookie that the node has just rejected.
    rejected: Option<NodeCookie>,
}

impl Relay {
    /// Logs the session of a request in at a node, or waits for the login that is running. The
    /// session then has the cookie. `rejected` is the cookie that the node has just rejected.
    pub(super) async fn ensure_logged_in(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        rejected: Option<NodeCookie>,
    ) -> LoginOutcome {
        let Some(known) = &mut relayed.session else { return LoginOutcome::SessionGone };
        let Some(node) = nodes.find(endpoint) else { return LoginOutcome::UNREACHABLE };
        let login = || {
            let (relay, session) = (Arc::clone(self), (**known).clone());
            let (endpoint, headers) = (endpoint.clone(), relayed.client_headers.clone());
            let request = LoginRequest { endpoint, node, headers, rejected };
            async move { relay.log_in_once(session, request).await }
        };
        let outcome = self.logins.run(known.key, endpoint, login).await;
        if let LoginOutcome::LoggedIn(cookie) = &outcome {
            known.session.set_cookie(endpoint, Some(cookie.clone()));
        }
        outcome
    }

    /// Logs in for all requests that wait for it.
    async fn log_in_once(&self, mut known: OpenSession, request: LoginRequest) -> LoginOutcome {
        let fingerprint = self.sessions.fingerprint(known.session.credentials());
        let lock = self.logins.lock(fingerprint);
        let Ok(_guard) = timeout(self.login_timeout, lock.lock()).await else {
            return LoginOutcome::NotReady(SendErrorKind::HeadTimeout);
        };
        // The near cache may be outdated: another front end may have logged in or out.
        match self.sessions.refresh(&known).await {
            Opened::Session(current) => known = *current,
            Opened::Absent => return LoginOutcome::SessionGone,
            Opened::Unknown => {}
        }
        if let Some(cookie) = request.current_cookie(&known.session) {
            return LoginOutcome::LoggedIn(cookie.clone());
        }
        if self.logins.is_refused(&fingerprint) || self.sessions.is_refused(&fingerprint).await {
            self.sessions.remove(&known.key).await;
            return LoginOutcome::Refused;
        }
        let (node, headers) = (request.node.clone().timeout(self.login_timeout), request.headers.clone());
        match log_in(node, known.session.credentials(), headers, &self.cookies).await {
            LoginOutcome::LoggedIn(cookie) => self.publish(known, request, cookie).await,
            LoginOutcome::Refused => {
                tracing::info!(endpoint = %request.endpoint, "node rejected the login of a session; it is not sent again");
                self.end_refused(&known).await;
                LoginOutcome::Refused
            }
            outcome @ (LoginOutcome::NoCookie | LoginOutcome::SessionGone | LoginOutcome::NotReady(_)) => outcome,
        }
    }

    /// Stores the cookie of a new login. If another front end was faster, its cookie counts.
    async fn publish(&self, mut known: OpenSession, request: LoginRequest, own: NodeCookie) -> LoginOutcome {
        let mut first = None;
        let change = self.sessions.change(&mut known, |session| {
            first = request.current_cookie(session).cloned();
            session.set_cookie(&request.endpoint, Some(own.clone()));
            first.is_none()
        });
        let exists = change.await;
        tracing::debug!(endpoint = %request.endpoint, "session logged in at node");
        if !exists || first.is_some() {
            // The new session at the node is not used.
            let node = request.node.timeout(self.logout_timeout);
            let _ = node.send(logout(None, &request.headers, &own)).await;
        }
        if exists { LoginOutcome::LoggedIn(first.unwrap_or(own)) } else { LoginOutcome::SessionGone }
    }

    /// Ends a session whose login was refused. Its credentials are not used again.
    pub(super) async fn end_refused(&self, known: &OpenSession) {
        let fingerprint = self.sessions.fingerprint(known.session.credentials());
        self.logins.mark_refused(fingerprint);
        self.sessions.mark_refused(&fingerprint).await;
        self.sessions.remove(&known.key).await;
    }

    /// Logs a removed session out at all nodes but `except`, as far as the timeout allows. `like` is
    /// the client's own logout.
    pub(super) async fn log_out(
        &self,
        known: &OpenSession,
        except: Option<&EndpointId>,
        nodes: &dyn Nodes,
        headers: &HeaderMap,
        like: Option<(&Method, &Uri)>,
    ) {
        let mut logouts = JoinSet::new();
        for (endpoint, cookie) in known.session.nodes().iter().filter(|(endpoint, _)| Some(endpoint) != except) {
            if let Some(node) = nodes.find(endpoint) {
                let (node, request) = (node.timeout(self.logout_timeout), logout(like, headers, cookie));
                logouts.spawn(async move { node.send(request).await.is_ok() });
            }
        }
        while let Some(confirmed) = logouts.join_next().await {
            if !matches!(confirmed, Ok(true)) {
                tracing::debug!("a node did not confirm a logout in time");
            }
        }
    }
}

impl LoginRequest {
    /// Returns the session's cookie at the node, unless the node has rejected it.
    fn current_cookie<'s>(&self, session: &'s RelayedSession) -> Option<&'s NodeCookie> {
        session.cookie(&self.endpoint).filter(|cookie| self.rejected.as_ref() != Some(*cookie))
    }
}
