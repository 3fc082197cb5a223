use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::levels::{self, NodeMemory};
use super::matcher::ResponseMatcher;
use super::request::{ProbeResult, RequestProbe};
use crate::backend::node_client::NodeClient;
use crate::basic_auth;

/// A request that checks whether a node can serve, and the responses that a healthy node gives.
///
/// The crate has probes for Kylin, and an application can define others. A probe keeps the session
/// cookie that a node sets and sends it the next time. Otherwise Kylin would create a session that
/// lasts for hours at each request that has only a password. It may even create one for a request
/// that it refuses.
///
/// ```
/// use http::StatusCode;
/// use kylin_lb::probe::{Probe, ResponseMatcher};
///
/// let ready_made = Probe::kylin();
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
    timeout: Option<Duration>,
}

#[derive(Clone)]
enum ProbeKind {
    Connect,
    Request(Box<RequestProbe>),
    /// The requests for the version and for the authentication: see [`Probe::kylin`].
    Levels(Box<[RequestProbe; 2]>),
}

impl Probe {
    /// Connects and sends nothing, which shows only that the node accepts connections: see
    /// [`Backend::check_connect`](crate::Backend::check_connect).
    pub fn tcp() -> Self {
        Probe { kind: ProbeKind::Connect, timeout: None }
    }

    /// Sends a GET of `path`. A response with status 200 is healthy unless [`expect`](Self::expect)
    /// replaces this.
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] if `path` is not a path, with or without a query.
    pub fn get(path: &str) -> Result<Self, InvalidProbe> {
        Ok(Probe::of(RequestProbe::get(target(path)?)))
    }

    /// Sends a POST of `json` to `path`. A response with status 200 is healthy unless
    /// [`expect`](Self::expect) replaces this.
    ///
    /// # Errors
    /// [`InvalidProbe::Path`] if `path` is not a path, with or without a query.
    pub fn post_json(path: &str, json: impl Into<Bytes>) -> Result<Self, InvalidProbe> {
        let mut probe = RequestProbe::get(target(path)?);
        *probe.request.body_mut() = json.into();
        *probe.request.method_mut() = Method::POST;
        probe.request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Probe::of(probe))
    }

    pub(super) fn of(request: RequestProbe) -> Self {
        Probe { kind: ProbeKind::Request(Box::new(request)), timeout: None }
    }

    pub(super) fn by_level(version: RequestProbe, authentication: RequestProbe) -> Self {
        Probe { kind: ProbeKind::Levels(Box::new([version, authentication])), timeout: None }
    }

    /// Sets a header. Default for `host`: the address of the node
    /// ([`Backend::host`](crate::Backend::host)). Has no effect on [`tcp`](Self::tcp).
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        for probe in self.requests_mut() {
            probe.request.headers_mut().insert(name.clone(), value.clone());
        }
        self
    }

    /// Sends HTTP Basic credentials. Use a dedicated user without other rights.
    ///
    /// A response with status 401 does not change the health of the node. It is logged, and the
    /// next probe of the node follows after a minute at the earliest, because Kylin 5 locks a user
    /// after three wrong passwords. The error KE-010021006 of Kylin 5, whose user source is
    /// unreachable, does not change the health either.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] if the user's name contains a colon (RFC 7617).
    pub fn login(self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        let authorization = basic_auth::authorization(user, password).ok_or(InvalidProbe::User)?;
        Ok(self.header(header::AUTHORIZATION, authorization))
    }

    /// Sets the response that shows a healthy node. Replaces all earlier ones. Has no effect on
    /// [`tcp`](Self::tcp) and [`kylin`](Self::kylin).
    pub fn expect(mut self, response: ResponseMatcher) -> Self {
        if let ProbeKind::Request(probe) = &mut self.kind {
            probe.expected = vec![response];
        }
        self
    }

    /// Adds another response that shows a healthy node. Has no effect on [`tcp`](Self::tcp) and
    /// [`kylin`](Self::kylin).
    pub fn or_expect(mut self, response: ResponseMatcher) -> Self {
        if let ProbeKind::Request(probe) = &mut self.kind {
            probe.expected.push(response);
        }
        self
    }

    fn requests_mut(&mut self) -> &mut [RequestProbe] {
        match &mut self.kind {
            ProbeKind::Connect => &mut [],
            ProbeKind::Request(probe) => std::slice::from_mut(probe),
            ProbeKind::Levels(probes) => &mut **probes,
        }
    }

    /// Sets the timeout for each response. Default:
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
    pub(super) async fn send(&self, client: &NodeClient, memory: &mut NodeMemory) -> ProbeResult {
        match &self.kind {
            ProbeKind::Connect => match client.check_connect().await {
                Ok(()) => ProbeResult::Healthy,
                Err(error) => ProbeResult::of_error(&error, &mut memory.last),
            },
            ProbeKind::Request(probe) => probe.send(client, &mut memory.cookies, &mut memory.last).await,
            ProbeKind::Levels(probes) => levels::send(probes, client, memory).await,
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProbeKind::Connect => f.write_str("Probe(connect)"),
            ProbeKind::Request(probe) => f.debug_tuple("Probe").field(probe).finish(),
            ProbeKind::Levels(probes) => f.debug_tuple("Probe").field(probes).finish(),
        }
    }
}

fn target(path: &str) -> Result<PathAndQuery, InvalidProbe> {
    let target: Option<PathAndQuery> = path.starts_with('/').then(|| path.parse().ok()).flatten();
    target.ok_or_else(|| InvalidProbe::Path(path.to_owned()))
}

/// The error for an invalid probe.
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
