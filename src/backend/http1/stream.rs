//! The socket to a node.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
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
            #[cfg(unix)]
            Stream::Unix($socket) => $then,
            #[cfg(feature = "tls")]
            Stream::Tls($socket) => $then,
        }
    };
}

/// Evaluates an expression for the socket below a stream.
macro_rules! either {
    ($stream:expr, $socket:ident => $then:expr) => {
        match $stream {
            Stream::Tcp($socket) => $then,
            #[cfg(unix)]
            Stream::Unix($socket) => $then,
            // `socket` never returns an encrypted stream.
            #[cfg(feature = "tls")]
            Stream::Tls(_) => return false,
        }
    };
}

impl Stream {
    /// Returns true if the other side has neither closed nor sent anything. The runtime's state
    /// costs nothing, but may be older than the kernel's.
    pub(super) fn is_quiet(&self, ask_kernel: bool) -> bool {
        // TLS wants nothing more while it holds decrypted bytes, or after the other side has ended it.
        #[cfg(feature = "tls")]
        if let Stream::Tls(stream) = self
            && !stream.get_ref().1.wants_read()
        {
            return false;
        }
        let stream = self.socket();
        // An error means that the runtime of the socket is gone.
        let ready = either!(stream, socket => socket.poll_write_ready(&mut Context::from_waker(Waker::noop())));
        if matches!(ready, Poll::Ready(Err(_))) {
            return false;
        }
        let read = match ask_kernel {
            true => either!(stream, socket => SockRef::from(socket).peek(&mut [MaybeUninit::uninit()])),
            false => either!(stream, socket => socket.try_read(&mut [0])),
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Returns the stream without its encryption. Only what a node sent that TLS has not read yet is found there.
    fn socket(&self) -> &Stream {
        match self {
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.get_ref().0,
            stream => stream,
        }
    }
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
