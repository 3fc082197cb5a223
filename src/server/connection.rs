//! Serves the connection of one client.
//!
//! An idle connection is *parked*: it drops everything that is only needed to serve requests, and
//! keeps the socket and a timer. Thousands of clients that keep connections open, as JDBC pools do,
//! cost about a kilobyte each.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::accept::CurrentHandler;
use super::client::{Client, IdleConnection};
use super::limits::Limits;
use super::sniff::{Protocol, read_some, sniff};
use super::socket::ClientSocket;
use super::stop::{LAST_HEAD_TIMEOUT, StopSignal};
use super::{Handler, http1, http2};
use crate::body::BoxError;
use crate::clock::timer_in;
use crate::request::ClientAddr;

/// Serves requests until the client leaves, an error occurs or the server stops.
pub(super) async fn serve<S, H>(
    mut stream: S,
    peer: ClientAddr,
    mut read: BytesMut,
    mut handler: CurrentHandler<H>,
    limits: Limits,
    stop: StopSignal,
) -> Result<(), BoxError>
where
    S: ClientSocket,
    H: Handler,
{
    let key = if handler.get().trusts(peer) { None } else { peer.key() };
    let deadline = timer_in(limits.head_timeout);
    // `None` if the client did not send enough in time.
    let protocol = {
        let mut idle = stop.enter_idle(key);
        tokio::select! {
            biased;
            protocol = stop.before(deadline, sniff(&mut stream, &mut read)) => protocol.transpose()?,
            () = idle.closed() => return Ok(()),
        }
    };
    if read.is_empty() {
        return Ok(());
    }
    let Some(protocol) = protocol else { return Box::pin(http1::reject_slow(stream, peer, key, limits)).await };
    let client = Client { peer, key, handler, limits, stop };
    match protocol {
        Protocol::Http2 => Box::pin(http2::serve(client, stream, read)).await,
        Protocol::Http1 => client.http1(IdleConnection { stream, read, deadline }).await,
    }
}

impl<H: Handler> Client<H> {
    /// Serves requests, parks the connection, and serves again when bytes arrive.
    async fn http1<S: ClientSocket>(mut self, mut idle: IdleConnection<S>) -> Result<(), BoxError> {
        // Boxed, because it is polled in two places.
        let mut timer = Box::pin(sleep(Duration::ZERO));
        loop {
            // Boxed, so that its memory is free while the connection is parked.
            match Box::pin(http1::serve_until_idle(&mut self, idle, timer.as_mut())).await? {
                Some(parked) => idle = parked,
                None => return Ok(()),
            }
            timer.as_mut().reset(idle.deadline);
            let mut entry = self.stop.enter_idle(self.key);
            let has_bytes = tokio::select! {
                biased;
                has_bytes = read_some(&mut idle.stream, &mut idle.read) => has_bytes?,
                () = self.stop.stopped() => false,
                () = entry.closed() => false,
                () = timer.as_mut() => false,
            };
            if !has_bytes {
                // Over TLS, a close without an alert looks like an attack to the client.
                _ = timeout(LAST_HEAD_TIMEOUT, idle.stream.shutdown()).await;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::http1::PARK_DELAY;
    use super::super::stop::StopStage;
    use std::sync::Arc;

    use super::*;
    use crate::body::Body;
    use crate::http1::head::HeadLimits;
    use http::{Request, Response};
    use hyper_util::rt::TokioExecutor;
    use std::convert::Infallible;
    use std::pin::{Pin, pin};
    use std::task::Poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const REQUEST: &[u8] = b"GET /kylin HTTP/1.1\r\nHost: kylin\r\n\r\n";

    type Served = JoinHandle<Result<(), BoxError>>;

    fn start() -> (DuplexStream, Served, tokio::sync::watch::Sender<StopStage>) {
        let limits = Limits { head: HeadLimits { bytes: 8192, ..HeadLimits::default() }, ..Limits::default() };
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("here")) };
        let (client, server) = duplex(64 * 1024);
        let (sender, stop) = StopSignal::channel(Arc::default());
        let handler = CurrentHandler::fixed(handler, limits.clone());
        let served = tokio::spawn(serve(server, ClientAddr::Unix, BytesMut::new(), handler, limits, stop));
        (client, served, sender)
    }

    async fn response(client: &mut DuplexStream) {
        let mut read = Vec::new();
        while !read.ends_with(b"here") {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "{}", String::from_utf8_lossy(&read));
        }
    }

