//! Collects the events of one request, and passes them to the observers.

use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use memchr::memmem;
use tracing::Span;

use super::event::{Attempts, RequestEvent};
use super::span::{self, RequestSpans};
use super::termination::Cut;
use super::{
    Attempt, AttemptBegan, AttemptEnd, AttemptEnded, Classified, Detail, Dispatched, EndpointPicked, Finished,
    ObservedRequest, Observers, Queued, Received, RequestObserver, ResponseHead, Retried, RetryReason, SessionEvent,
    SessionOutcome, SharedResponse, ShownHeaders, Termination, Times,
};
#[cfg(feature = "cache")]
use super::{CacheLookup, CacheOutcome};
use crate::backend::SendErrorKind;
use crate::body::{Body, BodyEnd, BodyError, BodyTap, ConnectTimer};
use crate::clock::Clock;
use crate::cluster::Picked;
use crate::endpoint::EndpointId;
use crate::kylin::query::QueryRequest;
use crate::kylin::response::{BodyTail, QueryFlags};
use crate::request::{ClientAddr, ObservedQuery};

/// The record of an observed request. The response body holds it; dropping it ends the request.
pub(crate) struct RequestRecorder {
    observers: Arc<Observers>,
    own: Option<RequestObserver>,
    spans: RequestSpans,
    clock: Arc<dyn Clock>,
    request: ObservedRequest,
    detail: Detail,
    reads_flags: bool,
    /// The end of the response body of a query, if an observer reads its flags.
    tail: Option<Box<BodyTail>>,
    /// The time at which the query that waits for a slot began to wait.
    queued_since: Option<Duration>,
    queued: Duration,
    attempts: Attempts,
    connect_timer: ConnectTimer,
    /// Whether the current attempt failed before the request was sent.
    is_unprepared: bool,
    status: Option<StatusCode>,
    first_byte: Option<Duration>,
    bytes: u64,
    /// `None` until it is certain.
    termination: Option<Termination>,
    /// The endpoint that responded to an identical request.
    shared: Option<EndpointId>,
    is_finished: bool,
}

impl RequestRecorder {
    /// Returns whether anything observes a request.
    pub(crate) fn is_wanted(observers: &Observers, request: &Request<Body>) -> bool {
        !observers.is_empty() || request.extensions().get::<RequestObserver>().is_some() || span::are_wanted()
    }

    /// Starts the record of a request from `client`.
    pub(crate) fn begin(
        observers: &Arc<Observers>,
        clock: &Arc<dyn Clock>,
        client: ClientAddr,
        host: Option<&HeaderValue>,
        shown: ShownHeaders,
        request: &mut Request<Body>,
    ) -> Box<Self> {
        let own = request.extensions_mut().remove::<RequestObserver>();
        let detail = own.iter().flat_map(|own| &own.0).map(|own| own.detail()).fold(observers.detail(), Detail::max);
        let reads_flags =
            observers.reads_query_flags() || own.iter().flat_map(|own| &own.0).any(|own| own.reads_query_flags());
        let mut recorder = Box::new(RequestRecorder {
            spans: RequestSpans::none(),
            request: ObservedRequest::new(client, host, shown, request, clock.now()),
            observers: Arc::clone(observers),
            own,
            clock: Arc::clone(clock),
            detail,
            reads_flags,
            tail: None,
            queued_since: None,
            queued: Duration::ZERO,
            attempts: Attempts::default(),
            connect_timer: ConnectTimer::default(),
            is_unprepared: false,
            status: None,
            first_byte: None,
            bytes: 0,
            termination: None,
            shared: None,
            is_finished: false,
        });
        recorder.spans = RequestSpans::begin(&recorder.request);
        recorder.tell(&Received { request: &recorder.request });
        recorder
    }

    /// Passes an event to the observers that want it.
    fn tell<E: RequestEvent>(&self, event: &E) {
        self.observers.tell(event);
        if let Some(own) = &self.own {
            own.tell(event);
        }
    }

