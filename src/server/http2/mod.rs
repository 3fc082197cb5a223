//! Serves HTTP/2 clients, with hyper's codec.

mod client_stream;
mod coalesce;
mod stream_stats;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use self::client_stream::ClientStream;
use self::stream_stats::{ResponseBody, StreamStats};
use super::Handler;
use super::client::Client;
use super::limits::Limits;
use crate::body::BoxError;

/// Serves requests until the client leaves, an error occurs or the server stops.
pub(super) async fn serve<S, H>(mut client: Client<H>, stream: S, read: BytesMut) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let Limits { head_timeout, send_timeout, max_streams, head, .. } = client.limits;
    let stats = Arc::new(StreamStats::default());
    let socket = ClientStream::new(stream, read.freeze(), send_timeout, Arc::clone(&stats));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams.get())
        .max_header_list_size(u32::try_from(head.bytes).unwrap_or(u32::MAX))
        // Closes the connection of a client that does not respond to pings.
        .keep_alive_interval(head_timeout)
        .serve_connection(socket, service(&client, &stats));
    let mut connection = Box::pin(connection);
    let (mut stopping, mut requests, mut idle_time) = (false, 0, Duration::ZERO);
    let check_interval = head_timeout.min(send_timeout);
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => return Ok(served?),
            () = client.stop.stopped(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(check_interval) => {
                // Dropping the connection cancels the responses that the client does not accept.
                if stats.has_stalled() {
                    return Err("the client accepts nothing of a response".into());
                }
                let is_idle = stats.is_idle() && stats.requests() == requests;
                idle_time = if is_idle { idle_time + check_interval } else { Duration::ZERO };
                requests = stats.requests();
                if idle_time >= head_timeout * 2 {
                    return Err("the idle client does not close its connection after GOAWAY".into());
                }
                if idle_time >= head_timeout {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn service<H: Handler>(
    client: &Client<H>,
    stats: &Arc<StreamStats>,
) -> impl Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: Send> + Unpin + use<H>
{
    let (handler, peer, stats) = (Arc::clone(&client.handler), client.peer, Arc::clone(stats));
    service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        let (head, body) = request.into_parts();
        let (body, in_flight) = stats.start_request(body.into());
        let request = Request::from_parts(head, body);
        async move {
            let response = handler.handle(peer, request).await;
            Ok::<_, Infallible>(in_flight.track(response))
        }
    })
}
