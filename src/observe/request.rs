use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Version};

#[cfg(doc)]
use super::Detail;
use super::target::{mask_path, mask_query, masked_target};
use crate::basic_auth;
use crate::request::{ClientAddr, ObservedQuery};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The facts of a request in events. It holds no credentials, cookies or session ids, and values that may be secret are masked.
pub struct ObservedRequest {
    number: u64,
    pub(super) began: Instant,
    at: SystemTime,
    client: ClientAddr,
    method: Method,
    target: Option<PathAndQuery>,
    version: Version,
    host: Option<HeaderValue>,
    user: Option<Box<str>>,
    id: RequestId,
    traceparent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    pub(super) class: Option<&'static str>,
    pub(super) query: Option<ObservedQuery>,
}

impl ObservedRequest {
    /// Gives the request an id, if it has none that may be passed on.
    pub(super) fn new<B>(client: ClientAddr, request: &mut Request<B>, now: Instant) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let id = RequestId::of(request);
        let headers = request.headers();
        ObservedRequest {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            began: now,
            at: SystemTime::now(),
            client,
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            version: request.version(),
            host: headers.get(header::HOST).cloned(),
            user: basic_user(headers).map(String::into_boxed_str),
            id,
            traceparent: headers.get(&TRACEPARENT).filter(|value| is_traceparent(value.as_bytes())).cloned(),
            referer: headers.get(header::REFERER).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            class: None,
            query: None,
        }
    }

    /// Returns a number that no other request of this process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns when the request arrived, by the time of day.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Returns the client: the peer of the connection, or the client that a trusted proxy names.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// Returns the method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the path as the client sent it, without the values of path parameters, which may be session ids.
    pub fn path(&self) -> Cow<'_, str> {
        mask_path(self.target.as_ref().map_or("", PathAndQuery::path))
    }

    /// Returns the query, if there is one. The values of parameters that may be secret are replaced by `***`: those called `sql`,
    /// which only [`sql`](Self::sql) shows, and those whose names tell of passwords, tokens or sessions.
    pub fn query(&self) -> Option<Cow<'_, str>> {
        let query = self.target.as_ref()?.query()?;
        Some(mask_query(query))
    }

    /// Returns path and query, both masked.
    pub fn target(&self) -> Cow<'_, str> {
        match self.query() {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path())),
            None => self.path(),
        }
    }

    /// Returns the HTTP version that the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the host, as the client named it.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Returns the user name of Basic credentials, which are not verified.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the `x-request-id` that the client sent or the proxy made: 1 to 128 letters, digits and `-_.:+/=@`.
    pub fn id(&self) -> Option<&str> {
        self.id.0.to_str().ok()
    }

    /// Returns the `traceparent` that the client sent, if it has the form of W3C Trace Context.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_ref()?.to_str().ok()
    }

    /// Returns the `Referer`, masked as the [target](Self::target) is.
    pub fn referer(&self) -> Option<Cow<'_, str>> {
        let referer = String::from_utf8_lossy(self.referer.as_ref()?.as_bytes());
        Some(Cow::Owned(masked_target(&referer).into_owned()))
    }

    /// Returns the `User-Agent`, which may hold any bytes but control characters.
    pub fn user_agent(&self) -> Option<&HeaderValue> {
        self.user_agent.as_ref()
    }

    /// Returns the class of the request, from a bounded set of names such as `query`, `login` or `page`; `None` in a plain proxy,
    /// and before the request is classified.
    pub fn class(&self) -> Option<&'static str> {
        self.class
    }

    /// Returns a hash of the project and of the SQL without its literals, if an observer asks for [`Detail::Query`].
    pub fn fingerprint(&self) -> Option<u64> {
        self.query.as_ref().map(|query| query.fingerprint)
    }

    /// Returns the project of a query, if an observer asks for [`Detail::Query`].
    pub fn project(&self) -> Option<&str> {
        self.query.as_ref().map(|query| &*query.project)
    }

    /// Returns the SQL of a query, if an observer asks for [`Detail::Sql`].
    pub fn sql(&self) -> Option<&str> {
        self.query.as_ref()?.sql.as_deref()
    }
}

impl fmt::Debug for ObservedRequest {
    /// Shows the target masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedRequest")
            .field("number", &self.number)
            .field("client", &self.client)
            .field("method", &self.method)
            .field("target", &self.target())
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// An id for a request, which an application puts into the request's extensions. Without it the request has the id of its client, or
/// a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Takes an id of 1 to 128 letters, digits and `-_.:+/=@`; `None` for any other.
    pub fn new(id: &str) -> Option<Self> {
        HeaderValue::from_str(id).ok().filter(|id| is_request_id(id.as_bytes())).map(RequestId)
    }

    fn random() -> Self {
        let number = fastrand::u128(..);
        let id: [u8; 32] = std::array::from_fn(|at| b"0123456789abcdef"[(number >> (4 * at)) as usize % 16]);
        RequestId(HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("-")))
    }

    /// Returns the id of a request, and sets its header to it.
    fn of<B>(request: &mut Request<B>) -> Self {
        let chosen = request.extensions_mut().remove::<RequestId>();
        let headers = request.headers_mut();
        if chosen.is_none()
            && let Some(id) = headers.get(&X_REQUEST_ID).filter(|id| is_request_id(id.as_bytes()))
            && headers.get_all(&X_REQUEST_ID).iter().nth(1).is_none()
        {
            return RequestId(id.clone());
        }
        let id = chosen.unwrap_or_else(RequestId::random);
        headers.insert(X_REQUEST_ID.clone(), id.0.clone());
        id
    }
}

/// Returns the user name of Basic credentials in the headers of a request, which are not verified.
pub fn basic_user(headers: &HeaderMap) -> Option<String> {
    String::from_utf8(basic_auth::user(headers.get(header::AUTHORIZATION)?)?).ok()
}

/// The maximum length of an `x-request-id` that is passed on, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Returns whether `id` can be written to logs and traces unchanged.
pub(super) fn is_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte))
}

/// Returns whether `value` is a `traceparent`: `VERSION-TRACE-PARENT-FLAGS` in lower-case hexadecimal digits.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    // Later versions may add parts; version 0 has none, and 255 is not allowed.
    let is_ended = parts.next().is_none() || version != b"00";
    lengths
        && is_ended
        && version != b"ff"
        && [version, trace, parent, flags].into_iter().all(hex)
        && !zero(trace)
        && !zero(parent)
        && value.len() <= 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_forge_a_log_line_are_not_taken() {
        for good in ["a", "0af7651916cd43dd8448eb211c80319c", "req-1.2:3", &"x".repeat(128)] {
            assert!(is_request_id(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\tb", "é", "<x>", &"x".repeat(129)] {
            assert!(!is_request_id(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_traceparent_has_the_form_of_w3c() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
