use std::io;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::pool::Slot;
use super::socket::Socket;
use super::{Address, Wire};
use crate::body::{Body, BoxError};
use crate::wire::HYPERS_MAX_HEADERS;

/// Makes a connection and starts the task that drives it. The task holds `slot` until the connection is over.
pub(super) async fn dial(address: &Address, wire: Wire, slot: Slot) -> Result<SendRequest<Body>, BoxError> {
    match address {
        Address::Socket(socket) => handshake(prompt(TcpStream::connect(socket).await?)?, wire, slot).await,
        Address::Name(host, port) => handshake(prompt(connect_any(host, *port).await?)?, wire, slot).await,
        #[cfg(unix)]
        Address::Unix(path) => handshake(tokio::net::UnixStream::connect(path).await?, wire, slot).await,
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}

/// Makes a connection and lets it go.
pub(super) async fn knock(address: &Address) -> Result<(), BoxError> {
    match address {
        Address::Socket(socket) => drop(TcpStream::connect(socket).await?),
        Address::Name(host, port) => drop(connect_any(host, *port).await?),
        #[cfg(unix)]
        Address::Unix(path) => drop(tokio::net::UnixStream::connect(path).await?),
        #[cfg(not(unix))]
        Address::Unix(_) => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
    Ok(())
}

/// The first of the host's addresses that takes the connection.
async fn connect_any(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in lookup_host((host, port)).await? {
        match TcpStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Requests are written whole; waiting for more to fill a segment only delays them.
fn prompt(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake<T>(stream: T, wire: Wire, slot: Slot) -> Result<SendRequest<Body>, BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(wire.max_head_bytes);
    if wire.max_headers != HYPERS_MAX_HEADERS {
        builder.max_headers(wire.max_headers);
    }
    let (sender, connection) = builder.handshake(TokioIo::new(Socket::new(stream))).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a node ended");
        }
        drop(slot);
    });
    Ok(sender)
}
