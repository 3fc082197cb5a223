use std::sync::{Arc, OnceLock};

use http::Request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::backend;
use crate::body::Body;
use crate::cookie;
use crate::header_walk::walk;
use crate::kylin::path::RequestTarget;
use crate::kylin::query;

/// The headers that may differ between identical queries, because Kylin's results do not depend on
/// them. Any other header may be a credential for a filter in front of Kylin, or a setting of a
/// later version. Headers that name the host are compared, because a server in front of several
/// Kylins may use them to choose one.
static NEUTRAL: [HeaderName; 18] = [
    header::CONTENT_LENGTH,
    header::DNT,
    header::MAX_FORWARDS,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    HeaderName::from_static("b3"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("priority"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

/// Hashes of the ids by which the client of a query may stop it; 0 if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueryIds(pub(crate) [u64; 2]);

impl QueryIds {
    pub(super) fn is_empty(self) -> bool {
        self == QueryIds::default()
    }

    pub(super) fn has(self, id: u64) -> bool {
        id != 0 && self.0.contains(&id)
    }
}

/// The parts of a request that identical queries have in common. It holds the request itself, which
/// the proxy keeps anyway to send it again.
pub(crate) struct FlightKey {
    /// A hash of the parsed query and its credentials. Different queries may have the same hash. So
    /// it only finds candidates, which are then compared byte by byte.
    pub(super) hash: u64,
    pub(super) epoch: u64,
    pub(super) ids: QueryIds,
    /// The cookies as the client sent them. They include the cookies of the front end, such as that
    /// of the login relay, which no node gets.
    cookies: Option<HeaderValue>,
    request: Request<Body>,
    /// The canonical form of the body, once a query was compared with this one; `None` if the body
    /// has no such form.
    canonical: OnceLock<Option<Box<[u8]>>>,
}

impl FlightKey {
    /// Returns the key of `request`, whose body was read as a whole and whose client has sent
    /// `cookies`.
    pub(crate) fn new(
        hash: u64,
        epoch: u64,
        ids: QueryIds,
        cookies: Option<HeaderValue>,
        request: Request<Body>,
    ) -> Arc<Self> {
        Arc::new(FlightKey { hash, epoch, ids, cookies, request, canonical: OnceLock::new() })
    }

    /// Returns the request.
    pub(crate) fn request(&self) -> &Request<Body> {
        &self.request
    }

    /// Returns whether a request with these credentials comes from the same user; false for a
    /// request without credentials.
    pub(crate) fn is_of(&self, authorization: Option<&HeaderValue>, cookies: Option<&HeaderValue>) -> bool {
        (authorization.is_some() || cookies.is_some())
            && self.request.headers().get(header::AUTHORIZATION) == authorization
            && self.cookies.as_ref() == cookies
    }

    /// Returns whether a request has a session of Kylin with one of these ids.
    pub(crate) fn has_session(&self, ids: &[Box<[u8]>]) -> bool {
        let is_one = |id: &[u8]| ids.iter().any(|one| **one == *id);
        let mut sessions = self.cookies.iter().flat_map(cookie::kylin_sessions);
        !ids.is_empty()
            && (sessions.any(is_one)
                || RequestTarget::of(self.request.uri()).session_id().is_some_and(|id| is_one(id.as_bytes())))
    }

    /// Returns the number of the flight in the table. Different queries may have the same number.
    pub(super) fn number(&self) -> u64 {
        self.hash.wrapping_add(self.epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Returns whether an arriving query is identical to this one. May parse both bodies.
    pub(super) fn is_equal(&self, newcomer: &Self) -> bool {
        let (one, another) = (&self.request, &newcomer.request);
        self.hash == newcomer.hash
            && self.epoch == newcomer.epoch
            && self.cookies == newcomer.cookies
            && one.method() == another.method()
            && one.uri() == another.uri()
            && are_equal(one.headers(), another.headers())
            && (one.body().whole() == another.body().whole()
                || self.canonical().is_some_and(|form| newcomer.make_canonical().as_deref() == Some(form)))
    }

    fn canonical(&self) -> Option<&[u8]> {
        self.canonical.get_or_init(|| self.make_canonical()).as_deref()
    }

    fn make_canonical(&self) -> Option<Box<[u8]>> {
        query::canonical(self.request.body().whole()?)
    }
}

impl Drop for FlightKey {
    fn drop(&mut self) {
        backend::recycle(&mut self.request);
    }
}

/// Returns whether Kylin's results do not depend on the header.
#[cfg(feature = "cache")]
pub(crate) fn is_neutral(name: &HeaderName) -> bool {
    NEUTRAL.contains(name)
}

/// Returns whether two heads have the same headers, apart from neutral ones.
fn are_equal(one: &HeaderMap, other: &HeaderMap) -> bool {
    let of = |headers: &HeaderMap| walk(headers).filter(|(name, _)| !NEUTRAL.contains(name)).count();
    of(one) == of(other)
        && walk(one)
            .filter(|(name, _)| !NEUTRAL.contains(name))
            .all(|(name, _)| one.get_all(name).iter().eq(other.get_all(name).iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Key(Arc<FlightKey>);

    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            self.0.is_equal(&other.0)
        }
    }

    fn key(headers: &[(&str, &str)], cookies: Option<&'static str>, body: &'static str) -> Key {
        let request = Request::builder().method("POST").uri("/kylin/api/query");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let cookies = cookies.map(HeaderValue::from_static);
        Key(FlightKey::new(1, 1, QueryIds::default(), cookies, request.body(body.into()).unwrap()))
    }

    const BODY: &str = r#"{"sql":"select 1"}"#;

    #[test]
    fn headers_are_equal_unless_they_are_neutral() {
        let base = || key(&[("authorization", "Basic x"), ("accept", "a"), ("accept", "b")], None, BODY);
        let more = |name: &'static str| {
            key(&[(name, "v"), ("accept", "a"), ("authorization", "Basic x"), ("accept", "b")], None, BODY)
        };
        for neutral in &NEUTRAL {
            assert!(base() == more(neutral.as_str()), "{neutral}");
        }
        for name in [
            "host",
            "x-forwarded-host",
            "forwarded",
            "accept-encoding",
            "accept",
            "cookie",
            "auth-token",
            "x-user",
            "origin",
            "content-type",
            "range",
        ] {
            assert!(base() != more(name) && more(name) != base() && more(name) == more(name), "{name}");
        }
        assert!(base() != key(&[("authorization", "Basic x"), ("accept", "b"), ("accept", "a")], None, BODY));
        assert!(base() != key(&[("authorization", "Basic y"), ("accept", "a"), ("accept", "b")], None, BODY));
    }

    #[test]
    fn cookies_that_go_to_no_node_tell_users_apart() {
        let of = |cookies| key(&[("authorization", "Basic x")], cookies, BODY);
        assert!(of(Some("KYLINLB_SESSION=1")) == of(Some("KYLINLB_SESSION=1")));
        assert!(of(Some("KYLINLB_SESSION=1")) != of(Some("KYLINLB_SESSION=2")));
        assert!(of(Some("KYLINLB_SESSION=1")) != of(None));
    }

    #[test]
    fn a_session_is_known_by_its_id() {
        let has = |cookies, id: &str| key(&[], cookies, BODY).0.has_session(&[id.as_bytes().into()]);
        let cookies = Some("a=1; JSESSIONID=x; JSESSIONID=\"y\"");
        assert!(has(cookies, "x") && has(cookies, "y") && !has(cookies, "1") && !has(None, "x"));
        assert!(!key(&[], cookies, BODY).0.has_session(&[]));
        let in_path = Request::post("/kylin/api/query;jsessionid=z").body(BODY.into()).unwrap();
        let key = FlightKey::new(1, 1, QueryIds::default(), None, in_path);
        assert!(key.has_session(&[b"z"[..].into()]) && !key.has_session(&[b"query"[..].into()]));
    }

    #[test]
    fn bodies_are_equal_in_canonical_form() {
        let of = |body| key(&[], None, body);
        assert!(of(BODY) == of(r#"{ "queryId":"7", "sql" : "select 1" }"#));
        assert!(of(BODY) != of(r#"{"sql":"select 1","unknown":1}"#));
        assert!(of("no json") == of("no json") && of("no json") != of("none"));
    }
}
