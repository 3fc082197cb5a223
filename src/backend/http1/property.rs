//! The codec against hyper's, on whatever bytes and requests chance brings.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::yield_now;

use super::answer;
use super::connection::Connection;
use super::parse::{Head, Wire};
use super::pool::{Pool, Reuse};
use super::stream::Stream;
use crate::backend::SendError;
use crate::body::Body;
use crate::clock::{Clock, SystemClock};

const LIMIT: Duration = Duration::from_secs(60);
const WIRE: Wire = Wire { max_headers: 100, max_head_bytes: 64 * 1024 };

/// An answer as far as it came.
#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    whole: bool,
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn pool() -> Arc<Pool> {
    let reuse = Reuse { max_idle: 8, idle_timeout: LIMIT, max_uses: 0, max_age: None };
    Arc::new(Pool::new(reuse, 0, Arc::new(SystemClock)))
}

fn connection(pool: &Pool, stream: UnixStream) -> Box<Connection> {
    Box::new(Connection::new(Stream::Unix(stream), pool.open_slot().unwrap(), SystemClock.now()))
}

fn request(method: &Method) -> Request<Body> {
    Request::builder().method(method).uri("/").header("host", "kylin").body(Body::empty()).unwrap()
}

async fn collect<B>(answer: Response<B>) -> Seen
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (head, mut rest) = answer.into_parts();
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
    Seen { status: head.status, headers: head.headers, body, whole }
}

/// Writes `bytes` in pieces that end at `cuts`, each read before the next comes, and closes.
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
    // Only the end of what is sent: what is still being written to this side is taken, and not answered by a reset.
    _ = stream.shutdown().await;
    _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

async fn ask(connection: &mut Connection, mut request: Request<Body>) -> Result<Head, SendError> {
    let method = connection.begin(&mut request);
    connection.answer(method, LIMIT, WIRE).await
}

/// What the codec makes of `bytes`, and how many connections it keeps.
async fn ours(method: &Method, bytes: &[u8], cuts: &[Index]) -> (Option<Seen>, usize) {
    let pool = pool();
    let (near, far) = UnixStream::pair().unwrap();
    let mut connection = connection(&pool, near);
    let read = async {
        let head = ask(&mut connection, request(method)).await.ok()?;
        let body = answer::body(connection, head.framing, head.keeps, &pool);
        let seen = collect(head.response.map(|()| body)).await;
        Some(seen)
    };
    let mut read = Box::pin(read);
    let mut kept = 0;
    let both = async {
        let seen = (&mut read).await;
        kept = pool.open();
        // The other side reads until this one closes.
        pool.clear();
        seen
    };
    let (seen, ()) = tokio::join!(both, write(far, bytes, cuts));
    (seen, kept)
}

/// What hyper makes of `bytes`.
async fn hypers(method: &Method, bytes: &[u8]) -> Option<Seen> {
    let (near, far) = UnixStream::pair().unwrap();
    let request = Request::builder().method(method).uri("/").header("host", "kylin");
    let read = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        let driven = tokio::spawn(connection);
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        let seen = match answer {
            Ok(answer) => Some(without_own(collect(answer).await)),
            Err(_) => None,
        };
        drop(sender);
        driven.abort();
        seen
    };
    tokio::join!(read, write(far, bytes, &[])).0
}

/// Without the `Connection` fields that our codec keeps to itself.
fn without_own(mut seen: Seen) -> Seen {
    let small = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase();
    let mut values: Vec<_> = seen.headers.get_all(CONNECTION).iter().cloned().collect();
    values.retain(|value| !matches!(&small(value)[..], b"close" | b"keep-alive"));
    seen.headers.remove(CONNECTION);
    values.into_iter().for_each(|value| _ = seen.headers.append(CONNECTION, value));
    seen
}

/// Pieces of answers, good and bad, of which heads and bodies are made at random.
const SCRAPS: &str = "HTTP/1.1 200 OK\r\n|HTTP/1.1 204 No Content\r\n|HTTP/1.0 200 OK\r\n|HTTP/1.1 304 Not Modified\r\n|\
    HTTP/1.1 100 Continue\r\n\r\n| folded\r\n|HTTP/1.1 101 Switching Protocols\r\n|HTTP/1.1 500\r\n|\
    Content-Length: 5\r\n|Content-Length: 0\r\n|content-length:11\r\n|Content-Length: +5\r\n|\
    Transfer-Encoding: chunked\r\n|Transfer-Encoding: gzip, chunked\r\n|Connection: close\r\n|\
    Connection: keep-alive\r\n|X: y\r\n|X:\r\n|X : y\r\n|X: y\n|\r\n|\n|\r|\0|hello|5\r\nhello\r\n|\
    5;a=b\r\nhello\r\n|05\r\nhello\r\n|5 \r\nhello\r\n|5\nhello\n|0\r\n\r\n|0\r\n|0\r\nx: y\r\n\r\n|\
    \r\nhello|ffffffffffffffff\r\n";

