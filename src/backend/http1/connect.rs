use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, lookup_host};

use super::Address;
use super::stream::Stream;
use crate::shortage;

/// Connects to `address`.
pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Socket(socket) => without_delay(connect_tcp(*socket).await?),
        Address::Name(name, port) => without_delay(connect_any(name, *port).await?),
        #[cfg(unix)]
        Address::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Stream::Unix),
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Makes `stream` encrypted, if the node speaks TLS.
#[cfg(feature = "tls")]
pub(super) async fn secure(stream: Stream, tls: Option<&crate::tls::TlsConnector>) -> io::Result<Stream> {
    let Some(crate::tls::TlsConnector { config, name }) = tls else { return Ok(stream) };
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(config));
    connector.connect(name.clone(), stream).await.map(|stream| Stream::Tls(Box::new(stream)))
}

/// Connects to an address. Linux fails with `EAGAIN` if it has no port left for the connection.
async fn connect_tcp(socket: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::AddrNotAvailable.into(),
        _ => error,
    })
}

/// Connects to the first address of `name` that accepts.
async fn connect_any(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // Resolvers report a shortage of descriptors as a name that cannot be resolved.
    let sockets = lookup_host((name, port)).await.map_err(|error| shortage::of_descriptors().unwrap_or(error))?;
    for socket in sockets {
        match connect_tcp(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sets `TCP_NODELAY`: requests are written whole, and waiting to fill a segment only delays them.
fn without_delay(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}
