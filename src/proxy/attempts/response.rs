//! Decides between the response to an attempt and another attempt.

use std::mem::{replace, take};

use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::Attempts;
use super::kept::KeptRequest;
use crate::backend::{Backend, ClosesConnection, SendError};
use crate::body::{Body, peek};
use crate::buffer::GrowingBuffer;
use crate::cluster::Picked;
use crate::endpoint::Outcome;
use crate::health::state::{ProbeEvidence, ShutdownIndication};
use crate::kylin::class::{RequestClass, needs_login};
use crate::kylin::response::{ClusterFault, NeedsBody, Rejection, ResponseClass, denies_access, is_json};
use crate::kylin::retry::RetryDecision;
use crate::observe::RetryReason;
use crate::proxy::error_response::{ErrorResponse, SESSION_NODE_FAILED};
use crate::proxy::rules::{Classified, RuleState};

/// The maximum length of a response that is copied, in bytes.
pub(super) const MAX_SHARED: usize = 1 << 20;

/// The bytes of a failure that are read to keep it for the client.
const MAX_KEPT: usize = 32 * 1024;

/// The class of a response whose node runs no application that could have executed the request. A
/// plain proxy uses it too.
pub(super) const NOT_EXECUTED: ResponseClass = ResponseClass::Rejected(Rejection::NotRunning);
/// The class, in a plain proxy, of a response whose node is stopping but may have executed the
/// request.
pub(super) const MAY_BE_EXECUTED: ResponseClass = ResponseClass::NodeFailure;

pub(super) enum AfterAttempt<B> {
    /// Return the response to the client.
    Return(Picked<B>),
    /// Return this error, because the response says nothing about the client's request.
    Fail(ErrorResponse),
    /// Send the request to this endpoint.
    Retry(Picked<B>, Box<Request<Body>>),
}

impl<'p, B: Backend> Attempts<'p, B> {
    /// Keeps the response, or returns the error.
    pub(super) fn keep_response(&mut self, sent: Result<Response<Body>, SendError>) -> Option<SendError> {
        match sent {
            Ok(response) => {
                self.response = response;
                None
            }
            Err(error) => Some(error),
        }
    }

    /// Returns the rules and the class of the request, in a Kylin-aware proxy.
    pub(super) fn kylin(&self) -> Option<(&'p RuleState, RequestClass)> {
        self.proxy.rules.as_ref().zip(self.context.class())
    }

