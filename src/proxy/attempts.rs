//! One request: from its head to the response, over as many attempts as it takes.

use std::error::Error as _;
use std::mem::take;
use std::time::Instant;

use http::{Method, Request, Response, Version};

use super::error_response::ErrorResponse;
use super::head::{self, Forwarded, HeaderEdits, HeaderPresence, join_cookies, remove_hop_by_hop};
use super::rules::{Classified, RuleState, Writer, fan_out};
use super::session::Session;
use super::{Inner, RetryAccount, replay};
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::balance::Attempted;
use crate::body::Body;
use crate::cluster::Picked;
use crate::endpoint::{EndpointHint, EndpointId, Outcome};
use crate::kylin::class::RequestClass;
use crate::kylin::response::{NeedsBody, ResponseClass};
use crate::kylin::retry::RetryDecision;
use crate::request::{ClientAddr, RequestContext, RequestView};
use crate::session::hook::{AfterResponse, Prepared};

/// Forwards a request. Steps that never wait run before the future exists, and the future is kept small: servers move futures
/// about.
pub(super) fn forward<B: Backend>(
    proxy: &Inner<B>,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    let checked = head::check(&mut request);
    let mut attempts = Attempts::new(proxy, peer, &request);
    let admitted = checked.and_then(|presence| attempts.admit(peer, &mut request, presence));
    async move {
        let result = match admitted {
            Ok(()) => attempts.run(&mut request).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => attempts.into_response(),
            Err(error) => error.response(&attempts.context),
        }
    }
}

/// The attempts of one request.
struct Attempts<'p, B> {
    proxy: &'p Inner<B>,
    context: RequestContext,
    /// Who sends the request, where that matters for reading one's own writes.
    writer: Option<Writer>,
    attempted: Attempted,
    /// When the first attempt began, if retries have a time limit.
    began: Option<Instant>,
    session: Session<'p>,
    /// The response to the last attempt that had one. It stays here while it is classified: a future stores what moves between
    /// its steps twice.
    response: Response<Body>,
    /// The request for an attempt after this one, if there may be one although this one was sent.
    copy: Option<Box<Request<Body>>>,
    /// The request was sent again to the same endpoint, on a fresh connection.
    reconnected: bool,
}

impl<'p, B: Backend> Attempts<'p, B> {
    fn new(proxy: &'p Inner<B>, peer: ClientAddr, request: &Request<Body>) -> Self {
        let settings = &proxy.settings;
        Attempts {
            proxy,
            context: RequestContext::new(peer, request),
            writer: None,
            attempted: Attempted::none(),
            began: settings.retry.max_elapsed.map(|_| settings.clock.now()),
            session: Session::new(settings.affinity.as_ref()),
            response: Response::default(),
            copy: None,
            reconnected: false,
        }
    }

    /// Rewrites the head for the node, classifies the request and refuses what is not open to clients.
    fn admit(
        &mut self,
        peer: ClientAddr,
        request: &mut Request<Body>,
        presence: HeaderPresence,
    ) -> Result<(), ErrorResponse> {
        let settings = &self.proxy.settings;
        let edits = request.extensions_mut().remove::<HeaderEdits>();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        self.context.set_client(settings.trusted.client(peer, headers));
        // Headers of the client's connection go before the proxy's own headers come: `Connection` could name these.
        remove_hop_by_hop(headers, presence);
        join_cookies(headers, presence);
        if settings.forwarded_headers {
            let is_trusted = settings.trusted.trusts(peer);
            let forwarded = Forwarded { peer, is_trusted, is_secure: settings.secure, host: self.context.host() };
            forwarded.apply(headers, presence);
        }
        if let Some(edits) = edits {
            edits.apply(headers);
        }
        if self.proxy.rules.is_some() || settings.affinity.is_some() {
            self.context.read_credentials(headers, self.proxy.rules.is_some());
        }
        if let Some(rules) = &self.proxy.rules {
            rules.admit(&mut self.context, request)?;
        }
        if let Some(budget) = &self.proxy.budget {
            budget.deposit();
        }
        replay::check_length(request.body(), settings)
    }

