//! The fingerprint of a statement: its text without literals and comments, and independent of
//! blanks and case.
//!
//! Dashboards send the same few statements with different dates. Such statements have one
//! fingerprint and about the same cost.

use super::token::{Reading, Token, Tokens};

/// Passes the fingerprint of `sql` to `out` in pieces, which may split a character.
///
/// Words are in upper case, a `?` replaces each literal or list of literals, and a blank follows
/// each token.
pub(in crate::kylin::query) fn feed(sql: &str, out: &mut impl FnMut(&[u8])) {
    // `?, ?, ?` is one `?`, so that the length of a list makes no difference.
    let (mut after_literal, mut has_comma) = (false, false);
    for token in Tokens::new(sql, Reading::default()) {
        if token == Token::Symbol(';') {
            continue;
        }
        if after_literal && token == Token::Symbol(',') {
            (after_literal, has_comma) = (false, true);
            continue;
        }
        let is_literal = matches!(token, Token::Text(_) | Token::Number(_) | Token::Symbol('?'));
        if is_literal && has_comma {
            (after_literal, has_comma) = (true, false);
            continue;
        }
        if has_comma {
            out(b", ");
            has_comma = false;
        }
        after_literal = is_literal;
        match token {
            Token::Text(_) | Token::Number(_) => out(b"?"),
            Token::Word(word) => upper(word, out),
            Token::Quoted(text) | Token::Hint(text) => out(text.as_bytes()),
            Token::Symbol(symbol) => out(symbol.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        out(b" ");
    }
    if has_comma {
        out(b", ");
    }
}

/// Passes `word` in upper case to `out`.
///
/// Only ASCII letters change. The tables of other scripts differ between versions of the standard
/// library, but hashes must not.
pub(in crate::kylin::query) fn upper(word: &str, out: &mut impl FnMut(&[u8])) {
    for chunk in word.as_bytes().chunks(32) {
        let mut copy = [0; 32];
        let copy = &mut copy[..chunk.len()];
        copy.copy_from_slice(chunk);
        copy.make_ascii_uppercase();
        out(copy);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::Key64;

    fn fingerprint(sql: &str) -> String {
        let mut text = Vec::new();
        feed(sql, &mut |piece| text.extend_from_slice(piece));
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    fn hash(sql: &str) -> u64 {
        let mut hash = Key64::new();
        feed(sql, &mut |piece| hash.update(piece));
        hash.finish()
    }

    #[test]
    fn a_fingerprint_is_readable() {
        let sql = "select sum(price)  from \"T\" -- daily\nwhere d >= date '2012-01-01' and k in (1, 2,3)";
        assert_eq!(fingerprint(sql), "SELECT SUM ( PRICE ) FROM \"T\" WHERE D > = DATE ? AND K IN ( ? )");
    }

    #[test]
    fn literals_blanks_comments_and_case_make_no_difference() {
        let base = hash("SELECT a, count(*) FROM t WHERE d = '2020-01-01' AND k IN (1) LIMIT 10");
        for alike in [
            "select A,count( * ) from T where D='x''y' and K in (1,2,3) limit 500;",
            "/* c */ select a , count(*)\n from t where d = ? and k in (?,?) limit 0.5e7 -- end",
        ] {
            assert_eq!(hash(alike), base, "{}", fingerprint(alike));
        }
        for other in [
            "select a, count(*) from t where d = '2020-01-01' and k in (1)",
            "select a, count(*) from \"t\" where d = '2020-01-01' and k in (1) limit 10",
            "select /*+ x */ a, count(*) from t where d = '2020-01-01' and k in (1) limit 10",
        ] {
            assert_ne!(hash(other), base, "{}", fingerprint(other));
        }
    }

    #[test]
    fn only_lists_of_literals_fold() {
        assert_eq!(fingerprint("select 1, a, 2, 3, b"), "SELECT ? , A , ? , B");
        assert_eq!(fingerprint("f(1,)"), "F ( ? , )");
        assert_eq!(fingerprint("f(1,"), "F ( ? ,");
        assert_eq!(fingerprint("  "), "");
    }

    #[test]
    fn fingerprints_never_change() {
        assert_eq!(hash("select 1"), crate::hash::key64(b"SELECT ? "));
    }

    proptest! {
        #[test]
        fn a_fingerprint_is_its_own_fingerprint(sql in "([a-zé0-9 .,;()?'\"`*/+-]|\\[|\\]|\n){0,60}") {
            let once = fingerprint(&sql);
            prop_assert_eq!(fingerprint(&once), once);
        }

        #[test]
        fn any_text_has_a_fingerprint(sql in ".{0,80}") {
            prop_assert_eq!(hash(&sql), hash(&format!(" {sql}")));
        }
    }
}
