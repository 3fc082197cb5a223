use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};

use super::matcher::ResponseMatcher;
use crate::backend::SendErrorKind;
use crate::backend::node_client::{NodeClient, NodeError, NodeResponse};
use crate::basic_auth;
use crate::cookie::CookieJar;
use crate::health::ProbeFailure;

/// Tells probes from other requests in the log of a node.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kylin-lb/", env!("CARGO_PKG_VERSION"), " (probe)"));

/// Responses to probes have a few hundred bytes in Kylin.
pub(super) const MAX_BODY: u64 = 64 * 1024;

/// A request that checks whether a node can serve, and the responses that a healthy node gives.
///
/// The crate has probes for Kylin, and an application can define others. A probe with credentials keeps the session cookie
/// that a node sets and sends it the next time, because Kylin makes a session of hours for each request that has only a
/// password.
///
/// ```
/// use http::StatusCode;
/// use kylin_lb::probe::{Probe, ResponseMatcher};
///
/// let ready_made = Probe::kylin_version();
/// let own = Probe::get("/kylin/api/projects")?
///     .login("PROBE", "secret")?
///     .expect(ResponseMatcher::status(StatusCode::OK).json_has("/0/uuid"));
/// assert!(!format!("{own:?}").contains("secret"));
/// # let _ = ready_made;
/// # Ok::<(), kylin_lb::probe::InvalidProbe>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Probe {
    kind: ProbeKind,
    expected: Vec<ResponseMatcher>,
    timeout: Option<Duration>,
}

#[derive(Clone)]
enum ProbeKind {
    Connect,
    Request(Box<Request<Bytes>>),
}

impl Probe {
    /// Connects and sends nothing, which shows only that the node accepts connections: see
    /// [`Backend::check_connect`](crate::Backend::check_connect).
    pub fn tcp() -> Self {
        Probe { kind: ProbeKind::Connect, expected: Vec::new(), timeout: None }
    }

