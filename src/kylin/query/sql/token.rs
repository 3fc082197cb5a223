//! SQL as tokens, in enough detail to tell code from text.
//!
//! Several dialects apply: Kylin parses a statement with Calcite, and may push it down to Hive,
//! Spark or any database with a JDBC driver. Where the dialects disagree, a statement could be
//! hidden from the proxy. So text is read under a [`Reading`], and [`Tokens::seen`] holds the
//! ambiguities that occurred. A caller that needs certainty reads again the other way.

/// One way to read the texts on which SQL dialects disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reading {
    /// A backslash in quotes escapes the next character (Hive, Spark, MySQL). Otherwise it is an
    /// ordinary character.
    pub(super) backslash: bool,
    /// Block comments nest (Spark, PostgreSQL). Otherwise the first `*/` ends all of them (Calcite,
    /// Hive).
    pub(super) nested: bool,
    /// `--` begins a comment only before a blank (MySQL).
    pub(super) dashes_need_blank: bool,
}

impl Reading {
    /// Returns the reading that takes the other side of each ambiguity whose bit is set: backslash,
    /// nested, dashes.
    pub(super) fn of_bits(bits: u8) -> Self {
        Reading { backslash: bits & 1 != 0, nested: bits & 2 != 0, dashes_need_blank: bits & 4 != 0 }
    }
}

/// A piece of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'s> {
    /// A keyword or an identifier without quotes.
    Word(&'s str),
    /// An identifier with its quotes: `"x"`, `` `x` `` or `[x]`.
    Quoted(&'s str),
    /// A string with its quotes.
    Text(&'s str),
    /// A number.
    Number(&'s str),
    /// `/*+ … */`.
    Hint(&'s str),
    /// Any other character.
    Symbol(char),
}

/// The ASCII characters of a word after its first.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric() || c == b'_' || c == b'$';
        byte += 1;
    }
    table
};

/// The ambiguities and errors of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ambiguities {
    /// A backslash in quotes before a quote or another backslash.
    pub(super) backslash: bool,
    /// `/*` in a block comment.
    pub(super) nested: bool,
    /// `--` without a blank after it.
    pub(super) tight_dashes: bool,
    /// A text that no reading makes safe:
    ///
    /// - a string, name or comment without an end;
    /// - `/*!`, which MySQL executes;
    /// - `$$`, which quotes in PostgreSQL;
    /// - brackets that are a name in one dialect and code in another.
    pub(super) unreadable: bool,
}

/// The tokens of any text, without blanks and comments.
///
/// Each byte is read at most twice: a second time if it is in brackets.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'s> {
    sql: &'s str,
    at: usize,
    reading: Reading,
    /// The ambiguities so far. Complete at the end.
    pub(super) seen: Ambiguities,
    /// Whether no further `]` can end a bracket: there is none, or this is the text in a bracket.
    no_bracket_ends: bool,
}

impl<'s> Tokens<'s> {
    pub(super) fn new(sql: &'s str, reading: Reading) -> Self {
        Tokens { sql, at: 0, reading, seen: Ambiguities::default(), no_bracket_ends: false }
    }

