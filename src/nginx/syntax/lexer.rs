//! nginx's words: `ngx_conf_read_token` of `ngx_conf_file.c`.
//!
//! Configurations depend on the oddities of nginx's lexer, so they are kept. A quote has a meaning
//! only at the start of a word. `}` inside a word is an ordinary character. `${` does not open a
//! block. A backslash that escapes nothing stays in the word, so regular expressions need no double
//! backslashes. nginx skips comments. A comment that begins with `# kylin_lb:` contains directives
//! of this crate, up to the end of its line.

use super::error::Fault;
use super::lua;
use super::source::Span;
use crate::nginx::options::OPTIONS;

/// A word after unquoting, and the position of its first character.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Word {
    /// Splits `NAME=VALUE` into both; a word without `=` is a name without a value.
    pub(crate) fn parameter(&self) -> (&str, Option<Word>) {
        match self.text.split_once('=') {
            Some((name, value)) => (name, Some(Word { text: value.to_owned(), span: self.span.right(name.len() + 1) })),
            None => (&self.text, None),
        }
    }

    /// Returns the name of a shell variable such as `${KYLIN_HOST}`, which a template of a
    /// configuration contains.
    pub(crate) fn shell_variable(&self) -> Option<&str> {
        let (_, rest) = self.text.split_once('$')?;
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let is_upper = |name: &&str| {
            name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains(|c: char| c.is_ascii_lowercase())
        };
        Some(&rest[..end]).filter(is_upper)
    }

    /// Returns the error for a word that is not a valid `what`.
    pub(crate) fn invalid(&self, what: &str, expected: impl Into<String>) -> Fault {
        let expected = expected.into();
        let hint = self.shell_variable().map(|name| {
            format!("; variables of the shell are not filled in: envsubst '${{{name}}}' < TEMPLATE > FILE")
        });
        self.span.value(format!("invalid {what} \"{}\"", self.text), expected + &hint.unwrap_or_default())
    }
}

/// The token that ended a sequence of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminator {
    /// `;`
    Semicolon,
    /// `{`
    BlockOpen,
    /// `}`, with no words before it.
    BlockClose,
    /// The end of the file, with no words before it.
    EndOfFile,
    /// A comment with directives of this crate, with no words before it. [`Lexer::comment`] reads
    /// them.
    OwnComment,
}

/// The prefix of a comment with directives of this crate.
pub(super) const OWN_COMMENT: &str = "# kylin_lb: NAME VALUE;";

/// The size of nginx's read buffer. The longest word is one byte shorter.
const BUFFER_BYTES: usize = 4096;

/// Reads one file, statement by statement.
#[derive(Debug)]
pub(crate) struct Lexer<'t> {
    text: &'t str,
    file: u16,
    line: u32,
    at: usize,
    /// The construct that ends with the text.
    whole: &'static str,
}

impl<'t> Lexer<'t> {
    pub(crate) fn new(text: &'t str, file: u16) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { text, file, line: 1, at, whole: "file" }
    }

    /// Reads the words up to the next `;`, `{`, `}` or the end. Returns the terminator and its
    /// span.
    pub(crate) fn statement(&mut self, words: &mut Vec<Word>) -> Result<(Terminator, Span), Fault> {
        words.clear();
        let mut after_quote = false;
        loop {
            let here = self.span();
            let Some(byte) = self.peek() else {
                return match words.first() {
                    None => Ok((Terminator::EndOfFile, here)),
                    Some(word) => {
                        let message = format!("the {} ends inside a directive", self.whole);
                        let expected = if self.whole == "file" { "\";\" or \"{\"" } else { OWN_COMMENT };
                        Err(word.span.syntax(message, expected))
                    }
                };
            };
            match byte {
                b';' | b'{' if words.is_empty() => {
                    return Err(here.syntax(format!("unexpected \"{}\"", char::from(byte)), "a directive"));
                }
                b';' | b'{' => {
                    self.advance();
                    return Ok((if byte == b';' { Terminator::Semicolon } else { Terminator::BlockOpen }, here));
                }
                _ if is_space(byte) => {
                    self.advance();
                    after_quote = false;
                }
                _ if after_quote && byte != b')' => {
                    let letter = self.text[self.at..].chars().next().unwrap_or_default();
                    let message = format!("unexpected \"{letter}\" after a quoted word");
                    return Err(here.syntax(message, "a space, \";\" or \"{\""));
                }
                b'}' => {
                    self.advance();
                    return match words.last() {
                        None => Ok((Terminator::BlockClose, here)),
                        Some(word) => Err(here.syntax("unexpected \"}\"", format!("\";\" after \"{}\"", word.text))),
                    };
                }
                b'#' => match own_comment(self.comment_text()) {
                    None => self.at = self.line_end(),
                    Some(_) if !words.is_empty() => {
                        let message = "a \"# kylin_lb:\" comment inside a directive";
                        return Err(here.misplaced(message, "the comment behind the \";\" or \"{\""));
                    }
                    Some(OwnComment::Misspelt) => {
                        return Err(here.syntax("a comment that looks like \"# kylin_lb:\"", OWN_COMMENT));
                    }
                    Some(OwnComment::Directives(length)) => {
                        self.at += length;
                        return Ok((Terminator::OwnComment, here));
                    }
                },
                b'"' | b'\'' => {
                    words.push(self.quoted(byte)?);
                    after_quote = true;
                }
                _ => {
                    words.push(self.bare()?);
                    after_quote = false;
                }
            }
        }
    }

