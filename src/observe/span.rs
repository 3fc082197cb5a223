//! The spans of a request and of its attempts, for tracing.

use std::pin::Pin;

use tracing::field::{Empty, display};
use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Level, Span, debug, debug_span, span_enabled};

use super::{Attempt, Finished, ObservedRequest};

/// The maximum length of a client's value in a span, in characters.
const MAX_VALUE: usize = 200;

/// Returns whether a subscriber wants the spans.
pub(super) fn are_wanted() -> bool {
    span_enabled!(target: "kylin_lb::request", Level::DEBUG)
}

/// The spans of one request. They are disabled unless a subscriber wants them.
pub(super) struct RequestSpans {
    request: Span,
    attempt: Span,
}

impl RequestSpans {
    pub(super) fn none() -> Self {
        RequestSpans { request: Span::none(), attempt: Span::none() }
    }

    /// Begins the span of a request, within that of the application, if there is one.
    pub(super) fn begin(request: &ObservedRequest) -> Self {
        let span = debug_span!(
            target: "kylin_lb::request", "request",
            request_id = request.id(), traceparent = request.traceparent(), method = %request.method(), path = %shown(&request.path()),
            user = request.user().map(shown), class = Empty, status = Empty, bytes = Empty, attempts = Empty, end = Empty,
        );
        RequestSpans { request: span, attempt: Span::none() }
    }

    pub(super) fn classified(&self, class: &'static str) {
        if !self.request.is_disabled() {
            self.request.record("class", class);
        }
    }

    pub(super) fn attempt_begins(&mut self, number: u32, attempt: &Attempt) {
        self.attempt = debug_span!(
            target: "kylin_lb::request", parent: &self.request, "attempt",
            number, endpoint = attempt.endpoint.as_str(), reason = attempt.reason.as_str(), status = Empty, phase = Empty, end = Empty,
        );
    }

    pub(super) fn attempt_ended(&mut self, attempt: &Attempt) {
        let span = std::mem::replace(&mut self.attempt, Span::none());
        if span.is_disabled() {
            return;
        }
        if let Some(status) = attempt.status {
            span.record("status", status.as_u16());
        }
        span.record("phase", attempt.phase().as_str());
        if let Some(end) = attempt.end {
            span.record("end", end.as_str());
        }
    }

    pub(super) fn finished(&self, event: &Finished<'_>) {
        if self.request.is_disabled() {
            return;
        }
        if let Some(status) = event.status {
            self.request.record("status", status.as_u16());
        }
        self.request.record("bytes", event.bytes);
        self.request.record("attempts", event.attempts.len() as u64);
        self.request.record("end", display(event.termination));
        let endpoint = event.attempts.last().map(|attempt| attempt.endpoint.as_str());
        debug!(target: "kylin_lb::request", parent: &self.request, endpoint, "request ended");
    }

    pub(super) fn are_enabled(&self) -> bool {
        !self.request.is_disabled()
    }

    pub(super) fn of_request(&self) -> Span {
        self.request.clone()
    }

    pub(super) fn of_attempt(&self) -> Span {
        self.attempt.clone()
    }
}

/// Runs a future within a span. The future is boxed, so that the future of a request without spans
/// stays small.
pub(crate) fn in_span<F: Future>(span: Span, future: F) -> Pin<Box<Instrumented<F>>> {
    Box::pin(future.instrument(span))
}

/// Returns the part of a client's value that a span shows.
fn shown(value: &str) -> &str {
    match value.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(shown("/kylin"), "/kylin");
        assert_eq!(shown(&"é".repeat(201)), "é".repeat(200));
    }
}
