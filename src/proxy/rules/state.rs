use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, Request, Response, StatusCode, header};

use super::KylinRules;
use super::cancel::{CancelState, QueryWatch};
use super::frequent::FrequentCalls;
use super::recent_writes::{RecentWrites, Writer};
use super::reload::{ReloadAccess, ReloadCall};
use super::running::{Running, RunningChecks};
use crate::backend::{Backend, SendErrorKind};
use crate::body::Body;
use crate::buffer::BufferBudget;
use crate::clock::Clock;
use crate::cluster::Picked;
use crate::endpoint::{EndpointId, Outcome, Role};
use crate::kylin::class::{RequestClass, RetrySafety, is_in_all_versions, may_have_no_kylin};
use crate::kylin::fan_out::{Merge, merge_of};
use crate::kylin::response::{self, Credentials, NeedsBody, Rejection, ResponseClass};
use crate::kylin::retry::{AttemptOutcome, RetryDecision, decide};
use crate::kylin::{ClosedPaths, KylinVersion, ResourceGroups};
use crate::log_limit::LogLimit;
use crate::proxy::ErrorResponse;
use crate::request::{ClientAddr, RequestContext};

const AMBIGUOUS_PATH: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_REQUEST, "the path of the request can be read in more than one way");
pub(crate) const CLOSED_PATH: ErrorResponse =
    ErrorResponse::new(StatusCode::FORBIDDEN, "the path is not open to clients");

/// The rules of a proxy, with the state that they keep.
#[derive(Debug)]
pub(crate) struct RuleState {
    rules: KylinRules,
    closed: Option<ClosedPaths>,
    frequent: FrequentCalls,
    writes: Option<RecentWrites>,
    cancel: Arc<CancelState>,
    running: RunningChecks,
    pub(crate) logs: LogLimits,
    /// Whether a node has offered NTLM, which is logged once.
    ntlm: AtomicBool,
}

/// Rate limits of the log lines that clients can cause.
#[derive(Debug)]
pub(crate) struct LogLimits {
    denied: LogLimit,
    pub(crate) denied_reload: LogLimit,
    pub(super) incomplete: LogLimit,
}

/// The consequences of the class of a response.
pub(crate) struct Classified {
    /// The outcome of the response for the health of its node.
    pub(crate) outcome: Outcome,
    pub(crate) decision: RetryDecision,
    /// A retry does not count against the budget.
    pub(crate) is_free: bool,
}

impl RuleState {
    pub(crate) fn new(rules: KylinRules, buffers: &BufferBudget, clock: &Arc<dyn Clock>) -> Self {
        let writes = rules.read_your_writes.map(|window| RecentWrites::new(window, Arc::clone(clock)));
        let closed = rules.guard.as_ref().map(ClosedPaths::new);
        RuleState {
            frequent: FrequentCalls::new(closed.as_ref(), rules.version),
            closed,
            writes,
            cancel: Arc::new(CancelState::new(buffers, clock)),
            running: RunningChecks::new(Arc::clone(clock)),
            logs: LogLimits {
                denied: LogLimit::new(clock),
                denied_reload: LogLimit::new(clock),
                incomplete: LogLimit::new(clock),
            },
            ntlm: AtomicBool::new(false),
            rules,
        }
    }

    /// Classifies a request, and refuses it if its path is ambiguous or closed to clients. Returns
    /// which reload call the request is, and which clients may make it.
    pub(crate) fn admit(
        &self,
        context: &mut RequestContext,
        request: &Request<Body>,
    ) -> Result<Option<(ReloadCall, ReloadAccess)>, ErrorResponse> {
        let Some(path) = context.path() else {
            // `OPTIONS *` names no resource that a rule could close, and changes nothing.
            if context.is_about_server() {
                if self.rules.other_paths {
                    context.set_class(RequestClass::AdminRead);
                }
                return Ok(None);
            }
            return Err(AMBIGUOUS_PATH);
        };
        if let Some(class) = self.frequent.class(request.method(), &path) {
            context.set_class(class);
            return Ok(None);
        }
        context.classify(request.method(), self.rules.version);
        let path = context.path().ok_or(AMBIGUOUS_PATH)?;
        let closed = self.closed.as_ref();
        let checked = closed.map_or(Ok(()), |closed| closed.check(context.client().ip(), request.method(), &path));
        let reload = match checked {
            // A reload call of a trusted client concerns all nodes too.
            Ok(()) => self.reload_call(request, ReloadAccess::Everyone),
            Err(denied) => {
                let reload = self.reload_call(request, self.rules.reload);
                if reload.is_none() {
                    if let Some(left_out) = self.logs.denied.admit() {
                        // A dual-stack socket shows IPv4 peers as mapped addresses.
                        let client = context.client().ip().map(|ip| tracing::field::display(ip.to_canonical()));
                        tracing::info!(client, reason = denied.reason, left_out, "request denied");
                    }
                    return Err(CLOSED_PATH);
                }
                reload
            }
        };
        if !self.rules.other_paths {
            context.forget_class_of_other_paths();
        }
        if reload.is_some() {
            // Reloading twice does no harm, but nothing shows whether a node has begun.
            context.set_class(RequestClass::AdminWrite);
        }
        Ok(reload)
    }

