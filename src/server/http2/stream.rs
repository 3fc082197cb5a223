//! A client's socket as hyper sees it, and what can be told of the connection from what passes through.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::gather::{Room, gather};
use super::traffic::Traffic;

/// For how long a client is let send what nobody reads, after the last answer.
const LINGER: Duration = Duration::from_secs(5);

/// A stream of which the beginning was read already, and that fails when its client takes nothing for too long.
pub(super) struct ClientStream<S> {
    read: Bytes,
    stream: TokioIo<S>,
    traffic: Arc<Traffic>,
    send_timeout: Duration,
    /// Runs while the client takes nothing.
    silence: Option<Pin<Box<Sleep>>>,
    /// Runs while the client may go on sending after the last answer.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    pub(super) fn new(stream: S, read: Bytes, send_timeout: Duration, traffic: Arc<Traffic>) -> Self {
        ClientStream { read, stream: TokioIo::new(stream), traffic, send_timeout, silence: None, lingering: None }
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

impl<S: AsyncRead + AsyncWrite + Unpin> Write for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends our side, and reads on to nowhere if the client may be sending still: closing on unread bytes would reset the
    /// connection, and the client could lose the very answer that told it to stop (nginx: `lingering_close`).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.traffic.has_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut room = [0; 4096];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut room = ReadBuf::new(&mut room);
            match ready!(Pin::new(this.stream.inner_mut()).poll_read(cx, &mut room)) {
                Ok(()) if !room.filled().is_empty() => {}
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
        let mut room = Room::new();
        let written = match gather(bufs, &mut room) {
            Some(gathered) => Pin::new(&mut self.stream).poll_write(cx, gathered),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.in_time(cx, written)
    }
}
