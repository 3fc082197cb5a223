//! What is known of one request.

use bytes::Bytes;
use http::header;
use http::{Request, Response};

use super::cancel::Watch;
use super::error_response::ErrorResponse;
use super::recent_writes::Writer;
use super::rules::RuleState;
use crate::backend::{Backend, SendErrorKind};
use crate::body::Body;
use crate::cluster::Picked;
use crate::endpoint::{EndpointId, Outcome, Role};
use crate::kylin::class::{RequestClass, RetrySafety, SqlLocation, classify};
use crate::kylin::fan_out::{Merge, merge_of};
use crate::kylin::query::QueryRequest;
use crate::kylin::response::{self, Credentials, NeedsBody, ResponseClass};
use crate::kylin::retry::{AttemptOutcome, RetryDecision, decide};
use crate::kylin::{path, strip_internal_headers};
use crate::request::{ClientAddr, QueryKeys};
use crate::{basic_auth, cookie};

/// What is to be thought of an answer.
pub(super) struct Classified {
    /// What it says of its node.
    pub(super) outcome: Outcome,
    pub(super) next: RetryDecision,
    /// Another try draws on the budget.
    pub(super) costs: bool,
}

/// One request, seen with the eyes of Kylin.
pub(super) struct Visit<'p> {
    rules: &'p RuleState,
    class: RequestClass,
    sent: Credentials,
    keys: Option<QueryKeys>,
    writer: Option<Writer>,
}

impl<'p> Visit<'p> {
    /// Looks at the head of a request of `client`, and takes out of it what only nodes may send.
    pub(super) fn enter(
        rules: &'p RuleState,
        client: ClientAddr,
        request: &mut Request<Body>,
    ) -> Result<Self, ErrorResponse> {
        let settings = &rules.settings;
        let path = path::normalise(request.uri().path()).map_err(|_| AMBIGUOUS)?;
        if let Some(guard) = &settings.guard {
            guard.check(client.ip(), request.method(), &path).map_err(|denied| {
                tracing::info!(client = ?client.ip(), reason = denied.reason, "request denied");
                DENIED
            })?;
        }
        let class = classify(request.method(), &path, settings.version);
        strip_internal_headers(request.headers_mut());
        let headers = request.headers();
        let session = cookie::pairs(headers).find(|(name, _)| cookie::is_kylin_session(name)).map(|(_, id)| id);
        let sent = match (headers.contains_key(header::AUTHORIZATION), session) {
            (true, _) => Credentials::Authorization,
            (false, Some(_)) => Credentials::Cookie,
            (false, None) => Credentials::None,
        };
        let writer = rules.writes.as_ref().filter(|writes| class.is_write() || !writes.is_empty());
        let writer = writer.and_then(|writes| writes.writer(headers, session));
        Ok(Visit { rules, class, sent, keys: None, writer })
    }

    /// Looks at the SQL, now that the body is read. What cannot be read counts as a write.
    pub(super) fn read_sql(&mut self, request: &Request<Body>) {
        let body = request.body().whole();
        let query = match (self.class.sql_location(), body) {
            (SqlLocation::Json, Some(body)) => QueryRequest::from_json(body).ok(),
            (SqlLocation::Form, Some(body)) => QueryRequest::from_form(request.uri().query(), body).ok(),
            _ => None,
        };
        if let Some(query) = query {
            self.class = self.class.with_sql(query.effect());
            self.keys = Some(query.keys(
                &basic_auth::user(request.headers()).and_then(|user| String::from_utf8(user).ok()).unwrap_or_default(),
            ));
        }
    }

    /// The role that an endpoint must have, and whether any other will do where none has it.
    pub(super) fn role(&self) -> (Option<Role>, bool) {
        match self.rules.settings.roles {
            true => (self.class.role(), !self.class.role_is_strict()),
            false => (None, false),
        }
    }

    /// What a policy may know of the query.
    pub(super) fn keys(&self) -> Option<QueryKeys> {
        self.keys
    }

    /// The endpoint that has what this client wrote lately.
    pub(super) fn pinned(&self) -> Option<EndpointId> {
        self.rules.writes.as_ref().zip(self.writer).and_then(|(writes, writer)| writes.endpoint(writer))
    }

    /// How the answers of all nodes become one, if all are to be asked.
    pub(super) fn merge(&self) -> Option<Merge> {
        merge_of(self.class).filter(|_| self.rules.settings.fan_out)
    }

