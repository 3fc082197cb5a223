//! Parses the head of a request.

use std::mem::take;

use bytes::{Buf, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, Version};
use memchr::memchr;

use crate::body::Body;
use crate::http1::body_decoder::BodyDecoder;
use crate::http1::framing::FramingError;
use crate::http1::head::{HeadError, HeadLimits, HeadLines, HeadScanner};
use crate::http1::headers::{self, Sender};
use crate::proxy::MAX_METHOD;
use crate::refusals::Refusal;
use crate::request::ClientAddr;
use crate::server::NO_MEMORY_FOR_HEAD;
use crate::server::limits::LineBuffers;

/// The head of a request, with its consequences for the body and the connection.
#[derive(Debug, Default)]
pub(super) struct RequestHead {
    /// The request, still without its body.
    pub(super) request: Request<Body>,
    pub(super) body: BodyDecoder,
    /// Whether the client may send another request on the connection.
    pub(super) keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
}

/// A request that cannot be served, as the status and message of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidRequest {
    refusal: Refusal,
    pub(super) status: StatusCode,
    pub(super) message: &'static str,
}

/// The head did not arrive in time (RFC 9110, 15.5.9).
pub(super) const TOO_SLOW: InvalidRequest =
    invalid(Refusal::Slow, StatusCode::REQUEST_TIMEOUT, "the head of the request did not arrive in time");

/// The memory budget has no bytes for the head.
pub(super) const NO_MEMORY: InvalidRequest =
    invalid(Refusal::NoMemory, StatusCode::SERVICE_UNAVAILABLE, NO_MEMORY_FOR_HEAD);

const TARGET_TOO_LONG: InvalidRequest = too_large(StatusCode::URI_TOO_LONG, "the target of the request is too long");

const HEAD_TOO_LARGE: InvalidRequest =
    too_large(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large");

/// The status is that of nginx.
const LINE_TOO_LONG: InvalidRequest =
    too_large(StatusCode::BAD_REQUEST, "a header or all headers of the request are longer than the buffers for them");

const MALFORMED: InvalidRequest = malformed(StatusCode::BAD_REQUEST, "the head of the request is not valid");

const fn too_large(status: StatusCode, message: &'static str) -> InvalidRequest {
    invalid(Refusal::TooLarge, status, message)
}

const fn malformed(status: StatusCode, message: &'static str) -> InvalidRequest {
    invalid(Refusal::Malformed, status, message)
}

const fn invalid(refusal: Refusal, status: StatusCode, message: &'static str) -> InvalidRequest {
    InvalidRequest { refusal, status, message }
}

impl InvalidRequest {
    /// Counts and logs the refusal.
    pub(super) fn report(self, peer: ClientAddr) {
        self.refusal.report(peer.socket_addr(), &self.message);
    }
}

impl RequestHead {
    /// Parses the head of a request from `read` into `self`; returns false while it is incomplete.
    /// A returned head would be moved several times.
    pub(super) fn take(
        &mut self,
        read: &mut BytesMut,
        scanner: &mut HeadScanner,
        limits: HeadLimits,
        buffers: Option<LineBuffers>,
    ) -> Result<bool, InvalidRequest> {
        // Some old clients end a body with an extra empty line, which does not count (RFC 9112,
        // 2.2).
        while read.starts_with(b"\r\n") {
            read.advance(2);
            *scanner = HeadScanner::default();
        }
        let parse = |bytes: Bytes, lines: HeadLines<'_>| match buffers
            .and_then(|buffers| buffers.too_long(lines.lengths(bytes.len())))
        {
            None => self.parse(&bytes, &lines),
            Some(0) => Err(TARGET_TOO_LONG),
            Some(_) => Err(LINE_TOO_LONG),
        };
        match scanner.take(read, limits, parse) {
            Ok(Some(parsed)) => parsed.map(|()| true),
            Ok(None) => Ok(false),
            Err(HeadError::StartLineTooLong) => Err(TARGET_TOO_LONG),
            Err(HeadError::TooLong) if buffers.is_some() => Err(LINE_TOO_LONG),
            Err(HeadError::TooLong | HeadError::TooManyHeaders) => Err(HEAD_TOO_LARGE),
            Err(HeadError::BareLineFeed | HeadError::Empty) => Err(MALFORMED),
        }
    }

    fn parse(&mut self, bytes: &Bytes, lines: &HeadLines<'_>) -> Result<(), InvalidRequest> {
        let (method, target, version) = request_line(&bytes[lines.start_line()]).ok_or(MALFORMED)?;
        if method.len() > MAX_METHOD {
            return Err(malformed(StatusCode::NOT_IMPLEMENTED, "the method is not known"));
        }
        // A target has no fragment (RFC 9112, 3.2). `Uri` would drop the fragment, and a node would
        // get another target.
        if memchr(b'#', target).is_some() {
            return Err(MALFORMED);
        }
        let request = &mut self.request;
        *request.method_mut() = Method::from_bytes(method).map_err(|_| MALFORMED)?;
        *request.uri_mut() = Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| MALFORMED)?;
        if *request.method() == Method::OPTIONS && is_absolute_without_path(target) {
            // The request concerns the server as a whole (RFC 9112, 3.2.4). `Uri` would turn the
            // path into `/`.
            let mut parts = take(request.uri_mut()).into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static("*"));
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| MALFORMED)?;
        }
        *request.version_mut() = version;
        let framing = headers::parse(bytes, lines, Sender::Client, request.headers_mut()).map_err(|_| MALFORMED)?;
        self.body = framing.decoder(version).map_err(invalid_framing)?.unwrap_or_default();
        self.expects_continue = !self.body.is_end() && version == Version::HTTP_11 && framing.expects_continue();
        // The server creates no tunnel, so the bytes that a client sends after CONNECT may be
        // anything.
        self.keep_alive = framing.is_keep_alive(version) && request.method() != Method::CONNECT;
        Ok(())
    }
}

