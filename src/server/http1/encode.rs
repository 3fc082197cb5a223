//! The head of an answer as bytes.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, header};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::body::Body;
use crate::http1::fields::{self, declared_length};
use crate::http1::out::{Ending, decimal};

/// What matters of the request for how its answer is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// For the head alone.
    pub(super) head: bool,
    /// In HTTP/1.0.
    pub(super) old: bool,
    /// The client would go on using the connection.
    pub(super) keeps: bool,
}

/// How the end of the answer's body is told.
///
/// As with requests to nodes, what the body says goes before what the fields say.
pub(super) fn ending(answer: &Response<Body>, asked: Asked) -> Ending {
    match answer.body().size_hint().exact().or_else(|| declared_length(answer.headers())) {
        _ if has_no_body(answer.status(), asked) => Ending::Length(0),
        Some(length) => Ending::Length(length),
        None if asked.old => Ending::UntilClose,
        None => Ending::Chunked,
    }
}

fn has_no_body(status: StatusCode, asked: Asked) -> bool {
    asked.head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Appends the head of `answer` to `out`. Returns whether the connection is kept, which it is if it can be and the answer does
/// not say otherwise.
pub(super) fn head(answer: &Response<Body>, asked: Asked, ending: Ending, mut keeps: bool, out: &mut Vec<u8>) -> bool {
    let status = answer.status();
    out.extend_from_slice(if asked.old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match answer.extensions().get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let mut dated = false;
    for (name, value) in answer.headers() {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::CONNECTION => {
                keeps &= !fields::closes(value);
                continue;
            }
            header::DATE => dated = true,
            _ => {}
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !dated {
        date(out);
    }
    match (keeps, asked.old) {
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, false) => out.extend_from_slice(b"connection: close\r\n"),
        _ => {}
    }
    let length = match ending {
        Ending::Chunked => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            None
        }
        Ending::UntilClose => None,
        // What the body of a GET would have (RFC 9110, 8.6), if that is known.
        Ending::Length(0) if asked.head || status == StatusCode::NOT_MODIFIED => declared_length(answer.headers()),
        Ending::Length(_) if has_no_body(status, asked) => None,
        Ending::Length(length) => Some(length),
    };
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        decimal(length, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    keeps
}

/// Appends the time, which an answer must tell (RFC 9110, 6.6.1). It is written anew once a second.
fn date(out: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    WRITTEN.with_borrow_mut(|(second, text)| {
        if *second != now || text.is_empty() {
            (*second, *text) = (now, Vec::with_capacity(40));
            let date = httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
            // Writing into memory does not fail.
            _ = write!(text, "date: {date}\r\n");
        }
        out.extend_from_slice(text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { head: false, old: false, keeps: true };

    fn text(answer: Response<Body>, asked: Asked, keeps: bool) -> (String, Ending) {
        let (mut out, ending) = (Vec::new(), ending(&answer, asked));
        head(&answer, asked, ending, keeps, &mut out);
        (String::from_utf8(out).unwrap(), ending)
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
    fn a_head_is_its_line_its_fields_and_the_framing() {
        let answer = dated().header("set-cookie", "a=b").header("set-cookie", "c=d").header("connection", "x");
        let (text, ending) = text(answer.body("hello".into()).unwrap(), ASKED, true);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\ndate: now\r\nset-cookie: a=b\r\nset-cookie: c=d\r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!(ending, Ending::Length(5));
    }

    #[test]
    fn the_framing_is_the_bodys_and_not_what_the_fields_say() {
        let lies = dated().header("content-length", "7").header("transfer-encoding", "gzip");
        let (sent, _) = text(lies.body("hello".into()).unwrap(), ASKED, true);
        assert!(sent.ends_with("content-length: 5\r\n\r\n") && !sent.contains("gzip"), "{sent}");
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_or_ends_with_the_connection() {
        let (sent, ending) = text(dated().body(Body::new(Unknown)).unwrap(), ASKED, true);
        assert!(sent.ends_with("transfer-encoding: chunked\r\n\r\n") && ending == Ending::Chunked, "{sent}");
        let old = Asked { old: true, ..ASKED };
        let (sent, ending) = text(dated().body(Body::new(Unknown)).unwrap(), old, false);
        assert_eq!((sent.as_str(), ending), ("HTTP/1.0 200 OK\r\ndate: now\r\n\r\n", Ending::UntilClose));
    }

    #[test]
    fn a_head_alone_tells_the_length_that_was_declared() {
        let head = Asked { head: true, ..ASKED };
        let (sent, ending) = text(dated().header("content-length", "7").body(Body::empty()).unwrap(), head, true);
        assert!(sent.ends_with("content-length: 7\r\n\r\n") && ending == Ending::Length(0), "{sent}");
        let (sent, _) = text(dated().body(Body::empty()).unwrap(), head, true);
        assert!(!sent.contains("content-length"), "{sent}");
        for status in [204, 304] {
            let (sent, ending) = text(dated().status(status).body("x".into()).unwrap(), ASKED, true);
            assert!(!sent.contains("content-length") && ending == Ending::Length(0), "{sent}");
        }
        let (sent, _) = text(dated().status(205).body(Body::empty()).unwrap(), ASKED, true);
        assert!(sent.ends_with("content-length: 0\r\n\r\n"), "{sent}");
    }

    #[test]
    fn who_closes_says_so_and_so_does_who_keeps_an_old_connection() {
        let sent = |old, keeps| text(dated().body(Body::empty()).unwrap(), Asked { old, ..ASKED }, keeps).0;
        assert!(sent(false, false).contains("connection: close\r\n") && !sent(false, true).contains("connection"));
        assert!(sent(true, true).contains("connection: keep-alive\r\n") && !sent(true, false).contains("connection"));
    }

    #[test]
    fn an_answer_tells_the_time() {
        let (sent, _) = text(Response::new(Body::empty()), ASKED, true);
        let date = sent.split("date: ").nth(1).unwrap().lines().next().unwrap();
        let age = SystemTime::now().duration_since(httpdate::parse_http_date(date).unwrap()).unwrap();
        assert!(age < Duration::from_secs(5), "{date}");
    }

    #[test]
    fn unusual_words_for_a_status_are_passed_on() {
        let mut answer = Response::new(Body::empty());
        answer.extensions_mut().insert(ReasonPhrase::from_static(b"Fine"));
        assert!(text(answer, ASKED, true).0.starts_with("HTTP/1.1 200 Fine\r\n"));
    }
}
