//! One client's connection.
//!
//! A connection that idles is *parked*: what serving requests takes is taken down, and nothing is kept but the socket and a
//! timer. Thousands of clients that keep their connections open, as JDBC pools do, then cost about a kilobyte each.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::limits::Limits;
use super::sniff::{Version, read_some, sniff};
use super::stop::Stop;
use super::{Handler, http1, http2};
use crate::body::BoxError;
use crate::clock::timer_in;
use crate::request::ClientAddr;

/// How long a connection is given for its first byte, or for the rest of a head, when the server stops: its request is on
/// the way.
pub(super) const FIRST_BYTE: Duration = Duration::from_millis(100);

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
        Version::Http2 => Box::pin(http2::serve(client, stream, read)).await,
        Version::Http1 => client.http1(Idle { stream, read, deadline }).await,
    }
}

/// Who is served, by whom, and within what.
pub(super) struct Client<H> {
    pub(super) peer: ClientAddr,
    pub(super) handler: Arc<H>,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
}

/// A connection that idles: its socket, and what was read of a next request.
pub(super) struct Idle<S> {
    pub(super) stream: S,
    pub(super) read: BytesMut,
    /// When the head of the next request has to be complete.
    pub(super) deadline: Instant,
}

impl<H: Handler> Client<H> {
    /// Serves, parks and serves again.
    async fn http1<S>(mut self, mut idle: Idle<S>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Boxed, for it is polled in more than one place.
        let mut timer = Box::pin(sleep(Duration::ZERO));
        loop {
            // Boxed, so that it is gone while the connection is parked.
            match Box::pin(http1::until_idle(&mut self, idle, timer.as_mut())).await? {
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
}

#[cfg(test)]
mod tests {
    use super::super::http1::PARK;
    use super::*;
    use crate::body::Body;
    use http::{Request, Response};
    use hyper_util::rt::TokioExecutor;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::Poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const REQUEST: &[u8] = b"GET /kylin HTTP/1.1\r\nHost: kylin\r\n\r\n";

    type Served = JoinHandle<Result<(), BoxError>>;

    fn start() -> (DuplexStream, Arc<impl Handler>, Served, tokio::sync::watch::Sender<Option<Duration>>) {
        let limits = Limits { max_head_bytes: 8192, ..Limits::default() };
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
    async fn a_connection_that_idles_is_parked() {
        let (mut client, stream) = duplex(1024);
        let (_sender, stop) = Stop::channel();
        let handler = |_peer: ClientAddr, _request: Request<Body>| async { Response::new(Body::from("here")) };
        let mut serving =
            Client { peer: ClientAddr::Unix, handler: Arc::new(handler), limits: Limits::default(), stop };
        client.write_all(REQUEST).await.unwrap();
        let began = timer_in(Duration::ZERO);
        let idle = Idle { stream, read: BytesMut::new(), deadline: timer_in(Duration::from_secs(60)) };
        let mut timer = Box::pin(sleep(Duration::ZERO));
        let parked = http1::until_idle(&mut serving, idle, timer.as_mut()).await.unwrap().expect("it is not over");
        assert!(began.elapsed() >= PARK && began.elapsed() < PARK * 2, "{:?}", began.elapsed());
        assert!(parked.read.is_empty() && parked.deadline > began + Duration::from_secs(59));
        answer(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_parked_serves_again() {
        let (mut client, _handler, served, _stop) = start();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            answer(&mut client).await;
            sleep(PARK * 3).await;
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
        let limits = Limits { send_timeout: Duration::from_secs(10), ..Limits::default() };
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
        let served =
            serve(tokio::io::empty(), ClientAddr::Unix, Arc::new(handler), Limits::default(), Stop::channel().1);
        assert!(size_of_val(&served) <= 1792, "{}", size_of_val(&served));
    }
}
