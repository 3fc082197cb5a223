//! The path that locations are compared with (`ngx_http_parse_complex_uri`), its escaping for a URI
//! (`ngx_escape_uri`), and the host without its port.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use thiserror::Error;

/// A request path that cannot be normalised; nginx responds with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub(crate) enum InvalidPath {
    #[error("path does not begin with a slash")]
    Relative,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("invalid escape in path")]
    Escape,
    #[error("zero byte in path")]
    Zero,
    /// `..` leads above the root.
    #[error("path leads above the root")]
    AboveRoot,
}

/// Returns the decoded path of a request target, without query and fragment.
///
/// Escapes are decoded, and `.` and `..` are resolved. Runs of slashes are merged if
/// `merge_slashes` is set (nginx's default). The result need not be UTF-8. An escaped slash counts
/// as a slash, as in nginx. A path that needs no change is borrowed.
///
/// # Errors
/// [`InvalidPath`]; the response is 400.
pub(crate) fn normalise(target: &str, merge_slashes: bool) -> Result<Cow<'_, [u8]>, InvalidPath> {
    let path = target.split(['?', '#']).next().unwrap_or_default().as_bytes();
    if path.is_empty() {
        return Ok(Cow::Borrowed(b"/"));
    }
    if path[0] != b'/' {
        return Err(InvalidPath::Relative);
    }
    let complex = path.contains(&b'%') || path.windows(2).any(|pair| pair == b"//" || pair == b"/.");
    if !complex {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let mut out: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        // Here `out` is a path without its trailing slash. A skipped last segment leaves a slash.
        match segment {
            b"." => {}
            b".." => {
                let parent = out.iter().rposition(|&byte| byte == b'/').ok_or(InvalidPath::AboveRoot)?;
                out.truncate(parent);
            }
            b"" if merge_slashes => {}
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if last {
            out.push(b'/');
        }
    }
    Ok(Cow::Owned(out))
}

fn decode(path: &[u8]) -> Result<Cow<'_, [u8]>, InvalidPath> {
    let mut escapes = path.split(|&byte| byte == b'%').skip(1);
    if !escapes.all(|rest| matches!(rest, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())) {
        return Err(InvalidPath::Escape);
    }
    let decoded = Cow::from(percent_decode(path));
    if decoded.contains(&0) { Err(InvalidPath::Zero) } else { Ok(decoded) }
}

/// Returns whether a path, decoded or not, has a segment `.` or `..`, with or without
/// `;parameters`.
pub(crate) fn has_dots(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|segment| {
        let decoded = Cow::from(percent_decode(segment));
        matches!(decoded.split(|&byte| byte == b';').next(), Some(b"." | b".."))
    })
}

/// Returns a URI with a leading slash, which `proxy_pass` with variables adds if a `rewrite` has
/// removed it.
pub(crate) fn with_slash(uri: &str) -> Cow<'_, str> {
    if uri.starts_with('/') { Cow::Borrowed(uri) } else { Cow::Owned(format!("/{uri}")) }
}

/// Returns whether a lenient application reads a segment `.` or `..` in a path.
///
/// Such an application reads `%2F` or a backslash as a slash, or decodes twice.
pub(crate) fn has_hidden_dots(path: &[u8]) -> bool {
    let slashes = |path: &[u8]| path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect::<Vec<_>>();
    let once = slashes(&Cow::from(percent_decode(path)));
    let twice = slashes(&Cow::from(percent_decode(&once)));
    [path, &once, &twice].into_iter().any(has_dots)
}

/// The bytes that nginx escapes in the path of a URI: `NGX_ESCAPE_URI`.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Escapes the bytes that must not occur in the path of a URI. The result is ASCII.
pub(crate) fn escape(path: &[u8]) -> String {
    percent_encode(path, ESCAPED).to_string()
}

/// The bytes that nginx escapes in an argument: `NGX_ESCAPE_ARGS`.
const ESCAPED_IN_ARGS: &AsciiSet = &ESCAPED.add(b'&').add(b'+').add(b';');

