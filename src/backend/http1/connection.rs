//! A connection to a node, driven by whoever waits for its answer.
//!
//! No task stands between a request and its connection: the future of the request, and then the body of the answer, write and
//! read the socket themselves. That saves two changes of task and a hand-over in each direction per request, and a reader
//! that takes its time holds the node back with nothing in between.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use http_body::Body as _;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::runtime::{self, Handle};
use tokio::time::{Sleep, sleep_until};

use super::encode::{self, Framing};
use super::parse::{self, Head, Seen, Wire};
use super::pool::Slot;
use super::stream::Stream;
use crate::backend::{Phase, SendError};
use crate::body::{Body, BodyError};
use crate::clock::timer_in;

/// Room for one read, at first and at most: an answer that fills its room gets twice as much.
const ROOM: usize = 8 * 1024;
const MOST_ROOM: usize = 64 * 1024;

/// Pieces of a request up to this length are copied behind its head: for the kernel one plain write costs less than a vectored
/// one, by more than the copy.
const COPIED: usize = 4096;

pub(super) struct Connection {
    stream: Stream,
    /// What was read and not taken yet.
    pub(super) read: BytesMut,
    room: usize,
    out: Out,
    /// Stays with the connection: to set a timer to a later time costs far less than to make one.
    timer: Pin<Box<Sleep>>,
    /// Whose clock the timer goes by.
    runtime: Option<runtime::Id>,
    pub(super) uses: u32,
    pub(super) born: Instant,
    _slot: Slot,
}

/// What is being sent.
#[derive(Default)]
struct Out {
    /// Encoded and not yet written from `written` on.
    encoded: Vec<u8>,
    written: usize,
    /// Goes behind what is encoded.
    piece: Bytes,
    body: Option<(Body, Framing)>,
    /// A chunk has been written, whose end goes before the next line.
    chunk_open: bool,
    /// How often the other side took something, and whether the body has no more to give for now.
    writes: usize,
    waiting: bool,
    /// The other side has gone: nobody takes what is written.
    deaf: bool,
}

impl Connection {
    pub(super) fn new(stream: Stream, slot: Slot, now: Instant) -> Self {
        Connection {
            stream,
            read: BytesMut::new(),
            room: ROOM,
            out: Out::default(),
            timer: Box::pin(sleep_until(timer_in(Duration::ZERO))),
            runtime: here(),
            uses: 0,
            born: now,
            _slot: slot,
        }
    }

    /// Can an idle connection be used? See [`Stream::is_quiet`].
    pub(super) fn is_idle(&self, sure: bool) -> bool {
        self.read.is_empty() && self.stream.is_quiet(sure)
    }

    /// The whole request is written.
    pub(super) fn has_sent(&self) -> bool {
        self.out.body.is_none() && !self.out.is_pending() && !self.out.deaf
    }

    /// Gives back the room that a long head or answer took.
    pub(super) fn trim(&mut self) {
        if self.room > ROOM {
            // What is left of a large buffer keeps all of it.
            self.read = BytesMut::new();
        }
        self.out.encoded.shrink_to(2 * COPIED);
    }

