use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LoginOutcome;
use super::attempt::{Attempt, ClientHeaders, log_in, logout};
use super::backoff::{DELAY, MAX_DELAY, Permit};
use crate::backend::SendErrorKind;
use crate::backend::node_client::NodeClient;
use crate::endpoint::EndpointId;
use crate::kylin::response::CredentialCheck;
use crate::session::SessionKey;
use crate::session::hook::Nodes;
use crate::session::login_relay::Relay;
use crate::session::login_relay::record::{NodeCookie, NodeCookies};
use crate::session::login_relay::request::RelayRequest;
use crate::session::login_relay::sealed_sessions::{Mark, OpenSession, Opened};

/// A login of a session at a node.
struct LoginRequest {
    endpoint: EndpointId,
    node: NodeClient,
    headers: HeaderMap,
    /// The cookie that the node has just rejected.
    rejected: Option<NodeCookie>,
    /// The fingerprint of the credentials.
    fingerprint: SessionKey,
}

impl Relay {
    /// Logs the session of a request in at a node, or waits for a running login. The session then
    /// has the cookie. `rejected` is the cookie that the node has just rejected.
    pub(in super::super) async fn ensure_logged_in(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        rejected: Option<NodeCookie>,
    ) -> LoginOutcome {
        let Some(known) = &mut relayed.session else { return LoginOutcome::SessionGone };
        let Some(node) = nodes.find(endpoint) else { return LoginOutcome::UNREACHABLE };
        let fingerprint = known.fingerprint();
        let is_known_elsewhere = known.cookies().is_known_elsewhere(endpoint);
        let outcome = match is_known_elsewhere && self.must_wait(&fingerprint).await {
            true => LoginOutcome::Postponed,
            false => {
                let login = || {
                    let (relay, session) = (Arc::clone(self), (**known).clone());
                    let (endpoint, headers) = (endpoint.clone(), relayed.client_headers.to_map());
                    let request = LoginRequest { endpoint, node, headers, rejected, fingerprint };
                    async move { relay.log_in_once(session, request).await }
                };
                self.logins.run(known.key, endpoint, login).await
            }
        };
        match outcome {
            LoginOutcome::LoggedIn(cookie) => {
                known.set_cookie(endpoint, Some(cookie.clone()));
                LoginOutcome::LoggedIn(cookie)
            }
            LoginOutcome::Postponed if self.backoff.is_confirmed(&fingerprint) => {
                self.leave_refused(known, endpoint, nodes).await
            }
            outcome => outcome,
        }
    }

    /// Logs in for all requests that wait for this login.
    async fn log_in_once(&self, mut known: OpenSession, request: LoginRequest) -> LoginOutcome {
        let LoginRequest { endpoint, fingerprint, .. } = &request;
        let is_known_elsewhere = known.cookies().is_known_elsewhere(endpoint);
        let lock = self.logins.lock(*fingerprint);
        let guard = match is_known_elsewhere && self.backoff.has_failed(fingerprint) {
            // The login that holds the lock may take long, and another node can serve the request
            // now, so it does not wait.
            true => lock.try_lock().ok(),
            false => timeout(self.login_timeout, lock.lock()).await.ok(),
        };
        let Some(_guard) = guard else { return LoginOutcome::Postponed };
        if let Some(outcome) = self.outcome_without_login(&mut known, &request, is_known_elsewhere).await {
            return outcome;
        }
        let (node, headers) = (request.node.clone().timeout(self.login_timeout), request.headers.clone());
        let Some(credentials) = self.sessions.credentials(&known) else { return LoginOutcome::SessionGone };
        let attempt = log_in(node, &credentials, headers, &self.cookies).await;
        self.after_attempt(known, request, attempt).await
    }

