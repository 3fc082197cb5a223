use std::io;

use tokio::net::{TcpStream, lookup_host};

use super::Address;
use super::stream::Stream;

/// Makes a connection.
pub(super) async fn dial(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Socket(socket) => prompt(TcpStream::connect(socket).await?),
        Address::Name(host, port) => prompt(connect_any(host, *port).await?),
        #[cfg(unix)]
        Address::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Stream::Unix),
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
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
fn prompt(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}
