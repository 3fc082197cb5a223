//! The head of an answer, from bytes.
//!
//! An answer that another HTTP parser might read otherwise is refused: it would be one thing to us and another to the client,
//! and what is left over the next client's answer.

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use crate::backend::{Phase, SendError};
use crate::http1::fields::{self, Scan, Told};
use crate::http1::framing::Framing;

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
    loop {
        let end = match seen.scan.end(read) {
            None if read.len() <= wire.max_head_bytes => return Ok(None),
            Some(end) if end.at <= wire.max_head_bytes => end,
            _ => return invalid("the head is too long"),
        };
        // httparse would pass over empty lines before the first.
        if !end.strict || !read.starts_with(b"H") {
            return invalid("a line of the head does not begin or end as it must");
        }
        let (response, told) = response(read.split_to(end.at).freeze(), wire)?;
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

fn response(head: Bytes, wire: Wire) -> Result<(Response<()>, Told), SendError> {
    fields::with_room(wire.max_headers, head.len(), |room| {
        let mut parsed = httparse::Response::new(&mut []);
        match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, &head, room) {
            Ok(Status::Complete(_)) => of(&parsed, &head),
            Ok(Status::Partial) => invalid("the head is not complete"),
            Err(error) => Err(SendError::new(Phase::Invalid, error)),
        }
    })
}

fn of(parsed: &httparse::Response<'_, '_>, head: &Bytes) -> Result<(Response<()>, Told), SendError> {
    let (headers, told) = fields::map(head, parsed.headers).map_err(|error| SendError::new(Phase::Invalid, error))?;
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
    Ok((response, told))
}

/// How the body ends (RFC 9112, 6.3).
fn framing(response: &Response<()>, told: &Told, method: &Method) -> Result<Framing, SendError> {
    let framing = told.framing(response.version()).map_err(|unclear| SendError::new(Phase::Invalid, unclear))?;
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
