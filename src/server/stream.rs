//! A client's socket as hyper sees it, and what can be told of the connection from what passes through.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::body::{Body, BodyError, OnEnd};
use crate::gather::gather;

/// Pieces that together are no longer than this are copied into one: a plain write costs less than a vectored one.
const GATHERED: usize = 4096;

/// A stream of which the beginning was read already, and that fails when its client takes nothing for too long.
pub(super) struct ClientStream<S> {
    read: Bytes,
    stream: TokioIo<S>,
    traffic: Arc<Traffic>,
    send_timeout: Duration,
    /// Runs while the client takes nothing.
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    pub(super) fn new(stream: S, read: Bytes, send_timeout: Duration, traffic: Arc<Traffic>) -> Self {
        ClientStream { read, stream: TokioIo::new(stream), traffic, send_timeout, silence: None }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream.into_inner()
    }

    /// Passes on what a write came to, unless it has been pending for too long.
    fn in_time(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.silence = None;
            return written;
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(self.send_timeout)));
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Read for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..length]);
        self.read.advance(length);
        if self.read.is_empty() {
            self.read = Bytes::new(); // gives the memory back
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.traffic.unflushed.store(true, Ordering::Relaxed);
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.traffic.unflushed.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.traffic.unflushed.store(true, Ordering::Relaxed);
        let mut room = [0; GATHERED];
        let written = match gather(bufs, &mut room) {
            Some(gathered) => Pin::new(&mut self.stream).poll_write(cx, gathered),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.in_time(cx, written)
    }
}

/// What passes over a connection, as far as it matters for whether the connection idles.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    requests: AtomicUsize,
    /// Answers that are not complete, and bodies of requests that were not read to their end.
    open: AtomicUsize,
    unflushed: AtomicBool,
}

impl Traffic {
    /// How many requests have come.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Nothing is under way: hyper holds nothing of the connection but what it may have read of a next request.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && !self.unflushed.load(Ordering::Relaxed)
    }

    /// Notes a request; its answer is to be made with [`Traffic::answer`].
    pub(super) fn request(self: &Arc<Self>, body: Body) -> Body {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        if body.is_empty() {
            return body;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        body.on_end(Arc::clone(self) as Arc<dyn OnEnd>)
    }

    pub(super) fn answer(self: Arc<Self>, answer: Response<Body>) -> Response<Answer> {
        answer.map(|body| Answer { body, traffic: self })
    }

    fn close_one(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OnEnd for Traffic {
    fn on_end(self: Arc<Self>, _whole: bool) {
        self.close_one();
    }
}

/// The body of an answer. hyper drops it when all of it is encoded.
pub(super) struct Answer {
    body: Body,
    traffic: Arc<Traffic>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.traffic.close_one();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
