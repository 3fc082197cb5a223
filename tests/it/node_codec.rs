//! Malformed, unsolicited or late responses of nodes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::{NonZero, NonZeroUsize};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::backend::Timeouts;
use kylin_lb::body::BodyError;
use kylin_lb::{Backend, Body, HttpBackend, SendError};
use tokio::time::Instant;

use crate::support::front::{Front, refusal};
use crate::support::raw_node::{Act, RawNode, healthy, ok, respond};

fn get() -> Request<Body> {
    Request::get("/").header("host", "kylin").body(Body::empty()).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::post("/").header("host", "kylin").body(body).unwrap()
}

fn to(address: SocketAddr) -> HttpBackend {
    HttpBackend::new(&address.to_string()).unwrap()
}

async fn whole(response: Response<Body>) -> Result<Bytes, BodyError> {
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Sends a GET to a node that responds with these bytes.
async fn get_from(response: impl Into<Vec<u8>>) -> Result<Response<Body>, SendError> {
    let node = RawNode::start([respond(response)]).await;
    to(node.address()).send(get()).await
}

#[tokio::test]
async fn interim_responses_are_skipped_up_to_a_limit() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints\r\nLink: </a>"] {
        let interim = format!("HTTP/1.1 {interim}\r\n\r\n");
        let after = |count: usize| [interim.repeat(count).into_bytes(), ok("final")].concat();
        assert_eq!(whole(get_from(after(16)).await.unwrap()).await.unwrap(), "final");
        assert_eq!(get_from(after(17)).await.unwrap_err().kind(), SendErrorKind::HeadTooLarge, "{interim}");
    }
}

