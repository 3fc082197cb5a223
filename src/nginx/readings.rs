//! The paths that a node may read in a request target.
//!
//! Applications read some paths differently. Some read `%2F` or a backslash as a slash, some drop
//! `;parameters` before or after decoding, and some decode twice. Access must be allowed for each
//! of these readings.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::uri::normalise;
use crate::kylin::{AmbiguousPath, NormalizedPath};

/// The paths of a request target.
#[derive(Debug)]
pub(crate) struct RequestPaths<'t> {
    /// The path as Tomcat reads it; `None` if applications may read it differently.
    certain: Option<NormalizedPath<'t>>,
    /// The path as nginx reads it, with its `;parameters`.
    decoded: Cow<'t, [u8]>,
    /// The other paths that an application may read.
    others: Vec<Vec<u8>>,
}

impl<'t> RequestPaths<'t> {
    /// Returns the paths of a target in origin form; `None` if the request must be refused with
    /// 400.
    pub(crate) fn of(target: &'t str, merge_slashes: bool) -> Option<Self> {
        let decoded = normalise(target, merge_slashes).ok()?;
        let error = match NormalizedPath::parse(target) {
            Ok(certain) => return Some(RequestPaths { certain: Some(certain), decoded, others: Vec::new() }),
            Err(error) => error,
        };
        let is_readable = matches!(
            error,
            AmbiguousPath::Slash
                | AmbiguousPath::Backslash
                | AmbiguousPath::Semicolon
                | AmbiguousPath::Twice
                | AmbiguousPath::Utf8
                | AmbiguousPath::DotAtEnd
        );
        // 0xc0 and 0xc1 occur only in overlong forms of ASCII characters such as the dot.
        if !is_readable || decoded.iter().any(|byte| matches!(byte, 0..0x20 | 0x7f | 0xc0 | 0xc1)) {
            return None;
        }
        let mut others = readings(target)?;
        if error == AmbiguousPath::DotAtEnd {
            others.extend(decoded.strip_suffix(b"/").filter(|path| !path.is_empty()).map(<[u8]>::to_vec));
        }
        others.retain(|other| *other != *decoded);
        Some(RequestPaths { certain: None, decoded, others })
    }

    /// Returns the path that selects the location: Tomcat's reading, else nginx's.
    pub(crate) fn path(&self) -> &[u8] {
        self.certain.as_ref().map_or(&*self.decoded, |certain| certain.as_str().as_bytes())
    }

    /// Returns the path as nginx reads it, with its `;parameters`.
    pub(crate) fn decoded(&self) -> &[u8] {
        &self.decoded
    }

    /// Returns the paths that the node may read instead of [`path`](Self::path).
    pub(crate) fn others(&self) -> &[Vec<u8>] {
        &self.others
    }

    /// Returns whether all applications read the same path.
    pub(crate) fn is_certain(&self) -> bool {
        self.certain.is_some()
    }
}

/// Returns every path that an application may read in a target, each once; `None` if one of them is
/// above the root.
pub(crate) fn readings(target: &str) -> Option<Vec<Vec<u8>>> {
    let path = target.split(['?', '#']).next().unwrap_or_default().as_bytes();
    let has = |escape: &[u8]| path.windows(3).any(|three| three.eq_ignore_ascii_case(escape));
    let is_coded = has(b"%25");
    let both = |really| if really { &[false, true][..] } else { &[false] };
    let parameters: &[Parameters] = match path.contains(&b';') || has(b"%3b") || is_coded {
        true => &[Parameters::Kept, Parameters::DroppedFirst, Parameters::DroppedLast],
        false => &[Parameters::Kept],
    };
    let mut all = Vec::new();
    for parameters in parameters {
        for keeps_slash in both(has(b"%2f")) {
            for backslash in both(path.contains(&b'\\') || has(b"%5c") || is_coded) {
                for twice in both(is_coded) {
                    let read = read(path, *parameters, *keeps_slash, *backslash, *twice)?;
                    if !all.contains(&read) {
                        all.push(read);
                    }
                }
            }
        }
    }
    Some(all)
}

/// What an application does with `;parameters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameters {
    Kept,
    /// The parameters are dropped before escapes are decoded.
    DroppedFirst,
    /// The parameters are dropped after escapes were decoded.
    DroppedLast,
}

fn read(path: &[u8], parameters: Parameters, keeps_slash: bool, backslash: bool, twice: bool) -> Option<Vec<u8>> {
    let mut bytes = path.to_vec();
    if parameters == Parameters::DroppedFirst {
        bytes = without_parameters(&bytes);
    }
    bytes = match keeps_slash {
        true => decode_but_slashes(&bytes),
        false => percent_decode(&bytes).collect(),
    };
    if twice {
        bytes = percent_decode(&bytes).collect();
    }
    if backslash {
        bytes.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    }
    if parameters == Parameters::DroppedLast {
        bytes = without_parameters(&bytes);
    }
    resolve(&bytes)
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let names = path.split(|byte| *byte == b'/').map(|segment| segment.split(|byte| *byte == b';').next());
    names.map(Option::unwrap_or_default).collect::<Vec<_>>().join(&b'/')
}

fn decode_but_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.windows(3).position(|three| three.eq_ignore_ascii_case(b"%2f")) {
        out.extend(percent_decode(&rest[..at]));
        out.extend_from_slice(b"%2F");
        rest = &rest[at + 3..];
    }
    out.extend(percent_decode(rest));
    out
}

/// Merges slashes and resolves dots; `None` above the root.
fn resolve(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/')?),
            name => {
                out.push(b'/');
                out.extend_from_slice(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    Some(out)
}

/// Merges the slashes of a path.
pub(crate) fn merged(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|next, before| *next == b'/' && *before == b'/');
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(target: &str) -> Vec<String> {
        let paths = RequestPaths::of(target, true).unwrap();
        let others = paths.others().iter().map(Vec::as_slice);
        [paths.path()].into_iter().chain(others).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn a_path_that_applications_read_differently_has_each_reading() {
        for (target, expected) in [
            ("/a;x=1/b", &["/a/b"][..]),
            ("/a%2Fb", &["/a/b", "/a%2Fb"]),
            ("/a%2F..%2Fb", &["/b", "/a%2F..%2Fb"]),
            ("/a\\b", &["/a\\b", "/a/b"]),
            ("/a/x%5C..%5Cb", &["/a/x\\..\\b", "/a/b"]),
            ("/a%3Bx/b", &["/a;x/b", "/a/b"]),
            ("/a/..%3Bx/b", &["/a/..;x/b", "/b"]),
            ("/%2561", &["/%61", "/a"]),
            ("/a/.", &["/a/", "/a"]),
            ("/%ff", &["/\u{fffd}"]),
        ] {
            assert_eq!(all(target), expected, "{target}");
        }
        for target in ["/a/x%5C..%5C..%5C..%5Cb", "/%c0%ae%c0%ae/x", "/..%3B/x", "/a%0ab%2F", "/a%2", "*"] {
            assert!(RequestPaths::of(target, true).is_none(), "{target}");
        }
    }

    proptest! {
        #[test]
        fn every_reading_is_resolved(target in "/([a-b.;/\\\\]|%2[fFeE]|%5c|%3b|%25|%252f){0,10}") {
            if let Some(paths) = RequestPaths::of(&target, true) {
                let others = paths.others().iter().map(Vec::as_slice);
                for path in [paths.path()].into_iter().chain(others) {
                    prop_assert!(path.starts_with(b"/"));
                    prop_assert!(!path.split(|byte| *byte == b'/').any(|segment| segment == b".."));
                }
            }
        }
    }
}