/// Splits a request line into method, target and version, with one space between them (RFC 9112,
/// 3).
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let (line, version) = match line.split_last_chunk()? {
        (line, b" HTTP/1.1") => (line, Version::HTTP_11),
        (line, b" HTTP/1.0") => (line, Version::HTTP_10),
        _ => return None,
    };
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..], version))
}

/// Returns whether `target` is an absolute URI that ends with its authority.
fn is_absolute_without_path(target: &[u8]) -> bool {
    let authority = target.windows(3).position(|bytes| bytes == b"://").map(|at| &target[at + 3..]);
    authority.is_some_and(|authority| !authority.iter().any(|byte| matches!(byte, b'/' | b'?')))
}

fn invalid_framing(error: FramingError) -> InvalidRequest {
    match error {
        FramingError::TransferEncoding => {
            malformed(StatusCode::NOT_IMPLEMENTED, "the only supported transfer coding is chunked")
        }
        FramingError::ChunkedInHttp10 | FramingError::ContentLength => {
            malformed(StatusCode::BAD_REQUEST, "the end of the request's body is unclear")
        }
    }
}

/// Parses `data` as the head of a request that arrives in two parts.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let mut read = BytesMut::new();
    let (mut head, mut scanner) = (RequestHead::default(), HeadScanner::default());
    for part in crate::http1::in_two(data) {
        read.extend_from_slice(part);
        match head.take(&mut read, &mut scanner, HeadLimits::default(), None) {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                assert!(error.status.is_client_error() || error.status.is_server_error());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 8192, headers: 100 };

    fn take(read: &mut BytesMut, scanner: &mut HeadScanner) -> Result<Option<RequestHead>, InvalidRequest> {
        let mut head = RequestHead::default();
        head.take(read, scanner, LIMITS, None).map(|complete| complete.then_some(head))
    }

    fn read(text: &str) -> Result<Option<RequestHead>, InvalidRequest> {
        take(&mut BytesMut::from(text), &mut HeadScanner::default())
    }

    fn with(headers: &str) -> Result<RequestHead, InvalidRequest> {
        read(&format!("POST /a?b=c HTTP/1.1\r\nHost: kylin\r\n{headers}\r\n")).map(Option::unwrap)
    }

    fn status(text: &str) -> u16 {
        read(text).unwrap_err().status.as_u16()
    }

    #[test]
    fn a_request_is_parsed_whatever_the_reads_it_arrives_in() {
        let text = "PUT /a?b=c HTTP/1.1\r\nHost: kylin\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcGET";
        for cut in 0..text.len() {
            let (mut bytes, mut scanner) = (BytesMut::from(&text[..cut]), HeadScanner::default());
            let first = take(&mut bytes, &mut scanner).unwrap();
            bytes.extend_from_slice(&text.as_bytes()[cut..]);
            let whole = first.or_else(|| take(&mut bytes, &mut scanner).unwrap()).unwrap();
            assert_eq!((whole.request.method(), whole.request.uri()), (&Method::PUT, &Uri::from_static("/a?b=c")));
            assert_eq!(whole.request.headers()["x-a"], "b");
            assert!(matches!(whole.body, BodyDecoder::Length(3)) && whole.keep_alive && !whole.expects_continue);
            assert_eq!(&bytes[..], b"abcGET", "cut at {cut}");
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped() {
        assert!(read("\r\n\r\nGET / HTTP/1.1\r\n\r\n").unwrap().is_some());
        assert!(read("\r\n\r\n").unwrap().is_none());
        assert_eq!(status("\n\nGET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("\r\n\nGET / HTTP/1.1\r\n\r\n"), 400);
        let (mut bytes, mut scanner) = (BytesMut::new(), HeadScanner::default());
        for piece in ["\r", "\n", "\r", "\nGET / HT", "TP/1.1\r\n\r"] {
            bytes.extend_from_slice(piece.as_bytes());
            assert!(take(&mut bytes, &mut scanner).unwrap().is_none());
        }
        bytes.extend_from_slice(b"\n");
        assert!(take(&mut bytes, &mut scanner).unwrap().is_some());
    }

    #[test]
    fn framing_that_parsers_disagree_on_is_refused() {
        assert!(matches!(with("").unwrap().body, BodyDecoder::Length(0)));
        assert!(matches!(with("Transfer-Encoding: Chunked\r\n").unwrap().body, BodyDecoder::Chunked(_)));
        for (headers, status) in [
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
            ("Content-Length: +1\r\n", 400),
            ("Content-Length: 9223372036854775808\r\n", 400),
        ] {
            assert_eq!(with(headers).unwrap_err().status.as_u16(), status, "{headers}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn bytes_that_are_not_a_request_are_refused() {
        for line in [
            "GET / HTTP/2.0",
            "GET / HTTP/0.9",
            "GET /",
            "GET  / HTTP/1.1",
            "GE(T / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET",
            "GET http://[ HTTP/1.1",
            "GET / HTTP/1.1 x",
            "GET /a#b HTTP/1.1",
            "GET /a?b#c HTTP/1.1",
            "GET # HTTP/1.1",
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: kylin\r\n\r\n")), 400, "{line}");
        }
        assert_eq!(status(&format!("{} / HTTP/1.1\r\nHost: kylin\r\n\r\n", "A".repeat(65))), 501);
        for line in ["X-A : 1", "X-A: 1\r\n 2", "X-A", ": 1", "X-A: a\0b", "X-A: a\rb", "X A: 1", "X\u{e9}: 1"] {
            assert_eq!(with(&format!("{line}\r\n")).unwrap_err().status.as_u16(), 400, "{line:?}");
        }
        assert_eq!(status("GET / HTTP/1.1\nHost: kylin\n\n"), 400, "bare line feeds");
    }

    #[test]
    fn a_head_is_bounded() {
        assert_eq!(status(&"x".repeat(8193)), 414, "without an end");
        assert_eq!(with(&format!("X: {}\r\n", "x".repeat(8192))).unwrap_err().status.as_u16(), 431);
        assert!(with(&"x: y\r\n".repeat(99)).is_ok());
        assert_eq!(with(&"x: y\r\n".repeat(100)).unwrap_err().status.as_u16(), 431);
    }

    #[test]
    fn the_request_decides_whether_the_connection_is_kept() {
        let keeps = |text: &str| read(&format!("{text}\r\n\r\n")).unwrap().unwrap().keep_alive;
        assert!(keeps("GET / HTTP/1.1") && !keeps("GET / HTTP/1.0"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: close") && keeps("GET / HTTP/1.0\r\nConnection: keep-alive"));
        assert!(!keeps("CONNECT kylin:80 HTTP/1.1"));
    }

    #[test]
    fn a_client_expects_100_continue_only_for_a_body() {
        assert!(with("Content-Length: 1\r\nExpect: 100-Continue\r\n").unwrap().expects_continue);
        assert!(!with("Expect: 100-continue\r\n").unwrap().expects_continue, "there is no body");
        assert!(!with("Content-Length: 1\r\nExpect: more\r\n").unwrap().expects_continue);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        /// httparse also accepts bare line feeds and empty lines before the first line.
        #[test]
        fn an_accepted_head_means_the_same_to_another_parser(
            first in "(GET|A|G\\(T|\u{e9})( |  |\t)(/a\\?b|/\u{e9}|\\*|http://a/|/\0|/ )( |  |)HTTP/(1\\.1|1\\.0|1\\.2|2\\.0)(| )(\r\n|\r\n|\r\n|\n)",
            header_lines in "((Host|X-A|x-a|X A|\u{e9}|)(:|: |:\t| :|;)(|b|b c |\u{e9}|\0|\r|\x7f)(\r\n|\r\n|\r\n|\n|\r\n )){0,3}\r\n",
        ) {
            let mut text = first + &header_lines;
            if matches!(read(&text), Ok(None)) {
                text += "\r\n";
            }
            let ours = read(&text).map(Option::unwrap);
            let mut buffer = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Request::new(&mut buffer);
            let length = theirs.parse(text.as_bytes());
            let strict = !text.starts_with('\r') && text.matches('\n').count() == text.matches("\r\n").count();
            match ours {
                Ok(RequestHead { request, .. }) => {
                    proptest::prop_assert_eq!(length, Ok(httparse::Status::Complete(text.len())));
                    proptest::prop_assert_eq!(Some(request.method().as_str()), theirs.method);
                    proptest::prop_assert_eq!(request.uri(), &theirs.path.unwrap().parse::<Uri>().unwrap());
                    proptest::prop_assert!(headers::are_equal(request.headers(), theirs.headers));
                }
                Err(_) => {
                    let is_target = theirs.path.is_some_and(|path| path.parse::<Uri>().is_ok());
                    proptest::prop_assert!(!strict || !is_target || !matches!(length, Ok(httparse::Status::Complete(_))), "{text:?}");
                }
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            _ = take(&mut BytesMut::from(&bytes[..]), &mut HeadScanner::default());
        }

        #[test]
        fn an_accepted_head_has_one_length(line in "[ -~]{0,40}") {
            if let Ok(head) = with(&format!("{line}\r\n")) {
                let framing = ["content-length", "transfer-encoding"].iter().filter(|name| head.request.headers().contains_key(**name));
                proptest::prop_assert!(framing.count() <= 1);
            }
        }
    }
}
