//! One request of a probe, and the evaluation of its response.

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};

use super::matcher::ResponseMatcher;
use crate::backend::SendErrorKind;
use crate::backend::node_client::{NodeClient, NodeError, NodeResponse};
use crate::cookie::{CookieJar, date};
use crate::error_chain::error_chain;
use crate::health::ProbeFailure;
use crate::kylin::response::is_user_source_down;

/// Marks probes in the log of a node.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kylin-lb/", env!("CARGO_PKG_VERSION"), " (probe)"));

/// The maximum length of a body. Kylin's responses to probes have a few hundred bytes.
pub(super) const MAX_BODY: u64 = 64 * 1024;

/// A request, and the responses of a healthy node.
#[derive(Clone)]
pub(super) struct RequestProbe {
    pub(super) request: Request<Bytes>,
    pub(super) expected: Vec<ResponseMatcher>,
}

impl RequestProbe {
    /// Returns a GET of `target` that expects the status 200.
    pub(super) fn get(target: PathAndQuery) -> Self {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = target.into();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        RequestProbe { request, expected: vec![ResponseMatcher::status(StatusCode::OK)] }
    }

    /// Sends the request to a node, and sets `last`.
    pub(super) async fn send(
        &self,
        client: &NodeClient,
        cookies: &mut CookieJar,
        last: &mut LastResponse,
    ) -> ProbeResult {
        let mut request = self.request.clone();
        if let Some(cookie) = cookies.header() {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        match client.send(request).await {
            Ok(response) => {
                last.date = response.headers.get(header::DATE).and_then(|date| date::parse(date.as_bytes()));
                self.classify(&response, cookies, last)
            }
            Err(error) => ProbeResult::of_error(&error, last),
        }
    }

    fn classify(&self, response: &NodeResponse, cookies: &mut CookieJar, last: &mut LastResponse) -> ProbeResult {
        let NodeResponse { status, headers, body } = response;
        if self.request.headers().contains_key(header::AUTHORIZATION) {
            if *status == StatusCode::UNAUTHORIZED {
                cookies.clear();
                return ProbeResult::Inconclusive(SkipReason::LoginRejected);
            }
            if body.as_ref().is_ok_and(|body| is_user_source_down(*status, headers, body)) {
                return ProbeResult::Inconclusive(SkipReason::LoginUnchecked);
            }
        }
        cookies.store(headers);
        let mut expected = self.expected.iter().filter(|expected| expected.matches_status(*status)).peekable();
        if expected.peek().is_none() {
            return ProbeResult::Unhealthy(ProbeFailure::Status(*status));
        }
        let body = match body {
            Ok(body) => Some(&**body),
            Err(NodeError::TooLong(_)) => None,
            Err(error) => return ProbeResult::of_error(error, last),
        };
        if expected.any(|expected| expected.matches_body(body)) {
            return ProbeResult::Healthy;
        }
        // If only an alternative accepts the status, the status is the failure.
        let first = self.expected.first().is_some_and(|expected| expected.matches_status(*status));
        ProbeResult::Unhealthy(if first { ProbeFailure::Body } else { ProbeFailure::Status(*status) })
    }
}

impl fmt::Debug for RequestProbe {
    /// Leaves out header values and the body, because they hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestProbe { request, expected } = self;
        f.debug_struct("RequestProbe")
            .field("method", request.method())
            .field("path", &request.uri().path())
            .field("headers", &request.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>())
            .field("expected", expected)
            .finish_non_exhaustive()
    }
}

/// The data that a probe leaves besides its result.
#[derive(Debug, Default)]
pub(super) struct LastResponse {
    /// The `Date` of the response, in seconds since 1970.
    pub(super) date: Option<u64>,
    /// The text of the error, if there was no complete response.
    pub(super) error: Option<String>,
}

/// The result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeResult {
    Healthy,
    Unhealthy(ProbeFailure),
    /// The probe could not be sent; the health of the node stays as it is.
    Inconclusive(SkipReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipReason {
    /// The backend's own limit of connections is reached.
    ConnectionLimit,
    /// This process has no descriptors, ports or memory left for a connection.
    Shortage,
    /// The head of the response exceeds the backend's limits.
    HeadTooLarge,
    /// 401 to the probe's credentials.
    LoginRejected,
    /// The node cannot check the probe's credentials.
    LoginUnchecked,
}

impl ProbeResult {
    pub(super) fn of_error(error: &NodeError, last: &mut LastResponse) -> Self {
        last.error = Some(error_chain(error));
        ProbeResult::Unhealthy(match error {
            NodeError::Send(kind, _) => match kind {
                SendErrorKind::Limit => return ProbeResult::Inconclusive(SkipReason::ConnectionLimit),
                SendErrorKind::Shortage => return ProbeResult::Inconclusive(SkipReason::Shortage),
                SendErrorKind::HeadTooLarge => return ProbeResult::Inconclusive(SkipReason::HeadTooLarge),
                SendErrorKind::Connect | SendErrorKind::ConnectTimeout => ProbeFailure::Unreachable,
                SendErrorKind::HeadTimeout => ProbeFailure::Timeout,
                SendErrorKind::Refused
                | SendErrorKind::Broken
                | SendErrorKind::Stale
                | SendErrorKind::Invalid
                | SendErrorKind::RequestBody => ProbeFailure::Broken,
            },
            NodeError::Timeout => ProbeFailure::Timeout,
            NodeError::Body(_) => ProbeFailure::Broken,
            NodeError::TooLong(_) | NodeError::NoMemory => ProbeFailure::Body,
        })
    }
}
