//! The connection of a client, which carries one request after another.

use std::future::poll_fn;
use std::io;
use std::mem::{replace, take};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::request_body::{BodyDemand, BodySender};
use super::request_head::{InvalidRequest, NO_MEMORY, RequestHead};
use super::response_head::{self, ResponseContext};
use super::write_timeout::WriteTimeout;
use crate::body::{Body, BodyError, BoxError, ReadAhead};
use crate::buffer::Reservation;
use crate::http1::body_decoder::{BodyDecoder, Decoded};
use crate::http1::head::HeadScanner;
use crate::http1::headers;
use crate::http1::writer::{BodyFraming, MessageWriter, WriteError};
use crate::observe::CutScope;
use crate::proxy::{ErrorResponse, TRUNCATED};
use crate::request::ClientKey;
use crate::server::limits::Limits;
use crate::server::sniff::poll_some;
use crate::server::socket::ClientSocket;
use crate::server::stop::StopSignal;
use crate::server::{CUT, LINGER_TIMEOUT, STOPPED};

/// The size of one read of a request body.
const READ_SIZE: usize = 16 * 1024;

/// The number of bytes that are reserved for a connection that serves requests: the head of a
/// request and a small body. They are reserved even if the budget is used up, because connections
/// are limited.
const MIN_RESERVED: usize = 4 * 1024;

/// The handler panicked.
const PANICKED: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the front end failed; the request may have been executed");

pub(super) struct Http1Connection<S> {
    stream: S,
    /// Bytes that were read but not yet taken.
    read: BytesMut,
    scanner: HeadScanner,
    /// The next request, if `has_request`.
    head: RequestHead,
    has_request: bool,
    limits: Limits,
    writer: MessageWriter,
    write_timeout: WriteTimeout,
    context: ResponseContext,
    /// The body of the request while it arrives.
    request_body: Option<(BodySender, BodyDecoder)>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    expects_continue: bool,
    /// Whether `100 Continue` is being written.
    writes_continue: bool,
    /// Whether the client may be sending unread bytes, or has closed its side and awaits responses.
    has_unread: bool,
    /// Whether the connection closes after this response.
    is_last: bool,
    /// Waits for the end of the grace time; set when the server stops.
    cutting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether the end of the connection ends the response. Until then, any close is a reset.
    until_close: bool,
    /// The reason why the response ended early, after a part of it was written.
    failure: Option<BodyError>,
    /// Whether the response is read ahead of the client.
    read_ahead: Option<ReadAhead>,
    /// The client whose share a long head counts against.
    client: Option<ClientKey>,
    /// [`MIN_RESERVED`] bytes. They count against no client, because finding its share costs time.
    _reservation: Reservation,
    /// The reservation for the part of a head beyond [`MIN_RESERVED`].
    long_head: Option<Reservation>,
}

impl<S: ClientSocket> Http1Connection<S> {
    pub(super) fn new(stream: S, read: BytesMut, client: Option<ClientKey>, limits: Limits) -> Self {
        let mut reservation = limits.buffers.reservation(None);
        reservation.grow_anyway(MIN_RESERVED);
        Http1Connection {
            stream,
            read,
            scanner: HeadScanner::default(),
            head: RequestHead::default(),
            has_request: false,
            limits,
            writer: MessageWriter::default(),
            write_timeout: WriteTimeout::default(),
            context: ResponseContext::default(),
            request_body: None,
            expects_continue: false,
            writes_continue: false,
            has_unread: false,
            is_last: false,
            cutting: None,
            until_close: false,
            failure: None,
            read_ahead: None,
            client,
            _reservation: reservation,
            long_head: None,
        }
    }

