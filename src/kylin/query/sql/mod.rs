//! Whether a statement only reads, and its fingerprint.
//!
//! Kylin executes more than queries through `POST /query`: with push-down of updates, other statements go to the data source
//! (apache/kylin 3.1.3 QueryService.java:235-256), and `CREATE TABLE` may be stored as a temporary statement
//! (TempStatementUtil.java:37-70). A statement may be retried on another node only if it certainly only reads.

mod fingerprint;
mod token;

pub(super) use fingerprint::{feed as feed_fingerprint, upper as feed_upper};

use token::{Reading, Seen, Token, Tokens};

/// Returns whether every statement in `sql` certainly only reads.
///
/// True for `SELECT`, `WITH … SELECT` and `EXPLAIN` of these, in parentheses, with comments and hints, one or several
/// separated by `;`. False where a string or comment does not end, parentheses do not match, or a keyword that writes stands
/// anywhere in a statement (`WITH x AS (…) INSERT`, `SELECT … INTO`, `FOR UPDATE`). Text that SQL dialects read differently must
/// only read in each reading.
///
/// `VALUES` is not in the list: Kylin does not count it as a query and would push it down as an update.
///
/// Functions are trusted. A function of the data source that writes when it is called is not recognised.
pub(super) fn is_read_only(sql: &str) -> bool {
    let (is_read_only, seen) = reads_only(sql, Reading::default());
    // Only ambiguities that occurred make other readings.
    is_read_only && readings(seen).all(|reading| reads_only(sql, reading).0)
}

/// Returns the readings other than the default one of a text with these ambiguities.
///
/// One ambiguity may show only if another is read the other way, so all combinations are returned.
fn readings(seen: Seen) -> impl Iterator<Item = Reading> {
    let any = seen.backslash || seen.nested || seen.tight_dashes;
    (1..if any { 8 } else { 1 }).map(|bits| Reading {
        backslash: bits & 1 != 0,
        nested: bits & 2 != 0,
        dashes_need_blank: bits & 4 != 0,
    })
}

fn reads_only(sql: &str, reading: Reading) -> (bool, Seen) {
    let mut tokens = Tokens::new(sql, reading);
    let (mut is_read_only, mut has_statement) = (true, false);
    let mut statement = Statement::default();
    for token in tokens.by_ref() {
        if token == Token::Symbol(';') {
            has_statement |= !statement.is_empty();
            is_read_only &= std::mem::take(&mut statement).end();
        } else {
            statement.read(token);
        }
    }
    has_statement |= !statement.is_empty();
    is_read_only &= statement.end();
    (is_read_only && has_statement && !tokens.seen.unreadable, tokens.seen)
}

/// The recognised beginning of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Head {
    #[default]
    Start,
    /// `EXPLAIN` and its options, of which `WITH` may be one. The query is still to come.
    Explain {
        with: bool,
    },
    /// `WITH` at this depth. A `SELECT` at the same depth is still to come.
    With {
        depth: usize,
    },
    Query,
    Other,
}

/// A statement that is read token by token.
#[derive(Debug, Default)]
struct Statement<'s> {
    head: Head,
    depth: usize,
    unbalanced: bool,
    writes: bool,
    has_tokens: bool,
    last: Option<Token<'s>>,
    before_last: Option<Token<'s>>,
}

impl<'s> Statement<'s> {
    fn is_empty(&self) -> bool {
        !self.has_tokens
    }

