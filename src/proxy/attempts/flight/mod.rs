//! Leads or follows a [single flight](crate::admission::flight).

mod stop;

use std::future::poll_fn;
use std::hash::Hasher;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};

use super::Attempts;
use super::kept::KeptRequest;
use super::response::{MAX_SHARED, read_whole};
use crate::admission::flight::{FlightKey, FlightRole, FlightTable, Follower, FollowerOutcome, ProjectSlot, QueryIds};
use crate::backend::{self, Backend, SendError};
use crate::body::Body;
use crate::buffer::GrowingBuffer;
use crate::cluster::Picked;
use crate::kylin::class::{RequestClass, Sql};
use crate::kylin::query::QueryRequest;
use crate::kylin::response::{NoResult, ResponseClass, read_result};
use crate::maybe_ready::BoxFuture;
use crate::observe::ServedBy;
use crate::proxy::ProxyCore;
use crate::proxy::error_response::{ErrorResponse, QUEUES_FULL, STOPPED, WAITED_TOO_LONG};
use crate::proxy::rules::QueryWatch;

/// The maximum length of a body that leads or follows, in bytes. Longer SQL is not analysed, so its
/// effect is unknown.
const MAX_BODY: usize = 128 * 1024;

/// The flights of a proxy.
pub(in crate::proxy) type QueryFlights<B> = FlightTable<Execution<B>, FlightResult>;

/// The execution of a query: the attempt at one node, until its response. It belongs to the flight,
/// so it can outlive the client that started it.
pub(in crate::proxy) type Execution<B> = Pin<Box<dyn Future<Output = Executed<B>> + Send>>;

pub(in crate::proxy) struct Executed<B> {
    picked: Picked<B>,
    sent: Result<Response<Body>, SendError>,
    /// Whether the response was copied for followers; `None` before it was read.
    is_copied: Option<bool>,
}

/// The endpoint of an attempt, with the failure if there is no response; or the response to a
/// client that stopped its query.
type AttemptResult<B> = Result<(Picked<B>, Option<SendError>), ErrorResponse>;

/// The result that all followers of a flight get.
#[derive(Clone)]
pub(in crate::proxy) enum FlightResult {
    Response(Arc<SharedResponse>),
    /// A response of the proxy itself. Its body names the URL of the request that gets it.
    Error(ErrorResponse),
}

pub(in crate::proxy) struct SharedResponse {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
    served_by: Option<ServedBy>,
}

/// The facts about a query that a flight needs. They depend on its body and the settings of the
/// proxy.
#[derive(Clone)]
pub(super) struct QueryContents {
    pub(super) project: Option<ProjectSlot>,
    hash: u64,
    ids: QueryIds,
    /// The name of the query's project, if the result may be cached.
    #[cfg(feature = "cache")]
    pub(super) cached_of: Option<Box<str>>,
}

impl QueryContents {
    pub(super) fn of<B>(
        proxy: &ProxyCore<B>,
        flights: &QueryFlights<B>,
        query: &QueryRequest<'_>,
        effect: Sql,
    ) -> Self {
        let project = Some(query.project()).filter(|project| !project.is_empty());
        let mut contents = QueryContents {
            project: project.map(ProjectSlot::of),
            hash: 0,
            ids: QueryIds::default(),
            #[cfg(feature = "cache")]
            cached_of: project.filter(|_| effect == Sql::ReadOnly && proxy.cache.is_some()).map(Into::into),
        };
        if effect == Sql::ReadOnly && proxy.settings.single_flight {
            let mut hasher = flights.hasher();
            query.hash_contents(&mut hasher);
            (contents.hash, contents.ids) = (hasher.finish(), flights.ids(query.ids()));
        }
        contents
    }
}

/// Returns whether the client wants a response of its own (RFC 9111, 5.2.1.4 and 5.4).
pub(super) fn wants_own_response(headers: &HeaderMap) -> bool {
    let directives = |name| {
        headers.get_all(name).iter().flat_map(|value: &HeaderValue| value.as_bytes().split(|byte| *byte == b','))
    };
    let mut all = directives(header::CACHE_CONTROL).chain(directives(header::PRAGMA));
    all.any(|directive| {
        let directive = directive.trim_ascii();
        directive.eq_ignore_ascii_case(b"no-cache") || directive.eq_ignore_ascii_case(b"no-store")
    })
}

/// The role of a query after it entered the table.
pub(super) enum AfterEntry {
    /// The query is sent, or it drives its execution.
    Send,
    /// The query has its response.
    Respond,
}

