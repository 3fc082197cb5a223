//! Serves HTTP/2 clients, with hyper's codec.
//!
//! The codec cuts a fragment off `:path` (`http::uri::PathAndQuery`) before other code sees the
//! target, and leaves no trace of it. So such a request is served, although it is malformed (RFC
//! 9113, 8.3.1) and gets 400 over HTTP/1.1. Decisions and the node see the same remaining target,
//! so they cannot differ.

mod client_stream;
mod coalesce;
mod frame_scanner;
mod heads;
mod idle_watch;
mod sending;
mod stream_stats;
mod whole_frames;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use self::client_stream::ClientStream;
use self::frame_scanner::MAX_FRAME;
use self::idle_watch::IdleWatch;
use self::stream_stats::{ResponseBody, StreamExecutor, StreamStats};
use self::whole_frames::WholeFrames;
use super::client::Client;
use super::limits::Limits;
use super::stop::LAST_HEAD_TIMEOUT;
use super::{CUT, Handler, STOPPED};
use crate::body::{Body, BoxError};
use crate::buffer::Reservation;
use crate::http1::framing::{declared_length, is_close};
use crate::observe::CutScope;
use crate::proxy::ErrorResponse;
use crate::refusals::Refusal;

/// The bytes of a request body that a client may send before the handler reads them (nginx:
/// `http2_body_preread_size`). They are reserved in the budget while the request is in flight.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The bytes of all request bodies of a connection that a client may send before the handlers read
/// them.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// The bytes that hyper holds of one response until the client accepts them. They are reserved in
/// the budget.
const SEND_BUFFER: usize = 64 * 1024;

/// The bytes that a connection always has, for an incomplete head and again for the heads of
/// requests in flight.
///
/// They are available even if the budget is used up, because the number of connections is limited.
/// As with HTTP/1.1, they do not count for any client.
const MIN_RESERVED: usize = 4 * 1024;

/// The time after which a client that waits for memory tries again, because other connections may
/// have released bytes.
const MEMORY_RETRY_INTERVAL: Duration = Duration::from_millis(100);

const NO_MEMORY_FOR_BODY: ErrorResponse = ErrorResponse::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "the front end has no memory for the body of the request at present",
);

/// Serves requests until the client disconnects, an error occurs or the server stops.
pub(super) async fn serve<S, H>(mut client: Client<H>, stream: S, read: BytesMut) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let Limits { head_timeout, send_timeout, max_streams, head, .. } = client.limits;
    let reservation = || client.limits.buffers.reservation(client.key);
    let mut of_connection = client.limits.buffers.reservation(None);
    of_connection.grow_anyway(2 * MIN_RESERVED);
    let stats = Arc::new(StreamStats::new(reservation()));
    // More than the limit, so that the response can tell which part is too large. hyper refuses
    // larger heads.
    let max_list = u32::try_from(head.bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    let frames = WholeFrames::new(reservation(), max_list, head_timeout, client.peer.socket_addr());
    let socket = ClientStream::new(stream, read.freeze(), frames, send_timeout, Arc::clone(&stats));
    let connection = http2::Builder::new(StreamExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams.get())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(max_list)
        // Closes the connection of a client that does not respond to pings.
        .keep_alive_interval(head_timeout)
        .serve_connection(socket, service(&client, &stats));
    let mut connection = Box::pin(connection);
    let (mut stopping, mut requests, mut idle_time) = (false, 0, Duration::ZERO);
    let check_interval = head_timeout.min(send_timeout);
    let mut parked = IdleWatch::new(&client, &stats);
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => return Ok(served?),
            () = client.stop.stopped(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            // The task of the stream that has the response wakes this one.
            () = poll_fn(|_| if stats.is_closing() { Poll::Ready(()) } else { Poll::Pending }), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = poll_fn(|cx| parked.poll_closed(cx)), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
                // A request that is in flight ends before the connection does. The bytes of
                // responses that hyper still holds are sent, because a response counts as complete
                // as soon as hyper has it.
                if let Ok(served) = timeout(LAST_HEAD_TIMEOUT, connection.as_mut()).await {
                    return Ok(served?);
                }
            }
            () = sleep(check_interval) => {
                // Dropping the connection cancels the responses that the client does not accept.
                if stats.has_stalled() {
                    return Err("the client accepts nothing of a response".into());
                }
                let is_idle = stats.is_idle() && stats.requests() == requests;
                idle_time = if is_idle { idle_time.saturating_add(check_interval) } else { Duration::ZERO };
                requests = stats.requests();
                if idle_time >= head_timeout.saturating_mul(2) {
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
    let (current, peer, stats) = (Arc::clone(client.handler.shared()), client.peer, Arc::clone(stats));
    let key = client.key;
    let stop = client.stop.clone();
    service_fn(move |request: Request<Incoming>| {
        let (serving, cutting) = (current.load_full(), stop.clone().cutting());
        let is_head = request.method() == Method::HEAD;
        let (head, body) = request.into_parts();
        let (body, mut in_flight) = stats.start_request(body.into());
        let request = Request::from_parts(head, body);
        // The head is checked before the stream gets a task, so that a refused head need not wait
        // for the task.
        let mut admitted = in_flight.admit(request, &serving.limits, peer.socket_addr());
        async move {
            let limits = &serving.limits;
            if let Ok(request) = &admitted
                && !request.body().is_empty()
            {
                match reserve_window(request.body(), limits.buffers.reservation(key)).await {
                    Some(window) => in_flight.hold(window),
                    None => {
                        Refusal::NoMemory.report(peer.socket_addr(), &NO_MEMORY_FOR_BODY);
                        admitted = Err(NO_MEMORY_FOR_BODY);
                    }
                }
            }
            let mut response = match admitted {
                Ok(request) => {
                    let mut cut = CutScope::default();
                    let cutting = async {
                        cutting.await;
                        cut.enter(CUT);
                    };
                    tokio::select! {
                        biased;
                        response = serving.handler.handle(peer, request) => response,
                        // The handler has been dropped when the next line runs.
                        () = cutting => STOPPED.response_without_url(),
                    }
                }
                Err(error) => refusal(error),
            };
            if !is_head {
                check_length(&mut response);
            }
            // hyper removes this header, and others about the connection, which are malformed in
            // HTTP/2 (RFC 9113, 8.2.2).
            if response.headers().get_all(CONNECTION).iter().any(is_close) {
                in_flight.close_connection();
            }
            Ok::<_, Infallible>(in_flight.track(response, key, limits))
        }
    })
}

/// Reserves the bytes of a request body that hyper may hold.
async fn reserve_window(body: &Body, mut window: Reservation) -> Option<Reservation> {
    let bytes = body.size_hint().exact().unwrap_or(u64::MAX).min(STREAM_WINDOW.into());
    if bytes <= MIN_RESERVED as u64 {
        // The reservation grows even if the budget is used up.
        window.grow_anyway(bytes as usize);
        return Some(window);
    }
    window.grow_or_wait(bytes as usize).await.then_some(window)
}

/// Returns the response to a request that is not served. Unlike in HTTP/1.1, the connection stays
/// open.
fn refusal(error: ErrorResponse) -> Response<Body> {
    let mut response = error.response_without_url();
    response.headers_mut().remove(CONNECTION);
    response
}

/// Makes a declared length agree with the body, which hyper does not check.
///
/// A known size of the body takes precedence, as in HTTP/1.1. A body of unknown size fails if it is
/// longer or shorter than declared.
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
