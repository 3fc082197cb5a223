//! nginx's words: `ngx_conf_read_token` of `ngx_conf_file.c`, state for state.
//!
//! Configurations depend on its oddities, so they are kept. A quote has a meaning only at the start of
//! a word. `}` inside a word is a letter. `${` does not open a block. A backslash that escapes nothing
//! stays in the word, so that regular expressions need no doubled ones.

use super::error::Fault;
use super::source::Span;

/// A word after unquoting, and where its first letter stands.
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
}

/// What ended a run of words.
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
}

/// The longest word. nginx reads through a buffer of this size; a longer word usually lacks a quote.
const MAX_WORD_BYTES: usize = 4096;

/// Reads one file, statement by statement.
#[derive(Debug)]
pub(crate) struct Lexer<'t> {
    text: &'t str,
    file: u16,
    line: u32,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LexState {
    /// Between words.
    Space,
    /// Inside a word; `quote` is what ends it.
    Word { quote: Option<u8> },
    /// Behind a closing quote.
    Closed,
}

impl<'t> Lexer<'t> {
    pub(crate) fn new(text: &'t str, file: u16) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { text, file, line: 1, at }
    }

    /// Reads the words up to the next `;`, `{`, `}` or the end. The span is that of the terminator.
    pub(crate) fn statement(&mut self, words: &mut Vec<Word>) -> Result<(Terminator, Span), Fault> {
        words.clear();
        let bytes = self.text.as_bytes();
        let mut state = LexState::Space;
        let mut start = self.span();
        let (mut escaped, mut variable) = (false, false);
        while let Some(&byte) = bytes.get(self.at) {
            let here = self.span();
            self.at += 1;
            if byte == b'\n' {
                self.line += 1;
            }
            if escaped {
                escaped = false;
                continue;
            }
            let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            if state == LexState::Closed {
                match byte {
                    b';' => return Ok((Terminator::Semicolon, here)),
                    b'{' => return Ok((Terminator::BlockOpen, here)),
                    b')' => state = LexState::Space,
                    _ if space => {
                        state = LexState::Space;
                        continue;
                    }
                    _ => {
                        let letter = self.text[here.at as usize..].chars().next().unwrap_or_default();
                        let message = format!("unexpected \"{letter}\" after a quoted word");
                        return Err(here.syntax(message, "a space, \";\" or \"{\""));
                    }
                }
            }
            if state == LexState::Space {
                start = here;
                match byte {
                    _ if space => continue,
                    b';' | b'{' if words.is_empty() => {
                        return Err(here.syntax(format!("unexpected \"{}\"", char::from(byte)), "a directive"));
                    }
                    b';' => return Ok((Terminator::Semicolon, here)),
                    b'{' => return Ok((Terminator::BlockOpen, here)),
                    b'}' if words.is_empty() => return Ok((Terminator::BlockClose, here)),
                    b'}' => {
                        return Err(here.syntax("unexpected \"}\"", format!("\";\" after \"{}\"", words[0].text)));
                    }
                    b'#' => {
                        let end = bytes[self.at..].iter().position(|&byte| byte == b'\n');
                        self.at = end.map_or(bytes.len(), |end| self.at + end);
                    }
                    b'"' | b'\'' => {
                        start = self.span();
                        state = LexState::Word { quote: Some(byte) };
                    }
                    _ => {
                        escaped = byte == b'\\';
                        variable = byte == b'$';
                        state = LexState::Word { quote: None };
                    }
                }
                continue;
            }
            let LexState::Word { quote } = state else { continue };
            if byte == b'{' && variable {
                continue;
            }
            variable = byte == b'$';
            if byte == b'\\' {
                escaped = true;
                continue;
            }
            if here.at as usize - start.at as usize >= MAX_WORD_BYTES {
                let message = format!("word longer than {MAX_WORD_BYTES} bytes");
                return Err(start.limit(message, "a closing quote or \";\" before that"));
            }
            let ends = match quote {
                Some(quote) => byte == quote,
                None => space || matches!(byte, b';' | b'{'),
            };
            if !ends {
                continue;
            }
            let raw = self.text.get(start.at as usize..here.at as usize).unwrap_or_default();
            words.push(Word { text: unescape(raw), span: start });
            match byte {
                b';' if quote.is_none() => return Ok((Terminator::Semicolon, here)),
                b'{' if quote.is_none() => return Ok((Terminator::BlockOpen, here)),
                _ => state = if quote.is_some() { LexState::Closed } else { LexState::Space },
            }
        }
        match state {
            LexState::Space if words.is_empty() => Ok((Terminator::EndOfFile, self.span())),
            LexState::Word { quote: Some(quote) } => {
                Err(start.syntax("the file ends inside a quoted word", format!("a closing {}", char::from(quote))))
            }
            _ => {
                let span = words.first().map_or(start, |word| word.span);
                Err(span.syntax("the file ends inside a directive", "\";\" or \"{\""))
            }
        }
    }

    fn span(&self) -> Span {
        Span { file: self.file, line: self.line, at: u32::try_from(self.at).unwrap_or(u32::MAX) }
    }
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
        // Each was confirmed with `return 200` and nginx 1.22.
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
