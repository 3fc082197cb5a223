//! The path as the node will see it, or an error.
//!
//! What a request is allowed to do is decided here by its path, and carried out by Tomcat on the path that *it* derives. A
//! path that the two could read differently would walk around every rule, so it is refused, with 400.

use std::borrow::Cow;

use thiserror::Error;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// It does not begin with a slash.
    #[error("path does not begin with a slash")]
    Relative,
    /// A `%` without two hexadecimal digits behind it.
    #[error("invalid escape in path")]
    Escape,
    /// An escaped slash, which Tomcat refuses or not as it is configured.
    #[error("escaped slash in path")]
    Slash,
    /// A backslash, escaped or not, which Tomcat refuses or takes for a slash as it is configured.
    #[error("backslash in path")]
    Backslash,
    /// An escaped semicolon: whether it begins parameters depends on who decodes it.
    #[error("escaped semicolon in path")]
    Semicolon,
    /// An escape that is still one after it was decoded once.
    #[error("path is escaped twice")]
    Twice,
    /// A zero byte or another control character, or a `#`.
    #[error("forbidden character in path")]
    Character,
    /// What the escapes stand for is not UTF-8: this shuts out overlong forms of `.` and `/` as well.
    #[error("path is not UTF-8")]
    Utf8,
    /// `..` leads above the root.
    #[error("path leads above the root")]
    AboveRoot,
}

/// The path of `target` as Tomcat derives it: without `;parameters`, decoded once, with `//`, `/./` and `/../` resolved.
/// A query is left off. An ordinary path is borrowed.
///
/// The order is Tomcat's (`CoyoteAdapter.postParseRequest`): parameters go first, so `/..;x=1/` is `/../`.
///
/// ```
/// use kylin_lb::kylin::path::{InvalidPath, normalise};
///
/// assert_eq!(normalise("/kylin/api/query")?, "/kylin/api/query");
/// assert_eq!(normalise("/kylin/web;v=1/..//api/%63ache/?x=/")?, "/kylin/api/cache/");
/// assert_eq!(normalise("/kylin/api%2Fcache"), Err(InvalidPath::Slash));
/// # Ok::<(), InvalidPath>(())
/// ```
///
/// # Errors
/// [`InvalidPath`] where a front end and Tomcat could disagree; to be answered with 400.
pub fn normalise(target: &str) -> Result<Cow<'_, str>, InvalidPath> {
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with('/') {
        return Err(InvalidPath::Relative);
    }
    let mut ordinary = true;
    let mut last = 0;
    for &byte in path.as_bytes() {
        match byte {
            b'\\' => return Err(InvalidPath::Backslash),
            0..0x20 | 0x7f | b'#' => return Err(InvalidPath::Character),
            b'%' | b';' => ordinary = false,
            b'/' | b'.' if last == b'/' => ordinary = false,
            _ => {}
        }
        last = byte;
    }
    if ordinary { Ok(Cow::Borrowed(path)) } else { resolve(path).map(Cow::Owned) }
}

fn resolve(path: &str) -> Result<String, InvalidPath> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // Here `out` is a path without its closing slash. What is skipped leaves a slash behind when it came last.
        let segment = decode(segment.split(';').next().unwrap_or_default())?;
        match &*segment {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(InvalidPath::AboveRoot)?;
                out.truncate(parent);
            }
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(out)
}

/// Undoes the escapes of one segment.
fn decode(segment: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(InvalidPath::Escape);
        let value = (digit()? << 4 | digit()?) as u8;
        match value {
            b'/' => return Err(InvalidPath::Slash),
            b'\\' => return Err(InvalidPath::Backslash),
            b';' => return Err(InvalidPath::Semicolon),
            0..0x20 | 0x7f => return Err(InvalidPath::Character),
            value => decoded.push(value),
        }
    }
    let again = |window: &[u8]| window[0] == b'%' && window[1].is_ascii_hexdigit() && window[2].is_ascii_hexdigit();
    if decoded.windows(3).any(again) {
        return Err(InvalidPath::Twice);
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| InvalidPath::Utf8)
}

