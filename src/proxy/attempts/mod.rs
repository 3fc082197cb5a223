//! Forwards one request: from its head to its response, over all its attempts.

pub(super) mod admit;
#[cfg(feature = "cache")]
mod cache;
mod change;
mod finish;
mod flight;
mod kept;
mod next;
mod queue;
mod reload;
mod response;

use std::error::Error as _;
use std::future::poll_fn;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{Method, Request, Response, header};

use self::change::PassingChange;
pub(super) use self::flight::QueryFlights;
use self::flight::{AfterEntry, Execution, FlightResult, execution, execution_of_flight};
use self::kept::KeptRequest;
use self::next::is_abandoned;
use self::response::AfterAttempt;

use super::error_response::{ErrorResponse, PANICKED, TRUNCATED};
use super::head::{self, Hops};
use super::retry::Withdrawn;
use super::rules::{ReloadAccess, ReloadCall, Writer, fan_out};
use super::session::Session;
use super::{ProxyCore, replay};
use crate::admission::flight::{FlightKey, Leader};
use crate::admission::queue::Ticket;
use crate::backend::Backend;
use crate::balance::Attempted;
use crate::body::Body;
use crate::drop_guard::DropGuard;
use crate::endpoint::{BodyKey, PendingFailures};
use crate::kylin::response::ResponseClass;
use crate::observe::{RequestRecorder, RetryReason, in_span};
use crate::request::{ClientAddr, RequestContext};
use crate::session::hook::PrepareOutcome;
use crate::unwind::catch_panic;

/// Forwards a request. Steps that never wait run before the future exists, and the future is kept small, because servers move it.
pub(super) fn forward<B: Backend>(
    proxy: &ProxyCore<B>,
    peer: ClientAddr,
    request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    forward_from(proxy, peer, Sender::Client, request)
}

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    /// The proxy, on behalf of a client. The request is not observed, and does not count as in flight for the client.
    Proxy,
}

fn forward_from<B: Backend>(
    proxy: &ProxyCore<B>,
    peer: ClientAddr,
    sender: Sender,
    mut request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    let checked = head::check(&mut request);
    let mut attempts = Attempts::new(proxy, peer, sender, &mut request);
    let admitted = checked.and_then(|presence| attempts.admit(peer, &mut request, presence));
    async move {
        let result = match admitted {
            Ok(Hops::Left) => {
                let result = match attempts.is_traced() {
                    false => catch_panic(pin!(attempts.run(&mut request))).await,
                    true => {
                        let span = attempts.span(RequestRecorder::span);
                        catch_panic(in_span(span, attempts.run(&mut request)).as_mut()).await
                    }
                };
                let result = result.unwrap_or(Err(PANICKED));
                attempts.fail_flight(result.err());
                if let Some(change) = attempts.change.take() {
                    change.end(result.err() == Some(PANICKED));
                }
                if let Some(kept) = attempts.kept_request.take() {
                    kept.recycle();
                }
                result
            }
            Ok(Hops::Used) => {
                attempts.response = head::options_response();
                Ok(())
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => attempts.into_response(),
            Err(error) => attempts.into_error(error),
        }
    }
}

/// The attempts of one request.
struct Attempts<'p, B> {
    proxy: &'p ProxyCore<B>,
    sender: Sender,
    context: RequestContext,
    /// The client as a writer, if it has to read its own writes.
    writer: Option<Writer>,
    attempted: Attempted,
    /// The time at which the first attempt began, if retries have a time limit.
    began: Option<Instant>,
    /// Counts the request as in flight for its client.
    share: Option<DropGuard>,
    session: Session<'p>,
    /// The response to the last attempt that had one. It stays here while it is classified, because a future stores a value twice
    /// that moves between its steps.
    response: Response<Body>,
    /// The response that caused the retry, for the client if no other endpoint can be reached.
    kept: Option<Box<Response<Body>>>,
    /// A copy of the request for the next attempt, if there may be one.
    kept_request: Option<KeptRequest>,
    /// Whether the kept request itself is sent.
    sends_kept: bool,
    /// The key of the body, if the request is not kept.
    body_key: BodyKey,
    /// The failures of earlier attempts, which wait until another attempt shows whether they count.
    pending_failures: PendingFailures,
    /// Whether the request was sent again to the same endpoint, on a fresh connection.
    reconnected: bool,
    /// The number of attempts that certainly reached no node, or one on which Kylin does not run.
    unsent: usize,
    /// Whether a node may have executed the request in an earlier attempt. Set in a Kylin-aware proxy only.
    may_be_executed: bool,
    is_head: bool,
    /// Whether the client names no host, so that each node gets its own address in `Host`.
    names_no_host: bool,
    /// The reload call that the request makes, and which clients may make it.
    reload: Option<(ReloadCall, ReloadAccess)>,
    /// The ticket of the request for the queues, once it has one.
    ticket: Option<Box<Ticket>>,
    /// The retry that was withdrawn from the budget for the next attempt.
    retry: Option<Box<Withdrawn<'p>>>,
    /// `None` if nothing observes the request.
    recorder: Option<Box<RequestRecorder>>,
    /// Whether the client refuses a copy of another response.
    wants_own_response: bool,
    /// The change that later queries must see, if the request is a write or a logout.
    change: Option<Box<PassingChange<'p, B>>>,
    /// The key of single flight, if the request is a query that may share a response.
    flight: Option<Arc<FlightKey>>,
    /// The lead of a flight, if other queries may wait for the response.
    leader: Option<Leader<'p, Execution<B>, FlightResult>>,
    #[cfg(feature = "cache")]
    cache_miss: Option<Box<cache::CacheMiss>>,
}

