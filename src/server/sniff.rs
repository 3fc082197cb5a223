//! Which version of HTTP does a client speak?

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// What an HTTP/2 client that knows the server begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads just enough of `stream` to know.
pub(super) async fn sniff<S>(mut stream: S, send_timeout: Duration) -> io::Result<(Version, Sniffed<S>)>
where
    S: AsyncRead + Unpin,
{
    // Room for the head of a usual request, so that it takes one read.
    let mut read = Vec::with_capacity(1024);
    let version = loop {
        if stream.read_buf(&mut read).await? == 0 {
            break Version::Http1;
        }
        if !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]) {
            break Version::Http1;
        }
        if read.len() >= PREFACE.len() {
            break Version::Http2;
        }
    };
    Ok((version, Sniffed { read: read.into(), stream: TokioIo::new(stream), send_timeout, silence: None }))
}

/// A stream of which the beginning was read already, and that fails when its client takes nothing for too long.
pub(super) struct Sniffed<S> {
    read: Bytes,
    stream: TokioIo<S>,
    send_timeout: Duration,
    /// Runs while the client takes nothing.
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S> Sniffed<S> {
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

impl<S: AsyncRead + Unpin> Read for Sniffed<S> {
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

impl<S: AsyncWrite + Unpin> Write for Sniffed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn version_of(pieces: &[&[u8]]) -> (Version, Vec<u8>) {
        let mut mock = tokio_pieces(pieces);
        let (version, sniffed) = sniff(&mut mock, Duration::MAX).await.unwrap();
        (version, sniffed.read.to_vec())
    }

    /// A reader that yields one piece per read.
    fn tokio_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let pieces: Vec<_> = pieces.iter().map(|piece| io::Cursor::new(piece.to_vec())).collect();
        pieces.into_iter().fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
            Box::new(before.chain(piece))
        })
    }

    #[tokio::test]
    async fn tells_http2_by_its_whole_preface_in_any_pieces() {
        assert_eq!(version_of(&[PREFACE]).await.0, Version::Http2);
        assert_eq!(version_of(&[b"P", b"RI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\nmore"]).await.0, Version::Http2);
    }

    #[tokio::test]
    async fn all_else_is_http1_and_nothing_of_it_is_lost() {
        for pieces in [&[&b"POST / HTTP/1.1\r\n"[..]][..], &[b"P", b"RI", b" / HTTP/1.1\r\n"], &[b"\0"], &[]] {
            assert_eq!(version_of(pieces).await, (Version::Http1, pieces.concat()));
        }
    }
}
