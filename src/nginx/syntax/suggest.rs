//! "Did you mean": the known word nearest to a mistyped one.
//!
//! The reader of httpd files in the example `kylin_front` also compiles this file.

/// The maximum length of a word for which a suggestion is computed, because the time grows with the
/// square of its length.
const MAX_WORD_BYTES: usize = 64;

/// Returns `, did you mean "…"?` for the candidate nearest to `word`, or nothing.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    nearest(word, candidates).map(|meant| format!(", did you mean \"{meant}\"?")).unwrap_or_default()
}

/// Returns the candidate with the fewest edits, if they are few for a word of this length. Two
/// swapped letters are one edit, and case is ignored.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > MAX_WORD_BYTES {
        return None;
    }
    let (lower, max_edits) = (word.to_ascii_lowercase(), 1 + word.len() / 5);
    let distance = |candidate: &'c str| (strsim::osa_distance(&lower, &candidate.to_ascii_lowercase()), candidate);
    let near = candidates.into_iter().map(distance).filter(|&(edits, _)| edits <= max_edits);
    near.min_by_key(|&(edits, _)| edits).map(|(_, candidate)| candidate)
}

/// Full-width punctuation of Chinese input methods, and the ASCII characters of configurations.
const FULL_WIDTH: [(char, &str); 10] = [
    ('\u{ff1a}', ":"),
    ('\u{ff0c}', ","),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{2018}', "'"),
    ('\u{2019}', "'"),
    ('\u{ff08}', "("),
    ('\u{ff09}', ")"),
    ('\u{3000}', " "),
    ('\u{ff1d}', "="),
];

/// Returns the first full-width character of a line, with its index and the intended character.
/// `more` adds characters that only the files of one program have.
pub(crate) fn find_full_width(line: &str, more: &[(char, &'static str)]) -> Option<(usize, char, &'static str)> {
    line.char_indices().find_map(|(index, c)| {
        let (_, ascii) = FULL_WIDTH.iter().chain(more).find(|(wide, _)| *wide == c)?;
        Some((index, c, *ascii))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        assert_eq!(nearest("wieght", ["weight", "backup"]), Some("weight"));
        assert_eq!(
            nearest("proxy_read_timout", ["proxy_send_timeout", "proxy_read_timeout"]),
            Some("proxy_read_timeout")
        );
        assert_eq!(nearest("frobnicate", ["weight", "backup"]), None);
        assert_eq!(nearest("proxypas", ["ProxyPass", "ProxySet"]), Some("ProxyPass"));
    }
}
