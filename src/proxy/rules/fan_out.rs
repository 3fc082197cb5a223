//! Sends one request to every node that serves queries, and merges the responses.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::backend::{self, Backend, ConnectTimer, SendErrorKind};
use crate::balance::Attempted;
use crate::body::{Body, BodyError};
use crate::clock::timer_in;
use crate::cluster::{Cluster, Picked};
use crate::endpoint::{AdminState, BodyKey, EndpointId, Outcome, PendingFailures, RequestKey, Role, Roles};
use crate::kylin::fan_out::{Merge, best, concat, worst};
use crate::kylin::response::denies_access;
use crate::maybe_ready::BoxFuture;
use crate::observe::{AttemptEnd, RequestRecorder, Termination};
use crate::proxy::session::Session;
use crate::proxy::{ErrorResponse, head};
use crate::request::{RequestContext, RequestView};
use crate::session::hook::PrepareOutcome;

/// The time that a node may take. It has nothing to compute.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response that is merged, in bytes: a list of running queries with their SQL.
const MAX_RESPONSE: u64 = 4 << 20;
const BODY_TOO_LARGE: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large to be sent to all nodes");
const NO_RESPONSE: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "no node that serves queries could be reached")
        .because(Termination::ConnectFailed);

/// Sends the request to all query nodes of the cluster at once, and to nodes where the session has to log in first once it has.
/// Logins of one user run one after the other. `past_limits`: full endpoints get it too. Also returns whether a node may have executed it.
pub(crate) async fn fan_out<B: Backend>(
    cluster: &Cluster<B>,
    context: &RequestContext,
    session: &mut Session<'_>,
    merge: Merge,
    past_limits: bool,
    mut request: Request<Body>,
    recorder: Option<&mut RequestRecorder>,
) -> (Result<Response<Body>, ErrorResponse>, bool) {
    if request.body().whole().is_none() {
        return (Err(BODY_TOO_LARGE), false);
    }
    // Compressed responses could not be joined.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    // The attempts run at the same time.
    request.extensions_mut().remove::<ConnectTimer>();
    let ids = nodes(cluster, merge);
    let key = RequestKey::of(context.client().key(), &context.url(), BodyKey::NONE);
    let mut pending_failures = PendingFailures::default();
    let mut picks = Vec::with_capacity(ids.len());
    for id in &ids {
        let mut request = backend::copy(&request);
        let Some(picked) = pick(cluster, context, id, past_limits, &request) else { continue };
        if !request.headers().contains_key(header::HOST) {
            head::set_host_of(&picked, &mut request);
        }
        let is_prepared = session.prepare_at_once(cluster, &picked, &mut request);
        picks.push((picked, request, is_prepared));
    }
    let (session, begun) = (AsyncMutex::new(session), Mutex::new(AttemptRecorder { recorder, attempts: 0 }));
    let sends = picks.into_iter().map(|(picked, mut request, is_prepared)| -> BoxFuture<'_, Option<NodeResult>> {
        let (session, begun) = (&session, &begun);
        Box::pin(async move {
            if !is_prepared {
                let mut session = session.lock().await;
                let prepared = timeout(NODE_TIMEOUT, session.prepare(cluster, &picked, &mut request)).await;
                // Without a login the response of the node would be useless.
                let Ok(PrepareOutcome::Send) = prepared else { return None };
            }
            let number = begun.lock().begin(&picked);
            Some(send(picked, request, key, number).await)
        })
    });
    let results = join_all(sends.collect()).await;
    let recorder = &mut begun.into_inner().recorder;
    let mut responses: Vec<Response<Bytes>> = Vec::with_capacity(ids.len());
    let mut may_be_executed = false;
    for NodeResult { number, response, failed, end, took } in results.into_iter().flatten() {
        pending_failures.append(failed);
        may_be_executed |= match end {
            AttemptEnd::Responded(status) => !denies_access(status),
            AttemptEnd::Failed(kind) => !kind.is_unsent(),
            _ => true,
        };
        if let Some(recorder) = recorder {
            recorder.attempt_ended(number, end, response.as_ref().map(Response::status), took);
        }
        responses.extend(response);
    }
    // Another node that failed or refused did no better.
    let is_better = |status: StatusCode| !status.is_server_error() && status != StatusCode::UNAUTHORIZED;
    if responses.iter().any(|response| is_better(response.status())) {
        pending_failures.confirm()
    } else {
        pending_failures.end()
    }
    if responses.len() < ids.len() {
        let (responded, total) = (responses.len(), ids.len());
        tracing::warn!(responded, total, "not every node responded to a request for all nodes");
        if merge == Merge::Worst && responded > 0 {
            let missing = total - responded;
            if let Some(recorder) = recorder {
                recorder.failed(Termination::ConnectFailed);
            }
            let message = format!("{missing} of {total} nodes did not respond");
            return (Ok(NO_RESPONSE.response_saying(&message, context)), may_be_executed);
        }
    }
    (merge_all(merge, responses).ok_or(NO_RESPONSE), may_be_executed)
}

