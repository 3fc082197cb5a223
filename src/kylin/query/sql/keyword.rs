//! The words that decide whether a statement only reads.

/// What a word of SQL is to [`is_read_only`](super::is_read_only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Select,
    With,
    Explain,
    Truncate,
    Using,
    Next,
    Value,
    For,
    /// A reserved word of statements that write. As a name it must be quoted (Calcite's reserved words). `UPDATE` covers
    /// `FOR UPDATE` too.
    Write,
    /// An option of `EXPLAIN` that may follow `WITH`.
    ExplainWith,
    /// Another option of `EXPLAIN`.
    ExplainOption,
    /// Any other word.
    Other,
}

/// The longest keyword is shorter.
const MAX_LEN: usize = 16;

impl Keyword {
    pub(super) fn of(word: &str) -> Self {
        let mut lower = [0; MAX_LEN];
        let Some(lower) = lower.get_mut(..word.len()) else { return Keyword::Other };
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        match &*lower {
            b"select" => Keyword::Select,
            b"with" => Keyword::With,
            b"explain" => Keyword::Explain,
            b"truncate" => Keyword::Truncate,
            b"using" => Keyword::Using,
            b"next" => Keyword::Next,
            b"value" => Keyword::Value,
            b"for" => Keyword::For,
            b"insert" | b"update" | b"delete" | b"merge" | b"upsert" | b"into" | b"create" | b"drop" | b"alter"
            | b"grant" | b"revoke" | b"call" | b"exec" | b"execute" | b"overwrite" | b"nextval" | b"setval"
            | b"outfile" | b"dumpfile" | b"vacuum" => Keyword::Write,
            b"type" | b"implementation" => Keyword::ExplainWith,
            b"plan" | b"extended" | b"formatted" | b"codegen" | b"cost" | b"logical" | b"dependency"
            | b"authorization" | b"analyze" | b"verbose" | b"excluding" | b"including" | b"attributes" | b"without"
            | b"as" | b"xml" | b"json" => Keyword::ExplainOption,
            _ => Keyword::Other,
        }
    }
}
