//! The journey of one request.

use std::error::Error as _;
use std::mem::take;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, Version};

use super::budget::RetryAccount;
use super::edits::HeaderEdits;
use super::error_response::{ErrorContext, ErrorResponse};
use super::fan_out::fan_out;
use super::headers::{Found, join_cookies, remove_hop_by_hop, set_forwarded};
use super::kylin_request::{Classified, Visit};
use super::peek::peek;
use super::session::Session;
use super::{Inner, head, upload};
use crate::backend::{Backend, SendError, SendErrorKind};
use crate::balance::Attempted;
use crate::body::Body;
use crate::cluster::Picked;
use crate::endpoint::{EndpointId, Outcome};
use crate::kylin::retry::RetryDecision;
use crate::request::{ClientAddr, RequestView};
use crate::session::hook::{AfterResponse, EndpointHint, Prepared};

/// Everything that needs no waiting happens at once; what the future holds is kept small, because servers move futures
/// about.
pub(super) fn forward<B: Backend>(
    proxy: &Inner<B>,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    let checked = head::check(&mut request);
    let place = ErrorContext::of(&request);
    let client = checked.map(|found| make_ready(proxy, peer, &mut request, found, &place));
    async move {
        let client = match client {
            Ok(client) => client,
            Err(refusal) => return refusal.answer(&place),
        };
        let mut journey = Attempts::new(proxy, client);
        match journey.run(&mut request).await {
            Ok(()) => {
                journey.strip();
                journey.answer
            }
            Err(refusal) => refusal.answer(&place),
        }
    }
}

/// Makes the head what the node is to see, after it was checked. Returns who the client is.
fn make_ready<B>(
    proxy: &Inner<B>,
    peer: ClientAddr,
    request: &mut Request<Body>,
    found: Found,
    place: &ErrorContext,
) -> ClientAddr {
    let settings = &proxy.settings;
    let edits = request.extensions_mut().remove::<HeaderEdits>();
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let client = settings.trusted.client(peer, headers);
    // First what belongs to the client's connection goes, then what we add comes: never the other way round.
    remove_hop_by_hop(headers, found);
    join_cookies(headers, found);
    if settings.forwarded_headers {
        set_forwarded(headers, found, peer, settings.trusted.trusts(peer), settings.secure, place.host());
    }
    if let Some(edits) = edits {
        edits.apply(headers);
    }
    client
}

/// The tries of one request.
struct Attempts<'p, B> {
    proxy: &'p Inner<B>,
    client: ClientAddr,
    tried: Attempted,
    /// When the first try began, if retries are limited in time.
    begun: Option<Instant>,
    session: Session<'p>,
    /// What Kylin has to do with it, where the proxy is told to know.
    visit: Option<Visit<'p>>,
    /// The answer to the last try that had one. It stays here while it is looked at: a future keeps what it hands about twice.
    answer: Response<Body>,
    /// The beginning of the answer's body, where it had to be looked at.
    seen: Option<Bytes>,
    /// The head and body for another try after this one was sent, if there may be one.
    copy: Option<Box<Request<Body>>>,
    /// Was an endpoint tried again on a fresh connection?
    refreshed: bool,
}

impl<'p, B: Backend> Attempts<'p, B> {
    fn new(proxy: &'p Inner<B>, client: ClientAddr) -> Self {
        let begun = proxy.settings.retry.max_elapsed.map(|_| proxy.settings.clock.now());
        let session = Session::new(proxy.settings.affinity.as_ref());
        Attempts {
            proxy,
            client,
            tried: Attempted::none(),
            begun,
            session,
            visit: None,
            answer: Response::new(Body::empty()),
            seen: None,
            copy: None,
            refreshed: false,
        }
    }

    /// The request stays where it is until it is sent: a future that owns what it is given keeps it twice.
    async fn run(&mut self, request: &mut Request<Body>) -> Result<(), ErrorResponse> {
        if let Some(rules) = &self.proxy.rules {
            self.visit = Some(Visit::enter(rules, self.client, request)?);
        }
        if let Some(budget) = &self.proxy.budget {
            budget.deposit();
        }
        upload::check(request.body(), &self.proxy.settings)?;
        if request.body().whole().is_none() {
            let body = take(request.body_mut());
            // Boxed, for what fits into one read has come with its head.
            *request.body_mut() = Box::pin(upload::read(body, &self.proxy.settings)).await?;
        }
        if let Some(visit) = &mut self.visit {
            visit.read_sql(request);
        }
        self.session.begin(request).await;
        if let Some(merge) = self.visit.as_ref().and_then(Visit::merge) {
            let all = fan_out(&self.proxy.cluster, self.client, &mut self.session, merge, take(request));
            self.answer = Box::pin(all).await?;
            return Ok(());
        }
        let mut picked = self.pick(request).ok_or(ErrorResponse::unavailable(self.proxy.settings.unavailable))?;
        loop {
            self.tried.add(&picked.lease);
            self.copy = self.keep_copy(request);
            let failure = match self.session.prepare(&self.proxy.cluster, &picked, request).await {
                Prepared::Send => {
                    let watch = self.visit.as_ref().and_then(|visit| visit.watch(&picked, request));
                    let sent = picked.backend().send(take(request)).await;
                    if let Some(watch) = watch.filter(|_| !is_abandoned(&sent)) {
                        watch.disarm();
                    }
                    self.keep_answer(sent)
                }
                Prepared::Failed(error) => Some(error.with_request(take(request))),
            };
            if let Some(error) = failure {
                (picked, *request) = self.after_failure(picked, error)?;
                continue;
            }
            if let Some(most) = self.must_see() {
                // Boxed, because it is rare.
                Box::pin(self.look(most)).await;
            }
            match self.judge(picked) {
                Verdict::Again(next, copy) => {
                    (picked, *request) = (next, *copy);
                    // The connection that it came on is not kept through the next try.
                    self.answer = Response::default();
                    continue;
                }
                Verdict::Answer(same) => picked = same,
            }
            match self.settle(&picked).await {
                Some(copy) => {
                    *request = *copy;
                    self.answer = Response::default();
                }
                None => {
                    self.pass(picked);
                    return Ok(());
                }
            }
        }
    }

