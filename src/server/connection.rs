//! One client's connection.
//!
//! A connection that idles is *parked*: hyper's state with its buffers is taken down, and nothing is kept but the socket and
//! a timer. Thousands of clients that keep their connections open, as JDBC pools do, then cost about a kilobyte each.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

use super::Handler;
use super::limits::Limits;
use super::sniff::{Version, read_some, sniff};
use super::stop::Stop;
use super::stream::ClientStream;
use super::traffic::{Answer, Traffic};
use super::wire::HYPERS_MAX_HEADERS;
use crate::body::{Body, BoxError};
use crate::clock::timer_in;
use crate::request::ClientAddr;

/// How long a connection is given for its first byte, or for the rest of a head, when the server stops: its request is on
/// the way.
const FIRST_BYTE: Duration = Duration::from_millis(100);

/// After how long an idle connection is parked.
const PARK: Duration = Duration::from_millis(50);

/// The same for one that has had several requests in that time: it is likely to have more.
const PARK_WHEN_BUSY: Duration = Duration::from_secs(1);

/// Serves requests until the client leaves, an error occurs or the server stops.
pub(super) async fn serve<S, H>(
    mut stream: S,
    peer: ClientAddr,
    handler: Arc<H>,
    limits: Limits,
    mut stop: Stop,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut read = BytesMut::new();
    let deadline = timer_in(limits.head_timeout);
    let version = {
        let mut sniffed = pin!(timeout_at(deadline, sniff(&mut stream, &mut read)));
        tokio::select! {
            biased;
            version = sniffed.as_mut() => version??,
            () = stop.stopped() => match timeout(FIRST_BYTE, sniffed).await {
                Ok(version) => version??,
                Err(_) => return Ok(()),
            },
        }
    };
    if read.is_empty() {
        return Ok(());
    }
    let client = Client { peer, handler, limits, stop };
    match version {
        Version::Http2 => client.http2(stream, read).await,
        Version::Http1 => client.http1(Idle { stream, read, deadline }).await,
    }
}

struct Client<H> {
    peer: ClientAddr,
    handler: Arc<H>,
    limits: Limits,
    stop: Stop,
}

/// A connection that idles: its socket, and what was read of a next request.
struct Idle<S> {
    stream: S,
    read: BytesMut,
    /// When the head of the next request has to be complete.
    deadline: Instant,
}

impl<H: Handler> Client<H> {
    async fn http1<S>(mut self, mut idle: Idle<S>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Boxed, for it is polled in more than one place.
        let mut timer = Box::pin(sleep(Duration::ZERO));
        loop {
            match self.http1_until_idle(idle, timer.as_mut()).await? {
                Some(parked) => idle = parked,
                None => return Ok(()),
            }
            timer.as_mut().reset(idle.deadline);
            let comes = tokio::select! {
                biased;
                comes = read_some(&mut idle.stream, &mut idle.read) => comes?,
                () = self.stop.stopped() => false,
                () = timer.as_mut() => false,
            };
            if !comes {
                return Ok(());
            }
        }
    }

    /// Serves requests until none has come for a while; none when the connection is over.
    async fn http1_until_idle<S>(
        &mut self,
        idle: Idle<S>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<Option<Idle<S>>, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Limits { head_timeout, send_timeout, max_headers, max_head_bytes, keep_alive, .. } = self.limits;
        let traffic = Arc::new(Traffic::default());
        let mut builder = http1::Builder::new();
        builder.max_buf_size(max_head_bytes).keep_alive(keep_alive).header_read_timeout(None);
        if max_headers != HYPERS_MAX_HEADERS {
            builder.max_headers(max_headers);
        }
        let Idle { mut stream, mut read, mut deadline } = idle;
        // How many requests there had been when a head was found that had begun and was not complete.
        let mut slow_head = None;
        loop {
            let client = ClientStream::new(stream, read.freeze(), send_timeout, Arc::clone(&traffic));
            let mut connection = Box::new(builder.serve_connection(client, self.service(&traffic)));
            let park = timer_in(PARK.min(head_timeout));
            let wait = if slow_head.is_some() { deadline } else { park.min(deadline) };
            if !until_idle(&mut *connection, &traffic, timer.as_mut(), wait, &mut self.stop).await? {
                return Ok(None);
            }
            if slow_head == Some(traffic.requests()) {
                return Ok(None);
            }
            if traffic.requests() > slow_head.unwrap_or(0) {
                deadline = timer_in(head_timeout);
            }
            let parts = connection.into_parts();
            stream = parts.io.into_inner();
            read = BytesMut::from(parts.read_buf);
            if read.is_empty() {
                return Ok(Some(Idle { stream, read, deadline }));
            }
            slow_head = Some(traffic.requests());
        }
    }

