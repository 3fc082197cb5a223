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

impl Keyword {
    pub(super) fn of(word: &str) -> Self {
        let Some(letter) = word.bytes().next().and_then(letter) else { return Keyword::Other };
        // Most words are names of tables and columns. First letter and length tell of nearly all that they are no keywords.
        if word.len() > MAX_LEN || LENGTHS[letter] & 1 << word.len() == 0 {
            return Keyword::Other;
        }
        let found = KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
        found.map_or(Keyword::Other, |(_, keyword)| *keyword)
    }
}

const MAX_LEN: usize = 15;

/// The lengths of the keywords that begin with each letter, one bit each.
const LENGTHS: [u16; 26] = {
    let mut lengths = [0; 26];
    let mut at = 0;
    while at < KEYWORDS.len() {
        let word = KEYWORDS[at].0.as_bytes();
        assert!(word.len() <= MAX_LEN);
        lengths[(word[0] - b'a') as usize] |= 1 << word.len();
        at += 1;
    }
    lengths
};

/// The frequent ones first.
const KEYWORDS: [(&str, Keyword); 47] = [
    ("select", Keyword::Select),
    ("as", Keyword::ExplainOption),
    ("with", Keyword::With),
    ("using", Keyword::Using),
    ("for", Keyword::For),
    ("value", Keyword::Value),
    ("next", Keyword::Next),
    ("truncate", Keyword::Truncate),
    ("explain", Keyword::Explain),
    ("insert", Keyword::Write),
    ("update", Keyword::Write),
    ("delete", Keyword::Write),
    ("merge", Keyword::Write),
    ("upsert", Keyword::Write),
    ("into", Keyword::Write),
    ("create", Keyword::Write),
    ("drop", Keyword::Write),
    ("alter", Keyword::Write),
    ("grant", Keyword::Write),
    ("revoke", Keyword::Write),
    ("call", Keyword::Write),
    ("exec", Keyword::Write),
    ("execute", Keyword::Write),
    ("overwrite", Keyword::Write),
    ("nextval", Keyword::Write),
    ("setval", Keyword::Write),
    ("outfile", Keyword::Write),
    ("dumpfile", Keyword::Write),
    ("vacuum", Keyword::Write),
    ("type", Keyword::ExplainWith),
    ("implementation", Keyword::ExplainWith),
    ("plan", Keyword::ExplainOption),
    ("extended", Keyword::ExplainOption),
    ("formatted", Keyword::ExplainOption),
    ("codegen", Keyword::ExplainOption),
    ("cost", Keyword::ExplainOption),
    ("logical", Keyword::ExplainOption),
    ("dependency", Keyword::ExplainOption),
    ("authorization", Keyword::ExplainOption),
    ("analyze", Keyword::ExplainOption),
    ("verbose", Keyword::ExplainOption),
    ("excluding", Keyword::ExplainOption),
    ("including", Keyword::ExplainOption),
    ("attributes", Keyword::ExplainOption),
    ("without", Keyword::ExplainOption),
    ("xml", Keyword::ExplainOption),
    ("json", Keyword::ExplainOption),
];

const fn letter(byte: u8) -> Option<usize> {
    match byte | 0x20 {
        letter @ b'a'..=b'z' => Some((letter - b'a') as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_recognised_in_any_case() {
        for (word, keyword) in KEYWORDS {
            assert_eq!((Keyword::of(word), Keyword::of(&word.to_uppercase())), (keyword, keyword), "{word}");
            for other in [format!("{word}_"), format!("x{word}"), word[1..].to_owned()] {
                let is_listed = KEYWORDS.iter().any(|(listed, _)| *listed == other);
                assert!(is_listed || Keyword::of(&other) == Keyword::Other, "{other}");
            }
        }
        for word in ["", "_", "1", "é", "select\u{e9}", "a_column_with_a_long_name"] {
            assert_eq!(Keyword::of(word), Keyword::Other, "{word}");
        }
    }
}
