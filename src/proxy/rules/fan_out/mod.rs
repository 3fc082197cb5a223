//! Sends one request to every node that it concerns, and merges the responses.
//!
//! An ejected, draining or full node may still have a session or a running query, so no node is
//! left out for these reasons. If a success means that something has ended everywhere, each node
//! must confirm it. The reason is that a node that does not know a session or a query responds like
//! the node that does.

mod sent;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use self::sent::{Sent, attempt};
use super::merge::merge_all;
use super::state::RuleState;
use super::unread::Unread;
use crate::backend::{self, Backend, NewConnection, SendErrorKind};
use crate::body::Body;
use crate::buffer::BufferBudget;
use crate::clock::{Clock, SystemClock};
use crate::cluster::{Cluster, Picked, PickedEndpoints};
use crate::endpoint::{FailedClient, PendingFailures, Role};
use crate::kylin::class::RequestClass;
use crate::kylin::fan_out::Merge;
use crate::kylin::response::{ResponseClass, denies_access};
use crate::maybe_ready::BoxFuture;
use crate::observe::{AttemptEnd, RequestRecorder, Termination};
use crate::proxy::session::Session;
use crate::proxy::{ErrorResponse, head};
use crate::request::{RequestContext, RequestView};
use crate::session::hook::PrepareOutcome;

/// The time within which a node must respond to a request that needs no computation, such as a stop
/// or a logout.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TOO_LARGE: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large to be sent to all nodes");
const NO_RESPONSE: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "no node that the request concerns could be reached")
        .because(Termination::ConnectFailed);
/// At least one node did not confirm the request. The message for the client says how many.
const UNCONFIRMED: ErrorResponse = ErrorResponse::new(StatusCode::BAD_GATEWAY, "not every node confirmed the request")
    .because(Termination::Unconfirmed);

/// Returns whether a request that failed in this way may be sent to its node once more. If so,
/// withdraws a retry from the budget.
pub(crate) type MayRepeat<'a> = &'a (dyn Fn(SendErrorKind) -> bool + Sync);

/// Returns the role of the nodes that a request with merged responses concerns.
pub(crate) fn role_of(merge: Merge) -> Option<Role> {
    match merge {
        Merge::Best | Merge::Concat => Some(Role::Query),
        Merge::Worst | Merge::Logout => None,
    }
}

/// The facts of a request for several nodes.
pub(crate) struct FanOut<'a, B> {
    pub(crate) cluster: &'a Cluster<B>,
    pub(crate) context: &'a RequestContext,
    pub(crate) rules: &'a RuleState,
    /// The budget in which the responses are reserved.
    pub(crate) buffers: &'a BufferBudget,
    pub(crate) class: RequestClass,
    pub(crate) merge: Merge,
    pub(crate) may_repeat: MayRepeat<'a>,
    /// Whether a redirect to the address of its node becomes relative, although the client names a
    /// host.
    pub(crate) hides_nodes: bool,
}

/// Sends the request at once to all nodes that it concerns. A node where the session must log in
/// first gets it after the login; the logins of one user run one after the other. Also returns
/// whether a node may have executed the request.
pub(crate) async fn fan_out<B: Backend>(
    facts: &FanOut<'_, B>,
    session: &mut Session<'_>,
    mut request: Request<Body>,
    recorder: Option<&mut RequestRecorder>,
) -> (Result<Response<Body>, ErrorResponse>, bool) {
    if request.body().whole().is_none() {
        return (Err(BODY_TOO_LARGE), false);
    }
    // Compressed responses could not be merged.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    // The attempts run at the same time.
    request.body_mut().set_connect_timer(None);
    let FanOut { cluster, context, merge, .. } = *facts;
    let view = RequestView::of(&request, context.client()).with_role(role_of(merge));
    let PickedEndpoints { picked, unverified } = cluster.pick_every(&view);
    let total = picked.len() + unverified;
    let client = FailedClient::of(context.client().key());
    let names_no_host = !request.headers().contains_key(header::HOST);
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
            if !is_prepared && let Some(unsent) = prepare(facts, session, &picked, &mut request).await {
                return unsent;
            }
            send(picked, request, client, facts, names_no_host, attempts).await
        })
    });
    let mut results = join_all(sends.collect()).await;
    let recorder = attempts.into_inner().recorder;
    count_failures(&mut results);
    let may_be_executed = results.iter().any(|result| result.may_be_executed);
    let unconfirmed = unverified + results.iter().filter(|result| !result.confirms).count();
    let unread: Vec<_> = results.iter_mut().filter_map(|result| result.unread.take()).collect();
    let responses: Vec<_> = results.into_iter().filter_map(|result| result.response).collect();
    let responded = responses.len();
    if responded < total
        && let Some(left_out) = facts.rules.logs.incomplete.admit()
    {
        let unread = unread.len();
        tracing::warn!(responded, unread, total, left_out, "not every node responded to a request for all nodes");
    }
    if let Some(message) = unconfirmed_message(merge, &responses, unconfirmed, total) {
        if let Some(recorder) = recorder {
            recorder.failed(UNCONFIRMED.termination());
        }
        return (Ok(UNCONFIRMED.response_saying(&message, context)), may_be_executed);
    }
    if let Some(error) = Unread::error_of(&unread, merge, responses.is_empty()) {
        return (Err(error), may_be_executed);
    }
    let reservation = facts.buffers.reservation(context.client().key());
    let merged = merge_all(merge, responses, reservation, SystemClock.unix());
    (merged.and_then(|merged| merged.ok_or(NO_RESPONSE)), may_be_executed)
}