    /// Classifies the response. Returns `None` in a plain proxy, unless the node is stopping. See
    /// [`after_response`](Self::after_response).
    pub(super) async fn classify(&mut self, picked: &Picked<B>) -> Option<ResponseClass> {
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_responded(self.response.status());
        }
        let class = match self.classify_head() {
            None => None,
            Some(Ok(class)) => Some(class),
            Some(Err(needs_body)) => match self.classify_whole() {
                // Boxed because it is rare, like every wait here.
                None => Box::pin(self.classify_body(needs_body)).await,
                class => class,
            },
        };
        match class {
            Some(ResponseClass::NodeFailure)
                if self.response.body().whole().is_none() && self.is_at_session_node(picked) =>
            {
                // The response is short, so it is kept for the client.
                Box::pin(self.classify_body(NeedsBody { max: MAX_KEPT })).await
            }
            Some(ResponseClass::NotFound) => Some(Box::pin(self.confirm_not_found(picked)).await),
            None if self.may_stop() => Box::pin(self.confirm_stop(picked)).await,
            class => class,
        }
    }

    /// Classifies the response by its head; `None` in a plain proxy.
    fn classify_head(&self) -> Option<Result<ResponseClass, NeedsBody>> {
        let (rules, class) = self.kylin()?;
        Some(rules.classify_head(class, || self.session.credentials(&self.context), &self.response))
    }

    /// Classifies the response by its body, if the body has arrived with the head, as short ones
    /// do.
    fn classify_whole(&self) -> Option<ResponseClass> {
        let (_, class) = self.kylin()?;
        Some(RuleState::classify_body(class, &self.response, self.response.body().whole()?))
    }

    /// Classifies the response by the beginning of its body, which the client still gets.
    async fn classify_body(&mut self, needs_body: NeedsBody) -> Option<ResponseClass> {
        let (beginning, response) = peek(take(&mut self.response), needs_body.max).await;
        self.response = response;
        let (_, class) = self.kylin()?;
        Some(RuleState::classify_body(class, &self.response, &beginning))
    }

    /// Returns the class of a 404 that Kylin did not write, after asking the node whether Kylin
    /// runs there.
    async fn confirm_not_found(&mut self, picked: &Picked<B>) -> ResponseClass {
        match self.kylin() {
            Some((rules, class)) if rules.is_running(class, &self.context, picked).await == Some(false) => NOT_EXECUTED,
            _ => ResponseClass::NotFound,
        }
    }

    /// Returns whether the node may have ended its applications while it still responds, so that
    /// another endpoint should get the request. Used in a plain proxy only.
    fn may_stop(&self) -> bool {
        matches!(self.response.status(), StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE)
            && self.proxy.settings.retry.covers_stopping()
            && self.kept_request.is_some()
            && (self.is_server_404() || self.is_kept_repeatable())
    }

    /// Asks the probe of the node whether the node is stopping, if [`may_stop`](Self::may_stop).
    /// Returns [`NOT_EXECUTED`] or [`MAY_BE_EXECUTED`] if another endpoint should get the request.
    async fn confirm_stop(&mut self, picked: &Picked<B>) -> Option<ResponseClass> {
        match picked.lease.ask_probe().await {
            ProbeEvidence::ShowsNothing => None,
            ProbeEvidence::Failed if self.is_server_404() => Some(NOT_EXECUTED),
            ProbeEvidence::Failed | ProbeEvidence::Unclear => self.is_kept_repeatable().then_some(MAY_BE_EXECUTED),
        }
    }

    /// Returns whether the response is a 404 that the server may have written without an
    /// application. Applications write JSON.
    fn is_server_404(&self) -> bool {
        self.response.status() == StatusCode::NOT_FOUND && !is_json(self.response.headers())
    }

    fn is_kept_repeatable(&self) -> bool {
        let retry = &self.proxy.settings.retry;
        self.kept_request.as_ref().is_some_and(|kept| retry.is_repeatable(kept.get().method()))
    }

    /// Decides between the response and another attempt. `class` is `None`, [`NOT_EXECUTED`] or
    /// [`MAY_BE_EXECUTED`] in a plain proxy.
    pub(super) fn after_response(&mut self, mut picked: Picked<B>, class: Option<ResponseClass>) -> AfterAttempt<B> {
        let kylin = self.kylin().zip(class);
        // Any other endpoint is better than the page of a node without Kylin, even one that health
        // keeps requests from.
        let has_response = if kylin.is_some() { class != Some(NOT_EXECUTED) } else { class.is_none() };
        self.attempted.set_has_response(has_response);
        if let Some(indication) = self.indication(class) {
            picked.lease.show(indication);
        }
        match kylin {
            Some(((rules, of_request), class)) => self.after_classified(picked, rules, of_request, class),
            None => self.after_status(picked, class),
        }
    }

    /// Returns whether the response indicates that its node is stopping or staying; `None` if it
    /// indicates neither. Tomcat closes the connection after many errors (400, 500, 503), so a
    /// close after one of these is no indication.
    fn indication(&mut self, class: Option<ResponseClass>) -> Option<ShutdownIndication> {
        let status = self.response.status();
        let closes = ClosesConnection::take(&mut self.response);
        let client = || self.context.client().connection_hash();
        if status == StatusCode::SERVICE_UNAVAILABLE && self.response.headers().contains_key(header::RETRY_AFTER) {
            let is_of_all = matches!(class, Some(ResponseClass::ClusterFault(_)));
            return (!is_of_all).then_some(ShutdownIndication::RetryAfter { client: client() });
        }
        match closes {
            None => Some(ShutdownIndication::KeepsAlive),
            Some(ClosesConnection { uses }) if status.is_success() => {
                Some(ShutdownIndication::Closes { client: client(), uses })
            }
            Some(_) => None,
        }
    }

    fn after_classified(
        &mut self,
        mut picked: Picked<B>,
        rules: &RuleState,
        of_request: RequestClass,
        class: ResponseClass,
    ) -> AfterAttempt<B> {
        let Classified { outcome, decision, is_free } = rules.decide(of_request, class);
        self.note_user_source(of_request, class);
        // The node may have executed the request before its connection to another node or to the
        // metastore failed.
        let is_unknown = matches!(class, ResponseClass::ClusterFault(ClusterFault::Transfer | ClusterFault::Metastore));
        self.note_outcome(is_unknown || !(class.is_refusal() || denies_access(self.response.status())));
        picked.lease.set_outcome(outcome);
        self.note_status(&picked);
        let has_no_kylin = class == NOT_EXECUTED;
        self.unsent += usize::from(has_no_kylin);
        if class == ResponseClass::Final && self.response.status().is_success() {
            self.note_accepted();
        }
        let may_retry = match decision {
            // A request that a node may have executed is sent once more at most. A refused request
            // goes to each endpoint once. A logout stays, because another node would respond as if
            // it had ended the session.
            RetryDecision::OtherEndpoint if !has_no_kylin && self.ends_bound_session() => false,
            RetryDecision::OtherEndpoint => class.is_refusal() || !replace(&mut self.may_be_executed, true),
            // A strategy that sends requests again handles this case itself.
            RetryDecision::SessionOwner => !self.session.may_send_again() && !self.session.is_bound_to(&picked),
            RetryDecision::Return => false,
        };
        if may_retry
            && !self.proxy.settings.retry.is_none()
            && let Some(kept) = self.take_kept()
        {
            let next = match decision {
                RetryDecision::SessionOwner if matches!(class, ResponseClass::Unauthenticated(_)) => {
                    self.search_again(&kept)
                }
                RetryDecision::SessionOwner | RetryDecision::OtherEndpoint | RetryDecision::Return => {
                    self.pick_again(&kept, has_no_kylin, self.proxy.budget.as_ref().filter(|_| !is_free))
                }
            };
            if let Some(next) = next {
                tracing::debug!(endpoint = %picked.lease.endpoint(), "retrying on another endpoint");
                self.note_retry(next.lease.endpoint(), RetryReason::Response(self.response.status()));
                if self.failure_before_refusal(class).is_none() {
                    if !has_no_kylin && self.is_at_session_node(&picked) {
                        self.session_failure = Some(SESSION_NODE_FAILED);
                    }
                    self.kept = self.keep_for_failure(class);
                }
                // The proxy has itself asked the node whether Kylin runs there.
                if !has_no_kylin {
                    self.pending_failures.add(picked.lease.defer_failure(self.failed_client()));
                }
                return AfterAttempt::Retry(next, kept);
            }
            self.kept_request = Some(KeptRequest::Own(kept));
        }
        if has_no_kylin {
            self.pending_failures.end();
            return AfterAttempt::Fail(ErrorResponse::not_running(self.proxy.settings.unavailable));
        }
        if let Some(failure) = self.failure_before_refusal(class) {
            self.pending_failures.end();
            return AfterAttempt::Fail(failure);
        }
        if of_request.is_write() && self.response.status().is_success() {
            rules.note_write(self.writer, picked.lease.endpoint());
        }
        AfterAttempt::Return(picked)
    }

    /// Records for the status whether the nodes can check logins.
    fn note_user_source(&self, of_request: RequestClass, class: ResponseClass) {
        let (cluster, context) = (&self.proxy.cluster, &self.context);
        if class == ResponseClass::ClusterFault(ClusterFault::UserSource) {
            cluster.note_user_source_down();
        } else if class == ResponseClass::Final && cluster.is_user_source_down() {
            // A node that knows the session does not check the credentials.
            let is_checked = context.has_login_form() || context.has_authorization() && !self.session.is_named(context);
            let needs_login =
                of_request == RequestClass::Login || context.path().is_some_and(|path| needs_login(&path));
            if is_checked && needs_login && self.response.status().is_success() {
                cluster.note_user_source_up();
            }
        }
    }

    /// Takes the response, which the client gets if no other endpoint can be reached. A stream is
    /// not kept, because it would hold its connection.
    fn keep_for_failure(&mut self, class: ResponseClass) -> Option<Box<Response<Body>>> {
        // The 404 of a node without Kylin says nothing about the client's request.
        let is_final = class != NOT_EXECUTED && self.response.body().whole().is_some();
        is_final.then(|| Box::new(take(&mut self.response)))
    }

    /// Records the status of a response that is a failure.
    fn note_status(&self, picked: &Picked<B>) {
        if picked.lease.is_failure() {
            picked.lease.note_error(|| format!("the response has status {}", self.response.status().as_u16()));
        }
    }

    /// Decides by the status, like nginx, or by the class of the response if the node is stopping.
    fn after_status(&mut self, mut picked: Picked<B>, class: Option<ResponseClass>) -> AfterAttempt<B> {
        let retry = &self.proxy.settings.retry;
        let status = self.response.status();
        let stops = class.is_some();
        // The probe of a stopping node has already been counted.
        picked.lease.set_outcome(if stops { Outcome::Unknown } else { Outcome::Success });
        if (stops || (retry.covers_status(status) && self.is_kept_repeatable()))
            && let Some(kept) = self.take_kept()
        {
            let is_unsent = class == Some(NOT_EXECUTED);
            self.unsent += usize::from(is_unsent);
            let budget = self.proxy.budget.as_ref().filter(|_| !is_unsent);
            let Some(next) = self.pick_again(&kept, is_unsent, budget) else {
                // The session may need the request.
                self.kept_request = Some(KeptRequest::Own(kept));
                return AfterAttempt::Return(picked);
            };
            // Only a response that is dropped counts against its endpoint, as in nginx
            // (ngx_http_upstream_test_next). A response that is returned to the client does not
            // count, because Kylin sends 500 for every SQL error.
            if retry.is_failure(status) {
                picked.lease.set_outcome(Outcome::Failure);
                self.note_status(&picked);
            }
            tracing::debug!(endpoint = %picked.lease.endpoint(), status = status.as_u16(), "retrying on another endpoint");
            self.note_retry(next.lease.endpoint(), RetryReason::Response(status));
            // The probe has already shown whether the node failed.
            if !stops {
                self.pending_failures.add(picked.lease.defer_failure(self.failed_client()));
            }
            return AfterAttempt::Retry(next, kept);
        }
        AfterAttempt::Return(picked)
    }
}

