//! Two calls between nodes that clients make too: the buttons "Reload Metadata" and "Reload Config"
//! of Kylin's web interface.
//!
//! The interface calls `PUT /kylin/api/cache/announce/all/all/update` and
//! `POST /kylin/api/cache/announce/config` (cache service of the web application 2.4 to 3.x), and
//! the REST documentation names both. The nodes do not ask for a login there (kylinSecurity.xml of
//! 3.1.3), so the front end finds out whether the client is an administrator.
//!
//! A successful call of an interface for administrators would prove nothing:
//! `GET /kylin/api/admin/config` is open to all in 2.0.0 to 2.6.6, 3.0.0 and 3.1.0
//! (CVE-2020-13937). So the front end asks a node for the user and its authorities.

use http::header::{self, HeaderMap, HeaderName};
use http::uri::Authority;
use http::{Method, StatusCode, Uri};

use crate::request::RequestContext;

/// The clients that may reload metadata and configuration: see
/// [`KylinRules::reload`](super::KylinRules::reload).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ReloadAccess {
    /// No client.
    Closed,
    /// Administrators of Kylin.
    #[default]
    Administrators,
    /// All clients, for an application that checks clients itself.
    Everyone,
}

/// One of the two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadCall {
    /// A node that gets this call notifies the other nodes.
    Metadata,
    /// Affects only the node that gets it, so it goes to all nodes.
    Config,
}

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

impl ReloadCall {
    /// Returns which of the two calls a request is, if it is written exactly as the web interface
    /// writes it.
    pub(super) fn of(method: &Method, target: &Uri) -> Option<Self> {
        let below = target.path().strip_prefix("/kylin/api/cache/announce/")?;
        if below == "config" {
            return (method == Method::POST).then_some(ReloadCall::Config);
        }
        let is_plain = |segment: &str| {
            let mut bytes = segment.bytes();
            bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        let segments = below.split('/');
        (method == Method::PUT && segments.clone().count() == 3 && segments.into_iter().all(is_plain))
            .then_some(ReloadCall::Metadata)
    }
}

/// Returns whether the response to `GET /kylin/api/user/authentication` names an administrator, as
/// Kylin 2.x to 4.x write it:
/// `{"userDetails":{"username":"ADMIN","authorities":[{"authority":"ROLE_ADMIN"}]}}`
/// (UserController.java of 3.1.3). A client without a login gets `{}` with the status 200.
pub(crate) fn names_administrator(status: StatusCode, body: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    let authorities = json["userDetails"]["authorities"].as_array();
    status == StatusCode::OK
        && authorities.is_some_and(|all| all.iter().any(|granted| granted["authority"] == "ROLE_ADMIN"))
}

/// Returns whether the credentials of a request count: it has some, and no page of another site
/// made the browser send them.
///
/// A browser sends `Origin` with each PUT and POST, but attaches cookies on its own. So a cookie
/// counts only with an `Origin`, or else a `Referer`, of the front end. Other clients send their
/// credentials on purpose. The scheme is not compared, because it is unknown behind an untrusted
/// TLS terminator.
pub(crate) fn may_count(context: &RequestContext, headers: &HeaderMap) -> bool {
    let has_login = context.has_authorization() || context.cookie_header().is_some();
    let name = if headers.contains_key(header::ORIGIN) { header::ORIGIN } else { header::REFERER };
    let mut from = headers.get_all(name).iter().peekable();
    has_login
        && match from.peek() {
            Some(_) => from.all(|from| from.to_str().is_ok_and(|from| is_own(from, context, headers))),
            None => context.has_authorization(),
        }
}

/// Returns whether a URL names the host of the front end, and its port.
fn is_own(from: &str, context: &RequestContext, headers: &HeaderMap) -> bool {
    let Ok(from) = from.parse::<Uri>() else { return false };
    let default_port = match from.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let Some(authority) = from.authority().filter(|authority| !authority.as_str().contains('@')) else { return false };
    // Trusted proxies may name the host and the port that the browser used. Each of several appends
    // to the list.
    let listed =
        |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let ports: Vec<u16> = listed(X_FORWARDED_PORT).filter_map(|port| port.trim().parse().ok()).collect();
    let port = authority.port_u16().unwrap_or(default_port);
    let is_of = |host: &str| {
        let Ok(host) = host.trim().parse::<Authority>() else { return false };
        let is_port = match host.port_u16() {
            Some(own) => own == port,
            None => port == default_port || ports.contains(&port),
        };
        is_port && host.host().eq_ignore_ascii_case(authority.host())
    };
    context.host().and_then(|host| host.to_str().ok()).is_some_and(is_of) || listed(X_FORWARDED_HOST).any(is_of)
}

#[cfg(test)]
mod tests {
    use http::{Request, request};

    use super::*;

