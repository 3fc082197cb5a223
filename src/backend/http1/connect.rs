use std::io;

use tokio::net::{TcpStream, lookup_host};

use super::Address;
use super::stream::Stream;

/// Connects to `address`.
pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Socket(socket) => without_delay(TcpStream::connect(socket).await?),
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

/// Connects to the first address of `name` that accepts.
async fn connect_any(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in lookup_host((name, port)).await? {
        match TcpStream::connect(socket).await {
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
