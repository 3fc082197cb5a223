//! Picks the next endpoint of a request.

use std::error::Error as _;
use std::mem::replace;

use http::{Method, Request};

use super::kept::KeptRequest;
use super::send::AttemptFailure;
use super::{Attempts, ProxyCore};
use crate::backend::{Backend, NewConnection, SendError, SendErrorKind};
use crate::body::Body;
use crate::client_key::ClientKey;
use crate::cluster::{PickReason, Picked};
use crate::endpoint::{EndpointHint, EndpointId, FailedClient, Outcome};
use crate::error_chain::error_chain;
use crate::kylin::class::RequestClass;
use crate::kylin::fan_out::Merge;
use crate::kylin::query::WantedKeys;
use crate::kylin::response::{Credentials, ResponseClass};
use crate::observe::RetryReason;
use crate::proxy::error_response::ErrorResponse;
use crate::proxy::replay;
use crate::proxy::retry::{RetryAccount, Withdrawn};
use crate::proxy::rules::{ReloadCall, RuleState, role_of};
use crate::request::RequestView;

impl<'p, B: Backend> Attempts<'p, B> {
    pub(super) fn pick(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let view = RequestView::of(request, self.context.client());
        let cluster = &self.proxy.cluster;
        let Some((rules, class)) = self.kylin() else { return self.session.pick(cluster, &view, &self.attempted).ok() };
        if self.ends_bound_session()
            && self.attempted.is_empty()
            && let Some(picked) = self.session.pick_regardless(cluster, &view)
        {
            return Some(picked);
        }
        let (role, is_strict) = rules.role(class);
        let has_keys = self.context.query().is_some() && cluster.reads_query();
        let is_of_flood = self.ticket.as_deref().is_some_and(|ticket| ticket.is_of_flood);
        let has_queues = self.queues().is_some();
        let view = view.with_past_limits(has_queues).with_passes_flood(has_queues && !is_of_flood);
        let view = match self.context.query() {
            Some(keys) => view.with_query(keys),
            None => view,
        };
        let mut pick = |view: RequestView<'_>| match rules.written_to(self.writer) {
            // A bound session reads from the node that it wrote to anyway.
            Some(id) if !self.session.is_bound() => {
                let mut picked = cluster.pick_bound(&view, &self.attempted, id.as_str()).ok();
                if let Some(Picked { reason: reason @ PickReason::Bound, .. }) = &mut picked {
                    *reason = PickReason::Written;
                }
                picked
            }
            _ => self.session.pick(cluster, &view, &self.attempted).ok(),
        };
        let mut picked =
            pick(view.with_role(role)).or_else(|| if is_strict { None } else { pick(view.with_role(None)) });
        if let Some(Picked { reason: reason @ PickReason::Policy, .. }) = &mut picked
            && has_keys
        {
            *reason = PickReason::Fingerprint;
        }
        picked
    }

    /// Returns how the responses of all nodes are merged, if the request goes to all of them.
    pub(super) fn merge(&self, rules: &RuleState, class: RequestClass, body: &Body) -> Option<Merge> {
        if matches!(self.reload, Some((ReloadCall::Config, _))) {
            return Some(Merge::Worst);
        }
        // A node that does not know the session responds to a logout like the node that does, so
        // the session would live on.
        if class == RequestClass::Logout
            && self.session.credentials(&self.context) == Credentials::Session
            && self.session.is_at_unknown_node()
            && body.whole().is_some()
        {
            return rules.merge_logout().filter(|merge| self.may_search_everywhere(*merge));
        }
        rules.merge(class)
    }

    /// Returns whether the request may go to all nodes to find the one that has its session.
    /// Withdraws the additional requests from the budget of searches, because any client can send
    /// logouts of invented sessions.
    fn may_search_everywhere(&self, merge: Merge) -> bool {
        let Some(searches) = &self.proxy.searches else { return true };
        let client = self.context.client().key();
        let more = self.proxy.cluster.count_every(role_of(merge)).saturating_sub(1);
        let withdrawn: Option<Vec<Withdrawn<'_>>> = (0..more).map(|_| searches.withdraw(client)).collect();
        withdrawn.map(|withdrawn| withdrawn.into_iter().for_each(Withdrawn::spend)).is_some()
    }

    /// Returns whether the request ends a session that is bound to a node and that only this node
    /// knows. Any other node would respond as if it had ended the session.
    pub(super) fn ends_bound_session(&self) -> bool {
        self.context.class() == Some(RequestClass::Logout) && self.session.is_at_bound_node()
    }

    /// Picks an endpoint for the request that is sent.
    pub(super) fn pick_sent(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let kept = self.kept_request.take();
        let picked = self.pick(kept.as_ref().filter(|_| self.sends_kept).map_or(request, KeptRequest::get));
        self.kept_request = kept;
        picked
    }

    /// Returns which keys the policy or the queues need to recognise queries.
    pub(super) fn wanted_keys(&self) -> WantedKeys {
        let cluster = &self.proxy.cluster;
        match (cluster.reads_query(), cluster.reads_fingerprint() || self.queues().is_some()) {
            (_, true) => WantedKeys::All,
            (true, false) => WantedKeys::Affinity,
            (false, false) => WantedKeys::None,
        }
    }

    /// Picks another endpoint for `request`, unless the limits of retries are reached. Withdraws a
    /// retry from `budget`, if there is one. `is_unsent` says that no Kylin got the request in the
    /// last attempt.
    pub(super) fn pick_again(
        &mut self,
        request: &Request<Body>,
        is_unsent: bool,
        budget: Option<&'p RetryAccount>,
    ) -> Option<Picked<B>> {
        self.pick_again_by(Self::pick, request, is_unsent, budget)
    }

    /// Picks the next endpoint in the search for the one that has the session, like
    /// [`pick_again`](Self::pick_again). Endpoints that drain, or that were ejected for their
    /// responses, keep their sessions and come last.
    pub(super) fn search_again(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let pick = |attempts: &mut Self, request: &Request<Body>| {
            attempts.pick(request).or_else(|| {
                let (role, is_strict) = attempts.kylin().map(|(rules, class)| rules.role(class))?;
                let view = RequestView::of(request, attempts.context.client()).with_role(role.filter(|_| is_strict));
                let view = view.with_past_limits(attempts.queues().is_some());
                attempts.proxy.cluster.pick_withdrawn(&view, &attempts.attempted)
            })
        };
        self.pick_again_by(pick, request, false, self.proxy.searches.as_ref())
    }

    fn pick_again_by(
        &mut self,
        pick: impl FnOnce(&mut Self, &Request<Body>) -> Option<Picked<B>>,
        request: &Request<Body>,
        is_unsent: bool,
        budget: Option<&'p RetryAccount>,
    ) -> Option<Picked<B>> {
        let settings = &self.proxy.settings;
        let retry = &settings.retry;
        let in_time = match (retry.max_elapsed, self.began) {
            (Some(limit), Some(began)) => settings.clock.now().saturating_duration_since(began) < limit,
            _ => true,
        };
        let free = if retry.count_unsent { 0 } else { self.unsent };
        let is_free = is_unsent && !retry.count_unsent;
        let attempts_left =
            is_free || retry.max_attempts.is_none_or(|max| self.attempted.len() - free < max.get() as usize);
        if !(in_time && attempts_left) {
            return None;
        }
        // Withdrawn before the pick: if the pick puts the request on trial at an endpoint, the
        // request must be sent there.
        let retry = match budget {
            Some(budget) => Some(budget.withdraw(self.context.client().key())?),
            None => None,
        };
        let picked = pick(self, request)?;
        self.retry = retry.map(Box::new);
        Some(picked)
    }

    /// Returns whether a request that failed at `endpoint` may be sent again.
    fn may_retry(&self, kind: SendErrorKind, endpoint: &EndpointId, method: &Method) -> bool {
        let retry = &self.proxy.settings.retry;
        retry.covers(kind)
            && match self.kylin() {
                Some((rules, class)) => {
                    let is_out = kind == SendErrorKind::HeadTimeout
                        && self.proxy.cluster.is_out(&EndpointHint::Id(endpoint.clone()));
                    rules.may_retry(class, kind, is_out)
                }
                None => kind.is_unsent() || retry.is_repeatable(method),
            }
    }

    /// Returns whether a request whose kept-alive connection was closed is sent to the same
    /// endpoint again. A Kylin-aware proxy sends it only once more. It prefers another endpoint,
    /// because this node may be about to stop. The exception is a session that only this node
    /// knows, if the node still responds.
    async fn stays_at(&mut self, picked: &mut Picked<B>) -> bool {
        let Some((rules, _)) = self.kylin() else { return true };
        if self.ends_bound_session() {
            return true;
        }
        if self.session.credentials(&self.context) != Credentials::Session || self.session.may_send_again() {
            return false;
        }
        let is_there = rules.is_there(picked).await;
        if !is_there {
            picked.lease.set_outcome(Outcome::Unreachable);
        }
        is_there
    }

    /// Takes one retry from the budget. Returns false when it is used up.
    fn withdraw(&self) -> bool {
        self.proxy.withdraw(self.context.client().key())
    }

    /// Counts a streamed body of the request for this endpoint, and no longer for the endpoint of
    /// the last attempt.
    pub(super) fn count_stream(&self, picked: &Picked<B>, request: &mut Request<Body>) -> Result<(), SendError> {
        if request.body().whole().is_none() {
            request.body_mut().release_guard();
            if let Some(guard) = self.proxy.settings.streams.open(&picked.lease, self.context.client().key())? {
                request.body_mut().hold_guard(guard);
            }
        }
        Ok(())
    }

    /// Returns the client, by which failures of the request are compared with those of others.
    pub(super) fn failed_client(&self) -> FailedClient {
        FailedClient::of(self.context.client().key())
    }

    /// Decides whether the failures of earlier attempts count, once the last attempt has a
    /// response. `class` is `None` in a plain proxy.
    pub(super) fn settle_pending_failures(&mut self, picked: &mut Picked<B>, class: Option<ResponseClass>) {
        if picked.lease.is_failure() {
            if self.pending_failures.is_empty() {
                picked.lease.compare_with_others(self.failed_client());
            } else {
                self.pending_failures.discard();
                picked.lease.set_outcome(Outcome::Unknown);
            }
        } else if !self.pending_failures.is_empty() {
            match class {
                // Nothing shows whether this node would have failed too.
                Some(class) if !class.is_better_than_failure() => self.pending_failures.end(),
                // In a plain proxy the client gets a failing response like any other.
                None if self.response.status().is_server_error() => self.pending_failures.discard(),
                _ => self.pending_failures.confirm(),
            }
        }
    }

    /// Returns the request of a failed attempt, unless it is lost or a node may have executed it in
    /// two attempts.
    fn request_to_repeat(&mut self, error: &mut SendError, is_of_login: bool) -> Option<Request<Body>> {
        let kind = error.kind();
        let unsent = error.take_request().filter(|_| kind.is_unsent());
        let mut request = unsent.or_else(|| self.take_kept().map(|kept| *kept));
        if let Some(request) = request.as_mut().filter(|_| kind.is_of_kept_connection()) {
            request.extensions_mut().insert(NewConnection);
        }
        let may_be_executed = self.context.class().is_some() && !kind.is_unsent() && !is_of_login;
        let is_repeat = may_be_executed && replace(&mut self.may_be_executed, true);
        request.filter(|_| !is_repeat)
    }

    /// Returns the next endpoint after a failed attempt, or the error for the client.
    pub(super) async fn after_failure(
        &mut self,
        mut picked: Picked<B>,
        failure: AttemptFailure,
    ) -> Result<(Picked<B>, Request<Body>), ErrorResponse> {
        let AttemptFailure { mut error, is_of_login } = failure;
        let kind = error.kind();
        tracing::debug!(endpoint = %picked.lease.endpoint(), %error, source = error.source(), "attempt failed");
        self.note_outcome(!(kind.is_unsent() || is_of_login));
        let counts_at_once = kind.is_unsent() && !is_of_login;
        let must_stay = self.ends_bound_session() && self.session.is_bound_to(&picked);
        // The node had closed a kept-alive connection. An unsent request gets another connection
        // only if it must stay at its node.
        let may_reconnect =
            !self.reconnected && (kind == SendErrorKind::Stale || kind == SendErrorKind::Refused && must_stay);
        let request = self.request_to_repeat(&mut error, is_of_login);
        let request = request.filter(|_| !must_stay || may_reconnect || error.is_connection_refused());
        let request = request.filter(|request| self.may_retry(kind, picked.lease.endpoint(), request.method()));
        let request = match request {
            Some(request) if may_reconnect => {
                let stays = self.stays_at(&mut picked).await;
                let other = if stays { None } else { self.pick_again(&request, false, self.proxy.budget.as_ref()) };
                if other.is_some() || kind.is_unsent() || self.withdraw() {
                    self.reconnected = other.is_none();
                    if let Some(recorder) = &mut self.recorder {
                        recorder.attempt_failed(kind);
                    }
                    let next = other.unwrap_or(picked);
                    self.note_retry(next.lease.endpoint(), RetryReason::Failed(kind));
                    return Ok((next, request));
                }
                Some(request)
            }
            request => request,
        };
        let may_time_out = self.context.class().is_some() || !picked.lease.has_max_fails();
        picked.lease.set_outcome(self.proxy.settings.retry.outcome(kind, may_time_out));
        if picked.lease.is_failure() {
            picked.lease.note_error(|| error_chain(&error));
        }
        // The lease ends before the next pick, so that the pick sees the free slot. A refused
        // connection is counted before the pick as well, because it does not depend on the request.
        match counts_at_once {
            true => drop(picked),
            false => self.pending_failures.add(picked.lease.defer_failure(self.failed_client())),
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.attempt_failed(kind);
        }
        self.attempted.set_has_response(false);
        self.unsent += usize::from(kind.is_unsent());
        if !kind.is_unsent() {
            self.kept = None;
        }
        if let Some(request) = request
            && let Some(next) =
                self.pick_again(&request, kind.is_unsent(), self.proxy.budget.as_ref().filter(|_| !kind.is_unsent()))
        {
            self.note_retry(next.lease.endpoint(), RetryReason::Failed(kind));
            return Ok((next, request));
        }
        self.pending_failures.end();
        Err(match (kind, error.source()) {
            (SendErrorKind::RequestBody, Some(cause)) => replay::body_error(cause),
            _ => ErrorResponse::of_failure(&error, self.proxy.settings.unavailable),
        })
    }
}

impl<B> ProxyCore<B> {
    /// Takes one retry of a client from the budget. Returns false when it is used up.
    fn withdraw(&self, client: Option<ClientKey>) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.withdraw(client).map(Withdrawn::spend).is_some())
    }

    /// Returns whether a request for all nodes that failed in this way may be sent to its node once
    /// more. If so, withdraws a retry from the budget.
    pub(super) fn may_repeat(&self, kind: SendErrorKind, client: Option<ClientKey>) -> bool {
        self.settings.retry.covers(kind) && (kind.is_unsent() || self.withdraw(client))
    }
}
