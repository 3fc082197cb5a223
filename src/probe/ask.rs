//! What the front end itself asks a node: a GET that goes through the node's backend like any request.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::probe::{InvalidProbe, basic, introduce};
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::{Body, BoxError};
use crate::cookie::CookieJar;

/// How much of an answer is read. Lists of projects have some hundred KiB.
const MOST_BYTES: usize = 1024 * 1024;

/// A user and password as HTTP Basic shows them, which no `Debug` does.
#[derive(Clone)]
pub(crate) struct Login(HeaderValue);

impl Login {
    pub(crate) fn new(user: &str, password: &str) -> Result<Self, InvalidProbe> {
        basic(user, password).map(Login)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// What a node answered.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// None when it is longer than is read.
    pub(crate) body: Option<Bytes>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReply {
    #[error("{1}")]
    Send(SendErrorKind, String),
    #[error("no whole answer in time")]
    Timeout,
    #[error("the answer broke off")]
    Body(#[source] BoxError),
}

impl NoReply {
    /// Without the request that the error may hold: there are credentials in it.
    fn of(error: SendError) -> Self {
        NoReply::Send(error.kind(), error.to_string())
    }
}

/// Asks the node behind `backend`, which is known as `host`, with a login or without. CookieJar that it sets are shown to it the
/// next time: Kylin makes a session of hours for each request that comes with a password only.
pub(crate) async fn get<B: Backend>(
    backend: &B,
    host: &str,
    path: &'static str,
    login: Option<&Login>,
    cookies: &mut CookieJar,
    limit: Duration,
) -> Result<Reply, NoReply> {
    let reply = timeout(limit, async {
        match once(backend, host, path, login, cookies).await {
            // A kept connection that ends under a question says nothing of the node.
            Err(NoReply::Send(SendErrorKind::Stale, _)) => once(backend, host, path, login, cookies).await,
            reply => reply,
        }
    });
    let reply = reply.await.unwrap_or(Err(NoReply::Timeout))?;
    cookies.store(&reply.headers);
    Ok(reply)
}

async fn once<B: Backend>(
    backend: &B,
    host: &str,
    path: &'static str,
    login: Option<&Login>,
    cookies: &CookieJar,
) -> Result<Reply, NoReply> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from(PathAndQuery::from_static(path));
    let fields = request.headers_mut();
    introduce(fields, host);
    if let Some(Login(value)) = login {
        fields.insert(header::AUTHORIZATION, value.clone());
    }
    if let Some(value) = cookies.header() {
        fields.insert(header::COOKIE, value);
    }
    let (head, body) = backend.send(request).await.map_err(NoReply::of)?.into_parts();
    let body = match Limited::new(body, MOST_BYTES).collect().await {
        Ok(body) => Some(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(error) => return Err(NoReply::Body(error)),
    };
    Ok(Reply { status: head.status, headers: head.headers, body })
}
