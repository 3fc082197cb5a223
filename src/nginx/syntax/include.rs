//! Finds the files of an `include` pattern, and reads them within bounds.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use regex::Regex;

use super::error::{ErrorKind, Fault};
use super::source::Span;

/// Reads a file of at most `max_bytes`. `span` is the `include` that names the file, if there is
/// one.
pub(crate) fn read(path: &Path, max_bytes: usize, span: Option<Span>) -> Result<String, Fault> {
    let fault = |kind, message: String, expected: &str| match span {
        Some(span) => Fault::new(kind, Some(span), format!("{}: {message}", path.display()), expected),
        None => Fault::new(kind, None, message, expected),
    };
    let unreadable = |error: io::Error| fault(ErrorKind::Io, format!("cannot be read: {error}"), "").caused_by(error);
    // Reading a device or a pipe may never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(fault(
            ErrorKind::Io,
            "is not a file".into(),
            "the name of a file, or a pattern like conf.d/*.conf",
        ));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > max_bytes {
        return Err(fault(ErrorKind::Limit, "too large".into(), MAX_TEXT_EXPECTED));
    }
    String::from_utf8(bytes).or_else(|error| without_foreign_remarks(error.as_bytes()).ok_or(error)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        let start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let column = 1 + String::from_utf8_lossy(&bytes[start..at]).chars().count();
        let byte = bytes.get(at).copied().unwrap_or_default();
        fault(ErrorKind::Io, format!("not UTF-8: byte 0x{byte:02x} at line {line}, column {column}"), "")
    })
}

/// The bytes that Windows editors write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Returns the text if bytes of another encoding (GBK, Latin-1) occur only in comments, which nginx
/// skips. Each such byte becomes a replacement character.
fn without_foreign_remarks(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    // A byte order mark may precede the first word.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(error) => {
                let code = &line[..error.valid_up_to()];
                // A comment begins at the start of a word, and never in quotes, where the byte may
                // belong to a value.
                let is_comment = code.iter().enumerate().any(|(at, &byte)| {
                    byte == b'#'
                        && (at == 0 || code[at - 1].is_ascii_whitespace() || matches!(code[at - 1], b';' | b'{' | b'}'))
                });
                if !is_comment || code.contains(&b'"') || code.contains(&b'\'') {
                    return None;
                }
                text.push_str(&String::from_utf8_lossy(line));
            }
        }
    }
    Some(text)
}

pub(crate) const MAX_TEXT_EXPECTED: &str = "at most 4 MiB of configuration in all";

/// Returns whether a path has a pattern in any of its parts.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Returns the files that a pattern matches, sorted by name. A folder that cannot be listed matches
/// nothing, as in nginx.
pub(crate) fn expand(pattern: &Path, max_files: usize) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        match part.to_str().filter(|part| is_pattern(part)) {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some(glob) => {
                found = found.iter().flat_map(|folder| entries(folder, glob)).take(max_files).collect();
                found.sort();
            }
        }
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

fn entries(folder: &Path, glob: &str) -> Vec<PathBuf> {
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (Ok(entries), Some(expression)) = (fs::read_dir(listed), expression(glob)) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // As in glob(3), only a dot matches a leading dot.
    let visible = names.filter(|name| glob.starts_with('.') || !name.starts_with('.'));
    visible.filter(|name| expression.is_match(name)).map(|name| folder.join(name)).collect()
}

/// Translates a glob(7) pattern for one part of a path: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before
/// a literal letter.
fn expression(glob: &str) -> Option<Regex> {
    let mut expression = String::from("(?s)^");
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, rest.chars().next()) {
            ('*', _) => expression.push_str(".*"),
            ('?', _) => expression.push('.'),
            ('\\', Some(literal)) => {
                expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
                rest = &rest[literal.len_utf8()..];
            }
            ('[', Some(first)) => {
                let class = rest.strip_prefix(['!', '^']).unwrap_or(rest);
                // A `]` at the beginning is a member, and a `[` without a closing bracket is
                // literal.
                match class.char_indices().skip(1).find(|(_, c)| *c == ']') {
                    Some((end, _)) => {
                        expression.push_str(if matches!(first, '!' | '^') { "[^" } else { "[" });
                        for member in class[..end].chars() {
                            let is_operator = matches!(member, '[' | ']' | '^' | '&' | '~' | '\\');
                            expression.extend(is_operator.then_some('\\').into_iter().chain([member]));
                        }
                        expression.push(']');
                        rest = &class[end + 1..];
                    }
                    None => expression.push_str("\\["),
                }
            }
            (literal, _) => expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&(expression + "$")).ok()
}

/// The part of nginx's own `mime.types` with the types that a `return` may have.
pub(super) const MIME_TYPES: &str = "types {
    text/html html htm shtml; text/css css; text/xml xml; text/plain txt; text/mathml mml; text/x-component htc;
    text/vnd.sun.j2me.app-descriptor jad; text/vnd.wap.wml wml;
    image/gif gif; image/jpeg jpeg jpg; image/png png; image/svg+xml svg svgz; image/tiff tif tiff; image/webp webp; image/avif avif;
    image/x-icon ico; image/x-ms-bmp bmp; image/vnd.wap.wbmp wbmp; image/x-jng jng;
    font/woff woff; font/woff2 woff2; application/javascript js; application/json json; application/atom+xml atom;
    application/rss+xml rss; application/wasm wasm; application/pdf pdf; application/rtf rtf; application/msword doc;
    application/xhtml+xml xhtml; application/xspf+xml xspf; application/zip zip; application/x-7z-compressed 7z;
    application/java-archive jar war ear; application/vnd.apple.mpegurl m3u8; application/vnd.ms-excel xls;
    application/vnd.ms-powerpoint ppt; application/vnd.ms-fontobject eot; application/x-x509-ca-cert der pem crt;
    application/octet-stream bin exe dll deb dmg iso img msi msp msm; audio/mpeg mp3; audio/ogg ogg; audio/midi mid midi kar;
    audio/x-m4a m4a; video/mp4 mp4; video/mpeg mpeg mpg; video/webm webm; video/quicktime mov; video/x-flv flv;
    video/3gpp 3gpp 3gp; video/mp2t ts; video/x-m4v m4v; video/x-msvideo avi; video/x-ms-wmv wmv; video/x-ms-asf asx asf;
}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_the_shell() {
        let matches = |glob: &str, name: &str| expression(glob).is_some_and(|expression| expression.is_match(name));
        for (glob, name, expected) in [
            ("*.conf", "kylin.conf", true),
            ("*.conf", "kylin.conf.bak", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("site?", "site1", true),
            ("site?", "site", false),
            ("[0-9]*", "10-kylin", true),
            ("[!0-9]*", "10-kylin", false),
            ("[]a]", "]", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a", "b", false),
            ("", "", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn a_pattern_in_a_folder_lists_sorted_and_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", ".c.conf", "d.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = expand(&folder.path().join("*.conf"), 10);
        assert_eq!(found, [folder.path().join("a.conf"), folder.path().join("b.conf")]);
        assert!(expand(&folder.path().join("none/*.conf"), 10).is_empty());
    }
}
