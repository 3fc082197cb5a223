//! The words that decide whether a statement only reads.

/// The kind of a word of SQL for [`is_read_only`](super::is_read_only).
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
    /// A reserved word of statements that write. It must be quoted to be a name (Calcite's reserved
    /// words). `UPDATE` covers `FOR UPDATE` too.
    Write,
    /// An option of `EXPLAIN` that may follow `WITH`.
    ExplainWith,
    /// Another option of `EXPLAIN`.
    ExplainOption,
    /// Any other word.
    Other,
}

impl Keyword {
    pub(super) fn of(word: &[u8]) -> Self {
        let Some(&first) = word.first().filter(|first| Self::is_possible(**first, word.len())) else {
            return Keyword::Other;
        };
        let begin = usize::from(BEGINS[usize::from((first | 0x20) - b'a')]);
        // Only letters become lower-case letters with this bit.
        let is_word = |keyword: &str| keyword.bytes().eq(word.iter().map(|byte| byte | 0x20));
        let of_letter = KEYWORDS[begin..].iter().take_while(|(keyword, _)| keyword.as_bytes()[0] == first | 0x20);
        of_letter.copied().find(|(keyword, _)| is_word(keyword)).map_or(Keyword::Other, |(_, keyword)| keyword)
    }

    /// Returns false for nearly all words that are not keywords. Most words are names of tables and
    /// columns.
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

/// The index of the first keyword of each letter.
const BEGINS: [u8; 26] = {
    let mut begins = [0; 26];
    let mut at = KEYWORDS.len();
    while at > 0 {
        at -= 1;
        begins[(KEYWORDS[at].0.as_bytes()[0] - b'a') as usize] = at as u8;
    }
    begins
};

/// In alphabetical order.
const KEYWORDS: [(&str, Keyword); 47] = [
    ("alter", Keyword::Write),
    ("analyze", Keyword::ExplainOption),
    ("as", Keyword::ExplainOption),
    ("attributes", Keyword::ExplainOption),
    ("authorization", Keyword::ExplainOption),
    ("call", Keyword::Write),
    ("codegen", Keyword::ExplainOption),
    ("cost", Keyword::ExplainOption),
    ("create", Keyword::Write),
    ("delete", Keyword::Write),
    ("dependency", Keyword::ExplainOption),
    ("drop", Keyword::Write),
    ("dumpfile", Keyword::Write),
    ("excluding", Keyword::ExplainOption),
    ("exec", Keyword::Write),
    ("execute", Keyword::Write),
    ("explain", Keyword::Explain),
    ("extended", Keyword::ExplainOption),
    ("for", Keyword::For),
    ("formatted", Keyword::ExplainOption),
    ("grant", Keyword::Write),
    ("implementation", Keyword::ExplainWith),
    ("including", Keyword::ExplainOption),
    ("insert", Keyword::Write),
    ("into", Keyword::Write),
    ("json", Keyword::ExplainOption),
    ("logical", Keyword::ExplainOption),
    ("merge", Keyword::Write),
    ("next", Keyword::Next),
    ("nextval", Keyword::Write),
    ("outfile", Keyword::Write),
    ("overwrite", Keyword::Write),
    ("plan", Keyword::ExplainOption),
    ("revoke", Keyword::Write),
    ("select", Keyword::Select),
    ("setval", Keyword::Write),
    ("truncate", Keyword::Truncate),
    ("type", Keyword::ExplainWith),
    ("update", Keyword::Write),
    ("upsert", Keyword::Write),
    ("using", Keyword::Using),
    ("vacuum", Keyword::Write),
    ("value", Keyword::Value),
    ("verbose", Keyword::ExplainOption),
    ("with", Keyword::With),
    ("without", Keyword::ExplainOption),
    ("xml", Keyword::ExplainOption),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(word: &str) -> Keyword {
        Keyword::of(word.as_bytes())
    }

    #[test]
    fn keywords_are_recognised_in_any_case() {
        assert!(KEYWORDS.is_sorted_by_key(|(word, _)| word.as_bytes()[0]));
        for (word, keyword) in KEYWORDS {
            assert_eq!((of(word), of(&word.to_uppercase())), (keyword, keyword), "{word}");
            for other in [format!("{word}_"), format!("x{word}"), word[1..].to_owned()] {
                let is_listed = KEYWORDS.iter().any(|(listed, _)| *listed == other);
                assert!(is_listed || of(&other) == Keyword::Other, "{other}");
            }
        }
        for word in ["", "_", "1", "é", "select\u{e9}", "a_column_with_a_long_name"] {
            assert_eq!(of(word), Keyword::Other, "{word}");
        }
    }
}
