//! The relay's own logins and logouts at a node.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};

use super::cookies::{self, RelayCookies};
use super::credentials::Credentials;
use super::record::NodeCookie;
use crate::backend::SendErrorKind;
use crate::backend::node_client::{NodeClient, NodeError};
use crate::kylin::class::AUTHENTICATION;

/// The result of a login at a node.
#[derive(Debug, Clone)]
pub(super) enum LoginOutcome {
    /// The session is logged in and has this cookie.
    LoggedIn(NodeCookie),
    /// The node accepted the login without a session cookie: it requires credentials with each
    /// request.
    NoCookie,
    /// The node refused the credentials. They are not used again.
    Refused,
    /// The session has ended meanwhile.
    SessionGone,
    /// The node cannot log in at present.
    NotReady(SendErrorKind),
}

impl LoginOutcome {
    pub(super) const UNREACHABLE: LoginOutcome = LoginOutcome::NotReady(SendErrorKind::Connect);
}

/// The maximum length of a response to a login.
const MAX_RESPONSE: u64 = 64 * 1024;

/// The client's headers that the relay repeats in its own requests. The node's log then shows the
/// client, and Kylin 5 requires a `User-Agent`.
const CLIENT_HEADERS: [HeaderName; 5] = [
    header::HOST,
    header::USER_AGENT,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
];

/// Returns the headers of a client's request that the relay repeats in its own requests.
pub(super) fn client_headers(request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(CLIENT_HEADERS.len());
    for name in CLIENT_HEADERS {
        if let Some(value) = request.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

/// Logs in at `node`, once. The node has seen the password if the outcome is `Refused`, and may have
/// seen it if it is `NotReady`.
pub(super) async fn log_in(
    node: NodeClient,
    credentials: &Credentials,
    mut headers: HeaderMap,
    cookies: &RelayCookies,
) -> LoginOutcome {
    let Some(authorization) = credentials.authorization() else { return LoginOutcome::Refused };
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let request = request(Method::POST, Uri::from_static(AUTHENTICATION), headers, "{}");
    let mut response = match node.max_body(MAX_RESPONSE).without_retry().send(request).await {
        Ok(response) => response,
        Err(error) => return LoginOutcome::NotReady(kind(&error)),
    };
    match response.body {
        Ok(body) => outcome(response.status, &body, cookies.take_from_response(&mut response.headers).set),
        Err(error) => LoginOutcome::NotReady(kind(&error)),
    }
}

/// Makes a logout request: like the client's own, if there is one, which its version of Kylin
/// understands.
pub(super) fn logout(like: Option<(&Method, &Uri)>, headers: &HeaderMap, cookie: &NodeCookie) -> Request<Bytes> {
    let (method, uri) = match like {
        Some((method, uri)) => (method.clone(), uri.clone()),
        None if cookie.is_jsessionid() => (Method::GET, Uri::from_static("/kylin/j_spring_security_logout")),
        // All paths of Kylin 5 are below `/api`.
        None => (Method::GET, Uri::from_static("/kylin/api/j_spring_security_logout")),
    };
    let mut headers = headers.clone();
    cookies::set_cookie_header(&mut headers, None, Some(cookie));
    request(method, uri, headers, "")
}

fn request(method: Method, uri: Uri, headers: HeaderMap, body: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from_static(body.as_bytes()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

fn kind(error: &NodeError) -> SendErrorKind {
    match error {
        NodeError::Send(kind, _) => *kind,
        NodeError::Timeout => SendErrorKind::HeadTimeout,
        NodeError::Body(_) | NodeError::TooLong(_) => SendErrorKind::Broken,
    }
}

/// Classifies the response to a login, which succeeded if the response names the user. A node that
/// ignores credentials responds with 200 and `{}`, as 2.x-4.x do without credentials
/// (UserController.java).
fn outcome(status: StatusCode, body: &[u8], cookie: Option<NodeCookie>) -> LoginOutcome {
    const USER: &[u8] = b"\"username\"";
    match status {
        status if status.is_success() && body.windows(USER.len()).any(|part| part == USER) => {
            cookie.map_or(LoginOutcome::NoCookie, LoginOutcome::LoggedIn)
        }
        status if status.is_success() => LoginOutcome::Refused,
        // An overloaded node has not checked the password.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND => {
            LoginOutcome::NotReady(SendErrorKind::Invalid)
        }
        // Kylin 5 responds with 400 for a locked user.
        status if status.is_client_error() => LoginOutcome::Refused,
        _ => LoginOutcome::NotReady(SendErrorKind::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_succeeds_if_the_node_names_the_user() {
        let cookie = || NodeCookie::new(b"JSESSIONID", b"A");
        let of = |status: u16, body: &str| outcome(StatusCode::from_u16(status).unwrap(), body.as_bytes(), cookie());
        assert!(matches!(of(200, r#"{"userDetails":{"username":"ADMIN"}}"#), LoginOutcome::LoggedIn(_)));
        assert!(matches!(of(200, "{}"), LoginOutcome::Refused));
        for status in [400, 401, 403] {
            assert!(matches!(of(status, ""), LoginOutcome::Refused), "{status}");
        }
        for status in [302, 404, 429, 500, 503] {
            assert!(matches!(of(status, ""), LoginOutcome::NotReady(_)), "{status}");
        }
        let no_cookie = outcome(StatusCode::OK, b"{\"username\":\"ADMIN\"}", None);
        assert!(matches!(no_cookie, LoginOutcome::NoCookie));
    }
}
