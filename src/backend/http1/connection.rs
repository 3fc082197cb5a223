//! A connection to a node, driven by the request that uses it.
//!
//! No task stands between a request and its connection. The future of the request, and then the
//! body of the response, write and read the socket themselves. That saves two task switches and a
//! hand-over in each direction. A slow reader holds the node back, with no buffer in between.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Method, Request};
use tokio::io::AsyncReadExt;
use tokio::runtime::{self, Handle};
use tokio::time::{Sleep, sleep_until};

use super::open_count::OpenPermit;
use super::request_head;
use super::response_head::{ParserState, ResponseHead};
use super::stream::Stream;
use crate::backend::{SendError, SendErrorKind, Timeouts, copy_of_body};
use crate::body::Body;
use crate::clock::timer_in;
use crate::http1::head::HeadLimits;
use crate::http1::headers;
use crate::http1::writer::{BodyFraming, MessageWriter, WriteError};

/// The size of one read. A response that fills the buffer doubles it, up to the maximum.
const MIN_READ: usize = 8 * 1024;
const MAX_READ: usize = 64 * 1024;

/// The maximum delay after which a request can meet the close of an idle connection: a round trip
/// with a retransmission. A node that closes later was processing the request.
const MAX_CLOSE_DELAY: Duration = Duration::from_secs(1);