    /// Sends the request until there is a response to return. The request stays where it is until it is sent: a future that
    /// owns its arguments stores them twice.
    async fn run(&mut self, request: &mut Request<Body>) -> Result<(), ErrorResponse> {
        if request.body().whole().is_none() {
            let body = take(request.body_mut());
            // Boxed, because a body that fits into one read comes with its head.
            *request.body_mut() = Box::pin(replay::read(body, &self.proxy.settings)).await?;
        }
        self.context.read_sql(request.body(), self.proxy.cluster.reads_query());
        self.session.begin(&self.context, request).await;
        if let Some((rules, class)) = self.kylin() {
            self.writer = rules.writer(&self.context, class);
            if let Some(merge) = rules.merge(class) {
                let response = fan_out(&self.proxy.cluster, &self.context, &mut self.session, merge, take(request));
                self.response = Box::pin(response).await?;
                return Ok(());
            }
        }
        let mut picked = self.pick(request).ok_or(ErrorResponse::unavailable(self.proxy.settings.unavailable))?;
        loop {
            self.attempted.add(&picked.lease);
            self.copy = self.keep_copy(request);
            let failure = match self.session.prepare(&self.proxy.cluster, &picked, request).await {
                Prepared::Send => {
                    let watch = self
                        .kylin()
                        .and_then(|(rules, class)| rules.watch(&self.context, class, picked.backend(), request));
                    let sent = picked.backend().send(take(request)).await;
                    if let Some(watch) = watch.filter(|_| !is_abandoned(&sent)) {
                        watch.disarm();
                    }
                    self.keep_response(sent)
                }
                Prepared::Failed(error) => Some(error.with_request(take(request))),
            };
            if let Some(error) = failure {
                (picked, *request) = self.after_failure(picked, error)?;
                continue;
            }
            let class = match self.classify_head() {
                None => None,
                Some(Ok(class)) => Some(class),
                // Boxed, because it is rare.
                Some(Err(needs_body)) => Box::pin(self.classify_body(needs_body)).await,
            };
            match self.after_response(picked, class) {
                AfterAttempt::Retry(next, copy) => {
                    (picked, *request) = (next, *copy);
                    // Frees the connection of this response before the next attempt.
                    self.response = Response::default();
                    continue;
                }
                AfterAttempt::Return(same) => picked = same,
            }
            match self.settle(&picked).await {
                Some(copy) => {
                    *request = *copy;
                    self.response = Response::default();
                }
                None => {
                    self.response.body_mut().hold(picked.lease, self.session.take_in_use());
                    return Ok(());
                }
            }
        }
    }

    /// Returns the rules and the class of the request, in a Kylin-aware proxy.
    fn kylin(&self) -> Option<(&'p RuleState, RequestClass)> {
        self.proxy.rules.as_ref().zip(self.context.class())
    }

