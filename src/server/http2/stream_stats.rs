//! Counts what the streams of a connection do, to tell whether the connection is idle and whether
//! its client has stalled.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BodyError, OnEnd};

#[derive(Debug, Default)]
pub(super) struct StreamStats {
    requests: AtomicUsize,
    /// Requests without a complete response, plus request bodies that are still being read.
    in_flight: AtomicUsize,
    /// A request body was not read to its end.
    has_unread: AtomicBool,
    /// The responses in flight. Each has its own progress: some may stall while others advance.
    responses: Mutex<Vec<Weak<WriteProgress>>>,
}

impl StreamStats {
    /// Returns how many requests have arrived.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns true if no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Returns true if the client may be sending bytes that are not read.
    pub(super) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    pub(super) fn start_request(self: &Arc<Self>, body: Body) -> (Body, InFlightGuard) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlightGuard(Arc::clone(self));
        if body.is_empty() {
            return (body, in_flight);
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        (body.on_end(Arc::clone(self) as Arc<dyn OnEnd>), in_flight)
    }

    /// Returns true if the client has accepted nothing of some response since the last call, though
    /// more of it is available.
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

    fn start_response(&self) -> Arc<WriteProgress> {
        let progress = Arc::new(WriteProgress::default());
        let mut responses = self.responses.lock();
        if responses.len() == responses.capacity() {
            responses.retain(|response| response.strong_count() > 0);
        }
        responses.push(Arc::downgrade(&progress));
        progress
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
pub(super) struct InFlightGuard(Arc<StreamStats>);

impl InFlightGuard {
    pub(super) fn track(self, response: Response<Body>) -> Response<ResponseBody> {
        let progress = self.0.start_response();
        response.map(|body| ResponseBody { body, progress, _in_flight: self })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The progress of one response.
#[derive(Debug, Default)]
struct WriteProgress {
    /// How often hyper has polled the body.
    polls: AtomicUsize,
    /// One more than `polls` at the last check; 0 before the first.
    checked: AtomicUsize,
    /// The node keeps the client waiting.
    waits_for_node: AtomicBool,
}

impl WriteProgress {
    fn has_stalled(&self) -> bool {
        let polls = self.polls.load(Ordering::Relaxed) + 1;
        self.checked.swap(polls, Ordering::Relaxed) == polls && !self.waits_for_node.load(Ordering::Relaxed)
    }
}

/// The body of a response. hyper drops it when all of it is encoded.
pub(super) struct ResponseBody {
    body: Body,
    progress: Arc<WriteProgress>,
    _in_flight: InFlightGuard,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.polls.fetch_add(1, Ordering::Relaxed);
        self.progress.waits_for_node.store(frame.is_pending(), Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
