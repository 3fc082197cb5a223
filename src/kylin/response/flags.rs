//! How a node got the result of a query. These flags follow the rows in the response.

use memchr::memmem::rfind;

/// How a node got the result of a query, according to its response. A fact that the response does
/// not contain is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryFlags {
    /// The node had the result in its cache (`storageCacheUsed`).
    pub storage_cache_used: Option<bool>,
    /// The node had the error of the query in its cache (`hitExceptionCache`).
    pub exception_cache_hit: Option<bool>,
    /// The node passed the query to another engine, such as Spark SQL or Hive (`pushDown`).
    pub push_down: Option<bool>,
}

impl QueryFlags {
    /// Reads the flags at the end of a JSON body; returns `None` if there are none. Cells cannot
    /// forge a flag, because JSON escapes their quotes.
    pub(crate) fn of_tail(tail: &[u8]) -> Option<Self> {
        let flag = |field: &[u8]| {
            let value = tail.get(rfind(tail, field)? + field.len()..)?.trim_ascii_start();
            match (value.starts_with(b"true"), value.starts_with(b"false")) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            }
        };
        let flags = QueryFlags {
            storage_cache_used: flag(b"\"storageCacheUsed\":"),
            exception_cache_hit: flag(b"\"hitExceptionCache\":"),
            push_down: flag(b"\"pushDown\":"),
        };
        (flags != QueryFlags::default()).then_some(flags)
    }
}

/// The last bytes of a body.
#[derive(Debug, Default)]
pub(crate) struct BodyTail(Vec<u8>);

/// After the flags, Kylin 5 lists the steps of a query, of about 100 bytes each.
const MAX_TAIL: usize = 4096;

impl BodyTail {
    /// Adds the next piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(MAX_TAIL)..];
        if self.0.len() + piece.len() > 2 * MAX_TAIL {
            self.0.drain(..self.0.len().saturating_sub(MAX_TAIL));
        }
        self.0.extend_from_slice(piece);
    }

    /// Returns the last bytes that were added.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(MAX_TAIL)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_behind_the_rows_whatever_the_cells_hold() {
        let cell = r#"["\"storageCacheUsed\":true,\"pushDown\":true"]"#;
        let old = format!(
            r#"{{"columnMetas":[],"results":[{cell}],"hitExceptionCache":false,"storageCacheUsed":true,"traceUrl":null,"pushDown":false}}"#
        );
        let flags = QueryFlags::of_tail(old.as_bytes()).unwrap();
        let [used, hit, pushed] = [flags.storage_cache_used, flags.exception_cache_hit, flags.push_down];
        assert_eq!([used, hit, pushed], [Some(true), Some(false), Some(false)]);
        let new = r#""storageCacheUsed": false,"storageCacheType":null,"pushDown":true,"traces":[]},"msg":""}"#;
        let flags = QueryFlags::of_tail(new.as_bytes()).unwrap();
        let [used, hit, pushed] = [flags.storage_cache_used, flags.exception_cache_hit, flags.push_down];
        assert_eq!([used, hit, pushed], [Some(false), None, Some(true)]);
        for none in ["", "{}", cell, r#""pushDown":null"#, r#""pushDown":"#] {
            assert_eq!(QueryFlags::of_tail(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_tail_holds_the_last_bytes_whatever_the_pieces() {
        let body: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        for size in [1, 7, 100, MAX_TAIL - 1, MAX_TAIL, MAX_TAIL + 1, 3 * MAX_TAIL, body.len()] {
            let mut tail = BodyTail::default();
            for (number, piece) in body.chunks(size).enumerate() {
                tail.push(piece);
                let end = (number * size + size).min(body.len());
                assert_eq!(tail.bytes(), &body[end.saturating_sub(MAX_TAIL)..end], "pieces of {size}");
                assert!(tail.0.capacity() <= 4 * MAX_TAIL);
            }
        }
    }
}