    fn read(&mut self, token: Token<'s>) {
        if matches!(token, Token::Hint(_)) {
            return;
        }
        self.has_tokens = true;
        match token {
            Token::Symbol('(') => self.depth += 1,
            Token::Symbol(')') => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => self.unbalanced = true,
            },
            _ => {}
        }
        self.find_write(token);
        self.advance(token);
        self.before_last = self.last.replace(token);
    }

    /// Looks for a keyword that writes in the word before `token` and in `token`.
    fn find_write(&mut self, token: Token<'s>) {
        let dot = Some(Token::Symbol('.'));
        if let Some(Token::Word(word)) = self.last {
            // TRUNCATE(x, 2) is arithmetic.
            let called = token == Token::Symbol('(') || self.before_last == dot;
            self.writes |= word.eq_ignore_ascii_case("truncate") && !called;
            // SELECT TRANSFORM(…) USING 'script' runs a program.
            self.writes |= word.eq_ignore_ascii_case("using") && matches!(token, Token::Text(_));
        }
        if let Token::Word(word) = token {
            let follows =
                |first: &str| matches!(self.last, Some(Token::Word(last)) if last.eq_ignore_ascii_case(first));
            let begins =
                |first: &str| matches!(self.before_last, Some(Token::Word(last)) if last.eq_ignore_ascii_case(first));
            self.writes |= is_any(word, &WRITE_KEYWORDS) && self.last != dot;
            self.writes |= word.eq_ignore_ascii_case("for") && follows("value") && begins("next");
        }
    }

    fn advance(&mut self, token: Token<'s>) {
        self.head = match (self.head, token) {
            (Head::Start | Head::Explain { with: false }, Token::Symbol('(')) => return,
            (Head::Start, Token::Word(word)) if word.eq_ignore_ascii_case("select") => Head::Query,
            (Head::Start, Token::Word(word)) if word.eq_ignore_ascii_case("with") => Head::With { depth: self.depth },
            (Head::Start, Token::Word(word)) if word.eq_ignore_ascii_case("explain") => Head::Explain { with: false },
            (Head::Explain { .. }, Token::Word(word)) if word.eq_ignore_ascii_case("select") => Head::Query,
            (Head::Explain { with: false }, Token::Word(word)) if word.eq_ignore_ascii_case("with") => {
                Head::Explain { with: true }
            }
            // EXPLAIN PLAN WITH TYPE FOR …, or EXPLAIN WITH t AS ….
            (Head::Explain { with: true }, Token::Word(word)) if !is_any(word, &EXPLAIN_WITH) => {
                Head::With { depth: self.depth }
            }
            (Head::Explain { .. }, Token::Word(word)) if is_any(word, &EXPLAIN_OPTIONS) => {
                Head::Explain { with: false }
            }
            (Head::Explain { with: true }, Token::Quoted(_)) => Head::With { depth: self.depth },
            (Head::With { depth }, Token::Word(word)) if depth == self.depth && word.eq_ignore_ascii_case("select") => {
                Head::Query
            }
            (head @ (Head::With { .. } | Head::Query), _) => head,
            (Head::Start | Head::Explain { .. } | Head::Other, _) => Head::Other,
        };
    }

    /// Ends the statement and returns whether it only reads. An empty statement does.
    fn end(mut self) -> bool {
        self.find_write(Token::Symbol(';'));
        !self.has_tokens || (self.head == Head::Query && self.depth == 0 && !self.unbalanced && !self.writes)
    }
}

/// Reserved words of statements that write. As names they must be quoted (Calcite's reserved words).
/// `UPDATE` covers `FOR UPDATE` too.
const WRITE_KEYWORDS: [&str; 20] = [
    "insert",
    "update",
    "delete",
    "merge",
    "upsert",
    "into",
    "create",
    "drop",
    "alter",
    "grant",
    "revoke",
    "call",
    "exec",
    "execute",
    "overwrite",
    "nextval",
    "setval",
    "outfile",
    "dumpfile",
    "vacuum",
];

const EXPLAIN_WITH: [&str; 2] = ["type", "implementation"];

const EXPLAIN_OPTIONS: [&str; 20] = [
    "plan",
    "for",
    "extended",
    "formatted",
    "codegen",
    "cost",
    "logical",
    "dependency",
    "authorization",
    "analyze",
    "verbose",
    "excluding",
    "including",
    "attributes",
    "without",
    "implementation",
    "type",
    "as",
    "xml",
    "json",
];

fn is_any(word: &str, of: &[&str]) -> bool {
    of.iter().any(|one| one.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
