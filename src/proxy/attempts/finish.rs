//! Ends a request: settles its response, turns it into the response for the client, and notifies
//! observers.

use std::error::Error as _;
use std::future::poll_fn;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, Version};

use super::response::declared_length;
use super::{Attempts, Sender};
use crate::backend::Backend;
use crate::body::{Body, BodyError, ReadAhead};
use crate::cluster::Picked;
use crate::endpoint::EndpointId;
use crate::error_chain::error_chain;
use crate::kylin::class::needs_login;
use crate::kylin::response::{Credentials, ResponseClass};
use crate::observe::{RequestRecorder, RetryReason, ServedBy, ShownHeaders};
use crate::proxy::error_response::{ErrorResponse, TRUNCATED};
use crate::proxy::head::{self, HeaderPresence, remove_hop_by_hop};
use crate::proxy::{ProxyCore, RetryAccount};
use crate::request::ClientAddr;
use crate::session::hook::AfterResponse;

/// Returns whether anything observes a request.
pub(super) fn is_observed<B>(proxy: &ProxyCore<B>, sender: Sender, request: &Request<Body>) -> bool {
    sender == Sender::Client && RequestRecorder::is_wanted(&proxy.settings.observers, request)
}

impl<B: Backend> Attempts<'_, B> {
    /// Lets the session learn from the response, which the client gets unless its body has failed
    /// already. Returns the request if it must be sent to the same endpoint again.
    pub(super) async fn settle(
        &mut self,
        picked: &mut Picked<B>,
        class: Option<ResponseClass>,
    ) -> Result<Option<Box<Request<Body>>>, ErrorResponse> {
        #[cfg(feature = "cache")]
        if self.is_read_for_cache(class) {
            // Boxed, because it is rare.
            Box::pin(self.read_for_cache()).await;
        }
        if let Err(error) = poll_fn(|cx| Poll::Ready(self.read_ahead(cx))).await {
            tracing::debug!(endpoint = %picked.lease.endpoint(), %error, source = error.source(), "response ended early");
            picked.lease.set_outcome(error.outcome());
            if picked.lease.is_failure() {
                picked.lease.note_error(|| error_chain(&error));
            }
            self.settle_pending_failures(picked, class);
            return Err(TRUNCATED);
        }
        self.settle_pending_failures(picked, class);
        self.share_result(class, picked);
        if self.names_no_host || (self.response.status().is_redirection() && self.hides_nodes()) {
            head::hide_host_of(picked, self.response.headers_mut());
        }
        let cluster = &self.proxy.cluster;
        let after = self.session.settle(&self.context, cluster, picked, &self.attempted, &mut self.response).await;
        match after {
            AfterResponse::SendAgain => return Ok(self.take_kept()),
            AfterResponse::Return => {}
            AfterResponse::Bound => {
                if let Some(recorder) = &self.recorder {
                    recorder.session_bound(picked.lease.endpoint(), self.session.is_bound());
                }
            }
        }
        Ok(None)
    }

    /// Reads the part of the body that has arrived, to see whether the body has failed. After this,
    /// a failure can only cut the connection of the client.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.response.body().whole().is_some() {
            return Ok(());
        }
        let length = declared_length(&self.response).filter(|_| !self.is_head);
        let body = self.response.body_mut();
        if let Some(length) = length {
            body.exactly(length);
        }
        body.read_ahead(cx)
    }

    /// Keeps the lease in the body of the client's response until the node has sent its end.
    pub(super) fn hold_response(&mut self, picked: Picked<B>) {
        self.note_served_by(&picked);
        let mut lease = picked.lease;
        if self.response.status().is_success() {
            lease.expect_success();
        }
        let is_whole = self.response.body().whole().is_some();
        if !is_whole {
            lease.compare_with_others(self.failed_client());
        }
        // A complete body is not read ahead.
        let max = self.proxy.settings.response_buffer.filter(|_| !is_whole);
        let is_forbidden = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"no");
        let max = max.filter(|_| !self.response.headers().get("x-accel-buffering").is_some_and(is_forbidden));
        let ahead = max.map(|max| ReadAhead { max, client: self.context.client().key() });
        let guards = [self.session.take_in_use(), self.share.take()];
        self.response.body_mut().hold(lease, guards, ahead);
    }

    /// Starts the record of the request if the request is observed, which is when there are headers
    /// to show.
    pub(super) fn begin_record(&mut self, peer: ClientAddr, shown: Option<ShownHeaders>, request: &mut Request<Body>) {
        let Some(shown) = shown else { return };
        let (settings, host) = (&self.proxy.settings, self.context.host());
        let client = settings.trusted.client(peer, request.headers());
        let (observers, clock) = (&settings.observers, &settings.clock);
        self.recorder = Some(RequestRecorder::begin(observers, clock, client, host, shown, request));
    }

    pub(super) fn is_traced(&self) -> bool {
        self.recorder.as_ref().is_some_and(|recorder| recorder.is_traced())
    }

    pub(super) fn span(&self, of: fn(&RequestRecorder) -> tracing::Span) -> tracing::Span {
        self.recorder.as_ref().map_or_else(tracing::Span::none, |recorder| of(recorder))
    }

    /// Tells observers that the request is sent again, to `next`.
    pub(super) fn note_retry(&mut self, next: &EndpointId, reason: RetryReason) {
        if let Some(recorder) = &mut self.recorder {
            recorder.retried(next, reason, self.proxy.budget.as_ref().map(RetryAccount::left));
        }
    }

    /// Returns whether a redirect to the address of the node becomes relative.
    pub(super) fn hides_nodes(&self) -> bool {
        self.proxy.settings.hides_nodes.unwrap_or(self.kylin().is_some())
    }

    /// Returns whether the response names the endpoint that served it.
    pub(super) fn shows_served_by(&self) -> bool {
        self.proxy.settings.served_by.unwrap_or(self.recorder.is_some())
    }

    /// Adds the endpoint that served the request to the response.
    fn note_served_by(&mut self, picked: &Picked<B>) {
        if self.shows_served_by() {
            let served_by = self.served_by(picked);
            self.response.extensions_mut().insert(served_by);
        }
    }

    /// Ends the request with the kept response, if there is one, and otherwise with `error`. The
    /// kept response tells the client more than that another node could not be reached.
    pub(super) fn fall_back(&mut self, error: ErrorResponse) -> Result<(), ErrorResponse> {
        self.response = *self.kept.take().ok_or(error)?;
        Ok(())
    }

    /// Returns whether the client has a session and no other credentials, and `picked` is the only
    /// node that has the session.
    pub(super) fn is_at_session_node(&self, picked: &Picked<B>) -> bool {
        self.session.is_at_bound_node()
            && self.session.is_bound_to(picked)
            && self.session.credentials(&self.context) == Credentials::Session
    }

    /// Returns the failure of the node that has the session, if the node of this response refuses
    /// the request because it does not know the session. The session is valid, so the client must
    /// not be sent to the login page.
    pub(super) fn failure_before_refusal(&self, class: ResponseClass) -> Option<ErrorResponse> {
        let redirects =
            || self.response.status().is_redirection() && self.context.path().is_some_and(|path| needs_login(&path));
        let is_refused = || class == ResponseClass::Unauthenticated(Credentials::Session) || redirects();
        self.session_failure.filter(|_| is_refused())
    }

    pub(super) fn served_by(&self, picked: &Picked<B>) -> ServedBy {
        let attempts = u32::try_from(self.attempted.len()).unwrap_or(u32::MAX);
        ServedBy::new(picked.lease.endpoint().clone(), attempts, picked.reason)
    }

    /// Removes the headers of the node's connection.
    pub(super) fn into_response(mut self) -> Response<Body> {
        #[cfg(feature = "cache")]
        self.note_cache_miss();
        let presence = HeaderPresence::of(self.response.headers());
        remove_hop_by_hop(self.response.headers_mut(), presence);
        *self.response.version_mut() = Version::HTTP_11;
        if let Some(recorder) = self.recorder.take() {
            recorder.respond(&mut self.response, self.is_head);
        }
        self.response
    }

    pub(super) fn into_error(mut self, error: ErrorResponse) -> Response<Body> {
        let mut response = error.response(&self.context);
        if let Some(mut recorder) = self.recorder.take() {
            recorder.failed(error.termination());
            recorder.respond(&mut response, self.is_head);
        }
        response
    }
}