    async fn http2<S>(mut self, stream: S, read: BytesMut) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Limits { head_timeout, send_timeout, max_streams, max_head_bytes, .. } = self.limits;
        let traffic = Arc::new(Traffic::watching_deliveries());
        let client = ClientStream::new(stream, read.freeze(), send_timeout, Arc::clone(&traffic));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(max_streams)
            .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
            // A client that does not even answer pings is gone.
            .keep_alive_interval(head_timeout)
            .serve_connection(client, self.service(&traffic));
        let mut connection = Box::pin(connection);
        let (mut stopping, mut requests, mut idle) = (false, 0, Duration::ZERO);
        let every = head_timeout.min(send_timeout);
        loop {
            tokio::select! {
                biased;
                served = connection.as_mut() => return Ok(served?),
                () = self.stop.stopped(), if !stopping => {
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

    fn service(
        &self,
        traffic: &Arc<Traffic>,
    ) -> impl Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible, Future: Send> + Unpin + use<H>
    {
        let (handler, peer, traffic) = (Arc::clone(&self.handler), self.peer, Arc::clone(traffic));
        let max_head_bytes = self.limits.max_head_bytes;
        service_fn(move |request: Request<Incoming>| {
            let handler = Arc::clone(&handler);
            let (head, body) = request.into_parts();
            let (body, open) = traffic.request(body.into());
            let request = Request::from_parts(head, body);
            async move {
                // hyper looks at the size of a head only while that is not complete.
                let answer = match head_bytes(&request) > max_head_bytes {
                    true => too_large(),
                    false => handler.handle(peer, request).await,
                };
                Ok::<_, Infallible>(open.answer(answer))
            }
        })
    }
}

/// What a head takes on the wire; a colon, a space and the end of the line go with each field.
fn head_bytes(request: &Request<Body>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    target + fields.sum::<usize>()
}

fn too_large() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Drives an HTTP/1 connection until it idles at the moment `first`, or later when it was busy by then; false when it is
/// over.
async fn until_idle<S, C>(
    connection: &mut http1::Connection<ClientStream<S>, C>,
    traffic: &Traffic,
    mut timer: Pin<&mut Sleep>,
    first: Instant,
    stop: &mut Stop,
) -> Result<bool, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible> + Unpin,
{
    // The signal to stop is polled once, to be woken by it, and again when it is there: not with every read and write.
    let signal = stop.clone();
    let mut stopped = pin!(stop.stopped());
    let mut watching = false;
    let mut stopping = false;
    // How many requests there had been when the timer was set. It is left to run out rather than set anew each time.
    let mut timed = None;
    let mut next = first;
    poll_fn(|cx| {
        if let Poll::Ready(served) = Pin::new(&mut *connection).poll(cx) {
            return Poll::Ready(served.map(|()| false).map_err(Into::into));
        }
        if !stopping && (!std::mem::replace(&mut watching, true) || signal.is_set()) {
            stopping = stopped.as_mut().poll(cx).is_ready();
            if stopping {
                // A head that has begun has only as long as a first byte.
                (timed, next) = (None, timer_in(FIRST_BYTE));
                Pin::new(&mut *connection).graceful_shutdown();
                if let Poll::Ready(served) = Pin::new(&mut *connection).poll(cx) {
                    return Poll::Ready(served.map(|()| false).map_err(Into::into));
                }
            }
        }
        while traffic.is_idle() {
            match timed {
                None => {
                    timer.as_mut().reset(next);
                    timed = Some(traffic.requests());
                }
                Some(requests) => {
                    ready!(timer.as_mut().poll(cx));
                    if requests == traffic.requests() {
                        return Poll::Ready(Ok(!stopping));
                    }
                    (timed, next) = (None, timer_in(PARK_WHEN_BUSY));
                }
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const REQUEST: &[u8] = b"GET /kylin HTTP/1.1\r\nHost: kylin\r\n\r\n";

    type Served = JoinHandle<Result<(), BoxError>>;

    fn start() -> (DuplexStream, Arc<impl Handler>, Served, tokio::sync::watch::Sender<Option<Duration>>) {
        let limits = Limits {
            head_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            max_headers: 100,
            max_head_bytes: 8192,
            max_streams: 1,
            keep_alive: true,
        };
        let handler =
            Arc::new(|_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("here")) });
        let (client, server) = duplex(64 * 1024);
        let (sender, stop) = Stop::channel();
        let served = tokio::spawn(serve(server, ClientAddr::Unix, Arc::clone(&handler), limits, stop));
        (client, handler, served, sender)
    }

    async fn answer(client: &mut DuplexStream) {
        let mut read = Vec::new();
        while !read.ends_with(b"here") {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "{}", String::from_utf8_lossy(&read));
        }
    }

    // Time stands still in these tests but where everybody waits; then it leaps to the next timer.

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_idles_is_parked_and_serves_again() {
        let (mut client, handler, served, _stop) = start();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            answer(&mut client).await;
            assert_eq!(Arc::strong_count(&handler), 3, "the test, the connection and what serves its requests");
            sleep(PARK * 3).await;
            assert_eq!(Arc::strong_count(&handler), 2, "parked");
        }
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_in_pieces_survives_the_parking() {
        let (mut client, _handler, _served, _stop) = start();
        for _ in 0..2 {
            for piece in REQUEST.chunks(7) {
                client.write_all(piece).await.unwrap();
                sleep(PARK * 3).await;
            }
            answer(&mut client).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_and_a_client_that_never_comes_back_are_given_up() {
        for sent in [&REQUEST[..10], REQUEST, &[REQUEST, &REQUEST[..10]].concat()] {
            let (mut client, _handler, served, _stop) = start();
            client.write_all(sent).await.unwrap();
            let began = timer_in(Duration::ZERO);
            served.await.unwrap().unwrap();
            let took = began.elapsed();
            assert!(took > Duration::from_secs(59) && took < Duration::from_secs(62), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_does_not_hold_up_a_stop() {
        let (mut client, _handler, served, stop) = start();
        client.write_all(&[REQUEST, &REQUEST[..10]].concat()).await.unwrap();
        answer(&mut client).await;
        stop.send_replace(Some(Duration::from_secs(5)));
        let began = timer_in(Duration::ZERO);
        served.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_refused_however_it_comes() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: kylin\r\nX: {}\r\n\r\n", "x".repeat(4000), "y".repeat(4200));
        for pieces in [long.len(), 1000] {
            let (mut client, _handler, served, _stop) = start();
            let (mut reader, mut writer) = tokio::io::split(&mut client);
            for piece in long.as_bytes().chunks(pieces) {
                // The server may have answered and closed before all of it.
                _ = writer.write_all(piece).await;
            }
            let mut read = String::new();
            reader.read_to_string(&mut read).await.unwrap();
            assert!(read.starts_with("HTTP/1.1 431 "), "{read}");
            _ = served.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_connection_ends_when_the_server_stops() {
        let (mut client, _handler, served, stop) = start();
        client.write_all(REQUEST).await.unwrap();
        answer(&mut client).await;
        sleep(PARK * 3).await;
        stop.send_replace(Some(Duration::from_secs(5)));
        served.await.unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    /// A body of so many bytes in pieces of a kilobyte.
    struct Pieces(usize);

    impl http_body::Body for Pieces {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
            let piece = self.0.min(1024);
            self.0 -= piece;
            Poll::Ready((piece > 0).then(|| Ok(http_body::Frame::data(bytes::Bytes::from(vec![0; piece])))))
        }
    }

    type Http2 = hyper::client::conn::http2::SendRequest<Body>;

    /// A client that speaks HTTP/2 to a handler, which answers with `size` bytes.
    async fn http2(size: usize) -> (Http2, JoinHandle<hyper::Result<()>>, Served, impl Drop) {
        let limits = Limits {
            head_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(10),
            max_headers: 100,
            max_head_bytes: 8192,
            max_streams: 100,
            keep_alive: true,
        };
        let handler =
            move |_peer: ClientAddr, _request: Request<Body>| async move { Response::new(Body::new(Pieces(size))) };
        let (client, server) = duplex(64 * 1024);
        let (sender, stop) = Stop::channel();
        let served = tokio::spawn(serve(server, ClientAddr::Unix, Arc::new(handler), limits, stop));
        let io = hyper_util::rt::TokioIo::new(client);
        let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        (send, tokio::spawn(connection), served, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_asks_for_nothing_more_is_let_go() {
        let (mut send, client, served, _stop) = http2(3).await;
        let answer = send.send_request(Request::get("http://kylin/").body(Body::empty()).unwrap()).await.unwrap();
        drop(answer);
        let began = timer_in(Duration::ZERO);
        // The client may have closed first, once it was told.
        _ = served.await.unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(90), "{took:?}");
        _ = client.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_takes_nothing_of_one_answer_is_cut_off_though_it_takes_others() {
        let (mut send, _client, served, _stop) = http2(8 << 20).await;
        let get = || Request::get("http://kylin/").body(Body::empty()).unwrap();
        let stuck = send.send_request(get()).await.unwrap();
        let others = tokio::spawn(async move {
            for _ in 0..100 {
                let Ok(answer) = send.send_request(get()).await else { break };
                _ = http_body_util::BodyExt::collect(answer.into_body()).await;
                sleep(Duration::from_secs(1)).await;
            }
        });
        let began = timer_in(Duration::ZERO);
        let error = served.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("takes nothing"), "{error}");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(30), "{took:?}");
        drop(stuck);
        others.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_sending_still_gets_the_answer_that_told_it_to_stop() {
        let (mut client, _handler, served, _stop) = start();
        let head = "POST /kylin HTTP/1.1\r\nHost: kylin\r\nContent-Length: 8388608\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        // The handler has answered and forgotten the request long before all of it is sent.
        for _ in 0..128 {
            client.write_all(&[0; 65536]).await.unwrap();
        }
        answer(&mut client).await;
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[test]
    fn what_a_parked_connection_holds_is_small() {
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::empty()) };
        let limits = Limits {
            head_timeout: PARK,
            send_timeout: PARK,
            max_headers: 1,
            max_head_bytes: 8192,
            max_streams: 1,
            keep_alive: true,
        };
        let served = serve(tokio::io::empty(), ClientAddr::Unix, Arc::new(handler), limits, Stop::channel().1);
        assert!(size_of_val(&served) <= 1792, "{}", size_of_val(&served));
    }
}