    /// Skips the block of Lua that a directive has opened.
    pub(crate) fn skip_lua(&mut self, opened: &Word) -> Result<(), Fault> {
        let length = lua::block(&self.text[self.at..]).ok_or_else(|| {
            let message = format!("the block of \"{}\" is never closed", opened.text);
            opened.span.syntax(message, "\"}\" before the end of the file")
        })?;
        let end = self.at + length;
        while self.at < end {
            self.advance();
        }
        Ok(())
    }

    /// Returns a lexer for the rest of the line, and moves to its end.
    pub(crate) fn comment(&mut self) -> Lexer<'t> {
        let end = self.line_end();
        let rest = Lexer { text: &self.text[..end], whole: "comment", ..*self };
        self.at = end;
        rest
    }

    fn line_end(&self) -> usize {
        self.text[self.at..].find('\n').map_or(self.text.len(), |newline| self.at + newline)
    }

    fn comment_text(&self) -> &'t str {
        &self.text[self.at..self.line_end()]
    }

    fn quoted(&mut self, quote: u8) -> Result<Word, Fault> {
        self.advance();
        let start = self.span();
        while let Some(byte) = self.peek() {
            if byte == quote {
                let word = self.word(start)?;
                self.advance();
                return Ok(word);
            }
            if byte == b'\\' {
                self.advance();
            }
            self.advance();
        }
        Err(start.syntax(
            format!("the {} ends inside a quoted word", self.whole),
            format!("a closing {}", char::from(quote)),
        ))
    }

    fn bare(&mut self) -> Result<Word, Fault> {
        let start = self.span();
        let mut after_dollar = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' if after_dollar => {}
                b';' | b'{' => break,
                _ if is_space(byte) => break,
                b'\\' => {
                    self.advance();
                    after_dollar = false;
                }
                _ => after_dollar = byte == b'$',
            }
            self.advance();
        }
        self.word(start)
    }

    /// Makes a word of the text from `start` up to here.
    fn word(&self, start: Span) -> Result<Word, Fault> {
        let raw = self.text.get(start.at as usize..self.at).unwrap_or_default();
        if raw.len() >= BUFFER_BYTES {
            return Err(start.limit("word too long", format!("a closing quote or \";\" within {BUFFER_BYTES} bytes")));
        }
        Ok(Word { text: unescape(raw), span: start })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn advance(&mut self) {
        if let Some(byte) = self.peek() {
            self.at += 1;
            self.line += u32::from(byte == b'\n');
        }
    }

    fn span(&self) -> Span {
        Span { file: self.file, line: self.line, at: u32::try_from(self.at).unwrap_or(u32::MAX) }
    }
}

/// A comment that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnComment {
    /// `# kylin_lb:`, which has this length.
    Directives(usize),
    /// A misspelt prefix such as `# kylin-lb:`, which would otherwise be skipped silently.
    Misspelt,
}

/// Returns the kind of a comment; `None` for an ordinary comment. A second `#` makes any comment an
/// ordinary one.
fn own_comment(comment: &str) -> Option<OwnComment> {
    let text = comment.strip_prefix('#')?;
    if lacks_colon(text) {
        return Some(OwnComment::Misspelt);
    }
    let (name, _) = text.split_once(':')?;
    match name.trim() {
        "kylin_lb" if !name.ends_with([' ', '\t']) => Some(OwnComment::Directives("#:".len() + name.len())),
        other => is_own_name(other).then_some(OwnComment::Misspelt),
    }
}