    /// Returns which reload call a request is, and which clients may make it; `None` if no client
    /// may.
    fn reload_call(&self, request: &Request<Body>, access: ReloadAccess) -> Option<(ReloadCall, ReloadAccess)> {
        let access = match access {
            // A node of Kylin 5 names the authorities of a user in another form.
            ReloadAccess::Administrators if self.rules.version == Some(KylinVersion::V5) => return None,
            ReloadAccess::Closed => return None,
            access => access,
        };
        Some((ReloadCall::of(request.method(), request.uri())?, access))
    }

    pub(crate) fn resource_groups(&self) -> Option<&ResourceGroups> {
        self.rules.resource_groups.as_ref()
    }

    /// Returns the role that an endpoint needs to serve the request, and whether the role is
    /// mandatory.
    pub(crate) fn role(&self, class: RequestClass) -> (Option<Role>, bool) {
        match self.rules.roles {
            true => (class.role(), class.role_is_strict()),
            false => (None, true),
        }
    }

    /// Returns how the responses of all nodes are merged; `None` if the request goes to one node.
    pub(crate) fn merge(&self, class: RequestClass) -> Option<Merge> {
        merge_of(class).filter(|_| self.rules.fan_out)
    }

    /// Returns how the responses of all nodes to a logout are merged; `None` if it goes to one
    /// node.
    pub(crate) fn merge_logout(&self) -> Option<Merge> {
        self.rules.fan_out.then_some(Merge::Logout)
    }

    /// Returns the client as a writer, if the request writes or any write is remembered.
    pub(crate) fn writer(&self, context: &RequestContext, class: RequestClass) -> Option<Writer> {
        let writes = self.writes.as_ref().filter(|writes| class.is_write() || !writes.is_empty())?;
        writes.writer(context)
    }

    /// Returns the endpoint that took the last write of `writer`.
    pub(crate) fn written_to(&self, writer: Option<Writer>) -> Option<EndpointId> {
        self.writes.as_ref()?.endpoint(writer?)
    }

    /// Remembers the endpoint that took a write.
    pub(crate) fn note_write(&self, writer: Option<Writer>, endpoint: &EndpointId) {
        if let Some((writes, writer)) = self.writes.as_ref().zip(writer) {
            writes.note(writer, endpoint);
        }
    }

    /// Returns whether a query is changed so that it can be [stopped](Self::watch).
    pub(crate) fn changes_for_stop(&self, class: RequestClass) -> bool {
        self.rules.cancel_on_disconnect.is_some() && class.is_query()
    }

    /// Returns whether there may be another attempt after a node received the request.
    pub(crate) fn may_repeat(&self, class: RequestClass) -> bool {
        let rejected = AttemptOutcome::Responded(ResponseClass::Rejected(Rejection::Busy));
        decide(class, rejected) != RetryDecision::Return
    }

    /// Returns whether the class of the request allows a retry of a failed attempt. `is_out` says
    /// that the node is now out of service.
    pub(crate) fn may_retry(&self, class: RequestClass, kind: SendErrorKind, is_out: bool) -> bool {
        // A long query is not started a second time, unless its node also fails its probes.
        let is_stuck = is_out && kind == SendErrorKind::HeadTimeout && class.retry_safety() == RetrySafety::Read;
        is_stuck || decide(class, outcome_of(kind)) == RetryDecision::OtherEndpoint
    }

    /// Classifies a response by its head. `sent`: the credentials of the request.
    ///
    /// # Errors
    /// [`NeedsBody`] if the beginning of the body decides.
    pub(crate) fn classify_head<T>(
        &self,
        class: RequestClass,
        sent: impl FnOnce() -> Credentials,
        response: &Response<T>,
    ) -> Result<ResponseClass, NeedsBody> {
        let status = response.status();
        // Only a 401 offers NTLM.
        if status == StatusCode::UNAUTHORIZED {
            self.warn_of_ntlm(response.headers());
        }
        // Only these responses ask for credentials.
        let sent = match status {
            StatusCode::UNAUTHORIZED => sent(),
            _ if class == RequestClass::Login => sent(),
            _ => Credentials::None,
        };
        response::classify_head(class, self.rules.version, sent, status, response.headers())
    }