fn scrap() -> impl Strategy<Value = &'static str> {
    select(SCRAPS.split('|').collect::<Vec<_>>())
}

fn scraps() -> impl Strategy<Value = Vec<u8>> {
    vec(scrap(), 0..12).prop_map(|scraps| scraps.concat().into_bytes())
}

/// A good answer: its bytes, and what they say.
fn good() -> impl Strategy<Value = (Vec<u8>, Seen)> {
    let chunk = (vec(any::<u8>(), 1..300), "(;[a-z]{0,5}(=\"?[a-z ]{0,5}\"?)?)?", 0..4_usize);
    let body = prop_oneof![
        vec(any::<u8>(), 0..20_000).prop_map(|body| {
            let head = format!("content-length: {}\r\n", body.len());
            (head, body.clone(), body)
        }),
        vec(any::<u8>(), 0..2000).prop_map(|body| (String::new(), body.clone(), body)),
        (vec(chunk, 0..20), vec("[a-z]{1,9}: [!-~]{0,20}\r\n", 0..4)).prop_map(|(chunks, trailers)| {
            let (mut wire, mut body) = (Vec::new(), Vec::new());
            for (data, extension, zeros) in chunks {
                wire.extend(format!("{}{:X}{extension}\r\n", "0".repeat(zeros), data.len()).bytes());
                wire.extend_from_slice(&data);
                wire.extend(b"\r\n");
                body.extend(data);
            }
            wire.extend(format!("0\r\n{}\r\n", trailers.concat()).bytes());
            ("transfer-encoding: Chunked\r\n".to_owned(), wire, body)
        }),
    ];
    let fields = vec(("x-[a-z]{0,20}", "([!-~]([ -~]{0,40}[!-~])?)?"), 0..20);
    (0..4_usize, select(vec![200_u16, 201, 404, 500, 599]), "[ -~]{0,20}", fields, body).prop_map(
        |(interim, status, reason, fields, (framing, wire, body))| {
            let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
            let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(interim);
            let head = format!("{interim}HTTP/1.1 {status} {reason}\r\n{lines}{framing}\r\n");
            let mut headers: HeaderMap = HeaderMap::new();
            for (name, value) in fields
                .into_iter()
                .chain(framing.trim_end().split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
            {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            ([head.as_bytes(), &wire].concat(), Seen { status, headers, body, whole: true })
        },
    )
}

/// What may happen to bytes on their way.
#[derive(Debug, Clone)]
enum Harm {
    Cut(Index),
    Set(Index, u8),
    Insert(Index, &'static str),
    Remove(Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<Index>().prop_map(Harm::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (any::<Index>(), scrap()).prop_map(|(at, scrap)| Harm::Insert(at, scrap)),
        any::<Index>().prop_map(Harm::Remove),
    ]
}

fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        match harm {
            Harm::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Harm::Insert(at, scrap) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, scrap.bytes());
            }
            Harm::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Harm::Remove(at) if !bytes.is_empty() => _ = bytes.remove(at.index(bytes.len())),
            _ => {}
        }
    }
    bytes
}

fn methods() -> impl Strategy<Value = Method> {
    select(vec![Method::GET, Method::GET, Method::HEAD, Method::POST])
}

/// What is accepted is what hyper reads in the same bytes, and the pieces that they come in change nothing.
fn agrees(method: &Method, bytes: &[u8], cuts: &[Index]) -> Result<(), TestCaseError> {
    run(async {
        let (at_once, _) = ours(method, bytes, &[]).await;
        let (in_pieces, _) = ours(method, bytes, cuts).await;
        alike(&at_once, &in_pieces)?;
        let Some(mine) = at_once else { return Ok(()) };
        let Some(hypers) = hypers(method, bytes).await else {
            return Err(TestCaseError::fail(format!("hyper refuses what is {mine:?} here")));
        };
        prop_assert_eq!((&mine.status, &mine.headers), (&hypers.status, &hypers.headers));
        // More is refused here than there, and never is anything whole that is not.
        if mine.whole {
            prop_assert_eq!(mine, hypers);
        } else {
            prop_assert!(hypers.body.starts_with(&mine.body) || mine.body.starts_with(&hypers.body));
        }
        Ok(())
    })
}