    /// Returns the outcome if the session is already logged in, or must not send its credentials
    /// now. Updates `known` from the store.
    async fn outcome_without_login(
        &self,
        known: &mut OpenSession,
        request: &LoginRequest,
        is_known_elsewhere: bool,
    ) -> Option<LoginOutcome> {
        let LoginRequest { endpoint, fingerprint, .. } = request;
        // The near cache may be outdated: another front end may have logged in or out.
        match self.sessions.refresh(known).await {
            Opened::Session(current) => *known = *current,
            Opened::Absent => return Some(LoginOutcome::SessionGone),
            Opened::Unknown => {}
        }
        if let Some(cookie) = request.current_cookie(known.cookies()) {
            return Some(LoginOutcome::LoggedIn(cookie.clone()));
        }
        let mark = self.look_for_mark(fingerprint).await;
        // The login before this one may have failed.
        if is_known_elsewhere && self.backoff.is_waiting(|| *fingerprint) {
            return Some(LoginOutcome::Postponed);
        }
        let may_send = match (self.backoff.permit(fingerprint, endpoint), mark) {
            (Permit::Wait, _) | (_, Mark::Wrong) => false,
            (Permit::Send, Mark::RefusedBy(node)) => {
                self.backoff.refused(*fingerprint, &node);
                self.backoff.marked(fingerprint);
                false
            }
            (Permit::Send, Mark::Absent | Mark::Unknown) => true,
            // The store is unavailable, but may have a mark that the credentials are wrong.
            (Permit::SendOnce, Mark::Unknown) if self.backoff.is_confirmed(fingerprint) => false,
            // The delays of all front ends end at about the same time.
            (Permit::SendOnce, Mark::RefusedBy(_) | Mark::Absent | Mark::Unknown) => {
                let is_claimed = self.sessions.claim_login(fingerprint, DELAY).await;
                if is_claimed {
                    self.backoff.claimed(fingerprint);
                }
                is_claimed
            }
        };
        (!may_send).then_some(LoginOutcome::Postponed)
    }

    /// Returns whether no node gets the credentials now. During a delay, the store shows whether
    /// another front end has seen them accepted.
    async fn must_wait(&self, fingerprint: &SessionKey) -> bool {
        if self.backoff.is_waiting(|| *fingerprint) && self.backoff.is_marked(fingerprint) {
            self.look_for_mark(fingerprint).await;
        }
        self.backoff.is_waiting(|| *fingerprint)
    }

    /// Looks up the mark of the credentials, from any front end, and records it for this front end.
    async fn look_for_mark(&self, fingerprint: &SessionKey) -> Mark {
        let begun = self.backoff.now();
        let mark = self.sessions.mark(fingerprint).await;
        match mark {
            Mark::Wrong => {
                self.backoff.wrong(*fingerprint);
                self.backoff.marked(fingerprint);
            }
            Mark::RefusedBy(_) => self.backoff.marked(fingerprint),
            Mark::Absent => self.backoff.unmarked(fingerprint, begun),
            Mark::Unknown => {}
        }
        mark
    }

    /// Records the result of a login.
    async fn after_attempt(&self, known: OpenSession, request: LoginRequest, attempt: Attempt) -> LoginOutcome {
        let LoginRequest { endpoint, fingerprint, .. } = &request;
        match attempt {
            Attempt::Responded(CredentialCheck::Accepted, cookie) => {
                if self.backoff.accepted(fingerprint) {
                    self.sessions.remove_marks(fingerprint).await;
                }
                match cookie {
                    Some(cookie) => self.publish(known, request, cookie).await,
                    None => LoginOutcome::NoCookie,
                }
            }
            Attempt::Responded(CredentialCheck::Refused, _) => {
                tracing::info!(%endpoint, "node refused the login of a session; it is not sent again");
                self.forbid(fingerprint).await;
                LoginOutcome::Postponed
            }
            Attempt::Responded(CredentialCheck::Unconfirmed, _) => {
                tracing::info!(%endpoint, "node refused the login of a session, or could not check it");
                self.note_refused(fingerprint, endpoint).await;
                LoginOutcome::Postponed
            }
            Attempt::Responded(CredentialCheck::Unchecked, _) => {
                tracing::info!(%endpoint, "the login of a session cannot be checked");
                self.backoff.unchecked(*fingerprint);
                LoginOutcome::Postponed
            }
            Attempt::Responded(CredentialCheck::Failed, _) | Attempt::TimedOut => {
                tracing::info!(%endpoint, "node could not check the login of a session");
                self.backoff.node_failed(*fingerprint, endpoint);
                LoginOutcome::Postponed
            }
            Attempt::Responded(CredentialCheck::NotServed, _) => LoginOutcome::NotReady(SendErrorKind::Invalid),
            Attempt::Failed(kind) => {
                if !kind.is_unsent() {
                    self.backoff.broke(*fingerprint);
                }
                LoginOutcome::NotReady(kind)
            }
        }
    }

