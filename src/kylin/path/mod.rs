//! The path as the node sees it.
//!
//! The front end decides by the path what a request may do, and Tomcat executes the path that *it*
//! derives. If the two could interpret a path differently, the path could bypass the rules. So such
//! a path is an error and gets status 400. Every decision takes a [`NormalizedPath`], which only
//! this module creates.

mod target;

use std::borrow::Cow;
use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use thiserror::Error;

pub(crate) use self::target::RequestTarget;
use crate::percent::{has_escape, has_valid_escapes};

/// The path of a request as Tomcat, and so the node, derives it.
///
/// It has no `;parameters`, is decoded once, and `//`, `/./` and `/../` are resolved in it. If an
/// application decides by the path of a request, for example which cluster serves it, it should use
/// this path. `/bi/..;/x` is `/x` at the node, despite its prefix.
///
/// ```
/// use kylin_lb::kylin::{AmbiguousPath, NormalizedPath};
///
/// let path = |uri: &'static str| NormalizedPath::of(&uri.parse().unwrap()).map(|path| path.as_str().to_owned());
/// assert_eq!(path("/kylin/api/%71uery;jsessionid=A?project=P").unwrap(), "/kylin/api/query");
/// assert_eq!(path("/bi/..;/x").unwrap(), "/x");
/// assert_eq!(path("/bi%2fx"), Err(AmbiguousPath::Slash));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NormalizedPath<'t>(Cow<'t, str>);

/// The reason why Tomcat and another parser could interpret a path differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AmbiguousPath {
    /// The path does not begin with a slash.
    #[error("the path does not begin with a slash")]
    Relative,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("the path has a % without two hexadecimal digits")]
    Escape,
    /// An escaped slash. Tomcat's configuration decides whether it is refused.
    #[error("the path has an escaped slash")]
    Slash,
    /// A backslash, escaped or not. Tomcat's configuration decides whether it is refused or treated
    /// as a slash.
    #[error("the path has a backslash")]
    Backslash,
    /// An escaped semicolon. Whether it begins parameters depends on the decoder.
    #[error("the path has an escaped semicolon")]
    Semicolon,
    /// A text that is still an escape after it was decoded once.
    #[error("the path is escaped twice")]
    Twice,
    /// A control character or a `#`.
    #[error("the path has a control character or a #")]
    Character,
    /// The decoded bytes are not UTF-8. This also rejects overlong forms of `.` and `/`.
    #[error("the path is not UTF-8")]
    Utf8,
    /// The path ends with `.` or `..`. Versions of Tomcat differ in whether a slash remains at the
    /// end.
    #[error("the path ends with a dot segment")]
    DotAtEnd,
    /// `..` leads above the root.
    #[error("the path leads above the root")]
    AboveRoot,
}

impl<'t> NormalizedPath<'t> {
    /// Returns the path of `target`.
    ///
    /// # Errors
    /// [`AmbiguousPath`]. The response should then be a 400.
    pub fn of(target: &'t Uri) -> Result<Self, AmbiguousPath> {
        normalise(target.path_and_query().map_or("", PathAndQuery::path)).map(NormalizedPath)
    }

    /// Returns the path of a target in origin form (RFC 9112, 3.2.1), such as
    /// `/kylin/api/projects?limit=10`.
    ///
    /// # Errors
    /// [`AmbiguousPath`]. The response should then be a 400.
    pub fn parse(target: &'t str) -> Result<Self, AmbiguousPath> {
        normalise(target.split('?').next().unwrap_or_default()).map(NormalizedPath)
    }

    /// Returns the path, which begins with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NormalizedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The characters that have no special meaning anywhere in a path.
const IS_NAME: [bool; 256] = {
    let mut is_name = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        is_name[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'_');
        byte += 1;
    }
    is_name
};

