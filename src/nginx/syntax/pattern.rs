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
pub(crate) struct Pattern {
    regex: Regex,
    /// What `(?!...)` excludes, with the expression as it is written.
    excluded: Option<(Regex, String)>,
    groups: Vec<NamedGroup>,
}

/// A named group: its number, and the slot of the variable that it gives a value.
pub(crate) type NamedGroup = (u8, usize);

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
        let compile = |text: &str| {
            let mut builder = RegexBuilder::new(text);
            let builder = builder.unicode(false).case_insensitive(ignore_case).size_limit(MAX_COMPILED_BYTES);
            builder.build().map_err(|error| {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default();
                let message = format!("regular expression not understood: {}", reason.trim_start_matches("error: "));
                span.unsupported(message, "an expression without backreferences, and (?!...) only as in ^/x(?!y)")
            })
        };
        match without_look_ahead(text) {
            Some((rest, excluded)) => {
                let excluded = Some((compile(&excluded)?, text.to_owned()));
                Ok(Pattern { regex: compile(&rest)?, excluded, groups: Vec::new() })
            }
            None => Ok(Pattern { regex: compile(text)?, excluded: None, groups: Vec::new() }),
        }
    }

    /// Has the named groups give variables a value. `slot` returns the slot of a variable by its name in lower case.
    pub(crate) fn with_variables(
        mut self,
        word: &Word,
        slot: impl Fn(&str) -> Option<usize>,
    ) -> Result<Pattern, Fault> {
        let mut variables = Vec::new();
        for (number, name) in self.group_names().enumerate().filter_map(|(number, name)| Some((number, name?))) {
            let Some(slot) = slot(&name.to_ascii_lowercase()) else { continue };
            let number = u8::try_from(number).ok().filter(|number| *number <= 9).ok_or_else(|| {
                let expected = "(?:...) for groups that are not used";
                word.span.unsupported("more than nine groups before a named one", expected)
            })?;
            variables.push((number, slot));
        }
        self.groups = variables;
        Ok(self)
    }

    /// Returns the groups that give variables a value.
    pub(crate) fn named_groups(&self) -> &[NamedGroup] {
        &self.groups
    }

    pub(crate) fn captures<'t>(&self, text: &'t [u8]) -> Option<Captures<'t>> {
        let found = self.regex.captures(text)?;
        if self.excluded.as_ref().is_some_and(|(excluded, _)| excluded.is_match(text)) {
            return None;
        }
        let mut groups = Captures::default();
        for (group, to) in found.iter().zip(&mut groups.0) {
            *to = group.map(|group| group.as_bytes());
        }
        Some(groups)
    }

    /// Returns the names of the groups by their number; `None` for the whole match and unnamed
    /// groups.
    pub(crate) fn group_names(&self) -> impl Iterator<Item = Option<&str>> {
        self.regex.capture_names()
    }

    /// Returns the expression without what it excludes.
    pub(crate) fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    /// Returns the expression as it is written.
    pub(crate) fn written(&self) -> &str {
        self.excluded.as_ref().map_or(self.regex.as_str(), |(_, written)| written)
    }
}

/// Splits `^LITERAL(?!EXCLUDED)REST`, whose look-ahead is always at the same place: returns `^LITERALREST` and `^LITERAL(?:EXCLUDED)`.
fn without_look_ahead(text: &str) -> Option<(String, String)> {
    let at = text.find("(?!")?;
    let (start, behind) = (&text[..at], &text[at + 3..]);
    let mut literal = start.strip_prefix('^')?.chars();
    while let Some(c) = literal.next() {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-');
        let is_escaped = c == '\\' && literal.next().is_some_and(|c| !c.is_ascii_alphanumeric());
        if !(is_plain(c) || is_escaped) {
            return None;
        }
    }
    let (mut depth, mut in_class, mut escaped) = (1, false, false);
    let end = behind.char_indices().find_map(|(index, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(index)
    })?;
    let (excluded, rest) = (&behind[..end], &behind[end + 1..]);
    // Groups of the look-ahead count too.
    let has_groups = |text: &str| text.replace("\\(", "").replace("(?:", "").contains('(');
    if has_groups(excluded) && has_groups(rest) {
        return None;
    }
    // A repetition would be one of the look-ahead.
    let is_repeated = rest.starts_with(['*', '+', '?', '{']);
    (!is_repeated).then(|| (format!("{start}{rest}"), format!("{start}(?:{excluded})")))
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
    fn a_look_ahead_behind_a_literal_excludes() {
        let pattern = compile(r"^/(?!api/|static(\.|/)).*$").unwrap();
        for (path, expected) in [("/", true), ("/kylin/api/", true), ("/api/x", false), ("/static.x", false)] {
            assert_eq!(pattern.captures(path.as_bytes()).is_some(), expected, "{path}");
        }
        assert_eq!(pattern.written(), r"^/(?!api/|static(\.|/)).*$");
        let pattern = compile(r"^/v\.1/(?![ab)]x)(.+)$").unwrap();
        assert_eq!(pattern.captures(b"/v.1/cx").unwrap().0[1], Some(&b"cx"[..]));
        assert!(pattern.captures(b"/v.1/)x").is_none() && pattern.captures(b"/v_1/cx").is_none());
    }

    #[test]
    fn what_pcre_reads_differently_is_refused() {
        for text in ["(?=a)", "(?<!a)b", r"(a)\1", "a(", "[a&&b]", "[a[b]]", "[a--b]", "(?>a)", r"\x{110000}"] {
            assert!(compile(text).is_err(), "{text}");
        }
        for text in ["^a(?!b", "(?!a)b", "^a*(?!b)", "^a(?!(b))(c)", "^a(?!b)(?!c)", "^a(?!b)*"] {
            assert!(compile(text).is_err(), "{text}");
        }
        for text in [r"[[:alpha:]_-]", r"[\[\]]", "[]a]", "[^]a]", "a&&b", r"\.(gif|jpg)$", r"^/a\-b\/c", "(?i)x", "é"]
        {
            assert!(compile(text).is_ok(), "{text}");
        }
    }
}