    /// Sends a GET of `path`. A response with status 200 is healthy unless [`expect`](Self::expect) replaces that.
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] unless `path` is a path, with or without a query.
    pub fn get(path: &str) -> Result<Self, InvalidProbe> {
        let request = Request::new(Bytes::new());
        Probe::of(request, path)
    }

    /// Sends a POST of `json` to `path`. A response with status 200 is healthy unless [`expect`](Self::expect) replaces that.
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] unless `path` is a path, with or without a query.
    pub fn post_json(path: &str, json: impl Into<Bytes>) -> Result<Self, InvalidProbe> {
        let mut request = Request::new(json.into());
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Probe::of(request, path)
    }

    fn of(request: Request<Bytes>, path: &str) -> Result<Self, InvalidProbe> {
        let target: Option<PathAndQuery> = path.starts_with('/').then(|| path.parse().ok()).flatten();
        Ok(Probe::to(request, target.ok_or_else(|| InvalidProbe::Path(path.to_owned()))?))
    }

    /// Returns the probe that sends a GET of a path that is known to be valid.
    pub(super) fn get_static(path: &'static str) -> Self {
        Probe::to(Request::new(Bytes::new()), PathAndQuery::from_static(path))
    }

    fn to(mut request: Request<Bytes>, target: PathAndQuery) -> Self {
        *request.uri_mut() = target.into();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        let expected = vec![ResponseMatcher::status(StatusCode::OK)];
        Probe { kind: ProbeKind::Request(Box::new(request)), expected, timeout: None }
    }

    /// Sets a header. Default for `host`: the endpoint's placement name, which is its address as written. Has no effect on
    /// [`tcp`](Self::tcp).
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let ProbeKind::Request(request) = &mut self.kind {
            request.headers_mut().insert(name, value);
        }
        self
    }

    /// Sends HTTP Basic credentials. Use a user that has no other rights.
    ///
    /// A response with status 401 does not change the health of the node. It is logged, and the next probe of the node follows after a
    /// minute at the earliest, because Kylin 5 locks a user after three wrong passwords.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] when the user's name contains a colon (RFC 7617).
    pub fn login(self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        let authorization = basic_auth::authorization(user, password).ok_or(InvalidProbe::User)?;
        Ok(self.header(header::AUTHORIZATION, authorization))
    }

    /// Sets the response that shows a healthy node. Replaces all that were expected before.
    pub fn expect(mut self, response: ResponseMatcher) -> Self {
        self.expected = vec![response];
        self
    }

    /// Adds another response that shows a healthy node.
    pub fn or_expect(mut self, response: ResponseMatcher) -> Self {
        self.expected.push(response);
        self
    }

    /// Sets the time for the whole response. Default: that of
    /// [`HealthCheck::timeout`](super::HealthCheck::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns the probe's own time-out, if it has one.
    pub(super) fn own_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Probes a node.
    pub(super) async fn send(&self, client: &NodeClient, cookies: &mut CookieJar) -> ProbeResult {
        let ProbeKind::Request(request) = &self.kind else {
            return client.check_connect().await.map_or_else(|error| failure(&error), |()| ProbeResult::Healthy);
        };
        let mut request = request.clone();
        if let Some(cookie) = cookies.header() {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        match client.send(*request).await {
            Ok(response) => self.classify(&response, cookies),
            Err(error) => failure(&error),
        }
    }

    fn classify(&self, response: &NodeResponse, cookies: &mut CookieJar) -> ProbeResult {
        let NodeResponse { status, headers, body } = response;
        if self.has_credentials() {
            if *status == StatusCode::UNAUTHORIZED {
                cookies.clear();
                return ProbeResult::Inconclusive(SkipReason::LoginRejected);
            }
            cookies.store(headers);
        }
        let mut expected = self.expected.iter().filter(|expected| expected.matches_status(*status)).peekable();
        if expected.peek().is_none() {
            return ProbeResult::Unhealthy(ProbeFailure::Status(*status));
        }
        let body = match body {
            Ok(body) => Some(&**body),
            Err(NodeError::TooLong(_)) => None,
            Err(error) => return failure(error),
        };
        if expected.any(|expected| expected.matches_body(body)) {
            return ProbeResult::Healthy;
        }
        // Where only an alternative accepts the status, the status is the failure.
        let first = self.expected.first().is_some_and(|expected| expected.matches_status(*status));
        ProbeResult::Unhealthy(if first { ProbeFailure::Body } else { ProbeFailure::Status(*status) })
    }

    fn has_credentials(&self) -> bool {
        matches!(&self.kind, ProbeKind::Request(request) if request.headers().contains_key(header::AUTHORIZATION))
    }
}

impl fmt::Debug for Probe {
    /// Leaves out header values and the body, because they hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProbeKind::Connect => f.write_str("Probe(connect)"),
            ProbeKind::Request(request) => f
                .debug_struct("Probe")
                .field("method", request.method())
                .field("path", &request.uri().path())
                .field("headers", &request.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>())
                .field("expected", &self.expected)
                .finish_non_exhaustive(),
        }
    }
}

/// The result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeResult {
    Healthy,
    Unhealthy(ProbeFailure),
    /// The probe could not be made; the health of the node stays as it is.
    Inconclusive(SkipReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipReason {
    /// The backend's own limit of connections is reached.
    ConnectionLimit,
    /// 401 to the probe's credentials.
    LoginRejected,
}

fn failure(error: &NodeError) -> ProbeResult {
    ProbeResult::Unhealthy(match error {
        NodeError::Send(kind, _) => match kind {
            SendErrorKind::Limit => return ProbeResult::Inconclusive(SkipReason::ConnectionLimit),
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
        NodeError::TooLong(_) => ProbeFailure::Body,
    })
}

/// Why a probe was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProbe {
    /// The text is not a path.
    #[error("{0:?} is not the path of a probe: expected one that starts with \"/\"")]
    Path(String),
    /// The text cannot be the name of a user.
    #[error("the user of a probe may not have a colon in the name")]
    User,
}
