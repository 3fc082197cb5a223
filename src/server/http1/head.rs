//! The head of a request, from bytes.

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode, Uri, Version};

use crate::body::Body;
use crate::http1::fields::{self, Unclear};
use crate::http1::framing::Framing;
use crate::http1::lines::{Lines, Most, NoHead, Scan};
use crate::server::limits::Limits;

/// A request's head, and what it says of the rest.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Without its body yet.
    pub(super) request: Request<Body>,
    pub(super) framing: Framing,
    /// The client will send another request on the connection.
    pub(super) keeps: bool,
    /// The client waits for a word before it sends the body.
    pub(super) expects: bool,
}

/// What is no request that can be served, and what its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

const TOO_LARGE: Invalid =
    Invalid { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why: "the head of the request is too large" };
const MALFORMED: Invalid = Invalid { status: StatusCode::BAD_REQUEST, why: "the head of the request is not valid" };

/// Takes the head of a request out of `read` and into `head`, which is as good as new; false while it is not complete. Handed
/// back it would be moved several times over.
pub(super) fn head(read: &mut BytesMut, scan: &mut Scan, limits: &Limits, head: &mut Head) -> Result<bool, Invalid> {
    // Some old clients end a body with an empty line that is not counted (RFC 9112, 2.2).
    while read.starts_with(b"\r\n") {
        read.advance(2);
        *scan = Scan::default();
    }
    let most = Most { bytes: limits.max_head_bytes, fields: limits.max_headers };
    match scan.take(read, most, |bytes, lines| parse(&bytes, &lines, head)) {
        Ok(Some(parsed)) => parsed.map(|()| true),
        Ok(None) => Ok(false),
        Err(NoHead::TooLong | NoHead::TooManyFields) => Err(TOO_LARGE),
        Err(NoHead::LineFeed | NoHead::Empty) => Err(MALFORMED),
    }
}

fn parse(bytes: &Bytes, lines: &Lines<'_>, head: &mut Head) -> Result<(), Invalid> {
    let (method, target, version) = request_line(&bytes[lines.first()]).ok_or(MALFORMED)?;
    let request = &mut head.request;
    *request.method_mut() = Method::from_bytes(method).map_err(|_| MALFORMED)?;
    *request.uri_mut() = Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| MALFORMED)?;
    *request.version_mut() = version;
    let (headers, told) = fields::map(bytes, lines, fields::Sender::Client).map_err(|_| MALFORMED)?;
    *request.headers_mut() = headers;
    head.framing = told.framing(version).map_err(of_unclear)?.unwrap_or_default();
    head.expects = !head.framing.is_over() && version == Version::HTTP_11 && told.expects_continue();
    // No tunnel is made: what a client sends behind a CONNECT may be anything.
    head.keeps = told.keeps(version) && request.method() != Method::CONNECT;
    Ok(())
}

/// Method, target and version, with one space between them (RFC 9112, 3).
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let (line, version) = match line.split_last_chunk()? {
        (line, b" HTTP/1.1") => (line, Version::HTTP_11),
        (line, b" HTTP/1.0") => (line, Version::HTTP_10),
        _ => return None,
    };
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..], version))
}

