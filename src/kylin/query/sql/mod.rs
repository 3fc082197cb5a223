//! Whether a statement only reads, and its fingerprint.
//!
//! Kylin executes more than queries through `POST /query`. With push-down of updates, other
//! statements go to the data source (apache/kylin 3.1.3 QueryService.java:235-256). `CREATE TABLE`
//! may be stored as a temporary statement (TempStatementUtil.java:37-70). A statement may be
//! retried on another node only if it certainly only reads.

mod fingerprint;
mod keyword;
mod simple;
mod token;

pub(super) use fingerprint::{feed as feed_fingerprint, upper as feed_upper};

use keyword::Keyword;
use token::{Ambiguities, Reading, Token, Tokens};

/// Longer SQL is not analysed. Queries of BI tools have a few KiB.
pub(super) const MAX_ANALYSED: usize = 64 * 1024;

/// Returns whether every statement in `sql` certainly only reads.
///
/// True for `SELECT`, `WITH … SELECT` and `EXPLAIN` of these, in parentheses, with comments and
/// hints, one or several separated by `;`. False if a string or comment does not end, or
/// parentheses do not match. Also false if a keyword that writes is anywhere in a statement
/// (`WITH x AS (…) INSERT`, `SELECT … INTO`, `FOR UPDATE`, `FOR SHARE`). If SQL dialects interpret
/// a text differently, it must only read in each interpretation.
///
/// `VALUES` is not in the list, because Kylin does not count it as a query and would push it down
/// as an update.
///
/// Functions are trusted. A data source's function that writes when it is called is not recognised.
///
/// Unambiguous text is read once. Each ambiguity that occurs doubles the readings, up to eight.
pub(super) fn is_read_only(sql: &str) -> bool {
    simple::is_simple_query(sql) || is_read_only_by_tokens(sql)
}

fn is_read_only_by_tokens(sql: &str) -> bool {
    // One bit for each reading that was or must be tried. An ambiguity may appear only if another
    // one is read the other way.
    let (mut tried, mut wanted) = (0_u8, 1_u8);
    while tried != wanted {
        let bits = (wanted & !tried).trailing_zeros() as u8;
        tried |= 1 << bits;
        let Some(seen) = reads_only(sql, Reading::of_bits(bits)) else { return false };
        for (bit, occurred) in [seen.backslash, seen.nested, seen.tight_dashes].into_iter().enumerate() {
            wanted |= u8::from(occurred) << (bits | 1_u8 << bit);
        }
    }
    true
}

/// Returns the ambiguities that occurred, or `None` if `sql` may write. Stops at the first sign of
/// a write.
fn reads_only(sql: &str, reading: Reading) -> Option<Ambiguities> {
    let mut tokens = Tokens::new(sql, reading);
    let mut has_statement = false;
    let mut statement = Statement::default();
    while let Some(token) = tokens.next() {
        if token == Token::Symbol(';') {
            has_statement |= !statement.is_empty();
            if !std::mem::take(&mut statement).end() {
                return None;
            }
        } else if !statement.read(token) {
            return None;
        }
        if tokens.seen.unreadable {
            return None;
        }
    }
    has_statement |= !statement.is_empty();
    (statement.end() && has_statement && !tokens.seen.unreadable).then_some(tokens.seen)
}

/// The beginning of a statement, as far as it was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Head {
    #[default]
    Start,
    /// `EXPLAIN` and its options, one of which may be `WITH`. The query is still to come.
    Explain {
        with: bool,
    },
    /// `WITH` at this depth. A `SELECT` at the same depth is still to come.
    With {
        depth: usize,
    },
    Query,
}

/// The kind of a token, in the detail that a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    Word(Keyword),
    /// `SHARE`.
    Share,
    Quoted,
    Text,
    Dot,
    Open,
    Close,
    #[default]
    Other,
}

