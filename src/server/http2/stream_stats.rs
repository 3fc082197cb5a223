//! Counts the streams of a connection, to tell whether it is idle and whether its client has
//! stalled. Also reads responses ahead of a slow client.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use parking_lot::Mutex;

use super::SEND_BUFFER;
use super::heads::{self, HeadAccount};
use super::sending::{Account, Sending};
use crate::body::{Body, BodyError, OnEnd, Spool};
use crate::buffer::Reservation;
use crate::client_key::ClientKey;
use crate::proxy::ErrorResponse;
use crate::server::limits::Limits;

pub(super) struct StreamStats {
    requests: AtomicUsize,
    /// The number of requests without a complete response, plus that of request bodies that are
    /// still being read.
    in_flight: AtomicUsize,
    /// Whether a request body was not read to its end.
    has_unread: AtomicBool,
    /// Whether a response asks its client to use another connection.
    is_closing: AtomicBool,
    /// The responses in flight. Each makes its own progress: some may stall while others advance.
    responses: Mutex<Vec<Weak<StreamedResponse>>>,
    /// The bytes that hyper holds of all responses until the client accepts them.
    sending: Arc<Sending>,
    /// The heads of the requests in flight.
    heads: HeadAccount,
}

impl StreamStats {
    /// Creates the counters. `heads` is the reservation for the heads of requests.
    pub(super) fn new(heads: Reservation) -> Self {
        StreamStats {
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            has_unread: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            responses: Mutex::default(),
            sending: Arc::default(),
            heads: HeadAccount::new(heads),
        }
    }

    /// Returns the number of requests that have arrived.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns whether no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Returns whether the client may be sending bytes that are not read.
    pub(super) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Returns whether the connection closes after the requests in flight.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    pub(super) fn start_request(self: &Arc<Self>, body: Body) -> (Body, InFlightGuard) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlightGuard { stats: Arc::clone(self), head: 0, window: None };
        if body.is_empty() {
            return (body, in_flight);
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        (body.on_end(Arc::clone(self) as Arc<dyn OnEnd>), in_flight)
    }

    /// Returns whether the client has stalled: it accepted nothing of a response since the last
    /// call, although more was available.
    pub(super) fn has_stalled(&self) -> bool {
        let mut stalled = false;
        self.responses.lock().retain(|response| match response.upgrade() {
            Some(response) => {
                stalled |= response.has_stalled();
                true
            }
            None => false,
        });
        stalled
    }

    fn start_response(&self, body: Body, client: Option<ClientKey>, limits: &Limits) -> Arc<StreamedResponse> {
        let ahead = body.ahead_limit();
        let spool = ahead.map(|ahead| limits.spool(ahead));
        let client = ahead.map_or(client, |ahead| ahead.client);
        let account =
            Account { sending: Arc::clone(&self.sending), budget: limits.buffers.clone(), client, retry_timer: None };
        let response = Arc::new(StreamedResponse {
            source: Mutex::new(Source { body, spool, unsent: None, account }),
            polls: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            waits_for_node: AtomicBool::new(false),
        });
        let mut responses = self.responses.lock();
        if responses.len() == responses.capacity() {
            responses.retain(|response| response.strong_count() > 0);
        }
        responses.push(Arc::downgrade(&response));
        response
    }
}

