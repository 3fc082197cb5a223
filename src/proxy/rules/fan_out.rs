//! Sends one request to every node that it concerns, and merges the responses.
//!
//! A node may have a session or a running query although it is ejected, drains or is full, so none is left out for that. If a success
//! means that something has ended everywhere, each node has to confirm it: a node that does not know a session or a query responds as
//! the one that does.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::backend::{self, Backend, SendErrorKind};
use crate::body::{Body, BodyError};
use crate::clock::{Clock, SystemClock, timer_in};
use crate::cluster::{Cluster, Picked, PickedEndpoints};
use crate::cookie::SetCookie;
use crate::endpoint::{BodyKey, Outcome, PendingFailures, RequestKey, Role};
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
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "no node that the request concerns could be reached")
        .because(Termination::ConnectFailed);

/// Returns whether a request that failed so may be sent to its node once more, and takes that from the budget.
pub(crate) type MayRepeat<'a> = &'a (dyn Fn(SendErrorKind) -> bool + Sync);

/// How a request for all nodes is sent.
pub(crate) struct FanOutRules<'a> {
    pub(crate) merge: Merge,
    pub(crate) may_repeat: MayRepeat<'a>,
    /// Whether a redirect to the address of its node becomes relative, although the client names a host.
    pub(crate) hides_nodes: bool,
}

/// Returns the role of the nodes that a request with merged responses concerns.
pub(crate) fn role_of(merge: Merge) -> Option<Role> {
    match merge {
        Merge::Best | Merge::Concat => Some(Role::Query),
        Merge::Worst | Merge::Logout => None,
    }
}

/// Sends the request to all nodes that it concerns at once, and to nodes where the session has to log in first once it has. Logins of
/// one user run one after the other. Also returns whether a node may have executed it.
pub(crate) async fn fan_out<B: Backend>(
    cluster: &Cluster<B>,
    context: &RequestContext,
    session: &mut Session<'_>,
    rules: FanOutRules<'_>,
    mut request: Request<Body>,
    recorder: Option<&mut RequestRecorder>,
) -> (Result<Response<Body>, ErrorResponse>, bool) {
    let FanOutRules { merge, may_repeat, hides_nodes } = rules;
    if request.body().whole().is_none() {
        return (Err(BODY_TOO_LARGE), false);
    }
    // Compressed responses could not be joined.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    // The attempts run at the same time.
    request.body_mut().set_connect_timer(None);
    let view = RequestView::of(&request, context.client()).with_role(role_of(merge));
    let PickedEndpoints { picked, unverified } = cluster.pick_every(&view);
    let total = picked.len() + unverified;
    let key = RequestKey::of(context.client().key(), &context.url(), BodyKey::NONE);
    let names_no_host = !request.headers().contains_key(header::HOST);
    let hides_node = move |status: StatusCode| names_no_host || (hides_nodes && status.is_redirection());
    let requests: Vec<_> = picked
        .into_iter()
        .map(|picked| {
            let mut request = backend::copy(&request);
            if names_no_host {
                head::set_host_of(&picked, &mut request);
            }
            let is_prepared = session.prepare_at_once(cluster, &picked, &mut request);
            (picked, request, is_prepared)
        })
        .collect();
    let (session, attempts) = (AsyncMutex::new(session), Mutex::new(AttemptRecorder { recorder, begun: 0 }));
    let sends = requests.into_iter().map(|(picked, mut request, is_prepared)| -> BoxFuture<'_, NodeResult> {
        let (session, attempts) = (&session, &attempts);
        Box::pin(async move {
            if !is_prepared {
                let mut session = session.lock().await;
                // Without a login the response of the node would be useless.
                match timeout(NODE_TIMEOUT, session.prepare(cluster, &picked, &mut request)).await {
                    Ok(PrepareOutcome::Send) => {}
                    Ok(PrepareOutcome::Failed(error)) => {
                        return NodeResult {
                            confirms: error.kind() == SendErrorKind::Connect,
                            ..NodeResult::default()
                        };
                    }
                    Err(_) => return NodeResult::default(),
                }
            }
            send(picked, request, key, attempts, may_repeat, hides_node).await
        })
    });
    let results = join_all(sends.collect()).await;
    let recorder = attempts.into_inner().recorder;
    let mut pending_failures = PendingFailures::default();
    let mut responses: Vec<Response<Bytes>> = Vec::with_capacity(total);
    let (mut may_be_executed, mut unconfirmed) = (false, unverified);
    for result in results {
        pending_failures.append(result.failed);
        may_be_executed |= result.may_be_executed;
        unconfirmed += usize::from(!result.confirms);
        responses.extend(result.response);
    }
    // Another node that failed or refused did no better.
    let is_better = |status: StatusCode| !status.is_server_error() && status != StatusCode::UNAUTHORIZED;
    if responses.iter().any(|response| is_better(response.status())) {
        pending_failures.confirm()
    } else {
        pending_failures.end()
    }
    let responded = responses.len();
    if responded < total {
        tracing::warn!(responded, total, "not every node responded to a request for all nodes");
    }
    if let Some(message) = unconfirmed_message(merge, &responses, unconfirmed, total) {
        if let Some(recorder) = recorder {
            recorder.failed(Termination::ConnectFailed);
        }
        return (Ok(NO_RESPONSE.response_saying(&message, context)), may_be_executed);
    }
    (merge_all(merge, responses, SystemClock.unix()).ok_or(NO_RESPONSE), may_be_executed)
}