    /// Could there be another try although the request was sent?
    pub(super) fn wants_copy(&self) -> bool {
        let refused = AttemptOutcome::Responded(ResponseClass::Rejected(response::Rejection::Busy));
        decide(self.class, refused) != RetryDecision::Return
    }

    /// May the request go on after it failed in `phase`, as far as its class is concerned? `is_out` says that its node is out of
    /// service by now.
    pub(super) fn goes_on_after(&self, phase: SendErrorKind, is_out: bool) -> bool {
        // A query that takes long is not begun a second time, but for one whose node does not answer probes either.
        let stuck = is_out && phase == SendErrorKind::HeadTimeout && self.class.retry_safety() == RetrySafety::Read;
        stuck || decide(self.class, outcome_of(phase)) == RetryDecision::OtherEndpoint
    }

    /// How much of the body of an answer has to be seen before it can be judged, if any.
    pub(super) fn must_see(&self, answer: &Response<Body>) -> Option<usize> {
        self.judge_head(answer).err().map(|NeedsBody { max }| max)
    }

    fn judge_head(&self, answer: &Response<Body>) -> Result<ResponseClass, NeedsBody> {
        let version = self.rules.settings.version;
        response::classify_head(self.class, version, self.sent, answer.status(), answer.headers())
    }

    /// What an answer says of its node, and where to go on; `seen` is the beginning of its body, where that must be seen.
    pub(super) fn judge(&self, answer: &Response<Body>, seen: Option<Bytes>) -> Classified {
        let Visit { class, rules, .. } = self;
        let meaning = match (self.judge_head(answer), seen) {
            (Ok(meaning), _) => meaning,
            (Err(_), seen) => {
                response::classify_body(*class, answer.status(), answer.headers(), &seen.unwrap_or_default())
            }
        };
        let outcome = if meaning == ResponseClass::NodeFailure { Outcome::Failure } else { Outcome::Success };
        let next = match (decide(*class, AttemptOutcome::Responded(meaning)), meaning) {
            (_, ResponseClass::Rejected(_)) if !rules.settings.retry_rejected => RetryDecision::Return,
            (_, ResponseClass::Unauthenticated(_)) if !rules.settings.retry_unauthorized => RetryDecision::Return,
            (next, _) => next,
        };
        if meaning != ResponseClass::Final {
            tracing::debug!(class = class.name(), ?meaning, ?next, "an answer that is more than one");
        }
        // A node that has another role says so at once: to go past it is no load that a budget would have to bound, and where
        // roles are not known it is every third request.
        let costs = meaning != ResponseClass::Rejected(response::Rejection::Role);
        Classified { outcome, next, costs }
    }

    /// Remembers where a write went.
    pub(super) fn settle(&self, endpoint: &EndpointId, answer: &Response<Body>) {
        if self.class.is_write()
            && answer.status().is_success()
            && let Some((writes, writer)) = self.rules.writes.as_ref().zip(self.writer)
        {
            writes.note(writer, endpoint);
        }
    }

    /// Watches over a query that is about to be sent, to stop it should nobody wait for its answer any more. May change the
    /// request.
    pub(super) fn watch<B: Backend>(&self, picked: &Picked<B>, request: &mut Request<Body>) -> Option<Watch> {
        let stop = self.rules.settings.cancel_on_disconnect.as_ref().filter(|_| self.class.is_query())?;
        let is_export = matches!(self.class, RequestClass::Export(_));
        Watch::over(stop, &self.rules.stopping, is_export, picked.backend(), request)
    }
}

/// Returns what the retry table needs to know of a failed attempt.
fn outcome_of(kind: SendErrorKind) -> AttemptOutcome {
    match kind {
        SendErrorKind::Broken | SendErrorKind::Stale | SendErrorKind::Invalid => AttemptOutcome::Broken,
        SendErrorKind::HeadTimeout => AttemptOutcome::HeadTimeout,
        SendErrorKind::RequestBody => AttemptOutcome::RequestBody,
        SendErrorKind::Connect | SendErrorKind::ConnectTimeout | SendErrorKind::Limit | SendErrorKind::Refused => {
            AttemptOutcome::Unsent
        }
    }
}

const AMBIGUOUS: ErrorResponse =
    ErrorResponse::new(http::StatusCode::BAD_REQUEST, "the path of the request can be read in more than one way");
const DENIED: ErrorResponse = ErrorResponse::new(http::StatusCode::FORBIDDEN, "the path is not open to clients");
