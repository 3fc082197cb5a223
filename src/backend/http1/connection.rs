//! A connection to a node, driven by whoever waits for its answer.
//!
//! No task stands between a request and its connection: the future of the request, and then the body of the answer, write and
//! read the socket themselves. That saves two changes of task and a hand-over in each direction per request, and a reader
//! that takes its time holds the node back with nothing in between.

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

use super::encode;
use super::parse::{self, Head, Seen, Wire};
use super::pool::Slot;
use super::stream::Stream;
use crate::backend::{SendError, SendErrorKind};
use crate::body::Body;
use crate::clock::timer_in;
use crate::http1::fields;
use crate::http1::out::{Out, SendFailure};

/// Room for one read, at first and at most: an answer that fills its room gets twice as much.
const ROOM: usize = 8 * 1024;
const MOST_ROOM: usize = 64 * 1024;

pub(super) struct Connection {
    stream: Stream,
    /// What was read and not taken yet.
    pub(super) read: BytesMut,
    room: usize,
    out: Out,
    /// The other side has gone: nobody takes what is written.
    deaf: bool,
    /// Stays with the connection: to set a timer to a later time costs far less than to make one.
    timer: Pin<Box<Sleep>>,
    /// Whose clock the timer goes by.
    runtime: Option<runtime::Id>,
    pub(super) uses: u32,
    pub(super) born: Instant,
    _slot: Slot,
}

impl Connection {
    pub(super) fn new(stream: Stream, slot: Slot, now: Instant) -> Self {
        Connection {
            stream,
            read: BytesMut::new(),
            room: ROOM,
            out: Out::default(),
            deaf: false,
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
        self.out.is_done() && !self.deaf
    }

    /// Gives back the room that a long answer took.
    pub(super) fn trim(&mut self) {
        if self.room > ROOM {
            // What is left of a large buffer keeps all of it.
            self.read = BytesMut::new();
        }
    }

    /// Sends the request that was taken up, and waits for the head of its answer, for no longer than `limit` since the node last
    /// took a part of it. Dropping the connection gives the request up.
    pub(super) fn answer(
        &mut self,
        method: Method,
        limit: Duration,
        wire: Wire,
    ) -> impl Future<Output = Result<Head, SendError>> {
        let mut deadline = timer_in(limit);
        match here() {
            // The other runtime may have ended, or nobody drives it.
            here if here.is_some() && here != self.runtime => {
                self.timer = Box::pin(sleep_until(deadline));
                self.runtime = here;
            }
            // A timer that runs out early is set anew then, which is once in many requests.
            _ if self.timer.deadline() > deadline => self.timer.as_mut().reset(deadline),
            _ => {}
        }
        let (mut seen, mut writes) = (Seen::default(), None);
        poll_fn(move |cx| {
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if writes.replace(self.out.writes()).is_some_and(|before| before != self.out.writes()) {
                deadline = timer_in(limit);
            }
            if let Poll::Ready(head) = self.poll_head(cx, &mut seen, &method, wire) {
                return Poll::Ready(head);
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                // A client that keeps its own upload waiting is not the node's fault; the upload has a limit of its own.
                if self.out.waits_for_body() {
                    deadline = timer_in(limit);
                }
                if self.timer.deadline() >= deadline {
                    let why = format!("no head of an answer within {limit:?}");
                    return Poll::Ready(Err(SendError::new(SendErrorKind::HeadTimeout, why)));
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
                Ok(0) => {
                    return Poll::Ready(Err(SendError::new(SendErrorKind::Broken, "the node closed the connection")));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(SendError::new(SendErrorKind::Broken, error))),
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

    /// Takes a request up, of which head and body are left empty, and returns its method; what was before it is written.
    pub(super) fn begin(&mut self, request: &mut Request<Body>) -> Method {
        self.uses = self.uses.saturating_add(1);
        self.room = ROOM;
        self.deaf = false;
        let ending = self.out.begin(|out| encode::head(request, out));
        self.out.body(request.body_mut(), ending);
        fields::recycle(take(request.headers_mut()));
        take(request.method_mut())
    }

    /// Writes what there is of the request; ready when it is whole. The error is the client's or the node's.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match ready!(self.out.poll_send(&mut self.stream, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(SendFailure::Body(error)) => Poll::Ready(Err(SendError::new(SendErrorKind::RequestBody, error))),
            // A node may answer before it has read the whole of a request, and close. The rest of the request can then
            // not be written, while the answer waits to be read: so reading decides, which finds the answer or the end.
            Err(SendFailure::Socket(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.give_up_sending();
                Poll::Ready(Ok(()))
            }
            Err(SendFailure::Socket(error)) => Poll::Ready(Err(SendError::new(SendErrorKind::Broken, error))),
        }
    }

    /// The rest of the request will not come.
    pub(super) fn give_up_sending(&mut self) {
        self.deaf = true;
        self.out.give_up();
    }
}

/// The runtime that this is called in.
fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}
