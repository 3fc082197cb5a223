//! Writes the lines of access logs, and provides the variables of responses to headers.

use std::collections::HashMap;
use std::mem::take;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;

use super::names::UpstreamEndpoints;
use crate::Body;
use crate::nginx::directives::access_log::{AccessLogs, LogFormat};
use crate::nginx::variables::{MapValues, Outcome, Scope, Snapshot, Template, UpstreamAttempts};
use crate::observe::{Attempt, Finished, Observer, RequestObserver, ResponseHead, Termination};

/// Takes a line of an access log, without a line break.
pub(super) type LineWriter = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

/// The writers, by the path of the log.
pub(super) type Writers = HashMap<PathBuf, LineWriter>;

/// A log that has a writer.
pub(super) struct WrittenLog {
    format: Arc<LogFormat>,
    condition: Option<Template>,
    write: LineWriter,
    /// Whether lines show headers of the response.
    shows_headers: bool,
}

/// Returns the logs that have a writer.
pub(super) fn written(logs: &AccessLogs, writers: &Writers) -> Arc<[WrittenLog]> {
    let logs = logs.active().iter().filter_map(|log| {
        let (format, condition) = (Arc::clone(&log.format), log.condition.clone());
        let shows_headers = ["sent_http_", "upstream_http_", "bytes_sent"].iter().any(|start| {
            format.mentions(start) || condition.as_ref().is_some_and(|condition| condition.mentions(start))
        });
        Some(WrittenLog { format, condition, write: Arc::clone(writers.get(&log.path)?), shows_headers })
    });
    logs.collect()
}

impl WrittenLog {
    fn applies_to(&self, scope: &Scope<'_>) -> bool {
        let value = self.condition.as_ref().map(|condition| condition.to_bytes(scope));
        value.is_none_or(|value| !matches!(&value[..], b"" | b"0"))
    }

    /// Returns whether it is certain before the response that the log gets no line.
    fn certainly_writes_nothing(&self, scope: &Scope<'_>) -> bool {
        self.condition.as_ref().is_some_and(|condition| !condition.needs_outcome()) && !self.applies_to(scope)
    }
}

/// The endpoints of an upstream; `None` if the file has the address of each.
pub(super) type Addresses = Option<Arc<Mutex<UpstreamEndpoints>>>;

/// A request that logs or headers show.
///
/// The proxy and the site share it. It writes its lines when both have dropped it, because then the
/// response has been sent and all its headers are known.
pub(super) struct PendingRequest {
    snapshot: Snapshot,
    logs: Arc<[WrittenLog]>,
    /// The name of the upstream, if the request is for one.
    upstream: Option<Box<str>>,
    addresses: Addresses,
    /// The time for which `limit_req` delays the request.
    delay: Duration,
    /// Whether headers of the response use variables of its outcome.
    is_shown: bool,
    outcome: Mutex<RequestOutcome>,
}

#[derive(Default)]
struct RequestOutcome {
    /// Whether the record of another location writes the line.
    is_discarded: bool,
    /// Whether the site replaced the response of the proxy.
    is_replaced: bool,
    status: Option<u16>,
    /// The status that an `error_page` directive gives to the response of a node.
    marked: Option<u16>,
    body_bytes: u64,
    /// The time spent at earlier locations.
    elapsed_before: Duration,
    elapsed: Duration,
    earlier: Vec<UpstreamAttempts>,
    attempts: Vec<Attempt>,
    /// Whether no server of the upstream was eligible.
    is_unserved: bool,
    sent: Option<HeaderMap>,
    received: Option<HeaderMap>,
}

impl PendingRequest {
    /// Starts to record a request; returns `None` if no log gets a line and `is_shown` is false.
    pub(super) fn begin(
        logs: &Arc<[WrittenLog]>,
        scope: &Scope<'_>,
        addresses: &Addresses,
        delay: Duration,
        is_shown: bool,
    ) -> Option<Arc<Self>> {
        // The logs themselves read the values at the end.
        let values = scope.map_values.map(MapValues::fork);
        if !is_shown
            && logs.iter().all(|log| log.certainly_writes_nothing(&Scope { map_values: values.as_ref(), ..*scope }))
        {
            return None;
        }
        Some(Arc::new(PendingRequest {
            snapshot: Snapshot::of(scope),
            logs: Arc::clone(logs),
            upstream: Some(scope.proxy_host).filter(|host| !host.is_empty()).map(Into::into),
            addresses: addresses.clone(),
            delay,
            is_shown,
            outcome: Mutex::default(),
        }))
    }

    /// Adds itself to the observers of the request.
    pub(super) fn observe(self: &Arc<Self>, extensions: &mut http::Extensions) {
        let observer = match extensions.remove::<RequestObserver>() {
            Some(other) => other.and(Arc::clone(self)),
            None => RequestObserver::new(Arc::clone(self)),
        };
        extensions.insert(observer);
    }

