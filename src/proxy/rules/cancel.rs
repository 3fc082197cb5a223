//! Stops queries whose client has disconnected.
//!
//! Kylin runs a query to its end even if its client disconnects, so a user who reloads the page
//! runs it twice. A watch guards each query that is sent. When the future of the request is dropped
//! before the response head, or the head times out, the watch tells the node to stop the query.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::unread::MAX_RESPONSE;
use crate::backend::node_client::{NodeClient, NodeError};
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::Body;
use crate::buffer::BufferBudget;
use crate::client_key::ClientKey;
use crate::clock::{Clock, timer_in};
use crate::kylin::class::AUTHENTICATION;
use crate::kylin::query::QueryRequest;
use crate::log_limit::LogLimit;

/// The time that a node may take to respond to each request that stops a query.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// The time until a login that a node refused is sent again.
const LOGIN_PAUSE: Duration = Duration::from_secs(600);
/// The number of queries that are being stopped at once; further queries run to their end.
const MAX_CONCURRENT: usize = 64;

/// How a query is stopped when its client disconnects.
#[derive(Clone)]
#[non_exhaustive]
pub enum CancelOnDisconnect {
    /// Kylin 5: `DELETE /kylin/api/query/{stopId}` with the credentials of the query. The proxy
    /// adds a `stopId` to a query without one, which changes its body.
    ByStopId,
    /// Kylin 2.x-4.x: finds the query by user and SQL in `GET /kylin/api/query/runningQueries` of
    /// its node, and stops it with `PUT /kylin/api/query/{id}/stop`. The node itself names the
    /// user, in `GET /kylin/api/user/authentication` with the credentials of the query. A query
    /// runs to its end if the node names no user, or if the list is longer than 4 MiB. It also does
    /// so unless exactly one query of this user has this SQL.
    ///
    /// The list and the stop need an administrator. That the list has the user and the SQL comes
    /// from QueryContext.java, and was not checked with a running Kylin. When a node rejects the
    /// login, the proxy stops no queries for ten minutes.
    AsAdmin {
        /// The value of `Authorization`: `Basic` and the credentials in base64.
        authorization: HeaderValue,
    },
}

impl fmt::Debug for CancelOnDisconnect {
    /// Leaves the credentials out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CancelOnDisconnect::ByStopId => "ByStopId",
            CancelOnDisconnect::AsAdmin { .. } => "AsAdmin",
        })
    }
}

/// The state that a proxy keeps of the queries that it stops.
#[derive(Debug)]
pub(super) struct CancelState {
    buffers: BufferBudget,
    running: AtomicUsize,
    unread_lists: LogLimit,
    /// A node refused the administrator's login, which is not sent again before this time. A few
    /// wrong passwords lock a user. The password need not be wrong, though: the node may have been
    /// unable to check it because LDAP is down.
    login_paused_until: Mutex<Option<Instant>>,
}

impl CancelState {
    /// `buffers`: the budget in which the lists of running queries are reserved.
    pub(super) fn new(buffers: &BufferBudget, clock: &Arc<dyn Clock>) -> Self {
        CancelState {
            buffers: buffers.clone(),
            running: AtomicUsize::new(0),
            unread_lists: LogLimit::new(clock),
            login_paused_until: Mutex::default(),
        }
    }

    fn is_login_paused(&self) -> bool {
        self.login_paused_until.lock().is_some_and(|until| timer_in(Duration::ZERO) < until)
    }
}

/// Stops a query when it is dropped, unless it has ended.
pub(crate) struct QueryWatch(Option<Box<Cancellation>>);

struct Cancellation {
    node: NodeClient,
    runtime: Handle,
    state: Arc<CancelState>,
    /// The credentials of the query, with which it may be stopped by its id.
    credentials: HeaderMap,
    target: Target,
}

/// How the node finds the query.
enum Target {
    StopId(String),
    RunningQuery { authorization: HeaderValue, sql: String },
}

