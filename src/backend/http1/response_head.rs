//! Parses the head of a response.
//!
//! A response that another parser could read differently is refused. The proxy and the client would
//! see two different responses, and the rest of one could become the next client's response.

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::backend::{SendError, SendErrorKind};
use crate::body::BoxError;
use crate::http1::body_decoder::BodyDecoder;
use crate::http1::framing::FramingHeaders;
use crate::http1::head::{HeadError, HeadLimits, HeadLines, HeadScanner};
use crate::http1::headers::{self, Sender};

/// The number of interim responses that may come before the final one.
const MAX_INTERIM: usize = 16;

/// The head of a final response, with its consequences for the body and the connection.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) body: BodyDecoder,
    /// Whether the node accepts another request on the connection.
    pub(super) keep_alive: bool,
}

/// The parsed part of a response's head.
#[derive(Debug, Default)]
pub(super) struct ParserState {
    scanner: HeadScanner,
    interim: usize,
}

impl ParserState {
    /// Takes the head of the response to a `method` request out of `read`; returns `None` while it
    /// is incomplete. Skips interim responses: a proxy need not forward them (RFC 9110, 15.2), and
    /// the server has sent its own `100 Continue`.
    pub(super) fn take(
        &mut self,
        read: &mut BytesMut,
        method: &Method,
        limits: HeadLimits,
    ) -> Result<Option<ResponseHead>, SendError> {
        loop {
            let Some(parsed) = self.scanner.take(read, limits, parse).map_err(head_error)? else { return Ok(None) };
            let (response, framing) = parsed?;
            match response.status() {
                // The proxy never asks for an upgrade.
                StatusCode::SWITCHING_PROTOCOLS => return Err(invalid("status 101 without a request to upgrade")),
                status if status.is_informational() => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(SendError::new(SendErrorKind::HeadTooLarge, "too many interim responses"));
                    }
                }
                _ => {
                    let body = body_decoder(&response, &framing, method)?;
                    let keep_alive =
                        framing.is_keep_alive(response.version()) && !matches!(body, BodyDecoder::UntilClose);
                    return Ok(Some(ResponseHead { response, body, keep_alive }));
                }
            }
        }
    }
}

fn parse(head: Bytes, lines: HeadLines<'_>) -> Result<(Response<()>, FramingHeaders), SendError> {
    let Some((version, status, reason)) = status_line(&head[lines.start_line()]) else {
        return Err(invalid("the head does not begin with a status line of HTTP/1.1"));
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(status).map_err(invalid)?;
    *response.version_mut() = version;
    if !reason.is_empty() && response.status().canonical_reason().map(str::as_bytes) != Some(reason) {
        // The server writes it instead of the usual reason phrase, like hyper's server.
        response.extensions_mut().insert(ReasonPhrase::try_from(reason).map_err(invalid)?);
    }
    let framing = headers::parse(&head, &lines, Sender::Node, response.headers_mut()).map_err(invalid)?;
    Ok((response, framing))
}

/// Splits a status line into version, status and reason phrase. Tomcat omits the phrase, and some
/// servers also omit the space before it (RFC 9112, 4).
fn status_line(line: &[u8]) -> Option<(Version, &[u8; 3], &[u8])> {
    let (version, line) = match line.split_first_chunk()? {
        (b"HTTP/1.1 ", line) => (Version::HTTP_11, line),
        (b"HTTP/1.0 ", line) => (Version::HTTP_10, line),
        _ => return None,
    };
    match line.split_first_chunk()? {
        (status, []) => Some((version, status, &[])),
        (status, [b' ', reason @ ..]) => Some((version, status, reason)),
        _ => None,
    }
}

/// Returns the decoder of the body (RFC 9112, 6.3).
fn body_decoder(response: &Response<()>, framing: &FramingHeaders, method: &Method) -> Result<BodyDecoder, SendError> {
    let decoder = framing.decoder(response.version()).map_err(invalid)?;
    let status = response.status();
    if method == Method::CONNECT && status.is_success() {
        return Err(invalid("tunnels are not supported"));
    }
    if method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(BodyDecoder::Length(0));
    }
    Ok(decoder.unwrap_or(BodyDecoder::UntilClose))
}

fn head_error(error: HeadError) -> SendError {
    let kind = match error {
        HeadError::TooLong | HeadError::StartLineTooLong | HeadError::TooManyHeaders => SendErrorKind::HeadTooLarge,
        HeadError::BareLineFeed | HeadError::Empty => SendErrorKind::Invalid,
    };
    SendError::new(kind, error)
}

