//! Encodes the head of a request.

use http::header;
use http::uri::PathAndQuery;
use http::{Method, Request};
use http_body::Body as _;

use crate::body::Body;
use crate::header_walk::walk;
use crate::http1::encode;
use crate::http1::framing::declared_length;
use crate::http1::writer::BodyFraming;

/// Appends the head of `request` to `out` and returns how its body is framed.
///
/// The body decides its framing, regardless of the headers. An application may replace a body and
/// forget to change its length. The node must then neither wait for bytes that never come, nor read
/// the rest as another request. A body of unknown length is sent in chunks, unless the headers
/// declare its length.
pub(super) fn encode(request: &Request<Body>, out: &mut Vec<u8>) -> BodyFraming {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    // The path of `http://kylin?a=b` is empty, which a request line cannot express.
    if !target.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in walk(request.headers()) {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            encode::header(name, value, out);
        }
    }
    let length = request.body().size_hint().exact().or_else(|| declared_length(request.headers()));
    match length {
        // A method without a defined body need not declare that it has none (RFC 9110, 8.6).
        Some(0) if !declares_empty_body(request) => {}
        Some(length) => encode::content_length(length, out),
        None => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    length.map_or(BodyFraming::Chunked, BodyFraming::Length)
}

fn declares_empty_body(request: &Request<Body>) -> bool {
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        || request.headers().contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::{Frame, SizeHint};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    fn text(request: &Request<Body>) -> (String, BodyFraming) {
        let mut out = Vec::new();
        let framing = encode(request, &mut out);
        (String::from_utf8(out).unwrap(), framing)
    }

    struct Unknown;

    impl http_body::Body for Unknown {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::default()
        }
    }

    #[test]
    fn a_head_is_the_request_line_the_headers_and_the_framing() {
        let request = Request::post("/a?b=c").header("host", "kylin").header("x", "1").header("x", "2");
        let (text, framing) = text(&request.body(Body::from("hello")).unwrap());
        assert_eq!(text, "POST /a?b=c HTTP/1.1\r\nhost: kylin\r\nx: 1\r\nx: 2\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(framing, BodyFraming::Length(5));
    }

    #[test]
    fn the_body_decides_the_framing_and_not_the_headers() {
        let wrong = || Request::post("/").header("content-length", "7").header("transfer-encoding", "gzip");
        let (sent, _) = text(&wrong().body(Body::from("hello")).unwrap());
        assert_eq!(sent, "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n");
        let (sent, framing) = text(&wrong().body(Body::empty()).unwrap());
        assert_eq!((sent.as_str(), framing), ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", BodyFraming::Length(0)));
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_unless_its_length_is_declared() {
        let (sent, framing) = text(&Request::get("/").body(Body::new(Unknown)).unwrap());
        assert_eq!(
            (sent.as_str(), framing),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", BodyFraming::Chunked)
        );
        let declared = Request::put("/").header("content-length", "12").body(Body::new(Unknown)).unwrap();
        assert_eq!(text(&declared).1, BodyFraming::Length(12));
    }

    #[test]
    fn only_methods_with_a_defined_body_declare_an_empty_one() {
        let (sent, _) = text(&Request::get("/").body(Body::empty()).unwrap());
        assert_eq!(sent, "GET / HTTP/1.1\r\n\r\n");
        let (sent, _) = text(&Request::patch("/").body(Body::empty()).unwrap());
        assert_eq!(sent, "PATCH / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }
}
