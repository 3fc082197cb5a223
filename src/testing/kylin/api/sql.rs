//! The SQL that the node understands: whether a text only reads, and markers that request a
//! behaviour.

/// The behaviour that a test requests in the text of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Markers {
    /// `sleep_ms(n)`: the query runs that long.
    pub(crate) sleep_ms: u64,
    /// `repeat_bytes(n)`: the second cell of the result has that many bytes, declared with a
    /// `Content-Length`.
    pub(crate) repeat_bytes: Option<u64>,
    /// `repeat_bytes_chunked(n)`: the second cell has that many bytes, without a `Content-Length`.
    pub(crate) repeat_bytes_chunked: Option<u64>,
    /// The words `SYNTAX ERROR`: the query fails.
    pub(crate) fails: bool,
}

pub(crate) fn markers(sql: &str) -> Markers {
    Markers {
        sleep_ms: argument(sql, "sleep_ms(").unwrap_or(0),
        repeat_bytes: argument(sql, "repeat_bytes("),
        repeat_bytes_chunked: argument(sql, "repeat_bytes_chunked("),
        fails: sql.contains("SYNTAX ERROR"),
    }
}

/// Returns true for SELECT, WITH and EXPLAIN, after comments and opening parentheses.
pub(crate) fn reads(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            break;
        }
    }
    let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    ["select", "with", "explain"].iter().any(|reading| word.eq_ignore_ascii_case(reading))
}

fn argument(sql: &str, call: &str) -> Option<u64> {
    let (_, after) = sql.split_once(call)?;
    after.split_once(')')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_select_with_and_explain_read() {
        for sql in
            ["select 1", " (( SELECT 1", "-- a\n/* b */with x as", "explain plan for select 1", "/*+ hint */select"]
        {
            assert!(reads(sql), "{sql}");
        }
        for sql in ["", "-- select", "/* select 1", "delete from t", "selection", "create table t as select 1"] {
            assert!(!reads(sql), "{sql}");
        }
    }

    #[test]
    fn markers_are_found_anywhere_in_the_text() {
        let found = markers("select sleep_ms(250), repeat_bytes( 7 ) from t");
        assert_eq!(found, Markers { sleep_ms: 250, repeat_bytes: Some(7), ..Markers::default() });
        assert_eq!(markers("select repeat_bytes_chunked(9)").repeat_bytes_chunked, Some(9));
        assert_eq!(markers("select repeat_bytes(-1), sleep_ms(").repeat_bytes, None);
        assert!(markers("select SYNTAX ERROR").fails);
    }
}
