//! The body of a request that is still arriving, between the connection that reads it and the
//! handler that consumes it.
//!
//! The connection reads only as much as the handler requests, so that a slow handler slows the
//! client down. The two sides may live in different tasks, and either may be dropped first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BodyError};

/// The connection's side of a body.
#[derive(Debug)]
pub(super) struct BodySender(Arc<Mutex<Channel>>);

#[derive(Debug, Default)]
struct Channel {
    /// The data that was read and not yet consumed.
    data: Option<Result<Bytes, BodyError>>,
    /// Whether nothing follows the data.
    is_end: bool,
    /// The number of bytes that are still to be consumed, if known.
    remaining: Option<u64>,
    /// Whether the handler waits for data.
    wanted: bool,
    /// Whether the handler has dropped the body.
    dropped: bool,
    reader: Option<Waker>,
    connection: Option<Waker>,
}

/// Whether the handler needs more of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyDemand {
    Now,
    /// Not now. The connection is woken when the handler needs more.
    Later,
    Never,
}

impl BodySender {
    /// Creates a body of `length` bytes; the length may be unknown.
    pub(super) fn new(length: Option<u64>) -> (Self, Body) {
        let channel = Arc::new(Mutex::new(Channel { remaining: length, ..Channel::default() }));
        (BodySender(Arc::clone(&channel)), Body::new(BodyReceiver(channel)))
    }

    pub(super) fn demand(&self, cx: &mut Context<'_>) -> BodyDemand {
        let mut channel = self.0.lock();
        if channel.dropped {
            return BodyDemand::Never;
        }
        if channel.wanted && channel.data.is_none() {
            return BodyDemand::Now;
        }
        store_waker(&mut channel.connection, cx);
        BodyDemand::Later
    }

    /// Passes data to the handler. `is_end` means that nothing follows. A handler that is polled
    /// with the connection is not woken.
    pub(super) fn send(&self, data: Option<Result<Bytes, BodyError>>, is_end: bool, cx: &mut Context<'_>) {
        let mut channel = self.0.lock();
        (channel.data, channel.is_end) = (data, is_end);
        channel.wake_reader(Some(cx));
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut channel = self.0.lock();
        if !channel.is_end {
            channel.is_end = true;
            channel.data.get_or_insert(Err(BodyError::Source("the connection is closed".into())));
            channel.wake_reader(None);
        }
    }
}

impl Channel {
    fn wake_reader(&mut self, cx: Option<&mut Context<'_>>) {
        self.wanted = false;
        if let Some(reader) = self.reader.take()
            && !cx.is_some_and(|cx| reader.will_wake(cx.waker()))
        {
            reader.wake();
        }
    }
}

fn store_waker(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// The handler's side of a body.
struct BodyReceiver(Arc<Mutex<Channel>>);

impl HttpBody for BodyReceiver {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut channel = self.0.lock();
        if let Some(data) = channel.data.take() {
            if let (Some(remaining), Ok(data)) = (&mut channel.remaining, &data) {
                *remaining = remaining.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(data.map(Frame::data)));
        }
        if channel.is_end {
            return Poll::Ready(None);
        }
        channel.wanted = true;
        store_waker(&mut channel.reader, cx);
        // A connection that is polled with the handler checks the demand itself.
        if let Some(connection) = &channel.connection
            && !connection.will_wake(cx.waker())
        {
            connection.wake_by_ref();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let channel = self.0.lock();
        channel.is_end && channel.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        let mut channel = self.0.lock();
        (channel.dropped, channel.data) = (true, None);
        if !channel.is_end
            && let Some(connection) = channel.connection.take()
        {
            connection.wake();
        }
    }
}