/// The session id that a path carries as `;jsessionid=`, as a browser without cookies sends it. Of several the last
/// counts, as in Tomcat. It is as secret as the cookie.
///
/// That Kylin's Tomcat hands such ids out is unverified; that it would accept them is Tomcat's default.
pub fn session_id(target: &str) -> Option<&str> {
    let path = target.split('?').next().unwrap_or_default();
    if !path.contains(';') {
        return None;
    }
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    parameters.filter_map(|parameter| parameter.strip_prefix("jsessionid=")).filter(|id| !id.is_empty()).last()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_are_borrowed() {
        for path in ["/", "/kylin/", "/kylin/api/query", "/kylin/a.b/.x/..y"] {
            let kept = normalise(path).unwrap();
            assert_eq!(kept, path);
            assert_eq!(matches!(kept, Cow::Borrowed(_)), !path.contains("/."), "{path}");
        }
    }

    #[test]
    fn what_tomcat_resolves_is_resolved() {
        for (path, plain) in [
            ("/kylin//api///query", "/kylin/api/query"),
            ("/kylin/./api/x/../query", "/kylin/api/query"),
            ("/kylin/api/x/..", "/kylin/api/"),
            ("/kylin/api/.", "/kylin/api/"),
            ("/kylin/api/query;jsessionid=ABC", "/kylin/api/query"),
            ("/kylin/a;b=c;d/..;x/cache", "/kylin/cache"),
            ("/kylin/%61pi/%2e%2E/x", "/kylin/x"),
            ("/kylin/..;/kylin/api", "/kylin/api"),
            ("/kylin/caf%C3%A9", "/kylin/café"),
            ("/kylin/100%25", "/kylin/100%"),
            ("/kylin/a%20b?c=%2f", "/kylin/a b"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(plain), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (path, error) in [
            ("", InvalidPath::Relative),
            ("*", InvalidPath::Relative),
            ("/a%2fb", InvalidPath::Slash),
            ("/a%5Cb", InvalidPath::Backslash),
            ("/a\\b", InvalidPath::Backslash),
            ("/a%3bb", InvalidPath::Semicolon),
            ("/a%00b", InvalidPath::Character),
            ("/a%0d%0ab", InvalidPath::Character),
            ("/a\tb", InvalidPath::Character),
            ("/a#b", InvalidPath::Character),
            ("/a%", InvalidPath::Escape),
            ("/a%2", InvalidPath::Escape),
            ("/a%zz", InvalidPath::Escape),
            ("/a%2/b", InvalidPath::Escape),
            ("/%252e%252e/x", InvalidPath::Twice),
            ("/%25%32%65/x", InvalidPath::Twice),
            ("/%c0%ae%c0%ae/x", InvalidPath::Utf8),
            ("/%ff", InvalidPath::Utf8),
            ("/../x", InvalidPath::AboveRoot),
            ("/kylin/../../x", InvalidPath::AboveRoot),
            ("/%2e%2e;a/x", InvalidPath::AboveRoot),
        ] {
            assert_eq!(normalise(path), Err(error), "{path}");
        }
    }

    #[test]
    fn the_session_id_is_found_in_any_segment() {
        assert_eq!(session_id("/kylin/api/query;jsessionid=AB.r1?x=1"), Some("AB.r1"));
        assert_eq!(session_id("/kylin;jsessionid=A/api;x=1;jsessionid=B/"), Some("B"));
        assert_eq!(session_id("/kylin?;jsessionid=A"), None);
        assert_eq!(session_id("/kylin;jsessionid="), None);
        assert_eq!(session_id("/jsessionid=A"), None);
        assert_eq!(session_id("/a;JSESSIONID=A"), None);
    }

    /// Tomcat's own steps, one after the other, on the whole path: `parsePathParameters`, `UDecoder`, `normalize`.
    fn tomcat(path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut skipping = false;
        for byte in path.bytes() {
            skipping = byte != b'/' && (skipping || byte == b';');
            if !skipping {
                bytes.push(byte);
            }
        }
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'%' {
                let hex = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
                let value = u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?;
                if value == b'/' {
                    return None;
                }
                bytes.splice(at..at + 3, [value]);
            }
            at += 1;
        }
        let mut path = String::from_utf8(bytes).ok()?;
        if path.contains(['\\', '\0']) {
            return None;
        }
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        if path.ends_with("/.") || path.ends_with("/..") {
            path.push('/');
        }
        while let Some(at) = path.find("/./") {
            path.replace_range(at..at + 2, "");
        }
        while let Some(at) = path.find("/../") {
            let parent = path[..at].rfind('/')?;
            path.replace_range(parent..at + 3, "");
        }
        Some(path)
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(path in ".{0,40}") {
            let _ = normalise(&path);
            let _ = session_id(&path);
        }

        #[test]
        fn what_is_accepted_is_what_tomcat_sees(path in "/([a/.;%=25eEfF\\\\]|%2e|%2F|%25|%61|%3b|%5c|é|%c3%a9){0,12}") {
            if let Ok(plain) = normalise(&path) {
                prop_assert_eq!(Some(plain.into_owned()), tomcat(&path));
            }
        }

        #[test]
        fn it_is_done_after_once(path in "/([a/.;]|%2e|%61){0,12}") {
            if let Ok(plain) = normalise(&path) {
                let again = normalise(&plain);
                prop_assert_eq!(again.as_deref(), Ok(&*plain));
            }
        }
    }
}