    /// Keeps the answer; what is in the way of one comes back.
    fn keep_answer(&mut self, sent: Result<Response<Body>, SendError>) -> Option<SendError> {
        match sent {
            Ok(answer) => {
                self.answer = answer;
                None
            }
            Err(error) => Some(error),
        }
    }

    /// How much of the answer's body has to be seen before it can be judged.
    fn must_see(&self) -> Option<usize> {
        self.visit.as_ref()?.must_see(&self.answer)
    }

    /// Looks at the beginning of the answer.
    async fn look(&mut self, most: usize) {
        let (seen, answer) = peek(take(&mut self.answer), most).await;
        self.answer = answer;
        self.seen = Some(seen);
    }

    /// Lets the session learn from an answer that is to be passed on. Returns the request when it is to be sent once more.
    async fn settle(&mut self, picked: &Picked<B>) -> Option<Box<Request<Body>>> {
        let then = self.session.settle(&self.proxy.cluster, picked, &mut self.answer).await;
        if then == AfterResponse::SendAgain { self.copy.take() } else { None }
    }

    fn pick(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let view = RequestView::of(request, self.client);
        let cluster = &self.proxy.cluster;
        let Some(visit) = &self.visit else { return self.session.pick(cluster, &view, &self.tried).ok() };
        let (role, or_any) = visit.role();
        let view = match visit.keys() {
            Some(keys) => view.with_query(keys),
            None => view,
        };
        let mut pick = |view: RequestView<'_>| match visit.pinned() {
            // A session that is bound is where it has written.
            Some(id) if !self.session.is_bound() => cluster.pick_bound(&view, &self.tried, id.as_str()).ok(),
            _ => self.session.pick(cluster, &view, &self.tried).ok(),
        };
        pick(view.needs(role)).or_else(|| if or_any { pick(view.needs(None)) } else { None })
    }

    /// Another endpoint for `request`, when the limits of retries leave room for one.
    fn pick_again(&mut self, request: &Request<Body>) -> Option<Picked<B>> {
        let settings = &self.proxy.settings;
        let retry = &settings.retry;
        let in_time = match (retry.max_elapsed, self.begun) {
            (Some(limit), Some(begun)) => settings.clock.now().saturating_duration_since(begun) < limit,
            _ => true,
        };
        let tries_left = retry.max_attempts.is_none_or(|most| self.tried.len() < most.get() as usize);
        if in_time && tries_left { self.pick(request) } else { None }
    }

    /// A copy for a try after this one, when one would be allowed although this one was sent, or may be asked for by the
    /// session.
    fn keep_copy(&mut self, request: &Request<Body>) -> Option<Box<Request<Body>>> {
        let retry = &self.proxy.settings.retry;
        let repeats = match &self.visit {
            Some(visit) => visit.wants_copy(),
            None => retry.is_repeatable(request.method()),
        };
        let wanted = (repeats && !retry.is_off()) || self.session.wants_copy();
        if wanted { upload::copy(request).map(Box::new) } else { None }
    }

    /// May the request be sent again after it failed in `phase` at `endpoint`?
    fn may_repeat(&self, phase: SendErrorKind, endpoint: &EndpointId, method: &http::Method) -> bool {
        let retry = &self.proxy.settings.retry;
        retry.covers(phase)
            && match &self.visit {
                Some(visit) => {
                    let is_out = phase == SendErrorKind::HeadTimeout
                        && self.proxy.cluster.is_out(&EndpointHint::Id(endpoint.clone()));
                    visit.goes_on_after(phase, is_out)
                }
                None => phase.is_unsent() || retry.is_repeatable(method),
            }
    }

    /// Does the budget of retries have room for one more try after one that failed in `phase`? Asked last, when there is an
    /// endpoint to go to.
    fn can_afford(&self, phase: SendErrorKind) -> bool {
        phase.is_unsent() || self.withdraw()
    }

    /// Takes a retry from the budget, if there is one. Returns false when it is used up.
    fn withdraw(&self) -> bool {
        self.proxy.budget.as_ref().is_none_or(RetryAccount::withdraw)
    }

    /// Judges the answer, of which the beginning was seen where that decides.
    fn judge(&mut self, mut picked: Picked<B>) -> Verdict<B> {
        let Some(visit) = &self.visit else { return self.judge_status(picked) };
        let Classified { outcome, next, costs } = visit.judge(&self.answer, self.seen.take());
        picked.lease.set_outcome(outcome);
        let goes_on = match next {
            RetryDecision::OtherEndpoint => true,
            // Who keeps sessions by sending requests again sees to this itself.
            RetryDecision::SessionOwner => !self.session.wants_copy() && !self.session.is_bound_to(&picked),
            RetryDecision::Return => false,
        };
        if goes_on
            && !self.proxy.settings.retry.is_off()
            && let Some(copy) = self.copy.take()
        {
            if let Some(again) = self.pick_again(&copy)
                && (!costs || self.withdraw())
            {
                tracing::debug!(endpoint = %picked.lease.endpoint(), "trying another endpoint");
                return Verdict::Again(again, copy);
            }
            self.copy = Some(copy);
        }
        if let Some(visit) = &self.visit {
            visit.settle(picked.lease.endpoint(), &self.answer);
        }
        Verdict::Answer(picked)
    }

    /// Judges the answer by its status alone, as nginx does.
    fn judge_status(&mut self, mut picked: Picked<B>) -> Verdict<B> {
        let retry = &self.proxy.settings.retry;
        let status = self.answer.status();
        picked.lease.set_outcome(Outcome::Success);
        if retry.covers_status(status)
            && let Some(copy) = self.copy.take_if(|copy| retry.is_repeatable(copy.method()))
            && let Some(next) = self.pick_again(&copy)
            && self.withdraw()
        {
            // Only an answer that is given up counts against its endpoint, as in nginx (ngx_http_upstream_test_next). An
            // answer that is passed on is one: Kylin says 500 to every SQL error.
            if retry.is_failure(status) {
                picked.lease.set_outcome(Outcome::Failure);
            }
            tracing::debug!(endpoint = %picked.lease.endpoint(), status = status.as_u16(), "trying another endpoint");
            return Verdict::Again(next, copy);
        }
        Verdict::Answer(picked)
    }

    /// Makes the answer the one that the client gets: what counts the request in flight rides inside.
    fn pass(&mut self, picked: Picked<B>) {
        self.answer.body_mut().hold(picked.lease, self.session.take_in_use());
    }

    /// Takes out of the answer what belongs to the node's connection.
    fn strip(&mut self) {
        let found = Found::of(self.answer.headers());
        remove_hop_by_hop(self.answer.headers_mut(), found);
        *self.answer.version_mut() = Version::HTTP_11;
    }

    /// Where to go on when no answer came.
    fn after_failure(
        &mut self,
        mut picked: Picked<B>,
        mut error: SendError,
    ) -> Result<(Picked<B>, Request<Body>), ErrorResponse> {
        let phase = error.kind();
        tracing::debug!(endpoint = %picked.lease.endpoint(), %error, source = error.source(), "no answer");
        let unsent = error.take_request().filter(|_| phase.is_unsent());
        let request = unsent.or_else(|| self.copy.take().map(|copy| *copy));
        let request = request.filter(|request| self.may_repeat(phase, picked.lease.endpoint(), request.method()));
        let request = match request {
            Some(request) if phase == SendErrorKind::Stale && !self.refreshed && self.can_afford(phase) => {
                self.refreshed = true;
                return Ok((picked, request));
            }
            request => request,
        };
        picked.lease.set_outcome(match phase {
            // Whoever knows Kylin knows that a query may take minutes.
            SendErrorKind::HeadTimeout if self.visit.is_some() => Outcome::Slow,
            phase if phase.blames_node() => Outcome::Failure,
            _ => Outcome::Unknown,
        });
        // The slot is free, and the failure counted, before the next pick.
        drop(picked);
        if let Some(request) = request
            && let Some(next) = self.pick_again(&request)
            && self.can_afford(phase)
        {
            return Ok((next, request));
        }
        Err(match (phase, error.source()) {
            (SendErrorKind::RequestBody, Some(cause)) => upload::refusal(cause),
            _ => ErrorResponse::of_failure(phase, self.proxy.settings.unavailable),
        })
    }
}

/// Does the node work on a request of which nobody waits for the answer any more?
fn is_abandoned(sent: &Result<Response<Body>, SendError>) -> bool {
    matches!(sent, Err(error) if error.kind() == SendErrorKind::HeadTimeout)
}

enum Verdict<B> {
    /// Pass the answer on.
    Answer(Picked<B>),
    Again(Picked<B>, Box<Request<Body>>),
}
