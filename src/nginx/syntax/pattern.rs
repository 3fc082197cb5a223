//! Regular expressions of locations, server names and maps.
//!
//! nginx runs PCRE over bytes, without UTF mode. The `regex` crate with Unicode off does the same
//! in linear time. An expression that needs more of PCRE, or that the two read differently, is an
//! error.

use regex::bytes::{Regex, RegexBuilder};

use super::error::Fault;
use super::lexer::Word;

/// The groups that a regular expression matched: `$1` to `$9`, and at 0 the whole match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Captures<'r>(pub(crate) [Option<&'r [u8]>; 10]);

/// A compiled expression.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

/// The most memory that one compiled expression may take.
const MAX_COMPILED_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles `text`, which begins `skip` bytes into `word`.
    pub(crate) fn new(text: &str, ignore_case: bool, word: &Word, skip: usize) -> Result<Pattern, Fault> {
        let span = word.span.right(skip);
        if let Some(operator) = ambiguous(text) {
            let message = format!("{operator} in a character class is read differently by PCRE and by this crate");
            return Err(span.unsupported(message, "a backslash before it"));
        }
        let mut builder = RegexBuilder::new(text);
        let builder = builder.unicode(false).case_insensitive(ignore_case).size_limit(MAX_COMPILED_BYTES);
        builder.build().map(Pattern).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let message = format!("regular expression not understood: {}", reason.trim_start_matches("error: "));
            span.unsupported(message, "an expression without look-around and backreferences")
        })
    }

    pub(crate) fn captures<'t>(&self, text: &'t [u8]) -> Option<Captures<'t>> {
        let found = self.0.captures(text)?;
        let mut groups = Captures::default();
        for (group, to) in found.iter().zip(&mut groups.0) {
            *to = group.map(|group| group.as_bytes());
        }
        Some(groups)
    }

    /// Returns the names of the groups by their number; `None` for the whole match and unnamed
    /// groups.
    pub(crate) fn group_names(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.capture_names()
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Finds an operator of the `regex` crate inside `[...]` that PCRE takes literally.
fn ambiguous(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let (mut in_class, mut at) = (false, 0);
    while at < bytes.len() {
        match (&bytes[at..], in_class) {
            ([b'\\', ..], _) => at += 1,
            ([b'[', b'^', b']', ..], false) => {
                in_class = true;
                at += 2;
            }
            ([b'[', b']', ..], false) => {
                in_class = true;
                at += 1;
            }
            ([b'[', ..], false) => in_class = true,
            ([b'[', b':', rest @ ..], true) => {
                at += rest.windows(2).position(|pair| pair == b":]").map_or(0, |end| end + 3)
            }
            ([b'[', ..], true) => return Some("\"[\""),
            ([b'&', b'&', ..], true) => return Some("\"&&\""),
            ([b'~', b'~', ..], true) => return Some("\"~~\""),
            ([b'-', b'-', ..], true) => return Some("\"--\""),
            ([b']', ..], true) => in_class = false,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::syntax::Span;

    fn compile(text: &str) -> Result<Pattern, Fault> {
        let word = Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } };
        Pattern::new(text, false, &word, 0)
    }

    #[test]
    fn bytes_are_matched_and_groups_kept() {
        let pattern = compile(r"^/k(ylin)?/([^/]+)\.png$").unwrap();
        let captures = pattern.captures(b"/k/\xff.png").unwrap();
        assert_eq!(captures.0[..3], [Some(&b"/k/\xff.png"[..]), None, Some(&b"\xff"[..])]);
        assert!(pattern.captures(b"/kylin/").is_none());
    }

    #[test]
    fn what_pcre_reads_differently_is_refused() {
        for text in ["(?=a)", "(?<!a)b", r"(a)\1", "a(", "[a&&b]", "[a[b]]", "[a--b]", "(?>a)", r"\x{110000}"] {
            assert!(compile(text).is_err(), "{text}");
        }
        for text in [r"[[:alpha:]_-]", r"[\[\]]", "[]a]", "[^]a]", "a&&b", r"\.(gif|jpg)$", r"^/a\-b\/c", "(?i)x", "é"]
        {
            assert!(compile(text).is_ok(), "{text}");
        }
    }
}
