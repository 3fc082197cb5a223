//! Responses of nodes that do not know the session of a request, or refuse its credentials.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode, header};
use tokio::time::timeout;

use super::Relay;
use super::logins::LoginOutcome;
use super::record::NodeCookie;
use super::request::{Presented, RelayRequest, unsent};
use super::sealed_sessions::OpenSession;
use crate::body::Body;
use crate::endpoint::EndpointId;
use crate::kylin::class::SessionCall;
use crate::kylin::response::{CredentialCheck, is_user_source_down};
use crate::session::hook::{Nodes, ResponseContext};

/// The maximum length of an error that is read, in bytes.
const MAX_ERROR: u64 = 64 * 1024;
/// The time that reading an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(1);

impl Relay {
    /// Handles a response to a session that the node does not know. Returns whether the request is to be sent again. `check`:
    /// the result for the credentials, if the request had any.
    pub(super) async fn after_unauthorized(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        served: &ResponseContext<'_>,
        check: CredentialCheck,
    ) -> bool {
        let endpoint = served.endpoint;
        let (outcome, rejected) = match std::mem::replace(&mut relayed.presented, Presented::Nothing) {
            Presented::Cookie(cookie) if relayed.retried_at.as_ref() != Some(endpoint) => {
                relayed.retried_at = Some(endpoint.clone());
                let login = self.ensure_logged_in(relayed, endpoint, served.nodes, Some(cookie.clone()));
                (login.await, Some(cookie))
            }
            Presented::Credentials(cookie) => {
                let Some(known) = &mut relayed.session else { return false };
                (self.after_refused_credentials(known, endpoint, served.nodes, check).await, cookie)
            }
            // The node rejects the cookie of a new login, so another login would not help.
            Presented::Cookie(_) | Presented::Nothing => return false,
        };
        match outcome {
            LoginOutcome::LoggedIn(_) => return true,
            LoginOutcome::NoCookie => {}
            LoginOutcome::NotReady(kind) => relayed.not_ready = Some((endpoint.clone(), unsent(kind))),
            LoginOutcome::Postponed => {
                relayed.postponed_at.push(endpoint.clone());
                self.remove_cookie(relayed, endpoint, rejected).await;
            }
            LoginOutcome::Refused | LoginOutcome::SessionGone => {
                relayed.end_session();
                return false;
            }
        }
        if let Some(known) = &mut relayed.session {
            known.set_cookie(endpoint, None);
        }
        true
    }

    /// Handles a `check` by the node at `endpoint` that did not accept the credentials of a session.
    pub(super) async fn after_refused_credentials(
        &self,
        known: &mut OpenSession,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        check: CredentialCheck,
    ) -> LoginOutcome {
        let fingerprint = known.fingerprint();
        match check {
            CredentialCheck::Refused => {
                self.end_refused(known).await;
                return LoginOutcome::SessionGone;
            }
            CredentialCheck::Unchecked => self.backoff.unchecked(fingerprint),
            CredentialCheck::Accepted
            | CredentialCheck::Unconfirmed
            | CredentialCheck::Failed
            | CredentialCheck::NotServed => {
                self.backoff.refused(fingerprint, endpoint);
            }
        }
        match self.backoff.is_confirmed(&fingerprint) {
            true => self.leave_refused(known, endpoint, nodes).await,
            false => LoginOutcome::Postponed,
        }
    }

    /// Removes a cookie that a node has rejected, so that the node no longer counts as one that knows the session.
    async fn remove_cookie(&self, relayed: &mut RelayRequest, endpoint: &EndpointId, rejected: Option<NodeCookie>) {
        let (Some(known), Some(rejected)) = (&mut relayed.session, rejected) else { return };
        let removal = self.sessions.change(known, |cookies| {
            let is_rejected = cookies.get(endpoint) == Some(&rejected);
            if is_rejected {
                cookies.set(endpoint, None);
            }
            is_rejected
        });
        removal.await;
    }
}

impl RelayRequest {
    /// Returns whether the body of the response may say that the node could not check the credentials. The body is read only if
    /// the request can be sent again, to a node that knows the session.
    pub(super) fn may_be_unchecked(&self, response: &Response<Body>) -> bool {
        let has_credentials = matches!(self.presented, Presented::Credentials(_));
        has_credentials && self.call == SessionCall::WhoAmI && response.status() == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Returns what a response tells about the session's credentials if the node does not know the session.
    pub(super) async fn credential_check(&self, response: &mut Response<Body>) -> Option<CredentialCheck> {
        self.session.as_ref()?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Some(CredentialCheck::of_unauthorized(response.headers()));
        }
        if !self.may_be_unchecked(response) {
            return None;
        }
        let body = std::mem::take(response.body_mut()).collect_up_to(MAX_ERROR);
        let body = timeout(ERROR_TIMEOUT, body).await.ok().and_then(Result::ok).unwrap_or_default();
        let is_unchecked = is_user_source_down(response.status(), response.headers(), &body);
        if body.is_empty() {
            // The client gets the status alone.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        *response.body_mut() = Body::from(body);
        is_unchecked.then_some(CredentialCheck::Unchecked)
    }
}
