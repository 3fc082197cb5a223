use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use tokio::net::{TcpStream, lookup_host};

use super::Address;
use super::stream::Stream;
use crate::shortage::{self, is_shortage};

/// Connects to `address`.
pub(super) async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Socket(socket) => without_delay(connect_tcp(*socket).await?),
        Address::Name(name, port) => without_delay(connect_any(name, *port).await?),
        Address::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Stream::Unix),
    }
}

/// Encrypts `stream` if the node speaks TLS.
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
        io::ErrorKind::AddrNotAvailable if socket.is_ipv6() && !has_source(socket) => {
            io::ErrorKind::NetworkUnreachable.into()
        }
        _ => error,
    })
}

/// Returns whether this machine has an address from which it could reach `socket`. Linux reports a
/// machine without IPv6 in the same way as exhausted ports. Connecting a UDP socket sends nothing,
/// and uses no TCP port.
fn has_source(socket: SocketAddr) -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|probe| probe.connect(socket)).is_ok()
}

/// Connects to the first address of `name` that accepts. If none does, reports one failure:
/// preferably that an address was not reached, else a refused connection, else an address that
/// could not be tried.
async fn connect_any(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = None;
    // Resolvers report a shortage of descriptors as an unresolvable name.
    let sockets = lookup_host((name, port)).await.map_err(|error| shortage::of_descriptors().unwrap_or(error))?;
    for socket in sockets {
        match connect_tcp(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(graver(failure, error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

/// Returns which of two failures is reported: the more serious one, or the later of two that are
/// alike.
fn graver(earlier: Option<io::Error>, later: io::Error) -> io::Error {
    match earlier {
        Some(earlier) if gravity(&earlier) > gravity(&later) => earlier,
        _ => later,
    }
}

/// Ranks errors of several addresses; the highest rank is reported. A refused connection shows that
/// no process listens at an address. At an address that was not reached, a process may listen.
fn gravity(error: &io::Error) -> u8 {
    match error.kind() {
        _ if is_shortage(error) => 0,
        io::ErrorKind::ConnectionRefused => 1,
        _ => 2,
    }
}

/// Sets `TCP_NODELAY`. Requests are written whole, so waiting to fill a segment would only delay
/// them.
fn without_delay(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_not_reached_counts_most_and_one_that_could_not_be_tried_least() {
        let (refused, short) = (io::ErrorKind::ConnectionRefused, io::ErrorKind::AddrNotAvailable);
        let of = |kinds: &[io::ErrorKind]| {
            kinds.iter().fold(None, |failure, kind| Some(graver(failure, (*kind).into()))).unwrap().kind()
        };
        assert_eq!(of(&[refused, short]), refused);
        assert_eq!(of(&[short, refused]), refused);
        assert_eq!(of(&[short, refused, short]), refused);
        assert_eq!(of(&[short, short]), short);
        for unreached in [io::ErrorKind::HostUnreachable, io::ErrorKind::TimedOut, io::ErrorKind::ConnectionReset] {
            assert_eq!(of(&[unreached, refused]), unreached);
            assert_eq!(of(&[refused, unreached]), unreached);
            assert_eq!(of(&[short, unreached, refused, short]), unreached);
        }
    }

    /// Holds whether or not this machine has IPv6.
    #[tokio::test]
    async fn an_address_of_ipv6_at_which_nobody_listens_is_no_shortage() {
        let error = connect_tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, 1))).await.unwrap_err();
        assert!(!is_shortage(&error), "{error}");
    }
}