#[tokio::test]
async fn a_head_that_parsers_read_differently_is_an_error() {
    for head in [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nX: a\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\n",
        // Negative in a signed 64-bit integer.
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    ] {
        let error = get_from(format!("{head}hi")).await.map(|_| ()).expect_err(head);
        assert_eq!(error.kind(), SendErrorKind::Invalid, "{head:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_parsers_read_differently_is_an_error() {
    for chunk in [
        "5\x0c\r\nhello",
        "5\x0b\r\nhello",
        "5;a\0b\r\nhello",
        "5;a\x1bb\r\nhello",
        "8000000000000005\r\nhello",
        "5;\x7f\r\nhello",
    ] {
        let response =
            get_from(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n0\r\n\r\n")).await;
        whole(response.unwrap()).await.expect_err(chunk);
    }
}

#[tokio::test]
async fn chunks_that_are_mostly_extension_are_an_error() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let tiny = |extension: usize| format!("1;{}\r\nx\r\n", "e".repeat(extension)).repeat(1000);
    let body = whole(get_from(format!("{HEAD}{}0\r\n\r\n", tiny(8))).await.unwrap()).await.unwrap();
    assert_eq!(body.len(), 1000, "short extensions are accepted");
    assert!(whole(get_from(format!("{HEAD}{}0\r\n\r\n", tiny(1000))).await.unwrap()).await.is_err());
    // Large chunks may have long extensions.
    let large = format!("2000;{}\r\n{}\r\n", "e".repeat(1000), "x".repeat(0x2000)).repeat(50);
    let body = whole(get_from(format!("{HEAD}{large}0\r\n\r\n")).await.unwrap()).await.unwrap();
    assert_eq!(body.len(), 50 * 0x2000);
}

#[tokio::test]
async fn more_headers_than_a_map_can_hold_are_an_error() {
    let headers: String = (0..40_000).map(|number| format!("x{number}: \r\n")).collect();
    let node = RawNode::start([respond(format!("HTTP/1.1 200 OK\r\n{headers}\r\n"))]).await;
    for limit in [NonZeroUsize::new(50_000).unwrap(), NonZeroUsize::MAX] {
        let backend = HttpBackend::builder(&node.address().to_string()).unwrap();
        let backend = backend.max_headers(limit).max_head_bytes(NonZero::new(1 << 20).unwrap()).build().unwrap();
        assert_eq!(backend.send(get()).await.unwrap_err().kind(), SendErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_response_without_a_body_stays_without_one_whatever_its_headers_say() {
    for (method, status) in [("GET", "204 No Content"), ("GET", "304 Not Modified"), ("HEAD", "200 OK")] {
        for framing in ["Content-Length: 38", "Transfer-Encoding: chunked"] {
            let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let bytes = format!("HTTP/1.1 {status}\r\n{framing}\r\n\r\n{smuggled}").into_bytes();
            let node = RawNode::start([vec![Act::Read, Act::Write(bytes), Act::UntilClosed], healthy("next")]).await;
            let front = Front::over(&[node.address()]);
            let mut client = front.connect().await;
            let request = format!("{method} / HTTP/1.1\r\nHost: kylin\r\n\r\nGET /n HTTP/1.1\r\nHost: kylin\r\n\r\n");
            client.send(request).await.unwrap();
            assert_eq!(client.head().await.unwrap().status.to_string(), status[..3]);
            assert_eq!(client.response().await.unwrap().text(), "next", "{method} {status} {framing}");
        }
    }
}

/// Starts a node in its own thread that sends `extra` after its first response, once that was read.
fn node_with_extra_bytes(extra: &'static [u8]) -> (SocketAddr, impl FnOnce()) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, wait) = channel::<()>();
    let (sent, was_sent) = channel();
    std::thread::spawn(move || {
        let serve = |stream: &mut std::net::TcpStream, body: &str| {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                assert_eq!(stream.read(&mut byte).unwrap(), 1);
                read.push(byte[0]);
            }
            stream.write_all(&ok(body)).unwrap();
        };
        let (mut first, _) = listener.accept().unwrap();
        serve(&mut first, "first");
        wait.recv().unwrap();
        first.write_all(extra).unwrap();
        sent.send(()).unwrap();
        let (mut second, _) = listener.accept().unwrap();
        serve(&mut second, "second");
    });
    (address, move || {
        go.send(()).unwrap();
        was_sent.recv().unwrap();
    })
}

#[tokio::test]
async fn a_response_that_arrives_before_its_request_belongs_to_no_request() {
    for extra in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..],
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"\r\n",
    ] {
        let (address, send_extra) = node_with_extra_bytes(extra);
        let backend = to(address);
        assert_eq!(whole(backend.send(get()).await.unwrap()).await.unwrap(), "first");
        // The kernel has the bytes and the runtime does not know it, as when a core is busy with
        // other requests.
        send_extra();
        assert_eq!(whole(backend.send(get()).await.unwrap()).await.unwrap(), "second", "{}", extra.escape_ascii());
    }
}

#[tokio::test]
async fn a_target_without_a_path_gets_one() {
    let node = RawNode::start([healthy("fine")]).await;
    let front = Front::over(&[node.address()]);
    let response = front.ask("GET http://kylin?x=1 HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    assert_eq!(response.text(), "fine");
    let seen = node.seen().texts().remove(0);
    assert!(seen.starts_with("GET /?x=1 HTTP/1.1\r\n"), "{seen}");
}

const LIMIT: Duration = Duration::from_secs(100);

/// Returns how a request to a node that follows `script` fails, and after what time.
async fn time_of_failure(script: Vec<Act>, body: impl FnOnce() -> Body) -> (SendErrorKind, Duration) {
    let node = RawNode::start([[vec![Act::Read, Act::Write(ok("warm"))], script].concat()]).await;
    let backend = HttpBackend::builder(&node.address().to_string()).unwrap().head_timeout(LIMIT).build().unwrap();
    assert_eq!(whole(backend.send(get()).await.unwrap()).await.unwrap(), "warm");
    // A paused clock moves to the next timer when all tasks wait, even for bytes that are in the
    // kernel. So the connection, which has a timeout too, is made beforehand.
    tokio::time::pause();
    let start = Instant::now();
    let error = backend.send(post(body())).await.unwrap_err();
    let waited = start.elapsed();
    tokio::time::resume();
    (error.kind(), waited)
}

#[tokio::test]
async fn the_head_timeout_counts_once() {
    let close = |waited: Duration| LIMIT <= waited && waited < LIMIT + LIMIT / 10;
    for length in [0, 4, 100_000] {
        let body = || Body::from(vec![0; length]);
        let (kind, waited) = time_of_failure(vec![Act::ReadHead, Act::UntilClosed], body).await;
        assert_eq!(kind, SendErrorKind::HeadTimeout);
        assert!(close(waited), "{length}: {waited:?}");
    }
    // A slow head has the same time limit as one that does not arrive.
    let drips = b"HTTP/1.1 200 OK\r\nX: ".map(|byte| Act::Write(vec![byte])).to_vec();
    let script = [vec![Act::Read], drips, vec![Act::UntilClosed]].concat();
    let (kind, waited) = time_of_failure(script, Body::empty).await;
    assert!(kind == SendErrorKind::HeadTimeout && close(waited), "{waited:?}");
}

#[tokio::test]
async fn a_kept_connection_has_the_timeout_of_each_request() {
    for (before, now) in [(LIMIT * 10, LIMIT), (LIMIT, LIMIT * 10)] {
        let fine = || Act::Write(ok("fine"));
        let script = vec![Act::Read, fine(), Act::Read, Act::WaitForGo, fine(), Act::Read, Act::UntilClosed];
        let node = RawNode::start([script]).await;
        let backend = HttpBackend::new(&node.address().to_string()).unwrap();
        let get = |head: Duration| {
            let mut timeouts = Timeouts::default();
            timeouts.head = head;
            let mut request = get();
            request.extensions_mut().insert(timeouts);
            request
        };
        assert_eq!(whole(backend.send(get(before)).await.unwrap()).await.unwrap(), "fine");
        // A paused clock moves to the next timer when all tasks wait.
        tokio::time::pause();
        let mut sent = Box::pin(backend.send(get(before)));
        let second = tokio::time::timeout(Duration::from_secs(1), &mut sent).await;
        assert!(second.is_err(), "the request still waits");
        tokio::time::resume();
        node.go();
        assert_eq!(whole(sent.await.unwrap()).await.unwrap(), "fine");
        tokio::time::pause();
        let start = Instant::now();
        let error = backend.send(get(now)).await.unwrap_err();
        let waited = start.elapsed();
        tokio::time::resume();
        assert_eq!((error.kind(), node.seen().connections), (SendErrorKind::HeadTimeout, 1));
        assert!(now <= waited && waited < now + now / 10, "{before:?}, then {now:?}: {waited:?}");
    }
}

/// A body whose pieces arrive at an interval.
pub(crate) struct Slow {
    pieces: usize,
    length: usize,
    next: Pin<Box<tokio::time::Sleep>>,
    every: Duration,
}

impl Slow {
    pub(crate) fn body(pieces: usize, length: usize, every: Duration) -> Body {
        Body::new(Slow { pieces, length, next: Box::pin(tokio::time::sleep(every)), every })
    }
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.pieces == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.next.as_mut().poll(cx));
        let every = self.every;
        self.next.set(tokio::time::sleep(every));
        self.pieces -= 1;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.length].into()))))
    }
}

