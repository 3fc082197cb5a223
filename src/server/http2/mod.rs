//! A client that speaks HTTP/2. hyper does.

mod gather;
mod stream;
mod traffic;

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

use self::stream::ClientStream;
use self::traffic::{Answer, Traffic};
use super::Handler;
use super::connection::Client;
use super::limits::Limits;
use crate::body::BoxError;

/// Serves requests until the client leaves, an error occurs or the server stops.
pub(super) async fn serve<S, H>(mut client: Client<H>, stream: S, read: BytesMut) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let Limits { head_timeout, send_timeout, max_streams, max_head_bytes, .. } = client.limits;
    let traffic = Arc::new(Traffic::default());
    let socket = ClientStream::new(stream, read.freeze(), send_timeout, Arc::clone(&traffic));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
        // A client that does not even answer pings is gone.
        .keep_alive_interval(head_timeout)
        .serve_connection(socket, service(&client, &traffic));
    let mut connection = Box::pin(connection);
    let (mut stopping, mut requests, mut idle) = (false, 0, Duration::ZERO);
    let every = head_timeout.min(send_timeout);
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => return Ok(served?),
            () = client.stop.stopped(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(every) => {
                // Dropping the connection cancels what its client does not take.
                if traffic.has_stalled() {
                    return Err("a client takes nothing of an answer".into());
                }
                idle = if traffic.is_quiet() && traffic.requests() == requests { idle + every } else { Duration::ZERO };
                requests = traffic.requests();
                if idle >= head_timeout * 2 {
                    return Err("a client does not take the end of its connection".into());
                }
                if idle >= head_timeout {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn service<H: Handler>(
    client: &Client<H>,
    traffic: &Arc<Traffic>,
) -> impl Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible, Future: Send> + Unpin + use<H> {
    let (handler, peer, traffic) = (Arc::clone(&client.handler), client.peer, Arc::clone(traffic));
    service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        let (head, body) = request.into_parts();
        let (body, open) = traffic.request(body.into());
        let request = Request::from_parts(head, body);
        async move {
            let answer = handler.handle(peer, request).await;
            Ok::<_, Infallible>(open.answer(answer))
        }
    })
}
