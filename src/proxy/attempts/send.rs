//! Sends the request to the endpoint that was picked: one attempt, until its response or failure.

use std::mem::take;
use std::sync::Arc;

use http::{Request, Response};
use tokio::time::timeout;

use super::Attempts;
use super::flight::{Execution, execution, execution_of_flight};
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::Body;
use crate::cluster::Picked;
use crate::observe::{RequestRecorder, in_span};
use crate::proxy::head;
use crate::proxy::rules::{NODE_TIMEOUT, QueryWatch};

/// The failure of an attempt.
pub(super) struct AttemptFailure {
    pub(super) error: SendError,
    /// Whether the login before the request failed. Nodes may have received the login.
    pub(super) is_of_login: bool,
}

impl AttemptFailure {
    pub(super) fn of_request(error: SendError) -> Self {
        AttemptFailure { error, is_of_login: false }
    }
}

impl<B: Backend> Attempts<'_, B> {
    /// Begins an attempt: counts it, and adapts the request to this endpoint. Fails if too many
    /// bodies stream to the node.
    pub(super) fn begin_attempt(
        &mut self,
        picked: &Picked<B>,
        request: &mut Request<Body>,
    ) -> Result<(), AttemptFailure> {
        if let Some(retry) = self.retry.take() {
            retry.spend();
        }
        self.attempted.add(&picked.lease);
        self.keep(request, &picked.lease);
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_begins(picked);
        }
        if self.names_no_host {
            head::set_host_of(picked, request);
        }
        let counted = self.count_stream(picked, request);
        counted.map_err(|error| AttemptFailure::of_request(error.with_request(take(request))))
    }

    /// Returns the failure of a login that preceded the request.
    pub(super) fn login_failed(&mut self, error: SendError, request: &mut Request<Body>) -> AttemptFailure {
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_unprepared();
        }
        AttemptFailure { error: error.with_request(take(request)), is_of_login: true }
    }

    /// Sends the request. Keeps the response, or returns the failure.
    pub(super) async fn send(&mut self, picked: &Picked<B>, request: &mut Request<Body>) -> Option<SendError> {
        let watch = self.watch(picked, request);
        let sent = match self.is_short_wait(request) {
            false => self.response_of(picked, request).await,
            // Boxed, because it is rare.
            true => {
                let sent = Box::pin(timeout(NODE_TIMEOUT, self.response_of(picked, request))).await;
                sent.unwrap_or_else(|elapsed| Err(SendError::new(SendErrorKind::HeadTimeout, elapsed)))
            }
        };
        if let Some(watch) = watch {
            watch.end(&sent);
        }
        self.keep_response(sent)
    }

    async fn response_of(
        &mut self,
        picked: &Picked<B>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let kept = self.kept_request.as_ref().filter(|_| self.sends_kept);
        match (kept, self.is_traced()) {
            (Some(kept), false) => picked.backend().send_copy(kept.get()).await,
            (None, false) => picked.backend().send(take(request)).await,
            (kept, true) => {
                let span = self.span(RequestRecorder::attempt_span);
                match kept {
                    Some(kept) => in_span(span, picked.backend().send_copy(kept.get())).await,
                    None => in_span(span, picked.backend().send(take(request))).await,
                }
            }
        }
    }

    /// Returns whether the node must respond within the timeout of a request to all nodes. The
    /// logout of a bound session is also sent to a node that is known to be down. A node that hangs
    /// would keep its client waiting for as long as a query may take.
    fn is_short_wait(&self, request: &Request<Body>) -> bool {
        // The time that a client needs to send a stream does not count.
        self.ends_bound_session() && self.sent(request).body().whole().is_some()
    }

    /// Returns the attempt as an execution that other clients can take over.
    pub(super) fn execution(&self, picked: Picked<B>, request: &mut Request<Body>) -> Execution<B> {
        let watch = self.watch(&picked, request);
        let execution = match &self.flight {
            Some(key) if self.sends_kept => execution_of_flight(picked, Arc::clone(key)),
            _ => execution(picked, watch, take(request)),
        };
        match self.is_traced() {
            true => in_span(self.span(RequestRecorder::attempt_span), execution),
            false => execution,
        }
    }

    fn watch(&self, picked: &Picked<B>, request: &mut Request<Body>) -> Option<QueryWatch> {
        let (rules, class) = self.kylin()?;
        rules.watch(class, picked.backend(), self.context.client(), request)
    }
}
