//! Cookies: the `Cookie` header of requests, and the `Set-Cookie` headers of responses (RFC 6265).
//! All of it is hostile input.

mod attributes;
pub(crate) mod date;
mod jar;
mod set_cookie;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use memchr::memchr;

pub(crate) use attributes::Attributes;
pub(crate) use attributes::named;
pub use attributes::{InvalidCookie, SameSite};
pub(crate) use jar::CookieJar;
pub(crate) use set_cookie::SetCookie;

/// The maximum length of an accepted session id, in bytes. Kylin's ids have at most 64, and a
/// route.
const MAX_SESSION_ID: usize = 512;

/// Returns the cookies in a `Cookie` header as names and values, in the order in which they were
/// sent, without quotes around values.
pub(crate) fn pairs(header: &HeaderValue) -> impl Iterator<Item = (&[u8], &[u8])> {
    parts_of(header).filter_map(split).map(|(name, value)| (name, unquoted(value)))
}

/// Returns the ids in Kylin's session cookies in a `Cookie` header.
pub(crate) fn kylin_sessions(header: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    pairs(header).filter(|(name, _)| is_kylin_session(name)).map(|(_, id)| id)
}

/// Returns the value of the first cookie called `name`, as the client sent it.
pub(crate) fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    raw_pairs(headers).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

/// Removes the cookies of a request for which `keep` returns false. Headers without such a cookie
/// stay as they are, which allocates nothing. `keep` may be called twice for a cookie.
pub(crate) fn retain(headers: &mut HeaderMap, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
    let mut is_kept = |part: &[u8]| {
        let (name, value) = split(part).unwrap_or((part, b""));
        keep(name, unquoted(value))
    };
    if parts(headers).all(&mut is_kept) {
        return;
    }
    let mut kept = Vec::with_capacity(headers.get_all(header::COOKIE).iter().map(|line| line.len() + 2).sum());
    for part in parts(headers).filter(|&part| !part.is_empty() && is_kept(part)) {
        kept.extend_from_slice(if kept.is_empty() { b"" } else { b"; " });
        kept.extend_from_slice(part);
    }
    headers.remove(header::COOKIE);
    if let Ok(mut rest) = HeaderValue::from_maybe_shared(Bytes::from(kept))
        && !rest.is_empty()
    {
        rest.set_sensitive(true);
        headers.insert(header::COOKIE, rest);
    }
}

/// Returns whether a cookie with this name holds the session of a Kylin node: `JSESSIONID` for
/// Kylin 2 to 4, a digest of the metastore for Kylin 5.
pub(crate) fn is_kylin_session(name: &[u8]) -> bool {
    name == b"JSESSIONID" || is_metastore_digest(name)
}

/// Returns whether Kylin 5 may give its session cookie this name: a SHA-256 of its metadata URL, in
/// 64 lower-case hexadecimal digits (apache/kylin kylin5 BootstrapServer.java:102-110).
pub(crate) fn is_metastore_digest(name: &[u8]) -> bool {
    name.len() == 64 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether these bytes may be a session id: 1 to 512 visible ASCII characters.
pub(crate) fn is_session_id(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= MAX_SESSION_ID
        && value.iter().fold(true, |all, byte| all & byte.is_ascii_graphic())
}

fn raw_pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    parts(headers).filter_map(split)
}

fn parts(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::COOKIE).into_iter().flat_map(parts_of)
}

fn parts_of(header: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(header.as_bytes());
    std::iter::from_fn(move || {
        let line = rest?;
        let end = memchr(b';', line);
        rest = end.map(|end| &line[end + 1..]);
        Some(line[..end.unwrap_or(line.len())].trim_ascii())
    })
}

fn split(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, line.parse().unwrap())).collect()
    }

    #[test]
    fn finds_a_cookie_by_its_whole_name() {
        let headers = request(&["XJSESSIONID=no; JSESSIONIDX=no", "a=b;  JSESSIONID=yes.node1 ;JSESSIONID=second"]);
        assert_eq!(value(&headers, "JSESSIONID"), Some(&b"yes.node1"[..]));
        assert_eq!(value(&headers, "missing"), None);
    }

    #[test]
    fn quotes_are_not_part_of_a_value() {
        let header = HeaderValue::from_static("a=\"b\"; c=\"d; =e; f");
        let expected: [(&[u8], &[u8]); 3] = [(b"a", b"b"), (b"c", b"\"d"), (b"", b"e")];
        assert!(pairs(&header).eq(expected));
    }

    #[test]
    fn removing_a_cookie_leaves_the_others() {
        let without = |line: &str| {
            let mut headers = request(&[line]);
            retain(&mut headers, |name, _| name != b"lb");
            headers.get(header::COOKIE).map(|line| line.to_str().unwrap().to_owned())
        };
        assert_eq!(without("a=1; lb=x; b=2; lb=y").as_deref(), Some("a=1; b=2"));
        assert_eq!(without("lb=x"), None);
        assert_eq!(without("a=1;lb"), Some("a=1".into()));
        assert_eq!(without("lbx=1;xlb=2").as_deref(), Some("lbx=1;xlb=2"));
    }

    #[test]
    fn kylin_sessions_are_known_by_name() {
        let digest = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";
        assert!(is_kylin_session(b"JSESSIONID") && is_kylin_session(digest.as_bytes()));
        for other in ["jsessionid", "", "ROUTE", &digest[1..], &digest.to_uppercase(), &digest.replace('c', "g")] {
            assert!(!is_kylin_session(other.as_bytes()), "{other}");
        }
        assert!(!is_metastore_digest(b"JSESSIONID"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                let _ = SetCookie::parse(&line);
                proptest::prop_assert!(pairs(&line).count() <= 200);
                let mut headers = HeaderMap::new();
                headers.insert(header::COOKIE, line);
                retain(&mut headers, |name, _| name != b"a");
                let rest = headers.get(header::COOKIE);
                proptest::prop_assert!(rest.is_none_or(|rest| pairs(rest).all(|(name, _)| name != b"a")));
            }
        }
    }
}