/// Normalises a path without a query. An ordinary path is borrowed. The order of the steps is
/// Tomcat's (`CoyoteAdapter.postParseRequest`): parameters are removed first, so `/..;x=1/` is
/// `/../`.
fn normalise(path: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if !path.starts_with('/') {
        return Err(AmbiguousPath::Relative);
    }
    let mut is_ordinary = true;
    let bytes = path.as_bytes();
    for (at, &byte) in bytes.iter().enumerate().filter(|(_, byte)| !IS_NAME[usize::from(**byte)]) {
        match byte {
            b'\\' => return Err(AmbiguousPath::Backslash),
            0..0x20 | 0x7f | b'#' => return Err(AmbiguousPath::Character),
            b'%' | b';' => is_ordinary = false,
            b'/' if matches!(bytes.get(at + 1), Some(b'/' | b'.')) => is_ordinary = false,
            _ => {}
        }
    }
    if is_ordinary { Ok(Cow::Borrowed(path)) } else { resolve(path).map(Cow::Owned) }
}

fn resolve(path: &str) -> Result<String, AmbiguousPath> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // `out` is a path without its closing slash. A skipped segment leaves a slash if it is the
        // last one.
        let segment = decode(segment.split(';').next().unwrap_or_default())?;
        match &*segment {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(AmbiguousPath::AboveRoot)?;
                out.truncate(parent);
            }
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            if !segment.is_empty() {
                return Err(AmbiguousPath::DotAtEnd);
            }
            out.push('/');
        }
    }
    Ok(out)
}

/// Decodes the escapes of one segment.
fn decode(segment: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    if !has_valid_escapes(segment.as_bytes()) {
        return Err(AmbiguousPath::Escape);
    }
    let decoded: Vec<u8> = percent_decode_str(segment).collect();
    // The segment itself had none of these, so each comes from an escape.
    for &byte in &decoded {
        match byte {
            b'/' => return Err(AmbiguousPath::Slash),
            b'\\' => return Err(AmbiguousPath::Backslash),
            b';' => return Err(AmbiguousPath::Semicolon),
            0..0x20 | 0x7f => return Err(AmbiguousPath::Character),
            _ => {}
        }
    }
    if has_escape(&decoded) {
        return Err(AmbiguousPath::Twice);
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| AmbiguousPath::Utf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalise(target: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
        NormalizedPath::parse(target).map(|path| path.0)
    }

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
            ("/kylin/api/x/../", "/kylin/api/"),
            ("/kylin/api/./", "/kylin/api/"),
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
            ("", AmbiguousPath::Relative),
            ("*", AmbiguousPath::Relative),
            ("/a%2fb", AmbiguousPath::Slash),
            ("/a%5Cb", AmbiguousPath::Backslash),
            ("/a\\b", AmbiguousPath::Backslash),
            ("/a%3bb", AmbiguousPath::Semicolon),
            ("/a%00b", AmbiguousPath::Character),
            ("/a%0d%0ab", AmbiguousPath::Character),
            ("/a\tb", AmbiguousPath::Character),
            ("/a#b", AmbiguousPath::Character),
            ("/a%", AmbiguousPath::Escape),
            ("/a%2", AmbiguousPath::Escape),
            ("/a%zz", AmbiguousPath::Escape),
            ("/a%2/b", AmbiguousPath::Escape),
            ("/%252e%252e/x", AmbiguousPath::Twice),
            ("/%25%32%65/x", AmbiguousPath::Twice),
            ("/%c0%ae%c0%ae/x", AmbiguousPath::Utf8),
            ("/%ff", AmbiguousPath::Utf8),
            ("/a/.", AmbiguousPath::DotAtEnd),
            ("/a/b/..", AmbiguousPath::DotAtEnd),
            ("/a/%2e;x", AmbiguousPath::DotAtEnd),
            ("/..", AmbiguousPath::AboveRoot),
            ("/../x", AmbiguousPath::AboveRoot),
            ("/kylin/../../x", AmbiguousPath::AboveRoot),
            ("/%2e%2e;a/x", AmbiguousPath::AboveRoot),
        ] {
            assert_eq!(normalise(path), Err(error), "{path}");
        }
    }

    /// Tomcat's steps, one after another, on the whole path: `parsePathParameters`, `UDecoder`,
    /// `normalize`.
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