fn nodes<B>(cluster: &Cluster<B>, merge: Merge) -> Vec<EndpointId> {
    let endpoints = cluster.status().endpoints.into_iter();
    let is_concerned = |roles: Roles| matches!(merge, Merge::Worst | Merge::Logout) || roles.has(Role::Query);
    endpoints
        .filter(|endpoint| is_concerned(endpoint.roles) && endpoint.admin_state != AdminState::Maintenance)
        .map(|endpoint| endpoint.id)
        .collect()
}

/// Picks the endpoint `id`; returns `None` if it is not eligible. The endpoint picked in its place has a request of its own.
fn pick<B: Backend>(
    cluster: &Cluster<B>,
    context: &RequestContext,
    id: &EndpointId,
    past_limits: bool,
    request: &Request<Body>,
) -> Option<Picked<B>> {
    let view = RequestView::of(request, context.client()).with_past_limits(past_limits);
    let picked = cluster.pick_bound(&view, &Attempted::none(), id.as_str()).ok()?;
    (picked.lease.endpoint() == id).then_some(picked)
}

/// The attempts that have begun.
struct AttemptRecorder<'r> {
    recorder: Option<&'r mut RequestRecorder>,
    attempts: usize,
}

impl AttemptRecorder<'_> {
    /// Returns the number of the attempt that begins, from 0.
    fn begin<B>(&mut self, picked: &Picked<B>) -> usize {
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_begins(picked);
        }
        self.attempts += 1;
        self.attempts - 1
    }
}

/// The result of one node.
struct NodeResult {
    number: usize,
    /// `None` if the node failed or its response is too long.
    response: Option<Response<Bytes>>,
    /// The failure, if the node may have got the request.
    failed: PendingFailures,
    end: AttemptEnd,
    took: Duration,
}

/// Returns the whole response of a node.
async fn send<B: Backend>(mut picked: Picked<B>, request: Request<Body>, key: RequestKey, number: usize) -> NodeResult {
    let began = timer_in(Duration::ZERO);
    let sent = timeout(NODE_TIMEOUT, whole_response(&**picked.backend(), request)).await;
    let slow = (Outcome::Slow, AttemptEnd::Failed(SendErrorKind::HeadTimeout));
    let (response, (outcome, end)) = match sent.unwrap_or(Err(slow)) {
        Ok(response) => {
            let end = response.as_ref().map_or(AttemptEnd::Truncated, |got| AttemptEnd::Responded(got.status()));
            (response, (Outcome::Success, end))
        }
        Err(failed) => (None, failed),
    };
    picked.lease.set_outcome(outcome);
    let mut failed = PendingFailures::default();
    if !matches!(end, AttemptEnd::Failed(kind) if kind.is_unsent()) {
        failed.add(picked.lease.defer_failure(key));
    }
    NodeResult { number, response, failed, end, took: began.elapsed() }
}