impl OnEnd for StreamStats {
    fn on_end(self: Arc<Self>, whole: bool) {
        if !whole {
            self.has_unread.store(true, Ordering::Relaxed);
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request as in flight until its response is complete or cancelled.
pub(super) struct InFlightGuard {
    stats: Arc<StreamStats>,
    /// The bytes of the head.
    head: usize,
    /// The reservation for the bytes of the request body that hyper holds.
    window: Option<Reservation>,
}

impl InFlightGuard {
    /// Returns the request, or the reason why it is refused. Its head stays reserved until the
    /// request is no longer in flight.
    pub(super) fn admit(
        &mut self,
        request: Request<Body>,
        limits: &Limits,
        peer: Option<SocketAddr>,
    ) -> Result<Request<Body>, ErrorResponse> {
        self.head = heads::admit(&request, limits, &self.stats.heads, peer)?;
        Ok(request)
    }

    /// Keeps a reservation until the request is no longer in flight.
    pub(super) fn hold(&mut self, window: Reservation) {
        self.window = Some(window);
    }

    /// Closes the connection after the requests in flight.
    pub(super) fn close_connection(&self) {
        self.stats.is_closing.store(true, Ordering::Relaxed);
    }

    /// Returns the response in the form that hyper takes. Its bytes count for `client`, unless the
    /// response names another client.
    pub(super) fn track(
        self,
        response: Response<Body>,
        client: Option<ClientKey>,
        limits: &Limits,
    ) -> Response<ResponseBody> {
        let (head, body) = response.into_parts();
        let response = self.stats.start_response(body, client, limits);
        BEGUN.set(Some(Arc::downgrade(&response)));
        Response::from_parts(head, ResponseBody { response, _in_flight: self })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.stats.heads.release(self.head);
        self.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response from which hyper takes the body.
struct StreamedResponse {
    /// The body. Its lock is never contended, because the same task takes the body and reads it
    /// ahead.
    source: Mutex<Source>,
    /// The number of times that hyper has polled the body.
    polls: AtomicUsize,
    /// One more than `polls` at the last check; 0 before the first.
    checked: AtomicUsize,
    /// Whether the client waits for the node.
    waits_for_node: AtomicBool,
}

struct Source {
    body: Body,
    /// The part that was read ahead; `None` where the body is not read ahead.
    spool: Option<Spool>,
    /// The next data, which must wait until hyper may hold it.
    unsent: Option<Bytes>,
    account: Account,
}

/// A frame, and whether its bytes are reserved.
type Next = (Frame<Bytes>, bool);

impl Source {
    /// Returns the next frame.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Next, BodyError>>> {
        let Source { body, spool, unsent, .. } = self;
        if let Some(data) = unsent.take() {
            return Poll::Ready(Some(Ok((Frame::data(data), false))));
        }
        match spool.as_mut().and_then(Spool::next) {
            Some(ahead) => Poll::Ready(ahead.map(|data| data.map(|(data, reserved)| (Frame::data(data), reserved)))),
            None => Pin::new(body).poll_frame(cx).map_ok(|frame| (frame, false)),
        }
    }
}

impl StreamedResponse {
    fn has_stalled(&self) -> bool {
        let polls = self.polls.load(Ordering::Relaxed) + 1;
        self.checked.swap(polls, Ordering::Relaxed) == polls && !self.waits_for_node.load(Ordering::Relaxed)
    }

    /// Reads ahead while hyper takes nothing, because the client accepts nothing.
    fn read_ahead(&self, cx: &mut Context<'_>) {
        if self.waits_for_node.load(Ordering::Relaxed) {
            return;
        }
        let Source { body, spool, .. } = &mut *self.source.lock();
        if let Some(spool) = spool {
            spool.fill(body, cx);
        }
    }
}

thread_local! {
    /// The response that has begun in the current task.
    static BEGUN: Cell<Option<Weak<StreamedResponse>>> = const { Cell::new(None) };
}

/// Runs the streams of connections. While a client accepts nothing, hyper takes nothing of its
/// response, so the task of the stream reads the response ahead.
#[derive(Clone)]
pub(super) struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let mut response: Option<Weak<StreamedResponse>> = None;
            poll_fn(|cx| {
                let polled = stream.as_mut().poll(cx);
                if let Some(begun) = BEGUN.take() {
                    response = Some(begun);
                }
                if polled.is_pending()
                    && let Some(response) = response.as_ref().and_then(Weak::upgrade)
                {
                    response.read_ahead(cx);
                }
                polled
            })
            .await
        });
    }
}

/// The body of a response. hyper drops it when all of it is encoded.
pub(super) struct ResponseBody {
    response: Arc<StreamedResponse>,
    _in_flight: InFlightGuard,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let StreamedResponse { source, polls, waits_for_node, .. } = &*self.response;
        let source = &mut *source.lock();
        let next = source.next(cx);
        waits_for_node.store(next.is_pending(), Ordering::Relaxed);
        let (frame, is_reserved) = match ready!(next) {
            Some(Ok(next)) => next,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        let mut data = match frame.into_data() {
            Ok(data) if !is_reserved => data,
            Ok(data) => {
                polls.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let piece = data.len().min(SEND_BUFFER);
        let Some(sent) = source.account.reserve(piece, cx) else {
            source.unsent = Some(data);
            return Poll::Pending;
        };
        polls.fetch_add(1, Ordering::Relaxed);
        let piece = data.split_to(piece);
        source.unsent = Some(data).filter(|rest| !rest.is_empty());
        Poll::Ready(Some(Ok(Frame::data(sent.hold(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        let Source { body, spool, unsent, .. } = &*self.response.source.lock();
        unsent.is_none() && spool.as_ref().is_none_or(Spool::is_empty) && body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Source { body, spool, unsent, .. } = &*self.response.source.lock();
        match spool {
            // Some of the body may already have been read.
            _ if unsent.is_some() => SizeHint::default(),
            Some(spool) if !spool.is_empty() => SizeHint::default(),
            _ => body.size_hint(),
        }
    }
}
