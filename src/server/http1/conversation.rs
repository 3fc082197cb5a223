//! The socket of a client, and one request after the other on it.

use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};

use super::encode::{self, Asked};
use super::head::{self, Head, Invalid};
use super::upload::{TrafficKind, Upload};
use crate::body::{Body, BodyError, BoxError};
use crate::clock::timer_in;
use crate::http1::chunks::Piece;
use crate::http1::fields;
use crate::http1::framing::Framing;
use crate::http1::lines::Scan;
use crate::http1::out::{Ending, Out, SendFailure};
use crate::server::limits::Limits;
use crate::server::sniff::poll_some;
use crate::server::stop::Stop;

/// Room for one read of a body that comes in pieces.
const ROOM: usize = 16 * 1024;

/// For how long a client is let send what nobody reads, after the last answer.
const LINGER: Duration = Duration::from_secs(5);

pub(super) struct Conversation<S> {
    stream: S,
    /// What was read and not taken yet.
    read: BytesMut,
    scan: Scan,
    /// The request that has come and was not taken up yet, if `has_head`.
    head: Head,
    has_head: bool,
    limits: Limits,
    out: Out,
    silence: Silence,
    asked: Asked,
    /// The body of the request, while it is coming.
    upload: Option<(Upload, Framing)>,
    /// The client waits for a word before it sends the body.
    expects: bool,
    /// That word is being sent.
    interim: bool,
    /// The client may be sending what nobody reads.
    unread: bool,
    /// This is the last request.
    last: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub(super) fn new(stream: S, read: BytesMut, limits: Limits) -> Self {
        Conversation {
            stream,
            read,
            scan: Scan::default(),
            head: Head::default(),
            has_head: false,
            limits,
            out: Out::default(),
            silence: Silence::default(),
            asked: Asked::default(),
            upload: None,
            expects: false,
            interim: false,
            unread: false,
            last: false,
        }
    }

