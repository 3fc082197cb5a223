//! What a node is asked, what speaks for it, and the asking itself, which goes through its backend like any request.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

use super::matcher::ResponseMatcher;
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::basic_auth;
use crate::body::Body;
use crate::cookie::CookieJar;
use crate::health::ProbeFailure;

/// How much of an answer's body is read. Kylin's answers to probes have a few hundred bytes.
const MOST_BYTES: usize = 64 * 1024;

/// A question to a node, and which answers speak for it.
///
/// There are ready-made ones for Kylin, and more can be made. A probe that logs in keeps the session cookie that it gets
/// from a node and shows it the next time: Kylin makes a session of hours for each request that comes with a password only.
///
/// ```
/// use http::StatusCode;
/// use kylin_lb::probe::{ResponseMatcher, Probe};
///
/// let up = Probe::kylin_version();
/// let own = Probe::get("/kylin/api/projects")?
///     .login("PROBE", "secret")?
///     .expect(ResponseMatcher::status(StatusCode::OK).json_has("/0/uuid"));
/// assert!(!format!("{own:?}").contains("secret"));
/// # let _ = up;
/// # Ok::<(), kylin_lb::probe::InvalidProbe>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Probe {
    question: Question,
    expected: Vec<ResponseMatcher>,
    timeout: Option<Duration>,
}

#[derive(Clone)]
enum Question {
    Connect,
    Request { method: Method, path: PathAndQuery, headers: HeaderMap, body: Bytes, login: bool },
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Well,
    Ill(ProbeFailure),
    /// The probe itself was wrong or found no room: nothing is said of the node.
    Nothing(Hindrance),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// The backend's own limit of connections is reached.
    Limit,
    /// 401 to the probe's login. Kylin 5 locks a user after three wrong passwords, so this must not go on.
    Login,
}

impl Probe {
    /// Connects and sends nothing: see [`Backend::reach`]. Shows that somebody listens, no more.
    pub fn tcp() -> Self {
        Probe { question: Question::Connect, expected: Vec::new(), timeout: None }
    }

    /// GET of `path`. Until [`expect`](Self::expect) says otherwise, an answer of 200 is a good one.
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] when `path` is not a path with or without a query.
    pub fn get(path: &str) -> Result<Self, InvalidProbe> {
        Probe::request(Method::GET, path, HeaderMap::new(), Bytes::new())
    }

    /// POST of a JSON text to `path`, otherwise as [`get`](Self::get).
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] when `path` is not a path with or without a query.
    pub fn post_json(path: &str, json: impl Into<Bytes>) -> Result<Self, InvalidProbe> {
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Probe::request(Method::POST, path, HeaderMap::from_iter([content_type]), json.into())
    }

    /// GET of a path that is known to be one.
    pub(super) fn fixed(path: PathAndQuery) -> Self {
        Probe::asking(Method::GET, path, HeaderMap::new(), Bytes::new())
    }

    fn request(method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Self, InvalidProbe> {
        let parsed = path.starts_with('/').then(|| path.parse().ok()).flatten();
        let path = parsed.ok_or_else(|| InvalidProbe::Path(path.to_owned()))?;
        Ok(Probe::asking(method, path, headers, body))
    }

    fn asking(method: Method, path: PathAndQuery, headers: HeaderMap, body: Bytes) -> Self {
        let question = Question::Request { method, path, headers, body, login: false };
        Probe { question, expected: vec![ResponseMatcher::status(StatusCode::OK)], timeout: None }
    }

    /// Sets a header field. `host` is the endpoint's placement name, its address as written, unless it is set here. Has no
    /// effect on [`tcp`](Self::tcp).
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Question::Request { headers, .. } = &mut self.question {
            headers.insert(name, value);
        }
        self
    }

    /// Logs in with HTTP Basic. Take a user that may do nothing else. An answer of 401 says nothing of a node: it is
    /// logged, and the node is probed again no sooner than after a minute, so that the user is not locked.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] when the user's name contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        let value = basic(user, password)?;
        if let Question::Request { headers, login, .. } = &mut self.question {
            headers.insert(header::AUTHORIZATION, value);
            *login = true;
        }
        Ok(self)
    }

    /// Sets what a good answer is.
    pub fn expect(mut self, answer: ResponseMatcher) -> Self {
        self.expected = vec![answer];
        self
    }

    /// This answer is as good.
    pub fn or_expect(mut self, answer: ResponseMatcher) -> Self {
        self.expected.push(answer);
        self
    }

    /// How long the whole of the answer may take. Default: what [`HealthCheck::timeout`](super::HealthCheck::timeout) says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Asks the node behind `backend`, and judges the answer.
    pub(super) async fn ask<B: Backend>(
        &self,
        backend: &B,
        host: &str,
        cookies: &mut CookieJar,
        timeout: Duration,
    ) -> Finding {
        match tokio::time::timeout(self.timeout.unwrap_or(timeout), self.try_twice(backend, host, cookies)).await {
            Ok(finding) => finding,
            Err(_) => Finding::Ill(ProbeFailure::Timeout),
        }
    }

    /// A kept connection that ends under a probe says nothing of the node: the second try has a fresh one.
    async fn try_twice<B: Backend>(&self, backend: &B, host: &str, cookies: &mut CookieJar) -> Finding {
        match self.try_once(backend, host, cookies).await {
            Err(error) if error.kind() == SendErrorKind::Stale => self.try_once(backend, host, cookies).await,
            result => result,
        }
        .unwrap_or_else(|error| finding(error.kind()))
    }

    async fn try_once<B: Backend>(
        &self,
        backend: &B,
        host: &str,
        cookies: &mut CookieJar,
    ) -> Result<Finding, SendError> {
        match self.message(host, cookies) {
            None => backend.check_connect().await.map(|()| Finding::Well),
            Some(request) => Ok(self.judge(backend.send(request).await?, cookies).await),
        }
    }

    fn message(&self, host: &str, cookies: &CookieJar) -> Option<Request<Body>> {
        let Question::Request { method, path, headers, body, .. } = &self.question else { return None };
        let mut request = Request::new(if body.is_empty() { Body::empty() } else { body.clone().into() });
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::from(path.clone());
        let fields = request.headers_mut();
        introduce(fields, host);
        for (name, value) in headers {
            fields.insert(name, value.clone());
        }
        if let Some(cookie) = cookies.header() {
            fields.insert(header::COOKIE, cookie);
        }
        Some(request)
    }

    async fn judge(&self, answer: Response<Body>, cookies: &mut CookieJar) -> Finding {
        let (head, body) = answer.into_parts();
        let status = head.status;
        if status == StatusCode::UNAUTHORIZED && self.logs_in() {
            cookies.clear();
            return Finding::Nothing(Hindrance::Login);
        }
        if self.logs_in() {
            cookies.store(&head.headers);
        }
        let expected: Vec<_> = self.expected.iter().filter(|expected| expected.takes_status(status)).collect();
        if expected.is_empty() {
            return Finding::Ill(ProbeFailure::Status(status));
        }
        // Read to its end in any case, so that the connection can be used again.
        let body = match Limited::new(body, MOST_BYTES).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => None,
            Err(_) => return Finding::Ill(ProbeFailure::Broken),
        };
        if expected.iter().any(|expected| expected.takes_body(body.as_deref())) {
            return Finding::Well;
        }
        // Where the status was only good for some other body, it is what is wrong.
        let first = self.expected.first().is_some_and(|expected| expected.takes_status(status));
        Finding::Ill(if first { ProbeFailure::Body } else { ProbeFailure::Status(status) })
    }

    fn logs_in(&self) -> bool {
        matches!(self.question, Question::Request { login: true, .. })
    }
}

