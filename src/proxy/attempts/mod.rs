//! Forwards one request: from its head to its response, over all its attempts.

pub(super) mod admit;
#[cfg(feature = "cache")]
mod cache;
mod change;
mod finish;
mod flight;
mod kept;
mod next;
mod prepare;
mod queue;
mod reload;
mod response;
mod send;

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request, Response};

use self::change::PassingChange;
pub(super) use self::flight::QueryFlights;
use self::flight::{AfterEntry, Execution, FlightResult};
use self::kept::KeptRequest;
use self::response::AfterAttempt;
use self::send::AttemptFailure;

use super::ProxyCore;
use super::error_response::{ErrorResponse, PANICKED};
use super::head::{self, Hops};
use super::retry::Withdrawn;
use super::rules::{ReloadAccess, ReloadCall, Writer};
use super::session::Session;
use crate::admission::flight::{FlightKey, Leader};
use crate::admission::queue::Ticket;
use crate::backend::Backend;
use crate::balance::Attempted;
use crate::body::Body;
use crate::drop_guard::DropGuard;
use crate::endpoint::PendingFailures;
use crate::observe::{RequestRecorder, RetryReason, ShownHeaders, in_span};
use crate::request::{ClientAddr, RequestContext};
use crate::session::hook::PrepareOutcome;
use crate::unwind::catch_panic;

/// Forwards a request. Steps that never wait run before the future exists. The future is kept small
/// because servers move it.
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
    /// The proxy, on behalf of a client. The request is not observed, and does not count as in
    /// flight for the client.
    Proxy,
}

fn forward_from<B: Backend>(
    proxy: &ProxyCore<B>,
    peer: ClientAddr,
    sender: Sender,
    mut request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    let mut shown = finish::is_observed(proxy, sender, &request).then(ShownHeaders::default);
    let checked = head::check(&mut request, shown.as_mut());
    let mut attempts = Attempts::new(proxy, peer, sender, &request);
    attempts.begin_record(peer, shown, &mut request);
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
    /// The client as a writer, if it must read its own writes.
    writer: Option<Writer>,
    attempted: Attempted,
    /// The time at which the first attempt began, if retries have a time limit.
    began: Option<Instant>,
    /// Counts the request as in flight for its client.
    share: Option<DropGuard>,
    session: Session<'p>,
    /// The response to the last attempt that had one. It stays here while it is classified, because
    /// a future stores a value that moves between its steps twice.
    response: Response<Body>,
    /// The response that caused the retry, for the client if no other endpoint can be reached.
    kept: Option<Box<Response<Body>>>,
    /// The failure of the only node that has the session. The client gets it if the nodes that are
    /// attempted later do not know the session.
    session_failure: Option<ErrorResponse>,
    /// A copy of the request for the next attempt, if there may be one.
    kept_request: Option<KeptRequest>,
    /// Whether the kept request itself is sent.
    sends_kept: bool,
    /// The failures of earlier attempts, which wait until another attempt shows whether they count.
    pending_failures: PendingFailures,
    /// Whether the request was sent again to the same endpoint, on a fresh connection.
    reconnected: bool,
    /// The number of attempts that certainly reached no node, or reached a node on which Kylin does
    /// not run.
    unsent: usize,
    /// Whether a node may have executed the request in an earlier attempt. Set in a Kylin-aware
    /// proxy only.
    may_be_executed: bool,
    is_head: bool,
    /// Whether the client names no host, so that each node gets its own address in `Host`.
    names_no_host: bool,
    /// The reload call that the request makes, and the clients that may make it.
    reload: Option<(ReloadCall, ReloadAccess)>,
    /// The ticket of the request for the queues, once it has one.
    ticket: Option<Box<Ticket>>,
    /// The retry that was withdrawn from the budget for the next attempt.
    retry: Option<Box<Withdrawn<'p>>>,
    /// `None` if nothing observes the request.
    recorder: Option<Box<RequestRecorder>>,
    /// Whether the client refuses a copy of another query's response.
    wants_own_response: bool,
    /// The change that later queries must see, if the request is a write or a logout.
    change: Option<Box<PassingChange<'p, B>>>,
    /// Whether the request is a query that could be shared, and has credentials and no session.
    logs_in: bool,
    /// The key of single flight, if the request is a query that may share a response.
    flight: Option<Arc<FlightKey>>,
    /// The leadership of a flight, if other queries may wait for the response.
    leader: Option<Leader<'p, Execution<B>, FlightResult>>,
    #[cfg(feature = "cache")]
    cache_miss: Option<Box<cache::CacheMiss>>,
}

impl<'p, B: Backend> Attempts<'p, B> {
    fn new(proxy: &'p ProxyCore<B>, peer: ClientAddr, sender: Sender, request: &Request<Body>) -> Self {
        let settings = &proxy.settings;
        Attempts {
            recorder: None,
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
            session_failure: None,
            kept_request: None,
            sends_kept: false,
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
            logs_in: false,
            flight: None,
            leader: None,
            #[cfg(feature = "cache")]
            cache_miss: None,
        }
    }

    /// Sends the request until there is a response to return. The request is borrowed until it is
    /// sent, because a future that owns its arguments stores them twice.
    async fn run(&mut self, request: &mut Request<Body>) -> Result<(), ErrorResponse> {
        if let AfterEntry::Respond = self.prepare(request).await? {
            return Ok(());
        }
        // The failure, if any, of the execution that this query takes over from a leader whose
        // client has left.
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
            let failure = if let Err(failure) = self.begin_attempt(&picked, request) {
                Some(failure)
            } else if let Some(failure) = taken_over.take() {
                failure.map(AttemptFailure::of_request)
            } else if let PrepareOutcome::Failed(error) =
                self.session.prepare(&self.proxy.cluster, &picked, request).await
            {
                Some(self.login_failed(error, request))
            } else if self.leader.is_some() {
                let failure;
                (picked, failure) = self.execute(Some(self.execution(picked, request))).await?;
                failure.map(AttemptFailure::of_request)
            } else {
                self.send(&picked, request).await.map(AttemptFailure::of_request)
            };
            if let Some(failure) = failure {
                match Box::pin(self.after_failure(picked, failure)).await {
                    Ok(next) => (picked, *request) = next,
                    Err(error) => return self.fall_back(error),
                }
                continue;
            }
            let class = self.classify(&picked).await;
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
            match self.settle(&mut picked, class).await? {
                Some(copy) => {
                    *request = *copy;
                    self.response = Response::default();
                    self.note_retry(picked.lease.endpoint(), RetryReason::Login);
                }
                None => {
                    self.hold_response(picked);
                    return Ok(());
                }
            }
        }
    }
}
