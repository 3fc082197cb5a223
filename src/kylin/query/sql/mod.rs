//! Does a statement change anything, and which statements are alike?
//!
//! Kylin executes more than queries through `POST /query`: with push-down of updates what is no query goes to the data source
//! (apache/kylin 3.1.3 QueryService.java:235-256), and `CREATE TABLE` may be stored as a temporary statement
//! (TempStatementUtil.java:37-70). A statement may be repeated on another node only if it certainly changes nothing.

mod fingerprint;
mod token;

pub(super) use fingerprint::{feed as feed_fingerprint, upper as feed_upper};

use token::{Reading, Seen, Token, Tokens};

/// Does every statement in `sql` certainly change nothing?
///
/// True for `SELECT`, `WITH … SELECT` and `EXPLAIN` of these, in parentheses, with comments and hints, one or several
/// separated by `;`. In doubt it is false: where a string or comment does not end, parentheses do not match, or a keyword of a
/// change stands anywhere in a statement (`WITH x AS (…) INSERT`, `SELECT … INTO`, `FOR UPDATE`). Text that SQL dialects read
/// differently must be harmless in each reading.
///
/// `VALUES` is not in the list, for Kylin does not count it as a query and would push it down as an update.
///
/// Functions are trusted: one of the data source's own that changes something when it is called is not known here.
pub(super) fn is_read_only(sql: &str) -> bool {
    let (fine, seen) = reads_only(sql, Reading::default());
    // Only disagreements that were met make other readings.
    fine && readings(seen).all(|reading| reads_only(sql, reading).0)
}

/// The readings, other than the default one, of a text that shows these disagreements. One disagreement may come to light only
/// when another is read the other way, so each takes part in all.
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
    let (mut fine, mut found) = (true, false);
    let mut statement = Statement::default();
    for token in tokens.by_ref() {
        if token == Token::Symbol(';') {
            found |= !statement.is_empty();
            fine &= std::mem::take(&mut statement).end();
        } else {
            statement.read(token);
        }
    }
    found |= !statement.is_empty();
    fine &= statement.end();
    (fine && found && !tokens.seen.doubt, tokens.seen)
}

/// How far a statement was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Head {
    #[default]
    Nothing,
    /// `EXPLAIN` and its options, of which `WITH` may be one; the query is still to come.
    Explain {
        with: bool,
    },
    /// `WITH` at this depth; a `SELECT` at the same is still to come.
    With {
        depth: usize,
    },
    Query,
    Other,
}

/// One statement, token by token.
#[derive(Debug, Default)]
struct Statement<'s> {
    head: Head,
    depth: usize,
    unbalanced: bool,
    changes: bool,
    any: bool,
    last: Option<Token<'s>>,
    before_last: Option<Token<'s>>,
}

impl<'s> Statement<'s> {
    fn is_empty(&self) -> bool {
        !self.any
    }

    fn read(&mut self, token: Token<'s>) {
        if matches!(token, Token::Hint(_)) {
            return;
        }
        self.any = true;
        match token {
            Token::Symbol('(') => self.depth += 1,
            Token::Symbol(')') => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => self.unbalanced = true,
            },
            _ => {}
        }
        self.change(token);
        self.advance(token);
        self.before_last = self.last.replace(token);
    }

    /// Looks for what changes something, in the word before `token` and in `token`.
    fn change(&mut self, token: Token<'s>) {
        let dot = Some(Token::Symbol('.'));
        if let Some(Token::Word(word)) = self.last {
            // TRUNCATE(x, 2) is arithmetic.
            let called = token == Token::Symbol('(') || self.before_last == dot;
            self.changes |= word.eq_ignore_ascii_case("truncate") && !called;
            // SELECT TRANSFORM(…) USING 'script' runs a program.
            self.changes |= word.eq_ignore_ascii_case("using") && matches!(token, Token::Text(_));
        }
        if let Token::Word(word) = token {
            let follows =
                |first: &str| matches!(self.last, Some(Token::Word(last)) if last.eq_ignore_ascii_case(first));
            let begins =
                |first: &str| matches!(self.before_last, Some(Token::Word(last)) if last.eq_ignore_ascii_case(first));
            self.changes |= is_any(word, &CHANGES) && self.last != dot;
            self.changes |= word.eq_ignore_ascii_case("for") && follows("value") && begins("next");
        }
    }

    fn advance(&mut self, token: Token<'s>) {
        self.head = match (self.head, token) {
            (Head::Nothing | Head::Explain { with: false }, Token::Symbol('(')) => return,
            (Head::Nothing, Token::Word(word)) if word.eq_ignore_ascii_case("select") => Head::Query,
            (Head::Nothing, Token::Word(word)) if word.eq_ignore_ascii_case("with") => Head::With { depth: self.depth },
            (Head::Nothing, Token::Word(word)) if word.eq_ignore_ascii_case("explain") => Head::Explain { with: false },
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
            (Head::Nothing | Head::Explain { .. } | Head::Other, _) => Head::Other,
        };
    }

    /// Does it change nothing? An empty statement does not.
    fn end(mut self) -> bool {
        self.change(Token::Symbol(';'));
        !self.any || (self.head == Head::Query && self.depth == 0 && !self.unbalanced && !self.changes)
    }
}

/// Reserved words of statements that change something; as names they would have to be quoted (Calcite's reserved words).
/// `UPDATE` covers `FOR UPDATE` too.
const CHANGES: [&str; 20] = [
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
