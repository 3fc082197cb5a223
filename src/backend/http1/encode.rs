//! A request as bytes.

use http::header;
use http::uri::PathAndQuery;
use http::{Method, Request};
use http_body::Body as _;

use crate::body::Body;
use crate::http1::fields::declared_length;
use crate::http1::out::{Ending, decimal};

/// Appends the head of `request` to `out`.
///
/// The fields that frame the body are ours, whatever the request says in them: a host that replaced a body and forgot its
/// length must not make the node wait for bytes that do not come, or take the rest for another request. A body of unknown
/// length is sent in chunks unless the request declares a length.
pub(super) fn head(request: &Request<Body>, out: &mut Vec<u8>) -> Ending {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    // The path of `http://kylin?a=b` is empty, which no request line can say.
    if !target.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let ending = ending(request);
    match ending {
        Ending::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // No request ends so.
        Ending::UntilClose => {}
        // Methods that mean nothing by a body need not say that there is none (RFC 9110, 8.6).
        Ending::Length(0) if !means_a_body(request) => {}
        Ending::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    ending
}

fn ending(request: &Request<Body>) -> Ending {
    match request.body().size_hint().exact().or_else(|| declared_length(request.headers())) {
        Some(length) => Ending::Length(length),
        None => Ending::Chunked,
    }
}

fn means_a_body(request: &Request<Body>) -> bool {
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

    fn text(request: &Request<Body>) -> (String, Ending) {
        let mut out = Vec::new();
        let ending = head(request, &mut out);
        (String::from_utf8(out).unwrap(), ending)
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
    fn a_head_is_its_line_its_fields_and_the_framing() {
        let request = Request::post("/a?b=c").header("host", "kylin").header("x", "1").header("x", "2");
        let (text, ending) = text(&request.body(Body::from("hello")).unwrap());
        assert_eq!(text, "POST /a?b=c HTTP/1.1\r\nhost: kylin\r\nx: 1\r\nx: 2\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(ending, Ending::Length(5));
    }

    #[test]
    fn the_framing_is_the_bodys_and_not_what_the_fields_say() {
        let lies = || Request::post("/").header("content-length", "7").header("transfer-encoding", "gzip");
        let (sent, _) = text(&lies().body(Body::from("hello")).unwrap());
        assert_eq!(sent, "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n");
        let (sent, ending) = text(&lies().body(Body::empty()).unwrap());
        assert_eq!((sent.as_str(), ending), ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Ending::Length(0)));
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_unless_its_length_is_declared() {
        let (sent, ending) = text(&Request::get("/").body(Body::new(Unknown)).unwrap());
        assert_eq!((sent.as_str(), ending), ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", Ending::Chunked));
        let declared = Request::put("/").header("content-length", "12").body(Body::new(Unknown)).unwrap();
        assert_eq!(text(&declared).1, Ending::Length(12));
    }

    #[test]
    fn only_methods_that_mean_a_body_say_that_there_is_none() {
        let (sent, _) = text(&Request::get("/").body(Body::empty()).unwrap());
        assert_eq!(sent, "GET / HTTP/1.1\r\n\r\n");
        let (sent, _) = text(&Request::patch("/").body(Body::empty()).unwrap());
        assert_eq!(sent, "PATCH / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }
}