/// Returns the message for a client whose request has not reached every node, if the responses of the others would say that it has.
fn unconfirmed_message(
    merge: Merge,
    responses: &[Response<Bytes>],
    unconfirmed: usize,
    total: usize,
) -> Option<String> {
    let missing = total - responses.len();
    let is_success = |response: &Response<Bytes>| response.status().is_success() || response.status().is_redirection();
    let is_claimed = unconfirmed > 0 && (responses.is_empty() || responses.iter().any(is_success));
    match merge {
        Merge::Logout if is_claimed => {
            Some(format!("{unconfirmed} of {total} nodes did not confirm the logout; the session may live on there"))
        }
        Merge::Best if is_claimed => {
            Some(format!("{unconfirmed} of {total} nodes did not confirm the stop; the query may run on there"))
        }
        Merge::Worst if missing > 0 && !responses.is_empty() => {
            Some(format!("{missing} of {total} nodes did not respond"))
        }
        Merge::Logout | Merge::Best | Merge::Worst | Merge::Concat => None,
    }
}

/// The attempts that have begun.
struct AttemptRecorder<'r> {
    recorder: Option<&'r mut RequestRecorder>,
    begun: usize,
}

impl AttemptRecorder<'_> {
    /// Returns the number of the attempt that begins, from 0.
    fn begin<B>(&mut self, picked: &Picked<B>) -> usize {
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_begins(picked);
        }
        self.begun += 1;
        self.begun - 1
    }

    fn end(&mut self, number: usize, sent: &Sent, took: Duration) {
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_ended(number, sent.end, sent.response.as_ref().map(Response::status), took);
        }
    }
}

/// The result of one node.
#[derive(Default)]
struct NodeResult {
    /// `None` if the node failed or its response is too long.
    response: Option<Response<Bytes>>,
    /// The failure, if the node may have got the request.
    failed: PendingFailures,
    may_be_executed: bool,
    /// The node has done what the request asks for, or has nothing of the client: it responded without an error of a server, or no
    /// process listens there. Sessions and queries end with their process.
    confirms: bool,
}

/// Sends the request to one node. If the node closed its kept-alive connection, it gets the request once more on another one.
async fn send<B: Backend>(
    mut picked: Picked<B>,
    request: Request<Body>,
    key: RequestKey,
    attempts: &Mutex<AttemptRecorder<'_>>,
    may_repeat: MayRepeat<'_>,
    hides_node: impl Fn(StatusCode) -> bool,
) -> NodeResult {
    let mut sent = attempt(&picked, &request, attempts).await;
    let mut may_be_executed = sent.may_be_executed();
    if let AttemptEnd::Failed(kind @ (SendErrorKind::Stale | SendErrorKind::Refused)) = sent.end
        && may_repeat(kind)
    {
        sent = attempt(&picked, &request, attempts).await;
        may_be_executed |= sent.may_be_executed();
    }
    if let Some(response) = sent.response.as_mut().filter(|response| hides_node(response.status())) {
        head::hide_host_of(&picked, response.headers_mut());
    }
    picked.lease.set_outcome(sent.outcome);
    let mut failed = PendingFailures::default();
    if !matches!(sent.end, AttemptEnd::Failed(kind) if kind.is_unsent()) {
        failed.add(picked.lease.defer_failure(key));
    }
    let confirms = match sent.end {
        AttemptEnd::Responded(status) => !status.is_server_error(),
        _ => sent.is_refused,
    };
    NodeResult { response: sent.response, failed, may_be_executed, confirms }
}

