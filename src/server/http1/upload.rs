//! The body of a request that is still coming, between the connection that reads it and whoever takes it.
//!
//! Nothing is read before somebody wants it: a reader that takes its time holds its client back. The two may live in different
//! tasks, and either may be gone before the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BodyError};

/// The connection's side.
#[derive(Debug)]
pub(super) struct Upload(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Read and not yet taken.
    piece: Option<Result<Bytes, BodyError>>,
    /// Nothing comes after the piece.
    over: bool,
    /// How much is still to be taken, where that is known.
    rest: Option<u64>,
    /// Somebody waits for a piece.
    wanted: bool,
    /// Nobody will.
    dropped: bool,
    reader: Option<Waker>,
    connection: Option<Waker>,
}

/// Whether a piece is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrafficKind {
    Now,
    /// The connection is woken when one is.
    Later,
    Never,
}

impl Upload {
    /// A body of so many bytes, where that is known.
    pub(super) fn new(length: Option<u64>) -> (Self, Body) {
        let state = State {
            piece: None,
            over: false,
            rest: length,
            wanted: false,
            dropped: false,
            reader: None,
            connection: None,
        };
        let state = Arc::new(Mutex::new(state));
        (Upload(Arc::clone(&state)), Body::new(Received(state)))
    }

    pub(super) fn demand(&self, cx: &mut Context<'_>) -> TrafficKind {
        let mut state = self.0.lock();
        if state.dropped {
            return TrafficKind::Never;
        }
        if state.wanted && state.piece.is_none() {
            return TrafficKind::Now;
        }
        remember(&mut state.connection, cx);
        TrafficKind::Later
    }

    /// Hands over a piece, after which there may be no more. Whoever is polled together with the connection need not be woken.
    pub(super) fn give(&self, piece: Result<Bytes, BodyError>, over: bool, cx: &mut Context<'_>) {
        let mut state = self.0.lock();
        state.piece = Some(piece);
        state.over = over;
        state.wake_reader(Some(cx));
    }

    /// There is no more.
    pub(super) fn end(&self, cx: &mut Context<'_>) {
        let mut state = self.0.lock();
        state.over = true;
        state.wake_reader(Some(cx));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.over {
            state.over = true;
            state.piece.get_or_insert(Err(BodyError::Source("the connection is closed".into())));
            state.wake_reader(None);
        }
    }
}

impl State {
    fn wake_reader(&mut self, cx: Option<&mut Context<'_>>) {
        self.wanted = false;
        if let Some(reader) = self.reader.take()
            && !cx.is_some_and(|cx| reader.will_wake(cx.waker()))
        {
            reader.wake();
        }
    }
}

fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// The reader's side.
struct Received(Arc<Mutex<State>>);

impl HttpBody for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.0.lock();
        if let Some(piece) = state.piece.take() {
            if let (Some(rest), Ok(piece)) = (&mut state.rest, &piece) {
                *rest = rest.saturating_sub(piece.len() as u64);
            }
            return Poll::Ready(Some(piece.map(Frame::data)));
        }
        if state.over {
            return Poll::Ready(None);
        }
        state.wanted = true;
        remember(&mut state.reader, cx);
        // A connection that is being polled with the reader looks for itself.
        if let Some(connection) = &state.connection
            && !connection.will_wake(cx.waker())
        {
            connection.wake_by_ref();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.over && state.piece.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.dropped, state.piece) = (true, None);
        if !state.over
            && let Some(connection) = state.connection.take()
        {
            connection.wake();
        }
    }
}
