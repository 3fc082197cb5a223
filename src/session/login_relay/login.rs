//! A login that the front end makes itself, at one node.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use super::cookie::Cookies;
use super::paths::LOGIN;
use super::record::{Login, NodeCookie};
use crate::backend::SendErrorKind;
use crate::body::Body;
use crate::session::hook::Node;

/// What became of logging a session in at a node.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// It is logged in there and has this cookie.
    In(NodeCookie),
    /// The login was accepted, and the node knows no sessions: it wants credentials with each request.
    NoCookie,
    /// The credentials were refused. They are not tried again.
    Refused,
    /// The session was ended meanwhile.
    Gone,
    /// The node cannot log anybody in at present.
    Unready(SendErrorKind),
}

impl Outcome {
    pub(super) const UNREACHABLE: Outcome = Outcome::Unready(SendErrorKind::Connect);
}

/// The longest answer to a login that is looked at.
const MAX_ANSWER: usize = 64 * 1024;

/// Fields of the client's request that the node is to see in a login, too: its own log tells who logs in, and Kylin 5 demands
/// a `User-Agent`.
const PASSED_ON: [HeaderName; 5] = [
    header::HOST,
    header::USER_AGENT,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
];

/// The fields of `request` that go into requests of the front end's own.
pub(super) fn origin(request: &HeaderMap) -> HeaderMap {
    let mut origin = HeaderMap::with_capacity(PASSED_ON.len());
    for name in PASSED_ON {
        if let Some(value) = request.get(&name) {
            origin.insert(name, value.clone());
        }
    }
    origin
}

/// Logs in at `node`, once. The node was told the password when this returns `Refused`, and may have been at `Unready`.
pub(super) async fn log_in(
    node: &dyn Node,
    login: &Login,
    mut headers: HeaderMap,
    cookies: &Cookies,
    limit: Duration,
) -> Outcome {
    let Ok(mut credentials) = HeaderValue::from_bytes(login.as_bytes()) else { return Outcome::Refused };
    credentials.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, credentials);
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("kylin-lb"));
    headers.entry(header::HOST).or_insert(HeaderValue::from_static(""));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut request = Request::new(Body::from("{}"));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(LOGIN);
    *request.headers_mut() = headers;

    match timeout(limit, answer(node, request)).await {
        Ok(Ok((mut head, body))) => judge(head.status(), &body, || cookies.take_from_answer(head.headers_mut()).cookie),
        Ok(Err(phase)) => Outcome::Unready(phase),
        Err(_) => Outcome::Unready(SendErrorKind::HeadTimeout),
    }
}

async fn answer(node: &dyn Node, request: Request<Body>) -> Result<(Response<()>, bytes::Bytes), SendErrorKind> {
    let answer = node.send_boxed(request).await.map_err(|error| error.kind())?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| SendErrorKind::Broken)?.to_bytes();
    Ok((Response::from_parts(head, ()), body))
}

/// A login is in when the node names the user. Without credentials, 2.x-4.x answer 200 with `{}` (UserController.java), and
/// so does a node that does not look at them.
fn judge(status: StatusCode, body: &[u8], cookie: impl FnOnce() -> Option<NodeCookie>) -> Outcome {
    let names_user = || body.windows(10).any(|part| part == b"\"username\"");
    match status {
        status if status.is_success() && names_user() => cookie().map_or(Outcome::NoCookie, Outcome::In),
        status if status.is_success() => Outcome::Refused,
        // A node that is too busy, or asks for patience, has not looked at the password.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND => {
            Outcome::Unready(SendErrorKind::Invalid)
        }
        // Kylin 5 says 400 to a user that is locked.
        status if status.is_client_error() => Outcome::Refused,
        _ => Outcome::Unready(SendErrorKind::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_in_when_the_node_names_the_user() {
        let judged = |status: u16, body: &str| {
            judge(StatusCode::from_u16(status).unwrap(), body.as_bytes(), || NodeCookie::new("JSESSIONID", "A"))
        };
        assert!(matches!(judged(200, r#"{"userDetails":{"username":"ADMIN"}}"#), Outcome::In(_)));
        assert!(matches!(judged(200, "{}"), Outcome::Refused));
        for status in [400, 401, 403] {
            assert!(matches!(judged(status, ""), Outcome::Refused), "{status}");
        }
        for status in [302, 404, 429, 500, 503] {
            assert!(matches!(judged(status, ""), Outcome::Unready(_)), "{status}");
        }
        let no_cookie = judge(StatusCode::OK, b"{\"username\":\"ADMIN\"}", || None);
        assert!(matches!(no_cookie, Outcome::NoCookie));
    }
}
