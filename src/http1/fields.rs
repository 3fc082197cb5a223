//! The fields of a head, from its lines.
//!
//! What a name and a value may consist of is checked by `http`. What is more here refuses what another parser might read
//! otherwise.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Error, Version};

use super::chunks::Chunks;
use super::framing::Framing;
use super::lines::Lines;

/// Larger numbers are negative to who keeps them in 64 bits with a sign.
pub(crate) const MOST: u64 = i64::MAX as u64;

thread_local! {
    /// Maps of messages that were written, for those that are read next: to make and drop one costs four allocations.
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// How many maps are kept, and of how many fields at most.
const SPARE_MAPS: usize = 8;
const SPARE_FIELDS: usize = 64;

/// Takes back the map of a message that was written.
pub(crate) fn recycle(mut headers: HeaderMap) {
    if headers.capacity() <= SPARE_FIELDS {
        headers.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAPS {
                spare.push(headers);
            }
        });
    }
}

/// So many fields may come to a head on its way without making its map grow: who was asked, by whom, for whom.
const MORE: usize = 4;

/// Why the fields of a head cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidFields {
    #[error("a line of the head has no colon")]
    NoColon,
    #[error(transparent)]
    Field(#[from] Error),
}

/// From whom a head comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only servers have clients"))]
    Client,
    /// A `Connection` field that says no more than whether the connection is kept is noted and left out: nearly every answer
    /// has one, and whoever passes the answer on would take it out again.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only clients have nodes"))]
    Node,
}

/// The fields of `head`, whose values are shares of it, and what they say. A name ends with its colon: whitespace between
/// them, or before a name as in a folded line, is no part of a name (RFC 9112, 5.1 and 5.2).
pub(crate) fn map(
    head: &Bytes,
    lines: &Lines<'_>,
    sender: Sender,
) -> Result<(HeaderMap, FramingHeaders), InvalidFields> {
    let mut headers = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    headers.try_reserve(lines.fields().len() + MORE).map_err(Error::from)?;
    let mut told = FramingHeaders::default();
    for line in lines.fields() {
        let (name, value) = field(head, line)?;
        told.note(&name, value.as_bytes());
        if sender == Sender::Node && name == header::CONNECTION && is_for_connection_alone(value.as_bytes()) {
            continue;
        }
        headers.try_append(name, value).map_err(Error::from)?;
    }
    Ok((headers, told))
}

fn field(head: &Bytes, line: Range<usize>) -> Result<(HeaderName, HeaderValue), InvalidFields> {
    let text = &head[line.clone()];
    let colon = text.iter().position(|byte| *byte == b':').ok_or(InvalidFields::NoColon)?;
    let name = match known(&text[..colon]) {
        Some(name) => name,
        None => HeaderName::from_bytes(&text[..colon]).map_err(Error::from)?,
    };
    let value = trim(text, colon + 1..text.len());
    let value = head.slice(line.start + value.start..line.start + value.end);
    Ok((name, HeaderValue::from_maybe_shared(value).map_err(Error::from)?))
}

/// `range` of `head` without the whitespace around what is there.
fn trim(head: &[u8], mut range: Range<usize>) -> Range<usize> {
    while let [b' ' | b'\t', ..] = head[range.clone()] {
        range.start += 1;
    }
    while let [.., b' ' | b'\t'] = head[range.clone()] {
        range.end -= 1;
    }
    range
}

/// The names that nearly every request and answer has, in the two ways in which they are written: `HeaderName` copies a name
/// in small letters before it looks it up.
fn known(name: &[u8]) -> Option<HeaderName> {
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

/// Why it cannot be said where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("transfer-encoding is not exactly \"chunked\"")]
    Coding,
    #[error("a transfer coding in HTTP/1.0")]
    Old,
    #[error("content-length is not one number alone")]
    Length,
}

/// What the fields of a head say of its message and of its connection. Noted while they are read: to look a field up in a map
/// costs more than to see it pass.
#[derive(Debug, Default)]
pub(crate) struct FramingHeaders {
    codings: usize,
    chunked: bool,
    lengths: usize,
    length: Option<u64>,
    keeps: bool,
    closes: bool,
    expects_continue: bool,
}

impl FramingHeaders {
    fn note(&mut self, name: &HeaderName, value: &[u8]) {
        match *name {
            header::CONTENT_LENGTH => {
                self.lengths += 1;
                self.length = number(value);
            }
            header::TRANSFER_ENCODING => {
                self.codings += 1;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            header::CONNECTION => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.keeps |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.closes |= option.eq_ignore_ascii_case(b"close");
                }
            }
            header::EXPECT => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
    }

    /// How the body ends (RFC 9112, 6.3), where all parsers agree on it (RFC 9112, 6.1); none when nothing is said of it.
    pub(crate) fn framing(&self, version: Version) -> Result<Option<Framing>, Unclear> {
        match (self.codings, self.lengths) {
            (0, 0) => Ok(None),
            (0, 1) => self.length.map(|length| Some(Framing::Length(length))).ok_or(Unclear::Length),
            (1, 0) if self.chunked && version < Version::HTTP_11 => Err(Unclear::Old),
            (1, 0) if self.chunked => Ok(Some(Framing::Chunked(Chunks::new()))),
            (1, _) if self.chunked => Err(Unclear::Length),
            (0, _) => Err(Unclear::Length),
            _ => Err(Unclear::Coding),
        }
    }

    /// Will who sent this head take another message on its connection (RFC 9112, 9.3)?
    pub(crate) fn keeps(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps)
    }

    /// Does who sent it wait for a word before sending the body?
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only clients expect something"))]
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }
}

/// Does a `Connection` field of a message of our own say that it is the last?
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "to nodes nothing says so"))]
pub(crate) fn closes(value: &HeaderValue) -> bool {
    let mut told = FramingHeaders::default();
    told.note(&header::CONNECTION, value.as_bytes());
    told.closes
}

/// Does a `Connection` field name no other field?
fn is_for_connection_alone(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// The length that a message of our own says that its body has.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

fn number(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit).filter(|number| *number <= MOST) }
}

/// Are they what another parser has read, where the order of fields of different names is nothing?
#[cfg(test)]
pub(crate) fn are_those(ours: &HeaderMap, theirs: &[httparse::Header<'_>]) -> bool {
    let ours = ours.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes()));
    let theirs = theirs.iter().map(|field| (field.name.to_ascii_lowercase(), field.value));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
    ours.sort();
    theirs.sort();
    ours == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
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
            let small = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(known(name.as_bytes()).unwrap(), small);
            assert_eq!(known(small.as_str().as_bytes()).unwrap(), small);
            assert!(known(name.to_ascii_uppercase().as_bytes()).is_none(), "{name} in capitals goes the long way");
        }
    }
}
