//! Encodes the head of a response.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, header};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::body::Body;
use crate::http1::encode;
use crate::http1::framing::{declared_length, is_close};
use crate::http1::writer::BodyFraming;

/// The facts of a request on which the encoding of its response depends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ResponseContext {
    pub(super) is_head: bool,
    pub(super) is_http_1_0: bool,
    /// Whether the client keeps the connection open.
    pub(super) keep_alive: bool,
}

impl ResponseContext {
    fn has_no_body(self, status: StatusCode) -> bool {
        self.is_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// Returns how the body of `response` is framed. As with requests to nodes, the body's own size
/// takes precedence over the headers.
pub(super) fn framing(response: &Response<Body>, context: ResponseContext) -> BodyFraming {
    match response.body().size_hint().exact().or_else(|| declared_length(response.headers())) {
        _ if context.has_no_body(response.status()) => BodyFraming::Length(0),
        Some(length) => BodyFraming::Length(length),
        None if context.is_http_1_0 => BodyFraming::UntilClose,
        None => BodyFraming::Chunked,
    }
}

/// Appends the head of `response` to `out`. Returns true if the connection is kept, which a
/// `Connection: close` of the response prevents.
pub(super) fn encode(
    response: &Response<Body>,
    context: ResponseContext,
    framing: BodyFraming,
    mut keep_alive: bool,
    out: &mut Vec<u8>,
) -> bool {
    let status = response.status();
    out.extend_from_slice(if context.is_http_1_0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match response.extensions().get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        // The reason phrase may be empty (RFC 9112, 4), and an unregistered status has none.
        None => out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let mut has_date = false;
    for (name, value) in response.headers() {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::CONNECTION => {
                keep_alive &= !is_close(value);
                continue;
            }
            header::DATE => has_date = true,
            _ => {}
        }
        encode::header(name, value, out);
    }
    if !has_date {
        append_date(out);
    }
    match (keep_alive, context.is_http_1_0) {
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, false) => out.extend_from_slice(b"connection: close\r\n"),
        _ => {}
    }
    let length = match framing {
        BodyFraming::Chunked => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            None
        }
        BodyFraming::UntilClose => None,
        // The length of the body that a GET would have (RFC 9110, 8.6), if it is known.
        BodyFraming::Length(0) if context.is_head || status == StatusCode::NOT_MODIFIED => {
            declared_length(response.headers())
        }
        BodyFraming::Length(_) if context.has_no_body(status) => None,
        BodyFraming::Length(length) => Some(length),
    };
    if let Some(length) = length {
        encode::content_length(length, out);
    }
    out.extend_from_slice(b"\r\n");
    keep_alive
}

/// Appends the `Date` header that a response must have (RFC 9110, 6.6.1). It is formatted once a
/// second.
fn append_date(out: &mut Vec<u8>) {
    thread_local! {
        static FORMATTED: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    FORMATTED.with_borrow_mut(|(second, text)| {
        if *second != now || text.is_empty() {
            (*second, *text) = (now, Vec::with_capacity(40));
            let date = httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
            // Writing to memory does not fail.
            _ = write!(text, "date: {date}\r\n");
        }
        out.extend_from_slice(text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: ResponseContext = ResponseContext { is_head: false, is_http_1_0: false, keep_alive: true };

    fn text(response: Response<Body>, context: ResponseContext, keep_alive: bool) -> (String, BodyFraming) {
        let (mut out, framing) = (Vec::new(), framing(&response, context));
        encode(&response, context, framing, keep_alive, &mut out);
        (String::from_utf8(out).unwrap(), framing)
    }

    fn dated() -> http::response::Builder {
        Response::builder().header("date", "now")
    }

    struct Unknown;

    impl http_body::Body for Unknown {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[test]
    fn a_head_is_the_status_line_the_headers_and_the_framing() {
        let response = dated().header("set-cookie", "a=b").header("set-cookie", "c=d").header("connection", "x");
        let (text, framing) = text(response.body("hello".into()).unwrap(), CONTEXT, true);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\ndate: now\r\nset-cookie: a=b\r\nset-cookie: c=d\r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!(framing, BodyFraming::Length(5));
    }

    #[test]
    fn the_body_decides_the_framing_and_not_the_headers() {
        let wrong = dated().header("content-length", "7").header("transfer-encoding", "gzip");
        let (sent, _) = text(wrong.body("hello".into()).unwrap(), CONTEXT, true);
        assert!(sent.ends_with("content-length: 5\r\n\r\n") && !sent.contains("gzip"), "{sent}");
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_or_ends_with_the_connection() {
        let (sent, framing) = text(dated().body(Body::new(Unknown)).unwrap(), CONTEXT, true);
        assert!(sent.ends_with("transfer-encoding: chunked\r\n\r\n") && framing == BodyFraming::Chunked, "{sent}");
        let old = ResponseContext { is_http_1_0: true, ..CONTEXT };
        let (sent, framing) = text(dated().body(Body::new(Unknown)).unwrap(), old, false);
        assert_eq!((sent.as_str(), framing), ("HTTP/1.0 200 OK\r\ndate: now\r\n\r\n", BodyFraming::UntilClose));
    }

    #[test]
    fn a_response_without_a_body_keeps_the_declared_length_of_a_head_request() {
        let head = ResponseContext { is_head: true, ..CONTEXT };
        let (sent, framing) = text(dated().header("content-length", "7").body(Body::empty()).unwrap(), head, true);
        assert!(sent.ends_with("content-length: 7\r\n\r\n") && framing == BodyFraming::Length(0), "{sent}");
        let (sent, _) = text(dated().body(Body::empty()).unwrap(), head, true);
        assert!(!sent.contains("content-length"), "{sent}");
        for status in [204, 304] {
            let (sent, framing) = text(dated().status(status).body("x".into()).unwrap(), CONTEXT, true);
            assert!(!sent.contains("content-length") && framing == BodyFraming::Length(0), "{sent}");
        }
        let (sent, _) = text(dated().status(205).body(Body::empty()).unwrap(), CONTEXT, true);
        assert!(sent.ends_with("content-length: 0\r\n\r\n"), "{sent}");
    }

    #[test]
    fn connection_headers_are_sent_where_they_differ_from_the_default() {
        let sent = |is_http_1_0, keep_alive| {
            text(dated().body(Body::empty()).unwrap(), ResponseContext { is_http_1_0, ..CONTEXT }, keep_alive).0
        };
        assert!(sent(false, false).contains("connection: close\r\n") && !sent(false, true).contains("connection"));
        assert!(sent(true, true).contains("connection: keep-alive\r\n") && !sent(true, false).contains("connection"));
    }

    #[test]
    fn a_response_has_a_date() {
        let (sent, _) = text(Response::new(Body::empty()), CONTEXT, true);
        let date = sent.split("date: ").nth(1).unwrap().lines().next().unwrap();
        let age = SystemTime::now().duration_since(httpdate::parse_http_date(date).unwrap()).unwrap();
        assert!(age < Duration::from_secs(5), "{date}");
    }

    #[test]
    fn an_unusual_reason_phrase_is_sent() {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Fine"));
        assert!(text(response, CONTEXT, true).0.starts_with("HTTP/1.1 200 Fine\r\n"));
    }

    #[test]
    fn a_status_that_is_not_registered_has_an_empty_reason() {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(600).unwrap();
        assert!(text(response, CONTEXT, true).0.starts_with("HTTP/1.1 600 \r\n"));
    }
}
