//! Stops a query of which nobody waits for the answer.
//!
//! When a client goes away Kylin goes on with its query to the end, and a user who presses *reload* has it run twice. What was
//! sent is watched over; when the request's future is dropped before the head of an answer, or the time for it is over, the
//! node is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::rules::CancelOnDisconnect;
use crate::backend::Backend;
use crate::basic_auth;
use crate::body::Body;
use crate::kylin::query::QueryRequest;
use crate::session::hook::Node;

/// How long stopping may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many queries are being stopped at once; what comes on top runs to its end.
const AT_ONCE: usize = 64;
/// The longest list of running queries that is read.
const LONGEST: usize = 4 << 20;

/// What a proxy remembers of its stopping.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    at_once: AtomicUsize,
    /// The administrator's login was refused. It is not tried again: a few wrong passwords lock a user.
    refused: AtomicBool,
}

/// Watches over a query. Dropping it stops the query, unless it was told that there is nothing to stop.
pub(super) struct Watch(Option<Box<Abandoned>>);

struct Abandoned {
    node: Arc<dyn Node>,
    runtime: Handle,
    stopping: Arc<Stopping>,
    /// Of the query: who may stop it by its id.
    credentials: HeaderMap,
    how: How,
}

enum How {
    Id(String),
    Search { authorization: HeaderValue, sql: String, user: Option<String> },
}

impl Watch {
    /// Watches over `request`, which is about to be sent with `backend`. None when it could not be stopped.
    pub(super) fn over<B: Backend>(
        stop: &CancelOnDisconnect,
        stopping: &Arc<Stopping>,
        is_export: bool,
        backend: &Arc<B>,
        request: &mut Request<Body>,
    ) -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let body = request.body().whole()?.clone();
        let how = match stop {
            // An export has no field for an id.
            CancelOnDisconnect::ByStopId if is_export => return None,
            CancelOnDisconnect::ByStopId => How::Id(stop_id(request, &body)?),
            CancelOnDisconnect::AsAdmin { .. } if stopping.refused.load(Ordering::Relaxed) => return None,
            CancelOnDisconnect::AsAdmin { authorization } => {
                let query = match is_export {
                    true => QueryRequest::from_form(request.uri().query(), &body),
                    false => QueryRequest::from_json(&body),
                };
                let sql = query.ok()?.sql().trim().to_owned();
                let user = basic_auth::user(request.headers()).and_then(|user| String::from_utf8(user).ok());
                How::Search { authorization: authorization.clone(), sql, user }
            }
        };
        let mut credentials = HeaderMap::new();
        for name in [header::AUTHORIZATION, header::COOKIE, header::HOST, header::USER_AGENT, header::ACCEPT] {
            if let Some(value) = request.headers().get(&name) {
                credentials.insert(name, value.clone());
            }
        }
        let node = Arc::clone(backend) as Arc<dyn Node>;
        let stopping = Arc::clone(stopping);
        Some(Watch(Some(Box::new(Abandoned { node, runtime, stopping, credentials, how }))))
    }

    /// The query is over, or was not sent: there is nothing to stop.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(abandoned) = self.0.take() else { return };
        let Some(room) = Room::take(&abandoned.stopping) else { return };
        abandoned.runtime.clone().spawn(async move {
            // Given back even if the runtime ends before this has begun.
            let _room = room;
            match timeout(PATIENCE, abandoned.stop()).await {
                Ok(Some(())) => tracing::debug!("an abandoned query was stopped"),
                _ => tracing::debug!("an abandoned query could not be stopped"),
            }
        });
    }
}

/// One of the queries that are being stopped.
struct Room(Arc<Stopping>);

impl Room {
    fn take(stopping: &Arc<Stopping>) -> Option<Self> {
        let less = |number: usize| (number < AT_ONCE).then_some(number + 1);
        stopping.at_once.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Room(Arc::clone(stopping)))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Abandoned {
    async fn stop(&self) -> Option<()> {
        match &self.how {
            How::Id(id) => self.ask(Method::DELETE, &format!("/kylin/api/query/{id}"), None).await.map(drop),
            How::Search { authorization, sql, user } => {
                let list = self.ask(Method::GET, "/kylin/api/query/runningQueries", Some(authorization)).await?;
                let running: Vec<Running> = serde_json::from_slice(&list).ok()?;
                let same = |running: &&Running| {
                    running.sql.trim() == sql
                        && user.as_deref().is_none_or(|user| running.username.eq_ignore_ascii_case(user))
                };
                let id = running.iter().find(same).map(|running| &running.query_id)?;
                // It comes from a node and goes into a path.
                if !is_id(id) {
                    return None;
                }
                self.ask(Method::PUT, &format!("/kylin/api/query/{id}/stop"), Some(authorization)).await.map(drop)
            }
        }
    }

    async fn ask(&self, method: Method, path: &str, authorization: Option<&HeaderValue>) -> Option<Bytes> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(path).ok()?;
        *request.headers_mut() = self.credentials.clone();
        if let Some(authorization) = authorization {
            request.headers_mut().remove(header::COOKIE);
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer: Response<Body> = self.node.send_boxed(request).await.ok()?;
        let status = answer.status();
        if authorization.is_some() && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            tracing::warn!(
                status = status.as_u16(),
                "the login that stops queries is refused, so none is stopped any more"
            );
            self.stopping.refused.store(true, Ordering::Relaxed);
        }
        if !status.is_success() {
            return None;
        }
        Some(Limited::new(answer.into_body(), LONGEST).collect().await.ok()?.to_bytes())
    }
}

/// What a list of running queries says of one (apache/kylin 3.1.3 QueryContext.java).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    query_id: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    sql: String,
}

/// The id by which the query can be stopped: its own, or one that is put into its body.
fn stop_id(request: &mut Request<Body>, body: &Bytes) -> Option<String> {
    let query = QueryRequest::from_json(body).ok()?;
    if let Some(id) = query.stop_id() {
        return is_id(id).then(|| id.to_owned());
    }
    let id = format!("kylin-lb-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    // It is an object with a field at least, for it has been read as a query.
    let open = body.iter().position(|byte| *byte == b'{')? + 1;
    let mut with = BytesMut::with_capacity(body.len() + id.len() + 16);
    with.extend_from_slice(&body[..open]);
    with.extend_from_slice(format!("\"stopId\":\"{id}\",").as_bytes());
    with.extend_from_slice(&body[open..]);
    *request.headers_mut().entry(header::CONTENT_LENGTH).or_insert(0.into()) = HeaderValue::from(with.len());
    *request.body_mut() = with.freeze().into();
    Some(id)
}

fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