    fn bytes(&self) -> &'s [u8] {
        self.sql.as_bytes()
    }

    /// Returns the text from `begin` to the current position.
    fn since(&self, begin: usize) -> &'s str {
        &self.sql[begin..self.at]
    }

    /// Returns the character at the current position, which is not ASCII.
    fn wide_char(&self) -> Option<char> {
        self.sql[self.at..].chars().next()
    }

    /// Skips the rest of a word, whose first character was already skipped.
    fn pass_word(&mut self) {
        loop {
            let rest = &self.bytes()[self.at..];
            self.at += rest.iter().position(|byte| !IN_WORD[usize::from(*byte)]).unwrap_or(rest.len());
            match self.bytes().get(self.at) {
                Some(0x80..) => match self.wide_char() {
                    Some(c) if c.is_alphanumeric() => self.at += c.len_utf8(),
                    _ => return,
                },
                _ => return,
            }
        }
    }

    /// Skips a quoted text that begins with `quote`. A doubled quote is part of it.
    fn pass_quoted(&mut self, quote: u8) {
        let bytes = self.bytes();
        self.at += 1;
        while let Some(&byte) = bytes.get(self.at) {
            let next = bytes.get(self.at + 1).copied();
            match byte {
                b'\\' if quote != b'`' && next.is_some_and(|next| next == quote || next == b'\\') => {
                    self.seen.backslash = true;
                    self.at += if self.reading.backslash { 2 } else { 1 };
                }
                byte if byte == quote && next == Some(quote) => self.at += 2,
                byte if byte == quote => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
        self.seen.unreadable = true;
    }

    /// Skips a comment up to the end of its line.
    fn pass_line(&mut self) {
        let rest = &self.bytes()[self.at..];
        self.at += rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    }

    /// Skips a block comment.
    fn pass_block_comment(&mut self) {
        let bytes = self.bytes();
        self.at += 2;
        self.seen.unreadable |= bytes[self.at..].starts_with(b"!") || bytes[self.at..].starts_with(b"M!");
        let mut depth = 1_usize;
        while depth > 0 {
            match bytes.get(self.at..self.at + 2) {
                Some(b"*/") => {
                    depth -= 1;
                    self.at += 2;
                }
                Some(b"/*") => {
                    self.seen.nested = true;
                    depth += usize::from(self.reading.nested);
                    self.at += if self.reading.nested { 2 } else { 1 };
                }
                Some(_) => self.at += 1,
                None => {
                    self.seen.unreadable = true;
                    self.at = bytes.len();
                    return;
                }
            }
        }
    }

    /// Returns a name in brackets, or an index into an array or a map, as one token. It is
    /// unreadable unless the text before the first `]` is complete in both readings.
    fn brackets(&mut self) -> Token<'s> {
        let begin = self.at;
        self.at += 1;
        let end = if self.no_bracket_ends { None } else { self.sql[self.at..].find(']') };
        let Some(len) = end else {
            self.no_bracket_ends = true;
            self.seen.unreadable = true;
            return Token::Symbol('[');
        };
        let text = &self.sql[self.at..self.at + len];
        self.at += len + 1;
        let mut inside = Tokens { no_bracket_ends: true, ..Tokens::new(text, self.reading) };
        let separates = inside.by_ref().any(|token| token == Token::Symbol(';'));
        // A line comment would extend beyond the bracket.
        self.seen.unreadable |= separates || inside.seen.unreadable || text.contains("--");
        self.seen.backslash |= inside.seen.backslash;
        self.seen.nested |= inside.seen.nested;
        Token::Quoted(self.since(begin))
    }

    fn pass_number(&mut self) {
        let (bytes, begin) = (self.bytes(), self.at);
        while let Some(&byte) = bytes.get(self.at) {
            let exponent = matches!(byte, b'+' | b'-')
                && self.at > begin
                && matches!(bytes[self.at - 1], b'e' | b'E')
                && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit)
                && !bytes[begin..].starts_with(b"0x");
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || exponent {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    /// Returns whether the `--` at the current position is followed by anything but a blank.
    fn is_tight(&self) -> bool {
        self.sql[self.at + 2..].chars().next().is_some_and(|c| !c.is_whitespace() && !c.is_control())
    }
}

impl<'s> Iterator for Tokens<'s> {
    type Item = Token<'s>;

    #[inline]
    fn next(&mut self) -> Option<Token<'s>> {
        loop {
            let begin = self.at;
            let byte = *self.bytes().get(begin)?;
            let next = self.bytes().get(begin + 1).copied();
            match byte {
                b'\t'..=b'\r' | b' ' => self.at += 1,
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                    self.at += 1;
                    self.pass_word();
                    return Some(Token::Word(self.since(begin)));
                }
                b'0'..=b'9' => {
                    self.pass_number();
                    return Some(Token::Number(self.since(begin)));
                }
                b'.' if next.is_some_and(|next| next.is_ascii_digit()) => {
                    self.pass_number();
                    return Some(Token::Number(self.since(begin)));
                }
                b'-' if next == Some(b'-') => {
                    let tight = self.is_tight();
                    self.seen.tight_dashes |= tight;
                    if tight && self.reading.dashes_need_blank {
                        self.at += 1;
                        return Some(Token::Symbol('-'));
                    }
                    self.pass_line();
                }
                b'/' if next == Some(b'*') => {
                    self.pass_block_comment();
                    let comment = self.since(begin);
                    if comment.starts_with("/*+") {
                        return Some(Token::Hint(comment));
                    }
                }
                b'\'' => {
                    self.pass_quoted(byte);
                    return Some(Token::Text(self.since(begin)));
                }
                b'"' | b'`' => {
                    self.pass_quoted(byte);
                    return Some(Token::Quoted(self.since(begin)));
                }
                b'[' => return Some(self.brackets()),
                0x80.. => {
                    let c = self.wide_char()?;
                    self.at += c.len_utf8();
                    // The no-break space is a blank, as in Kylin.
                    if c.is_alphanumeric() {
                        self.pass_word();
                        return Some(Token::Word(self.since(begin)));
                    }
                    if !c.is_whitespace() {
                        return Some(Token::Symbol(c));
                    }
                }
                _ => {
                    self.seen.unreadable |= byte == b'$';
                    self.at += 1;
                    return Some(Token::Symbol(char::from(byte)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(sql: &str) -> Vec<Token<'_>> {
        Tokens::new(sql, Reading::default()).collect()
    }

    fn seen(sql: &str, reading: Reading) -> Ambiguities {
        let mut tokens = Tokens::new(sql, reading);
        tokens.by_ref().for_each(drop);
        tokens.seen
    }

    #[test]
    fn splits_sql_into_tokens() {
        use Token::*;
        assert_eq!(
            tokens("select a.\"b\"\"c\", `d`,[e f] -- x\n, 'it''s' /* y */ , 1.5e-3,.5 /*+ h */ <> ? ;"),
            [
                Word("select"),
                Word("a"),
                Symbol('.'),
                Quoted("\"b\"\"c\""),
                Symbol(','),
                Quoted("`d`"),
                Symbol(','),
                Quoted("[e f]"),
                Symbol(','),
                Text("'it''s'"),
                Symbol(','),
                Number("1.5e-3"),
                Symbol(','),
                Number(".5"),
                Hint("/*+ h */"),
                Symbol('<'),
                Symbol('>'),
                Symbol('?'),
                Symbol(';'),
            ]
        );
        assert_eq!(tokens("a\u{a0}b"), [Word("a"), Word("b")]);
        assert_eq!(tokens("名字1-2"), [Word("名字1"), Symbol('-'), Number("2")]);
        assert_eq!(tokens("0xE-1"), [Number("0xE"), Symbol('-'), Number("1")]);
        assert_eq!(tokens("m['a;b]c']").len(), 4);
    }

    #[test]
    fn dialects_disagree_in_known_places() {
        let plain = Reading::default();
        let nested = Reading { nested: true, ..plain };
        assert!(seen("/* /* */ x */", plain).nested);
        assert_eq!(tokens("/* /* */ x */").len(), 3);
        assert_eq!(Tokens::new("/* /* */ x */", nested).count(), 0);
        assert!(seen(r"'a\'b'", plain).backslash && seen(r"'a\'b'", plain).unreadable);
        let backslash = Reading { backslash: true, ..plain };
        assert!(!seen(r"'a\'b'", backslash).unreadable);
        assert!(!seen(r"'a\n'", plain).backslash);
        assert!(
            seen("5--1", plain).tight_dashes
                && !seen("5-- 1", plain).tight_dashes
                && !seen("5--\n1", plain).tight_dashes
        );
        let dashes = Reading { dashes_need_blank: true, ..plain };
        assert_eq!(Tokens::new("5--1", dashes).count(), 4);
    }

    #[test]
    fn text_without_an_end_is_unreadable() {
        for sql in [
            "'a",
            "\"a",
            "`a",
            "/* a",
            "/*",
            "/*/",
            "[a",
            "[ 'a]' ]",
            "[a;b]",
            "[a--b]",
            "[[a]]",
            "/*! a */",
            "/*M! a */",
            "$$",
        ] {
            assert!(seen(sql, Reading::default()).unreadable, "{sql}");
        }
        for sql in ["", "''", "'a'''", "/**/", "[a]", "m['k']", "a$b", "--", "-- 'a"] {
            assert!(!seen(sql, Reading::default()).unreadable, "{sql}");
        }
    }

    /// Quadratic work over a megabyte would take minutes.
    #[test]
    fn a_megabyte_of_any_unit_is_read() {
        let units = [
            "[",
            "]",
            "[]",
            "[a",
            "[[a]",
            "[--",
            "'",
            "''",
            "\\'",
            "\"",
            "`",
            "/*",
            "*/",
            "/*/",
            "/**/",
            "--",
            "--\n",
            "-",
            "(",
            ")",
            ";",
            "$$",
            "1e",
            "0x",
            ".1",
            "a ",
            "é",
            "\u{a0}",
            "select ",
            "with a as (",
            "select 1;",
            "/*+",
        ];
        for unit in units {
            for reading in [Reading::default(), Reading { backslash: true, nested: true, dashes_need_blank: true }] {
                Tokens::new(&unit.repeat((1 << 20) / unit.len()), reading).for_each(drop);
                Tokens::new(&format!("[{}]", unit.repeat((1 << 20) / unit.len())), reading).for_each(drop);
            }
        }
    }

    proptest! {
        #[test]
        fn every_text_has_tokens(sql in ".{0,80}", backslash: bool, nested: bool, dashes_need_blank: bool) {
            Tokens::new(&sql, Reading { backslash, nested, dashes_need_blank }).for_each(drop);
        }

        /// There is nothing but blanks and comments between the tokens.
        #[test]
        fn nothing_is_lost(sql in "([a-z0-9 .,;()'\"`*/-]|\\[|\\]|\\\\|\n){0,40}") {
            let mut tokens = Tokens::new(&sql, Reading::default());
            let mut end = 0;
            while let Some(token) = tokens.next() {
                let len = match token {
                    Token::Word(t) | Token::Quoted(t) | Token::Text(t) | Token::Number(t) | Token::Hint(t) => t.len(),
                    Token::Symbol(c) => c.len_utf8(),
                };
                let next = tokens.at;
                let gap = sql[end..next - len].trim_start();
                prop_assert!(gap.is_empty() || gap.starts_with("--") || gap.starts_with("/*"), "{gap:?}");
                end = next;
            }
            let gap = sql[end..].trim_start();
            prop_assert!(gap.is_empty() || gap.starts_with("--") || gap.starts_with("/*"), "{gap:?}");
        }
    }
}
