//! The socket to a node.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::UnixStream;

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed, because it is much larger than a socket.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<Stream>>),
}

/// Evaluates an expression for any kind of stream.
macro_rules! any {
    ($stream:expr, $socket:ident => $then:expr) => {
        match $stream {
            Stream::Tcp($socket) => $then,
            Stream::Unix($socket) => $then,
            #[cfg(feature = "tls")]
            Stream::Tls($socket) => $then,
        }
    };
}

impl Stream {
    /// Returns true if the other side has neither closed nor sent anything. Reading the runtime's
    /// state costs nothing, but it may be older than the kernel's.
    pub(super) fn is_quiet(&self, ask_kernel: bool) -> bool {
        match self {
            Stream::Tcp(tcp) => is_quiet(tcp, ask_kernel, TcpStream::poll_write_ready, TcpStream::try_read),
            Stream::Unix(unix) => is_quiet(unix, ask_kernel, UnixStream::poll_write_ready, UnixStream::try_read),
            // TLS reads nothing more while it holds decrypted bytes, or after the other side has
            // ended the session. Only bytes that the node sent and TLS has not read yet are in the
            // socket.
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => {
                let (socket, tls) = stream.get_ref();
                tls.wants_read() && socket.is_quiet(ask_kernel)
            }
        }
    }
}

#[inline]
fn is_quiet<S: AsFd>(
    socket: &S,
    ask_kernel: bool,
    poll_write_ready: impl FnOnce(&S, &mut Context<'_>) -> Poll<io::Result<()>>,
    try_read: impl FnOnce(&S, &mut [u8]) -> io::Result<usize>,
) -> bool {
    // An error means that the runtime of the socket is gone.
    if matches!(poll_write_ready(socket, &mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_))) {
        return false;
    }
    let read = match ask_kernel {
        true => SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]),
        false => try_read(socket, &mut [0]),
    };
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        any!(&mut *self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        any!(&mut *self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        any!(&mut *self, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        any!(&mut *self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn is_write_vectored(&self) -> bool {
        any!(self, socket => socket.is_write_vectored())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        any!(&mut *self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
