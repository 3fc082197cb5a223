//! The head of an answer, from bytes.
//!
//! An answer that another HTTP parser might read otherwise is refused: it would be one thing to us and another to the client,
//! and what is left over the next client's answer.

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::backend::{SendError, SendErrorKind};
use crate::http1::fields::{self, FramingHeaders};
use crate::http1::framing::Framing;
use crate::http1::lines::{Lines, Most, Scan};

/// How many interim answers may come before the final one.
const INTERIM: usize = 16;

/// Limits on what is accepted from a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    pub(super) max_headers: usize,
    pub(super) max_head_bytes: usize,
}

/// An answer's head, and what it says of the rest.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The node will take another request on the connection.
    pub(super) keeps: bool,
}

/// What has come of an answer's head.
#[derive(Debug, Default)]
pub(super) struct Seen {
    scan: Scan,
    interim: usize,
}

/// Takes the head of the answer to a `method` request out of `read`; none while it is not complete. Interim answers are
/// passed over: a proxy need not pass them on (RFC 9110, 15.2), and clients that expect one have had ours.
pub(super) fn head(
    read: &mut BytesMut,
    seen: &mut Seen,
    method: &Method,
    wire: Wire,
) -> Result<Option<Head>, SendError> {
    let most = Most { bytes: wire.max_head_bytes, fields: wire.max_headers };
    loop {
        let Some(response) =
            seen.scan.take(read, most, response).map_err(|why| SendError::new(SendErrorKind::Invalid, why))?
        else {
            return Ok(None);
        };
        let (response, told) = response?;
        match response.status() {
            // No request of ours asks for an upgrade.
            StatusCode::SWITCHING_PROTOCOLS => return invalid("status 101 without a request to upgrade"),
            status if status.is_informational() => {
                seen.interim += 1;
                if seen.interim > INTERIM {
                    return invalid("more interim answers than anybody needs");
                }
            }
            _ => {
                let framing = framing(&response, &told, method)?;
                let keeps = told.keeps(response.version()) && !matches!(framing, Framing::UntilClose);
                return Ok(Some(Head { response, framing, keeps }));
            }
        }
    }
}

fn response(head: Bytes, lines: Lines<'_>) -> Result<(Response<()>, FramingHeaders), SendError> {
    let Some((version, status, reason)) = status_line(&head[lines.first()]) else {
        return invalid("the head does not begin with a status line of HTTP/1.1");
    };
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_bytes(status).map_err(|error| SendError::new(SendErrorKind::Invalid, error))?;
    *response.version_mut() = version;
    if !reason.is_empty() && response.status().canonical_reason().map(str::as_bytes) != Some(reason) {
        // What hyper's server writes in place of the usual words.
        let reason = ReasonPhrase::try_from(reason).map_err(|error| SendError::new(SendErrorKind::Invalid, error))?;
        response.extensions_mut().insert(reason);
    }
    let (headers, told) = fields::map(&head, &lines, fields::Sender::Node)
        .map_err(|error| SendError::new(SendErrorKind::Invalid, error))?;
    *response.headers_mut() = headers;
    Ok((response, told))
}

/// Version, status and the words for it, which Tomcat leaves out, and with them some leave out the space before them
/// (RFC 9112, 4).
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

/// How the body ends (RFC 9112, 6.3).
fn framing(response: &Response<()>, told: &FramingHeaders, method: &Method) -> Result<Framing, SendError> {
    let framing =
        told.framing(response.version()).map_err(|unclear| SendError::new(SendErrorKind::Invalid, unclear))?;
    let status = response.status();
    if method == Method::CONNECT && status.is_success() {
        return invalid("a tunnel that is not supported");
    }
    if method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    Ok(framing.unwrap_or(Framing::UntilClose))
}

