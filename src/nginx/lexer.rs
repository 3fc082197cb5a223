//! nginx's words: `ngx_conf_read_token` of `ngx_conf_file.c`, state for state.
//!
//! Its surprises are kept because configurations depend on them: a quote means something only at the start of a word, `}`
//! inside a word is a letter, `${` does not open a block, and a backslash that escapes nothing stays in the word (so
//! that regular expressions need no doubled ones).

use super::error::{ErrorKind, Fault};
use super::source::Span;

/// A word after unquoting, and where its first letter stands.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) span: Span,
}

/// What ended a run of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// `;`
    Semicolon,
    /// `{`
    Open,
    /// `}`, with no words before it.
    Close,
    /// The end of the file, with no words before it.
    File,
}

/// nginx reads through a buffer of this size and refuses longer words; usually a quote was forgotten.
const LONGEST_WORD: usize = 4096;

/// Reads one file, statement by statement.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    file: u16,
    line: u32,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between words.
    Space,
    /// Inside a word; `quote` is what must end it.
    Word { quote: Option<u8> },
    /// Behind a closing quote.
    Closed,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str, file: u16) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { text, file, line: 1, at }
    }

    /// Reads the words up to the next `;`, `{`, `}` or the end. The span is that of what ended them.
    pub(super) fn statement(&mut self, words: &mut Vec<Word>) -> Result<(Ending, Span), Fault> {
        words.clear();
        let bytes = self.text.as_bytes();
        let mut state = State::Space;
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
            if state == State::Closed {
                match byte {
                    b';' => return Ok((Ending::Semicolon, here)),
                    b'{' => return Ok((Ending::Open, here)),
                    b')' => state = State::Space,
                    _ if space => {
                        state = State::Space;
                        continue;
                    }
                    _ => {
                        let letter = self.text[here.at as usize..].chars().next().unwrap_or_default();
                        return Err(Fault::new(
                            ErrorKind::Syntax,
                            here,
                            format!("unexpected \"{letter}\" after a quoted word"),
                        )
                        .expecting("a space, \";\" or \"{\""));
                    }
                }
            }
            if state == State::Space {
                start = here;
                match byte {
                    _ if space => continue,
                    b';' | b'{' if words.is_empty() => {
                        let message = format!("unexpected \"{}\"", char::from(byte));
                        return Err(Fault::new(ErrorKind::Syntax, here, message).expecting("a directive"));
                    }
                    b';' => return Ok((Ending::Semicolon, here)),
                    b'{' => return Ok((Ending::Open, here)),
                    b'}' if words.is_empty() => return Ok((Ending::Close, here)),
                    b'}' => {
                        return Err(Fault::new(ErrorKind::Syntax, here, "unexpected \"}\"")
                            .expecting(format!("\";\" after \"{}\"", words[0].text)));
                    }
                    b'#' => {
                        let end = bytes[self.at..].iter().position(|&byte| byte == b'\n');
                        self.at = end.map_or(bytes.len(), |end| self.at + end);
                        continue;
                    }
                    b'"' | b'\'' => {
                        start = self.span();
                        state = State::Word { quote: Some(byte) };
                    }
                    _ => {
                        escaped = byte == b'\\';
                        variable = byte == b'$';
                        state = State::Word { quote: None };
                    }
                }
                continue;
            }
            let State::Word { quote } = state else { continue };
            if byte == b'{' && variable {
                continue;
            }
            variable = byte == b'$';
            if byte == b'\\' {
                escaped = true;
                continue;
            }
            let ends = match quote {
                Some(quote) => byte == quote,
                None => space || matches!(byte, b';' | b'{'),
            };
            if here.at as usize - start.at as usize >= LONGEST_WORD {
                return Err(Fault::new(ErrorKind::Limit, start, format!("word longer than {LONGEST_WORD} bytes"))
                    .expecting("a closing quote or \";\" before that"));
            }
            if !ends {
                continue;
            }
            let raw = self.text.get(start.at as usize..here.at as usize).unwrap_or_default();
            words.push(Word { text: unescape(raw), span: start });
            match byte {
                b';' if quote.is_none() => return Ok((Ending::Semicolon, here)),
                b'{' if quote.is_none() => return Ok((Ending::Open, here)),
                _ => state = if quote.is_some() { State::Closed } else { State::Space },
            }
        }
        match state {
            State::Space if words.is_empty() => Ok((Ending::File, self.span())),
            State::Word { quote: Some(quote) } => {
                Err(Fault::new(ErrorKind::Syntax, start, "the file ends inside a quoted word")
                    .expecting(format!("a closing {}", char::from(quote))))
            }
            _ => {
                let span = words.first().map_or(start, |word| word.span);
                Err(Fault::new(ErrorKind::Syntax, span, "the file ends inside a directive").expecting("\";\" or \"{\""))
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
    fn endings_and_lines_are_told() {
        let mut lexer = Lexer::new("a;\nb {\n}\n# end", 0);
        let mut words = Vec::new();
        assert_eq!(lexer.statement(&mut words).unwrap().0, Ending::Semicolon);
        let (ending, span) = lexer.statement(&mut words).unwrap();
        assert_eq!((ending, span.line, words[0].span.line), (Ending::Open, 2, 2));
        assert_eq!(lexer.statement(&mut words).unwrap().0, Ending::Close);
        assert_eq!(lexer.statement(&mut words).unwrap().0, Ending::File);
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