impl<'p, B: Backend> Attempts<'p, B> {
    fn new(proxy: &'p ProxyCore<B>, peer: ClientAddr, sender: Sender, request: &mut Request<Body>) -> Self {
        let settings = &proxy.settings;
        let client = |request: &Request<Body>| settings.trusted.client(peer, request.headers());
        Attempts {
            recorder: match sender {
                Sender::Client => RequestRecorder::begin(&settings.observers, &settings.clock, client, request),
                Sender::Proxy => None,
            },
            sender,
            proxy,
            context: RequestContext::new(peer, request),
            writer: None,
            attempted: Attempted::none(),
            began: settings.retry.max_elapsed.map(|_| settings.clock.now()),
            share: None,
            session: Session::new(settings.affinity.as_ref()),
            response: Response::default(),
            kept: None,
            kept_request: None,
            sends_kept: false,
            body_key: BodyKey::NONE,
            pending_failures: PendingFailures::default(),
            reconnected: false,
            unsent: 0,
            may_be_executed: false,
            is_head: request.method() == Method::HEAD,
            names_no_host: false,
            reload: None,
            ticket: None,
            retry: None,
            wants_own_response: false,
            change: None,
            flight: None,
            leader: None,
            #[cfg(feature = "cache")]
            cache_miss: None,
        }
    }