/// Escapes the bytes that must not occur in an argument, or that would end it.
pub(crate) fn escape_args(argument: &[u8]) -> String {
    percent_encode(argument, ESCAPED_IN_ARGS).to_string()
}

/// Escapes the bytes that no request target may have.
pub(crate) fn escape_unsendable(value: &[u8]) -> String {
    const UNSENDABLE: &AsciiSet = &CONTROLS.add(b' ');
    percent_encode(value, UNSENDABLE).to_string()
}

/// Returns a host without its port and trailing dot, with its case unchanged.
pub(crate) fn host_without_port(host: &[u8]) -> &[u8] {
    let end = match host.iter().position(|&byte| byte == b']') {
        Some(bracket) if host.first() == Some(&b'[') => bracket + 1,
        _ => host.iter().position(|&byte| byte == b':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix(b".").unwrap_or(host)
}

/// Returns whether a host without URL delimiters is valid for nginx (`ngx_http_validate_host`).
pub(crate) fn is_host(host: &[u8]) -> bool {
    !host_without_port(host).is_empty() && !host.windows(2).any(|pair| pair == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_normalised_as_nginx_does() {
        // Each line was confirmed with `return 200 $uri` and nginx 1.22.
        for (target, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/a/b?c=/../d", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a//../b", "/b"),
            ("/a/...", "/a/..."),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/%61%2Fb", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%3Fb%23c%25", "/a?b#c%"),
            ("/%2541", "/%41"),
            ("/a+b", "/a+b"),
            ("/.", "/"),
            ("/./", "/"),
        ] {
            let found = normalise(target, true).map(|path| String::from_utf8_lossy(&path).into_owned());
            assert_eq!(found, Ok(expected.to_owned()), "{target}");
        }
        assert_eq!(normalise("/%e4%b8", true).unwrap(), &b"/\xe4\xb8"[..]);
        assert_eq!(normalise("//a//../b/", false).unwrap(), &b"//a/b/"[..]);
    }

    #[test]
    fn a_host_loses_its_port_and_its_last_dot() {
        for (host, expected) in
            [("a:80", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a.", "a"), ("a.:1", "a"), ("", "")]
        {
            assert_eq!(host_without_port(host.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn a_host_has_a_name() {
        // Each was sent to nginx 1.22.
        for (host, expected) in
            [("a", true), ("a.", true), ("a:80", true), ("", false), (":80", false), (".", false), ("a..b", false)]
        {
            assert_eq!(is_host(host.as_bytes()), expected, "{host}");
        }
    }

    #[test]
    fn dots_are_found_however_they_are_written() {
        for path in ["/a/../b", "/a/.", "/..;x/b", "/%2e%2E/b", "/.%2e;x=1", "/a/%2e"] {
            assert!(has_dots(path.as_bytes()), "{path}");
        }
        for path in ["/a/...", "/a/..b/.c", "/%2e%2e%2e", "/a;../b", ""] {
            assert!(!has_dots(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn malformed_paths_are_refused() {
        for (target, expected) in [
            ("/..", InvalidPath::AboveRoot),
            ("/a/../../b", InvalidPath::AboveRoot),
            ("/%2e%2e/", InvalidPath::AboveRoot),
            ("/%", InvalidPath::Escape),
            ("/%4", InvalidPath::Escape),
            ("/%4g", InvalidPath::Escape),
            ("/%00", InvalidPath::Zero),
            ("*", InvalidPath::Relative),
        ] {
            assert_eq!(normalise(target, true), Err(expected), "{target}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(target in "/([a-c.%/?#|]|%2[ef5]|%[0-9a-f]{2}|\\.\\.|//){0,12}", merge: bool) {
            if let Ok(path) = normalise(&target, merge) {
                prop_assert!(path.starts_with(b"/"));
                let again = escape(&path);
                prop_assert_eq!(normalise(&again, merge).unwrap(), path);
            }
        }

        #[test]
        fn any_target_is_normalised_or_refused(target in ".{0,40}", merge: bool) {
            let _ = normalise(&target, merge);
        }
    }
}
