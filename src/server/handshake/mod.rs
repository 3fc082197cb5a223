//! What happens on a connection before its first request: the PROXY protocol, then TLS.

mod options;
#[cfg(feature = "tls")]
mod prefixed;
mod proxy_protocol;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

pub use options::ListenOptions;
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
use crate::request::ClientAddr;

/// Serves a connection that was accepted from `peer`.
pub(super) async fn accepted<S: ClientSocket, H: Handler>(
    mut stream: S,
    mut peer: ClientAddr,
    serving: Arc<Serving<H>>,
    current: SharedServing<H>,
    shares: Option<ClientShares>,
    mut stop: StopSignal,
) -> Result<(), BoxError> {
    let limits = serving.limits.clone();
    if serving.options.is_plain() {
        // Not kept for as long as the connection: a reload exchanges it.
        drop(serving);
        return serve(stream, peer, BytesMut::new(), CurrentHandler::of(&current), limits, stop).await;
    }
    let deadline = timer_in(limits.head_timeout);
    let mut read = BytesMut::new();
    let mut _share = None;
    if let Some(trusted) = &serving.options.proxy_protocol {
        if !trusted.trusts(peer) {
            return Err("the peer is not trusted to name clients by the PROXY protocol".into());
        }
        let header = proxy_protocol::read(&mut stream, &mut read);
        let Some(header) = before(deadline, &mut stop, header).await else { return Ok(()) };
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
        return Box::pin(tls::serve_encrypted(stream, read, peer, tls, current, limits, stop, deadline)).await;
    }
    drop(serving);
    serve(stream, peer, read, CurrentHandler::of(&current), limits, stop).await
}

/// Returns what `step` yields, or `None` if it takes too long or the server stops.
async fn before<T>(deadline: Instant, stop: &mut StopSignal, step: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = timeout_at(deadline, step) => done.ok(),
        () = stop.stopped() => None,
    }
}
