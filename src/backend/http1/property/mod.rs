//! Compares the codec with hyper's, on random bytes and requests.

mod responses;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::yield_now;

use self::responses::{change, changed, fragments, valid_response};
use super::connection::Connection;
use super::pool::{Pool, PoolSettings};
use super::response_body;
use super::response_head::ResponseHead;
use super::stream::Stream;
use crate::backend::SendError;
use crate::backend::Timeouts;
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::http1::head::HeadLimits;

const LIMIT: Duration = Duration::from_secs(60);

/// A response, to the extent that it arrived.
#[derive(Debug, PartialEq)]
struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    whole: bool,
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn pool() -> Arc<Pool> {
    let settings = PoolSettings { max_idle: 8, idle_timeout: LIMIT, ..PoolSettings::default() };
    Arc::new(Pool::new(settings, Arc::new(SystemClock)))
}

fn connection(pool: &Pool, stream: UnixStream) -> Box<Connection> {
    Box::new(Connection::new(Stream::Unix(stream), pool.open.acquire().unwrap(), SystemClock.now()))
}

fn request(method: &Method) -> Request<Body> {
    Request::builder().method(method).uri("/").header("host", "kylin").body(Body::empty()).unwrap()
}

async fn collect<B>(response: Response<B>) -> Received
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (head, mut rest) = response.into_parts();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(frame) = rest.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => body.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Received { status: head.status, headers: head.headers, body, whole }
}

/// Writes `bytes` in pieces that end at `cuts`, allows the reader to read each one, and closes.
async fn write(mut stream: UnixStream, bytes: &[u8], cuts: &[Index]) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let mut start = 0;
    for end in ends {
        _ = stream.write_all(&bytes[start..end]).await;
        start = end;
        for _ in 0..3 {
            yield_now().await;
        }
    }
    // Closes only the write half. This side still reads what the other side writes, so that the
    // kernel sends no reset.
    _ = stream.shutdown().await;
    _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

async fn exchange(connection: &mut Connection, mut request: Request<Body>) -> Result<ResponseHead, SendError> {
    connection.start(&mut request, Timeouts { head: LIMIT, ..Timeouts::default() });
    connection.response(HeadLimits::default()).await
}

/// Returns the response that the codec reads from `bytes`, and how many connections it keeps.
async fn ours(method: &Method, bytes: &[u8], cuts: &[Index]) -> (Option<Received>, usize) {
    let pool = pool();
    let (near, far) = UnixStream::pair().unwrap();
    let mut connection = connection(&pool, near);
    let read = async {
        let head = exchange(&mut connection, request(method)).await.ok()?;
        let body = response_body::new(connection, head.body, head.keep_alive, &pool);
        let received = collect(head.response.map(|()| body)).await;
        Some(received)
    };
    let mut read = Box::pin(read);
    let mut kept = 0;
    let both = async {
        let received = (&mut read).await;
        kept = pool.open.get();
        // The other side reads until this one closes.
        pool.clear();
        received
    };
    let (received, ()) = tokio::join!(both, write(far, bytes, cuts));
    (received, kept)
}

/// Returns the response that hyper reads from `bytes`.
async fn hypers(method: &Method, bytes: &[u8]) -> Option<Received> {
    let (near, far) = UnixStream::pair().unwrap();
    let request = Request::builder().method(method).uri("/").header("host", "kylin");
    let read = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        let driven = tokio::spawn(connection);
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        let received = match response {
            Ok(response) => Some(without_persistence(collect(response).await)),
            Err(_) => None,
        };
        drop(sender);
        driven.abort();
        received
    };
    tokio::join!(read, write(far, bytes, &[])).0
}

/// Removes the `Connection` headers that our codec leaves out.
fn without_persistence(mut received: Received) -> Received {
    let lower = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase();
    let mut values: Vec<_> = received.headers.get_all(CONNECTION).iter().cloned().collect();
    values.retain(|value| !matches!(&lower(value)[..], b"close" | b"keep-alive"));
    received.headers.remove(CONNECTION);
    values.into_iter().for_each(|value| _ = received.headers.append(CONNECTION, value));
    received
}

fn methods() -> impl Strategy<Value = Method> {
    select(vec![Method::GET, Method::GET, Method::HEAD, Method::POST])
}

/// Checks that an accepted response is what hyper reads from the same bytes, however they are split
/// into reads.
fn agrees(method: &Method, bytes: &[u8], cuts: &[Index]) -> Result<(), TestCaseError> {
    run(async {
        let (at_once, _) = ours(method, bytes, &[]).await;
        let (in_pieces, _) = ours(method, bytes, cuts).await;
        alike(&at_once, &in_pieces)?;
        let Some(mine) = at_once else { return Ok(()) };
        let Some(hypers) = hypers(method, bytes).await else {
            return Err(TestCaseError::fail(format!("hyper refuses what our codec reads as {mine:?}")));
        };
        prop_assert_eq!((&mine.status, &mine.headers), (&hypers.status, &hypers.headers));
        // Our codec refuses more than hyper, and never treats a truncated body as complete.
        if mine.whole {
            prop_assert_eq!(mine, hypers);
        } else {
            prop_assert!(hypers.body.starts_with(&mine.body) || mine.body.starts_with(&hypers.body));
        }
        Ok(())
    })
}

