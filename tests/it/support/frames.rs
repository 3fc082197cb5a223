//! Frames of an HTTP/2 client, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET http://k/`, with names from the static table only (RFC 7541, appendix A), except for the
/// authority.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x01k";

/// `GET http://k/w`.
pub(crate) const GET_W: &[u8] = b"\x82\x86\x04\x02/w\x01\x01k";

/// A timeout for events that must happen on any machine.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    connect_from([127, 0, 0, 1], address).await
}

/// Connects from a local address, to act as another client.
pub(crate) async fn connect_from(local: [u8; 4], address: SocketAddr) -> TcpStream {
    let mut stream = tcp_from(local, address).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Returns a TCP connection from a local address.
pub(crate) async fn tcp_from(local: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((local, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// A frame that the server sends.
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Returns the next frame, or `None` at the end of the connection.
pub(crate) async fn next_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Received> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.ok()?;
    let [long, middle, short, kind, _, id @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, long, middle, short]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Received { kind, stream: u32::from_be_bytes(id), payload })
}

/// Returns the kinds of the frames that arrive until the server closes the connection.
pub(crate) async fn kinds_until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(frame) = next_frame(stream).await {
        kinds.push(frame.kind);
    }
    kinds
}

/// Returns the error code of the GOAWAY that ends the connection (RFC 9113, 7); `None` if there is
/// none.
pub(crate) async fn goaway_code(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<u32> {
    let mut code = None;
    while let Some(frame) = next_frame(stream).await {
        if frame.kind == GOAWAY {
            code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
        }
    }
    code
}