impl QueryWatch {
    /// Watches `request` of `client`, which is about to be sent with `backend`. Returns `None` if
    /// the query could not be stopped.
    pub(super) fn new<B: Backend>(
        cancel: &CancelOnDisconnect,
        state: &Arc<CancelState>,
        is_export: bool,
        backend: &Arc<B>,
        client: Option<ClientKey>,
        request: &mut Request<Body>,
    ) -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let body = request.body().whole()?.clone();
        let target = match cancel {
            // An export has no parameter for the id.
            CancelOnDisconnect::ByStopId if is_export => return None,
            CancelOnDisconnect::ByStopId => Target::StopId(stop_id(request, &body)?),
            CancelOnDisconnect::AsAdmin { .. } if state.is_login_paused() => return None,
            CancelOnDisconnect::AsAdmin { authorization } => {
                let query = match is_export {
                    true => QueryRequest::from_form(request.uri().query(), &body),
                    false => QueryRequest::from_json(&body),
                };
                let sql = query.ok()?.sql().trim().to_owned();
                Target::RunningQuery { authorization: authorization.clone(), sql }
            }
        };
        let mut credentials = HeaderMap::new();
        for name in [header::AUTHORIZATION, header::COOKIE, header::HOST, header::USER_AGENT, header::ACCEPT] {
            if let Some(value) = request.headers().get(&name) {
                credentials.insert(name, value.clone());
            }
        }
        if matches!(target, Target::RunningQuery { .. }) {
            // Without a login the node names no user.
            if !(credentials.contains_key(header::AUTHORIZATION) || credentials.contains_key(header::COOKIE)) {
                return None;
            }
            credentials.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        let node = NodeClient::with_given_host(Arc::clone(backend), CANCEL_TIMEOUT);
        let node = node.max_body(MAX_RESPONSE).within(state.buffers.clone(), client);
        let state = Arc::clone(state);
        Some(QueryWatch(Some(Box::new(Cancellation { node, runtime, state, credentials, target }))))
    }

    /// Ends the watch of a query that is over or was not sent. After a timeout the node still works
    /// on it.
    pub(crate) fn end(mut self, sent: &Result<Response<Body>, SendError>) {
        if !matches!(sent, Err(error) if error.kind() == SendErrorKind::HeadTimeout) {
            self.0 = None;
        }
    }
}

impl Drop for QueryWatch {
    fn drop(&mut self) {
        let Some(cancellation) = self.0.take() else { return };
        let Some(permit) = Permit::acquire(&cancellation.state) else { return };
        cancellation.runtime.clone().spawn(async move {
            // Released even if the runtime ends before this task has begun.
            let _permit = permit;
            let stopped = cancellation.run().await.is_some();
            tracing::debug!(stopped, "cancelled the query of a disconnected client");
        });
    }
}

/// One of the queries that are being stopped.
struct Permit(Arc<CancelState>);

