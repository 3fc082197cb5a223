//! Parses the headers of a head.
//!
//! The `http` crate checks the characters of names and values. This module also refuses headers
//! that another parser could read differently.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::Error;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::framing::FramingHeaders;
use super::head::HeadLines;

thread_local! {
    /// Header maps of written messages, which are reused for messages that are read next. Creating
    /// and dropping a map costs four allocations.
    static SPARE_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// The number of maps that are kept. With many busy clients, many requests end in one turn of the
/// runtime, and the next ones begin in the next turn.
const MAX_SPARE_MAPS: usize = 128;
/// The maximum capacity of a map that is kept, in headers.
const MAX_SPARE_CAPACITY: usize = 64;

/// The number of headers that can be added to a parsed head before its map grows: the forwarding
/// headers and `Host`.
const EXTRA_CAPACITY: usize = 4;

/// The reason why the headers of a head are not valid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidHeaders {
    #[error("a line of the head has no colon")]
    NoColon,
    #[error(transparent)]
    Header(#[from] Error),
}

/// The sender of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    /// Its `Connection` header is recorded and left out if it is only `close` or `keep-alive`.
    /// Nearly every response has one, and the proxy would remove it again.
    Node,
}

/// Parses the headers of `head` into `headers`, and replaces its contents. The values share the
/// memory of `head`.
///
/// A name ends at its colon. Whitespace is not part of a name, neither before the colon nor before
/// a name as in a folded line (RFC 9112, 5.1 and 5.2). So such lines are refused.
pub(crate) fn parse(
    head: &Bytes,
    lines: &HeadLines<'_>,
    sender: Sender,
    headers: &mut HeaderMap,
) -> Result<FramingHeaders, InvalidHeaders> {
    *headers = SPARE_MAPS.with_borrow_mut(Vec::pop).unwrap_or_default();
    headers.try_reserve(lines.headers().len() + EXTRA_CAPACITY).map_err(Error::from)?;
    let mut framing = FramingHeaders::default();
    for line in lines.headers() {
        let (name, value, name_len) = parse_header(head, line)?;
        if FramingHeaders::may_record(name_len) {
            framing.record(&name, value.as_bytes());
        }
        if sender == Sender::Node && name == header::CONNECTION && is_only_persistence(value.as_bytes()) {
            continue;
        }
        headers.try_append(name, value).map_err(Error::from)?;
    }
    Ok(framing)
}

/// Keeps the map of a written message for [`parse`].
pub(crate) fn recycle(mut headers: HeaderMap) {
    if (1..=MAX_SPARE_CAPACITY).contains(&headers.capacity()) {
        headers.clear();
        SPARE_MAPS.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE_MAPS {
                spare.push(headers);
            }
        });
    }
}

/// Returns the name, the value, and the length of the name, which would otherwise cost a lookup.
fn parse_header(head: &Bytes, line: Range<usize>) -> Result<(HeaderName, HeaderValue, usize), InvalidHeaders> {
    let text = &head[line.clone()];
    let colon = memchr(b':', text).ok_or(InvalidHeaders::NoColon)?;
    let name = match common_name(&text[..colon]) {
        Some(name) => name,
        None => HeaderName::from_bytes(&text[..colon]).map_err(Error::from)?,
    };
    let value = trim(text, colon + 1..text.len());
    let value = head.slice(line.start + value.start..line.start + value.end);
    Ok((name, HeaderValue::from_maybe_shared(value).map_err(Error::from)?, colon))
}

/// Returns `range` of `text` without leading and trailing blanks.
fn trim(text: &[u8], mut range: Range<usize>) -> Range<usize> {
    while let [b' ' | b'\t', ..] = text[range.clone()] {
        range.start += 1;
    }
    while let [.., b' ' | b'\t'] = text[range.clone()] {
        range.end -= 1;
    }
    range
}

fn is_only_persistence(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Looks up the names of nearly every message in their two usual spellings, because `HeaderName`
/// copies a name in lower case before it looks it up.
fn common_name(name: &[u8]) -> Option<HeaderName> {
    Some(match (name.len(), name) {
        (4, b"Host" | b"host") => header::HOST,
        (4, b"Date" | b"date") => header::DATE,
        (4, b"Vary" | b"vary") => header::VARY,
        (6, b"Accept" | b"accept") => header::ACCEPT,
        (6, b"Cookie" | b"cookie") => header::COOKIE,
        (6, b"Server" | b"server") => header::SERVER,
        (6, b"Pragma" | b"pragma") => header::PRAGMA,
        (7, b"Expires" | b"expires") => header::EXPIRES,
        (10, b"User-Agent" | b"user-agent") => header::USER_AGENT,
        (10, b"Connection" | b"connection") => header::CONNECTION,
        (10, b"Set-Cookie" | b"set-cookie") => header::SET_COOKIE,
        (12, b"Content-Type" | b"content-type") => header::CONTENT_TYPE,
        (13, b"Authorization" | b"authorization") => header::AUTHORIZATION,
        (13, b"Cache-Control" | b"cache-control") => header::CACHE_CONTROL,
        (14, b"Content-Length" | b"content-length") => header::CONTENT_LENGTH,
        (15, b"Accept-Encoding" | b"accept-encoding") => header::ACCEPT_ENCODING,
        (15, b"X-Frame-Options" | b"x-frame-options") => header::X_FRAME_OPTIONS,
        (16, b"X-XSS-Protection" | b"x-xss-protection") => header::X_XSS_PROTECTION,
        (17, b"Transfer-Encoding" | b"transfer-encoding") => header::TRANSFER_ENCODING,
        (22, b"X-Content-Type-Options" | b"x-content-type-options") => header::X_CONTENT_TYPE_OPTIONS,
        _ => return None,
    })
}

/// Returns true if `ours` are the headers that another parser has read, in any order of names.
#[cfg(test)]
pub(crate) fn are_equal(ours: &HeaderMap, theirs: &[httparse::Header<'_>]) -> bool {
    let ours = ours.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes()));
    let theirs = theirs.iter().map(|header| (header.name.to_ascii_lowercase(), header.value));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
    ours.sort();
    theirs.sort();
    ours == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_is_found_in_both_spellings() {
        for name in [
            "Host",
            "Date",
            "Vary",
            "Accept",
            "Cookie",
            "Server",
            "Pragma",
            "Expires",
            "User-Agent",
            "Connection",
            "Set-Cookie",
            "Content-Type",
            "Authorization",
            "Cache-Control",
            "Content-Length",
            "Accept-Encoding",
            "X-Frame-Options",
            "X-XSS-Protection",
            "Transfer-Encoding",
            "X-Content-Type-Options",
        ] {
            let lower = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(common_name(name.as_bytes()).unwrap(), lower);
            assert_eq!(common_name(lower.as_str().as_bytes()).unwrap(), lower);
            assert!(
                common_name(name.to_ascii_uppercase().as_bytes()).is_none(),
                "{name} in capitals is not in the table"
            );
        }
    }
}