/// What HTTP Basic shows for a login.
pub(super) fn basic(user: &str, password: &str) -> Result<HeaderValue, InvalidProbe> {
    basic_auth::authorization(user, password).ok_or(InvalidProbe::User)
}

/// The fields of every request of our own to the node called `host`. Kylin 5 takes none without `User-Agent`.
pub(super) fn introduce(fields: &mut HeaderMap, host: &str) {
    let host = host.parse::<Authority>().ok().and_then(|host| HeaderValue::try_from(host.as_str()).ok());
    fields.insert(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
    fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
}

const USER_AGENT: &str = concat!("kylin-lb/", env!("CARGO_PKG_VERSION"), " (probe)");

fn finding(phase: SendErrorKind) -> Finding {
    match phase {
        SendErrorKind::Limit => Finding::Nothing(Hindrance::Limit),
        SendErrorKind::Connect | SendErrorKind::ConnectTimeout => Finding::Ill(ProbeFailure::Unreachable),
        SendErrorKind::HeadTimeout => Finding::Ill(ProbeFailure::Timeout),
        SendErrorKind::Refused
        | SendErrorKind::Broken
        | SendErrorKind::Stale
        | SendErrorKind::Invalid
        | SendErrorKind::RequestBody => Finding::Ill(ProbeFailure::Broken),
    }
}

impl fmt::Debug for Probe {
    /// Header values and the body are left out: credentials are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Connect => f.write_str("Probe(connect)"),
            Question::Request { method, path, headers, login, .. } => f
                .debug_struct("Probe")
                .field("method", method)
                .field("path", &path.path())
                .field("headers", &headers.keys().map(HeaderName::as_str).collect::<Vec<_>>())
                .field("login", login)
                .field("expected", &self.expected)
                .finish_non_exhaustive(),
        }
    }
}

/// Why a probe was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProbe {
    /// Not a path.
    #[error("{0:?} is not the path of a probe: expected one that starts with \"/\"")]
    Path(String),
    /// Not a user's name.
    #[error("the user of a probe may not have a colon in the name")]
    User,
}