    fn pick(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let view = RequestView::of(request, self.context.client());
        let cluster = &self.proxy.cluster;
        let Some((rules, class)) = self.kylin() else { return self.session.pick(cluster, &view, &self.attempted).ok() };
        let (role, is_strict) = rules.role(class);
        let view = match self.context.query() {
            Some(keys) => view.with_query(keys),
            None => view,
        };
        let mut pick = |view: RequestView<'_>| match rules.written_to(self.writer) {
            // A bound session reads where it wrote in any case.
            Some(id) if !self.session.is_bound() => cluster.pick_bound(&view, &self.attempted, id.as_str()).ok(),
            _ => self.session.pick(cluster, &view, &self.attempted).ok(),
        };
        pick(view.with_role(role)).or_else(|| if is_strict { None } else { pick(view.with_role(None)) })
    }

    /// Picks another endpoint for `request`, unless the limits of retries are reached.
    fn pick_again(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let settings = &self.proxy.settings;
        let retry = &settings.retry;
        let in_time = match (retry.max_elapsed, self.began) {
            (Some(limit), Some(began)) => settings.clock.now().saturating_duration_since(began) < limit,
            _ => true,
        };
        let attempts_left = retry.max_attempts.is_none_or(|max| self.attempted.len() < max.get() as usize);
        if in_time && attempts_left { self.pick(request) } else { None }
    }

    /// Copies the request if it may have to be sent again although a node receives it now.
    fn keep_copy(&self, request: &Request<Body>) -> Option<Box<Request<Body>>> {
        let retry = &self.proxy.settings.retry;
        let is_repeatable = match self.kylin() {
            Some((rules, class)) => rules.wants_copy(class),
            None => retry.is_repeatable(request.method()),
        };
        let is_wanted = (is_repeatable && !retry.is_none()) || self.session.wants_copy();
        if is_wanted { replay::copy(request).map(Box::new) } else { None }
    }

    /// Keeps the response, or returns the error.
    fn keep_response(&mut self, sent: Result<Response<Body>, SendError>) -> Option<SendError> {
        match sent {
            Ok(response) => {
                self.response = response;
                None
            }
            Err(error) => Some(error),
        }
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

    /// Takes one retry from the budget. Returns false when it is used up.
    fn withdraw(&self) -> bool {
        self.proxy.budget.as_ref().is_none_or(RetryAccount::withdraw)
    }

    /// Returns the next endpoint after a failed attempt, or the error for the client.
    fn after_failure(
        &mut self,
        mut picked: Picked<B>,
        mut error: SendError,
    ) -> Result<(Picked<B>, Request<Body>), ErrorResponse> {
        let kind = error.kind();
        tracing::debug!(endpoint = %picked.lease.endpoint(), %error, source = error.source(), "attempt failed");
        let unsent = error.take_request().filter(|_| kind.is_unsent());
        let request = unsent.or_else(|| self.copy.take().map(|copy| *copy));
        let request = request.filter(|request| self.may_retry(kind, picked.lease.endpoint(), request.method()));
        let request = match request {
            Some(request) if kind == SendErrorKind::Stale && !self.reconnected && self.withdraw() => {
                self.reconnected = true;
                return Ok((picked, request));
            }
            request => request,
        };
        let may_time_out = self.context.class().is_some() || !picked.lease.has_max_fails();
        picked.lease.set_outcome(self.proxy.settings.retry.outcome(kind, may_time_out));
        // The next pick sees the free slot and the failure.
        drop(picked);
        self.attempted.set_has_response(false);
        if let Some(request) = request
            && let Some(next) = self.pick_again(&request)
            && (kind.is_unsent() || self.withdraw())
        {
            return Ok((next, request));
        }
        Err(match (kind, error.source()) {
            (SendErrorKind::RequestBody, Some(cause)) => replay::body_error(cause),
            _ => ErrorResponse::of_failure(&error, self.proxy.settings.unavailable),
        })
    }

    /// Classifies the response by its head; `None` in a plain proxy.
    fn classify_head(&self) -> Option<Result<ResponseClass, NeedsBody>> {
        let (rules, class) = self.kylin()?;
        Some(rules.classify_head(&self.context, class, &self.response))
    }

    /// Classifies the response by the beginning of its body, which the client gets all the same.
    async fn classify_body(&mut self, needs_body: NeedsBody) -> Option<ResponseClass> {
        let (beginning, response) = replay::peek(take(&mut self.response), needs_body.max).await;
        self.response = response;
        let (_, class) = self.kylin()?;
        Some(RuleState::classify_body(class, &self.response, &beginning))
    }

    /// Decides between the response and another attempt. `class` is `None` in a plain proxy.
    fn after_response(&mut self, picked: Picked<B>, class: Option<ResponseClass>) -> AfterAttempt<B> {
        self.attempted.set_has_response(true);
        match (self.kylin(), class) {
            (Some((rules, of_request)), Some(class)) => self.after_classified(picked, rules, of_request, class),
            _ => self.after_status(picked),
        }
    }

    fn after_classified(
        &mut self,
        mut picked: Picked<B>,
        rules: &RuleState,
        of_request: RequestClass,
        class: ResponseClass,
    ) -> AfterAttempt<B> {
        let Classified { outcome, decision, is_free } = rules.decide(of_request, class);
        picked.lease.set_outcome(outcome);
        let may_retry = match decision {
            RetryDecision::OtherEndpoint => true,
            // A strategy that sends requests again takes care of this itself.
            RetryDecision::SessionOwner => !self.session.wants_copy() && !self.session.is_bound_to(&picked),
            RetryDecision::Return => false,
        };
        if may_retry
            && !self.proxy.settings.retry.is_none()
            && let Some(copy) = self.copy.take()
        {
            if let Some(next) = self.pick_again(&copy)
                && (is_free || self.withdraw())
            {
                tracing::debug!(endpoint = %picked.lease.endpoint(), "retrying on another endpoint");
                return AfterAttempt::Retry(next, copy);
            }
            self.copy = Some(copy);
        }
        if of_request.is_write() && self.response.status().is_success() {
            rules.note_write(self.writer, picked.lease.endpoint());
        }
        AfterAttempt::Return(picked)
    }

    /// Decides by the status alone, like nginx.
    fn after_status(&mut self, mut picked: Picked<B>) -> AfterAttempt<B> {
        let retry = &self.proxy.settings.retry;
        let status = self.response.status();
        picked.lease.set_outcome(Outcome::Success);
        if retry.covers_status(status)
            && let Some(copy) = self.copy.take_if(|copy| retry.is_repeatable(copy.method()))
            && let Some(next) = self.pick_again(&copy)
            && self.withdraw()
        {
            // Only a response that is dropped counts against its endpoint, as in nginx (ngx_http_upstream_test_next). One that
            // the client gets does not: Kylin responds with 500 to every SQL error.
            if retry.is_failure(status) {
                picked.lease.set_outcome(Outcome::Failure);
            }
            tracing::debug!(endpoint = %picked.lease.endpoint(), status = status.as_u16(), "retrying on another endpoint");
            return AfterAttempt::Retry(next, copy);
        }
        AfterAttempt::Return(picked)
    }

    /// Lets the session learn from the response. Returns the request when it is to be sent again to the same endpoint.
    async fn settle(&mut self, picked: &Picked<B>) -> Option<Box<Request<Body>>> {
        match self.session.settle(&self.context, &self.proxy.cluster, picked, &mut self.response).await {
            AfterResponse::SendAgain => self.copy.take(),
            AfterResponse::Return => None,
        }
    }

    /// Removes the headers of the node's connection.
    fn into_response(mut self) -> Response<Body> {
        let presence = HeaderPresence::of(self.response.headers());
        remove_hop_by_hop(self.response.headers_mut(), presence);
        *self.response.version_mut() = Version::HTTP_11;
        self.response
    }
}

enum AfterAttempt<B> {
    /// Return the response to the client.
    Return(Picked<B>),
    /// Send the request to this endpoint.
    Retry(Picked<B>, Box<Request<Body>>),
}

/// Returns whether the node still works on a request for whose response the proxy no longer waits.
fn is_abandoned(sent: &Result<Response<Body>, SendError>) -> bool {
    matches!(sent, Err(error) if error.kind() == SendErrorKind::HeadTimeout)
}