    /// Returns the timer of the connections that are made for the request.
    pub(crate) fn connect_timer(&self) -> ConnectTimer {
        self.connect_timer.clone()
    }

    /// Returns whether the request's spans are wanted.
    pub(crate) fn is_traced(&self) -> bool {
        self.spans.are_enabled()
    }

    /// Returns the span of the request.
    pub(crate) fn span(&self) -> Span {
        self.spans.of_request()
    }

    /// Returns the current attempt's span.
    pub(crate) fn attempt_span(&self) -> Span {
        self.spans.of_attempt()
    }

    /// Returns the time since the request arrived.
    fn elapsed(&self) -> Duration {
        self.now().elapsed
    }

    fn now(&self) -> Moment {
        let at = self.clock.now();
        Moment { at, elapsed: at.saturating_duration_since(self.request.began) }
    }

    pub(crate) fn classified(&mut self, class: &'static str) {
        self.request.class = Some(class);
        self.spans.classified(class);
        self.tell(&Classified { request: &self.request });
    }

    /// Returns whether an observer wants the details of a query.
    pub(crate) fn wants_query(&self) -> bool {
        self.detail >= Detail::Query
    }

    /// Records the query, in the detail that an observer wants.
    pub(crate) fn query(&mut self, query: &QueryRequest<'_>) {
        if self.wants_query() {
            self.request.query = Some(ObservedQuery::new(query, self.detail == Detail::Sql));
        }
    }

    /// Records that the session was looked up.
    pub(crate) fn session_looked_up(&self, is_bound: bool) {
        let outcome = if is_bound { SessionOutcome::Found } else { SessionOutcome::NotFound };
        self.tell(&SessionEvent { request: &self.request, outcome, endpoint: None });
    }

    /// Records that the response has bound the session to `endpoint`.
    pub(crate) fn session_bound(&self, endpoint: &EndpointId, has_moved: bool) {
        let outcome = if has_moved { SessionOutcome::Moved } else { SessionOutcome::Bound };
        let endpoint = Some(endpoint);
        self.tell(&SessionEvent { request: &self.request, outcome, endpoint });
    }

    /// Records that the query waits for a slot of `endpoint`.
    pub(crate) fn queued(&mut self, endpoint: &EndpointId) {
        let elapsed = self.elapsed();
        self.queued_since.get_or_insert(elapsed);
        self.tell(&Queued { request: &self.request, endpoint });
    }

    /// Records that the query has its slot.
    pub(crate) fn dispatched(&mut self, endpoint: &EndpointId) {
        let waited = self.end_wait();
        self.tell(&Dispatched { request: &self.request, endpoint, waited });
    }

    fn end_wait(&mut self) -> Duration {
        let waited = self.queued_since.take().map_or(Duration::ZERO, |since| self.elapsed().saturating_sub(since));
        self.queued += waited;
        waited
    }

    /// Records that the request gets a copy of the response that `endpoint` sends to another.
    pub(crate) fn shared(&mut self, endpoint: &EndpointId) {
        self.shared = Some(endpoint.clone());
        let waited = self.elapsed();
        self.tell(&SharedResponse { request: &self.request, endpoint, waited });
    }

    /// Records the lookup of the query in the result cache.
    #[cfg(feature = "cache")]
    pub(crate) fn cache_looked_up(&self, outcome: CacheOutcome, age: Option<Duration>) {
        self.tell(&CacheLookup { request: &self.request, outcome, age });
    }

