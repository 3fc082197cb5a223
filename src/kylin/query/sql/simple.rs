//! A fast check for ordinary queries, which are the majority.

use super::keyword::Keyword;

/// Returns whether `sql` is a `SELECT` that certainly only reads, and that every dialect interprets
/// in the same way. Such SQL has only words that no writing statement has, strings without
/// backslashes, and few other characters. Makes one pass over the bytes, without tokens.
///
/// False means unknown. Comments, several statements, text that is not ASCII, a leading `WITH` and
/// any rarer character leave the decision to the tokens. The result is true only if theirs is.
pub(super) fn is_simple_query(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let (mut at, mut depth, mut has_select) = (0, 0_usize, false);
    // The end of the number that was read last.
    let mut number_end = None;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        let begin = at;
        at += 1;
        if class == WORD {
            while bytes.get(at).is_some_and(|byte| CLASSES[usize::from(*byte)] == WORD) {
                at += 1;
            }
            // A number with letters is rare, and databases interpret it differently.
            if byte.is_ascii_digit() {
                if !bytes[begin..at].iter().all(u8::is_ascii_digit) {
                    return false;
                }
                number_end = Some(at);
            }
            if has_select && !Keyword::is_possible(byte, at - begin) {
                continue;
            }
            match Keyword::of(&bytes[begin..at]) {
                Keyword::Select => has_select = true,
                Keyword::Other | Keyword::ExplainOption | Keyword::ExplainWith if has_select => {}
                _ => return false,
            }
            continue;
        }
        match class {
            BLANK => continue,
            // The first token is SELECT.
            _ if !has_select => return false,
            // `2.a` is such a number too, and so is `2..a`.
            SYMBOL if byte == b'.' && number_end == Some(begin) => {
                if bytes.get(at).is_some_and(|next| CLASSES[usize::from(*next)] == WORD && !next.is_ascii_digit()) {
                    return false;
                }
                number_end = Some(at);
            }
            SYMBOL => {}
            QUOTE => {
                let Some(end) = bytes[at..].iter().position(|end| *end == byte || *end == b'\\') else { return false };
                if bytes[at + end] == b'\\' {
                    return false;
                }
                at += end + 1;
            }
            BEFORE_COMMENT => {
                if matches!((byte, bytes.get(at)), (b'-', Some(b'-')) | (b'/', Some(b'*'))) {
                    return false;
                }
            }
            OPEN => depth += 1,
            CLOSE => match depth.checked_sub(1) {
                Some(outside) => depth = outside,
                None => return false,
            },
            _ => return false,
        }
    }
    has_select && depth == 0
}

const OTHER: u8 = 0;
const WORD: u8 = 1;
const BLANK: u8 = 2;
const SYMBOL: u8 = 3;
const QUOTE: u8 = 4;
const BEFORE_COMMENT: u8 = 5;
const OPEN: u8 = 6;
const CLOSE: u8 = 7;

const CLASSES: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => WORD,
            b' ' | b'\t' | b'\n' | b'\r' => BLANK,
            b',' | b'.' | b'=' | b'<' | b'>' | b'*' | b'+' | b'%' | b'|' | b'!' | b'?' | b':' => SYMBOL,
            b'\'' | b'"' | b'`' => QUOTE,
            b'-' | b'/' => BEFORE_COMMENT,
            b'(' => OPEN,
            b')' => CLOSE,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::is_read_only_by_tokens;
    use super::*;

    #[test]
    fn ordinary_queries_are_simple() {
        for sql in [
            "select part_dt, sum(price) as total from kylin_sales where part_dt > 1 group by part_dt order by part_dt limit 100",
            "SELECT \"A\".\"B\", 'it''s', -1.5 / 2 FROM t a JOIN `u` b ON a.x = b.y WHERE c <> ? AND d LIKE '%--%' ",
            "select * from (select a from b where c in (1, 2)) t",
            "select t1.a, t2.b, 1.5, 2., .5 from t1, t2",
        ] {
            assert!(is_simple_query(sql), "{sql}");
        }
        for sql in [
            "",
            "x",
            "drop table x",
            "with a as (select 1) select 1",
            "select 1; select 2",
            "select 1 -- x",
            "select 1 /* x */",
            "select 'a\\'",
            "select 'a",
            "select (1",
            "select 1)",
            "select a into b",
            "(select 1)",
            "select \u{e9}",
            "'x' select",
            "select $$",
            "select a[1]",
            "select x for update",
            "select truncate from x",
            "explain select 1",
            "insert select",
            "select 5into t2 from t",
            "select 1e5 from t",
            "select a, : e1.2.a, : e1.2.3.",
            "select 1.into from t",
            "select 1..into from t",
        ] {
            assert!(!is_simple_query(sql), "{sql}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_simple_query_only_reads_by_its_tokens(
            pieces in prop::collection::vec(
                "select|SELECT|insert|into|update|for|using|truncate|value|next|with|explain|as|plan|type|x|2|\\.2|1e|0x1|5insert|e|1e-|\
                 ,|\\.|=|\\*|\\+|-|--|/|/\\*|\\*/|\\(|\\)|;|'|''|\"|`|\\\\|\\[|\\]|\\$|#|!|:|\\?|\n| |  |\u{a0}|é",
                0..14,
            ),
            head in "select |SELECT\n|",
        ) {
            let sql = head + &pieces.concat();
            prop_assert!(!is_simple_query(&sql) || is_read_only_by_tokens(&sql), "{sql}");
        }
    }
}