    /// Sends the request until there is a response to return. The request is borrowed until it is sent, because a future that owns
    /// its arguments stores them twice.
    async fn run(&mut self, request: &mut Request<Body>) -> Result<(), ErrorResponse> {
        if request.body().whole().is_none() {
            let (body, client) = (take(request.body_mut()), self.context.client().key());
            // Boxed, because a short body has arrived with its head and needs no wait.
            *request.body_mut() = Box::pin(replay::read(body, client, &self.proxy.settings)).await?;
        }
        replay::copy_body(request);
        let query = self.read_query(request);
        if self.reload.is_some() {
            Box::pin(self.admit_reload(request)).await?;
        }
        self.session.begin(&self.context, request).await;
        if let Some(recorder) = &self.recorder
            && self.session.is_kept()
        {
            recorder.session_looked_up(self.session.is_bound());
        }
        if let Some((rules, class)) = self.kylin() {
            self.writer = rules.writer(&self.context, class);
            self.before_flight(class, query.as_ref(), request);
            if let Some(merge) = self.merge(rules, class, request.body()) {
                if self.names_no_host {
                    request.headers_mut().remove(header::HOST);
                }
                let past_limits = self.queues().is_some();
                let (cluster, session, recorder) =
                    (&self.proxy.cluster, &mut self.session, self.recorder.as_deref_mut());
                let sent = fan_out(cluster, &self.context, session, merge, past_limits, take(request), recorder);
                let (response, may_be_executed) = Box::pin(sent).await;
                self.note_outcome(may_be_executed);
                self.response = response?;
                return Ok(());
            }
        }
        if let Some(follows) = self.enter_flight(query, request)
            && let AfterEntry::Respond = follows.await?
        {
            return Ok(());
        }
        // The execution that this query takes over from a leader whose client has left.
        let mut taken_over = None;
        let picked = if self.leader.as_ref().is_some_and(Leader::is_running) {
            // Boxed, because it is rare.
            let (picked, failure) = Box::pin(self.execute(None)).await?;
            taken_over = Some(failure);
            Some(picked)
        } else {
            self.pick_sent(request)
        };
        let Some(mut picked) = picked else {
            return Err(ErrorResponse::no_endpoint(self.proxy.cluster.is_empty(), self.proxy.settings.unavailable));
        };
        loop {
            if let Some(wait) = self.enter_queue(&mut picked) {
                // Boxed, because it is rare.
                match Box::pin(self.wait_for_slot(picked, wait, request)).await {
                    Ok(with_slot) => picked = with_slot,
                    Err(error) => return self.fall_back(error),
                }
            }
            if let Some(retry) = self.retry.take() {
                retry.spend();
            }
            self.attempted.add(&picked.lease);
            self.keep(request, &picked.lease);
            self.note_body(request.body());
            if let Some(recorder) = &mut self.recorder {
                recorder.attempt_begins(&picked);
            }
            if self.names_no_host {
                head::set_host_of(&picked, request);
            }
            if let Err(error) = self.count_stream(&picked, request) {
                match Box::pin(self.after_failure(picked, error.with_request(take(request)), false)).await {
                    Ok(next) => (picked, *request) = next,
                    Err(error) => return self.fall_back(error),
                }
                continue;
            }
            let mut has_logged_in = false;
            let prepared = match taken_over {
                Some(_) => PrepareOutcome::Send,
                None => self.session.prepare(&self.proxy.cluster, &picked, request).await,
            };
            let failure = match (taken_over.take(), prepared) {
                (Some(failure), _) => failure,
                (None, PrepareOutcome::Send) => {
                    let watch = self.kylin().and_then(|(rules, class)| rules.watch(class, picked.backend(), request));
                    if self.leader.is_some() {
                        let mut execution = match &self.flight {
                            Some(key) if self.sends_kept => execution_of_flight(picked, Arc::clone(key)),
                            _ => execution(picked, watch, take(request)),
                        };
                        if self.is_traced() {
                            execution = in_span(self.span(RequestRecorder::attempt_span), execution);
                        }
                        let failure;
                        (picked, failure) = self.execute(Some(execution)).await?;
                        failure
                    } else {
                        let kept = self.kept_request.as_ref().filter(|_| self.sends_kept);
                        let sent = match (kept, self.is_traced()) {
                            (Some(kept), false) => picked.backend().send_copy(kept.get()).await,
                            (None, false) => picked.backend().send(take(request)).await,
                            (kept, true) => {
                                let span = self.span(RequestRecorder::attempt_span);
                                match kept {
                                    Some(kept) => in_span(span, picked.backend().send_copy(kept.get())).await,
                                    None => in_span(span, picked.backend().send(take(request))).await,
                                }
                            }
                        };
                        if let Some(watch) = watch.filter(|_| !is_abandoned(&sent)) {
                            watch.disarm();
                        }
                        self.keep_response(sent)
                    }
                }
                (None, PrepareOutcome::Failed(error)) => {
                    has_logged_in = true;
                    if let Some(recorder) = &mut self.recorder {
                        recorder.attempt_unprepared();
                    }
                    Some(error.with_request(take(request)))
                }
            };
            if let Some(error) = failure {
                match Box::pin(self.after_failure(picked, error, has_logged_in)).await {
                    Ok(next) => (picked, *request) = next,
                    Err(error) => return self.fall_back(error),
                }
                continue;
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.attempt_responded(self.response.status());
            }
            let class = match self.classify_head() {
                None => None,
                Some(Ok(class)) => Some(class),
                Some(Err(needs_body)) => match self.classify_whole() {
                    None => Box::pin(self.classify_body(needs_body)).await,
                    class => class,
                },
            };
            let class = match class {
                Some(ResponseClass::NotFound) => Some(Box::pin(self.confirm_not_found(&picked)).await),
                None if self.may_stop() => Box::pin(self.confirm_stop(&picked)).await,
                class => class,
            };
            match self.after_response(picked, class) {
                AfterAttempt::Retry(next, copy) => {
                    (picked, *request) = (next, *copy);
                    // Frees the connection of this response before the next attempt.
                    self.response = Response::default();
                    continue;
                }
                AfterAttempt::Return(same) => picked = same,
                AfterAttempt::Fail(error) => return self.fall_back(error),
            }
            #[cfg(feature = "cache")]
            if self.is_read_for_cache(class) {
                Box::pin(self.read_for_cache()).await;
            }
            if let Err(error) = poll_fn(|cx| Poll::Ready(self.read_ahead(cx))).await {
                tracing::debug!(endpoint = %picked.lease.endpoint(), %error, source = error.source(), "response ended early");
                picked.lease.set_outcome(error.outcome());
                self.settle_pending_failures(&mut picked, class);
                return Err(TRUNCATED);
            }
            self.settle_pending_failures(&mut picked, class);
            self.share_result(class, &picked);
            match self.settle(&picked).await {
                Some(copy) => {
                    *request = *copy;
                    self.response = Response::default();
                    self.note_retry(picked.lease.endpoint(), RetryReason::Login);
                }
                None => {
                    self.note_served_by(&picked);
                    if self.response.status().is_success() {
                        picked.lease.expect_success();
                    }
                    if self.response.body().whole().is_none() {
                        picked.lease.compare_with_others(self.request_key());
                    }
                    self.hold_response(picked.lease);
                    return Ok(());
                }
            }
        }
    }
}
