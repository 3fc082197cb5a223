//! Serves HTTP/2 clients, with hyper's codec.

mod client_stream;
mod coalesce;
mod stream_stats;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use self::client_stream::ClientStream;
use self::stream_stats::{ResponseBody, StreamStats};
use super::client::Client;
use super::limits::Limits;
use super::{Handler, STOPPED};
use crate::body::{Body, BoxError};
use crate::http1::framing::declared_length;

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
    let stop = client.stop.clone();
    service_fn(move |request: Request<Incoming>| {
        let (handler, cutting) = (Arc::clone(&handler), stop.clone().cutting());
        let is_head = request.method() == Method::HEAD;
        let (head, body) = request.into_parts();
        let (body, in_flight) = stats.start_request(body.into());
        let request = Request::from_parts(head, body);
        async move {
            let mut response = tokio::select! {
                biased;
                response = handler.handle(peer, request) => response,
                () = cutting => STOPPED.response_without_url(),
            };
            if !is_head {
                check_length(&mut response);
            }
            Ok::<_, Infallible>(in_flight.track(response))
        }
    })
}

/// Makes a declared length agree with the body: the body's own size precedes, as in HTTP/1.1, and a body of unknown size fails if it
/// is longer or shorter. hyper checks neither.
fn check_length(response: &mut Response<Body>) {
    if response.status() == StatusCode::NOT_MODIFIED {
        return;
    }
    let Some(declared) = declared_length(response.headers()) else { return };
    match response.body().size_hint().exact() {
        Some(length) if length != declared => {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        Some(_) => {}
        None => response.body_mut().exactly(declared),
    }
}
