//! Which statements are alike: the same but for literals, blanks, comments and the case of words.
//!
//! How long a query takes is learned per shape, because dashboards send the same few statements with other dates in them.

use super::token::{Reading, Token, Tokens};
use crate::hash::Key64;

/// The shape of `sql`, to be shown: words in upper case, a `?` for each literal or run of literals, one blank between.
///
/// ```
/// use kylin_lb::kylin::sql::shape;
///
/// let sql = "select sum(price)  from \"T\" -- daily\nwhere d >= date '2012-01-01' and k in (1, 2,3)";
/// assert_eq!(shape(sql), "SELECT SUM ( PRICE ) FROM \"T\" WHERE D > = DATE ? AND K IN ( ? )");
/// ```
pub fn shape(sql: &str) -> String {
    let mut text = Vec::with_capacity(sql.len());
    feed(sql, &mut |piece| text.extend_from_slice(piece));
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// A hash of the shape of `sql`. It never changes between versions or machines.
pub fn shape_hash(sql: &str) -> u64 {
    let mut hash = Key64::new();
    feed(sql, &mut |piece| hash.update(piece));
    hash.finish()
}

/// The shape in pieces, which may cut a character.
pub(in crate::kylin) fn feed(sql: &str, out: &mut impl FnMut(&[u8])) {
    // `?, ?, ?` is one `?`, so that the length of a list does not make a shape.
    let (mut after_literal, mut comma) = (false, false);
    for token in Tokens::new(sql, Reading::default()) {
        if token == Token::Symbol(';') {
            continue;
        }
        if after_literal && token == Token::Symbol(',') {
            comma = true;
            after_literal = false;
            continue;
        }
        let literal = matches!(token, Token::Text(_) | Token::Number(_) | Token::Symbol('?'));
        if literal && comma {
            (after_literal, comma) = (true, false);
            continue;
        }
        if comma {
            out(b", ");
            comma = false;
        }
        after_literal = literal;
        match token {
            _ if literal => out(b"?"),
            Token::Word(word) => upper(word, out),
            Token::Quoted(text) | Token::Hint(text) => out(text.as_bytes()),
            Token::Text(_) | Token::Number(_) => {}
            Token::Symbol(symbol) => out(symbol.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        out(b" ");
    }
    if comma {
        out(b", ");
    }
}

/// ASCII only: tables of other scripts change between versions of the standard library, and hashes must not.
pub(in crate::kylin) fn upper(word: &str, out: &mut impl FnMut(&[u8])) {
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

    #[test]
    fn literals_blanks_comments_and_case_make_no_difference() {
        let base = shape_hash("SELECT a, count(*) FROM t WHERE d = '2020-01-01' AND k IN (1) LIMIT 10");
        for alike in [
            "select A,count( * ) from T where D='x''y' and K in (1,2,3) limit 500;",
            "/* c */ select a , count(*)\n from t where d = ? and k in (?,?) limit 0.5e7 -- end",
        ] {
            assert_eq!(shape_hash(alike), base, "{}", shape(alike));
        }
        for other in [
            "select a, count(*) from t where d = '2020-01-01' and k in (1)",
            "select a, count(*) from \"t\" where d = '2020-01-01' and k in (1) limit 10",
            "select /*+ x */ a, count(*) from t where d = '2020-01-01' and k in (1) limit 10",
        ] {
            assert_ne!(shape_hash(other), base, "{}", shape(other));
        }
    }

    #[test]
    fn lists_fold_only_where_all_is_literal() {
        assert_eq!(shape("select 1, a, 2, 3, b"), "SELECT ? , A , ? , B");
        assert_eq!(shape("f(1,)"), "F ( ? , )");
        assert_eq!(shape("f(1,"), "F ( ? ,");
        assert_eq!(shape("  "), "");
    }

    #[test]
    fn shapes_never_change() {
        assert_eq!(shape_hash("select 1"), crate::hash::key64(b"SELECT ? "));
    }

    proptest! {
        #[test]
        fn a_shape_is_its_own_shape(sql in "([a-zé0-9 .,;()?'\"`*/+-]|\\[|\\]|\n){0,60}") {
            let once = shape(&sql);
            prop_assert_eq!(shape(&once), once);
        }

        #[test]
        fn any_text_has_a_shape(sql in ".{0,80}") {
            prop_assert_eq!(shape_hash(&sql), shape_hash(&format!(" {sql}")));
        }
    }
}
