//! Sends a request for several nodes to one of them.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{AttemptRecorder, FanOut, NODE_TIMEOUT};
use crate::backend::{Backend, SendErrorKind};
use crate::body::Body;
use crate::clock::timer_in;
use crate::cluster::Picked;
use crate::endpoint::Outcome;
use crate::kylin::fan_out::Merge;
use crate::kylin::response::{Credentials, ResponseClass, denies_access};
use crate::observe::AttemptEnd;
use crate::proxy::rules::state::{RuleState, outcome_of_response};
use crate::proxy::rules::unread::{MAX_RESPONSE, Unread};

/// The result of one attempt.
pub(super) struct Sent {
    pub(super) response: Option<Response<Bytes>>,
    /// The reason why the response was not read.
    pub(super) unread: Option<Unread>,
    /// The class of the response.
    pub(super) class: Option<ResponseClass>,
    pub(super) outcome: Outcome,
    pub(super) end: AttemptEnd,
    /// Whether no process listens at the address of the node.
    pub(super) is_refused: bool,
}

impl Sent {
    fn failed(outcome: Outcome, end: AttemptEnd) -> Self {
        Sent { response: None, unread: None, class: None, outcome, end, is_refused: false }
    }

    pub(super) fn may_be_executed(&self) -> bool {
        match self.end {
            AttemptEnd::Responded(status) => !denies_access(status),
            AttemptEnd::Failed(kind) => !kind.is_unsent(),
            AttemptEnd::Truncated | AttemptEnd::NotPrepared(_) | AttemptEnd::Cancelled => true,
        }
    }
}

/// Sends the request once.
pub(super) async fn attempt<B: Backend>(
    picked: &Picked<B>,
    request: &Request<Body>,
    facts: &FanOut<'_, B>,
    attempts: &Mutex<AttemptRecorder<'_>>,
) -> Sent {
    let number = attempts.lock().begin(picked);
    let began = timer_in(Duration::ZERO);
    let slow = || Sent::failed(Outcome::Slow, AttemptEnd::Failed(SendErrorKind::HeadTimeout));
    let sent =
        timeout(NODE_TIMEOUT, whole_response(&**picked.backend(), request, facts)).await.unwrap_or_else(|_| slow());
    attempts.lock().end(number, &sent, began.elapsed());
    sent
}

/// Waits for the whole response, unless it is too long or there is no memory for it.
async fn whole_response<B: Backend>(backend: &B, request: &Request<Body>, facts: &FanOut<'_, B>) -> Sent {
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
    let head = Response::from_parts(head, ());
    // The credentials decide only about retries, and there are none here.
    let by_head = facts.rules.classify_head(facts.class, || Credentials::None, &head);
    let reservation = facts.buffers.reservation(facts.context.client().key());
    match body.collect_reserved(MAX_RESPONSE, reservation).await {
        Ok(body) => {
            let class = by_head.unwrap_or_else(|_| RuleState::classify_body(facts.class, &head, &body));
            let end = AttemptEnd::Responded(head.status());
            Sent { response: Some(head.map(|()| body)), class: Some(class), ..Sent::failed(outcome_of(class), end) }
        }
        Err(error) => match Unread::of(&error, head.status()) {
            // A limit of the front end.
            Some(unread) => {
                let class = by_head.ok();
                let outcome = class.map_or(Outcome::Unknown, outcome_of);
                match facts.merge {
                    // The status says what the node did.
                    Merge::Best | Merge::Logout => {
                        let mut response = head.map(|()| Bytes::new());
                        response.headers_mut().remove(CONTENT_TYPE);
                        let end = AttemptEnd::Responded(unread.status);
                        Sent { response: Some(response), class, ..Sent::failed(outcome, end) }
                    }
                    Merge::Concat | Merge::Worst => {
                        Sent { unread: Some(unread), ..Sent::failed(outcome, AttemptEnd::Truncated) }
                    }
                }
            }
            None => Sent::failed(Outcome::Failure, AttemptEnd::Truncated),
        },
    }
}

/// Returns the outcome of a response for the health of its node. The node is not asked whether
/// Kylin runs there.
fn outcome_of(class: ResponseClass) -> Outcome {
    match class {
        ResponseClass::NotFound => Outcome::Unknown,
        class => outcome_of_response(class),
    }
}