/// Logs the session in at a node. If the login fails, the node gets no request, because its
/// response would be useless; its result is then returned.
async fn prepare<B: Backend>(
    facts: &FanOut<'_, B>,
    session: &AsyncMutex<&mut Session<'_>>,
    picked: &Picked<B>,
    request: &mut Request<Body>,
) -> Option<NodeResult> {
    let prepared = {
        let mut session = session.lock().await;
        timeout(NODE_TIMEOUT, session.prepare(facts.cluster, picked, request)).await
    };
    match prepared {
        Ok(PrepareOutcome::Send) => None,
        Ok(PrepareOutcome::Failed(_)) => {
            let confirms = refuses_connections(&**picked.backend()).await;
            Some(NodeResult { confirms, ..NodeResult::default() })
        }
        Err(_) => Some(NodeResult::default()),
    }
}

/// Counts the failures of nodes, if another node did better.
fn count_failures(results: &mut [NodeResult]) {
    let is_one_better = results.iter().any(|result| result.is_better);
    let mut failures = PendingFailures::default();
    for result in results {
        failures.append(std::mem::take(&mut result.failed));
    }
    if is_one_better {
        failures.confirm();
    } else {
        failures.end();
    }
}

/// Returns the message for a client whose request has not reached every node, if the responses of
/// the other nodes would suggest that it has.
fn unconfirmed_message(
    merge: Merge,
    responses: &[Response<Bytes>],
    unconfirmed: usize,
    total: usize,
) -> Option<String> {
    let missing = total - responses.len();
    let claims = |response: &Response<Bytes>| {
        let status = response.status();
        // A node redirects after a logout. It redirects a stop only to the login page.
        status.is_success() || status.is_redirection() && merge == Merge::Logout
    };
    let is_claimed = unconfirmed > 0 && (responses.is_empty() || responses.iter().any(claims));
    match merge {
        Merge::Logout if is_claimed => {
            Some(format!("{unconfirmed} of {total} nodes did not confirm the logout; the session may live on there"))
        }
        Merge::Best if is_claimed => {
            let needs_login = responses.iter().any(|response| response.status() == StatusCode::UNAUTHORIZED);
            let advice =
                if needs_login { ". A node that does not know the session needs a user name and password" } else { "" };
            Some(format!("{unconfirmed} of {total} nodes did not confirm the stop; the query may run on there{advice}"))
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
    /// `None` if the node failed or its response was not read. An unread response to a stop or a
    /// logout has an empty body.
    response: Option<Response<Bytes>>,
    /// The reason why the response was not read.
    unread: Option<Unread>,
    /// The failure, if the node may have got the request.
    failed: PendingFailures,
    may_be_executed: bool,
    /// Whether the node did better than one that failed.
    is_better: bool,
    /// Whether the node has done what the request asks for, or has nothing of the client's: its
    /// response [`confirms`] this, or no process listens there. Sessions and queries end with their
    /// process.
    confirms: bool,
}

/// Returns whether a response shows that its node has done what the request asks for, or has
/// nothing of the client's. If a node asks for a login or denies access, it does not know the
/// session that a logout would end. It may still run the query that a stop would end.
fn confirms(merge: Merge, status: StatusCode) -> bool {
    !(status.is_server_error() || merge == Merge::Best && denies_access(status))
}

/// Returns whether no process listens at the address of the node.
async fn refuses_connections<B: Backend>(backend: &B) -> bool {
    let connected = timeout(NODE_TIMEOUT, backend.check_connect()).await;
    matches!(connected, Ok(Err(error)) if error.is_connection_refused())
}

/// Sends the request to one node. If the node closed its kept-alive connection, it gets the request
/// once more on another one.
async fn send<B: Backend>(
    mut picked: Picked<B>,
    mut request: Request<Body>,
    client: FailedClient,
    facts: &FanOut<'_, B>,
    names_no_host: bool,
    attempts: &Mutex<AttemptRecorder<'_>>,
) -> NodeResult {
    let mut sent = attempt(&picked, &request, facts, attempts).await;
    let mut may_be_executed = sent.may_be_executed();
    if let AttemptEnd::Failed(kind @ (SendErrorKind::Stale | SendErrorKind::Refused)) = sent.end
        && (facts.may_repeat)(kind)
    {
        request.extensions_mut().insert(NewConnection);
        sent = attempt(&picked, &request, facts, attempts).await;
        may_be_executed |= sent.may_be_executed();
    }
    let hides_node = |status: StatusCode| names_no_host || (facts.hides_nodes && status.is_redirection());
    if let Some(response) = sent.response.as_mut().filter(|response| hides_node(response.status())) {
        head::hide_host_of(&picked, response.headers_mut());
    }
    picked.lease.set_outcome(sent.outcome);
    let mut failed = PendingFailures::default();
    if !matches!(sent.end, AttemptEnd::Failed(kind) if kind.is_unsent()) {
        failed.add(picked.lease.defer_failure(client));
    }
    let confirms = match sent.end {
        AttemptEnd::Responded(status) => confirms(facts.merge, status),
        AttemptEnd::Truncated | AttemptEnd::Failed(_) | AttemptEnd::NotPrepared(_) | AttemptEnd::Cancelled => {
            sent.is_refused
        }
    };
    let is_better = sent.class.is_some_and(|class| class != ResponseClass::NotFound && class.is_better_than_failure());
    NodeResult { response: sent.response, unread: sent.unread, failed, may_be_executed, is_better, confirms }
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