#[tokio::test]
async fn the_time_of_an_upload_does_not_count_against_the_node() {
    // Each piece arrives after more than the head timeout.
    let every = LIMIT * 3 / 2;
    let upload = || Slow::body(4, 10, every);
    let (kind, waited) = time_of_failure(vec![Act::ReadHead, Act::UntilClosed], upload).await;
    assert_eq!(kind, SendErrorKind::HeadTimeout);
    let after = waited.checked_sub(every * 4).expect("the upload ends first");
    assert!(LIMIT <= after && after < LIMIT + LIMIT / 10, "{after:?}");
}

#[tokio::test]
async fn a_node_that_stops_reading_an_upload_times_out_though_more_arrives() {
    // Pieces arrive forever, and fill the buffers of the kernel.
    let pieces = || Slow::body(usize::MAX, 1 << 20, Duration::from_secs(1));
    let (kind, waited) = time_of_failure(vec![Act::ReadHead, Act::Stall], pieces).await;
    assert_eq!(kind, SendErrorKind::HeadTimeout);
    assert!(waited < LIMIT * 3, "{waited:?}");
    let small = || Slow::body(usize::MAX, 1000, Duration::from_millis(1));
    let (kind, _) = time_of_failure(vec![Act::ReadHead, Act::Stall], small).await;
    assert_eq!(kind, SendErrorKind::HeadTimeout, "a little data always waits to be written");
}

#[test]
fn a_connection_of_another_runtime_times_out_by_the_timer_of_this_one() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (made, used) = (runtime(), runtime());
    let nodes = runtime();
    let (node, address) = {
        let (send_address, address) = channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            nodes.block_on(async {
                let node = RawNode::start([vec![Act::Read, Act::Write(ok("fine")), Act::UntilClosed]]).await;
                send_address.send(node.address()).unwrap();
                _ = ended.await;
            });
        });
        ((thread, end), address.recv().unwrap())
    };
    let backend =
        HttpBackend::builder(&address.to_string()).unwrap().head_timeout(Duration::from_secs(3)).build().unwrap();
    assert_eq!(made.block_on(async { whole(backend.send(get()).await.unwrap()).await.unwrap() }), "fine");
    // The runtime of the connection is not driven, but the request must still end.
    let error = used.block_on(backend.send(get())).unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::HeadTimeout);
    drop((backend, made, node.1));
    node.0.join().unwrap();
}

#[tokio::test]
async fn an_error_response_contains_no_bytes_of_the_node() {
    let node = RawNode::start([respond("HTTP/1.1 200 OK\r\nSet-Cookie: JSESSIONID=secret\nX: y\r\n\r\n")]).await;
    let response = Front::over(&[node.address()]).get("/").await.unwrap();
    assert!(!refusal(&response, 502).contains("secret"));
}