    /// Records that the request is about to be sent to the endpoint that was picked.
    pub(crate) fn attempt_begins<B>(&mut self, picked: &Picked<B>) {
        let (endpoint, reason) = (picked.lease.endpoint(), picked.reason);
        if self.attempts.last().is_none_or(|before| before.endpoint != *endpoint) {
            self.tell(&EndpointPicked { request: &self.request, endpoint, reason });
        }
        self.attempts.push(Attempt {
            endpoint: endpoint.clone(),
            address: Arc::clone(picked.lease.placement()),
            reason,
            after: self.elapsed(),
            connecting: None,
            head: None,
            total: Duration::ZERO,
            status: None,
            bytes: 0,
            end: None,
        });
        _ = self.connect_timer.take();
        self.is_unprepared = false;
        let number = self.number();
        if let Some(attempt) = self.attempts.last() {
            self.spans.attempt_begins(number, attempt);
        }
        self.tell(&AttemptBegan { request: &self.request, number, endpoint });
    }

    fn number(&self) -> u32 {
        u32::try_from(self.attempts.len()).unwrap_or(u32::MAX)
    }

    /// Records that the session could not log in at the node.
    pub(crate) fn attempt_unprepared(&mut self) {
        self.is_unprepared = true;
    }

    pub(crate) fn attempt_failed(&mut self, kind: SendErrorKind) {
        let failed = if self.is_unprepared { AttemptEnd::NotPrepared } else { AttemptEnd::Failed };
        self.end_attempt(failed(kind), self.now());
    }

    /// Records the head of a response, whether or not the client gets it.
    pub(crate) fn attempt_responded(&mut self, status: StatusCode) {
        let elapsed = self.elapsed();
        if let Some(attempt) = self.attempts.last_mut() {
            (attempt.head, attempt.status) = (Some(elapsed.saturating_sub(attempt.after)), Some(status));
            attempt.connecting = self.connect_timer.take();
        }
    }

    /// Ends the attempt at `index`, one of several that ran at the same time, which took `took`.
    pub(crate) fn attempt_ended(&mut self, index: usize, end: AttemptEnd, status: Option<StatusCode>, took: Duration) {
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        (attempt.end, attempt.status, attempt.total) = (Some(end), status, took);
        attempt.head = status.map(|_| took);
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let (attempt, at) = (&self.attempts[index], self.clock.now());
        self.tell(&AttemptEnded { request: &self.request, number, attempt, at });
    }

