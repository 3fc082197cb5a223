//! Regular expressions of locations and server names.
//!
//! nginx runs PCRE without UTF mode over bytes; the `regex` crate does the same with Unicode off, in linear time. What
//! PCRE has beyond that is refused, and so is the little that both accept and read differently.

use regex::bytes::{Regex, RegexBuilder};

use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::variables::Captures;

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

/// How large one compiled expression may grow, in bytes.
const LARGEST: usize = 1 << 20;

impl Pattern {
    /// Compiles `text`, which stands `skip` bytes into `word`.
    pub(super) fn new(text: &str, any_case: bool, word: &Word, skip: usize) -> Result<Pattern, Fault> {
        let fault = |message: String| Fault::new(ErrorKind::Unsupported, word.span, message).right(skip);
        if let Some(why) = differs(text) {
            return Err(fault(format!("{why} in a character class means different things to PCRE and to this crate"))
                .expecting("a backslash before it"));
        }
        RegexBuilder::new(text)
            .unicode(false)
            .case_insensitive(any_case)
            .size_limit(LARGEST)
            .build()
            .map(Pattern)
            .map_err(|error| {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default();
                fault(format!("regular expression not understood: {}", reason.trim_start_matches("error: ")))
                    .expecting("an expression without look-around and backreferences")
            })
    }

    pub(super) fn captures<'t>(&self, text: &'t [u8]) -> Option<Captures<'t>> {
        let found = self.0.captures(text)?;
        let mut groups = Captures::default();
        for (group, to) in found.iter().zip(&mut groups.0) {
            *to = group.map(|group| group.as_bytes());
        }
        Some(groups)
    }

    /// The names of the groups, by their number; none for a group without a name, and at 0.
    pub(super) fn group_names(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.capture_names()
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Inside `[...]` the `regex` crate has nested classes and set operations, which PCRE takes letter by letter.
fn differs(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let (mut class, mut at) = (false, 0);
    while at < bytes.len() {
        match (&bytes[at..], class) {
            ([b'\\', ..], _) => at += 1,
            ([b'[', b'^', b']', ..], false) => {
                class = true;
                at += 2;
            }
            ([b'[', b']', ..], false) => {
                class = true;
                at += 1;
            }
            ([b'[', ..], false) => class = true,
            ([b'[', b':', rest @ ..], true) => {
                at += rest.windows(2).position(|pair| pair == b":]").map_or(0, |end| end + 3)
            }
            ([b'[', ..], true) => return Some("\"[\""),
            ([b'&', b'&', ..], true) => return Some("\"&&\""),
            ([b'~', b'~', ..], true) => return Some("\"~~\""),
            ([b'-', b'-', ..], true) => return Some("\"--\""),
            ([b']', ..], true) => class = false,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::source::Span;

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
