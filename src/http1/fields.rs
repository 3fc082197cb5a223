//! The lines of a head, from bytes.
//!
//! httparse reads the lines, strictly. What is more here refuses what another parser might read otherwise.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Error, Version};
use httparse::Header;

use super::chunks::Chunks;
use super::framing::Framing;

/// For so many fields there is room on the stack.
const FEW: usize = 100;

/// Larger numbers are negative to who keeps them in 64 bits with a sign.
pub(crate) const MOST: u64 = i64::MAX as u64;

/// How far a head was looked through for its end.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Up to here there is none.
    seen: usize,
    /// httparse takes lines that end with a line feed alone. Others do not.
    loose: bool,
}

/// The end of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Behind its first empty line.
    pub(crate) at: usize,
    /// Every line of it ends with both bytes.
    pub(crate) strict: bool,
}

impl Scan {
    /// Looks on in `read`, of which the beginning is what it was before; none while the head is not complete.
    pub(crate) fn end(&mut self, read: &[u8]) -> Option<End> {
        let from = self.seen;
        for line in memchr::memchr_iter(b'\n', &read[from..]).map(|line| from + line) {
            self.loose |= line == 0 || read[line - 1] != b'\r';
            let (at, loose) = match &read[line + 1..] {
                [b'\r', b'\n', ..] => (line + 3, self.loose),
                [b'\n', ..] => (line + 2, true),
                _ => continue,
            };
            *self = Scan::default();
            return Some(End { at, strict: !loose });
        }
        self.seen = read.len().saturating_sub(2);
        None
    }

    /// Nothing was looked at yet.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only before requests something may stand"))]
    pub(crate) fn is_at_start(&self) -> bool {
        self.seen == 0
    }
}

/// Calls `parse` with room for at most `most` fields of a head of `length` bytes.
pub(crate) fn with_room<'h, T>(
    most: usize,
    length: usize,
    parse: impl FnOnce(&mut [MaybeUninit<Header<'h>>]) -> T,
) -> T {
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; FEW];
    match few.get_mut(..most) {
        Some(room) => parse(room),
        None => {
            let mut many = Vec::new();
            // A field has four bytes at least.
            many.resize_with(most.min(length / 4), MaybeUninit::uninit);
            parse(&mut many)
        }
    }
}

/// So many fields may come to a head on its way without making its map grow: who was asked, by whom, for whom.
const MORE: usize = 4;

/// The fields that httparse found in `head`, whose values are shares of it, and what they say.
pub(crate) fn map(head: &Bytes, parsed: &[Header<'_>]) -> Result<(HeaderMap, Told), Error> {
    let mut headers = HeaderMap::try_with_capacity(parsed.len() + MORE)?;
    let mut told = Told::default();
    for Header { name, value } in parsed {
        let name = match known(name.as_bytes()) {
            Some(name) => name,
            None => HeaderName::from_bytes(name.as_bytes())?,
        };
        told.note(&name, value);
        headers.try_append(name, HeaderValue::from_maybe_shared(head.slice_ref(value))?)?;
    }
    Ok((headers, told))
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
pub(crate) struct Told {
    codings: usize,
    chunked: bool,
    lengths: usize,
    length: Option<u64>,
    keeps: bool,
    closes: bool,
    expects_continue: bool,
}

impl Told {
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

/// Does a message of our own say that it is the last?
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "to nodes nothing says so"))]
pub(crate) fn closes(headers: &HeaderMap) -> bool {
    let mut told = Told::default();
    headers.get_all(header::CONNECTION).iter().for_each(|value| told.note(&header::CONNECTION, value.as_bytes()));
    told.closes
}

/// The length that a message of our own says that its body has.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok().filter(|number| *number <= MOST) } else { None }
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

    #[test]
    fn the_end_of_a_head_is_its_first_empty_line() {
        let end = |text: &[u8]| Scan::default().end(text);
        assert_eq!(end(b"a: b\r\n\r\nrest"), Some(End { at: 8, strict: true }));
        for loose in [&b"a: b\n\r\n"[..], b"a: b\r\n\n", b"a\nb\r\n\r\n", b"\na\r\n\r\n", b"\n\n"] {
            assert!(!end(loose).unwrap().strict, "{}", loose.escape_ascii());
        }
        assert_eq!(end(b"a: b\r\n\r"), None);
        assert_eq!(end(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn the_end_is_the_same_whatever_the_pieces(text in "[a\r\n]{0,12}(\r\n\r\n)?", cut in 0_usize..16) {
            let text = text.as_bytes();
            let mut scan = Scan::default();
            let first = scan.end(&text[..cut.min(text.len())]);
            let end = first.or_else(|| scan.end(text));
            proptest::prop_assert_eq!(end, Scan::default().end(text));
        }
    }
}