fn invalid(source: impl Into<BoxError>) -> SendError {
    SendError::new(SendErrorKind::Invalid, source)
}

/// Parses `data` as the head of a response that arrives in two parts.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let (mut read, mut state) = (BytesMut::new(), ParserState::default());
        for part in crate::http1::in_two(data) {
            read.extend_from_slice(part);
            match state.take(&mut read, &method, HeadLimits::default()) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    assert!(!head.response.status().is_informational());
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 8192, headers: 100 };

    fn parse_for(method: &Method, text: &str) -> Result<Option<ResponseHead>, SendError> {
        ParserState::default().take(&mut BytesMut::from(text), method, LIMITS)
    }

    fn parse(text: &str) -> Result<Option<ResponseHead>, SendError> {
        parse_for(&Method::GET, text)
    }

    fn with(headers: &str) -> Result<ResponseHead, SendError> {
        parse(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).map(Option::unwrap)
    }

    #[test]
    fn a_response_is_parsed_whatever_the_reads_it_arrives_in() {
        let text = "HTTP/1.1 201 Made\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc";
        for cut in 0..text.len() {
            let (mut read, mut parser) = (BytesMut::from(&text[..cut]), ParserState::default());
            let first = parser.take(&mut read, &Method::GET, LIMITS).unwrap();
            read.extend_from_slice(&text.as_bytes()[cut..]);
            let whole = first.or_else(|| parser.take(&mut read, &Method::GET, LIMITS).unwrap()).unwrap();
            assert_eq!(whole.response.status(), StatusCode::CREATED);
            assert_eq!(whole.response.headers()["x-a"], "b");
            assert!(matches!(whole.body, BodyDecoder::Length(3)) && whole.keep_alive);
            assert_eq!(&read[..], b"abc", "cut at {cut}");
        }
    }

    #[test]
    fn interim_responses_are_skipped() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(text).unwrap().unwrap().response.status(), StatusCode::NO_CONTENT);
        assert!(parse("HTTP/1.1 100 Continue\r\n\r\n").unwrap().is_none());
    }

    #[test]
    fn transfer_codings_that_parsers_disagree_on_are_refused() {
        assert!(matches!(with("").unwrap().body, BodyDecoder::UntilClose));
        assert!(matches!(with("Transfer-Encoding: Chunked\r\n").unwrap().body, BodyDecoder::Chunked(_)));
        for bad in ["chunked, chunked", "gzip, chunked", "xchunked", "identity", ",chunked", "chunked;q=1", ""] {
            let error = with(&format!("Transfer-Encoding: {bad}\r\n")).unwrap_err();
            assert_eq!(error.kind(), SendErrorKind::Invalid, "{bad}");
        }
        assert!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n").is_err());
        assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn lengths_that_are_not_a_single_number_are_refused() {
        assert!(matches!(with("Content-Length: 12\r\n").unwrap().body, BodyDecoder::Length(12)));
        for bad in ["", "+1", "-1", "1, 1", "0x1", "18446744073709551616"] {
            assert_eq!(
                with(&format!("Content-Length: {bad}\r\n")).unwrap_err().kind(),
                SendErrorKind::Invalid,
                "{bad}"
            );
        }
        assert!(with("Content-Length: 1\r\nContent-Length: 1\r\n").is_err());
        assert!(with("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n").is_err());
    }

    #[test]
    fn heads_that_are_too_long_are_refused() {
        let length = |fill: usize| parse(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(fill)));
        assert!(length(8192 - 24).unwrap().is_some());
        assert!(length(8192 - 23).is_err());
        assert!(parse(&"x".repeat(8193)).is_err(), "without an end");
        assert!(with(&"x: y\r\n".repeat(101)).is_err());
        assert!(with(&"x: y\r\n".repeat(100)).is_ok());
        let many = HeadLimits { headers: 101, ..LIMITS };
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        assert!(ParserState::default().take(&mut BytesMut::from(&text[..]), &Method::GET, many).is_ok());
    }

    #[test]
    fn an_upgrade_without_a_request_for_it_is_refused() {
        let error = parse("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::Invalid);
        assert!(parse_for(&Method::CONNECT, "HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn bytes_that_are_not_http_1_are_refused() {
        for bad in ["HTTP/0.9 200 OK", "HTTP/2.0 200 OK", "HTTP/1.1 99 X", "HTTP/1.1 2000 X", "HTTP/1.1", "200 OK"] {
            assert_eq!(parse(&format!("{bad}\r\n\r\n")).unwrap_err().kind(), SendErrorKind::Invalid, "{bad}");
        }
        for bad in ["X-Folded: a\r\n b\r\n", "No colon\r\n", ": no name\r\n", "X-Nul: a\0b\r\n", "Spaced : x\r\n"] {
            assert_eq!(with(bad).unwrap_err().kind(), SendErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_their_headers_say() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert!(matches!(parse_for(&Method::HEAD, text).unwrap().unwrap().body, BodyDecoder::Length(0)));
        for status in ["204 No Content", "304 Not Modified"] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            assert!(matches!(parse(&text).unwrap().unwrap().body, BodyDecoder::Length(0)));
        }
    }

    #[test]
    fn the_response_decides_whether_the_connection_is_kept() {
        let keeps = |text: &str| parse(&format!("{text}\r\nContent-Length: 0\r\n\r\n")).unwrap().unwrap().keep_alive;
        assert!(keeps("HTTP/1.1 200 OK"));
        assert!(keeps("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: x, Close"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive"));
        assert!(!keeps("HTTP/1.0 200 OK"));
        assert!(keeps("HTTP/1.0 200 OK\r\nConnection: Keep-Alive"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nConnection: keep-alive, close"));
        assert!(!with("").unwrap().keep_alive, "the end of the connection is the end of the body");
    }

    #[test]
    fn a_connection_header_of_only_close_or_keep_alive_is_left_out() {
        let count =
            |headers: &str| with(headers).map(|head| head.response.headers().get_all("connection").iter().count());
        for alone in ["close", "Keep-Alive", " close\t"] {
            assert_eq!(count(&format!("Connection: {alone}\r\n")).unwrap(), 0, "{alone}");
        }
        for more in ["close, X-A", "X-A", "", "close,"] {
            assert_eq!(count(&format!("Connection: {more}\r\n")).unwrap(), 1, "{more}");
        }
        assert_eq!(count("Connection: close\r\nConnection: X-A\r\n").unwrap(), 1);
        assert!(count("Connection: close\r\r\n").is_err(), "a bare CR is not whitespace");
    }

    #[test]
    fn an_unusual_reason_phrase_is_kept() {
        let head = parse("HTTP/1.1 200 Fine\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.response.extensions().get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        let head = parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert!(head.response.extensions().get::<ReasonPhrase>().is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        /// httparse also accepts bare line feeds and empty lines before the first line.
        #[test]
        fn an_accepted_head_means_the_same_to_another_parser(
            first in "HTTP/(1\\.1|1\\.0|1\\.2|2\\.0)( |  |\t|)(200|99|2000|20x|999)(| | OK| O K| \0| \r|\tOK| \x7f)(\r\n|\r\n|\r\n|\n)",
            header_lines in "((Server|X-A|x-a|X A|\u{e9}|)(:|: |:\t| :|;)(|b|b c |\u{e9}|\0|\r|\x7f)(\r\n|\r\n|\r\n|\n|\r\n )){0,3}\r\n",
        ) {
            let mut text = first + &header_lines;
            if matches!(parse(&text), Ok(None)) {
                text += "\r\n";
            }
            let ours = parse(&text).map(Option::unwrap);
            let mut buffer = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Response::new(&mut buffer);
            let length = theirs.parse(text.as_bytes());
            let strict = text.matches('\n').count() == text.matches("\r\n").count();
            match ours {
                Ok(ResponseHead { response, .. }) => {
                    proptest::prop_assert_eq!(length, Ok(httparse::Status::Complete(text.len())));
                    proptest::prop_assert_eq!(Some(response.status().as_u16()), theirs.code);
                    let reason = response.extensions().get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
                    let usual = response.status().canonical_reason().unwrap_or_default().as_bytes();
                    let theirs_reason = theirs.reason.unwrap().as_bytes();
                    proptest::prop_assert!(reason.unwrap_or(usual) == theirs_reason || theirs_reason.is_empty());
                    proptest::prop_assert!(headers::are_equal(response.headers(), theirs.headers));
                }
                Err(_) => {
                    let is_status = theirs.code.is_some_and(|code| code >= 100);
                    proptest::prop_assert!(!strict || !is_status || !matches!(length, Ok(httparse::Status::Complete(_))), "{text:?}");
                }
            }
        }
    }
}