    /// Sends `request` and waits for the head of its answer, for no longer than `limit` since the node last took a part of it.
    /// Dropping the connection gives the request up.
    pub(super) fn ask(
        &mut self,
        request: Request<Body>,
        limit: Duration,
        wire: Wire,
    ) -> impl Future<Output = Result<Head, SendError>> {
        // Not in the future, which so has no room for the request.
        self.uses = self.uses.saturating_add(1);
        self.room = ROOM;
        let method = self.out.begin(request);
        let mut deadline = timer_in(limit);
        match here() {
            // The other runtime may have ended, or nobody drives it.
            here if here.is_some() && here != self.runtime => {
                self.timer = Box::pin(sleep_until(deadline));
                self.runtime = here;
            }
            _ => self.timer.as_mut().reset(deadline),
        }
        let (mut seen, mut writes) = (Seen::default(), None);
        poll_fn(move |cx| {
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if writes.replace(self.out.writes).is_some_and(|before| before != self.out.writes) {
                deadline = timer_in(limit);
            }
            if let Poll::Ready(head) = self.poll_head(cx, &mut seen, &method, wire) {
                return Poll::Ready(head);
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                // A client that keeps its own upload waiting is not the node's fault; the upload has a limit of its own.
                if self.out.waiting && !self.out.is_pending() {
                    deadline = timer_in(limit);
                }
                if self.timer.deadline() >= deadline {
                    let why = format!("no head of an answer within {limit:?}");
                    return Poll::Ready(Err(SendError::new(Phase::HeadTimeout, why)));
                }
                self.timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        seen: &mut Seen,
        method: &Method,
        wire: Wire,
    ) -> Poll<Result<Head, SendError>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = parse::head(&mut self.read, seen, method, wire)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(SendError::new(Phase::Broken, "the node closed the connection"))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(SendError::new(Phase::Broken, error))),
            }
        }
    }

    /// Reads more; nothing at the end of the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.room);
        let room = self.read.capacity() - self.read.len();
        let length = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        if length == room {
            self.room = (self.room * 2).min(MOST_ROOM);
        } else if length < self.room / 8 {
            // A slow reader keeps what comes in drops, and each drop the room that it came in.
            self.room = (self.room / 2).max(ROOM);
        }
        Poll::Ready(Ok(length))
    }

    /// Writes what there is of the request; ready when it is whole. The error is the client's or the node's.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let body = self.out.poll_body(cx).map_err(|error| SendError::new(Phase::RequestBody, error))?;
            if !self.out.is_pending() {
                return body.map(Ok);
            }
            match ready!(self.out.poll_write(&mut self.stream, cx)) {
                Ok(()) => {}
                // A node may answer before it has read the whole of a request, and close. The rest of the request can then
                // not be written, while the answer waits to be read: so reading decides, which finds the answer or the end.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.give_up_sending();
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(SendError::new(Phase::Broken, error))),
            }
        }
    }

    /// The rest of the request will not come.
    pub(super) fn give_up_sending(&mut self) {
        self.out = Out { deaf: true, writes: self.out.writes, ..Out::default() };
    }
}

/// The runtime that this is called in.
fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

impl Out {
    /// Takes a request up; what was before it is written.
    fn begin(&mut self, request: Request<Body>) -> Method {
        self.encoded.clear();
        (self.written, self.chunk_open, self.waiting) = (0, false, false);
        let framing = encode::head(&request, &mut self.encoded);
        let (head, body) = request.into_parts();
        self.body = (framing != Framing::Length(0)).then_some((body, framing));
        head.method
    }

    fn is_pending(&self) -> bool {
        self.written < self.encoded.len() || !self.piece.is_empty()
    }

    /// Takes as much of the body as is here, up to what is written at once; ready at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some((body, framing)) = &mut self.body {
            if !self.piece.is_empty() || self.encoded.len() - self.written >= COPIED {
                return Poll::Pending;
            }
            let frame = Pin::new(&mut *body).poll_frame(cx);
            self.waiting = frame.is_pending();
            let data = match ready!(frame).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Some(data),
                    _ => continue,
                },
                None => None,
            };
            match (data, framing) {
                (Some(data), Framing::Length(rest)) => {
                    *rest = rest.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
                    if *rest == 0 {
                        self.body = None;
                    }
                    self.push(data);
                }
                (Some(data), Framing::Chunked) => {
                    let end = if std::mem::replace(&mut self.chunk_open, true) { "\r\n" } else { "" };
                    self.encoded.extend_from_slice(format!("{end}{:x}\r\n", data.len()).as_bytes());
                    self.push(data);
                }
                (None, Framing::Length(_)) => {
                    return Poll::Ready(Err(BodyError::Source("shorter than it was declared".into())));
                }
                (None, Framing::Chunked) => {
                    let end: &[u8] = if self.chunk_open { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                    self.encoded.extend_from_slice(end);
                    self.body = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) {
        if self.encoded.len() - self.written + data.len() <= COPIED {
            self.encoded.extend_from_slice(&data);
        } else {
            self.piece = data;
        }
    }

    /// Writes once.
    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let encoded = &self.encoded[self.written..];
        let length = match (encoded.is_empty(), self.piece.is_empty()) {
            (false, true) => ready!(Pin::new(stream).poll_write(cx, encoded))?,
            (true, _) => ready!(Pin::new(stream).poll_write(cx, &self.piece))?,
            (false, false) => {
                let both = [IoSlice::new(encoded), IoSlice::new(&self.piece)];
                ready!(Pin::new(stream).poll_write_vectored(cx, &both))?
            }
        };
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.writes = self.writes.wrapping_add(1);
        let of_encoded = length.min(encoded.len());
        self.written += of_encoded;
        let of_piece = length - of_encoded;
        self.piece = if of_piece < self.piece.len() { self.piece.slice(of_piece..) } else { Bytes::new() };
        if self.written == self.encoded.len() {
            self.encoded.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}
