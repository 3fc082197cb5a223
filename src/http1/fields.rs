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

/// Where the first empty line ends.
pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|line| match &bytes[line + 1..] {
        [b'\n', ..] => Some(line + 2),
        [b'\r', b'\n', ..] => Some(line + 3),
        _ => None,
    })
}

/// httparse takes lines that end with a line feed alone. Others do not.
pub(crate) fn has_strict_lines(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|line| line > 0 && head[line - 1] == b'\r')
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

/// The fields that httparse found in `head`. Their values are shares of it.
pub(crate) fn map(head: &Bytes, parsed: &[Header<'_>]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::try_with_capacity(parsed.len())?;
    for Header { name, value } in parsed {
        let name = match known(name.as_bytes()) {
            Some(name) => name,
            None => HeaderName::from_bytes(name.as_bytes())?,
        };
        headers.try_append(name, HeaderValue::from_maybe_shared(head.slice_ref(value))?)?;
    }
    Ok(headers)
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

/// How the fields say that the body ends (RFC 9112, 6.3), where all parsers agree on it (RFC 9112, 6.1); none when they do
/// not.
pub(crate) fn framing(headers: &HeaderMap, version: Version) -> Result<Option<Framing>, Unclear> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return Err(Unclear::Coding);
    }
    if coding.is_some() && version < Version::HTTP_11 {
        return Err(Unclear::Old);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match lengths.next() {
        Some(length) => match number(length.as_bytes()) {
            Some(length) if coding.is_none() && lengths.next().is_none() => Ok(Some(Framing::Length(length))),
            _ => Err(Unclear::Length),
        },
        None => Ok(coding.map(|_| Framing::Chunked(Chunks::new()))),
    }
}

/// The length that a message of our own says that its body has.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    number(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok().filter(|number| *number <= MOST) } else { None }
}

/// Will who sent this head take another message on its connection (RFC 9112, 9.3)?
pub(crate) fn keeps(headers: &HeaderMap, version: Version) -> bool {
    let mut options = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    match version {
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
        assert_eq!(end(b"a: b\r\n\r\nrest"), Some(8));
        assert_eq!(end(b"a: b\n\nrest"), Some(6));
        assert_eq!(end(b"a: b\r\n\r"), None);
        assert_eq!(end(b""), None);
        assert!(has_strict_lines(b"a: b\r\n\r\n") && !has_strict_lines(b"a: b\n\r\n") && !has_strict_lines(b"\n"));
    }
}
