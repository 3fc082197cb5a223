//! Ends a request: makes the response to the client, and tells observers.

use http::{Response, Version};

use super::Attempts;
use crate::backend::Backend;
use crate::body::Body;
use crate::cluster::Picked;
use crate::endpoint::EndpointId;
use crate::observe::{RequestRecorder, RetryReason, ServedBy};
use crate::proxy::RetryAccount;
use crate::proxy::error_response::ErrorResponse;
use crate::proxy::head::{HeaderPresence, remove_hop_by_hop};

impl<B: Backend> Attempts<'_, B> {
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

    /// Adds to the response which endpoint served.
    pub(super) fn note_served_by(&mut self, picked: &Picked<B>) {
        if self.recorder.is_some() || self.proxy.settings.served_by {
            let served_by = self.served_by(picked);
            self.response.extensions_mut().insert(served_by);
        }
    }

    /// Ends the request with the kept response, if there is one, because it tells more than that another node could not be
    /// reached; otherwise with `error`.
    pub(super) fn fall_back(&mut self, error: ErrorResponse) -> Result<(), ErrorResponse> {
        self.response = *self.kept.take().ok_or(error)?;
        Ok(())
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
