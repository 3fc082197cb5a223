//! The head of an answer, from bytes.
//!
//! httparse reads the lines, strictly. What is more here refuses answers that another HTTP parser might read otherwise: such
//! an answer would be one thing to us and another to the client, and what is left over the next client's answer.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};

use super::chunks::Chunks;
use crate::backend::{Phase, SendError};

/// For so many fields there is room on the stack.
const FEW: usize = 100;

/// How many interim answers may come before the final one.
const INTERIM: usize = 16;

/// Larger numbers are negative to who keeps them in 64 bits with a sign.
pub(super) const MOST: u64 = i64::MAX as u64;

/// Limits on what is accepted from a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    pub(super) max_headers: usize,
    pub(super) max_head_bytes: usize,
}

/// How the end of an answer's body is told.
#[derive(Debug)]
pub(super) enum Framing {
    /// By its length; so many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
    /// By the end of the connection.
    UntilClose,
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
    /// Up to here there is no end of it.
    bytes: usize,
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
    loop {
        let Some(length) = end(&read[seen.bytes..]).map(|end| seen.bytes + end) else {
            seen.bytes = read.len().saturating_sub(2);
            return if read.len() > wire.max_head_bytes { invalid("the head is too long") } else { Ok(None) };
        };
        seen.bytes = 0;
        if length > wire.max_head_bytes {
            return invalid("the head is too long");
        }
        let response = response(read.split_to(length).freeze(), wire)?;
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
                let framing = framing(&response, method)?;
                let keeps = keeps(&response) && !matches!(framing, Framing::UntilClose);
                return Ok(Some(Head { response, framing, keeps }));
            }
        }
    }
}

/// Where the first empty line ends.
fn end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|line| match &bytes[line + 1..] {
        [b'\n', ..] => Some(line + 2),
        [b'\r', b'\n', ..] => Some(line + 3),
        _ => None,
    })
}

/// httparse takes lines that end with a line feed alone, and empty lines before the first. Others do not.
fn is_strict(head: &[u8]) -> bool {
    head.starts_with(b"H") && memchr::memchr_iter(b'\n', head).all(|line| head[line - 1] == b'\r')
}

fn response(head: Bytes, wire: Wire) -> Result<Response<()>, SendError> {
    if !is_strict(&head) {
        return invalid("a line of the head does not begin or end as it must");
    }
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; FEW];
    let mut many = Vec::new();
    let room = match few.get_mut(..wire.max_headers) {
        Some(room) => room,
        None => {
            // A field has four bytes at least.
            many.resize_with(wire.max_headers.min(head.len() / 4), MaybeUninit::uninit);
            &mut many[..]
        }
    };
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, &head, room) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return invalid("the head is not complete"),
        Err(error) => return Err(SendError::new(Phase::Invalid, error)),
    }
    let headers = HeaderMap::try_with_capacity(parsed.headers.len());
    let mut headers = headers.map_err(|error| SendError::new(Phase::Invalid, error))?;
    for Header { name, value } in parsed.headers.iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| SendError::new(Phase::Invalid, error))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value));
        let value = value.map_err(|error| SendError::new(Phase::Invalid, error))?;
        headers.try_append(name, value).map_err(|error| SendError::new(Phase::Invalid, error))?;
    }
    let mut response = Response::new(());
    let status = parsed.code.unwrap_or_default();
    *response.status_mut() = StatusCode::from_u16(status).map_err(|error| SendError::new(Phase::Invalid, error))?;
    *response.version_mut() = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    *response.headers_mut() = headers;
    if let Some(reason) = parsed.reason.filter(|reason| Some(*reason) != response.status().canonical_reason())
        && let Ok(reason) = hyper::ext::ReasonPhrase::try_from(reason.as_bytes())
    {
        // What hyper's server writes in place of the usual words.
        response.extensions_mut().insert(reason);
    }
    Ok(response)
}

/// How the body ends (RFC 9112, 6.3), where all parsers agree on it (RFC 9112, 6.1).
fn framing(response: &Response<()>, method: &Method) -> Result<Framing, SendError> {
    let headers = response.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return invalid("transfer-encoding is not exactly \"chunked\"");
    }
    if coding.is_some() && response.version() < Version::HTTP_11 {
        return invalid("a transfer coding in HTTP/1.0");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        Some(length) => match number(length.as_bytes()) {
            Some(length) if coding.is_none() && lengths.next().is_none() => Some(length),
            _ => return invalid("content-length is not one number alone"),
        },
        None => None,
    };
    let status = response.status();
    if method == Method::CONNECT && status.is_success() {
        return invalid("a tunnel that is not supported");
    }
    if method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    Ok(match (coding, length) {
        (Some(_), _) => Framing::Chunked(Chunks::new()),
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok().filter(|number| *number <= MOST) } else { None }
}

fn keeps(response: &Response<()>) -> bool {
    let mut options = response
        .headers()
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    match response.version() {
        Version::HTTP_11 => !options.any(|option| option.eq_ignore_ascii_case(b"close")),
        _ => {
            let (mut keeps, mut closes) = (false, false);
            for option in options {
                keeps |= option.eq_ignore_ascii_case(b"keep-alive");
                closes |= option.eq_ignore_ascii_case(b"close");
            }
            keeps && !closes
        }
    }
}

fn invalid<T>(why: &'static str) -> Result<T, SendError> {
    Err(SendError::new(Phase::Invalid, why))
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
            assert_eq!(error.phase(), Phase::Invalid, "{bad}");
        }
        assert!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n").is_err());
        assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn refuses_lengths_that_are_not_one_number_alone() {
        assert!(matches!(with("Content-Length: 12\r\n").unwrap().framing, Framing::Length(12)));
        for bad in ["", "+1", "-1", "1, 1", "0x1", "18446744073709551616"] {
            assert_eq!(with(&format!("Content-Length: {bad}\r\n")).unwrap_err().phase(), Phase::Invalid, "{bad}");
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
        assert_eq!(error.phase(), Phase::Invalid);
        assert!(parse_for(&Method::CONNECT, "HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn refuses_what_is_no_http_1() {
        for bad in ["HTTP/0.9 200 OK", "HTTP/2.0 200 OK", "HTTP/1.1 99 X", "HTTP/1.1 2000 X", "HTTP/1.1", "200 OK"] {
            assert_eq!(parse(&format!("{bad}\r\n\r\n")).unwrap_err().phase(), Phase::Invalid, "{bad}");
        }
        for bad in ["X-Folded: a\r\n b\r\n", "No colon\r\n", ": no name\r\n", "X-Nul: a\0b\r\n", "Spaced : x\r\n"] {
            assert_eq!(with(bad).unwrap_err().phase(), Phase::Invalid, "{bad}");
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
    fn unusual_words_for_a_status_are_kept() {
        let head = parse("HTTP/1.1 200 Fine\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.response.extensions().get::<hyper::ext::ReasonPhrase>().unwrap().as_bytes(), b"Fine");
        let head = parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert!(head.response.extensions().get::<hyper::ext::ReasonPhrase>().is_none());
    }
}
