//! Regular expressions of locations, server names and maps.
//!
//! nginx runs PCRE over bytes, without UTF mode. The `regex` crate with Unicode off does the same
//! in linear time. Syntax that the two read differently is translated. An expression that needs
//! more of PCRE is an error.

mod translate;

use regex::bytes::{Regex, RegexBuilder};

pub use self::translate::{PcreError, translate_pcre};
use super::error::Fault;
use super::lexer::Word;

/// The groups that a regular expression matched: `$1` to `$9`, and at 0 the whole match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Captures<'r>(pub(crate) [Option<&'r [u8]>; 10]);

/// A compiled expression.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: Regex,
    /// The text that `(?!...)` excludes.
    excluded: Option<Excluded>,
    /// The expression as it was written.
    written: String,
    /// The expression without its look-ahead.
    text: String,
    groups: Vec<NamedGroup>,
}

/// The text that a look-ahead excludes, with the literal before it.
#[derive(Debug, Clone)]
enum Excluded {
    /// The look-ahead is always at the same position.
    AtStart(Regex),
    /// The expression matches wherever the literal occurs and this one does not match.
    Anywhere(Regex),
}

/// A named group: its number, and the slot of its variable.
pub(crate) type NamedGroup = (u8, usize);

/// The maximum memory of a compiled expression, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles `text`, which begins `skip` bytes into `word`.
    pub(crate) fn new(text: &str, ignore_case: bool, word: &Word, skip: usize) -> Result<Pattern, Fault> {
        let span = word.span.right(skip);
        let compile = |text: &str| {
            let translated = translate_pcre(text).map_err(|error| span.unsupported(error.message, error.instead))?;
            let mut builder = RegexBuilder::new(&translated);
            let builder = builder.unicode(false).case_insensitive(ignore_case).size_limit(MAX_COMPILED_BYTES);
            builder.build().map_err(|error| {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or_default();
                let message = format!("regular expression not understood: {}", reason.trim_start_matches("error: "));
                span.unsupported(
                    message,
                    match text.contains("(?!well-known") || text.contains("(?!\\.well-known") {
                        true => "two locations: location ^~ /.well-known/ { ... } and location ~ /\\. { deny all; }",
                        false => {
                            "an expression without backreferences, and (?!...) only as in ^/x(?!y) or /x(?!y), without \"|\" beside it; \
                             what it excludes may have a location of its own: location ^~ /PATH { ... }"
                        }
                    },
                )
            })
        };
        // The whole expression is translated first, so that an error has the right position.
        translate_pcre(text).map_err(|error| span.right(error.at).unsupported(error.message, error.instead))?;
        let (rest, excluded) = match (without_look_ahead(text), look_ahead_anywhere(text)) {
            (Some((rest, excluded)), _) => (rest, Some(Excluded::AtStart(compile(&excluded)?))),
            (None, Some((literal, excluded))) => (literal, Some(Excluded::Anywhere(compile(&excluded)?))),
            (None, None) => (text.to_owned(), None),
        };
        Ok(Pattern { regex: compile(&rest)?, excluded, written: text.to_owned(), text: rest, groups: Vec::new() })
    }

    /// Binds the named groups to variables. `slot` returns the slot of a variable by its name in
    /// lower case.
    ///
    /// # Errors
    /// Those of [`name_groups`](Self::name_groups).
    pub(crate) fn with_variables(
        mut self,
        word: &Word,
        slot: impl Fn(&str) -> Option<usize>,
    ) -> Result<Pattern, Fault> {
        let groups = self.name_groups(word, slot)?;
        self.groups = groups.into_iter().map(|(slot, number)| (number, slot)).collect();
        Ok(self)
    }

    /// Calls `variable` with the name of each named group, in lower case. Returns the results with
    /// the numbers of the groups.
    ///
    /// # Errors
    /// `variable` returns `None`, because the name is that of a built-in variable, or the number is
    /// more than nine.
    pub(crate) fn name_groups<T>(
        &self,
        word: &Word,
        variable: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<(T, u8)>, Fault> {
        let mut groups = Vec::new();
        for (number, name) in self.regex.capture_names().enumerate().filter_map(|(number, name)| Some((number, name?)))
        {
            let Some(variable) = variable(&name.to_ascii_lowercase()) else {
                let message = format!("the group \"{name}\" has the name of a built-in variable");
                return Err(word.span.duplicate(message, "(?<NAME>...) with another name"));
            };
            let number = u8::try_from(number).ok().filter(|number| *number <= 9).ok_or_else(|| {
                let expected = "(?:...) for groups that are not used";
                word.span.unsupported("more than nine groups before a named one", expected)
            })?;
            groups.push((variable, number));
        }
        Ok(groups)
    }

    /// Returns the groups that are bound to variables.
    pub(crate) fn named_groups(&self) -> &[NamedGroup] {
        &self.groups
    }

    pub(crate) fn captures<'t>(&self, text: &'t [u8]) -> Option<Captures<'t>> {
        let mut found = self.regex.captures(text)?;
        match &self.excluded {
            Some(Excluded::AtStart(excluded)) if excluded.is_match(text) => return None,
            Some(Excluded::Anywhere(excluded)) => {
                while let Some(start) = found.get(0).map(|found| found.start())
                    && excluded.is_match(&text[start..])
                {
                    found = self.regex.captures_at(text, start + 1)?;
                }
            }
            Some(Excluded::AtStart(_)) | None => {}
        }
        let mut groups = Captures::default();
        for (group, to) in found.iter().zip(&mut groups.0) {
            *to = group.map(|group| group.as_bytes());
        }
        Some(groups)
    }

    /// Returns the expression without its look-ahead.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the expression as it was written.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }
}