fn of_unclear(unclear: Unclear) -> Invalid {
    match unclear {
        Unclear::Coding => {
            Invalid { status: StatusCode::NOT_IMPLEMENTED, why: "the only transfer coding that is served is chunked" }
        }
        Unclear::Old | Unclear::Length => {
            Invalid { status: StatusCode::BAD_REQUEST, why: "it is not clear where the body of the request ends" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_head_bytes: 8192, ..Limits::default() }
    }

    fn take(read: &mut BytesMut, scan: &mut Scan) -> Result<Option<Head>, Invalid> {
        let mut taken = Head::default();
        head(read, scan, &limits(), &mut taken).map(|whole| whole.then_some(taken))
    }

    fn read(text: &str) -> Result<Option<Head>, Invalid> {
        take(&mut BytesMut::from(text), &mut Scan::default())
    }

    fn with(fields: &str) -> Result<Head, Invalid> {
        read(&format!("POST /a?b=c HTTP/1.1\r\nHost: kylin\r\n{fields}\r\n")).map(Option::unwrap)
    }

    fn status(text: &str) -> u16 {
        read(text).unwrap_err().status.as_u16()
    }

    #[test]
    fn a_request_is_read_whatever_the_pieces_it_comes_in() {
        let text = "PUT /a?b=c HTTP/1.1\r\nHost: kylin\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcGET";
        for cut in 0..text.len() {
            let (mut bytes, mut seen) = (BytesMut::from(&text[..cut]), Scan::default());
            let first = take(&mut bytes, &mut seen).unwrap();
            bytes.extend_from_slice(&text.as_bytes()[cut..]);
            let whole = first.or_else(|| take(&mut bytes, &mut seen).unwrap()).unwrap();
            assert_eq!((whole.request.method(), whole.request.uri()), (&Method::PUT, &Uri::from_static("/a?b=c")));
            assert_eq!(whole.request.headers()["x-a"], "b");
            assert!(matches!(whole.framing, Framing::Length(3)) && whole.keeps && !whole.expects);
            assert_eq!(&bytes[..], b"abcGET", "cut at {cut}");
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_passed_over() {
        assert!(read("\r\n\r\nGET / HTTP/1.1\r\n\r\n").unwrap().is_some());
        assert!(read("\r\n\r\n").unwrap().is_none());
        assert_eq!(status("\n\nGET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("\r\n\nGET / HTTP/1.1\r\n\r\n"), 400);
        let (mut bytes, mut seen) = (BytesMut::new(), Scan::default());
        for piece in ["\r", "\n", "\r", "\nGET / HT", "TP/1.1\r\n\r"] {
            bytes.extend_from_slice(piece.as_bytes());
            assert!(take(&mut bytes, &mut seen).unwrap().is_none());
        }
        bytes.extend_from_slice(b"\n");
        assert!(take(&mut bytes, &mut seen).unwrap().is_some());
    }

    #[test]
    fn framing_that_is_read_in_two_ways_is_refused() {
        assert!(matches!(with("").unwrap().framing, Framing::Length(0)));
        assert!(matches!(with("Transfer-Encoding: Chunked\r\n").unwrap().framing, Framing::Chunked(_)));
        for (fields, status) in [
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
            ("Content-Length: +1\r\n", 400),
            ("Content-Length: 9223372036854775808\r\n", 400),
        ] {
            assert_eq!(with(fields).unwrap_err().status.as_u16(), status, "{fields}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn what_is_no_request_is_refused() {
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
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: kylin\r\n\r\n")), 400, "{line}");
        }
        for field in ["X-A : 1", "X-A: 1\r\n 2", "X-A", ": 1", "X-A: a\0b", "X-A: a\rb", "X A: 1", "X\u{e9}: 1"] {
            assert_eq!(with(&format!("{field}\r\n")).unwrap_err().status.as_u16(), 400, "{field:?}");
        }
        assert_eq!(status("GET / HTTP/1.1\nHost: kylin\n\n"), 400, "line feeds alone");
    }

    #[test]
    fn a_head_is_bounded() {
        assert_eq!(status(&"x".repeat(8193)), 431, "without an end in sight");
        assert_eq!(with(&format!("X: {}\r\n", "x".repeat(8192))).unwrap_err().status.as_u16(), 431);
        assert!(with(&"x: y\r\n".repeat(99)).is_ok());
        assert_eq!(with(&"x: y\r\n".repeat(100)).unwrap_err().status.as_u16(), 431);
    }

    #[test]
    fn a_connection_is_kept_as_the_request_says() {
        let keeps = |text: &str| read(&format!("{text}\r\n\r\n")).unwrap().unwrap().keeps;
        assert!(keeps("GET / HTTP/1.1") && !keeps("GET / HTTP/1.0"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: close") && keeps("GET / HTTP/1.0\r\nConnection: keep-alive"));
        assert!(!keeps("CONNECT kylin:80 HTTP/1.1"));
    }

    #[test]
    fn a_client_is_asked_for_its_body_where_it_waits_to_be() {
        assert!(with("Content-Length: 1\r\nExpect: 100-Continue\r\n").unwrap().expects);
        assert!(!with("Expect: 100-continue\r\n").unwrap().expects, "there is no body");
        assert!(!with("Content-Length: 1\r\nExpect: more\r\n").unwrap().expects);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        /// httparse takes more: line feeds alone, empty lines before the first.
        #[test]
        fn what_is_accepted_is_what_another_parser_reads(
            first in "(GET|A|G\\(T|\u{e9})( |  |\t)(/a\\?b|/\u{e9}|\\*|http://a/|/\0|/ )( |  |)HTTP/(1\\.1|1\\.0|1\\.2|2\\.0)(| )(\r\n|\r\n|\r\n|\n)",
            fields in "((Host|X-A|x-a|X A|\u{e9}|)(:|: |:\t| :|;)(|b|b c |\u{e9}|\0|\r|\x7f)(\r\n|\r\n|\r\n|\n|\r\n )){0,3}\r\n",
        ) {
            let mut text = first + &fields;
            if matches!(read(&text), Ok(None)) {
                text += "\r\n";
            }
            let ours = read(&text).map(Option::unwrap);
            let mut room = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Request::new(&mut room);
            let length = theirs.parse(text.as_bytes());
            let strict = !text.starts_with('\r') && text.matches('\n').count() == text.matches("\r\n").count();
            match ours {
                Ok(Head { request, .. }) => {
                    proptest::prop_assert_eq!(length, Ok(httparse::Status::Complete(text.len())));
                    proptest::prop_assert_eq!(Some(request.method().as_str()), theirs.method);
                    proptest::prop_assert_eq!(request.uri(), &theirs.path.unwrap().parse::<Uri>().unwrap());
                    proptest::prop_assert!(fields::are_those(request.headers(), theirs.headers));
                }
                Err(_) => {
                    let is_target = theirs.path.is_some_and(|path| path.parse::<Uri>().is_ok());
                    proptest::prop_assert!(!strict || !is_target || !matches!(length, Ok(httparse::Status::Complete(_))), "{text:?}");
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            _ = take(&mut BytesMut::from(&bytes[..]), &mut Scan::default());
        }

        #[test]
        fn what_is_accepted_has_one_length(field in "[ -~]{0,40}") {
            if let Ok(head) = with(&format!("{field}\r\n")) {
                let told = ["content-length", "transfer-encoding"].iter().filter(|name| head.request.headers().contains_key(**name));
                proptest::prop_assert!(told.count() <= 1);
            }
        }
    }
}
