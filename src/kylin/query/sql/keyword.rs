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
        let Some(&first) = word.as_bytes().first().filter(|first| Self::is_possible(**first, word.len())) else {
            return Keyword::Other;
        };
        let is_word = |keyword: &str| keyword.as_bytes()[0] == first | 0x20 && keyword.eq_ignore_ascii_case(word);
        KEYWORDS.iter().find(|(keyword, _)| is_word(keyword)).map_or(Keyword::Other, |(_, keyword)| *keyword)
    }

    /// Returns false for nearly all words that are no keywords: names of tables and columns, which most words are.
    pub(super) fn is_possible(first: u8, len: usize) -> bool {
        len <= MAX_LEN && LENGTHS[usize::from(first)] & 1 << len != 0
    }
}

const MAX_LEN: usize = 15;

/// The lengths of the keywords that begin with each letter, one bit each.
const LENGTHS: [u16; 256] = {
    let mut lengths = [0; 256];
    let mut at = 0;
    while at < KEYWORDS.len() {
        let word = KEYWORDS[at].0.as_bytes();
        assert!(word.len() <= MAX_LEN && word[0].is_ascii_lowercase());
        lengths[word[0] as usize] |= 1 << word.len();
        lengths[word[0].to_ascii_uppercase() as usize] |= 1 << word.len();
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