    /// The socket, and what was read of a next request.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.read)
    }

    /// Nothing of a next request has come.
    pub(super) fn is_quiet(&self) -> bool {
        self.read.is_empty()
    }

    /// Waits for the head of the next request, which stays here until it is taken up: to hand it about would copy it each
    /// time.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<(), Invalid>>> {
        loop {
            if !self.read.is_empty() {
                match head::head(&mut self.read, &mut self.scan, &self.limits, &mut self.head) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.has_head = true;
                        return Poll::Ready(Ok(Ok(())));
                    }
                    Err(invalid) => return Poll::Ready(Ok(Err(invalid))),
                }
            }
            if !ready!(poll_some(&mut self.stream, &mut self.read, cx))? {
                return Poll::Ready(Ok(Ok(())));
            }
        }
    }

    /// There is a request to be taken up, and the client has not left in place of sending one.
    pub(super) fn has_request(&self) -> bool {
        self.has_head
    }

    /// Takes up the request.
    pub(super) fn begin(&mut self) -> Request<Body> {
        self.has_head = false;
        let Head { request, framing, keeps, expects } = &mut self.head;
        let old = request.version() < Version::HTTP_11;
        self.asked = Asked { head: request.method() == Method::HEAD, old, keeps: *keeps };
        self.expects = *expects;
        *request.body_mut() = match framing.whole(&mut self.read) {
            Some(whole) => {
                self.expects = false;
                Body::from(whole)
            }
            None => {
                let (upload, body) = Upload::new(framing.rest());
                self.upload = Some((upload, take(framing)));
                body
            }
        };
        take(request)
    }

    /// Drives `answer` and what it needs of the client, and begins to send it. An error means that nobody waits for it any more.
    pub(super) fn poll_with<A: Future<Output = Response<Body>>>(
        &mut self,
        mut answer: Pin<&mut A>,
        stop: &Stop,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Poll::Ready(answer) = &mut answer.as_mut().poll(cx) {
                self.answer(answer, stop.is_set());
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_client(cx))?;
        }
    }

    /// Begins to send an answer, whose head and body are left empty.
    fn answer(&mut self, answer: &mut Response<Body>, stopping: bool) {
        let asked = self.asked;
        let ending = encode::ending(answer, asked);
        // A client that was not told to send its body may do so or not.
        self.last |= take(&mut self.expects) || stopping || !self.limits.keep_alive || !asked.keeps;
        self.last |= ending == Ending::UntilClose;
        self.interim = false;
        self.last = !self.out.begin(|out| encode::head(answer, asked, ending, !self.last, out));
        self.out.body(answer.body_mut(), ending);
        fields::recycle(take(answer.headers_mut()));
    }

    /// Sends the answer, and reads what its sending needs of the client.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match self.out.poll_send(&mut self.stream, cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(SendFailure::Body(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Err(SendFailure::Socket(error))) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            if self.silence.poll(&self.out, self.limits.send_timeout, cx).is_ready() {
                return Poll::Ready(Err("a client takes nothing of an answer".into()));
            }
            ready!(self.poll_client(cx))?;
        }
    }

    /// Ready when something came that somebody waits for, or with the end of the connection.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((upload, _)) = &self.upload else { return self.poll_gone(cx) };
        match upload.demand(cx) {
            TrafficKind::Later => return Poll::Pending,
            TrafficKind::Never => {
                self.leave_unread();
                return Poll::Pending;
            }
            TrafficKind::Now => {}
        }
        if take(&mut self.expects) {
            self.out.begin(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
            self.interim = true;
        }
        if self.interim {
            if let Err(SendFailure::Socket(error)) = ready!(self.out.poll_send(&mut self.stream, cx)) {
                return Poll::Ready(Err(error));
            }
            self.interim = false;
        }
        ready!(self.poll_upload(cx));
        Poll::Ready(Ok(()))
    }

    /// Reads a piece of the request's body.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((upload, framing)) = &mut self.upload else { return Poll::Ready(()) };
        let failed = loop {
            match framing.next(&mut self.read) {
                Ok(Piece::Data(data)) => {
                    let over = framing.is_over();
                    upload.give(Ok(data), over, cx);
                    if over {
                        self.upload = None;
                    }
                    return Poll::Ready(());
                }
                Ok(Piece::End) => {
                    upload.end(cx);
                    self.upload = None;
                    return Poll::Ready(());
                }
                Ok(Piece::Wanting) => {}
                Err(invalid) => break BoxError::from(invalid),
            }
            self.read.reserve(ROOM);
            match ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx)) {
                Ok(0) => break BoxError::from(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(_) => {}
                Err(error) => break BoxError::from(error),
            }
        };
        upload.give(Err(BodyError::Source(failed)), true, cx);
        self.leave_unread();
        Poll::Ready(())
    }

    /// The rest of the request's body is nobody's.
    fn leave_unread(&mut self) {
        self.upload = None;
        (self.unread, self.last) = (true, true);
    }

    /// Ready when the client has left. What it sends meanwhile is its next request.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread || !self.read.is_empty() {
            return Poll::Pending;
        }
        match ready!(poll_some(&mut self.stream, &mut self.read, cx)) {
            Ok(true) => Poll::Pending,
            Ok(false) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// After an answer: can the client ask again?
    pub(super) fn goes_on(&mut self) -> bool {
        if let Some((_, framing)) = &mut self.upload {
            // What is here already costs nothing to pass over.
            while matches!(framing.next(&mut self.read), Ok(Piece::Data(_))) {}
            if framing.is_over() { self.upload = None } else { self.leave_unread() }
        }
        !self.last
    }

    /// Tells a client that its request cannot be served.
    pub(super) async fn refuse(&mut self, invalid: Invalid) -> Result<(), BoxError> {
        let mut answer = Response::new(Body::from(invalid.why));
        *answer.status_mut() = invalid.status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        self.asked = Asked::default();
        (self.unread, self.last) = (true, true);
        self.answer(&mut answer, true);
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Ends our side, and reads on to nowhere if the client may be sending still: closing on unread bytes would reset the
    /// connection, and the client could lose the very answer that told it to stop (nginx: `lingering_close`).
    pub(super) async fn close(mut self) -> Result<(), BoxError> {
        self.stream.shutdown().await?;
        if !self.unread && self.read.is_empty() {
            return Ok(());
        }
        let mut room = [0; 4096];
        let reading = async { while matches!(self.stream.read(&mut room).await, Ok(1..)) {} };
        _ = timeout(LINGER, reading).await;
        Ok(())
    }
}

/// For how long a client has taken nothing of what waits for it.
#[derive(Default)]
struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
    /// How often it had taken something when the timer was set.
    writes: usize,
}

impl Silence {
    /// Ready when that is longer than `limit`.
    fn poll(&mut self, out: &Out, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !out.is_pending() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = match &mut self.timer {
            Some(timer) if self.writes == out.writes() => timer,
            Some(timer) => {
                timer.as_mut().reset(timer_in(limit));
                timer
            }
            none => none.insert(Box::pin(sleep(limit))),
        };
        self.writes = out.writes();
        timer.as_mut().poll(cx)
    }
}