    #[test]
    fn only_the_documented_calls_are_reload_calls() {
        let of = |line: &str| {
            let (method, target) = line.split_once(' ').unwrap();
            ReloadCall::of(&method.parse().unwrap(), &target.parse().unwrap())
        };
        for line in
            ["PUT /kylin/api/cache/announce/all/all/update", "PUT /kylin/api/cache/announce/cube/my_cube-1/update"]
        {
            assert_eq!(of(line), Some(ReloadCall::Metadata), "{line}");
        }
        assert_eq!(of("POST /kylin/api/cache/announce/config"), Some(ReloadCall::Config));
        assert_eq!(of("POST /kylin/api/cache/announce/config?_=1"), Some(ReloadCall::Config));
        for line in [
            "GET /kylin/api/cache/announce/all/all/update",
            "POST /kylin/api/cache/announce/all/all/update",
            "PUT /kylin/api/cache/announce/config",
            "PUT /kylin/api/cache/all/all/update",
            "PUT /kylin/api/cache/announce/all/all",
            "PUT /kylin/api/cache/announce/all/all/update/",
            "PUT /kylin/api/cache/announce/all/all/update/x",
            "PUT /kylin/api/cache/announce/all/all/update.json",
            "PUT /kylin/api/cache/announce/all/../update",
            "PUT /kylin/api/cache/announce/all/%61ll/update",
            "PUT /kylin/api/cache/announce/all;x/all/update",
            "PUT /kylin/api/cache/announce//all/update",
            "POST /kylin/api/cache/announce/config/",
            "POST /kylin/api/cache/announce/config.json",
            "POST /kylin/api/cache/announce/config;x=1",
            "POST /kylin/api/cache/announce/migration",
            "POST /kylin//api/cache/announce/config",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_authority_of_an_administrator_counts() {
        let named = |status: StatusCode, body: &str| names_administrator(status, body.as_bytes());
        let of = |authority: &str| format!(r#"{{"userDetails":{{"username":"x","authorities":[{authority}]}}}}"#);
        let admin = of(r#"{"authority":"ROLE_ANALYST"},{"authority":"ROLE_ADMIN"}"#);
        assert!(named(StatusCode::OK, &admin));
        assert!(!named(StatusCode::CREATED, &admin) && !named(StatusCode::UNAUTHORIZED, &admin));
        for body in [
            "",
            "{}",
            "<html>ROLE_ADMIN</html>",
            r#"{"config":"kylin.metadata.url=kylin_metadata@jdbc"}"#,
            r#"{"authorities":[{"authority":"ROLE_ADMIN"}]}"#,
            r#"{"userDetails":null}"#,
            r#"{"userDetails":{"username":"ROLE_ADMIN","authorities":null}}"#,
            &of(""),
            &of(r#""ROLE_ADMIN""#),
            &of(r#"{"authority":"ROLE_ANALYST"}"#),
            &of(r#"{"authority":"ROLE_ADMIN_X"}"#),
            &admin[..admin.len() - 1],
        ] {
            assert!(!named(StatusCode::OK, body), "{body}");
        }
    }

    #[test]
    fn a_cookie_counts_only_from_a_page_of_the_front_end() {
        let counts = |request: request::Builder| {
            let request = request.header("host", "kylin.example:8080").body(()).unwrap();
            let mut context = RequestContext::new(crate::ClientAddr::Unix, &request);
            context.read_credentials(request.headers(), true);
            may_count(&context, request.headers())
        };
        let cookie = || Request::put("/").header("cookie", "JSESSIONID=1");
        let basic = || Request::put("/").header("authorization", "Basic eA==");
        for good in [
            cookie().header("origin", "http://kylin.example:8080"),
            cookie().header("origin", "https://KYLIN.example:8080"),
            cookie().header("referer", "http://kylin.example:8080/kylin/admin?x"),
            cookie().header("origin", "https://public").header("x-forwarded-host", "public"),
            cookie().header("origin", "https://public").header("x-forwarded-host", "public:443"),
            cookie().header("origin", "https://public").header("x-forwarded-host", "public, inner:81"),
            cookie().header("origin", "https://[2001:db8::1]:8443").header("x-forwarded-host", "[2001:db8::1]:8443"),
            cookie()
                .header("origin", "https://public:8443")
                .header("x-forwarded-host", "public")
                .header("x-forwarded-port", "8443"),
            basic(),
            basic().header("origin", "http://kylin.example:8080"),
        ] {
            assert!(counts(good));
        }
        for bad in [
            Request::put("/"),
            Request::put("/").header("origin", "http://kylin.example:8080"),
            cookie(),
            cookie().header("origin", "null"),
            cookie().header("origin", "http://kylin.example"),
            cookie().header("origin", "http://kylin.example").header("x-forwarded-port", "80"),
            cookie().header("origin", "https://public:8443").header("x-forwarded-host", "public"),
            cookie()
                .header("origin", "https://public:1")
                .header("x-forwarded-host", "public")
                .header("x-forwarded-port", "2"),
            cookie().header("origin", "http://kylin.example:8080").header("origin", "http://evil.example"),
            cookie().header("origin", "http://x@kylin.example:8080"),
            cookie().header("origin", "http://evil.example").header("referer", "http://kylin.example:8080/"),
            cookie().header("referer", "http://kylin.example:8080.evil.example/"),
            cookie().header("referer", "http://kylin.example:8080@evil.example/"),
            cookie().header("origin", "ftp://kylin.example:8080"),
            cookie().header("referer", "/kylin/admin"),
            basic().header("origin", "http://evil.example"),
            basic().header("cookie", "JSESSIONID=1").header("referer", "http://evil.example/"),
        ] {
            assert!(!counts(bad));
        }
    }
}
