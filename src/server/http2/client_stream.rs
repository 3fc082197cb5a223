//! The client's socket for hyper, with a write timeout and a lingering close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::coalesce::{CoalesceBuffer, coalesce};
use super::stream_stats::StreamStats;
use super::whole_frames::{FrameReader, WholeFrames};
use crate::server::LINGER_TIMEOUT;
use crate::server::handshake::prefixed::Prefixed;

/// A stream that begins with bytes that were already read, and yields whole frames. It fails if its
/// client accepts nothing for too long.
pub(super) struct ClientStream<S> {
    stream: TokioIo<Prefixed<S>>,
    frames: WholeFrames,
    stats: Arc<StreamStats>,
    send_timeout: Duration,
    /// Runs while the client accepts no bytes.
    write_timeout: Option<Pin<Box<Sleep>>>,
    /// Runs while the client may keep sending after the last response.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    pub(super) fn new(
        stream: S,
        read: Bytes,
        frames: WholeFrames,
        send_timeout: Duration,
        stats: Arc<StreamStats>,
    ) -> Self {
        let stream = TokioIo::new(Prefixed { read, socket: stream });
        ClientStream { stream, frames, stats, send_timeout, write_timeout: None, linger: None }
    }

    /// Returns the result of a write, or an error if writes have been pending for too long.
    fn limit_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write_timeout = None;
            return written;
        }
        let timeout = self.write_timeout.get_or_insert_with(|| Box::pin(sleep(self.send_timeout)));
        ready!(timeout.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Read for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let ClientStream { stream, frames, .. } = &mut *self;
        let reader = FrameReader { frames, stream: stream.inner_mut() };
        Pin::new(&mut TokioIo::new(reader)).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit_write(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes the write side. If the client may still be sending, its bytes are read and dropped
    /// for a while (nginx: `lingering_close`). A close with unread bytes resets the connection, and
    /// the client could lose the response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.stats.has_unread() && !self.frames.is_refused() {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        let mut buffer = [0; 4096];
        while linger.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(this.stream.inner_mut()).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = CoalesceBuffer::new();
        let written = match coalesce(bufs, &mut buffer) {
            Some(coalesced) => Pin::new(&mut self.stream).poll_write(cx, coalesced),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.limit_write(cx, written)
    }
}
