//! Variables for the outcome of a request, which logs and response headers show.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use super::scope::{Outcome, Scope, UpstreamAttempts};
use super::sink::{Sink, display};
use crate::backend::SendErrorKind;
use crate::observe::{Attempt, AttemptEnd, AttemptPhase};

/// The logged status of a request whose client disconnected before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

pub(super) fn status(scope: &Scope<'_>, sink: Sink<'_>) {
    with(scope, sink, |outcome, text| write(text, outcome.status.unwrap_or(CLIENT_CLOSED_REQUEST)));
}

pub(super) fn body_bytes_sent(scope: &Scope<'_>, sink: Sink<'_>) {
    with(scope, sink, |outcome, text| write(text, outcome.body_bytes));
}

/// Writes `$bytes_sent`, with the head as in HTTP/1.1 and without the headers that the server adds.
pub(super) fn bytes_sent(scope: &Scope<'_>, sink: Sink<'_>) {
    with(scope, sink, |outcome, text| {
        let reason = outcome.status.and_then(|status| StatusCode::from_u16(status).ok()?.canonical_reason());
        let line = outcome.status.map_or(0, |_| "HTTP/1.1 200 \r\n\r\n".len() + reason.unwrap_or_default().len());
        write(text, outcome.body_bytes + (line + outcome.sent.map_or(0, head_bytes)) as u64);
    });
}

/// Writes `$request_length`, with the head as in HTTP/1.1 and the body by its `Content-Length`.
pub(super) fn request_length(scope: &Scope<'_>, sink: Sink<'_>) {
    let line = scope.method.as_str().len() + scope.request_uri.len() + "  HTTP/1.1\r\n\r\n".len();
    let length = scope.headers.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length: usize = length.unwrap_or_default();
    display(line + head_bytes(scope.headers) + length, sink);
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

pub(super) fn request_time(scope: &Scope<'_>, sink: Sink<'_>) {
    with(scope, sink, |outcome, text| write(text, seconds(outcome.elapsed)));
}

pub(super) fn request_completion(scope: &Scope<'_>, sink: Sink<'_>) {
    with(scope, sink, |outcome, text| text.push_str(if outcome.status.is_some() { "OK" } else { "" }));
}

pub(super) fn upstream_addr(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| match attempt {
        Ok(attempt) => text.push_str(&attempt.address),
        Err(Unserved { upstream, .. }) => text.push_str(upstream),
    });
}

pub(super) fn upstream_status(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| match attempt.map(|attempt| (attempt.status, attempt.end)) {
        Ok((Some(status), _)) => text.push_str(status.as_str()),
        Ok((None, Some(end))) => text.push_str(status_of_failure(end)),
        Ok((None, None)) => text.push('-'),
        // The client or the error page got this status too.
        Err(Unserved { status, .. }) => write(text, status),
    });
}

pub(super) fn upstream_response_time(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| match attempt {
        Ok(attempt) if attempt.end.is_some() => text.push_str(&seconds(attempt.total)),
        Ok(_) => text.push('-'),
        Err(_) => text.push_str("0.000"),
    });
}

pub(super) fn upstream_header_time(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| time(attempt.ok().and_then(|attempt| attempt.head), text));
}

/// Writes `$upstream_connect_time`: 0 for a connection that was already open.
pub(super) fn upstream_connect_time(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| {
        let is_connected = |attempt: &&Attempt| attempt.phase() != AttemptPhase::Connect;
        time(attempt.ok().filter(is_connected).map(|attempt| attempt.connecting.unwrap_or_default()), text);
    });
}

/// Writes `$upstream_response_length`, and `$upstream_bytes_received` without the bytes of heads.
pub(super) fn upstream_response_length(scope: &Scope<'_>, sink: Sink<'_>) {
    list(scope, sink, |attempt, text| write(text, attempt.map_or(0, |attempt| attempt.bytes)));
}

/// Writes `$sent_http_NAME`.
pub(super) fn sent(scope: &Scope<'_>, name: &HeaderName, sink: Sink<'_>) {
    headers(scope.outcome.and_then(|outcome| outcome.sent), name, sink);
}

/// Writes `$upstream_http_NAME`.
pub(super) fn received(scope: &Scope<'_>, name: &HeaderName, sink: Sink<'_>) {
    headers(scope.outcome.and_then(|outcome| outcome.received), name, sink);
}

fn headers(headers: Option<&HeaderMap>, name: &HeaderName, sink: Sink<'_>) {
    for (index, value) in headers.into_iter().flat_map(|headers| headers.get_all(name)).enumerate() {
        if index > 0 {
            sink(b", ");
        }
        sink(value.as_bytes());
    }
}

/// Returns the status that nginx logs for a server without a response (`ngx_http_upstream_next`).
fn status_of_failure(end: AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Cancelled => "-",
        AttemptEnd::Failed(SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout) => "504",
        _ => "502",
    }
}

fn with(scope: &Scope<'_>, sink: Sink<'_>, value: impl FnOnce(&Outcome<'_>, &mut String)) {
    if let Some(outcome) = &scope.outcome {
        let mut text = String::new();
        value(outcome, &mut text);
        if !text.is_empty() {
            sink(text.as_bytes());
        }
    }
}

/// An upstream of which no server was eligible.
#[derive(Clone, Copy)]
struct Unserved<'r> {
    upstream: &'r str,
    status: u16,
}

/// Writes a value for each attempt, as nginx does for each server.
///
/// An upstream without an eligible server has one value. A request that no upstream serves has
/// none. A colon separates upstreams.
fn list(scope: &Scope<'_>, sink: Sink<'_>, value: impl Fn(Result<&Attempt, Unserved<'_>>, &mut String)) {
    with(scope, sink, |outcome, text| {
        let write = |attempts: &[Attempt], unserved: Option<Unserved<'_>>, text: &mut String| {
            if let Some(unserved) = unserved.filter(|_| attempts.is_empty()) {
                value(Err(unserved), text);
            }
            for (index, attempt) in attempts.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                value(Ok(attempt), text);
            }
        };
        for UpstreamAttempts { attempts, unserved } in outcome.earlier {
            write(attempts, unserved.as_ref().map(|(upstream, status)| Unserved { upstream, status: *status }), text);
            if !outcome.attempts.is_empty() || outcome.upstream.is_some() {
                text.push_str(" : ");
            }
        }
        let status = outcome.status.unwrap_or(503);
        write(outcome.attempts, outcome.upstream.map(|upstream| Unserved { upstream, status }), text);
    });
}

fn time(time: Option<Duration>, text: &mut String) {
    text.push_str(&time.map_or("-".into(), seconds));
}

/// Returns a time in seconds with three decimals, truncated as in nginx.
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

fn write(text: &mut String, value: impl Display) {
    _ = write!(text, "{value}");
}