/// Returns whether every database reads all of the text as one number: digits with dots, an
/// exponent, or hexadecimal digits.
fn is_plain_number(number: &[u8]) -> bool {
    if let [b'0', b'x' | b'X', hexadecimal @ ..] = number {
        return hexadecimal.iter().all(u8::is_ascii_hexdigit);
    }
    let mut parts = number.splitn(2, |byte| matches!(byte, b'e' | b'E'));
    let is_mantissa = |part: &[u8]| part.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let is_exponent = |part: &[u8]| {
        let digits = part.strip_prefix(b"+").or_else(|| part.strip_prefix(b"-")).unwrap_or(part);
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    parts.next().is_some_and(is_mantissa) && parts.next().is_none_or(is_exponent)
}

impl Kind {
    fn of(token: Token<'_>) -> Self {
        match token {
            Token::Word(word) if word.eq_ignore_ascii_case("share") => Kind::Share,
            Token::Word(word) => Kind::Word(Keyword::of(word.as_bytes())),
            Token::Quoted(_) => Kind::Quoted,
            Token::Text(_) => Kind::Text,
            Token::Symbol('.') => Kind::Dot,
            Token::Symbol('(') => Kind::Open,
            Token::Symbol(')') => Kind::Close,
            // Some databases read `5into` as two tokens.
            Token::Number(number) if !is_plain_number(number.as_bytes()) => Kind::Word(Keyword::Write),
            Token::Number(_) | Token::Hint(_) | Token::Symbol(_) => Kind::Other,
        }
    }
}

/// A statement that is read token by token.
#[derive(Debug, Default)]
struct Statement {
    head: Head,
    depth: usize,
    has_tokens: bool,
    last: Kind,
    before_last: Kind,
}

impl Statement {
    fn is_empty(&self) -> bool {
        !self.has_tokens
    }

    /// Reads the next token. Returns false if the statement may write.
    fn read(&mut self, token: Token<'_>) -> bool {
        if matches!(token, Token::Hint(_)) {
            return true;
        }
        self.has_tokens = true;
        let kind = Kind::of(token);
        match kind {
            Kind::Open => self.depth += 1,
            Kind::Close => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => return false,
            },
            _ => {}
        }
        let Some(head) = self.next_head(kind).filter(|_| !self.writes(kind)) else { return false };
        self.head = head;
        self.before_last = std::mem::replace(&mut self.last, kind);
        true
    }

    /// Returns whether `kind`, with the tokens before it, shows that the statement writes.
    fn writes(&self, kind: Kind) -> bool {
        let after_word = match self.last {
            // TRUNCATE(x, 2) is arithmetic.
            Kind::Word(Keyword::Truncate) => kind != Kind::Open && self.before_last != Kind::Dot,
            // SELECT TRANSFORM(…) USING 'script' runs a program.
            Kind::Word(Keyword::Using) => kind == Kind::Text,
            _ => false,
        };
        let is_write = match kind {
            Kind::Word(Keyword::Write) => self.last != Kind::Dot,
            Kind::Word(Keyword::For) => {
                (self.before_last, self.last) == (Kind::Word(Keyword::Next), Kind::Word(Keyword::Value))
            }
            // FOR SHARE and FOR KEY SHARE lock rows.
            Kind::Share => [self.last, self.before_last].contains(&Kind::Word(Keyword::For)),
            _ => false,
        };
        after_word || is_write
    }

    /// Returns the beginning of the statement after the next token; `None` if the statement is not
    /// a query.
    fn next_head(&self, kind: Kind) -> Option<Head> {
        match (self.head, kind) {
            (head @ (Head::Start | Head::Explain { with: false }), Kind::Open) => Some(head),
            (Head::Start | Head::Explain { .. }, Kind::Word(Keyword::Select)) => Some(Head::Query),
            (Head::Start, Kind::Word(Keyword::With)) => Some(Head::With { depth: self.depth }),
            (Head::Start, Kind::Word(Keyword::Explain)) => Some(Head::Explain { with: false }),
            (Head::Explain { with: false }, Kind::Word(Keyword::With)) => Some(Head::Explain { with: true }),
            // EXPLAIN PLAN WITH TYPE FOR …, or EXPLAIN WITH t AS ….
            (Head::Explain { with: true }, Kind::Word(Keyword::ExplainWith)) => Some(Head::Explain { with: false }),
            (Head::Explain { with: true }, Kind::Word(_) | Kind::Quoted) => Some(Head::With { depth: self.depth }),
            (
                Head::Explain { with: false },
                Kind::Word(Keyword::ExplainOption | Keyword::ExplainWith | Keyword::For),
            ) => Some(Head::Explain { with: false }),
            (Head::With { depth }, Kind::Word(Keyword::Select)) if depth == self.depth => Some(Head::Query),
            (head @ (Head::With { .. } | Head::Query), _) => Some(head),
            (Head::Start | Head::Explain { .. }, _) => None,
        }
    }

    /// Ends the statement and returns whether it only reads. An empty statement only reads.
    fn end(self) -> bool {
        !self.has_tokens || (self.head == Head::Query && self.depth == 0 && !self.writes(Kind::Other))
    }
}

#[cfg(test)]
mod tests;