fn is_own_name(text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| !matches!(letter, '_' | '-' | ' ' | '\t')).collect();
    plain.eq_ignore_ascii_case("kylinlb")
}

/// Returns whether a comment is `kylin_lb NAME VALUE;`, and not a sentence about the crate.
fn lacks_colon(text: &str) -> bool {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    match words[..] {
        [name, setting, value] => {
            is_own_name(name) && value.ends_with(';') && OPTIONS.iter().any(|(known, _)| *known == setting)
        }
        _ => false,
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Undoes `\"`, `\'`, `\\`, `\t`, `\r` and `\n`; any other backslash stays.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        let replaced = match (c, chars.peek()) {
            ('\\', Some(&next @ ('"' | '\'' | '\\'))) => Some(next),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('n')) => Some('\n'),
            _ => None,
        };
        if replaced.is_some() {
            chars.next();
        }
        text.push(replaced.unwrap_or(c));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        Lexer::new(text, 0).statement(&mut words).unwrap();
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_are_split_as_nginx_splits_them() {
        // Each line was confirmed with `return 200` and nginx 1.22.
        assert_eq!(words("a b;"), ["a", "b"]);
        assert_eq!(words("\u{feff}a # x ; \n b;"), ["a", "b"]);
        assert_eq!(words(r#"a "b c;{}" 'd"e';"#), ["a", "b c;{}", "d\"e"]);
        assert_eq!(words(r#"a b"c d;"#), ["a", "b\"c", "d"]);
        assert_eq!(words(r"a b\ c\;d \{ \.php$ \\. \t;"), ["a", r"b\ c\;d", r"\{", r"\.php$", r"\.", "\t"]);
        assert_eq!(words("a ${b}c ${;"), ["a", "${b}c", "${"]);
        assert_eq!(words("a b}c;"), ["a", "b}c"]);
        assert_eq!(words("a b#c;"), ["a", "b#c"]);
        assert_eq!(words("if (a = \"b\") {"), ["if", "(a", "=", "b", ")"]);
        assert_eq!(words("a \"\";"), ["a", ""]);
    }

    #[test]
    fn only_a_comment_of_the_exact_form_holds_directives() {
        for (text, expected) in [
            ("# kylin_lb: sessions memory;", Some(OwnComment::Directives(11))),
            ("#kylin_lb:", Some(OwnComment::Directives(10))),
            ("#\tkylin_lb:sessions memory;", Some(OwnComment::Directives(11))),
            ("# kylin-lb: sessions memory;", Some(OwnComment::Misspelt)),
            ("# Kylin_LB: sessions memory;", Some(OwnComment::Misspelt)),
            ("# kylinlb : x", Some(OwnComment::Misspelt)),
            ("# kylin lb: x", Some(OwnComment::Misspelt)),
            ("## kylin_lb: sessions memory;", None),
            ("# # kylin_lb: sessions memory;", None),
            ("# served by kylin_lb: see there", None),
            ("# kylin_lb has no colon", None),
            ("# kylin_lb sessions memory;", Some(OwnComment::Misspelt)),
            ("#kylin-lb sessions redis://10.0.0.5;", Some(OwnComment::Misspelt)),
            ("# kylin_lb configuration of our site", None),
            ("# kylin_lb is down;", None),
            ("# kylin_lb is here; see the manual", None),
            ("# Kylin Server 1", None),
            ("#", None),
        ] {
            assert_eq!(own_comment(text), expected, "{text}");
        }
    }

    #[test]
    fn terminators_and_lines_are_reported() {
        let mut lexer = Lexer::new("a;\nb {\n}\n# end", 0);
        let mut words = Vec::new();
        assert_eq!(lexer.statement(&mut words).unwrap().0, Terminator::Semicolon);
        let (terminator, span) = lexer.statement(&mut words).unwrap();
        assert_eq!((terminator, span.line, words[0].span.line), (Terminator::BlockOpen, 2, 2));
        assert_eq!(lexer.statement(&mut words).unwrap().0, Terminator::BlockClose);
        assert_eq!(lexer.statement(&mut words).unwrap().0, Terminator::EndOfFile);
    }

    #[test]
    fn broken_words_are_refused() {
        for text in
            ["a", "a b", "a \"b", "a 'b;", "a \"b\"c;", "a }", ";", "{", "a \\", &format!("a {};", "x".repeat(5000))]
        {
            assert!(Lexer::new(text, 0).statement(&mut Vec::new()).is_err(), "{text}");
        }
    }
}
