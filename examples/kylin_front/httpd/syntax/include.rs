//! The files that `Include` names.

use std::path::{Path, PathBuf};

/// The maximum number of files of one `Include`.
const MAX_FILES: usize = 10_000;

/// Returns the files that a path or a pattern names, in alphabetical order. A folder means all
/// files in it and in its subfolders. Returns `None` if nothing matches.
pub(super) fn files(root: &Path, pattern: &str) -> Option<Vec<PathBuf>> {
    let path = root.join(pattern);
    let mut found = vec![PathBuf::new()];
    for part in path.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let folders = std::mem::take(&mut found);
        found = folders.iter().flat_map(|folder| entries(folder, Some(&text))).take(MAX_FILES).collect();
    }
    found.retain(|path| path.exists());
    if found.is_empty() {
        return None;
    }
    let mut files = Vec::new();
    found.into_iter().for_each(|path| add(path, &mut files));
    Some(files)
}

fn add(path: PathBuf, files: &mut Vec<PathBuf>) {
    if files.len() >= MAX_FILES {
        return;
    }
    if path.is_dir() {
        entries(&path, None).into_iter().for_each(|path| add(path, files));
    } else {
        files.push(path);
    }
}

/// Returns the entries of a folder whose name matches.
fn entries(folder: &Path, pattern: Option<&str>) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let matches = |name: &str| match pattern {
        // As in a shell, a pattern does not match a hidden file.
        Some(pattern) => matches(pattern, name) && (pattern.starts_with('.') || !name.starts_with('.')),
        None => true,
    };
    let named = entries.filter(|entry| matches(&entry.file_name().to_string_lossy()));
    let mut paths: Vec<_> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Returns whether a name matches a pattern with `*`, `?` and `[...]`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and the position at which the text after it began to match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], name[n]),
            Some(c) if *c == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(step), _) => (p, n) = (p + step, n + 1),
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Returns the length of a `[...]` that contains `c`.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let from = if negated { 2 } else { 1 };
    let end = pattern.iter().skip(from + 1).position(|c| *c == ']')? + from + 1;
    let mut contains = false;
    let mut at = from;
    while at < end {
        match pattern.get(at + 1) {
            Some('-') if at + 2 < end => {
                contains |= (pattern[at]..=pattern[at + 2]).contains(&c);
                at += 3;
            }
            _ => {
                contains |= pattern[at] == c;
                at += 1;
            }
        }
    }
    (contains != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, name, wanted) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("?-[a-c]*", "1-b", true),
            ("?-[!a-c]*", "1-b", false),
            ("*a*b", "aab", true),
            ("", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }
}