    fn end_attempt(&mut self, end: AttemptEnd, Moment { at, elapsed }: Moment) {
        let number = self.number();
        let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.end.is_none()) else { return };
        attempt.total = elapsed.saturating_sub(attempt.after);
        attempt.connecting = attempt.connecting.or_else(|| self.connect_timer.take());
        attempt.end = Some(end);
        if let Some(attempt) = self.attempts.last() {
            self.spans.attempt_ended(attempt);
            self.tell(&AttemptEnded { request: &self.request, number, attempt, at });
        }
    }

    /// Records that the request is sent again, to `to`. A response to the last attempt is dropped.
    pub(crate) fn retried(&mut self, to: &EndpointId, reason: RetryReason, budget_left: Option<u32>) {
        if let RetryReason::Response(status) = reason {
            self.end_attempt(AttemptEnd::Responded(status), self.now());
        } else if let Some(status) = self.attempts.last().and_then(|attempt| attempt.status) {
            self.end_attempt(AttemptEnd::Responded(status), self.now());
        }
        let Some(Attempt { endpoint: from, .. }) = self.attempts.last() else { return };
        self.tell(&Retried { request: &self.request, from, to, reason, budget_left });
    }

    /// Records why the client gets a response of the proxy itself.
    pub(crate) fn failed(&mut self, termination: Termination) {
        self.termination = Some(termination);
        if let Some(status) = self.attempts.last().and_then(|attempt| attempt.status) {
            let is_truncated = matches!(termination, Termination::ResponseTruncated | Termination::ResponseStalled);
            let end = if is_truncated { AttemptEnd::Truncated } else { AttemptEnd::Responded(status) };
            self.end_attempt(end, self.now());
        }
    }

    /// Records the head of the response for the client, whose body ends the request. `is_head` says
    /// that the client gets no body.
    pub(crate) fn respond(mut self: Box<Self>, response: &mut Response<Body>, is_head: bool) {
        let (status, elapsed) = (response.status(), self.elapsed());
        (self.status, self.first_byte) = (Some(status), Some(elapsed));
        let endpoint = self.attempts.last().filter(|attempt| attempt.end.is_none()).map(|attempt| &attempt.endpoint);
        let (headers, attempts) = (response.headers(), &self.attempts[..]);
        self.tell(&ResponseHead { request: &self.request, endpoint, status, headers, attempts, elapsed });
        let has_flags =
            self.reads_flags && self.request.query.is_some() && status.is_success() && is_plain_json(headers);
        self.tail = has_flags.then(Box::default);
        if is_head {
            self.finish(Termination::Complete);
        } else {
            response.body_mut().set_tap(self);
        }
    }

    /// Ends the request. Does nothing the second time.
    fn finish(&mut self, ended: Termination) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let termination = match (self.termination, ended) {
            // The client got an error response of the proxy.
            (Some(cause), Termination::Complete) => cause,
            (_, ended) => ended,
        };
        let now = self.now();
        // Concurrent attempts that the client did not wait for may still be running.
        for index in 0..self.attempts.len().saturating_sub(1) {
            if self.attempts[index].end.is_none() {
                let took = now.elapsed.saturating_sub(self.attempts[index].after);
                self.attempt_ended(index, AttemptEnd::Cancelled, None, took);
            }
        }
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.end.is_none()) {
            attempt.bytes = self.bytes;
            let end = match attempt.status {
                Some(status) if termination == Termination::Complete => AttemptEnd::Responded(status),
                Some(_) if termination.is_by_node_body() => AttemptEnd::Truncated,
                Some(_) | None => AttemptEnd::Cancelled,
            };
            self.end_attempt(end, now);
        }
        self.end_wait();
        let Moment { at, elapsed: total } = now;
        let times = Times {
            waiting: self.attempts.first().map_or(total, |first| first.after),
            queued: self.queued,
            connecting: self.attempts.iter().filter_map(|attempt| attempt.connecting).fold(Duration::ZERO, Add::add),
            first_byte: self.first_byte,
            total,
        };
        let (status, bytes, attempts, shared) = (self.status, self.bytes, &self.attempts[..], self.shared.as_ref());
        let tail = self.tail.as_ref().filter(|_| termination == Termination::Complete);
        let query_flags = tail.and_then(|tail| QueryFlags::of_tail(tail.bytes()));
        let request = &self.request;
        let finished = Finished { request, status, bytes, attempts, shared, times, query_flags, termination, at };
        self.spans.finished(&finished);
        self.tell(&finished);
    }
}

/// A moment, on the clock of the proxy and relative to the arrival of the request.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    elapsed: Duration,
}

/// Returns whether a body is JSON that is not compressed.
fn is_plain_json(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    media.starts_with(b"application/")
        && memmem::find(media, b"json").is_some()
        && !headers.contains_key(header::CONTENT_ENCODING)
}

impl BodyTap for RequestRecorder {
    fn data(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(tail) = &mut self.tail {
            tail.push(bytes);
        }
    }

    fn end(&mut self, end: BodyEnd<'_>) {
        let ended = match end {
            BodyEnd::Complete => Termination::Complete,
            BodyEnd::Failed(BodyError::Stalled(_)) => Termination::ResponseStalled,
            BodyEnd::Failed(_) => Termination::ResponseTruncated,
            BodyEnd::Dropped if std::thread::panicking() => Termination::Panicked,
            BodyEnd::Dropped => Cut::end_of_dropped(&mut self.status),
        };
        self.finish(ended);
    }
}

impl Drop for RequestRecorder {
    fn drop(&mut self) {
        self.end(BodyEnd::Dropped);
    }
}