    /// Returns the socket, and the bytes of the next request that were read.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.read)
    }

    /// Returns true if no byte of the next request has arrived.
    pub(super) fn is_quiet(&self) -> bool {
        self.read.is_empty()
    }

    /// Waits for the head of the next request, or for the client to leave. The head stays in the
    /// connection, because each move would copy it.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<(), InvalidRequest>>> {
        loop {
            if !self.read.is_empty() {
                match self.head.take(&mut self.read, &mut self.scanner, self.limits.head, self.limits.line_buffers) {
                    Ok(false) if !self.reserve_head() => return Poll::Ready(Ok(Err(NO_MEMORY))),
                    Ok(false) => {}
                    Ok(true) => {
                        self.has_request = true;
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

    /// Reserves the bytes of an incomplete head. Returns false if the budget has none left for it.
    fn reserve_head(&mut self) -> bool {
        let reserved = MIN_RESERVED + self.long_head.as_ref().map_or(0, Reservation::bytes);
        let more = self.read.len().saturating_sub(reserved);
        let (buffers, client) = (&self.limits.buffers, self.client);
        more == 0 || self.long_head.get_or_insert_with(|| buffers.reservation(client)).grow(more.max(MIN_RESERVED))
    }

    /// Returns false after [`poll_head`](Self::poll_head) if the client has left.
    pub(super) fn has_request(&self) -> bool {
        self.has_request
    }

    /// Takes the request whose head has arrived.
    pub(super) fn take_request(&mut self) -> Request<Body> {
        self.has_request = false;
        let RequestHead { request, body, keep_alive, expects_continue } = &mut self.head;
        self.context = ResponseContext {
            is_head: request.method() == Method::HEAD,
            is_http_1_0: request.version() < Version::HTTP_11,
            keep_alive: *keep_alive,
        };
        self.expects_continue = *expects_continue;
        *request.body_mut() = match body.take_whole(&mut self.read) {
            Some(whole) => {
                self.expects_continue = false;
                Body::from(whole)
            }
            None => {
                let (sender, receiver) = BodySender::new(body.remaining());
                self.request_body = Some((sender, take(body)));
                receiver
            }
        };
        take(request)
    }

    /// Drives the handler's `response` and the request body that it reads, and then starts to write
    /// the response. Fails if the client has left.
    ///
    /// If a handler panics, or does not respond before the server ends, the client gets an error
    /// response. If the connection closed without a byte, the client would repeat its request.
    pub(super) fn poll_handler<F: Future<Output = Response<Body>>>(
        &mut self,
        mut response: Pin<&mut F>,
        stop: &StopSignal,
        cut: &mut CutScope,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // The future is not polled again after a panic.
            match &mut catch_unwind(AssertUnwindSafe(|| response.as_mut().poll(cx))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(response)) => {
                    self.start_response(response, stop.is_set());
                    return Poll::Ready(Ok(()));
                }
                Err(_) => {
                    self.start_response(&mut PANICKED.response_without_url(), true);
                    return Poll::Ready(Ok(()));
                }
            }
            if self.poll_cutting(stop, cx).is_ready() {
                cut.enter(CUT);
                self.start_response(&mut STOPPED.response_without_url(), true);
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_client(cx))?;
        }
    }

    /// Polls until the grace time is over. The stop signal itself wakes the connection.
    fn poll_cutting(&mut self, stop: &StopSignal, cx: &mut Context<'_>) -> Poll<()> {
        if !stop.is_set() {
            return Poll::Pending;
        }
        self.cutting.get_or_insert_with(|| Box::pin(stop.clone().cutting())).as_mut().poll(cx)
    }

    /// Starts to write a response, and leaves its headers and body empty.
    fn start_response(&mut self, response: &mut Response<Body>, stopping: bool) {
        let context = self.context;
        let framing = response_head::framing(response, context);
        // A client that got no `100 Continue` may or may not send its body.
        self.is_last |= take(&mut self.expects_continue) || stopping || !self.limits.keep_alive || !context.keep_alive;
        let until_close = framing == BodyFraming::UntilClose;
        self.is_last |= until_close;
        if until_close != replace(&mut self.until_close, until_close) {
            self.stream.reset_on_close(until_close);
        }
        self.writes_continue = false;
        self.is_last = !self.writer.start(|out| response_head::encode(response, context, framing, !self.is_last, out));
        self.read_ahead = response.body().ahead_limit();
        self.writer.set_body(response.body_mut(), framing);
        headers::recycle(take(response.headers_mut()));
    }

    /// Writes the response, and reads the request body that its body depends on. If the body fails
    /// before any byte of the response was written, an error response replaces it. Otherwise the
    /// connection closes after the bytes that preceded the failure.
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match self.writer.poll_send(&mut self.stream, cx) {
                Poll::Ready(Ok(())) => {
                    if self.until_close && self.failure.is_none() {
                        self.stream.reset_on_close(false);
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(WriteError::Body(_))) if self.writer.discard() => {
                    self.start_response(&mut TRUNCATED.response_without_url(), false);
                    continue;
                }
                Poll::Ready(Err(WriteError::Body(error))) => {
                    (self.failure, self.is_last) = (Some(error), true);
                    continue;
                }
                Poll::Ready(Err(WriteError::Io(error))) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            if let Some(ahead) = self.read_ahead
                && self.writer.has_unwritten()
            {
                self.writer.read_ahead(|| self.limits.spool(ahead), cx);
            }
            if self.write_timeout.poll(&self.writer, self.limits.send_timeout, cx).is_ready() {
                return Poll::Ready(Err("the client accepts nothing of a response".into()));
            }
            ready!(self.poll_client(cx))?;
        }
    }

    /// Polls until some of the body was passed to the handler. Fails if the client has left.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((sender, _)) = &self.request_body else { return self.poll_closed(cx) };
        match sender.demand(cx) {
            BodyDemand::Later => return Poll::Pending,
            BodyDemand::Never => {
                self.abandon_request_body();
                return Poll::Pending;
            }
            BodyDemand::Now => {}
        }
        if take(&mut self.expects_continue) {
            self.writer.start(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
            self.writes_continue = true;
        }
        if self.writes_continue {
            if let Err(WriteError::Io(error)) = ready!(self.writer.poll_send(&mut self.stream, cx)) {
                return Poll::Ready(Err(error));
            }
            self.writes_continue = false;
        }
        ready!(self.poll_request_body(cx));
        Poll::Ready(Ok(()))
    }

    /// Reads a part of the request body and passes it on.
    fn poll_request_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((sender, decoder)) = &mut self.request_body else { return Poll::Ready(()) };
        ready!(decoder.poll_turn(cx));
        let error = loop {
            match decoder.next(&mut self.read) {
                Ok(Decoded::NeedMore) => {}
                Ok(decoded) => {
                    let is_end = decoder.is_end();
                    let data = if let Decoded::Data(data) = decoded { Some(Ok(data)) } else { None };
                    sender.send(data, is_end, cx);
                    if is_end {
                        self.request_body = None;
                    }
                    return Poll::Ready(());
                }
                Err(invalid) => break BoxError::from(invalid),
            }
            self.read.reserve(READ_SIZE);
            let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.read)).poll(cx) else {
                if self.read.is_empty() {
                    // A slow client holds no buffer.
                    self.read = BytesMut::new();
                }
                return Poll::Pending;
            };
            match read {
                Ok(0) => break BoxError::from(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(_) => {}
                Err(error) => break BoxError::from(error),
            }
        };
        sender.send(Some(Err(BodyError::Source(error))), true, cx);
        self.abandon_request_body();
        Poll::Ready(())
    }

    /// Stops reading the request body, which also ends the connection.
    fn abandon_request_body(&mut self) {
        self.request_body = None;
        (self.has_unread, self.is_last) = (true, true);
    }

    /// Fails if the client has left. Bytes that arrive meanwhile belong to its next request. If
    /// they exceed [`MIN_RESERVED`], the end of the stream after them is not noticed.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.has_unread && self.read.len() < MIN_RESERVED {
            if !ready!(poll_some(&mut self.stream, &mut self.read, cx))? {
                self.has_unread = self.limits.half_close;
                self.has_unread.then_some(()).ok_or(io::ErrorKind::UnexpectedEof)?;
            }
        }
        Poll::Pending
    }

    /// Returns true if the connection can carry another request after a response.
    pub(super) fn keep_alive(&mut self) -> bool {
        self.long_head = None;
        if let Some((_, decoder)) = &mut self.request_body {
            // The part of the body that has already been read costs nothing to skip.
            while matches!(decoder.next(&mut self.read), Ok(Decoded::Data(_))) {}
            if decoder.is_end() { self.request_body = None } else { self.abandon_request_body() }
        }
        !self.is_last
    }

    /// Responds to a request that is not valid.
    pub(super) async fn reject(&mut self, invalid: InvalidRequest) -> Result<(), BoxError> {
        let mut response = Response::new(Body::from(invalid.message));
        *response.status_mut() = invalid.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        self.context = ResponseContext::default();
        (self.has_unread, self.is_last) = (true, true);
        self.start_response(&mut response, true);
        poll_fn(|cx| self.poll_response(cx)).await
    }

    /// Closes the connection. If the client may still be sending, its bytes are read and dropped
    /// for a while. A close with unread bytes would reset the connection, and the client could lose
    /// the response (nginx: `lingering_close`).
    pub(super) async fn close(mut self) -> Result<(), BoxError> {
        if self.until_close
            && let Some(failure) = self.failure
        {
            return Err(failure.into());
        }
        // TLS ends with an alert, which a client that does not read never accepts.
        timeout(LINGER_TIMEOUT, self.stream.shutdown()).await??;
        if !self.has_unread && self.read.is_empty() {
            return Ok(());
        }
        let mut buffer = [0; 4096];
        let reading = async { while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {} };
        _ = timeout(LINGER_TIMEOUT, reading).await;
        Ok(())
    }
}