thread_local! {
    /// The buffer of the response that was read last, of [`MIN_READ`] bytes. A connection that
    /// waits for its node holds no buffer. The next one that reads finds this one warm.
    static SPARE_BUFFER: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

pub(super) struct Connection {
    stream: Stream,
    /// Bytes that were read but not yet taken.
    pub(super) read: BytesMut,
    read_size: usize,
    /// Whether the memory of `read` is longer than [`MIN_READ`].
    has_long_buffer: bool,
    writer: MessageWriter,
    /// Whether the node no longer accepts the rest of the request.
    write_closed: bool,
    /// Reused for every request, because moving a timer to a later time costs far less than
    /// creating one.
    timer: Pin<Box<Sleep>>,
    /// The runtime that drives the timer.
    runtime: Option<runtime::Id>,
    /// The method of the request that the connection carries.
    method: Method,
    timeouts: Timeouts,
    /// The number of requests that the connection has carried.
    pub(super) uses: u32,
    pub(super) opened: Instant,
    _permit: OpenPermit,
}

impl Connection {
    pub(super) fn new(stream: Stream, permit: OpenPermit, now: Instant) -> Self {
        Connection {
            stream,
            read: BytesMut::new(),
            read_size: MIN_READ,
            has_long_buffer: false,
            writer: MessageWriter::default(),
            write_closed: false,
            timer: Box::pin(sleep_until(timer_in(Duration::ZERO))),
            runtime: current_runtime(),
            method: Method::default(),
            timeouts: Timeouts::default(),
            uses: 0,
            opened: now,
            _permit: permit,
        }
    }

    /// Returns true if the connection can carry another request. See [`Stream::is_quiet`].
    pub(super) fn is_idle(&self, ask_kernel: bool) -> bool {
        self.read.is_empty() && self.stream.is_quiet(ask_kernel)
    }

    /// Returns true if the whole request is written.
    pub(super) fn has_sent(&self) -> bool {
        self.writer.is_done() && !self.write_closed
    }

    /// Gives the empty buffer to the next connection that reads. A long buffer is freed.
    pub(super) fn release_buffer(&mut self) {
        let read = take(&mut self.read);
        if !take(&mut self.has_long_buffer) {
            SPARE_BUFFER.set(Some(read));
        }
    }

    /// Starts a request, and leaves its headers and body empty. The previous request must be fully
    /// written.
    pub(super) fn start(&mut self, request: &mut Request<Body>, timeouts: Timeouts) {
        let framing = self.start_head(request, timeouts);
        self.writer.set_body(request.body_mut(), framing);
        headers::recycle(take(request.headers_mut()));
    }

    /// Starts a copy of a request.
    pub(super) fn start_copy(&mut self, request: &Request<Body>, timeouts: Timeouts) {
        let framing = self.start_head(request, timeouts);
        match request.body().whole() {
            Some(body) => self.writer.set_whole(body),
            None => self.writer.set_body(&mut copy_of_body(request.body()), framing),
        }
    }

    fn start_head(&mut self, request: &Request<Body>, timeouts: Timeouts) -> BodyFraming {
        self.method = request.method().clone();
        self.timeouts = timeouts;
        self.uses = self.uses.saturating_add(1);
        self.read_size = MIN_READ;
        self.write_closed = false;
        self.writer.start(|out| request_head::encode(request, out))
    }

    /// Returns true if the connection carried a request before this one, and no byte of this
    /// request's response has arrived.
    fn may_be_stale(&self) -> bool {
        self.uses > 1 && self.read.is_empty()
    }

    /// Returns how long the body of the response may stall.
    pub(super) fn body_timeout(&self) -> Duration {
        self.timeouts.body
    }

    /// Sends the request that was started and waits for the head of its response. The timeout
    /// starts when the node last accepted a part of the request. Dropping the connection cancels
    /// the request.
    pub(super) fn response(&mut self, limits: HeadLimits) -> impl Future<Output = Result<ResponseHead, SendError>> {
        let limit = self.timeouts.head;
        let mut deadline = timer_in(limit);
        match current_runtime() {
            // The other runtime may have ended, or may not be driven.
            current if current.is_some() && current != self.runtime => {
                self.timer = Box::pin(sleep_until(deadline));
                self.runtime = current;
            }
            // The timer may fire early; it is then set again, which is rare.
            _ if self.timer.deadline() > deadline => self.timer.as_mut().reset(deadline),
            _ => {}
        }
        let (mut parser, mut writes) = (ParserState::default(), None);
        poll_fn(move |cx| {
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if writes.replace(self.writer.writes()).is_some_and(|before| before != self.writer.writes()) {
                deadline = timer_in(limit);
            }
            if let Poll::Ready(head) = self.poll_head(cx, &mut parser, limits) {
                let waited = || timer_in(limit).saturating_duration_since(deadline);
                return Poll::Ready(head.map_err(|error| match error.kind() {
                    SendErrorKind::Broken if self.may_be_stale() && waited() < MAX_CLOSE_DELAY => {
                        error.with_kind(SendErrorKind::Stale)
                    }
                    _ => error,
                }));
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                // A slow upload is the client's fault, not the node's. It has a limit of its own.
                if self.writer.waits_for_body() {
                    deadline = timer_in(limit);
                }
                if self.timer.deadline() >= deadline {
                    let source = format!("no head of a response within {limit:?}");
                    return Poll::Ready(Err(SendError::new(SendErrorKind::HeadTimeout, source)));
                }
                self.timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        parser: &mut ParserState,
        limits: HeadLimits,
    ) -> Poll<Result<ResponseHead, SendError>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = parser.take(&mut self.read, &self.method, limits)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => {
                    return Poll::Ready(Err(SendError::new(SendErrorKind::Broken, "the node closed the connection")));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(SendError::new(SendErrorKind::Broken, error))),
            }
        }
    }

    /// Reads more bytes. Returns 0 at the end of the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() == 0
            && let Some(spare) = SPARE_BUFFER.take()
        {
            self.read = spare;
        }
        self.has_long_buffer |= self.read_size > MIN_READ;
        self.read.reserve(self.read_size);
        let capacity = self.read.capacity() - self.read.len();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.read)).poll(cx) else {
            if self.read.is_empty() && !self.has_long_buffer {
                self.release_buffer();
            }
            return Poll::Pending;
        };
        let length = read?;
        if length == capacity {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        } else if length < self.read_size / 8 {
            // A slow reader keeps small pieces, and each piece keeps the buffer that it arrived in.
            self.read_size = (self.read_size / 2).max(MIN_READ);
        }
        Poll::Ready(Ok(length))
    }

    /// Writes the bytes of the request that have arrived. Ready when everything is written. The
    /// error may be the client's or the node's.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match ready!(self.writer.poll_send(&mut self.stream, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(WriteError::Body(error)) => Poll::Ready(Err(SendError::new(SendErrorKind::RequestBody, error))),
            // A node may respond and close before it has read the whole request. Then the rest
            // cannot be written, but the response can still be read. Reading decides: it finds the
            // response or the end of the connection.
            Err(WriteError::Io(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.close_write();
                Poll::Ready(Ok(()))
            }
            Err(WriteError::Io(error)) => Poll::Ready(Err(SendError::new(SendErrorKind::Broken, error))),
        }
    }

    /// Drops the rest of the request.
    pub(super) fn close_write(&mut self) {
        self.write_closed = true;
        self.writer.abort();
    }
}

fn current_runtime() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}
