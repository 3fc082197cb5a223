//! The relay's own logins and logouts at a node.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};

use crate::backend::SendErrorKind;
use crate::backend::node_client::{NodeClient, NodeError};
use crate::kylin::class::AUTHENTICATION;
use crate::kylin::response::CredentialCheck;
use crate::session::login_relay::cookies::{self, RelayCookies};
use crate::session::login_relay::credentials::Credentials;
use crate::session::login_relay::record::NodeCookie;

/// The result of a login of a session at a node.
#[derive(Debug, Clone)]
pub(in super::super) enum LoginOutcome {
    /// The session is logged in and has this cookie.
    LoggedIn(NodeCookie),
    /// The node accepted the login without a session cookie, so it requires credentials with each
    /// request.
    NoCookie,
    /// The session has ended.
    SessionGone,
    /// The credentials are not sent to this node now, or it did not accept them.
    Postponed,
    /// The login was not possible at this node.
    NotReady(SendErrorKind),
}

impl LoginOutcome {
    pub(super) const UNREACHABLE: LoginOutcome = LoginOutcome::NotReady(SendErrorKind::Connect);
}

/// The result of one login at a node.
pub(super) enum Attempt {
    /// The node responded, with this session cookie if it set one.
    Responded(CredentialCheck, Option<NodeCookie>),
    /// The node did not respond in time. It may be waiting for a user source that does not respond.
    TimedOut,
    /// The node could not be reached, or the connection broke.
    Failed(SendErrorKind),
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

/// The headers of a client's request that the relay repeats in its own requests. Most requests need
/// none.
#[derive(Default)]
pub(in super::super) struct ClientHeaders([Option<HeaderValue>; 5]);

impl ClientHeaders {
    pub(in super::super) fn of(request: &HeaderMap) -> Self {
        ClientHeaders(CLIENT_HEADERS.each_ref().map(|name| request.get(name).cloned()))
    }

    pub(super) fn to_map(&self) -> HeaderMap {
        CLIENT_HEADERS.into_iter().zip(&self.0).filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// Logs in at `node`, once.
pub(super) async fn log_in(
    node: NodeClient,
    credentials: &Credentials,
    mut headers: HeaderMap,
    cookies: &RelayCookies,
) -> Attempt {
    let Some(authorization) = credentials.authorization() else {
        return Attempt::Responded(CredentialCheck::Refused, None);
    };
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let request = request(Method::POST, Uri::from_static(AUTHENTICATION), headers, "{}");
    let mut response = match node.max_body(MAX_RESPONSE).without_retry().send(request).await {
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    match response.body {
        Ok(body) => {
            let check = CredentialCheck::of(response.status, &response.headers, &body);
            Attempt::Responded(check, cookies.take_from_response(&mut response.headers).set)
        }
        Err(error) => failed(&error),
    }
}

/// Makes a logout request. It repeats the client's own logout, if there is one, because that suits
/// the version of Kylin.
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

fn failed(error: &NodeError) -> Attempt {
    match error {
        NodeError::Timeout | NodeError::Send(SendErrorKind::HeadTimeout, _) => Attempt::TimedOut,
        NodeError::Send(kind, _) => Attempt::Failed(*kind),
        NodeError::Body(_) => Attempt::Failed(SendErrorKind::Broken),
        NodeError::TooLong(_) => Attempt::Failed(SendErrorKind::HeadTooLarge),
        NodeError::NoMemory => Attempt::Failed(SendErrorKind::Shortage),
    }
}