/// Checks that two responses are equal, except for how much of a truncated body arrived before its
/// error.
fn alike(one: &Option<Received>, other: &Option<Received>) -> Result<(), TestCaseError> {
    match (one, other) {
        (Some(one), Some(other)) if !one.whole && !other.whole => {
            prop_assert_eq!((one.status, &one.headers), (other.status, &other.headers));
            prop_assert!(one.body.starts_with(&other.body) || other.body.starts_with(&one.body));
        }
        (one, other) => prop_assert_eq!(one, other),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_response_is_received_as_sent(
        (bytes, sent) in valid_response(), cuts in vec(any::<Index>(), 0..12), extra in select(vec!["", "", "x", "HTTP/1.1 200 OK\r\n\r\n"]),
    ) {
        run(async {
            let framed = sent.headers.contains_key("content-length") || sent.headers.contains_key("transfer-encoding");
            let extra = if framed { extra } else { "" };
            let (received, kept) = ours(&Method::GET, &[&bytes, extra.as_bytes()].concat(), &cuts).await;
            prop_assert_eq!(received, Some(sent));
            // Extra bytes are found before the connection is kept if they arrive at once, or when
            // it is taken if they arrive later.
            prop_assert!(kept == 0 || framed);
            Ok(())
        })?;
    }

    #[test]
    fn a_corrupted_response_is_what_hyper_reads_or_an_error(
        method in methods(), (bytes, _) in valid_response(), changes in vec(change(), 1..4), cuts in vec(any::<Index>(), 0..6),
    ) {
        agrees(&method, &changed(bytes, &changes), &cuts)?;
    }

    #[test]
    fn fragments_of_responses_are_what_hyper_reads_or_an_error(
        method in methods(), bytes in fragments(), cuts in vec(any::<Index>(), 0..6),
    ) {
        agrees(&method, &bytes, &cuts)?;
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..400), cuts in vec(any::<Index>(), 0..6)) {
        agrees(&Method::GET, &bytes, &cuts)?;
        agrees(&Method::GET, &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]].concat(), &cuts)?;
    }

    #[test]
    fn a_server_reads_a_request_as_it_was_sent(
        method in select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X-OWN"]),
        target in "/[!$-;=?-Z_a-z~]{0,60}(\\?[!$-;=?-Z_a-z~]{0,60})?",
        headers in vec(("x-[a-z0-9_]{0,20}", "([!-~]([ -~\\t]{0,60}[!-~])?)?"), 0..30),
        pieces in vec(vec(any::<u8>(), 0..9000), 0..6),
        shape in 0..3_usize,
    ) {
        let all = pieces.concat();
        let mut request = Request::builder().method(method).uri(&target).header("host", "kylin");
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let body = match shape {
            0 => Body::from(all.clone()),
            1 => Body::new(Pieces(pieces.into_iter().map(Bytes::from).collect())),
            _ => {
                request = request.header("content-length", all.len());
                Body::new(Pieces(pieces.into_iter().map(Bytes::from).collect()))
            }
        };
        let request = request.body(body).unwrap();
        let (sent, target) = (request.headers().clone(), request.uri().clone());
        let (received, body) = run(served(request));
        prop_assert_eq!((received.method.as_str(), &received.uri), (method, &target));
        prop_assert_eq!(Bytes::from(all), body);
        let own = |headers: &HeaderMap| {
            let mut headers = headers.clone();
            headers.remove("content-length");
            headers.remove("transfer-encoding");
            headers
        };
        prop_assert_eq!(own(&received.headers), own(&sent));
    }
}

/// Sends `request` and another one to hyper's server on one connection. Returns the first request
/// as the server read it. No byte may remain between the two.
async fn served(request: Request<Body>) -> (http::request::Parts, Bytes) {
    let pool = pool();
    let (near, far) = UnixStream::pair().unwrap();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            sender.send((head, body.collect().await.unwrap().to_bytes())).unwrap();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"fine"))))
        }
    });
    let server = tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    let mut connection = connection(&pool, near);
    let head = exchange(&mut connection, request).await.unwrap();
    _ = collect(head.response.map(|()| response_body::new(connection, head.body, head.keep_alive, &pool))).await;
    let mut connection = pool.take().expect("the first exchange is complete");
    let next = Request::get("/next").header("host", "kylin").body(Body::empty()).unwrap();
    let head = exchange(&mut connection, next).await.unwrap();
    let next = collect(head.response.map(|()| response_body::new(connection, head.body, head.keep_alive, &pool))).await;
    assert_eq!(next.body, b"fine");
    pool.clear();
    server.await.unwrap().unwrap();
    let first = received.recv().await.unwrap();
    assert_eq!(received.recv().await.unwrap().0.uri, "/next");
    first
}

/// A body in pieces, some of them empty, of unknown length.
struct Pieces(std::collections::VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
