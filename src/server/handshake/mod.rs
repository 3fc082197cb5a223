//! The handshakes of a connection before its first request: the PROXY protocol, then TLS.

mod described;
mod options;
pub(super) mod prefixed;
mod proxy_protocol;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;

use bytes::BytesMut;

use described::Described;
pub use options::ListenOptions;
use proxy_protocol::InvalidHeader;
#[cfg(fuzzing)]
pub(crate) use proxy_protocol::parse as parse_proxy_protocol;

use super::Handler;
use super::accept::{CurrentHandler, Serving, SharedServing};
use super::connection::serve;
use super::limits::ClientShares;
use super::socket::ClientSocket;
use super::stop::StopSignal;
use crate::body::BoxError;
use crate::clock::timer_in;
use crate::refusals::Refusal;
use crate::request::{ClientAddr, LocalAddr};

/// Serves a connection that was accepted from `peer`.
pub(super) async fn accepted<S: ClientSocket, H: Handler>(
    mut stream: S,
    mut peer: ClientAddr,
    serving: Arc<Serving<H>>,
    current: SharedServing<H>,
    shares: Option<ClientShares>,
    stop: StopSignal,
) -> Result<(), BoxError> {
    let limits = serving.limits.clone();
    if serving.options.is_plain() {
        // Dropped before the connection ends, because a reload replaces it.
        drop(serving);
        return serve(stream, peer, BytesMut::new(), CurrentHandler::of(&current), limits, stop).await;
    }
    let local = if serving.options.local_addr { stream.local_addr().map(LocalAddr) } else { None };
    let deadline = timer_in(limits.head_timeout);
    let mut read = BytesMut::new();
    let mut _share = None;
    if let Some(trusted) = &serving.options.proxy_protocol {
        if !trusted.trusts(peer) {
            let error = "the peer is not trusted to name clients by the PROXY protocol";
            Refusal::ProxyProtocol.report(peer.socket_addr(), &error);
            return Err(error.into());
        }
        let header = proxy_protocol::read(&mut stream, &mut read);
        let Some(header) = stop.before(deadline, header).await else { return Ok(()) };
        // A peer that sent nothing only checked whether the port is open.
        let header = header.inspect_err(|error| {
            if error.is::<InvalidHeader>() && !read.is_empty() {
                Refusal::ProxyProtocol.report(peer.socket_addr(), error);
            }
        });
        if let Some(client) = header? {
            peer = client.into();
            if let Some(shares) = shares.filter(|_| !serving.handler.trusts(peer)) {
                _share = shares.acquire(peer)?;
            }
        }
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &serving.options.tls {
        let tls = tls.config();
        drop(serving);
        return Box::pin(tls::serve_encrypted(stream, read, peer, tls, local, current, limits, stop, deadline)).await;
    }
    drop(serving);
    match local {
        Some(_) => {
            let handler = Described::new(current, local).handler(limits.clone());
            Box::pin(serve(stream, peer, read, handler, limits, stop)).await
        }
        None => serve(stream, peer, read, CurrentHandler::of(&current), limits, stop).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::sleep;

    use super::*;
    use crate::body::Body;
    use crate::proxy::TrustedProxies;
    use crate::server::limits::Limits;
    use crate::server::stop::StopStage;

    #[tokio::test(start_paused = true)]
    async fn a_client_whose_handshake_has_begun_is_served_though_the_server_stops() {
        let handler = |_: ClientAddr, _: Request<Body>| async { Response::new(Body::from("here")) };
        let options = ListenOptions::new().proxy_protocol(TrustedProxies::new(["127.0.0.0/8".parse().unwrap()]));
        let serving = Arc::new(Serving { handler, options, limits: Limits::default() });
        let current = Arc::new(arc_swap::ArcSwap::new(Arc::clone(&serving)));
        let peer: std::net::SocketAddr = "127.0.0.1:7".parse().unwrap();
        let (mut client, server) = duplex(1024);
        let (stage, stop) = StopSignal::channel(Arc::default());
        let served = tokio::spawn(accepted(server, peer.into(), serving, current, None, stop));
        stage.send_replace(StopStage::Draining);
        for piece in [&b"PROXY TCP4 192.0.2.1"[..], b" 192.0.2.2 80 80\r\n", b"GET / HTTP/1.0\r\n\r\n"] {
            sleep(Duration::from_millis(400)).await;
            client.write_all(piece).await.unwrap();
        }
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("here"), "{response:?}");
        served.await.unwrap().unwrap();
    }
}