/// The same, but for how much of a body came before the error that ended it.
fn alike(one: &Option<Seen>, other: &Option<Seen>) -> Result<(), TestCaseError> {
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
    fn a_good_answer_is_what_it_says(
        (bytes, said) in good(), cuts in vec(any::<Index>(), 0..12), extra in select(vec!["", "", "x", "HTTP/1.1 200 OK\r\n\r\n"]),
    ) {
        run(async {
            let framed = said.headers.contains_key("content-length") || said.headers.contains_key("transfer-encoding");
            let extra = if framed { extra } else { "" };
            let (seen, kept) = ours(&Method::GET, &[&bytes, extra.as_bytes()].concat(), &cuts).await;
            prop_assert_eq!(seen, Some(said));
            // What follows at once is seen before the connection is kept, what follows later when it is taken.
            prop_assert!(kept == 0 || framed);
            Ok(())
        })?;
    }

    #[test]
    fn a_harmed_answer_is_what_hyper_reads_or_an_error(
        method in methods(), (bytes, _) in good(), harms in vec(harm(), 1..4), cuts in vec(any::<Index>(), 0..6),
    ) {
        agrees(&method, &harmed(bytes, &harms), &cuts)?;
    }

    #[test]
    fn scraps_of_answers_are_what_hyper_reads_or_an_error(
        method in methods(), bytes in scraps(), cuts in vec(any::<Index>(), 0..6),
    ) {
        agrees(&method, &bytes, &cuts)?;
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..400), cuts in vec(any::<Index>(), 0..6)) {
        agrees(&Method::GET, &bytes, &cuts)?;
        agrees(&Method::GET, &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]].concat(), &cuts)?;
    }

    #[test]
    fn a_request_is_read_by_a_server_as_it_was_meant(
        method in select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X-OWN"]),
        target in "/[!$-;=?-Z_a-z~]{0,60}(\\?[!$-;=?-Z_a-z~]{0,60})?",
        fields in vec(("x-[a-z0-9_]{0,20}", "([!-~]([ -~\\t]{0,60}[!-~])?)?"), 0..30),
        pieces in vec(vec(any::<u8>(), 0..9000), 0..6),
        shape in 0..3_usize,
    ) {
        let all = pieces.concat();
        let mut request = Request::builder().method(method).uri(&target).header("host", "kylin");
        for (name, value) in &fields {
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
        let (meant, target) = (request.headers().clone(), request.uri().clone());
        let (seen, body) = run(served(request));
        prop_assert_eq!((seen.method.as_str(), &seen.uri), (method, &target));
        prop_assert_eq!(Bytes::from(all), body);
        let own = |headers: &HeaderMap| {
            let mut headers = headers.clone();
            headers.remove("content-length");
            headers.remove("transfer-encoding");
            headers
        };
        prop_assert_eq!(own(&seen.headers), own(&meant));
    }
}

/// Twice what hyper's server makes of a request on one connection: the first, behind which nothing must be left.
async fn served(request: Request<Body>) -> (http::request::Parts, Bytes) {
    let pool = pool();
    let (near, far) = UnixStream::pair().unwrap();
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let say = say.clone();
        async move {
            let (head, body) = request.into_parts();
            say.send((head, body.collect().await.unwrap().to_bytes())).unwrap();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"fine"))))
        }
    });
    let server = tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    let mut connection = connection(&pool, near);
    let head = ask(&mut connection, request).await.unwrap();
    _ = collect(head.response.map(|()| answer::body(connection, head.framing, head.keeps, &pool))).await;
    let mut connection = pool.take().expect("both are over");
    let next = Request::get("/next").header("host", "kylin").body(Body::empty()).unwrap();
    let head = ask(&mut connection, next).await.unwrap();
    let seen = collect(head.response.map(|()| answer::body(connection, head.framing, head.keeps, &pool))).await;
    assert_eq!(seen.body, b"fine");
    pool.clear();
    server.await.unwrap().unwrap();
    let first = said.recv().await.unwrap();
    assert_eq!(said.recv().await.unwrap().0.uri, "/next");
    first
}

/// A body in pieces, empty ones among them, whose length nobody knows.
struct Pieces(std::collections::VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
