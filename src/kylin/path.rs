//! The path as the node sees it.
//!
//! The proxy decides by the path what a request may do, and Tomcat executes the path that *it* derives. A path that the two could
//! read differently would get past every rule, so it is an error and gets status 400.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Why a path is ambiguous or malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum InvalidPath {
    /// The path does not begin with a slash.
    Relative,
    /// Two hexadecimal digits are missing after a `%`.
    Escape,
    /// An escaped slash: Tomcat's configuration decides whether it refuses one.
    Slash,
    /// A backslash, escaped or not: Tomcat's configuration decides whether it refuses one or reads a slash.
    Backslash,
    /// An escaped semicolon: whether it begins parameters depends on the decoder.
    Semicolon,
    /// An escape that is still an escape after it was decoded once.
    Twice,
    /// A control character or a `#`.
    Character,
    /// The decoded bytes are not UTF-8. This also rejects overlong forms of `.` and `/`.
    Utf8,
    /// `..` leads above the root.
    AboveRoot,
}

/// Returns the path of `target` as Tomcat derives it: without `;parameters`, decoded once, with `//`, `/./` and `/../` resolved.
///
/// The query is cut off. An ordinary path is borrowed. The order is Tomcat's (`CoyoteAdapter.postParseRequest`): parameters go
/// first, so `/..;x=1/` is `/../`.
pub(crate) fn normalise(target: &str) -> Result<Cow<'_, str>, InvalidPath> {
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with('/') {
        return Err(InvalidPath::Relative);
    }
    let mut is_ordinary = true;
    let mut last = 0;
    for &byte in path.as_bytes() {
        match byte {
            b'\\' => return Err(InvalidPath::Backslash),
            0..0x20 | 0x7f | b'#' => return Err(InvalidPath::Character),
            b'%' | b';' => is_ordinary = false,
            b'/' | b'.' if last == b'/' => is_ordinary = false,
            _ => {}
        }
        last = byte;
    }
    if is_ordinary { Ok(Cow::Borrowed(path)) } else { resolve(path).map(Cow::Owned) }
}

fn resolve(path: &str) -> Result<String, InvalidPath> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // `out` is a path without its closing slash. A skipped segment leaves a slash behind if it is the last one.
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

/// Decodes the escapes of one segment.
fn decode(segment: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let is_escape = |bytes: &[u8]| matches!(bytes, [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !segment.match_indices('%').all(|(at, _)| is_escape(&segment.as_bytes()[at..])) {
        return Err(InvalidPath::Escape);
    }
    let decoded: Vec<u8> = percent_decode_str(segment).collect();
    // The segment had none of these, so each comes from an escape.
    for &byte in &decoded {
        match byte {
            b'/' => return Err(InvalidPath::Slash),
            b'\\' => return Err(InvalidPath::Backslash),
            b';' => return Err(InvalidPath::Semicolon),
            0..0x20 | 0x7f => return Err(InvalidPath::Character),
            _ => {}
        }
    }
    if decoded.windows(3).any(is_escape) {
        return Err(InvalidPath::Twice);
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| InvalidPath::Utf8)
}

/// Returns the session id that a path carries as `;jsessionid=` (Servlet specification, 7.1.3), which servers write for a client
/// without cookies. Of several the last counts, as in Tomcat. The id is as secret as the cookie.
///
/// That Kylin's Tomcat writes such ids is unverified. That it accepts them is Tomcat's default.
pub(crate) fn session_id(target: &str) -> Option<&str> {
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
    fn paths_are_resolved_as_tomcat_does() {
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
    fn ambiguous_paths_are_errors() {
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

    /// Tomcat's steps, one after the other, on the whole path: `parsePathParameters`, `UDecoder`, `normalize`.
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
        fn no_path_panics(path in ".{0,40}") {
            let _ = normalise(&path);
            let _ = session_id(&path);
        }

        #[test]
        fn an_accepted_path_is_the_one_tomcat_sees(path in "/([a/.;%=25eEfF\\\\]|%2e|%2F|%25|%61|%3b|%5c|é|%c3%a9){0,12}") {
            if let Ok(plain) = normalise(&path) {
                prop_assert_eq!(Some(plain.into_owned()), tomcat(&path));
            }
        }

        #[test]
        fn a_normalised_path_stays_the_same(path in "/([a/.;]|%2e|%61){0,12}") {
            if let Ok(plain) = normalise(&path) {
                let again = normalise(&plain);
                prop_assert_eq!(again.as_deref(), Ok(&*plain));
            }
        }
    }
}