/// Splits `LITERAL(?!EXCLUDED)` or `LITERAL(?!EXCLUDED).*`, as in `/\.(?!well-known)`, into
/// `LITERAL` and `^LITERAL(?:EXCLUDED)`. `EXCLUDED` may only be alternatives of literals, so that
/// the work at each position is bounded.
fn look_ahead_anywhere(text: &str) -> Option<(String, String)> {
    let (literal, behind) = text.split_once("(?!")?;
    let (excluded, rest) = behind.split_once(')')?;
    let is_one = !literal.is_empty() && is_of_literals(literal, "") && is_of_literals(excluded, "|$");
    (is_one && matches!(rest, "" | ".*")).then(|| (literal.to_owned(), format!("^{literal}(?:{excluded})")))
}

/// Returns whether an expression consists only of literals and these operators.
fn is_of_literals(text: &str, operators: &str) -> bool {
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        let is_one = match c {
            '\\' => letters.next().is_some_and(|c| !c.is_ascii_alphanumeric()),
            c => c.is_ascii_alphanumeric() || "/_-".contains(c) || operators.contains(c),
        };
        if !is_one {
            return false;
        }
    }
    true
}

/// Splits `^LITERAL(?!EXCLUDED)REST` into `^LITERALREST` and `^LITERAL(?:EXCLUDED)`. Its look-ahead
/// is always at the same position.
fn without_look_ahead(text: &str) -> Option<(String, String)> {
    let at = text.find("(?!")?;
    let (start, behind) = (&text[..at], &text[at + 3..]);
    if !is_of_literals(start.strip_prefix('^')?, "") {
        return None;
    }
    let end = operators(behind).find_map(|(at, _, depth)| (depth < 0).then_some(at))?;
    let (excluded, rest) = (&behind[..end], &behind[end + 1..]);
    // Groups in the look-ahead also have numbers.
    let has_groups = |text: &str| text.replace("\\(", "").replace("(?:", "").contains('(');
    if has_groups(excluded) && has_groups(rest) {
        return None;
    }
    // The look-ahead would belong to only one of the alternatives.
    if operators(rest).any(|(_, operator, depth)| operator == b'|' && depth == 0) {
        return None;
    }
    // The repetition would apply to the look-ahead.
    let is_repeated = rest.starts_with(['*', '+', '?', '{']);
    (!is_repeated).then(|| (format!("{start}{rest}"), format!("{start}(?:{excluded})")))
}

/// Returns the parentheses and bars of an expression that are neither escaped nor in `[...]`.
///
/// Each has its position, and the number of open groups after it. The number is negative after a
/// closing parenthesis without an opening one.
fn operators(text: &str) -> impl Iterator<Item = (usize, u8, i32)> {
    let (bytes, mut at, mut depth) = (text.as_bytes(), 0, 0);
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let here = at;
            at += match &bytes[here..] {
                [b'\\', ..] => 2,
                class @ [b'[', ..] => length_of_class(class),
                _ => 1,
            };
            match bytes[here] {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'|' => {}
                _ => continue,
            }
            return Some((here, bytes[here], depth));
        }
        None
    })
}

