//! One client's connection.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Handler;
use super::accept::{Stop, stopped};
use super::builder::Limits;
use super::sniff::{Version, sniff};
use crate::body::{Body, BoxError};
use crate::request::ClientAddr;

/// How long a connection that is new when the server stops is given for its first byte: its request is on the way.
const FIRST_BYTE: Duration = Duration::from_millis(100);

/// Serves requests until the client leaves, an error occurs or the server stops.
pub(super) async fn serve<S, H>(
    stream: S,
    peer: ClientAddr,
    handler: Arc<H>,
    limits: Limits,
    mut stop: Stop,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut sniffed = pin!(timeout(limits.head_timeout, sniff(stream, limits.send_timeout)));
    let (version, stream) = tokio::select! {
        biased;
        sniffed = sniffed.as_mut() => sniffed??,
        () = stopped(&mut stop) => match timeout(FIRST_BYTE, sniffed).await {
            Ok(sniffed) => sniffed??,
            Err(_) => return Ok(()),
        },
    };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.handle(peer, request.map(Body::from)).await) }
    });
    match version {
        Version::Http1 => {
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.head_timeout)
                    .max_headers(limits.max_headers)
                    .max_buf_size(limits.max_head_bytes)
                    .keep_alive(limits.keep_alive)
                    .serve_connection(stream, service)
            );
            tokio::select! {
                biased;
                served = connection.as_mut() => return Ok(served?),
                () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
        Version::Http2 => {
            let mut connection = pin!(
                http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(limits.max_streams)
                    .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
                    // A client that does not even answer pings is gone.
                    .keep_alive_interval(limits.head_timeout)
                    .serve_connection(stream, service)
            );
            tokio::select! {
                biased;
                served = connection.as_mut() => return Ok(served?),
                () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
    }
}
