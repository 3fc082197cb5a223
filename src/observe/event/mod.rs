//! The events of a request.

mod attempts;
#[cfg(feature = "cache")]
mod cache;
mod kind;
mod single_flight;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

pub(super) use self::attempts::Attempts;
#[cfg(feature = "cache")]
pub use self::cache::{CacheLookup, CacheOutcome, CacheStatus};
pub use self::kind::EventKind;
pub(super) use self::kind::RequestEvent;
pub use self::single_flight::{SharedResponse, SingleFlightStatus};
use super::{ObservedRequest, QueryFlags, Termination};
use crate::backend::SendErrorKind;
use crate::cluster::PickReason;
use crate::endpoint::EndpointId;

/// A request arrived.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
}

/// A request was classified.
#[derive(Debug)]
#[non_exhaustive]
pub struct Classified<'a> {
    /// The request, with its [class](ObservedRequest::class).
    pub request: &'a ObservedRequest,
}

/// The outcome of the session of a request.
#[derive(Debug)]
#[non_exhaustive]
pub struct SessionEvent<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The outcome.
    pub outcome: SessionOutcome,
    /// The endpoint that the session is bound to now; `None` after a lookup.
    pub endpoint: Option<&'a EndpointId>,
}

/// The outcome of the session of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionOutcome {
    /// The request carries a session that is bound to an endpoint.
    Found,
    /// The request carries no bound session.
    NotFound,
    /// The response bound a session that was not bound before.
    Bound,
    /// The response bound a session to another endpoint, because its own cannot serve.
    Moved,
}

/// A query waits for a slot of an endpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct Queued<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint.
    pub endpoint: &'a EndpointId,
}

/// A query that waited has a slot of an endpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct Dispatched<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint.
    pub endpoint: &'a EndpointId,
    /// How long the query has waited for this attempt, including the time at other endpoints.
    pub waited: Duration,
}

/// An endpoint was picked.
#[derive(Debug)]
#[non_exhaustive]
pub struct EndpointPicked<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint.
    pub endpoint: &'a EndpointId,
    /// The reason why the endpoint was picked.
    pub reason: PickReason,
}

/// An attempt began.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttemptBegan<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The endpoint.
    pub endpoint: &'a EndpointId,
}

/// An attempt ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttemptEnded<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The attempt.
    pub attempt: &'a Attempt,
    /// The time, on the clock of the proxy.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "only the status reads it"))]
    pub(crate) at: Instant,
}

/// One attempt: the request was sent to an endpoint, or was about to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attempt {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The address of the node as the operator wrote it.
    pub address: Arc<str>,
    /// The reason why the endpoint was picked.
    pub reason: PickReason,
    /// From the arrival of the request to the beginning of the attempt.
    pub after: Duration,
    /// The time to make the connection; `None` if an open one was used, and with a backend other
    /// than [`HttpBackend`](crate::HttpBackend).
    pub connecting: Option<Duration>,
    /// From the beginning of the attempt to the head of the response.
    pub head: Option<Duration>,
    /// From the beginning of the attempt to its end: the end of the body, if the client gets it.
    pub total: Duration,
    /// The status of the response, once there is one.
    pub status: Option<StatusCode>,
    /// The bytes of the body that came from the node and were passed on.
    pub bytes: u64,
    /// The end of the attempt; `None` while it runs.
    pub end: Option<AttemptEnd>,
}

impl Attempt {
    /// Returns the current phase of the attempt, or the phase in which it ended.
    pub fn phase(&self) -> AttemptPhase {
        match self.end {
            Some(AttemptEnd::Failed(kind)) => AttemptPhase::of(kind),
            Some(AttemptEnd::NotPrepared(_)) => AttemptPhase::Login,
            _ if self.head.is_some() => AttemptPhase::Body,
            _ => AttemptPhase::Response,
        }
    }
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// The node responded.
    Responded(StatusCode),
    /// The node responded, and the body of the response ended early or paused for too long.
    Truncated,
    /// The request failed.
    Failed(SendErrorKind),
    /// The session could not log in at the node, so the request was not sent.
    NotPrepared(SendErrorKind),
    /// The client left, or the server stopped.
    Cancelled,
}

impl AttemptEnd {
    /// Returns a name from a small set: the class of a status such as `2xx`, or a kind of failure.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptEnd::Responded(status) => status_class(status),
            AttemptEnd::Truncated => "truncated",
            AttemptEnd::Failed(kind) => name_of(kind),
            AttemptEnd::NotPrepared(_) => "login",
            AttemptEnd::Cancelled => "cancelled",
        }
    }
}

/// A phase of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptPhase {
    /// The session logs in at the node.
    Login,
    /// The connection is established, or the attempt waits for it.
    Connect,
    /// The request is sent, and the attempt waits for the response.
    Response,
    /// The body of the response is read.
    Body,
}