impl<'p, B: Backend> Attempts<'p, B> {
    /// Makes a query that may be shared lead or follow a flight. Returns the follower, if it
    /// follows.
    pub(super) fn enter_flight(
        &mut self,
        query: Option<QueryContents>,
        request: &mut Request<Body>,
    ) -> Option<BoxFuture<'_, Result<AfterEntry, ErrorResponse>>> {
        let flights = self.proxy.flights.as_ref()?;
        let is_shareable = self.context.class() == Some(RequestClass::Query(Sql::ReadOnly))
            && self.context.has_any_credentials()
            && !self.session.has_ended()
            && request.body().whole().is_some_and(|body| body.len() <= MAX_BODY);
        let query = query.filter(|_| is_shareable)?;
        #[cfg(feature = "cache")]
        if self.look_up(&query, request) {
            return Some(Box::pin(std::future::ready(Ok(AfterEntry::Respond))));
        }
        if !self.proxy.settings.single_flight || self.wants_own_response {
            return None;
        }
        self.logs_in = self.context.has_authorization() && !self.session.is_named(&self.context);
        if self.logs_in && flights.begins_sessions() {
            return None;
        }
        let (authorization, cookies) = (self.context.authorization(), self.context.cookie_header());
        let mut hasher = flights.hasher();
        hasher.write_u64(query.hash);
        for value in [authorization, cookies] {
            hasher.write(value.map_or(b"", HeaderValue::as_bytes));
        }
        hasher.write(self.context.path_session_id().unwrap_or_default());
        let epoch = flights.epochs.current(query.project.unwrap_or(ProjectSlot::of("")));
        let cookies = cookies.cloned();
        self.sends_kept = !self.is_changed_for_nodes();
        let of_key = if self.sends_kept { take(request) } else { backend::copy(request) };
        let key = FlightKey::new(hasher.finish(), epoch, query.ids, cookies, of_key);
        self.kept_request = Some(KeptRequest::OfFlight(Arc::clone(&key)));
        let entered = flights.enter(&key);
        self.flight = Some(key);
        match entered {
            FlightRole::Leader(leader) => self.leader = Some(leader),
            // Boxed, because it is rare.
            FlightRole::Follower(follower) => return Some(Box::pin(self.follow(follower))),
            FlightRole::Alone => {}
        }
        None
    }

    /// Waits for the leader.
    async fn follow(
        &mut self,
        follower: Follower<'p, Execution<B>, FlightResult>,
    ) -> Result<AfterEntry, ErrorResponse> {
        let outcome = follower.wait().await;
        #[cfg(feature = "cache")]
        if let FollowerOutcome::Leads(leader, _) = &outcome
            && leader.is_running()
        {
            self.takes_over_execution();
        }
        match outcome {
            FollowerOutcome::Leads(leader, Some(before)) => {
                self.leader = Some(leader);
                if let Some(ticket) = self.ticket.as_deref_mut() {
                    *ticket = ticket.in_place_of(before);
                }
            }
            FollowerOutcome::Leads(leader, None) => {
                self.leader = Some(leader);
                self.restart_wait();
            }
            FollowerOutcome::Released => self.restart_wait(),
            FollowerOutcome::Shared(FlightResult::Error(error)) => return Err(error),
            FollowerOutcome::Shared(FlightResult::Response(shared)) => {
                self.respond_with(&shared);
                return Ok(AfterEntry::Respond);
            }
            FollowerOutcome::Stopped => return Err(STOPPED),
        }
        Ok(AfterEntry::Send)
    }

    /// Responds with a copy of the response of the leader.
    fn respond_with(&mut self, shared: &SharedResponse) {
        self.response = shared.head.clone().map(|()| shared.body.clone().into());
        if let Some(share) = self.share.take() {
            self.response.body_mut().hold_guard(share);
        }
        if let Some(served_by) = &shared.served_by {
            if let Some(recorder) = &mut self.recorder {
                recorder.shared(&served_by.endpoint);
            }
            if self.shows_served_by() {
                self.response.extensions_mut().insert(served_by.clone());
            }
        }
    }

    /// Sends the request as the execution of the flight that it leads, or drives the execution that
    /// it took over. Keeps the response, or returns the failure.
    ///
    /// # Errors
    /// [`STOPPED`] if the client has stopped it.
    pub(super) async fn execute(&mut self, execution: Option<Execution<B>>) -> AttemptResult<B> {
        if let (Some(leader), Some(execution)) = (&mut self.leader, execution) {
            match &self.flight {
                Some(query) => leader.start(execution, query),
                None => leader.resume(execution),
            }
        }
        let (picked, failure) = poll_fn(|cx| self.poll_execution(cx)).await?;
        if failure.is_some() {
            return Ok((picked, failure));
        }
        self.leader.take_if(|leader| leader.end_if_alone());
        if self.response.status() == StatusCode::OK && self.gives_cookie() {
            self.note_login();
            if let Some(leader) = self.leader.take() {
                leader.release();
            }
        }
        match self.leader {
            None => Ok((picked, None)),
            // Boxed, because it is rare.
            Some(_) => Box::pin(self.copy_response(picked)).await,
        }
    }

    fn poll_execution(&mut self, cx: &mut Context<'_>) -> Poll<AttemptResult<B>> {
        let executed = match &mut self.leader {
            Some(leader) => ready!(leader.poll(cx)),
            None => None,
        };
        let Some(Executed { picked, sent, is_copied }) = executed else {
            // Another client takes the execution over.
            self.leader = None;
            return Poll::Ready(Err(STOPPED));
        };
        if is_copied == Some(false)
            && let Some(leader) = self.leader.take()
        {
            leader.release();
        }
        Poll::Ready(Ok((picked, self.keep_response(sent))))
    }

    /// Reads the response for the followers. If it cannot be copied, the followers are sent to
    /// nodes.
    async fn copy_response(&mut self, picked: Picked<B>) -> AttemptResult<B> {
        let reservation = self.proxy.settings.buffers.reservation(self.context.client().key());
        let response = take(&mut self.response);
        if let Some(leader) = &mut self.leader {
            leader.resume(Box::pin(copy(picked, response, GrowingBuffer::new(reservation, MAX_SHARED))));
        }
        poll_fn(|cx| self.poll_execution(cx)).await
    }

    /// Records whether the nodes begin a session for each query that has credentials and no
    /// session.
    fn note_login(&self) {
        if let Some(flights) = self.proxy.flights.as_ref().filter(|_| self.logs_in)
            && self.response.status() == StatusCode::OK
        {
            flights.set_begins_sessions(self.gives_cookie());
        }
    }

    /// Returns whether the client gets a cookie with the response, which belongs to this client.
    pub(super) fn gives_cookie(&self) -> bool {
        self.response.headers().contains_key(header::SET_COOKIE) && self.session.gives_cookie(self.response.headers())
    }

    /// Returns a copy of the response; `None` if it is a stream, or gives the client a cookie.
    pub(super) fn share(&self, served_by: Option<ServedBy>) -> Option<SharedResponse> {
        let body = self.response.body().whole()?.clone();
        if self.gives_cookie() {
            return None;
        }
        let mut head = Response::new(());
        (*head.status_mut(), *head.headers_mut()) = (self.response.status(), self.response.headers().clone());
        self.session.hide_cookies(head.headers_mut());
        // No strategy may pass on a cookie that it does not hide.
        let has_cookie = head.headers().contains_key(header::SET_COOKIE);
        (!has_cookie).then_some(SharedResponse { head, body, served_by })
    }

    /// Gives the followers the response if it is a result. If it cannot be copied, the followers
    /// are sent to nodes.
    pub(super) fn share_result(&mut self, class: Option<ResponseClass>, picked: &Picked<B>) {
        #[cfg(feature = "cache")]
        let result = self.store_result(class, picked);
        #[cfg(not(feature = "cache"))]
        let result = None;
        self.note_login();
        let Some(leader) = self.leader.take() else { return };
        let served_by = Some(self.served_by(picked).shared());
        let Some(shared) = self.share(served_by) else { return leader.release() };
        if self.response.status() != StatusCode::OK || class != Some(ResponseClass::Final) {
            self.leader = Some(leader);
            return;
        }
        match result.unwrap_or_else(|| read_result(shared.head.headers(), &shared.body)) {
            Ok(_) => leader.share(FlightResult::Response(Arc::new(shared))),
            Err(NoResult::Failed) => self.leader = Some(leader),
            Err(NoResult::Unreadable) => leader.release(),
        }
    }

    /// Ends the flight of a leader without a result.
    pub(super) fn fail_flight(&mut self, error: Option<ErrorResponse>) {
        let Some(leader) = self.leader.take() else { return };
        let shared = match error {
            Some(error) => Some(FlightResult::Error(error)),
            None => {
                let served_by =
                    self.response.extensions().get::<ServedBy>().map(|served_by| served_by.clone().shared());
                self.share(served_by).map(|shared| FlightResult::Response(Arc::new(shared)))
            }
        };
        let is_unsent = self.attempted.is_empty();
        match error {
            // The followers arrived later, so each of them may wait for longer. They lead one after
            // the other, and each of them at most once.
            Some(WAITED_TOO_LONG) if is_unsent => drop(leader),
            Some(QUEUES_FULL) if is_unsent => leader.refuse(shared),
            _ => leader.fail(shared),
        }
    }
}

/// Returns the execution that sends `request`.
pub(super) fn execution<B: Backend>(
    picked: Picked<B>,
    watch: Option<QueryWatch>,
    request: Request<Body>,
) -> Execution<B> {
    Box::pin(async move {
        let sent = picked.backend().send(request).await;
        if let Some(watch) = watch {
            watch.end(&sent);
        }
        Executed { picked, sent, is_copied: None }
    })
}

/// Returns the execution that sends the request of the flight.
pub(super) fn execution_of_flight<B: Backend>(picked: Picked<B>, key: Arc<FlightKey>) -> Execution<B> {
    Box::pin(async move {
        let sent = picked.backend().send_copy(key.request()).await;
        Executed { picked, sent, is_copied: None }
    })
}

/// Reads the body of a response into memory of the budget. A body that is too long, or for which
/// the budget has no memory, stays unchanged.
async fn copy<B>(picked: Picked<B>, mut response: Response<Body>, read: GrowingBuffer) -> Executed<B> {
    let is_copied = read_whole(&mut response, read).await;
    Executed { picked, sent: Ok(response), is_copied: Some(is_copied) }
}
