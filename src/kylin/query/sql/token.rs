//! SQL as tokens, in enough detail to tell code from text.
//!
//! Several dialects apply: Kylin parses a statement with Calcite, and may push it down to Hive, Spark or any database with a JDBC
//! driver. Where they disagree, a statement could be hidden from the proxy. So text is read under a [`Reading`], and
//! [`Tokens::seen`] holds the ambiguities that occurred. A caller that needs certainty reads again the other way.

/// One way to read what SQL dialects disagree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reading {
    /// A backslash in quotes escapes the next character (Hive, Spark, MySQL). Otherwise it is an ordinary character.
    pub(super) backslash: bool,
    /// Block comments nest (Spark, PostgreSQL). Otherwise the first `*/` ends all (Calcite, Hive).
    pub(super) nested: bool,
    /// `--` begins a comment only before a blank (MySQL).
    pub(super) dashes_need_blank: bool,
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

/// The ambiguities and errors of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// A backslash in quotes before a quote or another backslash.
    pub(super) backslash: bool,
    /// `/*` in a block comment.
    pub(super) nested: bool,
    /// `--` without a blank behind it.
    pub(super) tight_dashes: bool,
    /// A string, name or comment without an end; `/*!`, which MySQL executes; `$$`, which quotes in PostgreSQL; brackets
    /// that are a name in one dialect and code in another. No reading makes this safe.
    pub(super) unreadable: bool,
}

/// The tokens of any text, without blanks and comments.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'s> {
    rest: &'s str,
    reading: Reading,
    /// The ambiguities so far. Complete at the end.
    pub(super) seen: Seen,
    in_brackets: bool,
}

impl<'s> Tokens<'s> {
    pub(super) fn new(sql: &'s str, reading: Reading) -> Self {
        Tokens { rest: sql, reading, seen: Seen::default(), in_brackets: false }
    }

    /// Takes `len` bytes.
    fn take(&mut self, len: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, inside: impl Fn(char) -> bool) -> &'s str {
        let len = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        self.take(len)
    }

    /// Takes a quoted text that begins with `quote`. A doubled quote is part of it.
    fn quoted(&mut self, quote: u8) -> &'s str {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        while let Some(&byte) = bytes.get(at) {
            let next = bytes.get(at + 1).copied();
            match byte {
                b'\\' if quote != b'`' && next.is_some_and(|next| next == quote || next == b'\\') => {
                    self.seen.backslash = true;
                    at += if self.reading.backslash { 2 } else { 1 };
                }
                byte if byte == quote && next == Some(quote) => at += 2,
                byte if byte == quote => return self.take(at + 1),
                _ => at += 1,
            }
        }
        self.seen.unreadable = true;
        self.take(bytes.len())
    }

    /// Takes the block comment at the beginning.
    fn block_comment(&mut self) -> &'s str {
        let bytes = self.rest.as_bytes();
        self.seen.unreadable |= matches!(bytes.get(2), Some(b'!')) || bytes[2..].starts_with(b"M!");
        let (mut at, mut depth) = (2, 1_usize);
        while depth > 0 {
            match bytes.get(at..at + 2) {
                Some(b"*/") => {
                    depth -= 1;
                    at += 2;
                }
                Some(b"/*") => {
                    self.seen.nested = true;
                    depth += usize::from(self.reading.nested);
                    at += if self.reading.nested { 2 } else { 1 };
                }
                Some(_) => at += 1,
                None => {
                    self.seen.unreadable = true;
                    return self.take(bytes.len());
                }
            }
        }
        self.take(at)
    }

    /// Takes a name in brackets, or an index into an array or a map, as one token. It is unreadable unless the text before the
    /// first `]` is complete under both readings.
    fn brackets(&mut self) -> Token<'s> {
        let Some(end) = self.rest.find(']').filter(|_| !self.in_brackets) else {
            self.seen.unreadable = true;
            self.take(1);
            return Token::Symbol('[');
        };
        let taken = self.take(end + 1);
        let mut inside = Tokens { in_brackets: true, ..Tokens::new(&taken[1..end], self.reading) };
        let separates = inside.by_ref().any(|token| token == Token::Symbol(';'));
        // A line comment would extend beyond the bracket.
        self.seen.unreadable |= separates || inside.seen.unreadable || taken.contains("--");
        self.seen.backslash |= inside.seen.backslash;
        self.seen.nested |= inside.seen.nested;
        Token::Quoted(taken)
    }

    fn number(&mut self) -> Token<'s> {
        let bytes = self.rest.as_bytes();
        let mut len = 0;
        while let Some(&byte) = bytes.get(len) {
            let exponent = matches!(byte, b'+' | b'-')
                && matches!(bytes[len - 1], b'e' | b'E')
                && bytes.get(len + 1).is_some_and(u8::is_ascii_digit)
                && !bytes[..len].starts_with(b"0x");
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || exponent {
                len += 1;
            } else {
                break;
            }
        }
        Token::Number(self.take(len))
    }
}