/// Returns the declared length of the response's body; `None` for a response to HEAD.
pub(super) fn declared_length(response: &Response<Body>) -> Option<u64> {
    let has_body = response.status() != StatusCode::NOT_MODIFIED;
    response.headers().get(header::CONTENT_LENGTH).filter(|_| has_body)?.to_str().ok()?.parse().ok()
}

/// Reads the body of a response into memory of the budget. Returns false if it is too long or there
/// is no memory; the body is then unchanged.
pub(super) async fn read_whole(response: &mut Response<Body>, mut read: GrowingBuffer) -> bool {
    if let Some(length) = declared_length(response) {
        response.body_mut().exactly(length);
    }
    let mut body = take(response.body_mut());
    let mut is_copied = true;
    *response.body_mut() = loop {
        match body.frame().await {
            None => break read.into_bytes().into(),
            Some(Err(error)) => break Body::failed(error),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if read.len() + data.len() > MAX_SHARED || !read.try_push(&data) {
                    is_copied = false;
                    let is_whole = body.is_end_stream();
                    if is_whole && read.len() == 0 {
                        break data.into();
                    }
                    read.push_anyway(&data);
                    break if is_whole { read.into_bytes().into() } else { body.put_back(read.into_bytes()) };
                }
            }
        }
    };
    is_copied
}