impl AttemptPhase {
    fn of(kind: SendErrorKind) -> Self {
        match kind {
            SendErrorKind::Connect
            | SendErrorKind::ConnectTimeout
            | SendErrorKind::Limit
            | SendErrorKind::Shortage
            | SendErrorKind::Refused => AttemptPhase::Connect,
            SendErrorKind::Broken
            | SendErrorKind::Stale
            | SendErrorKind::HeadTimeout
            | SendErrorKind::Invalid
            | SendErrorKind::HeadTooLarge
            | SendErrorKind::RequestBody => AttemptPhase::Response,
        }
    }

    /// Returns the name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptPhase::Login => "login",
            AttemptPhase::Connect => "connect",
            AttemptPhase::Response => "response",
            AttemptPhase::Body => "body",
        }
    }
}

/// A request is sent again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Retried<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint of the last attempt.
    pub from: &'a EndpointId,
    /// The endpoint of the next attempt.
    pub to: &'a EndpointId,
    /// The reason why it is sent again.
    pub reason: RetryReason,
    /// The retries that the [budget](crate::proxy::RetryBudget) still allows; `None` without one.
    pub budget_left: Option<u32>,
}

/// The reason why a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryReason {
    /// The attempt failed.
    Failed(SendErrorKind),
    /// The status of the response, or its meaning in Kylin, requires another endpoint.
    Response(StatusCode),
    /// The session must log in at the node first.
    Login,
}

impl RetryReason {
    /// Returns a name from a bounded set, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RetryReason::Failed(kind) => name_of(kind),
            RetryReason::Response(StatusCode::UNAUTHORIZED) => "unauthorized",
            RetryReason::Response(_) => "response",
            RetryReason::Login => "login",
        }
    }
}

/// The head of the response for the client is known.
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint that responded; `None` for a response of the proxy itself.
    pub endpoint: Option<&'a EndpointId>,
    /// The status.
    pub status: StatusCode,
    /// The headers that the client gets, except those that the application adds.
    pub(crate) headers: &'a http::HeaderMap,
    /// The attempts in order. The last one has not ended.
    pub attempts: &'a [Attempt],
    /// From the arrival of the request.
    pub elapsed: Duration,
}

impl ResponseHead<'_> {
    /// Returns the value of a response header; `None` for `Set-Cookie`, which contains session ids,
    /// and for values that are not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = http::HeaderName::try_from(name).ok()?;
        if matches!(name, http::header::SET_COOKIE | http::header::WWW_AUTHENTICATE) {
            return None;
        }
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Debug for ResponseHead<'_> {
    /// Leaves out the headers, which may contain session ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("request", self.request)
            .field("endpoint", &self.endpoint)
            .field("status", &self.status)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// A request has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The status that the client got; `None` if the client left before the head of a response.
    pub status: Option<StatusCode>,
    /// The bytes of the response body that the client's connection accepted.
    pub bytes: u64,
    /// The attempts in order.
    pub attempts: &'a [Attempt],
    /// The endpoint whose response to an identical query was copied; `None` if none was.
    pub shared: Option<&'a EndpointId>,
    /// The durations of the parts of the request.
    pub times: Times,
    /// How the node got the result of a query. `None` unless an observer [reads
    /// it](super::Observer::reads_query_flags), or if the response is incomplete, compressed or not
    /// JSON.
    pub query_flags: Option<QueryFlags>,
    /// How the request ended.
    pub termination: Termination,
    /// The time, on the clock of the proxy.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "only the status reads it"))]
    pub(crate) at: Instant,
}

/// The durations of the parts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// From the arrival of the head to the first attempt: reading the body, looking up the session,
    /// waiting for a slot. The whole time if there was no attempt.
    pub waiting: Duration,
    /// Waiting for slots of endpoints, over all attempts.
    pub queued: Duration,
    /// Making connections, over all attempts.
    pub connecting: Duration,
    /// From the arrival of the head to the head of the response.
    pub first_byte: Option<Duration>,
    /// From the arrival of the head to the end.
    pub total: Duration,
}

/// Returns the class of a status, such as `2xx`.
pub(super) fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

fn name_of(kind: SendErrorKind) -> &'static str {
    match kind {
        SendErrorKind::Connect => "connect",
        SendErrorKind::ConnectTimeout => "connect_timeout",
        SendErrorKind::Limit => "limit",
        SendErrorKind::Shortage => "shortage",
        SendErrorKind::Refused => "refused",
        SendErrorKind::Broken => "broken",
        SendErrorKind::Stale => "stale",
        SendErrorKind::HeadTimeout => "response_timeout",
        SendErrorKind::Invalid => "invalid",
        SendErrorKind::HeadTooLarge => "head_too_large",
        SendErrorKind::RequestBody => "request_body",
    }
}
