//! A node may answer before it has read the whole of a request, and close. The rest of the request can then not be written,
//! while the answer waits to be read; hyper would give up the connection, and the answer with it. So a write that fails
//! because the other side is gone counts as done, and reading decides: it finds the answer, or the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::{Room, gather};

pub(super) struct Socket<T> {
    stream: T,
    /// Nobody takes what is written any more.
    deaf: bool,
}

impl<T> Socket<T> {
    pub(super) fn new(stream: T) -> Self {
        Socket { stream, deaf: false }
    }

    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut T) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(length));
        }
        match write(&mut self.stream) {
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.deaf = true;
                Poll::Ready(Ok(length))
            }
            done => done,
        }
    }
}

/// The kernel reports either once the other side has reset the connection, which ends reading too.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<T: AsyncRead + Unpin> AsyncRead for Socket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| Pin::new(stream).poll_write(cx, buf))
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
        let mut room = Room::new();
        if let Some(gathered) = gather(bufs, &mut room) {
            return self.write(gathered.len(), |stream| Pin::new(stream).poll_write(cx, gathered));
        }
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.write(length, |stream| Pin::new(stream).poll_write_vectored(cx, bufs))
    }
}
