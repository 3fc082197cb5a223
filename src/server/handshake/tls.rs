//! TLS of a client's connection.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use rustls::HandshakeKind;
use rustls::server::{Accepted, Acceptor};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::described::Described;
use super::prefixed::Prefixed;
use crate::body::BoxError;
use crate::refusals::Refusal;
use crate::request::{ClientAddr, LocalAddr};
use crate::server::Handler;
use crate::server::accept::SharedServing;
use crate::server::connection::serve;
use crate::server::limits::Limits;
use crate::server::sniff::read_some;
use crate::server::socket::ClientSocket;
use crate::server::stop::StopSignal;
use crate::tls::{AcceptConfig, TlsConnection, TlsVersion};

/// Begins each record of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// The record of the fatal alert `unrecognized_name` (RFC 8446, 5.1 and 6), before any key is
/// agreed on.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The response to plain HTTP, with nginx's text.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 50\r\n\r\n\
    The plain HTTP request was sent to an HTTPS port.\n";

/// Serves a connection whose client has already sent `read`.
#[expect(clippy::too_many_arguments, reason = "each is a part of one connection, and this is the only caller")]
pub(super) async fn serve_encrypted<S: ClientSocket, H: Handler>(
    mut socket: S,
    mut read: BytesMut,
    peer: ClientAddr,
    tls: AcceptConfig,
    local: Option<LocalAddr>,
    current: SharedServing<H>,
    limits: Limits,
    stop: StopSignal,
    deadline: Instant,
) -> Result<(), BoxError> {
    if read.is_empty() {
        match stop.before(deadline, read_some(&mut socket, &mut read)).await {
            Some(Ok(true)) => {}
            Some(Ok(false)) | None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    if read[0] != HANDSHAKE {
        if read[0].is_ascii_uppercase() {
            Refusal::PlainHttp.report(peer.socket_addr(), &"plain HTTP was sent to a port of HTTPS");
            socket.write_all(PLAIN_HTTP).await?;
            socket.shutdown().await?;
        }
        return Err("the client does not speak TLS".into());
    }
    if let Some(names) = &tls.names {
        let hello = client_hello(&mut socket, &mut read);
        let Some(hello) = stop.before(deadline, hello).await else { return Ok(()) };
        if hello?.is_some_and(|hello| names.refuses(hello.client_hello().server_name())) {
            socket.write_all(&UNRECOGNIZED_NAME).await?;
            socket.shutdown().await?;
            return Err("TLS handshake: refused by the name that the client asks for".into());
        }
    }
    let handshake = TlsAcceptor::from(tls.rustls).accept(Prefixed { read: read.freeze(), socket });
    let Some(stream) = stop.before(deadline, handshake).await else { return Ok(()) };
    let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("TLS handshake: {error}")))?;
    let tls = describe(&stream);
    let handler = Described::new(current, local).tls(tls).handler(limits.clone());
    serve(stream, peer, BytesMut::new(), handler, limits, stop).await
}

/// Reads the first message of a client, and keeps its bytes in `read`. Returns `None` if it is
/// malformed: rustls then says so.
///
/// rustls itself refuses a name with the alert `access_denied`, from which clients do not learn the
/// reason.
async fn client_hello<S: ClientSocket>(socket: &mut S, read: &mut BytesMut) -> io::Result<Option<Accepted>> {
    let (mut acceptor, mut used) = (Acceptor::default(), 0);
    loop {
        while used < read.len() {
            used += acceptor.read_tls(&mut &read[used..])?;
            match acceptor.accept() {
                Ok(Some(hello)) => return Ok(Some(hello)),
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
        }
        if !read_some(socket, read).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Describes the connection after its handshake.
fn describe<S>(stream: &TlsStream<S>) -> TlsConnection {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    TlsConnection {
        version,
        cipher_suite: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        client_certificate: certificate.map(|certificate| certificate.as_ref().into()),
    }
}

impl<S: ClientSocket> ClientSocket for TlsStream<S> {
    fn reset_on_close(&self, on: bool) {
        self.get_ref().0.reset_on_close(on);
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.get_ref().0.local_addr()
    }
}
