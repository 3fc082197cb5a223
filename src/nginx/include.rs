//! `include`: which files a pattern names, and reading them within bounds.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::error::{ErrorKind, Fault};
use super::source::Span;

/// The text of a file, of at most `room` bytes. `span` is the `include`, if there is one, that asked for it.
pub(super) fn read(path: &Path, room: usize, span: Option<Span>) -> Result<String, Fault> {
    let fault = |kind, message: String, source| match span {
        Some(span) => Fault::new(kind, span, format!("{}: {message}", path.display())).caused_by(source),
        None => Fault::of_file(kind, message, source),
    };
    let unreadable = |error: io::Error| fault(ErrorKind::Io, format!("cannot be read: {error}"), Some(error));
    // A device or a pipe may never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(fault(ErrorKind::Io, "is not a file".into(), None));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(room as u64 + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > room {
        return Err(fault(ErrorKind::Limit, "too large: a configuration may have 4 MiB in all".into(), None));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        let start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let column = 1 + String::from_utf8_lossy(&bytes[start..at]).chars().count();
        let byte = bytes.get(at).copied().unwrap_or_default();
        fault(ErrorKind::Io, format!("not UTF-8: byte 0x{byte:02x} at line {line}, column {column}"), None)
    })
}

/// True when the last part of the path is a pattern or the whole has one somewhere.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files that a pattern matches, in the order of their names. What cannot be listed matches nothing, as in nginx.
pub(super) fn expand(pattern: &Path, most: usize) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        match part.to_str().filter(|part| is_pattern(part)) {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some(glob) => {
                found = found.iter().flat_map(|folder| entries(folder, glob)).take(most).collect();
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
    let Ok(entries) = fs::read_dir(listed) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // As glob(3): a leading dot is matched by a dot only.
    names
        .filter(|name| (!name.starts_with('.') || glob.starts_with('.')) && matches(glob, name))
        .map(|name| folder.join(name))
        .collect()
}

/// glob(7) for one part of a path: `*`, `?`, `[a-z]`, `[!a-z]` and `\` before a letter that means itself.
fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    // Where to go on when what follows the last `*` fails: that star takes one letter more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match glob.get(g) {
            Some('*') => {
                retry = Some((g, n));
                g += 1;
                continue;
            }
            Some(_) if n < name.len() => single(&glob[g..], name[n]),
            None if n == name.len() => return true,
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                g += length;
                n += 1;
            }
            (None, Some((star, from))) if from < name.len() => {
                retry = Some((star, from + 1));
                g = star + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
}

/// How many letters of the pattern match the letter `c`.
fn single(glob: &[char], c: char) -> Option<usize> {
    match glob {
        ['?', ..] => Some(1),
        ['\\', next, ..] => (*next == c).then_some(2),
        ['[', rest @ ..] => {
            let negated = matches!(rest.first(), Some('!' | '^'));
            let class = &rest[usize::from(negated)..];
            // A `]` that comes first means itself.
            let Some(end) = class.iter().skip(1).position(|&c| c == ']').map(|end| end + 1) else {
                return (c == '[').then_some(1);
            };
            let (mut inside, mut i) = (false, 0);
            while i < end {
                let range = i + 2 < end && class[i + 1] == '-';
                inside |= if range { (class[i]..=class[i + 2]).contains(&c) } else { class[i] == c };
                i += if range { 3 } else { 1 };
            }
            (inside != negated).then_some(1 + usize::from(negated) + end + 1)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_the_shell() {
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