impl Permit {
    fn acquire(state: &Arc<CancelState>) -> Option<Self> {
        let more = |running: usize| (running < MAX_CONCURRENT).then_some(running + 1);
        state.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(state)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cancellation {
    async fn run(&self) -> Option<()> {
        match &self.target {
            Target::StopId(id) => self.request(Method::DELETE, &format!("/kylin/api/query/{id}"), None).await.map(drop),
            Target::RunningQuery { authorization, sql } => {
                let user = self.user().await?;
                let list = self.request(Method::GET, "/kylin/api/query/runningQueries", Some(authorization)).await?;
                let running: Vec<RunningQuery> = serde_json::from_slice(&list).ok()?;
                let is_same =
                    |running: &&RunningQuery| running.sql.trim() == sql && running.username.eq_ignore_ascii_case(&user);
                let mut same = running.iter().filter(is_same);
                // If there are several, nothing shows which one has lost its client. The id comes
                // from a node and goes into a path, so it is checked.
                let (Some(RunningQuery { query_id: id, .. }), None) = (same.next(), same.next()) else { return None };
                if !is_query_id(id) {
                    return None;
                }
                self.request(Method::PUT, &format!("/kylin/api/query/{id}/stop"), Some(authorization)).await.map(drop)
            }
        }
    }

    /// Returns the user whom the node knows by the credentials of the query. The name that the
    /// client sends proves nothing.
    async fn user(&self) -> Option<String> {
        let body = self.request(Method::GET, AUTHENTICATION, None).await?;
        let UserResponse { user_details } = serde_json::from_slice(&body).ok()?;
        Some(user_details.username).filter(|name| !name.is_empty())
    }

    async fn request(&self, method: Method, path: &str, authorization: Option<&HeaderValue>) -> Option<Bytes> {
        let (mut request, is_search) = (Request::new(Bytes::new()), method == Method::GET);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(path).ok()?;
        *request.headers_mut() = self.credentials.clone();
        if let Some(authorization) = authorization {
            request.headers_mut().remove(header::COOKIE);
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let response = self.node.send(request).await.ok()?;
        let status = response.status;
        if authorization.is_some() && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            tracing::warn!(
                status = status.as_u16(),
                "a node refused the login that stops queries; the proxy stops no queries for ten minutes"
            );
            *self.state.login_paused_until.lock() = Some(timer_in(LOGIN_PAUSE));
        }
        if is_search
            && let Err(error @ (NodeError::TooLong(_) | NodeError::NoMemory)) = &response.body
            && let Some(left_out) = self.state.unread_lists.admit()
        {
            tracing::warn!(%error, left_out, "the query of a client that has disconnected is not looked for, and runs to its end");
        }
        response.body.ok().filter(|_| status.is_success())
    }
}

/// The response to [`AUTHENTICATION`] (apache/kylin 3.1.3 UserController.java). A client without a
/// login gets `{}`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserResponse {
    user_details: UserDetails,
}

#[derive(Deserialize)]
struct UserDetails {
    username: String,
}

/// An element of the list of running queries (apache/kylin 3.1.3 QueryContext.java).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningQuery {
    query_id: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    sql: String,
}

/// Returns the id by which the query can be stopped: its own, or a new one that is added to its
/// body.
fn stop_id(request: &mut Request<Body>, body: &Bytes) -> Option<String> {
    let query = QueryRequest::from_json(body).ok()?;
    if let Some(id) = query.stop_id().filter(|id| !id.is_empty()) {
        return is_query_id(id).then(|| id.to_owned());
    }
    let id = format!("kylin-lb-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let StopIdMember { stop_id: empty } = serde_json::from_slice(body).ok()?;
    let (start, end, member) = match empty {
        // A second member of the same name would override the first at the node.
        Some(empty) => {
            let start = empty.get().as_ptr() as usize - body.as_ptr() as usize;
            (start, start + empty.get().len(), format!("\"{id}\""))
        }
        // The body is an object with at least one member, because it was parsed as a query.
        None => {
            let start = body.iter().position(|byte| *byte == b'{')? + 1;
            (start, start, format!("\"stopId\":\"{id}\","))
        }
    };
    let mut with_id = BytesMut::with_capacity(body.len() + member.len());
    with_id.extend_from_slice(&body[..start]);
    with_id.extend_from_slice(member.as_bytes());
    with_id.extend_from_slice(&body[end..]);
    *request.headers_mut().entry(header::CONTENT_LENGTH).or_insert(0.into()) = HeaderValue::from(with_id.len());
    request.body_mut().set_whole(with_id.freeze());
    Some(id)
}

/// The member of a body without an id: `null` or an empty text, or none.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StopIdMember<'b> {
    #[serde(borrow, default, deserialize_with = "as_written")]
    stop_id: Option<&'b RawValue>,
}

/// Keeps a `null`, which serde would treat as a missing value.
fn as_written<'b, D: Deserializer<'b>>(value: D) -> Result<Option<&'b RawValue>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

/// Returns whether the text can be the id of a query in a path.
pub(crate) fn is_query_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