/// Returns the response; `None` if it is too long.
///
/// # Errors
/// The meaning of the failure for the node, and the end of the attempt.
async fn whole_response<B: Backend>(
    backend: &B,
    request: Request<Body>,
) -> Result<Option<Response<Bytes>>, (Outcome, AttemptEnd)> {
    let response = backend.send(request).await.map_err(|error| {
        let outcome = match error.kind() {
            SendErrorKind::HeadTimeout => Outcome::Slow,
            kind => kind.outcome(),
        };
        (outcome, AttemptEnd::Failed(error.kind()))
    })?;
    let (head, body) = response.into_parts();
    match body.collect_up_to(MAX_RESPONSE).await {
        Ok(body) => Ok(Some(Response::from_parts(head, body))),
        Err(BodyError::TooLarge) => Ok(None),
        Err(_) => Err((Outcome::Failure, AttemptEnd::Truncated)),
    }
}

/// Waits for all futures: there is one for each node.
async fn join_all<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Merges responses into one; returns `None` if there are none.
fn merge_all(merge: Merge, mut responses: Vec<Response<Bytes>>) -> Option<Response<Body>> {
    // If no response is a list, any of them is better than an empty list.
    let is_list = |response: &Response<Bytes>| {
        response.status().is_success() && response.body().trim_ascii_start().starts_with(b"[")
    };
    let list = match merge {
        Merge::Concat if responses.iter().any(is_list) => {
            responses.retain(is_list);
            let (list, invalid) = concat(responses.iter().map(|response| &response.body()[..]));
            (invalid < responses.len()).then_some(list)
        }
        Merge::Concat | Merge::Best | Merge::Worst | Merge::Logout => None,
    };
    let statuses = responses.iter().map(|response| response.status());
    let index = if merge == Merge::Worst { worst(statuses) } else { best(statuses) }?;
    let mut response = responses.into_iter().nth(index)?;
    if let Some(list) = list {
        *response.body_mut() = list.into();
    }
    let length = HeaderValue::from(response.body().len());
    let headers = response.headers_mut();
    // These headers describe the response of one node. A session at that node alone is of no use to the client.
    for name in [header::ETAG, header::CONTENT_ENCODING, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if merge != Merge::Logout {
        headers.remove(header::SET_COOKIE);
    }
    headers.insert(header::CONTENT_LENGTH, length);
    Some(response.map(Body::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &'static str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(header::SET_COOKIE, "JSESSIONID=x".parse().unwrap());
        response
    }

    #[test]
    fn lists_are_joined_and_other_responses_are_returned_as_they_are() {
        let merged = |merge, responses: &[(u16, &'static str)]| {
            let response = merge_all(merge, responses.iter().map(|(status, body)| response(*status, body)).collect())?;
            assert!(!response.headers().contains_key(header::SET_COOKIE));
            let body = response.body().whole().unwrap().clone();
            assert_eq!(response.headers()["content-length"], body.len().to_string());
            Some((response.status().as_u16(), String::from_utf8(body.to_vec()).unwrap()))
        };
        let is = |status, body: &str| Some((status, body.to_owned()));
        let (list, one) = (Merge::Concat, Merge::Best);
        assert_eq!(merged(list, &[(200, "[1]"), (500, "[2]"), (200, " [3,4]")]), is(200, "[1,3,4]"));
        assert_eq!(merged(list, &[(200, "<html>"), (200, "[]"), (200, "[1]")]), is(200, "[1]"));
        assert_eq!(merged(list, &[(502, "x"), (200, "{\"data\":[1]}"), (200, "{}")]), is(200, "{\"data\":[1]}"));
        assert_eq!(merged(list, &[(200, "[oh]"), (200, "[dear]")]), is(200, "[oh]"));
        assert_eq!(merged(list, &[(403, "no"), (502, "x")]), is(403, "no"));
        assert_eq!(merged(one, &[(502, "x"), (200, "[1]"), (200, "[2]")]), is(200, "[1]"));
        assert_eq!(merged(one, &[]), None);
        assert_eq!(merged(list, &[]), None);
    }
}