impl<'s> Iterator for Tokens<'s> {
    type Item = Token<'s>;

    fn next(&mut self) -> Option<Token<'s>> {
        loop {
            let first = self.rest.chars().next()?;
            let second = self.rest[first.len_utf8()..].chars().next();
            match (first, second) {
                (blank, _) if is_blank(blank) => {
                    self.take_while(is_blank);
                }
                ('-', Some('-')) => {
                    let tight = self.rest[2..].chars().next().is_some_and(|c| !is_blank(c) && !c.is_control());
                    self.seen.tight_dashes |= tight;
                    if tight && self.reading.dashes_need_blank {
                        self.take(1);
                        return Some(Token::Symbol('-'));
                    }
                    self.take_while(|c| c != '\n' && c != '\r');
                }
                ('/', Some('*')) => {
                    let comment = self.block_comment();
                    if comment.starts_with("/*+") {
                        return Some(Token::Hint(comment));
                    }
                }
                ('\'', _) => return Some(Token::Text(self.quoted(b'\''))),
                ('"', _) => return Some(Token::Quoted(self.quoted(b'"'))),
                ('`', _) => return Some(Token::Quoted(self.quoted(b'`'))),
                ('[', _) => return Some(self.brackets()),
                (digit, _) if digit.is_ascii_digit() => return Some(self.number()),
                ('.', Some(digit)) if digit.is_ascii_digit() => return Some(self.number()),
                (letter, _) if is_word(letter) && letter != '$' => return Some(Token::Word(self.take_while(is_word))),
                (symbol, _) => {
                    self.seen.unreadable |= symbol == '$';
                    self.take(symbol.len_utf8());
                    return Some(Token::Symbol(symbol));
                }
            }
        }
    }
}

/// Returns whether `c` is a blank, also the no-break space, which Kylin reads as a space.
fn is_blank(c: char) -> bool {
    c.is_whitespace()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(sql: &str) -> Vec<Token<'_>> {
        Tokens::new(sql, Reading::default()).collect()
    }

    fn seen(sql: &str, reading: Reading) -> Seen {
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

    proptest! {
        #[test]
        fn every_text_has_tokens(sql in ".{0,80}", backslash: bool, nested: bool, dashes_need_blank: bool) {
            Tokens::new(&sql, Reading { backslash, nested, dashes_need_blank }).for_each(drop);
        }

        /// Between the tokens there is nothing but blanks and comments.
        #[test]
        fn nothing_is_lost(sql in "([a-z0-9 .,;()'\"`*/-]|\\[|\\]|\\\\|\n){0,40}") {
            let mut tokens = Tokens::new(&sql, Reading::default());
            let mut end = 0;
            while let Some(token) = tokens.next() {
                let len = match token {
                    Token::Word(t) | Token::Quoted(t) | Token::Text(t) | Token::Number(t) | Token::Hint(t) => t.len(),
                    Token::Symbol(c) => c.len_utf8(),
                };
                let next = sql.len() - tokens.rest.len();
                let gap = sql[end..next - len].trim_start();
                prop_assert!(gap.is_empty() || gap.starts_with("--") || gap.starts_with("/*"), "{gap:?}");
                end = next;
            }
            let gap = sql[end..].trim_start();
            prop_assert!(gap.is_empty() || gap.starts_with("--") || gap.starts_with("/*"), "{gap:?}");
        }
    }
}