    /// Keeps the headers of a response of the proxy, before the site changes them.
    pub(super) fn received(&self, response: &Response<Body>) {
        let mut ended = self.outcome.lock();
        ended.status = Some(response.status().as_u16());
        if self.needs_headers() && response.extensions().get::<Termination>().is_none() {
            ended.received = Some(response.headers().clone());
        }
    }

    /// Keeps the headers that the client gets.
    pub(super) fn sent(&self, response: &Response<Body>) {
        if self.needs_headers() {
            self.outcome.lock().sent = Some(response.headers().clone());
        }
    }

    fn needs_headers(&self) -> bool {
        self.is_shown || self.logs.iter().any(|log| log.shows_headers)
    }

    /// Records a response of the site itself.
    pub(super) fn responded(&self, response: &Response<Body>) {
        let body = http_body::Body::size_hint(response.body()).exact();
        let mut ended = self.outcome.lock();
        (ended.status, ended.body_bytes) = (Some(response.status().as_u16()), body.unwrap_or_default());
        ended.is_replaced = true;
        ended.sent = Some(response.headers().clone());
    }

    /// Keeps the status that the client gets for a response of the proxy.
    pub(super) fn marked(&self, status: StatusCode) {
        self.outcome.lock().marked = Some(status.as_u16());
    }

    /// Leaves the line to the location to which an error has led the request. If that location has
    /// a log, its line covers both.
    pub(super) fn yield_to(&self, next: Option<&Self>) {
        let mut ended = self.outcome.lock();
        ended.is_discarded = true;
        let Some(next) = next else { return };
        let mut next = next.outcome.lock();
        next.elapsed_before = ended.elapsed_before + ended.elapsed;
        next.earlier = take(&mut ended.earlier);
        let attempts = take(&mut ended.attempts);
        let name = self.upstream.as_ref().filter(|_| ended.is_unserved);
        let unserved = name.map(|name| (name.clone(), ended.status.unwrap_or(503)));
        if unserved.is_some() || !attempts.is_empty() {
            next.earlier.push(UpstreamAttempts { attempts, unserved });
        }
    }

    /// Calls `read` with the variables of the request.
    pub(super) fn with<R>(&self, read: impl FnOnce(&Scope<'_>) -> R) -> R {
        let ended = self.outcome.lock();
        let outcome = Outcome {
            status: ended.marked.or(ended.status),
            body_bytes: ended.body_bytes,
            elapsed: self.delay + ended.elapsed_before + ended.elapsed,
            earlier: &ended.earlier,
            attempts: &ended.attempts,
            upstream: self.upstream.as_deref().filter(|_| ended.is_unserved),
            sent: ended.sent.as_ref(),
            received: ended.received.as_ref(),
        };
        self.snapshot.with(outcome, read)
    }

    /// Returns the attempts with the addresses that they were sent to.
    fn attempts(&self, attempts: &[Attempt]) -> Vec<Attempt> {
        let mut attempts = attempts.to_vec();
        if let Some(endpoints) = self.addresses.as_ref().map(|endpoints| endpoints.lock()) {
            for attempt in &mut attempts {
                if let Some(address) = endpoints.address(attempt.endpoint.as_str()) {
                    attempt.address = address.to_string().into();
                }
            }
        }
        attempts
    }
}

impl Observer for PendingRequest {
    fn response_head(&self, event: &ResponseHead<'_>) {
        if !self.is_shown {
            return;
        }
        let attempts = self.attempts(event.attempts);
        let mut ended = self.outcome.lock();
        ended.is_unserved = attempts.is_empty() && event.status == StatusCode::SERVICE_UNAVAILABLE;
        (ended.status, ended.attempts, ended.elapsed) = (Some(event.status.as_u16()), attempts, event.elapsed);
    }

    fn finished(&self, event: &Finished<'_>) {
        let attempts = self.attempts(event.attempts);
        let mut ended = self.outcome.lock();
        ended.is_unserved = attempts.is_empty()
            && matches!(
                event.termination,
                Termination::NoEndpoint | Termination::Overflow | Termination::QueueFull | Termination::QueueTimeout
            );
        if !ended.is_replaced {
            (ended.status, ended.body_bytes) = (event.status.map(|status| status.as_u16()), event.bytes);
        }
        (ended.attempts, ended.elapsed) = (attempts, event.times.total);
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if self.outcome.lock().is_discarded {
            return;
        }
        self.with(|scope| {
            for log in self.logs.iter().filter(|log| log.applies_to(scope)) {
                (log.write)(log.format.line(scope));
            }
        });
    }
}