    /// Decides whether to end a session whose credentials were refused, and which is not logged in
    /// at `endpoint`.
    ///
    /// The session ends if no node knows it. Otherwise it stays at the nodes that know it, as it
    /// would without a front end. It also stays if another front end has seen the credentials
    /// accepted meanwhile, and a later request logs it in.
    pub(in super::super) async fn leave_refused(
        &self,
        known: &mut OpenSession,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
    ) -> LoginOutcome {
        match self.sessions.refresh(known).await {
            Opened::Session(current) => *known = *current,
            Opened::Absent => return LoginOutcome::SessionGone,
            Opened::Unknown => {}
        }
        if known.cookies().all().iter().any(|(id, _)| id != endpoint && nodes.find(id).is_some()) {
            return LoginOutcome::Postponed;
        }
        let fingerprint = known.fingerprint();
        if self.backoff.is_marked(&fingerprint) {
            self.look_for_mark(&fingerprint).await;
            if !self.backoff.is_confirmed(&fingerprint) {
                return LoginOutcome::Postponed;
            }
        }
        self.forbid(&fingerprint).await;
        self.sessions.end(&known.key).await;
        LoginOutcome::SessionGone
    }

    /// Stores the cookie of a new login. If another front end was faster, its cookie counts.
    async fn publish(&self, mut known: OpenSession, request: LoginRequest, own: NodeCookie) -> LoginOutcome {
        let mut first = None;
        let change = self.sessions.change(&mut known, |cookies| {
            first = request.current_cookie(cookies).cloned();
            cookies.set(&request.endpoint, Some(own.clone()));
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

    /// Records for all front ends that the credentials are wrong. As long as sessions with these
    /// credentials are used, the credentials are not sent again until a client has logged in with
    /// them.
    pub(in super::super) async fn forbid(&self, fingerprint: &SessionKey) {
        self.backoff.wrong(*fingerprint);
        self.sessions.mark_wrong(fingerprint).await;
        self.backoff.marked(fingerprint);
    }

    /// Records for all front ends that the node at `endpoint` refused the credentials, or could not
    /// check them.
    pub(in super::super) async fn note_refused(&self, fingerprint: &SessionKey, endpoint: &EndpointId) {
        let delay = self.backoff.refused(*fingerprint, endpoint);
        self.sessions.mark_refused_by(fingerprint, endpoint.clone(), delay + MAX_DELAY).await;
        self.backoff.marked(fingerprint);
        if delay > DELAY {
            // The claim ends before the delay of this front end, which began earlier.
            self.sessions.extend_claim(fingerprint, delay - Duration::from_secs(1)).await;
        }
    }

    /// Logs a removed session out at all nodes except `except`, as far as the timeout allows.
    /// `like` is the client's own logout.
    pub(in super::super) async fn log_out(
        &self,
        known: &OpenSession,
        except: Option<&EndpointId>,
        nodes: &dyn Nodes,
        headers: &ClientHeaders,
        like: Option<(&Method, &Uri)>,
    ) {
        let headers = headers.to_map();
        let mut logouts = JoinSet::new();
        for (endpoint, cookie) in known.cookies().all().iter().filter(|(endpoint, _)| Some(endpoint) != except) {
            if let Some(node) = nodes.find(endpoint) {
                let (node, request) = (node.timeout(self.logout_timeout), logout(like, &headers, cookie));
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
    fn current_cookie<'c>(&self, cookies: &'c NodeCookies) -> Option<&'c NodeCookie> {
        cookies.get(&self.endpoint).filter(|cookie| self.rejected.as_ref() != Some(*cookie))
    }
}
