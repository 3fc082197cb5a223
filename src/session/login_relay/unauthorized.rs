//! Responses of nodes that do not know the session of a request, or refuse its credentials.

use std::mem::{replace, take};
use std::sync::Arc;

use http::{Response, StatusCode};

use super::Relay;
use super::logins::LoginOutcome;
use super::record::NodeCookie;
use super::request::{Presented, RelayRequest, unsent};
use super::sealed_sessions::OpenSession;
use crate::body::{Body, peek};
use crate::endpoint::EndpointId;
use crate::kylin::class::SessionCall;
use crate::kylin::response::{CredentialCheck, is_user_source_down, names_no_user};
use crate::session::hook::{Nodes, ResponseContext};

/// The maximum size of a response body that is read to find out whether the node knows the session.
const MAX_BODY: usize = 64 * 1024;

impl Relay {
    /// Handles a response to a session that the node does not know. Returns whether the request
    /// must be sent again. `check` is the result for the credentials, if the request had any.
    pub(super) async fn after_unauthorized(
        self: &Arc<Self>,
        relayed: &mut RelayRequest,
        served: &ResponseContext<'_>,
        check: CredentialCheck,
    ) -> bool {
        let endpoint = served.endpoint;
        let (outcome, rejected) = match replace(&mut relayed.presented, Presented::Nothing) {
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
            LoginOutcome::SessionGone => {
                relayed.end_session();
                return false;
            }
        }
        if let Some(known) = &mut relayed.session {
            known.set_cookie(endpoint, None);
        }
        true
    }

    /// Handles a `check` by the node at `endpoint` that did not accept the credentials of a
    /// session.
    pub(super) async fn after_refused_credentials(
        &self,
        known: &mut OpenSession,
        endpoint: &EndpointId,
        nodes: &dyn Nodes,
        check: CredentialCheck,
    ) -> LoginOutcome {
        let fingerprint = known.fingerprint();
        match check {
            CredentialCheck::Refused => self.forbid(&fingerprint).await,
            CredentialCheck::Unchecked => self.backoff.unchecked(fingerprint),
            CredentialCheck::Accepted
            | CredentialCheck::Unconfirmed
            | CredentialCheck::Failed
            | CredentialCheck::NotServed => self.note_refused(&fingerprint, endpoint).await,
        }
        match self.backoff.is_confirmed(&fingerprint) {
            true => self.leave_refused(known, endpoint, nodes).await,
            false => LoginOutcome::Postponed,
        }
    }

    /// Removes a cookie that a node has rejected, so that the node no longer counts as knowing the
    /// session.
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
    /// Returns whether only the body of the response tells whether the node knows the session.
    ///
    /// This is so for requests that ask who is logged in. Kylin 2.x-4.x respond with 200 if they do
    /// not know the session. Kylin 5 responds with 500 if it could not check the credentials. Such
    /// a request can be sent again.
    pub(super) fn depends_on_body(&self, response: &Response<Body>) -> bool {
        self.call == SessionCall::WhoAmI
            && match self.presented {
                Presented::Cookie(_) => response.status() == StatusCode::OK,
                Presented::Credentials(_) => response.status() == StatusCode::INTERNAL_SERVER_ERROR,
                Presented::Nothing => false,
            }
    }

    /// Returns the result for the session's credentials, if the response shows that the node does
    /// not know the session.
    pub(super) async fn credential_check(&self, response: &mut Response<Body>) -> Option<CredentialCheck> {
        self.session.as_ref()?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Some(CredentialCheck::of_unauthorized(response.headers()));
        }
        if !self.depends_on_body(response) {
            return None;
        }
        let (body, peeked) = peek(take(response), MAX_BODY).await;
        *response = peeked;
        let (status, headers) = (response.status(), response.headers());
        if names_no_user(status, headers, &body) {
            return Some(CredentialCheck::Unconfirmed);
        }
        is_user_source_down(status, headers, &body).then_some(CredentialCheck::Unchecked)
    }
}