    // Time is paused in these tests. When all tasks wait, it moves to the next timer.

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_parked() {
        let (mut client, stream) = duplex(1024);
        let (_sender, stop) = StopSignal::channel(Arc::default());
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("here")) };
        let handler = CurrentHandler::fixed(handler, Limits::default());
        let mut serving = Client { peer: ClientAddr::Unix, key: None, handler, limits: Limits::default(), stop };
        client.write_all(REQUEST).await.unwrap();
        let began = timer_in(Duration::ZERO);
        let idle = IdleConnection { stream, read: BytesMut::new(), deadline: timer_in(Duration::from_secs(60)) };
        let mut timer = Box::pin(sleep(Duration::ZERO));
        let parked = http1::serve_until_idle(&mut serving, idle, timer.as_mut())
            .await
            .unwrap()
            .expect("the connection is still open");
        assert!(began.elapsed() >= PARK_DELAY && began.elapsed() < PARK_DELAY * 2, "{:?}", began.elapsed());
        assert!(parked.read.is_empty() && parked.deadline > began + Duration::from_secs(59));
        response(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_before_a_connection_is_parked_begins_after_its_request() {
        let took = PARK_DELAY * 10;
        let (mut client, stream) = duplex(1024);
        let (_sender, stop) = StopSignal::channel(Arc::default());
        let handler = move |_peer: ClientAddr, _request: Request<Body>| async move {
            sleep(took).await;
            Response::new(Body::from("here"))
        };
        let handler = CurrentHandler::fixed(handler, Limits::default());
        let mut serving = Client { peer: ClientAddr::Unix, key: None, handler, limits: Limits::default(), stop };
        let idle = IdleConnection { stream, read: BytesMut::new(), deadline: timer_in(Duration::from_secs(60)) };
        let (mut timer, began) = (Box::pin(sleep(Duration::ZERO)), timer_in(Duration::ZERO));
        let mut served = pin!(http1::serve_until_idle(&mut serving, idle, timer.as_mut()));
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            tokio::select! {
                () = response(&mut client) => {}
                _ = served.as_mut() => panic!("parked {:?} after it began", began.elapsed()),
            }
            // The client reads the response and sends the next request.
            assert!(timeout(PARK_DELAY / 2, served.as_mut()).await.is_err());
        }
        served.await.unwrap().expect("the connection is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_connection_serves_again() {
        let (mut client, served, _stop) = start();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            response(&mut client).await;
            sleep(PARK_DELAY * 3).await;
        }
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_arrives_in_pieces_survives_parking() {
        let (mut client, _served, _stop) = start();
        for _ in 0..2 {
            for piece in REQUEST.chunks(7) {
                client.write_all(piece).await.unwrap();
                sleep(PARK_DELAY * 3).await;
            }
            response(&mut client).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_and_a_client_that_never_returns_time_out() {
        for sent in [&REQUEST[..10], REQUEST, &[REQUEST, &REQUEST[..10]].concat()] {
            let (mut client, served, _stop) = start();
            client.write_all(sent).await.unwrap();
            let began = timer_in(Duration::ZERO);
            served.await.unwrap().unwrap();
            let took = began.elapsed();
            assert!(took > Duration::from_secs(59) && took < Duration::from_secs(62), "{took:?}");
            let mut read = String::new();
            client.read_to_string(&mut read).await.unwrap();
            assert_eq!(read.contains("HTTP/1.1 408 "), !sent.ends_with(b"\r\n\r\n"), "only a begun head: {read}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_head_does_not_delay_a_stop() {
        let (mut client, served, stop) = start();
        client.write_all(&[REQUEST, &REQUEST[..10]].concat()).await.unwrap();
        response(&mut client).await;
        stop.send_replace(StopStage::Draining);
        let began = timer_in(Duration::ZERO);
        served.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_just_connected_is_served_though_the_server_stops() {
        let (mut client, served, stop) = start();
        stop.send_replace(StopStage::Draining);
        sleep(Duration::from_millis(900)).await;
        client.write_all(REQUEST).await.unwrap();
        response(&mut client).await;
        served.await.unwrap().unwrap();
        // A client that sends nothing does not delay the stop any longer.
        for (age, wait) in [(0, 1_000), (600, 400), (30_000, 100)] {
            let (_client, served, stop) = start();
            sleep(Duration::from_millis(age)).await;
            stop.send_replace(StopStage::Draining);
            let began = timer_in(Duration::ZERO);
            served.await.unwrap().unwrap();
            assert_eq!(began.elapsed().as_millis(), wait, "{age} ms after it has connected");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_refused_however_it_arrives() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: kylin\r\nX: {}\r\n\r\n", "x".repeat(4000), "y".repeat(4200));
        for pieces in [long.len(), 1000] {
            let (mut client, served, _stop) = start();
            let (mut reader, mut writer) = tokio::io::split(&mut client);
            for piece in long.as_bytes().chunks(pieces) {
                // The server may respond and close before everything is sent.
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
        let (mut client, served, stop) = start();
        client.write_all(REQUEST).await.unwrap();
        response(&mut client).await;
        sleep(PARK_DELAY * 3).await;
        stop.send_replace(StopStage::Draining);
        served.await.unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    /// A body of this many bytes, in pieces of a kilobyte.
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

    /// Returns an HTTP/2 client of a handler whose responses have `size` bytes.
    async fn http2(size: usize) -> (Http2, JoinHandle<hyper::Result<()>>, Served, impl Drop) {
        let limits = Limits { send_timeout: Duration::from_secs(10), ..Limits::default() };
        let handler =
            move |_peer: ClientAddr, _request: Request<Body>| async move { Response::new(Body::new(Pieces(size))) };
        let (client, server) = duplex(64 * 1024);
        let (sender, stop) = StopSignal::channel(Arc::default());
        let handler = CurrentHandler::fixed(handler, limits.clone());
        let served = tokio::spawn(serve(server, ClientAddr::Unix, BytesMut::new(), handler, limits, stop));
        let io = hyper_util::rt::TokioIo::new(client);
        let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        (send, tokio::spawn(connection), served, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_client_is_closed() {
        let (mut send, client, served, _stop) = http2(3).await;
        let response = send.send_request(Request::get("http://kylin/").body(Body::empty()).unwrap()).await.unwrap();
        drop(response);
        let began = timer_in(Duration::ZERO);
        // The client may close first, after GOAWAY.
        _ = served.await.unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(90), "{took:?}");
        _ = client.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_accepts_nothing_of_one_response_is_cut_though_it_accepts_others() {
        let (mut send, _client, served, _stop) = http2(8 << 20).await;
        let get = || Request::get("http://kylin/").body(Body::empty()).unwrap();
        let stuck = send.send_request(get()).await.unwrap();
        let others = tokio::spawn(async move {
            for _ in 0..100 {
                let Ok(response) = send.send_request(get()).await else { break };
                _ = http_body_util::BodyExt::collect(response.into_body()).await;
                sleep(Duration::from_secs(1)).await;
            }
        });
        let began = timer_in(Duration::ZERO);
        let error = served.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("accepts nothing"), "{error}");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(30), "{took:?}");
        drop(stuck);
        others.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_sending_still_gets_the_response() {
        let (mut client, served, _stop) = start();
        let head = "POST /kylin HTTP/1.1\r\nHost: kylin\r\nContent-Length: 8388608\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        // The handler has responded and dropped the request long before all of the response is
        // sent.
        for _ in 0..128 {
            client.write_all(&[0; 65536]).await.unwrap();
        }
        response(&mut client).await;
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[test]
    fn the_future_of_a_parked_connection_is_small() {
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::empty()) };
        let served = serve(
            tokio::io::empty(),
            ClientAddr::Unix,
            BytesMut::new(),
            CurrentHandler::fixed(handler, Limits::default()),
            Limits::default(),
            StopSignal::channel(Arc::default()).1,
        );
        assert!(size_of_val(&served) <= 1792, "{}", size_of_val(&served));
    }
    #[test]
    fn the_future_that_serves_requests_is_small() {
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::empty()) };
        let (handler, limits) = (CurrentHandler::fixed(handler, Limits::default()), Limits::default());
        let stop = StopSignal::channel(Arc::default()).1;
        let mut client = Client { peer: ClientAddr::Unix, key: None, handler, limits, stop };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let idle =
            IdleConnection { stream: tokio::io::empty(), read: BytesMut::new(), deadline: timer_in(Duration::ZERO) };
        let mut timer = Box::pin(sleep(Duration::ZERO));
        let served = http1::serve_until_idle(&mut client, idle, timer.as_mut());
        // It is allocated and written when a parked connection serves again.
        assert!(size_of_val(&served) <= 4096, "{}", size_of_val(&served));
    }
}
