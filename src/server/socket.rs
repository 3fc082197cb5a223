use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::UnixStream;

/// The socket of a client.
pub(super) trait ClientSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Sets whether the socket is reset when it is closed for any reason, even by the end of the
    /// process.
    ///
    /// Only a reset tells an HTTP/1.0 client that a response without a length was truncated. A
    /// response with a length or in chunks needs no reset, which could cost the client bytes that
    /// it has not read yet.
    fn reset_on_close(&self, on: bool);

    /// Returns the address that the client connected to; `None` if it is not an IP address. Costs a
    /// system call.
    fn local_addr(&self) -> Option<SocketAddr>;
}

impl ClientSocket for TcpStream {
    fn reset_on_close(&self, on: bool) {
        if let Err(error) = SockRef::from(self).set_linger(on.then_some(Duration::ZERO)) {
            tracing::debug!(%error, "cannot set the linger time of a client's socket");
        }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        TcpStream::local_addr(self).ok()
    }
}

/// Unix sockets have no reset.
impl ClientSocket for UnixStream {
    fn reset_on_close(&self, _on: bool) {}

    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}

#[cfg(test)]
impl ClientSocket for tokio::io::DuplexStream {
    fn reset_on_close(&self, _on: bool) {}

    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}

#[cfg(test)]
impl ClientSocket for tokio::io::Empty {
    fn reset_on_close(&self, _on: bool) {}

    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }
}