    /// Warns once that a node offers NTLM, including within `Negotiate`. NTLM authenticates a
    /// connection, and connections to nodes are shared.
    fn warn_of_ntlm(&self, headers: &HeaderMap) {
        // The name of the protocol, at the beginning of its messages, in base64.
        let is_ntlm = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"NTLM");
        let offers = headers.get_all(header::WWW_AUTHENTICATE).iter().any(|offer| {
            let mut words = offer.as_bytes().split(|byte| matches!(byte, b' ' | b','));
            words.any(|word| is_ntlm(word) || word.starts_with(b"TlRMTVNTUA"))
        });
        if offers && !self.ntlm.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a node offers NTLM, which cannot work: it authenticates a connection, and clients share the connections to nodes. \
                 Let the nodes offer Negotiate (Kerberos), Basic or SAML instead"
            );
        }
    }

    /// Classifies a response by the beginning of its body.
    pub(crate) fn classify_body<T>(class: RequestClass, response: &Response<T>, beginning: &[u8]) -> ResponseClass {
        response::classify_body(class, response.status(), response.headers(), beginning)
    }

    /// Returns whether Kylin runs at the node that responded with 404; `None` if the 404 does not
    /// need a check.
    pub(crate) async fn is_running<B: Backend>(
        &self,
        class: RequestClass,
        context: &RequestContext,
        picked: &Picked<B>,
    ) -> Option<bool> {
        let path = context.path().filter(|path| self.rules.retry_rejected && may_have_no_kylin(class, path))?;
        Some(self.running.check(picked, !is_in_all_versions(&path)).await == Running::Yes)
    }

    /// Returns whether the node that closed a connection responds to a request on another one.
    pub(crate) async fn is_there<B: Backend>(&self, picked: &Picked<B>) -> bool {
        self.running.check(picked, false).await != Running::No
    }

    /// Decides what follows from a response.
    pub(crate) fn decide(&self, of_request: RequestClass, class: ResponseClass) -> Classified {
        let outcome = outcome_of_response(class);
        let decision = match class {
            ResponseClass::Rejected(_) if !self.rules.retry_rejected => RetryDecision::Return,
            ResponseClass::Unauthenticated(_) if !self.rules.retry_unauthorized => RetryDecision::Return,
            class => decide(of_request, AttemptOutcome::Responded(class)),
        };
        if class != ResponseClass::Final {
            tracing::debug!(request = of_request.name(), response = ?class, ?decision, "response classified");
        }
        // A node of another role rejects at once, which costs nothing. If roles are unknown, every
        // third request reaches such a node. A node without Kylin counts like a refused connection.
        let is_free = matches!(class, ResponseClass::Rejected(Rejection::Role | Rejection::NotRunning));
        Classified { outcome, decision, is_free }
    }

    /// Watches a query that is about to be sent, to stop it if its client disconnects. May change
    /// the request.
    pub(crate) fn watch<B: Backend>(
        &self,
        class: RequestClass,
        backend: &Arc<B>,
        client: ClientAddr,
        request: &mut Request<Body>,
    ) -> Option<QueryWatch> {
        let cancel = self.rules.cancel_on_disconnect.as_ref().filter(|_| class.is_query())?;
        let is_export = matches!(class, RequestClass::Export(_));
        QueryWatch::new(cancel, &self.cancel, is_export, backend, client.key(), request)
    }
}

/// Returns the outcome of a response for the health of its node.
pub(super) fn outcome_of_response(class: ResponseClass) -> Outcome {
    match class {
        ResponseClass::NodeFailure | ResponseClass::Rejected(Rejection::NotRunning) => Outcome::Failure,
        ResponseClass::Final
        | ResponseClass::Rejected(Rejection::Role | Rejection::Busy | Rejection::SessionRace)
        | ResponseClass::ClusterFault(_)
        | ResponseClass::NotFound
        | ResponseClass::Unauthenticated(_)
        | ResponseClass::Unreadable => Outcome::Success,
    }
}

/// Returns the row of the retry table for a failed attempt.
fn outcome_of(kind: SendErrorKind) -> AttemptOutcome {
    match kind {
        SendErrorKind::Broken | SendErrorKind::Stale | SendErrorKind::Invalid => AttemptOutcome::Broken,
        SendErrorKind::HeadTimeout => AttemptOutcome::HeadTimeout,
        // No retry, because other nodes give the same response.
        SendErrorKind::RequestBody | SendErrorKind::HeadTooLarge => AttemptOutcome::RequestBody,
        SendErrorKind::Connect
        | SendErrorKind::ConnectTimeout
        | SendErrorKind::Limit
        | SendErrorKind::Shortage
        | SendErrorKind::Refused => AttemptOutcome::Unsent,
    }
}
