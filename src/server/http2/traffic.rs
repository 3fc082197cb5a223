//! What passes over a connection, as far as it matters for whether the connection idles or its client takes nothing.

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
pub(super) struct Traffic {
    requests: AtomicUsize,
    /// Requests without a complete answer, and bodies of requests that are still being read.
    open: AtomicUsize,
    /// The body of a request was not read to its end.
    unread: AtomicBool,
    /// The answers under way. Each is watched by itself: some may stand still while others go on.
    deliveries: Mutex<Vec<Weak<Delivery>>>,
}

impl Traffic {
    /// How many requests have come.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// No request is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// The client may still be sending what nobody will read.
    pub(super) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Notes a request.
    pub(super) fn request(self: &Arc<Self>, body: Body) -> (Body, Open) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(self));
        if body.is_empty() {
            return (body, open);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        (body.on_end(Arc::clone(self) as Arc<dyn OnEnd>), open)
    }

    /// True when the client has taken nothing of some answer since this was asked before, though there is more of it.
    pub(super) fn has_stalled(&self) -> bool {
        let mut stalled = false;
        self.deliveries.lock().retain(|delivery| match delivery.upgrade() {
            Some(delivery) => {
                stalled |= delivery.stands_still();
                true
            }
            None => false,
        });
        stalled
    }

    fn deliver(&self) -> Arc<Delivery> {
        let delivery = Arc::new(Delivery::new());
        let mut deliveries = self.deliveries.lock();
        if deliveries.len() == deliveries.capacity() {
            deliveries.retain(|delivery| delivery.strong_count() > 0);
        }
        deliveries.push(Arc::downgrade(&delivery));
        delivery
    }
}

impl OnEnd for Traffic {
    fn on_end(self: Arc<Self>, whole: bool) {
        if !whole {
            self.unread.store(true, Ordering::Relaxed);
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request under way, until its answer is complete or given up.
pub(super) struct Open(Arc<Traffic>);

impl Open {
    pub(super) fn answer(self, answer: Response<Body>) -> Response<Answer> {
        let delivery = self.0.deliver();
        answer.map(|body| Answer { body, delivery, _open: self })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How an answer gets on.
#[derive(Debug)]
struct Delivery {
    /// How often more of it was asked for.
    asked: AtomicUsize,
    seen: AtomicUsize,
    /// It is the node that keeps the client waiting.
    node_waits: AtomicBool,
}

impl Delivery {
    fn new() -> Self {
        Delivery { asked: AtomicUsize::new(0), seen: AtomicUsize::new(usize::MAX), node_waits: AtomicBool::new(false) }
    }

    fn stands_still(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        self.seen.swap(asked, Ordering::Relaxed) == asked && !self.node_waits.load(Ordering::Relaxed)
    }
}

/// The body of an answer. hyper drops it when all of it is encoded.
pub(super) struct Answer {
    body: Body,
    delivery: Arc<Delivery>,
    _open: Open,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.delivery.asked.fetch_add(1, Ordering::Relaxed);
        self.delivery.node_waits.store(frame.is_pending(), Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
