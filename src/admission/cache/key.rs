use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderValue, Request};

use crate::admission::flight::is_neutral;
use crate::body::Body;
use crate::header_walk::walk;
use crate::kylin::query;
use crate::request::RequestContext;
use crate::session::{InvalidSecret, Secret, Tagger};

/// The maximum number of sessions of a request that are read. A client has one.
const MAX_SESSIONS: usize = 8;

/// Credentials, as a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CredentialKey([u8; 32]);

impl CredentialKey {
    /// Returns a part of the hash.
    pub(super) fn part(&self) -> u16 {
        u16::from_ne_bytes([self.0[0], self.0[1]])
    }
}

/// The credentials of a request: all together, and each Kylin session among them, because each may
/// end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(super) all: CredentialKey,
    pub(super) sessions: Vec<CredentialKey>,
}

impl Credentials {
    pub(super) fn each(&self) -> impl Iterator<Item = CredentialKey> {
        std::iter::once(self.all).chain(self.sessions.iter().copied())
    }
}

/// The key of an entry: a keyed hash of the parts that are common to queries with the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    /// Returns a part of the hash.
    pub(super) fn part(&self) -> u16 {
        u16::from_ne_bytes([self.0[0], self.0[1]])
    }
}

/// Makes keys with a random secret, so that no client can construct two queries with the same key.
pub(super) struct Keys {
    tagger: Arc<[Tagger]>,
}

impl Keys {
    pub(super) fn new() -> Result<Self, InvalidSecret> {
        Ok(Keys { tagger: Secret::random()?.taggers("result-cache") })
    }

    pub(super) fn credentials(&self, context: &RequestContext) -> Credentials {
        let path_session = context.path_session_id();
        let sessions = context.kylin_sessions().chain(path_session).take(MAX_SESSIONS);
        Credentials {
            all: self.credential(context.authorization(), context.cookie_header(), path_session),
            sessions: sessions.map(|id| CredentialKey(self.tag(b"session", &Form::of(id)))).collect(),
        }
    }

    /// Returns the key of all credentials. `cookies` are the cookies that the client sent.
    fn credential(
        &self,
        authorization: Option<&HeaderValue>,
        cookies: Option<&HeaderValue>,
        path_session: Option<&[u8]>,
    ) -> CredentialKey {
        let mut form = Form::default();
        for part in [authorization.map(HeaderValue::as_bytes), cookies.map(HeaderValue::as_bytes), path_session] {
            form.push(&[u8::from(part.is_some())]);
            form.push(part.unwrap_or_default());
        }
        CredentialKey(self.tag(b"credential", &form))
    }

    /// Returns the key of a query whose body was read as a whole. Without `credential`, the key is
    /// the same for all users.
    pub(super) fn query(&self, request: &Request<Body>, credential: Option<CredentialKey>) -> Option<CacheKey> {
        let body = request.body().whole()?;
        let mut form = Form::default();
        form.push(credential.as_ref().map_or(b"", |CredentialKey(key)| key));
        // The target contains the session in its path, if there is one.
        form.push(request.uri().to_string().as_bytes());
        let matters = |name: &HeaderName| match *name {
            // These headers only decide which age is accepted.
            header::CACHE_CONTROL | header::PRAGMA => false,
            header::AUTHORIZATION | header::COOKIE => credential.is_some(),
            _ => !is_neutral(name),
        };
        let mut headers: Vec<_> = walk(request.headers()).filter(|(name, _)| matters(name)).collect();
        // A stable sort, which keeps the order of the values of one name.
        headers.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in headers {
            form.push(name.as_str().as_bytes());
            form.push(value.as_bytes());
        }
        form.push(&query::canonical(body)?);
        Some(CacheKey(self.tag(b"query", &form)))
    }

    fn tag(&self, kind: &[u8], Form(form): &Form) -> [u8; 32] {
        self.tagger.first().map(|tagger| tagger.tag(&[kind, form])).unwrap_or_default()
    }
}

/// Parts, each preceded by its length.
#[derive(Default)]
struct Form(Vec<u8>);

impl Form {
    fn of(part: &[u8]) -> Self {
        let mut form = Form::default();
        form.push(part);
        form
    }

    fn push(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&part.len().to_le_bytes());
        self.0.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"sql":"select 1","project":"p"}"#;

    fn request(headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
        let request = Request::post("/kylin/api/query");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(body.into()).unwrap()
    }

    #[test]
    fn what_may_matter_tells_queries_apart() {
        let keys = Keys::new().unwrap();
        let value = HeaderValue::from_static;
        let [one, other] = ["Basic x", "Basic y"].map(|user| keys.credential(Some(&value(user)), None, None));
        let of = |headers: &[(&str, &str)], body| keys.query(&request(headers, body), Some(one)).unwrap();
        let base = of(&[("accept", "a"), ("accept", "b"), ("x", "1")], BODY);
        assert_eq!(base, of(&[("x", "1"), ("accept", "a"), ("user-agent", "u"), ("accept", "b")], BODY));
        assert_eq!(base, of(&[("cache-control", "no-cache"), ("accept", "a"), ("accept", "b"), ("x", "1")], BODY));
        let reordered = r#"{"project":"p", "queryId":"7", "sql":"select 1"}"#;
        assert_eq!(base, of(&[("accept", "a"), ("accept", "b"), ("x", "1")], reordered));
        for different in [
            of(&[("accept", "b"), ("accept", "a"), ("x", "1")], BODY),
            of(&[("accept", "a"), ("accept", "b"), ("x", "2")], BODY),
            of(&[("accept", "a"), ("accept", "b"), ("x", "1")], r#"{"sql":"select 2","project":"p"}"#),
            keys.query(&request(&[("accept", "a"), ("accept", "b"), ("x", "1")], BODY), Some(other)).unwrap(),
            Keys::new().unwrap().query(&request(&[("accept", "a"), ("x", "1")], BODY), Some(one)).unwrap(),
        ] {
            assert_ne!(base, different);
        }
        assert_eq!(keys.query(&request(&[], "no json"), Some(one)), None);
    }

    #[test]
    fn only_across_users_credentials_do_not_matter() {
        let keys = Keys::new().unwrap();
        let of = |headers: &[(&str, &str)]| keys.query(&request(headers, BODY), None).unwrap();
        let base = of(&[("authorization", "Basic x")]);
        assert_eq!(base, of(&[("cookie", "JSESSIONID=1")]));
        assert_ne!(base, of(&[("authorization", "Basic x"), ("auth-token", "t")]));
        let value = HeaderValue::from_static;
        assert_ne!(
            keys.credential(Some(&value("x")), None, None),
            keys.credential(None, Some(&value("x")), None),
            "a cookie is no header of the same value"
        );
    }
}