/// The result of one attempt.
struct Sent {
    response: Option<Response<Bytes>>,
    outcome: Outcome,
    end: AttemptEnd,
    /// No process listens at the address of the node.
    is_refused: bool,
}

impl Sent {
    fn failed(outcome: Outcome, end: AttemptEnd) -> Self {
        Sent { response: None, outcome, end, is_refused: false }
    }

    fn may_be_executed(&self) -> bool {
        match self.end {
            AttemptEnd::Responded(status) => !denies_access(status),
            AttemptEnd::Failed(kind) => !kind.is_unsent(),
            _ => true,
        }
    }
}

/// Sends the request once.
async fn attempt<B: Backend>(
    picked: &Picked<B>,
    request: &Request<Body>,
    attempts: &Mutex<AttemptRecorder<'_>>,
) -> Sent {
    let number = attempts.lock().begin(picked);
    let began = timer_in(Duration::ZERO);
    let slow = || Sent::failed(Outcome::Slow, AttemptEnd::Failed(SendErrorKind::HeadTimeout));
    let sent = timeout(NODE_TIMEOUT, whole_response(&**picked.backend(), request)).await.unwrap_or_else(|_| slow());
    attempts.lock().end(number, &sent, began.elapsed());
    sent
}

/// Waits for the whole response, unless it is too long.
async fn whole_response<B: Backend>(backend: &B, request: &Request<Body>) -> Sent {
    let response = match backend.send_copy(request).await {
        Ok(response) => response,
        Err(error) => {
            let outcome = match error.kind() {
                SendErrorKind::HeadTimeout => Outcome::Slow,
                kind => kind.outcome(),
            };
            let end = AttemptEnd::Failed(error.kind());
            return Sent { is_refused: error.is_connection_refused(), ..Sent::failed(outcome, end) };
        }
    };
    let (head, body) = response.into_parts();
    match body.collect_up_to(MAX_RESPONSE).await {
        Ok(body) => {
            let end = AttemptEnd::Responded(head.status);
            Sent { response: Some(Response::from_parts(head, body)), ..Sent::failed(Outcome::Success, end) }
        }
        Err(BodyError::TooLarge) => Sent::failed(Outcome::Success, AttemptEnd::Truncated),
        Err(_) => Sent::failed(Outcome::Failure, AttemptEnd::Truncated),
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
/// `now`: in seconds since 1970.
fn merge_all(merge: Merge, mut responses: Vec<Response<Bytes>>, now: u64) -> Option<Response<Body>> {
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
    match merge {
        Merge::Logout => keep_deletions(headers, now),
        Merge::Best | Merge::Concat | Merge::Worst => _ = headers.remove(header::SET_COOKIE),
    }
    headers.insert(header::CONTENT_LENGTH, length);
    Some(response.map(Body::from))
}

/// Removes each `Set-Cookie` that does not delete a cookie.
fn keep_deletions(headers: &mut HeaderMap, now: u64) {
    if let header::Entry::Occupied(lines) = headers.entry(header::SET_COOKIE) {
        let (name, lines) = lines.remove_entry_mult();
        let deletes = |line: &HeaderValue| SetCookie::parse(line).is_some_and(|cookie| cookie.deletes(now));
        let lines: Vec<_> = lines.filter(deletes).collect();
        for line in lines {
            headers.append(&name, line);
        }
    }
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
            let response =
                merge_all(merge, responses.iter().map(|(status, body)| response(*status, body)).collect(), 0)?;
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
    #[test]
    fn only_deletions_of_cookies_are_kept_of_a_logout() {
        let mut response = response(302, "");
        for line in [
            "JSESSIONID=; Path=/kylin",
            "a=b; Max-Age=0",
            "c=d; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/kylin",
            "e=f; Max-Age=60",
            "g=h; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        ] {
            response.headers_mut().append(header::SET_COOKIE, line.parse().unwrap());
        }
        let merged = merge_all(Merge::Logout, vec![response], 1_767_225_600).unwrap();
        let names = merged.headers().get_all(header::SET_COOKIE).iter().map(|line| &line.to_str().unwrap()[..2]);
        assert_eq!(names.collect::<Vec<_>>(), ["JS", "a=", "c="]);
    }
}