fn invalid<T>(why: &'static str) -> Result<T, SendError> {
    Err(SendError::new(SendErrorKind::Invalid, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: Wire = Wire { max_headers: 100, max_head_bytes: 8192 };

    fn parse_for(method: &Method, text: &str) -> Result<Option<Head>, SendError> {
        head(&mut BytesMut::from(text), &mut Seen::default(), method, WIRE)
    }

    fn parse(text: &str) -> Result<Option<Head>, SendError> {
        parse_for(&Method::GET, text)
    }

    fn with(fields: &str) -> Result<Head, SendError> {
        parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(Option::unwrap)
    }

    #[test]
    fn an_answer_is_read_whatever_the_pieces_it_comes_in() {
        let text = "HTTP/1.1 201 Made\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc";
        for cut in 0..text.len() {
            let (mut read, mut seen) = (BytesMut::from(&text[..cut]), Seen::default());
            let first = head(&mut read, &mut seen, &Method::GET, WIRE).unwrap();
            read.extend_from_slice(&text.as_bytes()[cut..]);
            let whole = first.or_else(|| head(&mut read, &mut seen, &Method::GET, WIRE).unwrap()).unwrap();
            assert_eq!(whole.response.status(), StatusCode::CREATED);
            assert_eq!(whole.response.headers()["x-a"], "b");
            assert!(matches!(whole.framing, Framing::Length(3)) && whole.keeps);
            assert_eq!(&read[..], b"abc", "cut at {cut}");
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(text).unwrap().unwrap().response.status(), StatusCode::NO_CONTENT);
        assert!(parse("HTTP/1.1 100 Continue\r\n\r\n").unwrap().is_none());
    }

    #[test]
    fn refuses_transfer_codings_that_parsers_disagree_on() {
        assert!(matches!(with("").unwrap().framing, Framing::UntilClose));
        assert!(matches!(with("Transfer-Encoding: Chunked\r\n").unwrap().framing, Framing::Chunked(_)));
        for bad in ["chunked, chunked", "gzip, chunked", "xchunked", "identity", ",chunked", "chunked;q=1", ""] {
            let error = with(&format!("Transfer-Encoding: {bad}\r\n")).unwrap_err();
            assert_eq!(error.kind(), SendErrorKind::Invalid, "{bad}");
        }
        assert!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n").is_err());
        assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn refuses_lengths_that_are_not_one_number_alone() {
        assert!(matches!(with("Content-Length: 12\r\n").unwrap().framing, Framing::Length(12)));
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
    fn refuses_heads_that_are_too_long() {
        let length = |fill: usize| parse(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(fill)));
        assert!(length(8192 - 24).unwrap().is_some());
        assert!(length(8192 - 23).is_err());
        assert!(parse(&"x".repeat(8193)).is_err(), "without an end in sight");
        assert!(with(&"x: y\r\n".repeat(101)).is_err());
        assert!(with(&"x: y\r\n".repeat(100)).is_ok());
        let many = Wire { max_headers: 101, ..WIRE };
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        assert!(head(&mut BytesMut::from(&text[..]), &mut Seen::default(), &Method::GET, many).is_ok());
    }

    #[test]
    fn refuses_an_upgrade_that_nobody_asked_for() {
        let error = parse("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::Invalid);
        assert!(parse_for(&Method::CONNECT, "HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn refuses_what_is_no_http_1() {
        for bad in ["HTTP/0.9 200 OK", "HTTP/2.0 200 OK", "HTTP/1.1 99 X", "HTTP/1.1 2000 X", "HTTP/1.1", "200 OK"] {
            assert_eq!(parse(&format!("{bad}\r\n\r\n")).unwrap_err().kind(), SendErrorKind::Invalid, "{bad}");
        }
        for bad in ["X-Folded: a\r\n b\r\n", "No colon\r\n", ": no name\r\n", "X-Nul: a\0b\r\n", "Spaced : x\r\n"] {
            assert_eq!(with(bad).unwrap_err().kind(), SendErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert!(matches!(parse_for(&Method::HEAD, text).unwrap().unwrap().framing, Framing::Length(0)));
        for status in ["204 No Content", "304 Not Modified"] {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            assert!(matches!(parse(&text).unwrap().unwrap().framing, Framing::Length(0)));
        }
    }

    #[test]
    fn a_connection_is_kept_as_the_answer_says() {
        let keeps = |text: &str| parse(&format!("{text}\r\nContent-Length: 0\r\n\r\n")).unwrap().unwrap().keeps;
        assert!(keeps("HTTP/1.1 200 OK"));
        assert!(keeps("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: x, Close"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive"));
        assert!(!keeps("HTTP/1.0 200 OK"));
        assert!(keeps("HTTP/1.0 200 OK\r\nConnection: Keep-Alive"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nConnection: keep-alive, close"));
        assert!(!with("").unwrap().keeps, "the end of the connection is the end of the body");
    }

    #[test]
    fn what_says_no_more_than_whether_the_connection_is_kept_stays_with_it() {
        let seen = |fields: &str| with(fields).map(|head| head.response.headers().get_all("connection").iter().count());
        for alone in ["close", "Keep-Alive", " close\t"] {
            assert_eq!(seen(&format!("Connection: {alone}\r\n")).unwrap(), 0, "{alone}");
        }
        for more in ["close, X-A", "X-A", "", "close,"] {
            assert_eq!(seen(&format!("Connection: {more}\r\n")).unwrap(), 1, "{more}");
        }
        assert_eq!(seen("Connection: close\r\nConnection: X-A\r\n").unwrap(), 1);
        assert!(seen("Connection: close\r\r\n").is_err(), "whitespace that is none");
    }

    #[test]
    fn unusual_words_for_a_status_are_kept() {
        let head = parse("HTTP/1.1 200 Fine\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.response.extensions().get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        let head = parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert!(head.response.extensions().get::<ReasonPhrase>().is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        /// httparse takes more: line feeds alone, empty lines before the first.
        #[test]
        fn what_is_accepted_is_what_another_parser_reads(
            first in "HTTP/(1\\.1|1\\.0|1\\.2|2\\.0)( |  |\t|)(200|99|2000|20x|999)(| | OK| O K| \0| \r|\tOK| \x7f)(\r\n|\r\n|\r\n|\n)",
            fields in "((Server|X-A|x-a|X A|\u{e9}|)(:|: |:\t| :|;)(|b|b c |\u{e9}|\0|\r|\x7f)(\r\n|\r\n|\r\n|\n|\r\n )){0,3}\r\n",
        ) {
            let mut text = first + &fields;
            if matches!(parse(&text), Ok(None)) {
                text += "\r\n";
            }
            let ours = parse(&text).map(Option::unwrap);
            let mut room = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Response::new(&mut room);
            let length = theirs.parse(text.as_bytes());
            let strict = text.matches('\n').count() == text.matches("\r\n").count();
            match ours {
                Ok(Head { response, .. }) => {
                    proptest::prop_assert_eq!(length, Ok(httparse::Status::Complete(text.len())));
                    proptest::prop_assert_eq!(Some(response.status().as_u16()), theirs.code);
                    let reason = response.extensions().get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
                    let usual = response.status().canonical_reason().unwrap_or_default().as_bytes();
                    let theirs_reason = theirs.reason.unwrap().as_bytes();
                    proptest::prop_assert!(reason.unwrap_or(usual) == theirs_reason || theirs_reason.is_empty());
                    proptest::prop_assert!(fields::are_those(response.headers(), theirs.headers));
                }
                Err(_) => {
                    let is_status = theirs.code.is_some_and(|code| code >= 100);
                    proptest::prop_assert!(!strict || !is_status || !matches!(length, Ok(httparse::Status::Complete(_))), "{text:?}");
                }
            }
        }
    }
}