/// Returns the number of bytes of a `[...]` at the beginning of `class`.
fn length_of_class(class: &[u8]) -> usize {
    // A bracket at the beginning is one of the characters.
    let mut at = match class {
        [b'[', b'^', b']', ..] => 3,
        [b'[', b'^', ..] | [b'[', b']', ..] => 2,
        _ => 1,
    };
    while at < class.len() {
        match &class[at..] {
            [b'\\', ..] => at += 2,
            [b'[', b':', name @ ..] => at += name.windows(2).position(|pair| pair == b":]").map_or(1, |end| end + 4),
            [b']', ..] => return at + 1,
            _ => at += 1,
        }
    }
    class.len()
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
        let pattern = compile(r"^/a(?![])|x]|y[^]|(]|\|)(?:b|[|c]\|)").unwrap();
        for (path, expected) in
            [("/ab", true), ("/a)", false), ("/a]b", false), ("/ac|", true), ("/a||", false), ("/ax", false)]
        {
            assert_eq!(pattern.captures(path.as_bytes()).is_some(), expected, "{path}");
        }
    }

    #[test]
    fn what_pcre_reads_in_its_own_way_is_translated() {
        let bytes = |escaped: &str| percent_encoding::percent_decode_str(escaped).collect::<Vec<u8>>();
        // Confirmed with nginx 1.22, see tests/nginx_files/expressions.conf.
        for (text, matched, not) in [
            (r"\</script\>", "</script>", "/script"),
            (r"^[\<\>]$", "<", "x"),
            (r"^a\v$", "a%85", "a%09"),
            (r"^[\v-]$", "-", "v"),
            (r"^[^\v]$", "v", "%0b"),
            (r"^\V\h\H$", "a%a0b", "aab"),
            (r"^[\H]$", "a", "%09"),
            (r"^\N\e\Z", "a%1b", "ab"),
            (r"^[\b\e]$", "%08", "b"),
            ("^é+$", "%c3%a9%a9", "%c3%a9%c3%a9"),
            ("^[é]$", "%a9", "%c3%a9"),
            (r"^\x{e9}\xe9$", "%e9%e9", "%c3%a9%c3%a9"),
            ("^a{,3}$", "a{,3}", "aa"),
            ("^{a}$", "{a}", "a"),
            ("^a{ 2 }$", "a{ 2 }", "aa"),
            ("^a{2,3}?$", "aa", "a"),
            ("^a(?i)b|c$", "aB", "B"),
            ("^(?U)(a+)", "a", "b"),
            (r"^[[:^digit:]\]]$", "]", "1"),
            // PCRE before its version 2.
            (r"^[\w-.]+$", "a-.", "a,"),
            ("^[[:alpha:]-_]+$", "a-_", "`"),
        ] {
            let pattern = compile(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
            assert!(pattern.captures(&bytes(matched)).is_some(), "{text} {matched}");
            assert!(pattern.captures(&bytes(not)).is_none(), "{text} {not}");
            assert_eq!((pattern.as_str(), pattern.written()), (text, text));
        }
    }

    #[test]
    fn what_pcre_reads_differently_is_refused() {
        for text in [
            "(?=a)",
            "(?<!a)b",
            r"(a)\1",
            "a(",
            "[a&&b]",
            "[a[b]]",
            "[a--b]",
            "[a~~b]",
            "(?>a)",
            r"\x{110000}",
            r"\x{100}",
            "a++",
            "a*+",
            "a?+b",
            "(ab){2}+",
            "(?x)a b",
            "(?i-x:a b)",
            "(?R)",
            "(?u)a",
            r"\u0041",
            r"\b{start}a",
            "[[:<:]]a",
            "[[:^upper:]]",
            r"\R",
            r"\X",
            r"\Ka",
            r"\Ga",
            r"\cA",
            r"\012",
            r"\0",
            r"\g{1}",
            r"\k<a>",
            r"\Qa.b\E",
            r"\p{L}",
            "(?|a|b)",
            "(?#a)b",
            "(?'a'b)",
            "(?P=a)",
            "(*UTF8)a",
            r"[a-\d]",
            r"[\R]",
            r"\x{}",
            r"\x{+1}",
            r"\N{U+41}",
        ] {
            assert!(compile(text).is_err(), "{text}");
        }
        for text in [
            "^a(?!b",
            "(?!a)b",
            "^a*(?!b)",
            "^a(?!(b))(c)",
            "^a(?!b)(?!c)",
            "^a(?!b)*",
            "^a(?!b)|^c",
            "^a(?![])])(b)|c",
        ] {
            assert!(compile(text).is_err(), "{text}");
        }
        for text in [
            r"[[:alpha:]_-]",
            r"[\[\]]",
            "[]a]",
            "[^]a]",
            "a&&b",
            r"\.(gif|jpg)$",
            r"^/a\-b\/c",
            "(?i)x",
            "é",
            r"\ \,\'\_\@\%",
            "a+?b",
            "(?P<n>a)",
            "(?<n>a)",
            "(?-i:a)",
            r"[\]\-]",
            "[[:word:]]",
            "a|",
            "()",
        ] {
            assert!(compile(text).is_ok(), "{text}");
        }
    }
}
